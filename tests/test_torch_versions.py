"""What `riemopt._torch_versions` says of old releases, and what it does there and here."""

import pathlib
import re

import pytest
import torch
from torch import nn

import riemopt
from riemopt import _torch_versions
from riemopt.manifolds import Stiefel

ROOT = pathlib.Path(riemopt.__file__).parent.parent


def stepped(wrap, make):
    """A weight after three steps."""
    generator = torch.Generator().manual_seed(0)
    p = nn.Parameter(Stiefel().random_point(6, 3, generator=generator))
    optimizer = make([{"params": [p], "manifold": Stiefel()}])
    step = wrap(lambda: type(optimizer).step(optimizer))
    for _ in range(3):
        p.grad = torch.randn(p.shape, generator=generator)
        step()
    return p.detach()


@pytest.mark.skipif(_torch_versions.COMPILES_STEPS, reason="this torch compiles steps")
@pytest.mark.parametrize("make", [riemopt.RiemannianAdam, riemopt.RiemannianRMSprop])
def test_a_step_that_cannot_be_compiled_is_eager_or_an_error(make):
    torch._dynamo.reset()
    eager = stepped(lambda step: step, make)
    assert torch.equal(stepped(lambda s: torch.compile(s, backend="eager"), make), eager)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"needs torch 2\.13 or newer"):
        stepped(lambda s: torch.compile(s, backend="eager", fullgraph=True), make)


def test_a_step_that_torch_compile_leaves_alone_says_why(monkeypatch):
    """As on old releases: the name of the function is what torch shows."""
    monkeypatch.setattr(_torch_versions, "COMPILES_STEPS", False)
    add_one = _torch_versions.not_compiled(lambda x: x + 1)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"needs torch 2\.13 or newer"):
        torch.compile(lambda x: add_one(x), backend="eager", fullgraph=True)(torch.ones(2))
    compiled = torch.compile(lambda x: add_one(x), backend="eager")
    assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 2.0))


@pytest.mark.parametrize(
    ("old", "new"), [("highest", "ieee"), ("high", "tf32"), ("medium", "bf16")]
)
def test_one_setting_for_all_back_ends_reads_as_the_new_ones(old, new):
    before, setting = torch.get_float32_matmul_precision(), _torch_versions._OnePrecision()
    try:
        torch.set_float32_matmul_precision(old)
        assert setting.fp32_precision == new
        torch.set_float32_matmul_precision("highest")
        setting.fp32_precision = new
        assert torch.get_float32_matmul_precision() == old
    finally:
        torch.set_float32_matmul_precision(before)


def test_decoupled_decay_of_an_adam_that_has_none(monkeypatch):
    monkeypatch.setattr(_torch_versions, "_ADAM_DECAYS_BOTH_WAYS", False)
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(NotImplementedError, match=r"needs torch 2\.7 or newer.*RiemannianAdamW"):
        riemopt.RiemannianAdam([p], decoupled_weight_decay=True)
    riemopt.RiemannianAdam([p])


@pytest.mark.parametrize("second_moment", ["tangent", "carried", "point"])
def test_adamw_decays_as_a_class_of_its_own(second_moment):
    """Also where its groups do not say so, as before torch 2.7."""
    p = nn.Parameter(torch.eye(3))
    group = {"params": [p], "manifold": riemopt.manifolds.Symmetric()}
    optimizer = riemopt.RiemannianAdamW(
        [group], lr=0.1, weight_decay=0.5, second_moment=second_moment
    )
    if second_moment != "tangent":  # which is torch's own step, and asks the group
        optimizer.param_groups[0].pop("decoupled_weight_decay", None)
    p.grad = torch.zeros(3, 3)
    optimizer.step()
    torch.testing.assert_close(p.detach(), 0.95 * torch.eye(3))


def test_the_table_has_the_releases_that_the_package_asks_for():
    """Both ends of torch's range, and each Python of the classifiers, were tried."""
    text = (ROOT / "pyproject.toml").read_text()
    rows = re.findall(
        r"^\| (2\.\d+)\.\d+ [^|]*\| (3\.\d+) \|",
        (ROOT / "docs" / "compatibility.md").read_text(),
        re.MULTILINE,
    )
    torches = {tuple(map(int, row[0].split("."))) for row in rows}
    pythons = {row[1] for row in rows}
    oldest = re.search(r'"torch>=(\d+)\.(\d+)"', text)
    assert min(torches) == tuple(map(int, oldest.groups()))
    classified = set(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text))
    assert classified == pythons
    first = min(pythons, key=lambda python: int(python.split(".")[1]))
    assert f'requires-python = ">={first}"' in text

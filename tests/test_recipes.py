"""The recipes of examples/ keep what docs/recipes-compared.md says of them.

Each is trained here for a few steps; `make test-slow` trains them in full.
"""

import importlib
import math
import pathlib
import re
import runpy
import sys

import pytest
import torch

import riemopt
from riemopt.manifolds import SPD

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "recipes-compared.md").read_text()
SECTIONS = dict(
    re.findall(r"^```console\n\$ python examples/(\w+)\.py\n(.*?)^```", PAGE, re.M | re.S)
)
NEEDS_FRAMEWORKS = {"peft_adapters"}  # tests/test_frameworks.py trains it
NAMES = sorted(set(SECTIONS) - NEEDS_FRAMEWORKS)


@pytest.fixture
def recipe(monkeypatch):
    """Imports a recipe, as a script there would `shared`."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


def identity_defect(X):
    """max |XXᵀ - I| of matrices with orthonormal rows, in float64."""
    X = X.detach().double()
    return (X @ X.mT - torch.eye(X.shape[-2])).abs().max().item()


# Rounding: entries of XXᵀ are sums of up to 64 products of float32 numbers of size 1/√n.
ON_THE_SURFACE = 8 * torch.finfo(torch.float32).eps


def test_unit_norm_transformer(recipe):
    train = recipe("unit_norm_transformer").train
    model, figures = train("riemopt", 0, 40)
    constrained = riemopt.constraints(model)
    assert len(constrained) == 2 + 2 * 4
    assert all(c.satisfied for c in constrained)
    for name, weight in model.named_parameters():
        if name.endswith("weight"):
            dim = 0 if "mix" in name or "down" in name else 1
            norms = weight.detach().double().norm(dim=dim)
            assert (norms - 1).abs().max() < ON_THE_SURFACE
    assert figures["test loss"] < 0.8 * math.log(128)
    _, replaced = train("normalised after a step", 0, 40)
    assert figures["test loss"] == pytest.approx(replaced["test loss"], rel=0.02)


def test_orthonormal_heads(recipe):
    train = recipe("orthonormal_heads").train
    model, figures = train("riemopt", 0, 60)
    assert model.q.weight.shape == (4, 8, 32)
    assert identity_defect(model.q.weight) < ON_THE_SURFACE
    assert identity_defect(model.k.weight) < ON_THE_SURFACE
    assert identity_defect(model.v.weight) > 0.1  # it was left free
    _, replaced = train("parametrized", 0, 60)
    assert figures["training loss"] < 0.4 * math.log(10)
    assert figures["training loss"] < 1.2 * replaced["training loss"]


def test_oft_blocks(recipe):
    train = recipe("oft_blocks").train
    model, figures = train("riemopt", 0, 60)
    for layer in model[::2]:
        assert identity_defect(layer.blocks) < ON_THE_SURFACE
        assert (torch.linalg.det(layer.blocks.detach()) > 0).all()
        assert not layer.layer.weight.requires_grad
    assert figures["training loss"] < math.log(10) / 2
    _, exact = train("Cayley map", 0, 60)
    _, truncated = train("Cayley map, 5 terms", 0, 60)
    assert exact["max |RᵀR - I|"] < ON_THE_SURFACE
    assert truncated["max |RᵀR - I|"] > 0.1  # which is why the recipe says what it does


def test_orthogonal_rnn(recipe):
    train = recipe("orthogonal_rnn").train
    model, figures = train("riemopt", 0, 30)
    assert identity_defect(model.recurrent.weight) < ON_THE_SURFACE
    assert torch.linalg.det(model.recurrent.weight.detach()) > 0
    free, _ = train("no constraint", 0, 30)
    assert identity_defect(free.recurrent.weight) > 1e-2
    assert figures["test loss"] < math.log(8)
    _, replaced = train("parametrized", 0, 30)
    assert figures["test loss"] == pytest.approx(replaced["test loss"], rel=0.1)


def test_sparse_autoencoder(recipe):
    train = recipe("sparse_autoencoder").train
    model, figures = train("riemopt", 0, 40)
    norms = model.decode.weight.detach().double().norm(dim=0)
    assert (norms - 1).abs().max() < ON_THE_SURFACE
    assert figures["unexplained"] < 0.7
    _, replaced = train("projected, normalised", 0, 40)
    _, free = train("no constraint", 0, 40)
    assert figures["test loss"] == pytest.approx(replaced["test loss"], rel=0.01)
    assert free["greatest norm"] > 1.05  # by which it escapes the penalty


def test_arcface(recipe):
    train = recipe("arcface").train
    model, figures = train("riemopt", 0, 60)
    norms = model.classes.detach().double().norm(dim=1)
    assert (norms - 1).abs().max() < ON_THE_SURFACE
    assert figures["test accuracy"] > 0.8
    _, replaced = train("normalised in forward", 0, 60)
    assert figures["test accuracy"] == pytest.approx(replaced["test accuracy"], abs=0.03)
    assert replaced["greatest norm"] > 1.01


def test_spd_network(recipe):
    train = recipe("spd_network").train
    model, figures = train("riemopt", 0, 60)
    assert identity_defect(model.map.weight) < ON_THE_SURFACE
    assert SPD().violation(model.mean.detach()) == 0
    assert figures["test accuracy"] > 0.5
    _, replaced = train("matrix_exp", 0, 60)
    assert figures["test loss"] == pytest.approx(replaced["test loss"], rel=0.1)


def test_weight_decay_makes_a_householder_weight_zero(recipe):
    """What the page says of torch's `orthogonal`; `riemopt` has no pre-image that could decay."""
    train = recipe("spd_network").train
    assert train("householder", 0, 1)[0].map.weight.eq(0).all()
    assert identity_defect(train("riemopt", 0, 1)[0].map.weight) < ON_THE_SURFACE


def test_rotation_layer(recipe):
    module = recipe("rotation_layer")
    model, figures = module.train("riemopt", 0, 60)
    rotations = model(torch.randn(20, 192))
    assert identity_defect(rotations) < ON_THE_SURFACE
    assert (torch.linalg.det(rotations.detach()) > 0).all()
    assert figures["median angle in °"] < 10
    _, replaced = module.train("SVD by hand", 0, 60)
    assert figures["test loss"] == pytest.approx(replaced["test loss"], rel=0.05)


def test_a_rotation_layer_may_start_at_the_identity(recipe):
    ways = recipe("rotation_layer").WAYS
    gradients = {}
    for way, rotation in ways.items():
        A = torch.eye(3).expand(5, 3, 3).clone().requires_grad_()
        rotation(A)[:, 0, 1].sum().backward()
        gradients[way] = A.grad
    expected = torch.tensor([[0, 0.5, 0], [-0.5, 0, 0], [0, 0, 0]]).expand(5, 3, 3)
    torch.testing.assert_close(gradients["riemopt"], expected)
    assert not gradients["SVD by hand"].isfinite().all()


# The replaced way; what the test loss is less than; and how much of that way's it may be.
IN_FULL = {
    "unit_norm_transformer": ("normalised after a step", 2.5, 1.02),
    "orthonormal_heads": ("parametrized", 0.25, 1.25),
    "oft_blocks": ("Cayley map", 0.4, 1.1),
    "orthogonal_rnn": ("parametrized", 0.01, 3),
    "sparse_autoencoder": ("projected, normalised", 18, 1.01),
    "arcface": ("normalised in forward", 0.9, 1.05),
    "spd_network": ("matrix_exp", 0.75, 1.1),
    "rotation_layer": ("SVD by hand", 0.01, 1.05),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_in_full(name, recipe):
    steps = int(re.search(r"compare\(train, \w+, steps=(\d+)\)", _text(name))[1])
    replaced, bound, share = IN_FULL[name]
    module = recipe(name)
    _, ours = module.train("riemopt", 0, steps)
    _, theirs = module.train(replaced, 0, steps)
    assert ours["test loss"] < bound
    assert ours["test loss"] < share * theirs["test loss"]


def _text(name):
    return (EXAMPLES / f"{name}.py").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_command_line(name, recipe, monkeypatch, capsys):
    ways = list(vars(recipe(name))["LR" if name != "rotation_layer" else "WAYS"])
    monkeypatch.setattr(sys, "argv", [name, "--steps", "2", "--seeds", "2"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    first, _, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("2 steps; median of 2 seeds")
    assert len(lines) == len(ways)
    assert all(line.startswith(f"{way}  ") for line, way in zip(lines, ways, strict=True))
    assert all(re.search(r"\S+ \(\S+–\S+\)", line) for line in lines)


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_a_recipe_is_short(name):
    assert len(_text(name).splitlines()) <= 60


def test_every_recipe_has_a_section():
    using = {p.stem for p in EXAMPLES.glob("*.py") if "from shared import" in p.read_text()}
    assert set(SECTIONS) == using


def test_the_lines_that_the_page_shows_are_those_of_the_recipes():
    sections = PAGE.split("\n## ")[1:]
    for section in sections:
        for code in re.findall(r"^```py\n(.*?)^```", section, re.M | re.S):
            (name,) = re.findall(r"python examples/(\w+)\.py", section)
            lines = iter(map(str.strip, _text(name).splitlines()))
            for line in filter(None, map(str.strip, code.splitlines())):
                assert line == "…" or line in lines, f"{name}: {line}"  # in this order

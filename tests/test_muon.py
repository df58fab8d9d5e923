"""RiemannianMuon: torch's Muon on plain matrices, exact directions on manifolds, AdamW beside them.

What all optimizers have in common is tested of it too, in test_riemannian*.py. The directions
themselves are in test_msign.py.
"""

import copy
import io
import math
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

import riemopt
from riemopt import ManifoldParameter, RiemannianMuon, constrain
from riemopt.linalg import project_polar
from riemopt.manifolds import (
    SPD,
    ExceptRows,
    Flattened,
    Frozen,
    Grassmann,
    Product,
    RowBlocks,
    Scaled,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
    Symmetric,
)
from riemopt.optim import muon
from tests.bounds import on_surface

if not hasattr(torch.optim, "Muon"):
    pytest.skip("torch has no Muon before 2.9", allow_module_level=True)

MANIFOLDS = {
    "tall": (Stiefel(), (9, 3)),
    "nearly square": (Stiefel(), (6, 4)),
    "square": (Stiefel(), (5, 5)),
    "wide": (Stiefel(), (3, 8)),
    "batch": (Stiefel(), (2, 3, 6, 2)),
    "scaled": (Stiefel(scale=3.0), (7, 3)),
    "learned scale": (Scaled(Stiefel()), (7, 3)),
    "qr": (Stiefel("qr"), (7, 3)),
    "canonical": (Stiefel(metric="canonical"), (7, 3)),
    "kernel": (Flattened(Stiefel()), (4, 2, 3, 3)),
    "heads": (RowBlocks(Stiefel(), 2), (8, 5)),
    "grassmann": (Grassmann(), (8, 3)),
    "rotation": (SpecialOrthogonal(), (5, 5)),
    "whole": (Sphere(dim=None, radius=2.0), (6, 4)),
    "rows": (Sphere(), (6, 4)),
    "columns": (Sphere(dim=0), (6, 4)),
    "rows of any norm": (Scaled(Sphere()), (6, 4)),
}
COMPLEX = ("tall", "nearly square", "square", "wide", "batch", "grassmann", "rotation", "whole")
every_manifold = pytest.mark.parametrize("name", MANIFOLDS)


def noise(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def weight(name, seed=0, dtype=torch.float64):
    manifold, shape = MANIFOLDS[name]
    return ManifoldParameter(noise(shape, 1000 + seed, dtype), manifold)


def run(optimizer, params, steps=3, start=0):
    for step in range(start, start + steps):
        for i, p in enumerate(params):
            p.grad = noise(p.shape, 100 * step + i + 1, p.dtype)
        optimizer.step()


def violations(p):
    """Of the stored numbers, in double precision."""
    x = p.detach().to(torch.complex128 if p.is_complex() else torch.float64)
    return riemopt.manifold_of(p).violation(x)


# --- the step ------------------------------------------------------------------------------------


def restated(manifold, x, gradients, *, lr, momentum, nesterov, steps=30):
    """A few lines: ambient momentum, direction, retraction."""
    m = torch.zeros_like(x)
    for g in gradients:
        m = momentum * m + (1 - momentum) * g
        u = (1 - momentum) * g + momentum * m if nesterov else m
        direction = manifold.spectral_direction(x, u, steps)
        n, p = manifold.spectral_shape(x.shape)
        x, _ = manifold.spectral_curve(x, direction, -lr * math.sqrt(max(1, n / p)))
    return x


@every_manifold
@pytest.mark.parametrize("nesterov", [False, True])
def test_the_step_is_momentum_direction_and_retraction(name, nesterov):
    p = weight(name)
    manifold = p.manifold.with_dims_from_end(p.ndim)
    gradients = [noise(p.shape, seed) for seed in range(4)]
    options = {"lr": 0.05, "momentum": 0.8, "nesterov": nesterov}
    expected = restated(manifold, p.detach().clone(), gradients, **options)
    optimizer = RiemannianMuon([p], weight_decay=0.0, msign_steps=30, **options)
    for g in gradients:
        p.grad = g.clone()
        optimizer.step()
    torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["tall", "square", "wide", "nearly square", "grassmann"])
def test_the_first_step_turns_by_the_angle_of_the_rate(name):
    """√max(1, n/p) times that, and .2·√max(n, p) times: both as torch scales it."""
    for fn, ratio in (
        ("original", lambda n, p: math.sqrt(max(1, n / p))),
        (None, lambda n, p: math.sqrt(max(1, n / p))),
        ("match_rms_adamw", lambda n, p: 0.2 * math.sqrt(max(n, p))),
    ):
        p = weight(name)
        x = p.detach().clone()
        run(RiemannianMuon([p], lr=0.01, adjust_lr_fn=fn, msign_steps=30), [p], steps=1)
        chord = torch.linalg.matrix_norm(p.detach() - x, 2)
        torch.testing.assert_close(2 * torch.asin(chord / 2).item(), 0.01 * ratio(*p.shape))


def test_a_scaled_weight_moves_by_the_rate_in_its_stored_entries():
    p = ManifoldParameter(noise((6, 6)), Stiefel(scale=5.0))
    x = p.detach().clone()
    run(RiemannianMuon([p], lr=0.01, msign_steps=30), [p], steps=1)
    assert torch.linalg.matrix_norm(p.detach() - x, 2).item() == pytest.approx(0.01, rel=1e-5)


def test_muonh_keeps_the_norm_and_goes_along_msign():
    x = noise((6, 4))
    radius = torch.linalg.vector_norm(x).item()
    p = ManifoldParameter(x, Sphere(dim=None, radius="init"))
    p.grad = noise((6, 4), 1)
    p.grad -= x * (x * p.grad).sum() / radius**2  # as of a loss that no factor changes
    run_once = RiemannianMuon([p], lr=0.01, adjust_lr_fn="match_rms_adamw", msign_steps=30)
    run_once.step()
    step = 0.01 * 0.2 * math.sqrt(6) * project_polar(p.grad)
    step -= x * (x * step).sum() / radius**2
    expected = radius * (x - step) / torch.linalg.vector_norm(x - step)
    torch.testing.assert_close(p.detach(), expected)


def test_a_step_without_the_projection_stalls_where_this_one_does_not():
    """X = I, M = [[a, b], [-b, -c]] with ac > b²: polar(X - η·msign(M)) = X."""
    for n in (2, 5):
        x = torch.eye(n, 2, dtype=torch.float64)
        m = torch.zeros_like(x)
        m[:2] = torch.tensor([[2.0, 0.5], [-0.5, -1.0]])
        unprojected = project_polar(m)
        torch.testing.assert_close(project_polar(x - 0.1 * unprojected), x)
        for direction in ("exact", "projected"):
            p = ManifoldParameter(x.clone(), Stiefel())
            optimizer = RiemannianMuon([p], lr=0.1, direction=direction)
            p.grad = m.clone()
            optimizer.step()
            assert (m * (p.detach() - x)).sum() < -0.09
            assert torch.linalg.matrix_norm(p.detach() - x, 2) > 0.09


@pytest.mark.parametrize("direction", ["exact", "projected"])
def test_it_finds_the_nearest_orthonormal_matrix(direction):
    target = Stiefel().random_point(20, 6, dtype=torch.float64)
    p = ManifoldParameter(noise((20, 6), 1), Stiefel())
    optimizer = RiemannianMuon([p], lr=0.05, direction=direction)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 200)
    for _ in range(200):
        optimizer.zero_grad()
        (p - target).square().sum().backward()
        optimizer.step()
        schedule.step()
    assert (p.detach() - target).abs().max() < 1e-2
    assert optimizer.shortened_steps == 0


@every_manifold
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.complex64, torch.bfloat16], ids=str
)
def test_it_stays_on_the_surface(name, dtype):
    """At every step; with two steps of msign, and with a rate that turns by half a radian, too."""
    if dtype.is_complex and name not in COMPLEX:
        pytest.skip("the same code as of other complex matrices")
    for options in ({"lr": 0.02}, {"lr": 0.3}, {"lr": 0.02, "msign_steps": 2}):
        p = weight(name, dtype=dtype)
        optimizer = RiemannianMuon([p], weight_decay=0.0, **options)
        start = p.detach().clone()
        for step in range(20):
            run(optimizer, [p], 1, step)
            bound = on_surface(p.manifold, p.detach())
            assert violations(p).max() <= bound * (4 if name == "learned scale" else 1)
        assert not torch.equal(p, start)
        assert optimizer.skipped_steps == 0


@every_manifold
def test_heads_and_batches_are_stepped_as_each_alone(name):
    """Weights of one shape, which are stepped as a stack."""
    params, alone = ([weight(name, seed) for seed in range(3)] for _ in range(2))
    run(RiemannianMuon(params, lr=0.05), params)
    optimizers = [RiemannianMuon([p], lr=0.05) for p in alone]
    for step in range(3):
        for i, (p, optimizer) in enumerate(zip(alone, optimizers, strict=True)):
            p.grad = noise(p.shape, 100 * step + i + 1)
            optimizer.step()
    for p, q in zip(params, alone, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_blocks_of_rows_are_matrices_by_themselves():
    p = ManifoldParameter(noise((8, 5)), RowBlocks(Stiefel(), 2))
    q = ManifoldParameter(p.detach().view(2, 4, 5).clone(), Stiefel())
    for w in (p, q):
        optimizer = RiemannianMuon([w], lr=0.05)
        for step in range(1, 4):
            w.grad = noise((8, 5), step).view(w.shape)
            optimizer.step()
    torch.testing.assert_close(p.detach().view(2, 4, 5), q.detach(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)])
def test_decay_acts_on_a_learned_scale_and_nowhere_else(lr):
    p = weight("learned scale")
    scale = p.manifold.scale(p.detach())
    optimizer = RiemannianMuon([p], lr=lr, weight_decay=0.3)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(p.manifold.scale(p.detach()), (1 - 0.1 * 0.3) * scale)
    optimizer.param_groups[0]["lr"] = 0.0
    before = p.detach().clone()
    run(optimizer, [p], 1)
    assert torch.equal(p, before)
    r, s = weight("tall"), weight("tall")
    run(RiemannianMuon([r], lr=0.1, weight_decay=0.3), [r])
    run(RiemannianMuon([s], lr=0.1, weight_decay=0.0), [s])
    assert torch.equal(r, s)


def test_a_learned_scale_moves_by_the_rate():
    p = ManifoldParameter(2 * torch.eye(4, dtype=torch.float64), Scaled(Stiefel()))
    optimizer = RiemannianMuon([p], lr=0.01, weight_decay=0.0)
    p.grad = torch.eye(4, dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(p.detach(), 1.99 * torch.eye(4, dtype=torch.float64))


# --- plain matrices ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lr": torch.tensor(0.02), "nesterov": False},
        {"weight_decay": 0.0, "ns_steps": 3, "ns_coefficients": (3.0, -3.2, 1.2)},
        {"adjust_lr_fn": "match_rms_adamw", "eps": 1e-2, "momentum": 0.5},
    ],
    ids=str,
)
def test_plain_matrices_get_the_bits_of_torch_beside_all_kinds(dtype, options):
    shapes = [(6, 3), (3, 6), (5, 5), (1, 7)]
    ours, theirs = ([nn.Parameter(noise(s, 7, dtype)) for s in shapes] for _ in range(2))
    others = [weight("tall"), nn.Parameter(noise((3,))), weight("rows")]
    mine = RiemannianMuon([*others, *ours], **options)
    base = torch.optim.Muon(theirs, **options)
    for step in range(4):
        run(mine, [*ours, *others], 1, step)
        run(base, theirs, 1, step)
        for p, q in zip(ours, theirs, strict=True):
            assert torch.equal(p, q)
            assert torch.equal(mine.state[p]["momentum_buffer"], base.state[q]["momentum_buffer"])


# --- which weight is stepped by which -------------------------------------------------------------


def of_all_kinds():
    return {
        "plain": nn.Parameter(noise((6, 3))),
        "bias": nn.Parameter(noise((6,))),
        "kernel": nn.Parameter(noise((4, 2, 3, 3))),
        "constrained": weight("tall"),
        "constrained kernel": weight("kernel"),
        "symmetric": ManifoldParameter(noise((4, 4)), Symmetric()),
        "spd": ManifoldParameter(noise((4, 4)) @ noise((4, 4)).mT, SPD()),
        "direction": ManifoldParameter(noise((5,)), Sphere()),
        "rows in a batch": ManifoldParameter(noise((2, 3, 4)), Sphere()),
        "padded": ManifoldParameter(noise((5, 4)), ExceptRows(Sphere(), rows=0)),
        "mixed": ManifoldParameter(
            noise((5, 2)), Product([(Frozen(), 2), (Stiefel(), -1)], dim=-2)
        ),
    }


BY_MUON = ("plain", "constrained", "constrained kernel")


def test_what_is_no_matrix_goes_to_a_group_of_adamw():
    params = of_all_kinds()
    before = {name: p.detach().clone() for name, p in params.items()}
    options = {"lr": 0.03, "betas": (0.8, 0.9), "weight_decay": 0.2}
    optimizer = RiemannianMuon(params.values(), lr=0.05, adamw=options)
    by_muon, by_adamw = optimizer.param_groups
    assert [id(p) for p in by_muon["params"]] == [id(params[name]) for name in BY_MUON]
    assert by_muon.keys() == torch.optim.Muon([torch.zeros(1, 1)]).param_groups[0].keys()
    assert "use_muon" not in by_muon
    assert by_adamw["use_muon"] is False
    assert {key: by_adamw[key] for key in options} == options
    expected = {key for key in by_adamw if key not in ("use_muon", "params")}
    assert expected == torch.optim.AdamW([torch.zeros(1)]).defaults.keys()
    text = repr(optimizer)
    assert "Muon steps 1 unconstrained, 1 on Stiefel(), 1 on Flattened" in text
    assert "AdamW steps 2 unconstrained, 1 on Symmetric(), 1 on SPD" in text
    others = {name: p for name, p in of_all_kinds().items() if name not in BY_MUON}
    adamw = riemopt.RiemannianAdamW(others.values(), **options)
    for step in range(3):
        for i, (name, p) in enumerate(params.items()):
            p.grad = noise(p.shape, 50 * step + i)
            if name in others:
                others[name].grad = p.grad.clone()
        optimizer.step()
        adamw.step()
    for name, p in params.items():
        assert not torch.equal(p, before[name]), name
        if name in others:
            assert torch.equal(p, others[name]), name
    assert all((violations(p) < 1e-12).all() for p in params.values() if hasattr(p, "manifold"))


def test_a_group_says_itself_what_steps_it():
    table, hidden, bias = (nn.Parameter(noise(s)) for s in ((9, 4), (4, 4), (4,)))
    groups = [
        {"params": [("table", table)], "use_muon": False, "lr": 3e-4},
        {"params": [("hidden", hidden)], "use_muon": True},
        {"params": [("b", bias)], "weight_decay": 0.0},
    ]
    optimizer = RiemannianMuon(copy.copy(groups), lr=0.02)
    assert [g.get("use_muon", True) for g in optimizer.param_groups] == [False, True, False]
    assert [g["lr"] for g in optimizer.param_groups] == [3e-4, 0.02, 1e-3]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.01, 0.1, 0.0]
    assert optimizer.param_groups[2]["param_names"] == ["b"]
    assert groups[0]["use_muon"] is False
    twin = nn.Parameter(table.detach().clone())
    adamw = torch.optim.AdamW([twin], lr=3e-4)
    run(optimizer, [table, hidden, bias])
    run(adamw, [twin])
    assert torch.equal(table, twin)


REFUSED = {
    "vector": (lambda: nn.Parameter(noise((4,))), r"shape \(4,\), unconstrained"),
    "kernel": (lambda: nn.Parameter(noise((4, 2, 3, 3))), r"shape \(4, 2, 3, 3\), unconstrained"),
    "complex": (lambda: nn.Parameter(noise((4, 3), 0, torch.complex64)), "complex64 parameter"),
    "spd": (lambda: ManifoldParameter(torch.eye(3), SPD()), r"on SPD\(\)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_asking_for_muon_where_it_has_no_step_is_an_error(kind):
    make, message = REFUSED[kind]
    plain = nn.Parameter(noise((3, 2)))
    optimizer = RiemannianMuon([plain])
    with pytest.raises(ValueError, match=rf'Muon steps matrices.*{message}.*"use_muon": False'):
        optimizer.add_param_group({"params": [make()], "use_muon": True})
    assert len(optimizer.param_groups) == 1
    run(optimizer, [plain])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"direction": "spel"}, ValueError, "direction must be 'exact' or 'projected'"),
        ({"msign_steps": 0}, ValueError, "msign_steps must be a whole number from 1 on; got 0"),
        ({"msign_steps": 2.5}, ValueError, "msign_steps must be a whole number"),
        ({"adamw": {"lr": -1.0}}, ValueError, "Invalid learning rate: -1.0"),
        ({"adamw": {"lrate": 1.0}}, TypeError, "lrate"),
        ({"adamw": {"differentiable": True}}, ValueError, "no differentiable steps"),
        ({"lr": -1.0}, ValueError, "Learning rate should be >= 0"),
        ({"adjust_lr_fn": "none"}, ValueError, "none is not supported"),
    ],
    ids=str,
)
def test_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        RiemannianMuon([weight("tall")], **options)


def test_a_group_that_is_refused_leaves_nothing():
    optimizer = RiemannianMuon([nn.Parameter(noise((3, 2)))])
    text = repr(optimizer)
    twice = nn.Parameter(noise((3,)))
    for bad, error in (
        ({"params": [nn.Parameter(noise((2, 2)))], "use_muon": "yes"}, ValueError),
        ({"params": [nn.Parameter(noise((2, 2))), 3]}, TypeError),
        ({"params": {nn.Parameter(noise((2, 2)))}}, TypeError),
        ({"params": [nn.Parameter(noise((2, 3))), weight("rows")], "manifold": SPD()}, ValueError),
        ({"params": [nn.Parameter(noise((2, 3)))], "manifold": "SPD"}, TypeError),
    ):
        with pytest.raises(error):
            optimizer.add_param_group(bad)
        assert repr(optimizer) == text
    optimizer.add_param_group({"params": [twice]})
    with pytest.raises(ValueError, match="some parameters appear in more than one"):
        optimizer.add_param_group({"params": [nn.Parameter(noise((2, 3))), twice]})
    assert len(optimizer.param_groups) == 2


def test_a_weight_that_is_constrained_later():
    layer, other = nn.Linear(3, 6, bias=False).double(), nn.Linear(4, 4, bias=False).double()
    optimizer = RiemannianMuon([layer.weight, other.weight], lr=0.05)
    run(optimizer, [layer.weight, other.weight])
    constrain(layer, "weight", Stiefel())
    run(optimizer, [layer.weight, other.weight])
    assert violations(layer.weight).max() < 1e-14
    constrain(other, "weight", SPD())
    before = layer.weight.detach().clone()
    with pytest.raises(ValueError, match=r"has no step for .* on SPD\(\)"):
        run(optimizer, [layer.weight, other.weight])
    assert torch.equal(layer.weight, before)


def test_torch_without_muon_says_so(monkeypatch):
    with pytest.raises(NotImplementedError, match=r"needs torch.optim.Muon, which torch 2.9"):
        muon._NoMuon([torch.zeros(1, 1)])
    monkeypatch.setattr(muon, "Muon", muon._NoMuon)
    with pytest.raises(NotImplementedError, match="RiemannianAdamW"):
        RiemannianMuon([torch.zeros(1, 1)])


def test_the_package_is_imported_where_torch_has_no_muon():
    code = """
import torch
del torch.optim.Muon
import riemopt
riemopt.RiemannianAdamW([torch.zeros(2)]).step()
try:
    riemopt.RiemannianMuon([torch.zeros(2, 2)])
except NotImplementedError as error:
    assert "torch 2.9" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- laws that all optimizers have, with AdamW beside ---------------------------------------------


def several():
    params = of_all_kinds()
    return [*params.values(), weight("tall", 1), weight("heads")]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [*MANIFOLDS, "spd"])
def test_a_gradient_that_is_not_finite_changes_nothing(name, bad):
    p = of_all_kinds()["spd"] if name == "spd" else weight(name)
    q = nn.Parameter(noise((3, 4)))
    optimizer = RiemannianMuon([p, q], lr=0.05)
    run(optimizer, [p, q])
    before, kept = p.detach().clone(), copy.deepcopy(optimizer.state[p])
    plain = q.detach().clone()
    for r in (p, q):
        r.grad = noise(r.shape, 7)
    p.grad.view(-1)[1] = bad
    optimizer.step()
    assert torch.equal(p, before)
    assert all(torch.equal(kept[key], value) for key, value in optimizer.state[p].items())
    assert not torch.equal(q, plain)
    assert optimizer.skipped_steps == 1
    run(optimizer, [p, q])
    assert not torch.equal(p, before)


@every_manifold
def test_a_zero_gradient_and_a_zero_rate_change_no_bit(name):
    for lr in (0.1, 0.0):
        p = weight(name, dtype=torch.float32)
        before = p.detach().clone()
        optimizer = RiemannianMuon([p], lr=lr, weight_decay=0.0)
        for step in range(2):
            p.grad = noise(p.shape, step, p.dtype) * (lr == 0)
            optimizer.step()
        assert torch.equal(p, before)


def reloaded(optimizer, params, copier):
    if copier == "deepcopy":
        return copy.deepcopy(optimizer)
    if copier == "pickle":
        return pickle.loads(pickle.dumps(optimizer))
    others = several()
    with torch.no_grad():
        for p, q in zip(params, others, strict=True):
            q.copy_(p)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin = RiemannianMuon(others, lr=0.5, adamw={"lr": 0.5}, direction="projected")
    twin.load_state_dict(torch.load(file, weights_only=True))
    return twin


@pytest.mark.parametrize("copier", ["deepcopy", "pickle", "state_dict"])
def test_it_goes_on_bit_for_bit(copier):
    params = several()
    optimizer = RiemannianMuon(params, lr=0.05, adamw={"lr": 0.02}, direction="projected")
    run(optimizer, params)
    twin = reloaded(optimizer, params, copier)
    assert repr(twin) == repr(optimizer)
    groups = zip(optimizer.param_groups, twin.param_groups, strict=True)
    pairs = [pair for a, b in groups for pair in zip(a["params"], b["params"], strict=True)]
    for _ in range(3):
        for i, (p, q) in enumerate(pairs):
            p.grad = noise(p.shape, i)
            q.grad = p.grad.clone()
        optimizer.step()
        twin.step()
    for p, q in pairs:
        assert torch.equal(p, q)


def test_checkpoints_of_torchs_muon_and_back():
    params = [nn.Parameter(noise((6, 3))), weight("square")]
    ours = RiemannianMuon(params, lr=0.05)
    run(ours, params)
    plain = [nn.Parameter(p.detach().clone()) for p in params]
    theirs = torch.optim.Muon(plain)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    run(theirs, plain)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    run(ours, params)
    assert violations(params[1]).max() < 1e-14


def test_a_checkpoint_of_other_groups_is_refused():
    plain, table = nn.Parameter(noise((6, 3))), nn.Parameter(noise((5, 4)))
    groups = [{"params": [plain]}, {"params": [table], "use_muon": False}]
    optimizer = RiemannianMuon(groups)
    run(optimizer, [plain, table])
    saved = copy.deepcopy(optimizer.state_dict())
    other = RiemannianMuon([{"params": [table], "use_muon": False}, {"params": [plain]}])
    before = repr(other)
    with pytest.raises(
        ValueError, match=r"AdamW steps the groups \[1\], and here the groups \[0\]"
    ):
        other.load_state_dict(saved)
    assert repr(other) == before
    for index, key in ((0, "momentum_buffer"), (1, "exp_avg_sq")):
        broken = copy.deepcopy(saved)
        broken["state"][index]["other"] = broken["state"][index].pop(key)
        with pytest.raises(ValueError, match="the checkpoint is incomplete"):
            optimizer.load_state_dict(broken)


def test_schedules_and_a_closure_and_hooks_reach_both():
    params = [nn.Parameter(noise((4, 3))), nn.Parameter(noise((3,))), weight("tall")]
    optimizer = RiemannianMuon(params, lr=0.1, adamw={"lr": 0.01})
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure():
        optimizer.zero_grad()
        loss = sum((p * noise(p.shape, 3)).sum() for p in params)
        loss.backward()
        return loss

    before = [p.detach().clone() for p in params]
    loss = optimizer.step(closure)
    schedule.step()
    assert loss == sum((x * noise(x.shape, 3)).sum() for x in before)
    assert calls == ["before", "after"]
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.005]
    assert not any(torch.equal(p, x) for p, x in zip(params, before, strict=True))


def test_weights_cut_over_processes_are_refused_before_anything_is_stepped():
    """A stand-in for a DTensor: what the check looks at."""
    optimizer = RiemannianMuon([weight("tall")])
    manifold, p = Stiefel(), weight("tall")
    muon_cut_dims, muon.cut_dims = muon.cut_dims, lambda tensor: frozenset({-2})
    try:
        with pytest.raises(NotImplementedError, match=r'process has a part only.*"use_muon"'):
            optimizer._check_own(p, manifold)
        with pytest.raises(NotImplementedError, match="looks at the whole of a matrix"):
            optimizer.add_param_group({"params": [p]})
    finally:
        muon.cut_dims = muon_cut_dims
    assert len(optimizer.param_groups) == 1


def test_a_long_step_is_shortened_and_counted():
    p, q = weight("tall"), weight("square")
    optimizer = RiemannianMuon([p, q], lr=3.0)
    run(optimizer, [p, q], 2)
    assert optimizer.shortened_steps == 4
    assert max(violations(p).max(), violations(q).max()) < 1e-14


def test_an_amp_scaler_unscales_for_both():
    params, twins = ([weight("tall"), nn.Parameter(noise((3,)))] for _ in range(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    ours = RiemannianMuon(params, lr=0.1, adamw={"fused": True})
    theirs = RiemannianMuon(twins, lr=0.1, adamw={"fused": True})
    scaler.scale(sum((p * noise(p.shape, 3)).sum() for p in params)).backward()
    scaler.step(ours)
    sum((p * noise(p.shape, 3)).sum() for p in twins).backward()
    theirs.step()
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q)

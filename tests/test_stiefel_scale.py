"""{cX : XᴴX = I} of a fixed scale c: the gain of an initialisation, kept in training."""

import itertools
import math

import pytest
import torch
from torch import nn

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianAdamW, RiemannianSGD, constrain
from riemopt.interop.parametrize import to_parametrized
from riemopt.manifolds import Flattened, LevelSet, Scaled, Stiefel
from riemopt.testing import check_manifold
from tests.manifold_cases import EXACT, generator, name

SHAPES = [(4, 4), (5, 2), (2, 5), (2, 4, 3)]
RETRACTIONS = [None, "polar", "qr", "cayley"]
METRICS = ["euclidean", "canonical"]
SCALES = [1e-3, 0.5, 3.0, 1e3]


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", EXACT, ids=name)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("retraction", RETRACTIONS)
def test_it_is_stiefel_seen_through_a_magnifying_glass(retraction, metric, scale, dtype):
    """φ: X ↦ cX multiplies lengths by c; f∘φ has the gradient cG and the Hessian cH at cU."""
    ours, unit = Stiefel(retraction, metric, scale), Stiefel(retraction, metric)
    c = scale
    for shape in SHAPES:
        X = unit.random_point(*shape, generator=generator(1), dtype=dtype)
        U = 0.3 * unit.random_tangent(X, generator=generator(2))
        g, h, a = (noise(*shape, seed=i, dtype=dtype) for i in (3, 4, 5))
        x, u = c * X, c * U
        pairs = [
            (ours.proj_tangent(x, a), unit.proj_tangent(X, a)),
            (ours.egrad2rgrad(x, g), unit.egrad2rgrad(X, c * g) / c),
            (ours.ehess2rhess(x, g, h, u), unit.ehess2rhess(X, c * g, c * h, U) / c),
            (ours.inner(x, u, u), c**2 * unit.inner(X, U, U)),
            (ours.retract(x, u), c * unit.retract(X, U)),
            (ours.curve(x, u, -0.5), c * unit.curve(X, U, -0.5)),
            (ours.exp(x, u), c * unit.exp(X, U)),
            (ours.project(a), c * unit.project(a)),
            (
                ours.transport(x, ours.retract(x, u), u),
                c * unit.transport(X, unit.retract(X, U), U),
            ),
            (ours.carry(x, u, g, 0.9, 0.1), unit.carry(X, u, g, 0.9, 0.1)),
            (ours.violation(x + c * a), unit.violation(X + a)),
            (ours.tolerance(x), unit.tolerance(X)),
        ]
        for mine, other in pairs:
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9 * scale)
        mean, squared = ours.carry_mean(x, u, g, 0.9)
        expected, norm2 = unit.carry_mean(X, u, g, 0.9)
        torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-9 * scale)
        torch.testing.assert_close(squared, norm2)


@pytest.mark.parametrize("shape", [(4, 4), (5, 2)], ids=str)
def test_it_is_the_level_set_of_its_equation(shape):
    c = 3.0
    ours = Stiefel(scale=c)
    twin = LevelSet(lambda X: X.mT @ X - c**2 * torch.eye(X.shape[-1]).to(X), event_ndim=2)
    x = ours.random_point(*shape, generator=generator(0), dtype=torch.float64)
    g, h, a = (noise(*shape, seed=i) for i in (1, 2, 3))
    u = ours.random_tangent(x, generator=generator(4))
    close = {"rtol": 0, "atol": 1e-9}
    torch.testing.assert_close(ours.proj_tangent(x, a), twin.proj_tangent(x, a), **close)
    torch.testing.assert_close(ours.ehess2rhess(x, g, h, u), twin.ehess2rhess(x, g, h, u), **close)
    torch.testing.assert_close(ours.project(x + a), twin.project(x + a), **close)
    assert ours.constant_norm(shape) == pytest.approx(float(x.norm()))


@pytest.mark.parametrize("shape", [(4, 4), (5, 2), (2, 5)], ids=str)
def test_what_torch_initialises_with_a_gain_is_on_it(shape):
    gain = nn.init.calculate_gain("relu")
    W = nn.init.orthogonal_(torch.empty(shape), gain=gain)
    manifold = Stiefel(scale=gain)
    assert manifold.violation(W) <= manifold.tolerance(W)
    torch.testing.assert_close(manifold.project(W), W)


def test_scale_one_costs_nothing():
    x = torch.eye(3)
    assert Stiefel().unscaled(x) is x
    assert Stiefel(scale=1) == Stiefel()
    assert repr(Stiefel(scale=1.0)) == "Stiefel()"


def test_scales_are_part_of_the_value():
    assert Stiefel(scale=2) == Stiefel(scale=2.0) != Stiefel(scale=3)
    assert hash(Stiefel(scale=2)) == hash(Stiefel(scale=2.0))
    assert eval(repr(Stiefel(scale=0.1))) == Stiefel(scale=0.1)


@pytest.mark.parametrize(
    "scale", [0, -1.0, math.inf, math.nan, "2", torch.ones(()), None], ids=repr
)
def test_what_is_no_scale_is_refused(scale):
    with pytest.raises(ValueError, match=r"positive, finite number; got .*Scaled\(Stiefel\(\)\)"):
        Stiefel(scale=scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=name)
def test_half_precision(dtype):
    m = Stiefel(scale=0.25)
    x = m.random_point(6, 3, generator=generator(0), dtype=dtype)
    y = m.retract(x, m.random_tangent(x, generator=generator(1)))
    assert y.dtype == dtype
    assert m.violation(y.double()) < 10 * torch.finfo(dtype).eps


# --- with others -------------------------------------------------------------------------------


def test_what_is_made_of_it():
    check_manifold(Flattened(Stiefel(scale=2.0)), (6, 1, 2, 1), order=2, repeats=2).require()
    check_manifold(Scaled(Stiefel(scale=2.0)), (5, 2), repeats=2).require()
    x = Scaled(Stiefel(scale=2.0)).random_point(5, 2)
    assert Scaled(Stiefel(scale=2.0)).scale(6 * x / x.norm()) == pytest.approx(6 / 8**0.5)


def test_no_parametrization_has_a_scale():
    """torch's `orthogonal` has none: the weight stays, with the reason."""
    model = constrain(nn.Linear(3, 3), "weight", Stiefel(scale=2.0))
    left = to_parametrized(model).left
    assert "Stiefel(scale=2.0)" in left["weight"]
    assert Stiefel(scale=2.0).violation(model.weight) < 1e-6


# --- training ----------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda p: RiemannianSGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: RiemannianAdam(p, lr=0.05),
    "AdamW": lambda p: RiemannianAdamW(p, lr=0.05, weight_decay=0.5),  # without effect
}
CASES = [
    *itertools.product(OPTIMIZERS, [Stiefel(scale=3.0)]),
    ("SGD", Stiefel("qr", "canonical", 3)),
]


@pytest.mark.parametrize("start", ["random", "far", "zeros"])
@pytest.mark.parametrize(("optimizer", "manifold"), CASES)
def test_the_optimum_of_procrustes(optimizer, manifold, start):
    """max tr AᵀW is c times the sum of the singular values of A, at c times its polar factor."""
    A = noise(6, 3, seed=1)
    start = {
        "random": manifold.random_point(6, 3, generator=generator(2), dtype=torch.float64),
        "far": 100 * noise(6, 3, seed=3),
        "zeros": torch.zeros(6, 3).double(),
    }[start]
    W = ManifoldParameter(start, manifold)
    step = OPTIMIZERS[optimizer]([W])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(step, 400)
    for _ in range(400):
        step.zero_grad()
        (-(A * W).sum()).backward()
        step.step()
        schedule.step()
    torch.testing.assert_close((A * W).sum(), 3 * torch.linalg.svdvals(A).sum(), rtol=1e-6, atol=0)
    torch.testing.assert_close(W.detach(), manifold.project(A), rtol=0, atol=1e-2)
    assert manifold.violation(W.detach()) < 1e-13


@pytest.mark.parametrize("shape", [(6, 3), (4, 4)], ids=str)
@pytest.mark.parametrize("scale", SCALES)
def test_a_thousand_float32_steps_stay_on_the_surface(shape, scale):
    m, gen = Stiefel(scale=scale), generator(1)
    x = m.random_point(*shape, generator=gen)
    for _ in range(1000):
        x = m.retract(x, 0.1 * scale * m.random_tangent(x, generator=gen))
    assert m.violation(x.double()) <= m.tolerance(x)

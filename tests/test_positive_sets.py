"""Positive numbers, intervals, the simplex: values from outside, bounds, training."""

import math

import pytest
import torch

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD
from riemopt.manifolds import SPD, Flattened, Interval, Positive, Product, Simplex, Sphere
from riemopt.testing import check_manifold
from tests.manifold_cases import generator, name

HALF = [torch.bfloat16, torch.float16]


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def points(manifold, *shape, seed=0, dtype=torch.float64):
    return manifold.random_point(*shape, generator=generator(seed), dtype=dtype)


# --- values from outside -----------------------------------------------------------------------


def test_positive_numbers_are_the_definite_matrices_of_one_entry():
    x, y = points(Positive(), 6), points(Positive(), 6, seed=1)
    g, h, u, v = (noise(6, seed=i) for i in range(2, 6))
    X, Y, G, H, U, V = (a[:, None, None] for a in (x, y, g, h, u, v))
    ours, theirs = Positive(), SPD("affine")
    pairs = [
        (ours.egrad2rgrad(x, g), theirs.egrad2rgrad(X, G)),
        (ours.ehess2rhess(x, g, h, u), theirs.ehess2rhess(X, G, H, U)),
        (ours.exp(x, u), theirs.exp(X, U)),
        (ours.log(x, y), theirs.log(X, Y)),
        (ours.dist(x, y), theirs.dist(X, Y)),
        (ours.parallel_transport(x, y, v), theirs.parallel_transport(X, Y, V)),
        (ours.inner(x, u, v), theirs.inner(X, U, V)),
    ]
    for mine, other in pairs:
        torch.testing.assert_close(mine, other.flatten())


def test_pymanopt_agrees_on_positive_numbers():
    manifolds = pytest.importorskip("pymanopt.manifolds")
    theirs, ours = manifolds.Positive(6, 1), Positive()
    x, y = points(ours, 6, 1), points(ours, 6, 1, seed=1)
    g, h, u, v = (noise(6, 1, seed=i) for i in range(2, 6))
    X, Y, G, H, U, V = (a.numpy() for a in (x, y, g, h, u, v))
    pairs = [
        (ours.egrad2rgrad(x, g), theirs.euclidean_to_riemannian_gradient(X, G)),
        (ours.ehess2rhess(x, g, h, u), theirs.euclidean_to_riemannian_hessian(X, G, H, U)),
        (ours.inner(x, u, v).sum(), theirs.inner_product(X, U, V)),
        (ours.exp(x, u), theirs.exp(X, U)),
        (ours.log(x, y), theirs.log(X, Y)),
        (ours.dist(x, y).square().sum().sqrt(), theirs.dist(X, Y)),
    ]
    for mine, other in pairs:
        torch.testing.assert_close(mine, torch.as_tensor(other), rtol=1e-8, atol=1e-8)


def test_the_simplex_is_a_part_of_the_sphere_of_radius_two():
    """2√x, with the sphere's own exp, log, dist and transport."""
    simplex, sphere = Simplex(), Sphere(radius=2.0)
    x, y = points(simplex, 4, 5), points(simplex, 4, 5, seed=1)
    u, v = (0.1 * simplex.random_tangent(x, generator=generator(i)) for i in (2, 3))
    z, w = 2 * x.sqrt(), 2 * y.sqrt()
    torch.testing.assert_close(simplex.dist(x, y), sphere.dist(z, w))
    torch.testing.assert_close(simplex.inner(x, u, v), sphere.inner(z, u / x.sqrt(), v / x.sqrt()))
    torch.testing.assert_close(simplex.exp(x, u), sphere.exp(z, u / x.sqrt()).square() / 4)
    torch.testing.assert_close(simplex.log(x, y), sphere.log(z, w) * x.sqrt())
    carried = sphere.parallel_transport(z, w, v / x.sqrt()) * y.sqrt()
    torch.testing.assert_close(simplex.parallel_transport(x, y, v), carried)
    torch.testing.assert_close(simplex.dist(x, y), 2 * (x * y).sqrt().sum(-1).arccos())


def test_the_nearest_point_of_the_simplex():
    a = torch.tensor([[0.5, 0.4, 0.6], [3.0, 0.0, 0.0], [1e30, -1e30, 0.0], [0.0, 0.0, 0.0]])
    third = 0.01 / 3
    vertex = [0.99 + third, third, third]
    expected = torch.tensor([[1 / 3, 7 / 30, 13 / 30], vertex, vertex, [1 / 3] * 3])
    torch.testing.assert_close(Simplex().project(a), expected)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-2.0, 5.0)])
def test_an_interval_is_the_line_of_logits(low, high):
    m, width = Interval(low, high), high - low
    x, y, u = points(m, 6), points(m, 6, seed=1), noise(6, seed=2)
    logit, other = (torch.logit((a - low) / width) for a in (x, y))
    velocity = torch.func.jvp(lambda a: torch.logit((a - low) / width), (x,), (u,))[1]
    torch.testing.assert_close(m.norm(x, u), velocity.abs())
    torch.testing.assert_close(m.dist(x, y), (other - logit).abs())
    torch.testing.assert_close(m.exp(x, u), low + width * torch.sigmoid(logit + velocity))
    torch.testing.assert_close(m.exp(x, m.log(x, y)), y)


# --- bounds ------------------------------------------------------------------------------------

SETS = [Positive(), Interval(), Interval(-2.0, 5.0), Simplex(), Simplex(dim=0)]
over_sets = pytest.mark.parametrize("manifold", SETS, ids=str)


@over_sets
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=name)
def test_steps_of_any_length_stay_inside(manifold, dtype):
    x = points(manifold, 4, 5, dtype=torch.float32).to(dtype)
    for size in (1e-6, 1.0, 1e3, 3e4):
        y = x
        for i in range(5):  # again and again towards the boundary
            direction = noise(4, 5, seed=i % 2, dtype=torch.float32).to(dtype)
            y = manifold.retract(y, manifold.proj_tangent(y, size * direction))
            assert y.dtype == dtype
            assert bool((manifold.violation(y) <= manifold.tolerance(y)).all())


@over_sets
def test_outside_is_infinitely_far_off(manifold):
    x = points(manifold, 4, 5)
    for bad in (-0.1, math.nan):
        y = x.clone()
        y[0, 0] = bad if manifold != Interval(-2.0, 5.0) else bad - 3
        assert float(manifold.violation(y).max()) == math.inf


@over_sets
def test_complex_tensors_are_refused(manifold):
    with pytest.raises(ValueError, match="needs real tensors"):
        manifold.project(torch.ones(3, 3, dtype=torch.complex64))


def test_bounds_are_checked():
    for low, high in ((1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="finite bounds low < high"):
            Interval(low, high)


@over_sets
@pytest.mark.parametrize("apart", [1e-6, 1e-3, 0.1])
def test_float32_distances_keep_their_digits(manifold, apart):
    x = points(manifold, 20, 6, dtype=torch.float32)
    y = manifold.retract(x, apart * 0.1 * manifold.random_tangent(x, generator=generator(1)))
    exact = manifold.dist(x.double(), y.double())
    error = (manifold.dist(x, y).double() - exact).abs()
    assert bool((error <= 2e-6 * exact).all())


@over_sets
def test_derivatives_at_coincident_and_other_points(manifold):
    x, y = (points(manifold, 3, 3, seed=i).requires_grad_() for i in (0, 1))
    assert torch.autograd.gradcheck(manifold.dist, (x, y))
    assert torch.autograd.gradcheck(manifold.log, (x, y))
    u = (0.1 * manifold.random_tangent(x.detach(), generator=generator(1))).requires_grad_()
    for function in (manifold.exp, manifold.retract, manifold.egrad2rgrad):
        assert torch.autograd.gradcheck(function, (x, u))
    manifold.dist(x, x.detach().clone()).sum().backward()
    assert bool(x.grad.isfinite().all())


GAUSSIAN = Product({"covariance": (SPD(), (2, 2)), "rates": (Positive(), 3), "mix": (Simplex(), 3)})


def test_factors_of_a_product():
    check_manifold(GAUSSIAN, (10,), (2, 10)).require()
    outside = GAUSSIAN.random_point(10)
    outside[5] = -1.0
    assert GAUSSIAN.violation(outside) == math.inf
    assert GAUSSIAN.tolerance(outside).isfinite()


@pytest.mark.parametrize("dtype", HALF, ids=name)
@pytest.mark.parametrize("manifold", [GAUSSIAN, Flattened(SPD(), event_ndim=3)], ids=str)
def test_half_precision_weights_stay_inside(manifold, dtype):
    """Steps are float32, and what is written is rounded so that it stays inside."""
    shape = (3, 10) if manifold == GAUSSIAN else (3, 4, 2, 2)
    x = ManifoldParameter(torch.randn(shape, generator=generator(0)).to(dtype), manifold)
    optimizer = RiemannianAdam([x], lr=0.05, second_moment="point")
    for i in range(100):
        x.grad = noise(*shape, seed=i % 7, dtype=torch.float32).to(dtype)
        optimizer.step()
        violation = manifold.violation(x.detach().double())
        assert bool((violation <= manifold.tolerance(x.detach()).double()).all())


# --- training ----------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda params: RiemannianSGD(params, lr=0.1, momentum=0.8),
    "Adam": lambda params: RiemannianAdam(params, lr=0.02),
    "point": lambda params: RiemannianAdam(params, lr=0.05, second_moment="point"),
}


def divergence(manifold, x, target):
    """Least at the target: of gamma rates, of single probabilities, of distributions."""
    if isinstance(manifold, Positive):
        return (x / target - x.log()).sum()
    if isinstance(manifold, Interval):
        p, q = ((a - manifold.low) / (manifold.high - manifold.low) for a in (x, target))
        return -(q * p.log() + (1 - q) * (1 - p).log()).sum()
    return -(target * x.log()).sum()


@pytest.mark.sampled(2)
@over_sets
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("start", ["random", "any tensor"])
def test_the_optimum_is_found(manifold, optimizer, start):
    target = points(manifold, 4, 4, seed=3)
    first = points(manifold, 4, 4) if start == "random" else noise(4, 4)
    x = ManifoldParameter(first, manifold)
    step = OPTIMIZERS[optimizer]([x])
    for _ in range(500):
        step.zero_grad()
        divergence(manifold, x, target).backward()
        step.step()
    assert bool((manifold.violation(x.detach()) <= manifold.tolerance(x.detach())).all())
    torch.testing.assert_close(x.detach(), target, rtol=0, atol=1e-2)

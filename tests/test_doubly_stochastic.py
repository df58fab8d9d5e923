"""Matrices with given sums: values from outside, near permutations, bounds, training."""

import math

import numpy as np
import pytest
import torch

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD, linalg
from riemopt.linalg import backends
from riemopt.manifolds import DoublyStochastic, LevelSet
from tests.manifold_cases import chequered, generator, name

D = DoublyStochastic()
ROWS, COLUMNS = torch.tensor([0.2, 0.5, 0.3]).double(), torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
COUPLING = DoublyStochastic(ROWS, COLUMNS)
SETS = [(D, (4, 4)), (D, (3, 5)), (COUPLING, (3, 4))]
over_sets = pytest.mark.parametrize(("manifold", "shape"), SETS, ids=str)
HALF = [torch.bfloat16, torch.float16]


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def point(manifold, *shape, seed=0, dtype=torch.float64):
    return manifold.random_point(*shape, generator=generator(seed), dtype=dtype)


# --- values from outside -----------------------------------------------------------------------


@over_sets
def test_it_is_a_level_set_of_square_roots(manifold, shape):
    """Z = 2√X has the ambient metric: gradients and Hessians are those of that surface."""
    x = point(manifold, *shape)
    rows, columns = x.sum(-1), x.sum(-2)

    def equations(z):
        squares = z.square() / 4
        return torch.cat([squares.sum(-1) - rows, (squares.sum(-2) - columns)[..., 1:]])

    surface, z = LevelSet(equations, event_ndim=2), 2 * x.sqrt()
    A, u = noise(*shape, seed=1), manifold.random_tangent(x, generator=generator(2))

    def f(x):
        return (A * x).sum() + (x**3).sum()

    def of_root(z):
        return f(z.square() / 4)

    def slope_and_bend(function, at, along):
        gradient = torch.func.grad(function)
        return gradient(at), torch.func.jvp(gradient, (at,), (along,))[1]

    there = u / x.sqrt()
    g, h = slope_and_bend(f, x, u)
    gz, hz = slope_and_bend(of_root, z, there)
    close = torch.testing.assert_close
    close(manifold.inner(x, u, u), there.square().sum())
    close(manifold.egrad2rgrad(x, g) / x.sqrt(), surface.egrad2rgrad(z, gz))
    close(manifold.ehess2rhess(x, g, h, u) / x.sqrt(), surface.ehess2rhess(z, gz, hz, there))
    y = manifold.retract(x, 0.1 * u)
    carried = surface.proj_tangent(2 * y.sqrt(), there)
    close(manifold.transport(x, y, u) / y.sqrt(), carried)


def test_two_by_two():
    """Of [[s, 1 - s], [1 - s, s]] the metric is 2ds²/(s(1 - s)): all is a formula of s."""
    s = 0.3
    x = torch.tensor([[s, 1 - s], [1 - s, s]]).double()
    g = noise(2, 2)
    slope = float(g[0, 0] - g[0, 1] - g[1, 0] + g[1, 1]) * s * (1 - s) / 2
    expected = slope * torch.tensor([[1, -1], [-1, 1]]).double()
    torch.testing.assert_close(D.egrad2rgrad(x, g), expected)


def test_geoopts_gradient_agrees():
    geoopt = pytest.importorskip("geoopt")
    x, g = point(D, 4, 4), noise(4, 4, seed=1)
    theirs = geoopt.BirkhoffPolytope().egrad2rgrad(x, g)
    torch.testing.assert_close(D.egrad2rgrad(x, g), theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", [(4, 4), (2, 5), (5, 2), (1, 3)], ids=str)
@pytest.mark.parametrize("sharp", [1.0, 5.0, 20.0])
def test_multipliers_against_least_squares(shape, sharp):
    """Of the system with n + m unknowns and rank n + m - 1; entries down to e^-40."""
    n, m = shape
    r, c = torch.ones(n, 1).double(), torch.full((1, m), n / m).double()
    x = linalg.scale_to_sums(sharp * noise(n, m), r, c)
    z = x * noise(n, m, seed=1)
    p, q = z.sum(-1, keepdim=True), z.sum(-2, keepdim=True)
    alpha, beta = linalg.sum_multipliers(x, p, q)
    normal = x * (alpha + beta)
    torch.testing.assert_close(normal.sum(-1, keepdim=True), p, rtol=0, atol=1e-12)
    torch.testing.assert_close(normal.sum(-2, keepdim=True), q, rtol=0, atol=1e-12)
    X = x.numpy()
    system = np.block([[np.diag(X.sum(-1)), X], [X.T, np.diag(X.sum(-2))]])
    right = torch.cat([p.flatten(), q.flatten()]).numpy()
    found = np.linalg.lstsq(system, right, rcond=1e-14)[0]
    dense = x * torch.from_numpy(found[:n, None] + found[None, n:])
    torch.testing.assert_close(normal, dense, rtol=0, atol=1e-7)


def test_scaling_against_many_plain_rounds():
    weights = (2 * noise(3, 4)).exp()
    x = weights.clone()
    for _ in range(2000):
        x = x * (ROWS[:, None] / x.sum(-1, keepdim=True))
        x = x * (COLUMNS / x.sum(-2, keepdim=True))
    found = linalg.scale_to_sums(weights.log(), ROWS[:, None], COLUMNS[None])
    torch.testing.assert_close(found, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_sums_are_right_where_scaling_does_not_converge(dtype):
    """A pattern that carries no such matrix but for entries of e^-60."""
    k = torch.full((3, 3), -60.0, dtype=dtype)
    k[0, 0] = k[1, 0] = k[2, 1] = k[2, 2] = 0
    one = torch.ones(3, 1, dtype=dtype)
    x = linalg.scale_to_sums(k, one, one.mT)
    eps = torch.finfo(dtype).eps
    assert (x >= 0).all()
    assert (x.sum(-1) - 1).abs().max() <= 4 * eps
    assert (x.sum(-2) - 1).abs().max() <= 4 * eps


def test_the_nearest_point():
    """Permutations up to the margin, in units of any size; and what is off by constants."""
    permutation = torch.eye(4)[[2, 0, 3, 1]].double()
    inside = 0.99 * permutation + 0.01 / 4
    for size in (3.0, 1e6, 1e30):
        torch.testing.assert_close(D.project(size * permutation), inside, rtol=0, atol=1e-3)
    x = point(D, 4, 4)
    moved = x + noise(4, 1, seed=1) + noise(1, 4, seed=2)
    torch.testing.assert_close(D.project(moved), x)
    torch.testing.assert_close(D.project(torch.zeros(2, 3)), torch.full((2, 3), 1 / 3))
    torch.testing.assert_close(COUPLING.project(torch.zeros(3, 4)).sum(-1), ROWS.float())


# --- the set -----------------------------------------------------------------------------------


@over_sets
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=name)
@pytest.mark.parametrize("blind", [False, True], ids=["adaptive", "fixed"])
def test_steps_of_any_length_stay_inside(manifold, shape, dtype, blind, monkeypatch):
    """Again and again towards the boundary."""
    if blind:
        monkeypatch.setattr(backends, "reads_are_free", lambda *tensors: False)
    for size in (1e-6, 1.0, 1e3, 1e4):
        y = point(manifold, 2, *shape, dtype=torch.float32).to(dtype)
        for i in range(5):
            u = (size * noise(2, *shape, seed=i % 2, dtype=torch.float32)).to(dtype)
            y = manifold.retract(y, manifold.proj_tangent(y, u))
            assert y.dtype == dtype
            assert bool((manifold.violation(y.double()) <= manifold.tolerance(y).double()).all())


def test_near_a_permutation_gradients_are_finite_and_tangent():
    for dtype in (torch.float32, torch.float64):
        x = D.round_point(torch.eye(5, dtype=dtype), dtype)
        g = noise(5, 5, dtype=dtype)
        for u in (D.egrad2rgrad(x, g), D.ehess2rhess(x, g, g, D.egrad2rgrad(x, g))):
            assert u.isfinite().all()
            assert u.abs().max() < 1e-6
        assert D.inner(x, D.egrad2rgrad(x, g), D.egrad2rgrad(x, g)) < 1e-6


def test_a_slow_scaling_is_still_a_first_order_step():
    """Two blocks that hardly mix: the sums of blocks settle slowly, and errors stay O(t²)."""
    mix = 1e-4
    x = torch.full((4, 4), mix / 2, dtype=torch.float64)
    x[:2, :2] = x[2:, 2:] = (1 - mix) / 2
    u = D.egrad2rgrad(x, noise(4, 4))
    errors = [float((D.retract(x, t * u) - x - t * u).norm()) for t in (1e-2, 1e-3, 1e-4)]
    assert errors[1] < 0.02 * errors[0]
    assert errors[2] < 0.02 * errors[1]


def test_violation():
    x = torch.full((3, 2, 2), 0.5)
    x[1, 0, 0] += 0.25
    x[2] = torch.tensor([[1.5, -0.5], [-0.5, 1.5]])
    assert D.violation(x).tolist() == [0.0, 0.25, math.inf]


def test_options_are_checked():
    for bad in (
        torch.tensor([1.0, 0]),
        torch.tensor([1.0, math.nan]),
        torch.ones(2, 2),
        torch.ones(0),
    ):
        with pytest.raises(ValueError, match="needs rows that are a vector of positive"):
            DoublyStochastic(rows=bad)
    with pytest.raises(ValueError, match="one total; got 2 and 3"):
        DoublyStochastic(torch.ones(2), torch.ones(3))
    with pytest.raises(ValueError, match=r"needs matrices \(\*batch, 3, 4\); got .*\(4, 3\)"):
        COUPLING.check_shape((4, 3))
    with pytest.raises(ValueError, match=r"\(\*batch, n, 4\)"):
        DoublyStochastic(columns=COLUMNS).check_shape((4, 3))
    with pytest.raises(ValueError, match="needs real tensors"):
        D.project(torch.ones(2, 2, dtype=torch.complex64))


def test_a_sum_that_is_not_given_is_uniform():
    x = point(DoublyStochastic(rows=ROWS), 3, 2)
    torch.testing.assert_close(x.sum(-1), ROWS)
    torch.testing.assert_close(x.sum(-2), torch.full((2,), 0.5).double())
    x = point(DoublyStochastic(columns=COLUMNS), 5, 4)
    torch.testing.assert_close(x.sum(-1), torch.full((5,), 0.2).double())
    torch.testing.assert_close(x.sum(-2), COLUMNS)


# --- derivatives, training ---------------------------------------------------------------------


@over_sets
def test_derivatives(manifold, shape):
    x = point(manifold, *shape)
    v, u = (0.1 * manifold.random_tangent(x, generator=generator(i)) for i in (1, 2))

    def forms(s, t):
        a = x + s * v
        carried = manifold.transport(a, x, u)
        return manifold.retract(a, (1 + t) * u), manifold.egrad2rgrad(a, t * v), carried

    at = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(forms, at)


OPTIMIZERS = {
    "SGD": lambda params: RiemannianSGD(params, lr=0.2, momentum=0.8),
    "Adam": lambda params: RiemannianAdam(params, lr=0.01),
    "point": lambda params: RiemannianAdam(params, lr=0.05, second_moment="point"),
}


@over_sets
@chequered("optimizer, start", OPTIMIZERS, ["random", "any tensor"])
def test_optimal_transport_with_entropy(manifold, shape, optimizer, start):
    """⟨C, X⟩ + εΣ X log X is least where Sinkhorn's iteration ends from -C/ε."""
    cost, epsilon = noise(*shape, seed=5), 0.5
    best = linalg.scale_to_sums(-cost / epsilon, *manifold._sums(cost))
    first = point(manifold, *shape) if start == "random" else 3 * noise(*shape)
    x = ManifoldParameter(first, manifold)
    step = OPTIMIZERS[optimizer]([x])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(step, 300)
    for _ in range(300):
        step.zero_grad()
        ((cost * x).sum() + epsilon * torch.xlogy(x, x).sum()).backward()
        step.step()
        schedule.step()
    assert manifold.violation(x.detach()) <= manifold.tolerance(x.detach())
    torch.testing.assert_close(x.detach(), best, rtol=0, atol=1e-3)


def test_a_thousand_float32_steps_stay_inside():
    manifold = COUPLING
    x = ManifoldParameter(point(manifold, 2, 3, 4, dtype=torch.float32), manifold)
    optimizer, gen = RiemannianAdam([x], lr=0.02), generator(1)
    for _ in range(1000):
        x.grad = torch.randn(x.shape, generator=gen)
        optimizer.step()
    violation = manifold.violation(x.detach().double())
    assert bool((violation <= manifold.tolerance(x.detach()).double()).all())
    assert bool((x > 0).all())

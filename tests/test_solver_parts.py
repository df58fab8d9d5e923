"""The parts that solvers are made of, each against an oracle of its own."""

import numpy as np
import pytest
import torch

from riemopt import minimize
from riemopt.manifolds import SPD, Euclidean, GLPlus, Sphere, Stiefel
from riemopt.solvers import Backtracking, Points, Problem, StrongWolfe
from riemopt.solvers.arc import minimise_cubic
from riemopt.solvers.krylov import Krylov
from riemopt.solvers.lbfgs import compact
from riemopt.solvers.saddles import negative_curvature
from riemopt.solvers.structure import structure_of
from riemopt.solvers.trust_region import truncated_cg
from tests.manifold_cases import CASES, generator, point

D = torch.float64


def randn(*shape, seed, dtype=D):
    return torch.randn(*shape, dtype=dtype, generator=generator(seed))


def problem_of(fun, x0, manifold, batch_ndim=0):
    structure = structure_of(fun, x0, manifold, batch_ndim)
    points = Points(structure.tensors, structure.manifolds, batch_ndim)
    problem = Problem(structure, points)
    return problem, problem.evaluate(points.pack(structure.tensors))


# --- points --------------------------------------------------------------------------------------


def test_several_tensors_are_one_vector():
    tensors = [
        Stiefel().random_point(2, 4, 3, dtype=D),
        Sphere().random_point(2, 5, dtype=torch.complex128),
        torch.zeros(2, dtype=D),
    ]
    points = Points(tensors, [Stiefel(), Sphere(), Euclidean()], batch_ndim=1)
    assert (points.batch, points.size) == ((2,), 12 + 10 + 1)
    assert points.dim() == (12 - 6) + 9 + 1
    x = points.pack(tensors)
    assert x.shape == (2, 23)
    for a, b in zip(points.unpack(x), tensors, strict=True):
        assert torch.equal(a, b)
    u, v = points.random_tangent(x, generator(1)), points.random_tangent(x, generator(2))
    products = points.inner(x, u, torch.stack([u, v]))
    assert products.shape == (2, 2)
    torch.testing.assert_close(products[1], (u * v).sum(-1))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.manifold))
def test_covectors(case):
    """Σ lower(v)·u = ⟨v, u⟩, of several vectors at once."""
    kind = next(k for k in ("batch", "tall", "square", "vector", "plane") if k in case.shapes)
    x = point(case, case.shapes[kind], D, 1)
    points = Points([x], [case.manifold])
    x = points.pack([x])
    V = torch.stack([points.random_tangent(x, generator(i)) for i in range(3)])
    gram = points.lower(x, V) @ V.mT
    for i in range(3):
        torch.testing.assert_close(gram[i], points.inner(x, V[i].expand_as(V), V))
    u = points.random_tangent(x, generator(9))
    carried = points.transport(x, points.retract(x, 0.1 * u), V)
    for row, v in zip(carried, V, strict=True):
        torch.testing.assert_close(row, points.transport(x, points.retract(x, 0.1 * u), v))


@pytest.mark.parametrize("length", [1e-5, 0.3, 10.0])
@pytest.mark.parametrize("manifold", [Sphere(), Stiefel(), SPD("affine"), GLPlus()], ids=str)
def test_velocities_of_curves(manifold, length):
    """Its tangent part is c'(t), long steps included, where the curve saturates."""
    x = manifold.random_point(4, 4, dtype=D, generator=generator(1))
    points = Points([x], [manifold])
    x = points.pack([x])
    u = points.random_tangent(x, generator(2))
    u, t, h = u / u.norm(), np.asarray(length), 1e-6 * max(length, 1e-3)
    y, velocity = points.curve(x, u, t)
    torch.testing.assert_close(y, points.retract(x, length * u))
    ends = [points.retract(x, (length + s) * u) for s in (h, -h)]
    exact = points.proj_tangent(y, (ends[0] - ends[1]) / (2 * h))
    torch.testing.assert_close(points.proj_tangent(y, velocity), exact, rtol=1e-3, atol=1e-4)


# --- quasi-Newton --------------------------------------------------------------------------------


def _two_loops(S, Y, g):
    """Nocedal & Wright (2006), algorithm 7.4, without the pairs of negative curvature."""
    good = [i for i in range(len(S)) if S[i] @ Y[i] > 0]
    q, alpha = g.copy(), {}
    for i in reversed(good):
        alpha[i] = S[i] @ q / (S[i] @ Y[i])
        q = q - alpha[i] * Y[i]
    q = q * (S[good[-1]] @ Y[good[-1]]) / (Y[good[-1]] @ Y[good[-1]])
    for i in good:
        q = q + (alpha[i] - Y[i] @ q / (S[i] @ Y[i])) * S[i]
    return -q


def test_the_compact_form_is_that_of_the_two_loops():
    """Of a batch, in which a pair has a negative curvature."""
    rng = np.random.default_rng(0)
    S, g = rng.standard_normal((3, 5, 20)), rng.standard_normal((3, 20))
    Y = S * np.linspace(1, 9, 20)
    Y[1, 2] *= -1
    Y[2, 4] *= -1
    rows = np.stack([S, Y], -2).reshape(3, 10, 20)
    products = np.concatenate([rows @ rows.swapaxes(-1, -2), (rows @ g[..., None])], -1)
    pairs, grad = compact(products)
    found = (pairs[..., None, :] @ rows)[..., 0, :] + grad[..., None] * g
    for i in range(3):
        np.testing.assert_allclose(found[i], _two_loops(S[i], Y[i], g[i]), rtol=1e-12)
        np.testing.assert_allclose(compact(products[i])[0], pairs[i], rtol=1e-12)


def test_quasi_newton_steps_on_a_group_whose_transport_has_torsion():
    for seed in range(4):
        x0, goal = (
            GLPlus().random_point(2, 3, 3, dtype=D, generator=generator(s + seed)) for s in (11, 21)
        )
        result = minimize(lambda x, goal=goal: (x - goal).square().sum(), x0, GLPlus())
        assert result.success
        assert result.nfev < 250


# --- line searches -------------------------------------------------------------------------------

CURVES = {  # costs of one number, with a minimum ahead of 0
    "parabola": lambda x: (x - 1).square().sum(),
    "quartic": lambda x: (x**4 - 10 * x).sum(),
    "kink": lambda x: (x.abs() * (1 + x.abs())).sum() - 3 * x.sum(),
    "wall": lambda x: (x - (2 - x).log()).sum() - 5 * x.sum(),
    "far": lambda x: ((x - 1e4) * 1e-4).square().sum(),
    "wavy": lambda x: (x.square() / 50 - (3 * x).sin()).sum(),
}


@pytest.mark.parametrize("length", [1e-6, 1e-2, 1.0, 1e3, 1e8])
@pytest.mark.parametrize("curvature", [0.9, 0.1, 1e-3])
@pytest.mark.parametrize("fun", CURVES.values(), ids=CURVES)
def test_strong_wolfe_conditions(fun, curvature, length):
    problem, here = problem_of(fun, torch.zeros(1, dtype=D), Euclidean())
    problem.note(here)
    slope = -np.square(here.norm)
    search = StrongWolfe(curvature=curvature, max_trials=60)
    with np.errstate(all="ignore"):
        found = search(problem, here, -here.grad, slope, np.asarray(length), problem.all)
    assert found.moved
    t, there = found.length, found.there
    if fun is CURVES["kink"]:  # no length satisfies the second condition at a kink
        assert there.value < here.value
        return
    assert there.value - here.value <= search.decrease * t * slope + problem.rounding
    assert abs(there.slope) <= curvature * abs(slope)


@pytest.mark.parametrize("length", [1e-6, 1.0, 1e8])
@pytest.mark.parametrize("fun", CURVES.values(), ids=CURVES)
def test_backtracking(fun, length):
    problem, here = problem_of(fun, torch.zeros(1, dtype=D), Euclidean())
    problem.note(here)
    slope = -np.square(here.norm)
    search = Backtracking(max_trials=80)
    with np.errstate(all="ignore"):
        found = search(problem, here, -here.grad, slope, np.asarray(length), problem.all)
    assert found.moved
    assert 0 < found.length <= length
    assert (
        found.there.value - here.value <= search.decrease * found.length * slope + problem.rounding
    )


# --- second order --------------------------------------------------------------------------------


def quadratic(values, seed=1):
    """½⟨x - a, H(x - a)⟩ - const on ℝⁿ, H with these eigenvalues."""
    n = len(values)
    Q = torch.linalg.qr(randn(n, n, seed=seed))[0]
    H = (Q * torch.tensor(values, dtype=D)) @ Q.mT
    a = randn(n, seed=seed + 1)
    return H, a, lambda x: (x - a) @ H @ (x - a) / 2


def test_krylov_spaces():
    H, _, fun = quadratic([-2.0, 0.5, 1.0, 1.0, 3.0, 7.0])
    problem, here = problem_of(fun, torch.zeros(6, dtype=D), Euclidean())
    space = Krylov.of(problem.points, here.x, here.grad)
    product = problem.hessian(here)
    for _ in range(8):  # three more than there are different eigenvalues
        space.grow(product)
    Q, T = torch.stack(space.basis[:5]), space.tridiagonal()
    torch.testing.assert_close(Q @ Q.mT, torch.eye(5, dtype=D))
    np.testing.assert_allclose(T[:5, :5], (Q @ H @ Q.mT).numpy(), atol=1e-10)
    assert space.is_invariant
    np.testing.assert_allclose(T[5:], 0, atol=1e-300)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(T[:5, :5]), [-2.0, 0.5, 1.0, 3.0, 7.0], atol=1e-10
    )
    found, along = negative_curvature(problem.points, here.x, product, 6, problem.all)
    assert found
    assert along @ H @ along < 0


def test_truncated_conjugate_gradients():
    """Within the radius Newton's step; else on it, and no worse than the Cauchy point."""
    _, a, fun = quadratic([0.5, 1.0, 2.0, 3.0, 7.0])
    problem, here = problem_of(fun, torch.zeros(5, dtype=D), Euclidean())
    product, zero = problem.hessian(here), np.asarray(1e-12)

    def solve(radius):
        return truncated_cg(
            problem.points, here, product, np.asarray(radius), zero, 20, problem.all
        )

    newton = solve(100.0)
    torch.testing.assert_close(newton.step, a, rtol=0, atol=1e-9)
    assert newton.decrease == pytest.approx(here.value.item())
    assert not newton.at_edge
    short = solve(0.1)
    assert short.step.norm().item() == pytest.approx(0.1)
    assert short.at_edge
    assert short.decrease == pytest.approx(fun(here.x).item() - fun(short.step).item())
    cauchy = -0.1 * here.grad / here.grad.norm()
    assert short.decrease >= fun(here.x).item() - fun(cauchy).item() - 1e-12


@pytest.mark.parametrize("values", [(1.0, 2.0, 5.0), (-1.0, 2.0, 5.0), (-3.0, -1.0, 0.0)])
@pytest.mark.parametrize("sigma", [1e-3, 1.0, 1e3])
def test_cubic_models(values, sigma):
    """The minimum among many points, and no gradient there."""
    rng = np.random.default_rng(0)
    T = np.diag(values) + np.diag([0.3, 0.4], 1) + np.diag([0.3, 0.4], -1)

    def model(c):
        r = np.linalg.norm(c, axis=-1)
        return 2.0 * c[..., 0] + 0.5 * np.einsum("...i,ij,...j", c, T, c) + sigma * r**3 / 3

    with np.errstate(all="ignore"):
        c = minimise_cubic(T, np.asarray(2.0), np.asarray(sigma))
    r = np.linalg.norm(c)
    gradient = 2.0 * np.eye(3)[0] + T @ c + sigma * r * c
    assert np.linalg.norm(gradient) <= 1e-9 * (2 + sigma * r * r)
    others = c + r * rng.standard_normal((10_000, 3))
    assert model(c) <= model(others).min() + 1e-9 * abs(model(c))


def test_the_hard_case_of_cubic_models():
    """No part of the gradient lies along the eigenvalue that is negative."""
    T = np.diag([1.0, -2.0])
    with np.errstate(all="ignore"):
        c = minimise_cubic(T, np.asarray(1e-3), np.asarray(1.0))
    assert np.linalg.norm(c) == pytest.approx(2.0, rel=1e-3)
    assert abs(c[1]) > 1.9

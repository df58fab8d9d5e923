"""`minimize(…, method="levenberg-marquardt")`: residuals, on manifolds and off them."""

import importlib.util
import pathlib
import sys

import numpy as np
import pytest
import torch

from riemopt import minimize
from riemopt.manifolds import (
    SPD,
    Euclidean,
    Grassmann,
    SpecialEuclidean,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
)
from riemopt.solvers import LevenbergMarquardt, Points
from riemopt.solvers.levenberg_marquardt import LeastSquares
from riemopt.solvers.structure import structure_of

F64 = torch.float64
LM = "levenberg-marquardt"


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def rosenbrock(x):
    return torch.stack([10 * (x[..., 1] - x[..., 0] ** 2), 1 - x[..., 0]], -1)


def test_rosenbrock():
    result = minimize(rosenbrock, torch.tensor([-1.2, 1.0], dtype=F64), method=LM)
    assert result.success
    torch.testing.assert_close(result.x, torch.ones(2, dtype=F64))
    assert result.fun < 1e-15
    assert result.nit < 30


def test_a_fit_with_large_residuals_is_that_of_scipy():
    optimize = pytest.importorskip("scipy.optimize")
    t = torch.linspace(0, 3, 40, dtype=F64)
    y = 2.5 * torch.exp(-1.3 * t) + 0.5 + 0.2 * normal(0, 40)

    def residuals(p):
        return p[0] * torch.exp(-p[1] * t) + p[2] - y

    result = minimize(residuals, torch.ones(3, dtype=F64), method=LM)
    theirs = optimize.least_squares(
        lambda p: residuals(torch.from_numpy(p)).numpy(), np.ones(3), xtol=1e-15, gtol=1e-14
    )
    assert result.success
    np.testing.assert_allclose(result.x.numpy(), theirs.x, rtol=1e-6)
    assert result.fun == pytest.approx(theirs.cost, rel=1e-12)
    assert [row["fun"] for row in result.history] == sorted(
        (row["fun"] for row in result.history), reverse=True
    )


def test_linear_residuals_take_as_many_steps_as_the_damping_falls_by_thirds():
    A, b = normal(0, 30, 5), normal(1, 30)
    result = minimize(lambda x: A @ x - b, torch.zeros(5, dtype=F64), method=LM)
    torch.testing.assert_close(result.x, torch.linalg.lstsq(A, b).solution)
    assert result.nit < 8
    damping = [row["damping"] for row in result.history[1:]]
    np.testing.assert_allclose(damping[1:], np.array(damping[:-1]) / 3)


@pytest.mark.parametrize(
    ("manifold", "shape"),
    [
        (Sphere(), (6,)),
        (Stiefel(), (6, 2)),
        (Stiefel(metric="canonical"), (6, 2)),
        (Grassmann(), (6, 2)),
        (SpecialOrthogonal(), (2, 4, 4)),
        (SPD("affine"), (3, 3)),
    ],
    ids=repr,
)
def test_a_planted_point_is_found_to_all_digits(manifold, shape):
    """Quadratically, as residuals vanish there; starting from nearby."""
    gen = torch.Generator().manual_seed(0)
    planted = manifold.random_point(*shape, generator=gen, dtype=F64)

    def invariant(x):
        return x @ x.mT if isinstance(manifold, Grassmann) else x + x**3

    start = manifold.retract(planted, 0.3 * manifold.random_tangent(planted, generator=gen))
    result = minimize(
        lambda x: invariant(x) - invariant(planted), start, manifold, method=LM, tol=1e-12
    )
    assert result.success, result.message
    assert result.fun < 1e-20
    assert (manifold.violation(result.x) <= manifold.tolerance(result.x)).all()
    assert result.nit <= 12


@pytest.mark.parametrize(
    ("manifold", "shape"), [(Stiefel(), (5, 2)), (SPD("affine"), (3, 3))], ids=repr
)
def test_the_model_is_the_hessian_where_residuals_vanish(manifold, shape):
    x = manifold.random_point(*shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    structure = structure_of(lambda y: y**3 - x**3, x, manifold)
    problem = LeastSquares(structure, Points(structure.tensors, structure.manifolds))
    here = problem.evaluate(problem.points.pack([x]))
    product, hessian = problem.gauss_newton(here, problem.all), problem.hessian(here)
    u = problem.points.random_tangent(here.x, torch.Generator().manual_seed(1))
    torch.testing.assert_close(product(u), hessian(u))


def test_several_tensors_and_one_that_has_no_effect():
    R = SpecialOrthogonal().random_point(3, 3, dtype=F64)
    t, p = normal(0, 3), normal(1, 20, 3)
    seen = p @ R.mT + t
    x0 = {"R": torch.eye(3, dtype=F64), "t": torch.zeros(3, dtype=F64), "unused": t.clone()}
    manifolds = {"R": SpecialOrthogonal(), "t": Euclidean(), "unused": Euclidean()}
    result = minimize(lambda x: p @ x["R"].mT + x["t"] - seen, x0, manifolds, method=LM)
    torch.testing.assert_close(result.x["R"], R)
    torch.testing.assert_close(result.x["t"], t)
    assert torch.equal(result.x["unused"], t)


@pytest.mark.parametrize("d", [2, 3])
def test_a_pose_graph(d):
    """From odometry in few iterations; the truth, with the errors of all, costs more."""
    path = pathlib.Path(__file__).parent.parent / "examples" / "pose_graph.py"
    spec = importlib.util.spec_from_file_location("pose_graph", path)
    example = importlib.util.module_from_spec(spec)
    sys.modules["pose_graph"] = example  # dataclasses look it up
    spec.loader.exec_module(example)
    graph = example.pose_graph(d, loops=2, around=12)
    result = minimize(graph.residuals, graph.start, SpecialEuclidean(), method=LM)
    assert result.success
    assert result.nit <= 20
    assert result.fun < graph.cost(graph.truth) < graph.cost(graph.start)
    assert example.drift(result.x, graph.truth) < example.drift(graph.start, graph.truth)


def test_batches_equal_one_by_one():
    """Problems that need different numbers of iterations, each frozen when it is done."""
    planted = SpecialOrthogonal().random_point(5, 4, 4, dtype=F64)
    noise = normal(0, 5, 4, 4) * torch.logspace(-6, 0, 5, dtype=F64)[:, None, None]
    targets = planted @ planted + noise
    u = SpecialOrthogonal().random_tangent(planted)
    starts = SpecialOrthogonal().retract(planted, 0.2 * u)

    def residuals(target):
        return lambda X: (X @ X - target).flatten(-2)

    options = {"manifold": SpecialOrthogonal(), "method": LM, "tol": 1e-6}
    together = minimize(residuals(targets), starts, batch_ndim=1, **options)
    assert together.success.all()
    assert len(set(together.nit)) > 2
    for i in range(5):
        alone = minimize(residuals(targets[i]), starts[i], **options)
        torch.testing.assert_close(together.x[i], alone.x, atol=1e-9, rtol=0)
        assert (together.nit[i], together.nfev[i]) == (alone.nit, alone.nfev)


def test_large_residuals_converge_too():
    targets = normal(0, 5, 4, 4)
    starts = SpecialOrthogonal().random_point(5, 4, 4, dtype=F64)

    def residuals(X):
        return X @ X - targets

    result = minimize(residuals, starts, SpecialOrthogonal(), method=LM, batch_ndim=1)
    assert result.success.all(), result.message
    assert result.fun.min() > 1


def test_float32_converges_to_its_own_rounding():
    planted = SpecialEuclidean().random_point(4, 4)
    p = torch.randn(30, 3)

    def residuals(X):
        return p @ X[:3, :3].mT + X[:3, 3] - (p @ planted[:3, :3].mT + planted[:3, 3])

    start = torch.eye(4)
    result = minimize(residuals, start, SpecialEuclidean(), method=LM)
    assert result.success, result.message
    assert result.x.dtype == torch.float32
    assert (result.x - planted).abs().max() < 1e3 * torch.finfo(torch.float32).eps


def test_a_tolerance_that_rounding_forbids_ends_in_words():
    A, b = normal(0, 30, 5), normal(1, 30)
    result = minimize(lambda x: A @ x - b, torch.zeros(5, dtype=F64), method=LM, tol=1e-30)
    assert result.status == 2
    assert "rounding" in result.message
    torch.testing.assert_close(result.x, torch.linalg.lstsq(A, b).solution)


REFUSED = [
    (lambda x: x.square().sum(), {}, ValueError, "must return the residuals"),
    (lambda x: 1.0, {}, TypeError, "needs residuals"),
    (lambda x: x.to(torch.complex128), {}, TypeError, "a tensor of torch.complex128"),
    (lambda x: x, {"damping": 0.0}, ValueError, "damping > 0"),
    (lambda x: x, {"forcing": 1.0}, ValueError, "forcing=1.0"),
    (lambda x: x, {"memory": 3}, ValueError, "'memory' is an option of 'lbfgs'"),
    (lambda x: x.detach(), {}, ValueError, "does not depend"),
]


@pytest.mark.parametrize(("fun", "options", "error", "text"), REFUSED)
def test_what_cannot_be_fitted_is_refused(fun, options, error, text):
    with pytest.raises(error, match=text):
        minimize(fun, torch.ones(3, dtype=F64), method=LM, options=options)


def test_a_batch_needs_residuals_of_each():
    with pytest.raises(ValueError, match="after the dimensions"):
        minimize(lambda x: x.sum(-1), torch.ones(4, 3, dtype=F64), method=LM, batch_ndim=1)


def test_the_method_is_a_value_too():
    method = LevenbergMarquardt(damping=1e-6, forcing=1e-6)
    result = minimize(rosenbrock, torch.tensor([-1.2, 1.0], dtype=F64), method=method)
    assert result.method == "LevenbergMarquardt"
    torch.testing.assert_close(result.x, torch.ones(2, dtype=F64))

"""The problems with known minima: the minima are right, and other packages get the same problem."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from full_batch_problems import PROBLEMS
from full_batch_problems.means import squared_distances
from full_batch_problems.spectral import brockett, dominant_subspace
from riemopt_bench.problems._minima import (
    mean_by_fixed_point,
    nearest_correlation_minimum,
    semidefinite_minimum,
)
from riemopt_bench.problems.karcher_mean import samples
from riemopt_bench.problems.procrustes import minima
from riemopt_bench.problems.thomson import MINIMA


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_start_is_on_the_manifold_and_above_the_minimum(name):
    problem = PROBLEMS[name]()
    x = problem.start(seed=3)
    assert (problem.manifold.violation(x) <= problem.manifold.tolerance(x)).all()
    assert problem.gap(x) > 1e-2
    assert torch.equal(x, problem.start(seed=3))
    if problem.defect is not None:
        assert problem.defect(x) < 1e-20
        assert problem.defect(1.1 * x) > 1e-3


@pytest.mark.parametrize("name", PROBLEMS)
def test_pymanopt_gets_the_same_problem(name):
    pytest.importorskip("pymanopt")
    problem = PROBLEMS[name]()
    theirs, x = problem.pymanopt(), problem.start(seed=0)
    point = theirs.point(x.numpy())
    parts = point if isinstance(point, list | tuple) else [point]
    np.testing.assert_allclose(theirs.back(point), x.numpy(), atol=1e-12)
    cost = theirs.cost(*(torch.from_numpy(np.asarray(part)) for part in parts))
    torch.testing.assert_close(cost, problem.cost(x))


def test_the_icosahedron_is_the_minimum_for_twelve_electrons():
    golden = (1 + 5**0.5) / 2
    signs = [(a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    x = torch.from_numpy(np.array([np.roll((0, *s), k) for s in signs for k in range(3)]))
    problem = PROBLEMS["thomson_12"]()
    assert float(problem.cost(x / x[0].norm())) == pytest.approx(MINIMA[12], abs=1e-9)


def test_spectral_minima_are_taken_at_eigenvectors():
    for problem, columns in (
        (brockett(20, 3), [2, 1, 0]),
        (dominant_subspace(20, 3), [-1, -2, -3]),
    ):
        H = torch.func.hessian(problem.cost)(torch.zeros(20, 3, dtype=torch.float64))
        A = H[:, -1, :, -1] / (6 if columns[-1] == 0 else -2)  # the last column has weight 3
        X = torch.linalg.eigh(A).eigenvectors[:, columns]
        assert problem.gap(X) == pytest.approx(0, abs=1e-13)


def test_procrustes_minimum_is_that_of_proper_rotations():
    """Over a fine grid of the plane's rotations, for matrices of either determinant."""
    angle = torch.linspace(0, 2 * torch.pi, 10001, dtype=torch.float64)
    c, s = angle.cos(), angle.sin()
    R = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    M = torch.randn(6, 2, 2, dtype=torch.float64)
    least = -(R[:, None] * M).sum((-2, -1)).amax(0)
    torch.testing.assert_close(minima(M), least, atol=1e-6, rtol=0)
    assert len(torch.linalg.det(M).sign().unique()) == 2


def test_max_cut_of_a_triangle_and_of_a_cycle_of_five():
    assert semidefinite_minimum(np.ones((3, 3)) - np.eye(3)) == pytest.approx(-3, abs=1e-10)
    cycle = np.roll(np.eye(5), 1, 0) + np.roll(np.eye(5), -1, 0)
    assert semidefinite_minimum(cycle) == pytest.approx(10 * np.cos(4 * np.pi / 5), abs=1e-10)


def test_nearest_correlation_to_a_matrix_of_higham():
    """Higham (2002), §1: the distance of [[1, 1, 0], [1, 1, 1], [0, 1, 1]] is 0.5278."""
    A = np.array([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]])
    assert np.sqrt(2 * nearest_correlation_minimum(A)) == pytest.approx(0.5278, abs=5e-5)


def test_the_mean_of_commuting_matrices_is_that_of_logarithms():
    Q = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0].numpy()
    logs = np.random.default_rng(0).standard_normal((7, 4))
    A = (Q * np.exp(logs)[:, None]) @ Q.T
    mean = (Q * np.exp(logs.mean(0))) @ Q.T
    np.testing.assert_allclose(mean_by_fixed_point(A), mean, atol=1e-12)


def test_means_of_a_batch_are_critical_points():
    A = samples(0, 3, 6, 4)  # 3 problems of 6 matrices of 4×4
    X = torch.from_numpy(mean_by_fixed_point(A.numpy())).requires_grad_()
    cost = squared_distances(A)(X)
    assert cost.shape == (3,)
    (g,) = torch.autograd.grad(cost.sum(), X)
    assert g.abs().max() < 1e-12
    single = mean_by_fixed_point(A[1].numpy())
    np.testing.assert_allclose(single, X[1].detach().numpy(), atol=1e-12)

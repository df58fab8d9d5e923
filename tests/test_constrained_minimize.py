"""`minimize(…, constraints=…)`: points that meet the Karush–Kuhn–Tucker conditions."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import riemopt
from riemopt import minimize
from riemopt.manifolds import Euclidean, Sphere, Stiefel
from riemopt.solvers import ConstrainedResult

F64 = torch.float64


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def symmetric(seed, n):
    A = normal(seed, n, n)
    return (A + A.mT) / 2


@pytest.mark.parametrize("method", ["lbfgs", "trust-region"])
def test_a_rayleigh_quotient_with_an_equation(method):
    """Golub (1973): the least eigenvalue of PAP on the complement of b; with its multiplier."""
    A, b = symmetric(0, 8), normal(1, 8)
    Q = torch.linalg.svd(b[None]).Vh[1:].mT  # a basis of the complement
    least, vectors = torch.linalg.eigh(Q.mT @ A @ Q)
    result = minimize(
        lambda x: x @ A @ x,
        Sphere().random_point(8, dtype=F64),
        Sphere(),
        constraints={"type": "eq", "fun": lambda x: b @ x},
        method=method,
    )
    assert isinstance(result, ConstrainedResult)
    assert result.success, result.message
    assert result.fun == pytest.approx(float(least[0]), abs=1e-8)
    assert result.violation < 1e-7
    assert abs(float(result.x @ Q @ vectors[:, 0])) == pytest.approx(1, abs=1e-8)
    # 2Ax + λb is a multiple of x: λ = -2⟨b, Ax⟩/‖b‖², as x is orthogonal to b.
    expected = -2 * float(b @ A @ result.x) / float(b @ b)
    assert float(result.multipliers[0]) == pytest.approx(expected, rel=1e-5)
    assert result.grad_norm < 1e-7
    assert result.nit == sum(
        max(row["nit"] for row in result.history if row["outer"] == k)
        for k in range(result.history[-1]["outer"] + 1)
    )


def nonnegative_pca(A):
    """The largest xᵀAx with x ≥ 0 on the sphere: over all supports, by eigenvectors."""
    best = -np.inf
    for k in range(1, len(A) + 1):
        for support in itertools.combinations(range(len(A)), k):
            values, vectors = torch.linalg.eigh(A[list(support)][:, list(support)])
            v = vectors[:, -1]
            if (v >= 0).all() or (v <= 0).all():
                best = max(best, float(values[-1]))
    return best


def test_nonnegative_principal_components():
    A = symmetric(3, 6)
    result = minimize(
        lambda x: -(x @ A @ x),
        Sphere().project(torch.ones(6, dtype=F64)),
        Sphere(),
        constraints={"type": "ineq", "fun": lambda x: x},
    )
    assert result.success, result.message
    assert -result.fun == pytest.approx(nonnegative_pca(A), rel=1e-7)
    x, multiplier = result.x, result.multipliers[0]
    assert (x > -1e-7).all()
    assert (multiplier <= 0).all()
    assert (x * multiplier).abs().max() < 1e-6  # complementary
    assert (multiplier < -0.1).any()
    lagrangian = Sphere().proj_tangent(x, -2 * A @ x + multiplier)
    assert lagrangian.abs().max() < 1e-6


def test_a_balanced_cut_of_two_cliques():
    """¼ tr XᵀLX over unit rows with Xᵀ1 = 0 (Liu & Boumal 2020, §6.2): one edge is cut."""
    adjacency = torch.zeros(8, 8, dtype=F64)
    adjacency[:4, :4] = adjacency[4:, 4:] = 1
    adjacency[3, 4] = adjacency[4, 3] = 1
    adjacency.fill_diagonal_(0)
    L = torch.diag(adjacency.sum(0)) - adjacency
    result = minimize(
        lambda X: (X * (L @ X)).sum() / 4,
        Sphere().random_point(8, 2, dtype=F64),
        Sphere(),
        constraints={"type": "eq", "fun": lambda X: X.sum(0)},
    )
    assert result.success, result.message
    assert 0 < result.fun < 1 + 1e-9  # of the relaxation
    assert result.x.sum(0).abs().max() < 1e-6
    side = (result.x @ result.x[0]).sign()
    assert side.tolist() == [1.0] * 4 + [-1.0] * 4
    assert result.multipliers[0].shape == (2,)


def test_bounds_on_both_sides_and_several_constraints():
    optimize = pytest.importorskip("scipy.optimize")
    target = torch.tensor([3.0, -3.0, 0.2, 0.1], dtype=F64)
    box = optimize.NonlinearConstraint(lambda x: x, -1.0, 1.0)
    plane = {"type": "eq", "fun": lambda x: x.sum() - 0.5}
    result = minimize(
        lambda x: (x - target).square().sum() / 2,
        torch.zeros(4, dtype=F64),
        Euclidean(),
        constraints=[box, plane],
    )
    assert result.success, result.message
    torch.testing.assert_close(
        result.x, torch.tensor([1.0, -1.0, 0.3, 0.2], dtype=F64), atol=1e-6, rtol=0
    )
    multipliers, of_plane = result.multipliers
    torch.testing.assert_close(
        multipliers, torch.tensor([2.1, -1.9, 0, 0], dtype=F64), atol=1e-5, rtol=0
    )
    assert float(of_plane) == pytest.approx(-0.1, abs=1e-5)


def test_constraints_that_do_not_bind_change_nothing():
    A = symmetric(0, 6)
    x0 = Sphere().random_point(6, dtype=F64)
    free = minimize(lambda x: x @ A @ x, x0, Sphere())
    result = minimize(
        lambda x: x @ A @ x, x0, Sphere(), constraints={"type": "ineq", "fun": lambda x: 5 - x}
    )
    assert result.fun == pytest.approx(free.fun, rel=1e-12)
    assert result.multipliers[0].abs().max() == 0


def test_several_tensors_and_modules():
    target = normal(0, 4, 3)
    x0 = {"W": Stiefel().random_point(4, 3, dtype=F64), "s": torch.ones(3, dtype=F64)}
    manifolds = {"W": Stiefel(), "s": Euclidean()}
    result = minimize(
        lambda x: (x["W"] * x["s"] - target).square().sum(),
        x0,
        manifolds,
        constraints={"type": "ineq", "fun": lambda x: 1.5 - x["s"]},
    )
    assert result.success, result.message
    assert result.x["s"].max() == pytest.approx(1.5, abs=1e-6)

    module = nn.Linear(3, 4, bias=False).double()
    riemopt.constrain(module, "weight", Stiefel())
    moved = minimize(
        lambda: (module.weight - target).square().sum(),
        module,
        constraints={"type": "eq", "fun": lambda: module.weight[0]},
    )
    assert moved.success, moved.message
    assert module.weight[0].abs().max() < 1e-6
    assert Stiefel().violation(module.weight) < 1e-12


def test_constraints_that_cannot_be_met_are_named():
    result = minimize(
        lambda x: x.sum(),
        Sphere().random_point(4, dtype=F64),
        Sphere(),
        constraints={"type": "eq", "fun": lambda x: x[0] - 2},
    )
    assert not result.success
    assert "constraints are not met" in result.message
    assert result.violation == pytest.approx(1, abs=1e-3)


def test_limits_are_those_of_the_whole():
    A, b = symmetric(0, 8), normal(1, 8)
    result = minimize(
        lambda x: x @ A @ x,
        Sphere().random_point(8, dtype=F64),
        Sphere(),
        constraints={"type": "eq", "fun": lambda x: b @ x},
        options={"maxiter": 7},
    )
    assert result.nit == 7
    assert result.status == 1
    loose = minimize(
        lambda x: x @ A @ x,
        Sphere().random_point(8, dtype=F64),
        Sphere(),
        constraints={"type": "eq", "fun": lambda x: b @ x},
        options={"ctol": 1e-2, "penalty": 1.0},
        tol=1e-3,
    )
    assert loose.success
    assert 1e-7 < loose.violation < 1e-2


REFUSED = [
    ({"type": "equality", "fun": torch.sum}, ValueError, "'equality'"),
    ({"fun": torch.sum}, ValueError, "got the keys"),
    ({"type": "eq", "fun": torch.sum, "jac": None}, ValueError, "autograd"),
    ({"type": "eq", "fun": 3}, TypeError, "must be a function"),
    (torch.sum, TypeError, "NonlinearConstraint"),
    ({"type": "eq", "fun": lambda x: 1.0}, TypeError, "a tensor of real numbers"),
]


@pytest.mark.parametrize(("constraints", "error", "text"), REFUSED)
def test_what_is_no_constraint_is_refused(constraints, error, text):
    with pytest.raises(error, match=text):
        minimize(torch.sum, torch.eye(3)[0], Sphere(), constraints=constraints)


def test_batches_are_refused():
    with pytest.raises(ValueError, match="one problem"):
        minimize(
            torch.sum,
            torch.eye(3),
            Sphere(),
            batch_ndim=1,
            constraints={"type": "eq", "fun": torch.sum},
        )

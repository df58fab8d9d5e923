"""Many problems in one call: the same as one by one."""

import numpy as np
import pytest
import torch

from riemopt import mean, minimize
from riemopt.manifolds import SPD, Euclidean, SpecialOrthogonal, Sphere
from riemopt.solvers import ValueBelow
from tests.manifold_cases import generator

D = torch.float64
METHODS = ("lbfgs", "trust-region", "cg", "gradient", "arc")


def randn(*shape, seed):
    return torch.randn(*shape, dtype=D, generator=generator(seed))


def rotations(count):
    """Procrustes problems, in closed form."""
    m, Q = SpecialOrthogonal(), randn(count, 3, 3, seed=1)
    U, S, Vh = torch.linalg.svd(Q)
    sign = torch.det(U @ Vh).sign()
    best = -(S[:, 0] + S[:, 1] + sign * S[:, 2])
    x0 = m.random_point(count, 3, 3, dtype=D, generator=generator(2))
    return lambda R, i=slice(None): -(R * Q[i]).sum((-2, -1)), x0, m, best


def eigenvalues(count):
    A = randn(count, 6, 6, seed=3)
    A = (A + A.mT) * torch.logspace(-3, 3, count, dtype=D)[:, None, None]
    best = torch.linalg.eigvalsh(A)[:, 0]
    x0 = Sphere().random_point(count, 6, dtype=D, generator=generator(4))
    return (
        lambda x, i=slice(None): torch.einsum("...i,...ij,...j->...", x, A[i], x),
        x0,
        Sphere(),
        best,
    )


def means(count):
    m = SPD("affine")
    points = m.random_point(7, count, 3, 3, dtype=D, generator=generator(5))
    center = mean(m, points)
    best = m.dist(center.expand_as(points), points).square().mean(0)
    x0 = m.random_point(count, 3, 3, dtype=D, generator=generator(6))

    def fun(X, i=slice(None)):
        return m.dist(X.expand(7, *X.shape), points[:, i]).square().mean(0)

    return fun, x0, m, best


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", [rotations, eigenvalues, means], ids=lambda p: p.__name__)
def test_equal_to_one_by_one(problem, method):
    count = 5
    fun, x0, manifold, best = problem(count)
    together = minimize(fun, x0, manifold, method=method, batch_ndim=1)
    assert together.success.all(), together.message
    np.testing.assert_allclose(together.fun, best.numpy(), rtol=1e-9)
    for i in range(count):
        alone = minimize(lambda x, i=i: fun(x, i), x0[i], manifold, method=method)
        np.testing.assert_allclose(together.fun[i], alone.fun, rtol=1e-12)
        assert abs(together.nit[i] - alone.nit) <= 1 + alone.nit // 10
        # Where a step of another problem is refused, Hessians take the gradient once more.
        more = alone.nit if method in ("trust-region", "arc") else 2 + alone.nfev // 5
        assert abs(together.nfev[i] - alone.nfev) <= more
        torch.testing.assert_close(together.x[i], alone.x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_done_is_frozen(method):
    """A problem that begins at its minimum keeps every bit, and stops counting."""
    fun, x0, manifold, _ = eigenvalues(3)
    first = minimize(fun, x0, manifold, method=method, batch_ndim=1)
    again = torch.stack([x0[0], first.x[1], x0[2]])
    result = minimize(fun, again, manifold, method=method, batch_ndim=1)
    assert torch.equal(result.x[1], first.x[1])
    assert (result.nit[1], result.nfev[1]) == (0, 1)
    assert result.nit[0] > 1
    assert result.success.all()


def test_each_has_its_own_reason():
    A = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [1.0, 1.0]], dtype=D)
    x0 = torch.ones(3, 2, dtype=D)
    result = minimize(
        lambda x: (A * x.square()).sum(-1),
        x0,
        Euclidean(),
        batch_ndim=1,
        options={"stop": ValueBelow(-10.0)},
    )
    assert result.status.tolist() == [0, 0, 0]
    assert "reached" in result.message[1]
    assert result.message[0].startswith("Converged")
    unbounded = minimize(lambda x: (A * x.square()).sum(-1), x0, batch_ndim=1)
    assert unbounded.status.tolist() == [0, 3, 0]
    assert unbounded.success.tolist() == [True, False, True]
    limited = minimize(
        lambda x: (A.abs() * x**4).sum(-1), x0, batch_ndim=1, tol=0, options={"maxiter": 4}
    )
    assert limited.status.tolist() == [1, 1, 1]
    assert limited.nit.tolist() == [4, 4, 4]


def test_several_tensors_and_a_history():
    fun, x0, manifold, best = rotations(4)
    shift = torch.zeros(4, 2, dtype=D)
    goal = randn(4, 2, seed=7)
    result = minimize(
        lambda p: fun(p["R"]) + (p["t"] - goal).square().sum(-1),
        {"R": x0, "t": shift},
        {"R": manifold, "t": Euclidean()},
        batch_ndim=1,
    )
    np.testing.assert_allclose(result.fun, best.numpy(), rtol=1e-9)
    torch.testing.assert_close(result.x["t"], goal, rtol=0, atol=1e-6)
    assert result.history[-1]["fun"].shape == (4,)
    assert result.grad_norm.shape == result.nfev.shape == (4,)


def test_spheres_that_count_dimensions_from_the_front():
    """dim=0 is that of one problem, not of the batch."""
    A = randn(3, 4, 2, seed=1)
    x0 = Sphere(dim=-2).random_point(3, 4, 2, dtype=D, generator=generator(2))
    result = minimize(lambda X: (A * X).sum((-2, -1)), x0, Sphere(dim=0), batch_ndim=1)
    best = -torch.linalg.vector_norm(A, dim=-2).sum(-1)
    np.testing.assert_allclose(result.fun, best.numpy(), rtol=1e-9)


@pytest.mark.parametrize("method", ["trust-region", "arc"])
def test_saddles_are_left_one_by_one(method):
    A = randn(3, 6, 6, seed=3)
    A = A + A.mT
    values, vectors = torch.linalg.eigh(A)
    x0 = torch.stack([vectors[0, :, 0], vectors[1, :, 3], vectors[2, :, 5]])
    result = minimize(
        lambda x: torch.einsum("bi,bij,bj->b", x, A, x), x0, Sphere(), method=method, batch_ndim=1
    )
    np.testing.assert_allclose(result.fun, values[:, 0].numpy(), rtol=1e-9)
    assert result.nit[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lbfgs", "trust-region"])
def test_a_thousand_means_and_rotations(method):
    for problem in (rotations, means):
        fun, x0, manifold, best = problem(1000)
        result = minimize(fun, x0, manifold, method=method, batch_ndim=1)
        assert result.success.all()
        np.testing.assert_allclose(result.fun, best.numpy(), rtol=1e-9)

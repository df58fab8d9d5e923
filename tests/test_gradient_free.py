"""`nelder-mead` and `particle-swarm`: costs that autograd cannot differentiate."""

import numpy as np
import pytest
import torch
from torch import nn

import riemopt
from riemopt import minimize
from riemopt.manifolds import (
    SPD,
    Euclidean,
    Grassmann,
    Manifold,
    Positive,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
)
from riemopt.solvers import NelderMead, ParticleSwarm, Points
from riemopt.solvers.gradient_free import orthonormal_basis

F64 = torch.float64
A = torch.diag(torch.tensor([5.0, 3.0, 2.0, 1.0], dtype=F64))
METHODS = ("nelder-mead", "particle-swarm")


def in_numpy(x):
    """-xᵀAx as a NumPy number."""
    return -(x.numpy() @ A.numpy() @ x.numpy())


def trace(X):
    return -(X * (A @ X)).sum((-2, -1))


@pytest.mark.parametrize("method", METHODS)
def test_a_cost_in_numpy(method):
    x0 = Sphere().random_point(4, dtype=F64)
    result = minimize(in_numpy, x0, Sphere(), method=method)
    assert result.success, result.message
    assert result.fun == pytest.approx(-5, abs=1e-7)
    assert np.isnan(result.grad_norm)
    assert result.njev == result.nhev == 0
    assert result.nfev > result.nit
    assert "Converged" in result.message
    assert Sphere().violation(result.x) < 1e-14
    falls = [row["fun"] for row in result.history]
    assert falls == sorted(falls, reverse=True)


CASES = [
    (Stiefel(), (4, 2), trace, -8.0),
    (Grassmann(), (4, 2), trace, -8.0),
    (SpecialOrthogonal(), (3, 3), lambda X: -(X * A[:3, :3]).sum((-2, -1)), -10.0),
    (SPD("affine"), (2, 2), lambda X: X.diagonal().sum() - torch.logdet(X), 2.0),
    (Positive(), (3,), lambda x: (x.log() - 1).square().sum(), 0.0),
    (Euclidean(), (2,), lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, 0.0),
    (Euclidean(), (1,), lambda x: (x - 3).abs().sum(), 0.0),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("manifold", "shape", "cost", "minimum"), CASES, ids=[f"{m}-{s}" for m, s, *_ in CASES]
)
def test_known_minima(manifold, shape, cost, minimum, method):
    gen = torch.Generator().manual_seed(1)
    x0 = manifold.random_point(*shape, generator=gen, dtype=F64)
    result = minimize(cost, x0, manifold, method=method)
    assert result.success, result.message
    assert result.fun == pytest.approx(minimum, abs=1e-7)
    assert (manifold.violation(result.x) <= manifold.tolerance(result.x)).all()


def test_nelder_mead_on_flat_space_needs_about_as_many_calls_as_that_of_scipy():
    optimize = pytest.importorskip("scipy.optimize")
    x0 = np.array([-1.2, 1.0])
    theirs = optimize.minimize(
        optimize.rosen, x0, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-14}
    )
    ours = minimize(lambda x: optimize.rosen(x.numpy()), torch.from_numpy(x0), method="nelder-mead")
    np.testing.assert_allclose(ours.x.numpy(), 1, atol=1e-5)
    assert ours.nfev < 4 * theirs.nfev  # it begins again once at least


def test_a_swarm_leaves_a_local_minimum():
    """Two wells on a sphere; the start is in the shallow one."""
    deep, shallow = torch.eye(3, dtype=F64)[:2]

    def cost(x):
        return -2 * (8 * (x @ deep - 1)).exp() - (8 * (x @ shallow - 1)).exp()

    local = minimize(cost, shallow, Sphere(), method="nelder-mead")
    swarm = minimize(cost, shallow, Sphere(), method="particle-swarm")
    assert local.fun == pytest.approx(-1, abs=1e-2)
    assert swarm.fun == pytest.approx(-2, abs=1e-2)
    near = minimize(
        cost, shallow, Sphere(), method="particle-swarm", options={"spread": 0.1, "particles": 5}
    )
    assert near.fun == pytest.approx(-1, abs=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_batches_equal_one_by_one_where_random_numbers_do_not_matter(method):
    """Each problem converges by itself, to the minimum of its own."""
    matrices = torch.stack([A, 2 * A, A + 3 * torch.eye(4, dtype=F64)])
    x0 = Sphere().random_point(3, 4, dtype=F64)
    result = minimize(
        lambda x: -(x.unsqueeze(-2) @ matrices @ x.unsqueeze(-1)).flatten(),
        x0,
        Sphere(),
        method=method,
        batch_ndim=1,
    )
    assert result.success.all()
    np.testing.assert_allclose(result.fun, [-5, -10, -8], rtol=1e-7)
    assert len(set(result.nit)) > 1
    assert result.nfev.min() < result.nfev.max()  # those that are done are not counted


def test_one_direction_is_a_batch_too():
    """One problem by itself, and in a batch of one: the same numbers."""
    x0 = Sphere().random_point(4, dtype=F64)
    alone = minimize(in_numpy, x0, Sphere(), method="nelder-mead")
    batch = minimize(
        lambda x: -(x @ A * x).sum(-1), x0[None], Sphere(), method="nelder-mead", batch_ndim=1
    )
    assert batch.fun[0] == pytest.approx(alone.fun, rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_module_and_a_cost_that_is_infinite_somewhere(method):
    module = nn.Linear(3, 1, bias=False).double()
    riemopt.constrain(module, "weight", Sphere())

    def cost():
        w = module.weight.detach()
        return float("nan") if w[0, 0] < 0 else float((w * torch.tensor([1.0, 2.0, 2.0])).sum())

    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.6, 0.8, 0.0]]))
    result = minimize(cost, module, method=method, options={"maxiter": 2000})
    w = module.weight.detach()
    assert torch.equal(result.x["weight"], w)
    assert w[0, 0] >= 0
    assert result.fun == pytest.approx(-(8**0.5), abs=1e-3)  # at (0, -1, -1)/√2, on the edge


def test_a_basis_is_orthonormal_in_the_metric():
    for manifold, shape in ((Stiefel(metric="canonical"), (4, 2)), (SPD("affine"), (3, 3))):
        x = manifold.random_point(2, *shape, dtype=F64)
        points = Points([x], [manifold], batch_ndim=1)
        at = points.pack([x])
        basis = orthonormal_basis(points, at, torch.Generator().manual_seed(0))
        d = points.dim()
        assert basis.shape[:2] == (d, 2)
        gram = torch.stack([points.inner(at, b.expand(basis.shape), basis) for b in basis])
        expected = torch.eye(d, dtype=F64).unsqueeze(-1).expand(d, d, 2)
        torch.testing.assert_close(gram, expected, atol=1e-9, rtol=0)


def test_manifolds_without_log_are_searched_by_projection():
    class NoLog(Sphere):
        log = Manifold.log

    x0 = Sphere().random_point(4, dtype=F64)
    result = minimize(in_numpy, x0, NoLog(), method="particle-swarm")
    assert result.fun == pytest.approx(-5, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_tol_seed_and_limits_have_their_effect(method):
    x0 = Sphere().random_point(4, dtype=F64)

    def run(**options):
        return minimize(
            in_numpy, x0, Sphere(), method=method, tol=options.pop("tol", None), options=options
        )

    assert run(tol=1e-3).nfev < run(tol=1e-9).nfev
    assert run(seed=1).nfev == run(seed=1).nfev
    assert not torch.equal(run(seed=1).x, run(seed=2).x)
    short = run(maxiter=3)
    assert short.nit == 3
    assert short.status == 1
    assert "nan" not in short.message


REFUSED = [
    ("nelder-mead", {"size": 0.0}, "size > 0"),
    ("nelder-mead", {"ftol": -1.0}, "ftol > 0"),
    ("nelder-mead", {"gtol": 1e-3}, "knows nothing; give tol"),
    ("particle-swarm", {"particles": 1}, "particles ≥ 2"),
    ("particle-swarm", {"spread": 0.0}, "spread > 0"),
    ("particle-swarm", {"patience": 0}, "patience ≥ 1"),
]


@pytest.mark.parametrize(("method", "options", "text"), REFUSED)
def test_what_makes_no_sense_is_refused(method, options, text):
    with pytest.raises(ValueError, match=text):
        minimize(in_numpy, torch.eye(4, dtype=F64)[0], Sphere(), method=method, options=options)


def test_methods_are_values_too():
    x0 = Sphere().random_point(4, dtype=F64)
    for method in (NelderMead(size=0.5), ParticleSwarm(particles=10, seed=3)):
        assert minimize(in_numpy, x0, Sphere(), method=method).fun == pytest.approx(-5, abs=1e-6)

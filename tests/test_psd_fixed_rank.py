"""Matrices YYᴴ of low rank: values from elsewhere, other factors, low rank, accuracy, training."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD, linalg
from riemopt.manifolds import SPD, Elliptope, PSDFixedRank, Spectrahedron, Sphere, Stiefel
from riemopt.manifolds.factors import Factors
from riemopt.testing.surfaces import violation_sees_normal_displacements
from tests.bounds import wide
from tests.manifold_cases import EXACT, chequered, generator, name
from tests.test_law_cost import law_makes_nothing_large

exact = pytest.mark.parametrize("dtype", EXACT, ids=name)
SETS = (PSDFixedRank, Elliptope, Spectrahedron)
over_sets = pytest.mark.parametrize("cls", SETS)


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def points(manifold, n, count=2, dtype=torch.float64):
    shape = (n, manifold.rank)
    return [
        manifold.random_point(*shape, dtype=dtype, generator=generator(i)) for i in range(count)
    ]


def rotation(k, dtype, seed=9):
    return Stiefel().random_point(k, k, dtype=dtype, generator=generator(seed))


# --- values from elsewhere ---------------------------------------------------------------------


def vertical_basis(y: Tensor) -> Tensor:
    """Real coordinates of all YΩ, `(2nk or nk, dim)`."""
    k = y.shape[-1]
    units = torch.eye(k * k, dtype=y.dtype).unflatten(-1, (k, k))
    turns = [a - a.mH for a in units]
    if y.is_complex():
        turns += [1j * (a + a.mH) for a in units]
    return torch.stack([coordinates(y @ a) for a in turns], -1)


def coordinates(a: Tensor) -> Tensor:
    return (torch.view_as_real(a) if a.is_complex() else a).flatten()


@exact
@over_sets
@pytest.mark.parametrize("k", [1, 3])
def test_projection_against_least_squares(cls, k, dtype):
    """What is left of a tangent vector of the total space when all YΩ are taken away."""
    m = cls(k)
    x, _ = points(m, 5, dtype=dtype)
    a = noise(5, k, seed=3, dtype=dtype)
    u = coordinates(m.total_space.proj_tangent(x, a))
    basis = vertical_basis(x).numpy()
    expected = u.numpy() - basis @ np.linalg.lstsq(basis, u.numpy(), rcond=1e-10)[0]
    np.testing.assert_allclose(coordinates(m.proj_tangent(x, a)), expected, atol=1e-12)


@exact
def test_pymanopt(dtype):
    manifolds = pytest.importorskip("pymanopt.manifolds")
    theirs = (manifolds.PSDFixedRankComplex if dtype.is_complex else manifolds.PSDFixedRank)(6, 3)
    m = PSDFixedRank(3)
    x, y = points(m, 6, dtype=dtype)
    a, g, h = (noise(6, 3, seed=i, dtype=dtype) for i in range(3, 6))
    u = m.random_tangent(x, generator=generator(2))
    X, Y, A, G, H, U = (b.numpy() for b in (x, y, a, g, h, u))
    pairs = [
        (m.proj_tangent(x, a), theirs.projection(X, A)),
        (m.ehess2rhess(x, g, h, u), theirs.euclidean_to_riemannian_hessian(X, G, H, U)),
        (m.exp(x, u), theirs.exp(X, U)),
        (m.retract(x, u), theirs.retraction(X, U)),
        (m.log(x, y), theirs.log(X, Y)),
        (m.dist(x, y), theirs.dist(X, Y)),
        (m.inner(x, u, a), theirs.inner_product(X, U, A)),
    ]
    for mine, other in pairs:
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-8)
    assert m.dim((6, 3), is_complex=dtype.is_complex) == theirs.dim


def test_pymanopt_on_the_elliptope():
    """Gradient and retraction; its projection is no projection (of version 2.2.1)."""
    manifolds = pytest.importorskip("pymanopt.manifolds")
    theirs, m = manifolds.Elliptope(6, 3), Elliptope(3)
    x, _ = points(m, 6)
    S, u = noise(6, 6), m.random_tangent(x, generator=generator(2))
    g = 2 * (S + S.T) @ x
    X, G, U = (b.numpy() for b in (x, g, u))
    gradient = theirs.euclidean_to_riemannian_gradient(X, G)
    np.testing.assert_allclose(m.egrad2rgrad(x, g), gradient, atol=1e-8)
    np.testing.assert_allclose(m.retract(x, u), theirs.retraction(X, U), atol=1e-8)


@exact
@pytest.mark.parametrize("k", [1, 2, 4])
def test_distances_against_singular_values(k, dtype):
    """Of Bures, and for full rank those of `SPD`; the angle where traces are 1."""
    m, S = PSDFixedRank(k), Spectrahedron(k)
    x, y = points(m, 4, dtype=dtype)
    overlap = torch.linalg.svdvals(y.mH @ x).sum()
    bures = (x.abs().square().sum() + y.abs().square().sum() - 2 * overlap).sqrt()
    torch.testing.assert_close(m.dist(x, y), bures)
    if k == 4:
        torch.testing.assert_close(m.dist(x, y), SPD().dist(x @ x.mH, y @ y.mH))
    unit = [a / a.abs().square().sum().sqrt() for a in (x, y)]
    angle = torch.linalg.svdvals(unit[1].mH @ unit[0]).sum().arccos()
    torch.testing.assert_close(S.dist(*unit), angle)


@pytest.mark.parametrize("dtype", EXACT, ids=name)
def test_rank_one_is_projective_space(dtype):
    """Pure states: the distance of Fubini and Study."""
    S, sphere = Spectrahedron(1), Sphere(dim=(-2, -1))
    x, y = points(S, 4, dtype=dtype)
    overlap = (y.mH @ x).squeeze()
    torch.testing.assert_close(S.dist(x, y), overlap.abs().arccos())
    turned = y * (overlap / overlap.abs())
    torch.testing.assert_close(S.log(x, y), sphere.log(x, turned))


VALUES = [(1.0, 1, 1), (3.0, 1, 1e-3), (1.0, 1, 0), (1.0, 0, 0), (0.0, 0, 0)]


@exact
@pytest.mark.parametrize("values", VALUES, ids=str)
@pytest.mark.parametrize("recorded", [False, True])
def test_the_equation_of_lyapunov(values, dtype, recorded):
    """Against scipy; of singular matrices finite, and right where it is determined."""
    q = rotation(3, dtype)
    g = (q * torch.tensor(values).double()) @ q.mH
    omega = linalg.skew(noise(3, 3, seed=1, dtype=dtype))
    k = g @ omega + omega @ g
    with torch.set_grad_enabled(recorded):
        found = linalg.skew_lyapunov(g, k)
    torch.testing.assert_close(g @ found + found @ g, k, rtol=0, atol=1e-13)
    torch.testing.assert_close(found, -found.mH, rtol=0, atol=0)
    if min(values) > 0:
        expected = scipy.linalg.solve_sylvester(g.numpy(), g.numpy(), k.numpy())
        np.testing.assert_allclose(found, expected, atol=1e-11)


# --- other factors, low rank -------------------------------------------------------------------


@exact
@over_sets
def test_nothing_depends_on_the_factor(cls, dtype):
    """And what is at x turns with it."""
    m = cls(3)
    x, y = points(m, 5, dtype=dtype)
    q, u = rotation(3, dtype), m.random_tangent(x, generator=generator(2))
    close = torch.testing.assert_close
    close(m.invariants(x @ q), m.invariants(x))
    close(m.proj_tangent(x @ q, u @ q), u @ q)
    close(m.retract(x @ q, u @ q), m.retract(x, u) @ q)
    close(m.exp(x @ q, u @ q), m.exp(x, u) @ q)
    if cls is not Elliptope:
        close(m.log(x, y @ q), m.log(x, y))
        close(m.log(x @ q, y), m.log(x, y) @ q)
        close(m.dist(x @ q, y), m.dist(x, y))
        assert m.dist(x, x @ q) < 1e-14
        close(m.invariants(m.exp(x, m.log(x, y))), m.invariants(y))


@over_sets
@pytest.mark.parametrize("dtype", [torch.float32, *EXACT], ids=name)
def test_nothing_breaks_at_lower_rank(cls, dtype):
    """Where steps may end."""
    m = cls(3)
    column = noise(5, 1, dtype=dtype)
    low = m.total_space.project(torch.cat([column, 0 * column, -2 * column], -1))
    u, a = noise(5, 3, seed=1, dtype=dtype), noise(5, 3, seed=2, dtype=dtype)
    eps = torch.finfo(dtype).eps
    once = m.proj_tangent(low, u)
    W = low.mH @ once
    assert (W - W.mH).abs().max() < 50 * eps
    assert (m.proj_tangent(low, once) - once).abs().max() < 50 * eps
    assert m.retract(low, once).isfinite().all()
    assert m.ehess2rhess(low, u, a, once).isfinite().all()
    assert m.violation(low) <= m.tolerance(low)
    if cls is not Elliptope:
        x, _ = points(m, 5, dtype=dtype)
        squares = sum(p.abs().square().sum() for p in (x, low))
        bures = (squares - 2 * torch.linalg.svdvals(low.mH @ x).sum()).sqrt()
        there = bures if cls is PSDFixedRank else 2 * (bures / 2).arcsin()
        torch.testing.assert_close(m.dist(x, low), there)
        torch.testing.assert_close(m.dist(low, x), there)


@over_sets
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128, torch.bfloat16], ids=name)
def test_a_start_has_full_rank(cls, dtype):
    """Zeros, ones, one row, one column, two equal ones; and what has it is the nearest point."""
    m = cls(2)
    row, column = torch.zeros(2, 4, 2, dtype=dtype), torch.zeros(2, 4, 2, dtype=dtype)
    row[:, 1], column[..., 1] = 3, 2
    for a in (torch.zeros(2, 4, 2), torch.ones(2, 4, 2), row, column, 1e30 * row):
        y = m.project(a.to(dtype))
        assert m.violation(y).le(m.tolerance(y)).all()
        sigma = torch.linalg.svdvals(wide(y))
        assert (sigma[..., 1] > 5e-3 * sigma[..., 0]).all()
    a = noise(4, 2).to(dtype)
    assert (
        torch.equal(m.project(a), m.total_space.project(a).contiguous()) or cls is not PSDFixedRank
    )
    torch.testing.assert_close(m.project(a), m.total_space.project(a).contiguous())


# --- accuracy and derivatives ------------------------------------------------------------------


@pytest.mark.parametrize("cls", [PSDFixedRank, Spectrahedron])
@pytest.mark.parametrize("apart", [1e-6, 1e-4, 1e-2, 0.3])
def test_float32_distances_keep_their_digits(cls, apart):
    """Of the same rounded points, to 5e-6, though Y has turned as far as it has moved."""
    m = cls(3)
    x = m.random_point(20, 6, 3, generator=generator(0))
    y = m.total_space.retract(x, apart * m.total_space.proj_tangent(x, noise(20, 6, 3).float()))
    exact = m.dist(x.double(), y.double())
    assert ((m.dist(x, y).double() - exact).abs() <= 5e-6 * exact).all()
    error = (m.log(x, y).double() - m.log(x.double(), y.double())).abs()
    assert error.amax() <= 1e-5 * float(exact.max())


CASES = ["generic", "coincident", "turned", "equal singular values"]


@pytest.mark.sampled(2)
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@chequered("case, dtype", CASES, EXACT)
@pytest.mark.parametrize("cls", [PSDFixedRank, Spectrahedron])
def test_derivatives(cls, dtype, case):
    m = cls(2)
    x, y = points(m, 3, dtype=dtype)
    if case == "equal singular values":
        x = m.total_space.project(torch.eye(3, 2, dtype=dtype))
    y = {"coincident": x.clone(), "turned": x @ rotation(2, dtype)}.get(case, y)
    w, u = noise(3, 2, seed=3, dtype=dtype), m.random_tangent(x, generator=generator(2))

    def forms(s, t):
        a, b = x + s * w, y + t * w
        return m.log(a, b), m.exp(a, t * u), m.proj_tangent(a, b), m.inner(a, *[m.log(a, b)] * 2)

    at = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(forms, at, check_forward_ad=True)
    if not dtype.is_complex:
        assert torch.autograd.gradgradcheck(forms, at)


def test_the_law_sees_a_violation_that_is_blind_to_rows():
    """Points of the total space are rows; all of one factor must be looked at."""

    class OneRow(Factors):
        rank = 2
        total_space = Sphere()

        def violation(self, x):
            return super().violation(x[..., :1, :])

        def dim(self, shape, *, is_complex=False):
            return Elliptope(2).dim(shape)

    x, _ = points(Elliptope(2), 4)

    def excess(manifold):
        return violation_sees_normal_displacements(manifold, x, generator(1)).excess()

    assert excess(Elliptope(2)) <= 1 < excess(OneRow())


@over_sets
def test_no_large_matrix(cls):
    law_makes_nothing_large(cls(3), cls(3).random_point(500, 3))


# --- training ----------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda p, lr: RiemannianSGD([p], lr=lr, momentum=0.9),
    "Adam": lambda p, lr: RiemannianAdam([p], lr=lr),
    "point": lambda p, lr: RiemannianAdam([p], lr=lr, second_moment="point"),
}
over_optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS)
over_runs = chequered("optimizer, start", OPTIMIZERS, ["random", "zeros", "ones"])


def trained(manifold, shape, loss, optimizer, start, lr, steps=300):
    dtype = torch.float64
    first = {
        "random": manifold.random_point(*shape, dtype=dtype, generator=generator(1)),
        "zeros": torch.zeros(shape, dtype=dtype),
        "ones": torch.ones(shape, dtype=dtype),
    }[start]
    y = ManifoldParameter(first, manifold)
    step = OPTIMIZERS[optimizer](y, lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(step, steps)
    for _ in range(steps):
        step.zero_grad()
        loss(y @ y.mH).backward()
        step.step()
        schedule.step()
    assert manifold.violation(y.detach()) <= manifold.tolerance(y.detach())
    return (y @ y.mH).detach()


@over_runs
@pytest.mark.parametrize("rank", [1, 2], ids=["lower rank", "its rank"])
def test_a_matrix_is_found(optimizer, start, rank):
    factor = noise(5, rank, seed=4)
    target = factor @ factor.mT
    lr = 0.01 if optimizer == "SGD" else 0.1
    X = trained(
        PSDFixedRank(2), (5, 2), lambda X: (X - target).square().sum() / 4, optimizer, start, lr
    )
    # Towards a lower rank the error falls like 1/steps.
    torch.testing.assert_close(X, target, rtol=0, atol=0.05 if rank == 1 else 1e-3)


@over_runs
def test_the_relaxation_of_max_cut(optimizer, start):
    """Of a cycle of five: 5(1 + cos(π/5))/2, at rank 2 (Goemans & Williamson 1995, §5)."""
    n = 5
    cycle = torch.roll(torch.eye(n).double(), 1, 0)
    A = cycle + cycle.mT
    X = trained(Elliptope(3), (n, 3), lambda X: (A * X).sum() / 4, optimizer, start, 0.1)
    cut = (A * (1 - X)).sum() / 4
    assert abs(cut - n * (1 + math.cos(math.pi / n)) / 2) < 1e-5


@over_optimizers
def test_the_nearest_correlation_matrix(optimizer):
    """The example of Higham (2002), whose solution has rank 2."""
    A = torch.tensor([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]]).double()
    X = trained(Elliptope(2), (3, 2), lambda X: (X - A).square().sum(), optimizer, "random", 0.05)
    expected = torch.tensor([[1.0, 0.7607, 0.1573], [0.7607, 1, 0.7607], [0.1573, 0.7607, 1]])
    torch.testing.assert_close(X, expected.double(), rtol=0, atol=1e-4)


@over_runs
def test_the_largest_eigenvalue(optimizer, start):
    """At a pure state, of lower rank."""
    A = linalg.sym(noise(5, 5, seed=2))
    X = trained(Spectrahedron(2), (5, 2), lambda X: -(A * X).sum(), optimizer, start, 0.1)
    assert abs((A * X).sum() - torch.linalg.eigvalsh(A)[-1]) < 1e-4


@pytest.mark.parametrize("cls", SETS)
def test_a_thousand_float32_steps_stay_on_the_surface(cls):
    y = ManifoldParameter(cls(3).random_point(4, 6, 3, generator=generator(0)), cls(3))
    optimizer, gen = RiemannianAdam([y], lr=0.02), generator(1)
    for _ in range(1000):
        y.grad = torch.randn(y.shape, generator=gen)
        optimizer.step()
    x = y.detach()
    assert bool((y.manifold.violation(x.double()) <= y.manifold.tolerance(x)).all())
    assert torch.linalg.cond(x).max() < 1e4

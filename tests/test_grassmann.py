"""Subspaces: values from elsewhere, other bases, accuracy, derivatives, training."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD
from riemopt.manifolds import Grassmann, LevelSet, Sphere, Stiefel
from tests.manifold_cases import EXACT, generator, name

G = Grassmann()
SHAPES = ((3, 1), (5, 2), (5, 4), (2, 6))
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
exact = pytest.mark.parametrize("dtype", EXACT, ids=name)


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def pair(shape, dtype=torch.float64):
    return [G.random_point(*shape, dtype=dtype, generator=generator(i)) for i in (0, 1)]


def columns(x):
    """As n×p with p ≤ n."""
    return x.mH if x.shape[-2] < x.shape[-1] else x


def other_basis(x, seed=9):
    """Of the same subspace."""
    p = min(x.shape[-2:])
    q = Stiefel().random_point(p, p, dtype=x.dtype, generator=generator(seed))
    y = columns(x) @ q
    return y if y.shape == x.shape else y.mH


# --- values from elsewhere ---------------------------------------------------------------------


@exact
@shapes
def test_distances_are_scipys(shape, dtype):
    x, y = pair(shape, dtype)
    angles = scipy.linalg.subspace_angles(*(columns(a).resolve_conj().numpy() for a in (x, y)))
    np.testing.assert_allclose(G.dist(x, y), np.linalg.norm(angles), atol=1e-13)
    np.testing.assert_allclose(G.norm(x, G.log(x, y)), np.linalg.norm(angles), atol=1e-12)


@exact
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_pymanopt(shape, dtype):
    manifolds = pytest.importorskip("pymanopt.manifolds")
    theirs = (manifolds.ComplexGrassmann if dtype.is_complex else manifolds.Grassmann)(*shape)
    x, y = pair(shape, dtype)
    u = 0.5 * G.random_tangent(x, generator=generator(2))
    g, h = (noise(*shape, seed=i, dtype=dtype) for i in (3, 4))
    g = x @ (x.mH @ g + g.mH @ x) + G.proj_tangent(x, g)  # as of a loss that is well defined
    X, Y, U, A, H = (a.numpy() for a in (x, y, u, g, h))
    close = {"atol": 1e-8, "rtol": 0}
    np.testing.assert_allclose(G.proj_tangent(x, h), theirs.projection(X, H), **close)
    np.testing.assert_allclose(G.retract(x, u), theirs.retraction(X, U), **close)
    hess = theirs.euclidean_to_riemannian_hessian(X, A, H, U)
    np.testing.assert_allclose(G.ehess2rhess(x, g, h, u), hess, **close)
    np.testing.assert_allclose(G.dist(x, y), theirs.dist(X, Y), **close)
    np.testing.assert_allclose(G.log(x, y), theirs.log(X, Y), **close)
    end = torch.from_numpy(theirs.exp(X, U))  # a basis of the same subspace
    torch.testing.assert_close(G.invariants(G.exp(x, u)), G.invariants(end), rtol=0, atol=1e-8)


def test_lines_are_points_of_the_sphere_up_to_sign():
    """Log, exp and transport are those of the sphere where the signs agree."""
    sphere, (x, y) = Sphere(dim=-2), pair((4, 1))
    y = y * torch.sign((x * y).sum())
    v = G.random_tangent(x, generator=generator(2))
    torch.testing.assert_close(G.dist(x, -y), sphere.dist(x, y).squeeze())
    torch.testing.assert_close(G.log(x, -y), sphere.log(x, y))
    torch.testing.assert_close(G.exp(x, v), sphere.exp(x, v))
    carried = sphere.parallel_transport(x, y, v)
    torch.testing.assert_close(G.parallel_transport(x, y, v), carried)
    torch.testing.assert_close(G.parallel_transport(x, -y, v), -carried)


def test_the_level_set_has_the_same_geodesics():
    """Stiefel's, by a `LevelSet`, whose projection at a horizontal vector is itself."""
    x, y = pair((4, 2))
    level = LevelSet(lambda a: a.mT @ a - torch.eye(2, dtype=a.dtype), dense_up_to=0)
    u = G.log(x, y)
    torch.testing.assert_close(level.proj_tangent(x, u), u)
    step = 1e-3 * u
    torch.testing.assert_close(level.retract(x, step), G.exp(x, step), rtol=0, atol=1e-8)


# --- other bases -------------------------------------------------------------------------------


@exact
@shapes
def test_nothing_depends_on_the_basis(shape, dtype):
    """Of y; and what is at x turns with the basis of x."""
    x, y = pair(shape, dtype)
    z = other_basis(y)
    v = G.random_tangent(x, generator=generator(2))
    torch.testing.assert_close(G.invariants(z), G.invariants(y))
    torch.testing.assert_close(G.dist(x, z), G.dist(x, y))
    torch.testing.assert_close(G.log(x, z), G.log(x, y))
    assert G.dist(y, z) < 1e-14
    torch.testing.assert_close(G.log(y, z), torch.zeros_like(y), rtol=0, atol=1e-14)
    torch.testing.assert_close(G.dist(G.exp(x, G.log(x, z)), y), G.dist(y, y), rtol=0, atol=1e-13)
    there = G.parallel_transport(x, y, v)
    torch.testing.assert_close(G.norm(z, G.parallel_transport(x, z, v)), G.norm(y, there))
    torch.testing.assert_close(
        G.parallel_transport(x, z, v), other_basis(there), rtol=0, atol=1e-12
    )


# --- accuracy and derivatives ------------------------------------------------------------------


def subspaces_at(angles, n, dtype=torch.float64, seed=0):
    """Two of these principal angles."""
    p, theta = len(angles), torch.tensor(angles, dtype=torch.float64)
    frame = Stiefel().random_point(n, 2 * p, dtype=torch.float64, generator=generator(seed))
    x, across = frame[:, :p], frame[:, p:]
    return x.contiguous().to(dtype), (x * theta.cos() + across * theta.sin()).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
@pytest.mark.parametrize("size", [1e-5, 1e-3, 0.1, 1.0, 1.5, math.pi / 2])
def test_every_angle_keeps_its_digits(size, dtype):
    """Of acos, half of the digits of small angles are rounding."""
    x, y = subspaces_at([size, size / 3], 6, dtype)
    eps = torch.finfo(dtype).eps
    exact = G.dist(x.double(), y.double())
    assert (exact - math.hypot(size, size / 3)).abs() < 4 * eps
    assert (G.dist(x, y).double() - exact).abs() <= 8 * eps * size
    if size < math.pi / 2:  # where the way is unique
        found, expected = G.log(x, y).double(), G.log(x.double(), y.double())
        assert (found - expected).abs().max() <= 20 * eps * size / math.cos(size)
        assert (G.exp(x, G.log(x, y)) - y).abs().max() <= 50 * eps


@pytest.mark.parametrize("angles", [(0.0, 0.0), (0.5, 0.5), (1e-9, 1e-9), (1.0, 0.0), (0.3, 1.2)])
def test_derivatives(angles):
    """Right at coincident subspaces, and where angles are equal."""
    x, y = subspaces_at(angles, 5)
    u = G.random_tangent(x, generator=generator(1))
    w = 0.1 * noise(5, 2, seed=2)

    def forms(t):
        z = Stiefel().exp(y, t * Stiefel().proj_tangent(y, w))
        return (
            G.log(x, z),
            G.exp(x, G.log(x, y) + t * u),
            G.parallel_transport(x, z, u),
        )

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(forms, t)
    assert torch.autograd.gradgradcheck(forms, t)
    if min(angles) > 0.1:
        assert torch.autograd.gradcheck(
            lambda t: G.dist(x, Stiefel().exp(y, t * Stiefel().proj_tangent(y, w))), t
        )


def test_second_derivative_of_half_the_squared_distance():
    """At y = x the Hessian of ½·dist² is the identity."""
    for dtype in EXACT:
        x, _ = pair((5, 2), dtype)
        u = G.random_tangent(x, generator=generator(1))

        def half(t, x=x, u=u):
            v = G.log(x, G.exp(x, t * u))
            return G.inner(x, v, v.clone()) / 2

        found = torch.func.hessian(half)(torch.zeros((), dtype=torch.float64))
        torch.testing.assert_close(found, torch.linalg.matrix_norm(u) ** 2)


# --- training ----------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda p: RiemannianSGD([p], lr=0.02, momentum=0.9),
    "adam": lambda p: RiemannianAdam([p], lr=0.1),
    "point": lambda p: RiemannianAdam([p], lr=0.1, second_moment="point"),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("start", ["random", "zeros", "one column", "nearly the worst"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("wide", [False, True], ids=["tall", "wide"])
def test_it_finds_principal_components(optimizer, start, wide):
    """The subspace of the three largest eigenvalues."""
    eigenvalues = torch.tensor([5.0, 4, 3, 1, 0.5, 0.2, 0.1])
    vectors = Stiefel().random_point(7, 7, generator=generator(0))
    A, best, worst = vectors * eigenvalues @ vectors.mT, vectors[:, :3], vectors[:, 4:]
    first = {
        "random": G.random_point(7, 3, generator=generator(1)),
        "zeros": torch.zeros(7, 3),
        "one column": noise(7, 1, seed=3, dtype=torch.float32).expand(7, 3),
        "nearly the worst": worst + 1e-3 * noise(7, 3, seed=2, dtype=torch.float32),
    }[start]
    x = ManifoldParameter((first.mT if wide else first).contiguous(), G)
    make = OPTIMIZERS[optimizer](x)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(make, 400)
    for _ in range(400):
        make.zero_grad()
        X = x.mT if wide else x
        (-(X.mT @ A @ X).trace()).backward()
        make.step()
        schedule.step()
    found = x.detach().mT if wide else x.detach()
    assert G.dist(found, best) < 1e-3
    assert G.violation(x.detach()) <= G.tolerance(x.detach())

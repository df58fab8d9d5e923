"""Points of many entries in single precision: on the surface to rounding, and reported as it is."""

import math

import pytest
import torch

from riemopt import RiemannianSGD, linalg
from riemopt.manifolds import (
    AffineSubspace,
    FixedRank,
    FixedSum,
    Flattened,
    Product,
    Sphere,
    Stiefel,
)
from tests.bounds import wide
from tests.manifold_cases import generator, name

N = 100_003  # no multiple of a block

# Manifold, shape, and how far off a point may be: for sums in units of the entries' total.
CASES = [
    (Sphere(), (2, N), 2e-7),
    (Sphere(dim=0), (N, 2), 2e-7),
    (Sphere(dim=None), (301, 333), 2e-7),
    (Sphere(dim=(-3, -1)), (301, 2, 167), 2e-7),
    (Stiefel(), (N, 3), 5e-7),
    (Stiefel(), (3, N), 5e-7),
    (Stiefel("qr"), (N, 2), 5e-7),
    (Stiefel("cayley"), (N, 2), 5e-7),
    (FixedRank(2), (N, 3), 5e-7),
    (FixedRank(1), (3, N), 5e-7),
    (Flattened(Stiefel()), (3, 2, 100, 167), 5e-7),
    (FixedSum(), (2, N), 6e-5 / N),
    (FixedSum(dim=0, total=3.0), (N, 2), 6e-5 / N),
    (AffineSubspace(torch.ones(1, N), 1.0), (N,), 4e-4 / N),
    (AffineSubspace(torch.randn(3, N, generator=generator(0)), 1.0), (2, N), 1e-7),
    (Product([(Sphere(), N), (FixedSum(), N)]), (2 * N,), 2e-7),
]
over_cases = pytest.mark.parametrize(
    ("manifold", "shape", "bound"), CASES, ids=lambda value: str(value)[:40]
)
over_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=name)


def assert_on_surface(manifold, x, bound):
    """By the same check in double precision, with which the report agrees."""
    exact = manifold.violation(wide(x))
    assert bool((exact <= bound).all()), f"off by {exact.max():.3g}, bound {bound:.3g}"
    torch.testing.assert_close(wide(manifold.violation(x)).real, exact, rtol=0.01, atol=bound / 100)


@over_dtypes
@over_cases
def test_project_retract_and_report(manifold, shape, bound, dtype):
    gen = generator(0)
    x = manifold.project(torch.randn(shape, generator=gen, dtype=dtype))
    assert_on_surface(manifold, x, bound)
    for size in (1e-4, 0.3):
        u = manifold.proj_tangent(x, torch.randn(shape, generator=gen, dtype=dtype))
        x = manifold.retract(x, size * u / linalg.norm(u, tuple(range(-u.ndim, 0))))
        assert_on_surface(manifold, x, bound)


@over_cases
def test_many_steps_of_an_optimizer(manifold, shape, bound):
    x = torch.nn.Parameter(manifold.project(torch.randn(shape, generator=generator(0))))
    optimizer = RiemannianSGD([{"params": [x], "manifold": manifold}], lr=1e-2, momentum=0.9)
    g = torch.randn(shape, generator=generator(1))
    for k in range(30):
        x.grad = g if k % 2 else g.square()
        optimizer.step()
    assert_on_surface(manifold, x.detach(), bound)


def test_entries_of_large_mean():
    """Rounding would be to one side for all entries of one size."""
    for scale, mean in ((1.0, 5.0), (3.0, -0.1), (1e-3, 1.0)):
        a = scale * torch.randn(10**6, generator=generator(0)) + mean
        y = FixedSum().project(a)
        assert abs(y.double().sum().item()) <= 6e-5 * max(1, scale)
        nearest = a.double() - a.double().mean()
        assert (y - nearest).abs().max() <= 2 * torch.finfo(torch.float32).eps * abs(a).max()


@pytest.mark.parametrize("n", [linalg.sums.LONG, linalg.sums.LONG + 1, 2**20 + 5])
@over_dtypes
def test_sums_are_those_of_double_precision(n, dtype):
    a = torch.randn(n, 2, generator=generator(0), dtype=dtype)
    for dims in ((0,), (-2,), (-2, -1)):
        negative = tuple(d if d < 0 else d - 2 for d in dims)
        for keepdim in (False, True):
            expected = wide(a).sum(negative, keepdim=keepdim)
            found = wide(linalg.total(a, negative, keepdim=keepdim))
            torch.testing.assert_close(found, expected, rtol=0, atol=3e-7 * n**0.5 * math.log2(n))
            length = torch.linalg.vector_norm(wide(a), dim=negative, keepdim=keepdim)
            found = wide(linalg.norm(a, negative, keepdim=keepdim)).real
            torch.testing.assert_close(found, length, rtol=3e-7 if n > 1e6 else 1e-6, atol=0)
    expected = wide(a).mH @ wide(a)
    torch.testing.assert_close(wide(linalg.gram(a, a)), expected, rtol=1e-6, atol=1e-6 * n**0.5)


def test_derivatives_and_graphs():
    """What is done for long points has the derivatives of the formula, and fits in a graph."""
    a = torch.randn(9001, generator=generator(0), requires_grad=True)
    for manifold in (Sphere(), FixedSum()):
        (found,) = torch.autograd.grad(manifold.project(a)[0], a)
        b = a.detach().double().requires_grad_()
        (right,) = torch.autograd.grad(manifold.project(b)[0], b)
        torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-6)
        compiled = torch.compile(manifold.retract, fullgraph=True, backend="aot_eager")
        x, u = manifold.project(a).detach(), torch.zeros(9001)
        torch.testing.assert_close(compiled(x, u), manifold.retract(x, u))
        meta = manifold.retract(x.to("meta"), u.to("meta"))
        assert meta.shape == x.shape

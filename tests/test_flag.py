"""Nested subspaces: what they are the same as, other bases, nested principal components."""

import pytest
import torch

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD
from riemopt.manifolds import Flag, Grassmann, Stiefel
from tests.manifold_cases import EXACT, generator, name

close = torch.testing.assert_close
exact = pytest.mark.parametrize("dtype", EXACT, ids=name)


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


@exact
@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_one_block_is_a_grassmann_manifold(shape, dtype):
    flag, G = Flag(3), Grassmann()
    x = G.random_point(*shape, dtype=dtype, generator=generator(0))
    a, b = (noise(*shape, seed=i, dtype=dtype) for i in (1, 2))
    u = G.proj_tangent(x, noise(*shape, seed=3, dtype=dtype))
    close(flag.proj_tangent(x, a), G.proj_tangent(x, a))
    close(flag.ehess2rhess(x, a, b, u), G.ehess2rhess(x, a, b, u))
    close(flag.invariants(x), G.invariants(x))
    assert flag.dim(shape) == G.dim(shape)


def test_blocks_of_one_column_are_a_stiefel_manifold():
    """Up to the signs of the columns, which no small step changes."""
    flag = Flag(1, 1, 1)
    x = flag.random_point(5, 3, dtype=torch.float64, generator=generator(0))
    a, b = noise(5, 3, seed=1), noise(5, 3, seed=2)
    u = flag.random_tangent(x, generator=generator(3))
    close(flag.proj_tangent(x, a), Stiefel().proj_tangent(x, a))
    close(flag.ehess2rhess(x, a, b, u), Stiefel().ehess2rhess(x, a, b, u))
    assert flag.dim((5, 3)) == Stiefel().dim((5, 3))


@exact
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (4, 4)])
def test_horizontal_vectors_have_empty_diagonal_blocks(shape, dtype):
    """And rotations within blocks carry them along, and change neither projector."""
    flag = Flag(2, 1, 1)
    x = flag.random_point(*shape, dtype=dtype, generator=generator(0))
    u = flag.random_tangent(x, generator=generator(1))
    X, U = (a.mH if shape[0] < shape[1] else a for a in (x, u))
    W = X.mH @ U
    close(W, -W.mH)
    close(W[:2, :2], torch.zeros(2, 2, dtype=dtype), rtol=0, atol=1e-14)
    close(W.diagonal(), torch.zeros(4, dtype=dtype), rtol=0, atol=1e-14)
    one = torch.ones(1, 1, dtype=dtype)
    q = torch.block_diag(Stiefel().random_point(2, 2, dtype=dtype), one, -one)
    close(flag.invariants((X @ q).contiguous()), X @ torch.diag(ORDER.to(dtype)) @ X.mH)
    z, v = (X @ q).contiguous(), (U @ q).contiguous()
    close(flag.exp(z, v), flag.exp(X.contiguous(), U.contiguous()) @ q)
    close(flag.retract(z, v), flag.retract(X.contiguous(), U.contiguous()) @ q)


ORDER = torch.tensor([1.0, 1, 2, 3])

OPTIMIZERS = {
    "sgd": lambda p: RiemannianSGD([p], lr=0.02, momentum=0.9),
    "adam": lambda p: RiemannianAdam([p], lr=0.05),
}


@pytest.mark.parametrize("start", ["random", "zeros", "one column"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_finds_nested_principal_components(optimizer, start):
    """Σ tr(PᵢA) over the nested projectors: each is that of the largest eigenvalues."""
    flag = Flag(1, 2)
    eigenvalues = torch.tensor([6.0, 3, 3, 1, 0.5])
    vectors = Stiefel().random_point(5, 5, generator=generator(0))
    A = vectors * eigenvalues @ vectors.mT
    first = {
        "random": flag.random_point(5, 3, generator=generator(1)),
        "zeros": torch.zeros(5, 3),
        "one column": noise(5, 1, seed=3).float().expand(5, 3).contiguous(),
    }[start]
    x = ManifoldParameter(first, flag)
    make = OPTIMIZERS[optimizer](x)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(make, 500)
    for _ in range(500):
        make.zero_grad()
        line = x[:, :1]
        (-(line.mT @ A @ line).trace() - (x.mT @ A @ x).trace()).backward()
        make.step()
        schedule.step()
    found = x.detach()
    assert Grassmann().dist(found[:, :1], vectors[:, :1]) < 1e-3
    assert Grassmann().dist(found, vectors[:, :3]) < 1e-3
    assert flag.violation(found) <= flag.tolerance(found)

"""`proj_tangent` is the orthogonal projection on the tangent space of the surface."""

import math

import torch
from hypothesis import given
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from tests.bounds import assert_close, length, rounding
from tests.laws import ambient, batch_shape, real_inner
from tests.manifold_cases import EXACT, first_of_its_metric, generator, over, point, seeds
from tests.slopes import assert_order


def law_projection_is_linear(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """P(au + bv) = aPu + bPv for real a, b."""
    u, v = ambient(x, gen), ambient(x, gen)
    together = manifold.proj_tangent(x, 0.75 * u - 0.5 * v)
    apart = 0.75 * manifold.proj_tangent(x, u) - 0.5 * manifold.proj_tangent(x, v)
    assert_close(manifold, together, apart, length(manifold, u) + length(manifold, v))


def law_projection_is_idempotent(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """P(Pu) = Pu."""
    u = ambient(x, gen)
    once = manifold.proj_tangent(x, u)
    assert_close(manifold, manifold.proj_tangent(x, once), once, length(manifold, u))


def law_projection_is_self_adjoint(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """Re⟨Pu, v⟩ = Re⟨u, Pv⟩, the ambient inner product of whole tensors."""
    u, v = ambient(x, gen), ambient(x, gen)
    left = real_inner(manifold.proj_tangent(x, u), v)
    right = real_inner(u, manifold.proj_tangent(x, v))
    scale = (length(manifold, u) * length(manifold, v)).sum()
    assert (left - right).abs() <= rounding(manifold, x) * scale


def law_projection_has_rank_dim(manifold: Manifold, x: Tensor) -> None:
    """The rank of u ↦ Pu, over the reals, is `dim` for each point. Small `x` in double."""
    basis = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    if x.is_complex():
        basis = torch.cat([basis, 1j * basis])
    images = [manifold.proj_tangent(x, u) for u in basis]
    columns = [torch.view_as_real(u) if u.is_complex() else u for u in images]
    matrix = torch.stack([u.flatten() for u in columns])
    points = math.prod(batch_shape(manifold, x))
    dim = manifold.dim(x.shape, is_complex=x.is_complex())
    assert int(torch.linalg.matrix_rank(matrix, atol=0.5)) == points * dim


def law_projection_is_derivative_of_project(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """project(x + ta) = x + t·Pa + O(t²): the tangent space is that of the surface. Double."""
    a = ambient(x, gen)
    Pa = manifold.proj_tangent(x, a)
    scale = max(1.0, float(torch.linalg.vector_norm(x)))
    assert_order(lambda t: manifold.project(x + t * a) - x - t * Pa, 2, scale)


# --- over the cases ---


@over(where=first_of_its_metric)
@given(seed=seeds)
def test_projection_is_linear(case, shape, dtype, seed):
    law_projection_is_linear(case.manifold, point(case, shape, dtype), generator(seed))


@over(where=first_of_its_metric)
@given(seed=seeds)
def test_projection_is_idempotent(case, shape, dtype, seed):
    law_projection_is_idempotent(case.manifold, point(case, shape, dtype), generator(seed))


@over(where=first_of_its_metric)
@given(seed=seeds)
def test_projection_is_self_adjoint(case, shape, dtype, seed):
    law_projection_is_self_adjoint(case.manifold, point(case, shape, dtype), generator(seed))


@over(dtypes=EXACT, kinds="small", where=first_of_its_metric)
def test_rank_is_dim(case, shape, dtype):
    law_projection_has_rank_dim(case.manifold, point(case, shape, dtype))


@over(dtypes=EXACT, kinds="small", where=first_of_its_metric)
@given(seed=seeds)
def test_derivative_of_project(case, shape, dtype, seed):
    x = point(case, shape, dtype, seed)
    law_projection_is_derivative_of_project(case.manifold, x, generator(seed + 1))


@over(dtypes=[torch.float64], kinds="small", where=first_of_its_metric)
def test_gradcheck(case, shape, dtype):
    x, u = (point(case, shape, dtype, seed).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(case.manifold.proj_tangent, (x, u))

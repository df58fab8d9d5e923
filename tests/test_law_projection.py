"""`proj_tangent` is the orthogonal projection on the tangent space of the surface."""

import torch
from hypothesis import given
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from riemopt.testing import projections as laws
from tests.laws import assert_holds
from tests.manifold_cases import EXACT, first_of_its_metric, generator, over, point, seeds
from tests.slopes import assert_slope


def law_projection_is_linear(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """P(au + bv) = aPu + bPv for real a, b."""
    assert_holds(manifold, x, laws.projection_is_linear(manifold, x, gen))


def law_projection_is_idempotent(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """P(Pu) = Pu."""
    assert_holds(manifold, x, laws.projection_is_idempotent(manifold, x, gen))


def law_projection_is_self_adjoint(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """Re⟨Pu, v⟩ = Re⟨u, Pv⟩ at each point, in the ambient inner product."""
    assert_holds(manifold, x, laws.projection_is_self_adjoint(manifold, x, gen))


def law_projection_has_rank_dim(manifold: Manifold, x: Tensor) -> None:
    """The rank of u ↦ Pu, over the reals, is `dim` for each point. Small `x` in double."""
    laws.projection_has_rank_dim(manifold, x, generator(0))


def law_projection_is_derivative_of_project(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """project(x + ta) = x + t·Pa + O(t²): the tangent space is that of the surface. Double."""
    assert_slope(laws.projection_is_derivative_of_project(manifold, x, gen))


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

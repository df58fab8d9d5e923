"""`proj_tangent` is the orthogonal projection on the tangent space of the surface."""

import torch

from riemopt.testing.projections import (
    projection_has_rank_dim,
    projection_is_derivative_of_project,
    projection_is_idempotent,
    projection_is_linear,
    projection_is_self_adjoint,
)
from tests.laws import assert_law
from tests.manifold_cases import EXACT, first_of_its_metric, for_seeds, generator, over, point


def moves_every_entry(case):
    return first_of_its_metric(case) and not case.manifold.keeps_entries


@over(where=first_of_its_metric)
@for_seeds
def test_projection_is_linear(case, shape, dtype, seed):
    assert_law(projection_is_linear, case.manifold, point(case, shape, dtype), generator(seed))


@over(where=first_of_its_metric)
@for_seeds
def test_projection_is_idempotent(case, shape, dtype, seed):
    assert_law(projection_is_idempotent, case.manifold, point(case, shape, dtype), generator(seed))


@over(where=first_of_its_metric)
@for_seeds
def test_projection_is_self_adjoint(case, shape, dtype, seed):
    assert_law(
        projection_is_self_adjoint, case.manifold, point(case, shape, dtype), generator(seed)
    )


@over(dtypes=EXACT, kinds="small", where=first_of_its_metric)
def test_rank_is_dim(case, shape, dtype):
    assert_law(projection_has_rank_dim, case.manifold, point(case, shape, dtype), generator(0))


@over(dtypes=EXACT, kinds="small", where=moves_every_entry)
@for_seeds
def test_derivative_of_project(case, shape, dtype, seed):
    x = point(case, shape, dtype, seed)
    assert_law(projection_is_derivative_of_project, case.manifold, x, generator(seed + 1))


@over(dtypes=[torch.float64], kinds="small", where=first_of_its_metric)
def test_gradcheck(case, shape, dtype):
    x, u = (point(case, shape, dtype, seed).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(case.manifold.proj_tangent, (x, u))

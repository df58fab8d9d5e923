"""Quotients: several stored tensors are one point, and tangent vectors are horizontal."""

import pytest
import torch

from riemopt.manifolds import Flattened, Grassmann, Product, Sphere, Stiefel
from riemopt.testing import check_manifold
from riemopt.testing.quotients import (
    tangents_are_horizontal,
    vertical_vectors_leave_the_point,
)
from tests.laws import assert_law
from tests.manifold_cases import EXACT, for_seeds, generator, over, point


@over(dtypes=EXACT, kinds="small", where=lambda case: case.manifold.total_space is not None)
@for_seeds
def test_tangents_are_horizontal(case, shape, dtype, seed):
    x = point(case, shape, dtype, seed)
    assert_law(tangents_are_horizontal, case.manifold, x, generator(seed + 1))
    assert_law(vertical_vectors_leave_the_point, case.manifold, x, generator(seed + 1))


MADE_OF_QUOTIENTS = [
    (Flattened(Grassmann()), (6, 2, 2, 1)),
    (Product({"span": (Grassmann(), (4, 2)), "direction": (Sphere(), 3)}), (2, 11)),
]


@pytest.mark.parametrize(("manifold", "shape"), MADE_OF_QUOTIENTS, ids=str)
def test_what_is_made_of_quotients_is_one(manifold, shape):
    report = check_manifold(manifold, shape, order=2, repeats=2)
    report.require()
    assert report["vertical vectors leave the point"].verdict == "holds"


def test_others_are_none():
    assert Product([(Stiefel(), (4, 2)), (Sphere(), 3)]).total_space is None
    x = Stiefel().random_point(4, 2)
    assert Stiefel().invariants(x) is x
    assert (
        check_manifold(Stiefel(), (4, 2), repeats=1)["vertical vectors leave the point"].verdict
        == "skipped"
    )
    assert torch.equal(Flattened(Stiefel()).invariants(x[..., None, None]), x)

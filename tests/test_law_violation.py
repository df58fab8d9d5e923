"""`violation` measures the distance from the surface."""

import pytest
import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold, SkewSymmetric, Stiefel, Symmetric
from riemopt.testing.sampling import stored
from tests.bounds import length, rounding
from tests.laws import ambient, batch_shape
from tests.manifold_cases import (
    EXACT,
    first_of_its_metric,
    for_seeds,
    generator,
    over,
    over_cases,
    point,
)


def law_violation_has_batch_shape(manifold: Manifold, x: Tensor) -> None:
    """One real number a point, close to zero on the surface."""
    violation = manifold.violation(x)
    assert violation.shape == batch_shape(manifold, x)
    assert violation.dtype == x.real.dtype
    radius = getattr(manifold, "radius", 1.0)
    assert bool((violation <= radius * rounding(manifold, x)).all())


def law_violation_sees_normal_displacements(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """It grows in proportion to a displacement along the normal space. Double."""
    a = ambient(x, gen)
    normal = a - stored(manifold).proj_tangent(x, a)
    if bool((length(manifold, normal) < 1e-8).any()):
        return  # an open set has no normal directions
    small, large = (manifold.violation(x + t * normal) for t in (1e-7, 1e-5))
    assert bool((small > 0).all())
    assert bool(((large / small - 100).abs() < 0.1).all())


DEFECT = 1e-3


def law_violation_sees_each_pair_of_columns(manifold: Manifold, x: Tensor) -> None:
    """Adding δ times one orthonormal column to another makes a violation of δ. Tall matrices."""
    p = x.shape[-1]
    for i in range(p):
        for j in set(range(p)) - {i}:
            y = x.clone()
            y[..., :, i] += DEFECT * x[..., :, j]
            expected = torch.full(x.shape[:-2], DEFECT, dtype=x.dtype)
            torch.testing.assert_close(manifold.violation(y), expected)


# --- over the cases ---


@over(where=first_of_its_metric)
def test_batch_shape(case, shape, dtype):
    law_violation_has_batch_shape(case.manifold, point(case, shape, dtype))


@over(dtypes=EXACT, where=first_of_its_metric)
@for_seeds
def test_normal_displacements(case, shape, dtype, seed):
    x = point(case, shape, dtype)
    law_violation_sees_normal_displacements(case.manifold, x, generator(seed))


@over_cases(lambda case: case.manifold.has_constant_norm)
def test_scaled_point(case):
    """One point of a batch is (1+δ)x: δ·radius on a sphere, |XᵀX - I| = 2δ + δ² on Stiefel."""
    shape = next(case.shapes[kind] for kind in ("batch", "vector", "tall") if kind in case.shapes)
    x = point(case, shape, torch.float64)
    violation = case.manifold.violation(x * (1 + DEFECT))
    radius = getattr(stored(case.manifold), "radius", None)
    expected = DEFECT * radius if radius else 2 * DEFECT + DEFECT**2
    torch.testing.assert_close(violation, torch.full_like(violation, expected))


@pytest.mark.parametrize("manifold", [Symmetric(), SkewSymmetric()], ids=str)
def test_one_entry_of_one_matrix(manifold):
    """The nearest symmetric matrix shares the error between the two entries."""
    x = manifold.random_point(2, 3, 3, dtype=torch.float64)
    x[1, 0, 2] += DEFECT
    expected = torch.tensor([0.0, DEFECT / 2], dtype=x.dtype)
    torch.testing.assert_close(manifold.violation(x), expected)


def test_each_pair_of_columns():
    x = Stiefel().random_point(5, 3, dtype=torch.float64)
    law_violation_sees_each_pair_of_columns(Stiefel(), x)


def test_one_matrix_of_a_batch():
    x = Stiefel().random_point(2, 5, 3, dtype=torch.float64)
    x[1, :, 0] += DEFECT * x[1, :, 1]
    torch.testing.assert_close(Stiefel().violation(x), torch.tensor([0.0, DEFECT], dtype=x.dtype))

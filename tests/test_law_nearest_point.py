"""`project` is the nearest point, of any tensor."""

import pytest
import scipy.linalg
import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold, Stiefel
from riemopt.testing.sampling import ambient_norm
from tests.bounds import assert_close, length, rounding
from tests.laws import assert_on_surface, tangent
from tests.manifold_cases import EXACT, FULL, first_of_its_metric, for_seeds, generator, name, over


def law_project_lands_on_surface(manifold: Manifold, a: Tensor) -> None:
    """The nearest point to any finite tensor is a contiguous, finite point of its dtype."""
    y = manifold.project(a)
    assert (y.shape, y.dtype, y.is_contiguous()) == (a.shape, a.dtype, True)
    assert bool(y.isfinite().all())
    if not manifold.allows_elementwise_scaling:
        assert_on_surface(manifold, y)


def law_project_is_idempotent(manifold: Manifold, a: Tensor) -> None:
    """project(project(a)) = project(a)."""
    y = manifold.project(a)
    assert_close(manifold, manifold.project(y), y, length(manifold, y))


def law_project_is_nearest(manifold: Manifold, a: Tensor, gen: Generator) -> None:
    """No random point is closer to `a` than project(a), nor is any that is near to it."""
    y = manifold.project(a)
    closest = ambient_norm(manifold, a - y)
    slack = rounding(manifold, a) * (length(manifold, a) + length(manifold, y))
    slack = slack + manifold.margin * (1 + length(manifold, a))  # of open sets
    others = [manifold.random_point(*a.shape, generator=gen, dtype=a.dtype) for _ in range(10)]
    for size in (1e-3, 1e-2, 1e-1, 1.0):
        others += [manifold.retract(y, tangent(manifold, y, gen, size)) for _ in range(5)]
    for other in others:
        assert bool((ambient_norm(manifold, a - other) >= closest - slack).all())


# --- over the cases ---

# The largest power of ten whose multiples by a few are finite in every dtype but float16.
SCALES = (1.0, 1e-30, 1e30)


@over(where=first_of_its_metric)
@for_seeds
def test_lands_on_surface(case, shape, dtype, seed):
    for scale in SCALES:
        a = torch.randn(shape, generator=generator(seed), dtype=dtype) * scale
        law_project_lands_on_surface(case.manifold, a)


@over(where=first_of_its_metric)
@for_seeds
def test_idempotent(case, shape, dtype, seed):
    a = torch.randn(shape, generator=generator(seed), dtype=dtype)
    law_project_is_idempotent(case.manifold, a)


@over(where=first_of_its_metric)
def test_zeros(case, shape, dtype):
    law_project_lands_on_surface(case.manifold, torch.zeros(shape, dtype=dtype))


@over(kinds=["square", "tall", "wide", "batch", "large"], where=first_of_its_metric)
def test_rank_deficient(case, shape, dtype):
    """A point of one non-zero row, and one of equal entries."""
    row = torch.zeros(shape, dtype=dtype)
    row[..., 0, :] = 3
    for a in (row, torch.full(shape, 2.0, dtype=dtype)):
        law_project_lands_on_surface(case.manifold, a)


@over(dtypes=FULL, where=first_of_its_metric)
@for_seeds
def test_nearest(case, shape, dtype, seed):
    gen = generator(seed)
    a = torch.randn(shape, generator=gen, dtype=dtype)
    law_project_is_nearest(case.manifold, a, gen)


@pytest.mark.parametrize("shape", [(4, 4), (6, 3), (3, 6), (40, 10)], ids=str)
@pytest.mark.parametrize("dtype", EXACT, ids=name)
def test_stiefel_is_scipys_polar_factor(shape, dtype):
    a = torch.randn(shape, generator=generator(0), dtype=dtype)
    expected, _ = scipy.linalg.polar(a.numpy())
    torch.testing.assert_close(Stiefel().project(a), torch.from_numpy(expected))

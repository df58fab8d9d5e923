"""`retract`: on the surface from any step, and right to first or second order."""

import pytest
import torch
from torch import Generator, Tensor

from riemopt.linalg import backends
from riemopt.manifolds import Manifold, Stiefel
from riemopt.testing.behaviour import arguments_are_left_alone, results_keep_the_layout
from riemopt.testing.retractions import (
    curve_is_its_definition,
    ends_of_steps,
    retraction_agrees_with_exp,
    retraction_fixes_zero,
    retraction_is_first_order,
    retraction_is_second_order,
)
from tests.bounds import assert_close, length, wide
from tests.laws import (
    SIZES,
    ambient,
    assert_law,
    assert_on_surface,
    project_scale,
    tangent,
)
from tests.manifold_cases import CASES, EXACT, FULL, for_seeds, generator, over, over_cases, point


def law_retract_stays_on_surface(
    manifold: Manifold, x: Tensor, gen: Generator, size: float
) -> None:
    """A tangent step of any size ends on the surface, to the bound promised for stored points."""
    (y,) = ends_of_steps(manifold, x, gen, (size,))
    if not manifold.allows_elementwise_scaling:
        assert_on_surface(manifold, y)
    else:  # entries of any size: the error is relative to them
        assert_close(manifold, y, manifold.project(wide(y)), length(manifold, y))


def law_batch_equals_loop(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """A batch of steps of mixed sizes gives what each gives by itself."""
    from_end = manifold.with_dims_from_end(x.ndim)
    drawn = [manifold.random_point(*x.shape, generator=gen, dtype=x.dtype) for _ in SIZES]
    points = [y.to(x.device) for y in drawn]
    steps = [tangent(manifold, y, gen, size) for y, size in zip(points, SIZES, strict=True)]
    vectors = [ambient(x, gen) for _ in SIZES]
    batch = from_end.retract(torch.stack(points), torch.stack(steps))
    projected = from_end.proj_tangent(torch.stack(points), torch.stack(vectors))
    nearest = from_end.project(torch.stack(vectors))
    for i, (y, u, v) in enumerate(zip(points, steps, vectors, strict=True)):
        long = length(manifold, y)
        # A step beyond 1 magnifies the rounding errors of Y = X + U by its condition number.
        condition = 1 + length(manifold, u) if not manifold.allows_elementwise_scaling else 1
        alone = manifold.retract(y, u)
        assert_close(manifold, batch[i], alone, (long + length(manifold, alone)) * condition)
        assert_close(manifold, projected[i], manifold.proj_tangent(y, v), length(manifold, v))
        assert_close(manifold, nearest[i], manifold.project(v), project_scale(manifold, v))


# --- over the cases ---

STIEFEL = [case for case in CASES if isinstance(case.manifold, Stiefel)]


@over()
@for_seeds
def test_stays_on_surface(case, shape, dtype, seed):
    x = point(case, shape, dtype, seed)
    for size in SIZES:
        law_retract_stays_on_surface(case.manifold, x, generator(seed + 1), size)


@pytest.mark.parametrize(
    "law",
    [results_keep_the_layout, curve_is_its_definition],
    ids=lambda law: law.name,
)
@over()
def test_layout_and_step(law, case, shape, dtype):
    assert_law(law, case.manifold, point(case, shape, dtype), generator(1))


@over()
def test_zero_step(case, shape, dtype):
    assert_law(retraction_fixes_zero, case.manifold, point(case, shape, dtype), generator(0))


@over(dtypes=[torch.float32, torch.complex64])
def test_arguments_are_unchanged(case, shape, dtype):
    assert_law(arguments_are_left_alone, case.manifold, point(case, shape, dtype), generator(1))


@over()
def test_batch_equals_loop(case, shape, dtype):
    law_batch_equals_loop(case.manifold, point(case, shape, dtype), generator(1))


@over(dtypes=EXACT, kinds="small")
@for_seeds
def test_first_order(case, shape, dtype, seed):
    x = point(case, shape, dtype, seed)
    assert_law(retraction_is_first_order, case.manifold, x, generator(seed + 1))


@over(dtypes=EXACT, kinds="small", where=lambda case: case.second_order == "ambient")
@for_seeds
def test_second_order(case, shape, dtype, seed):
    x = point(case, shape, dtype, seed)
    assert_law(retraction_is_second_order, case.manifold, x, generator(seed + 1))


@over(dtypes=EXACT, kinds="small", where=lambda case: case.second_order and case.closed_forms)
@for_seeds
def test_second_order_in_own_metric(case, shape, dtype, seed):
    x = point(case, shape, dtype, seed)
    assert_law(retraction_agrees_with_exp, case.manifold, x, generator(seed + 1))


@over(dtypes=[torch.float64], kinds=["square", "plane", "tall", "wide", "vector", "deep"])
def test_gradcheck(case, shape, dtype):
    x = point(case, shape, dtype)
    u = tangent(case.manifold, x, generator(1), 0.5)
    assert torch.autograd.gradcheck(case.manifold.retract, (x.requires_grad_(), u.requires_grad_()))


# Where nothing may be read on the host the number of products is fixed: the same laws.


@over(dtypes=FULL, cases=STIEFEL)
def test_blind_retraction_stays_on_surface(monkeypatch, case, shape, dtype):
    monkeypatch.setattr(backends, "reads_are_free", lambda *tensors: False)
    for size in SIZES:
        law_retract_stays_on_surface(case.manifold, point(case, shape, dtype), generator(1), size)


@over(dtypes=EXACT, kinds="small", cases=STIEFEL)
def test_blind_retraction_is_first_order(monkeypatch, case, shape, dtype):
    monkeypatch.setattr(backends, "reads_are_free", lambda *tensors: False)
    assert_law(retraction_is_first_order, case.manifold, point(case, shape, dtype), generator(1))


@over(dtypes=FULL, cases=STIEFEL)
def test_blind_batch_equals_loop(monkeypatch, case, shape, dtype):
    monkeypatch.setattr(backends, "reads_are_free", lambda *tensors: False)
    law_batch_equals_loop(case.manifold, point(case, shape, dtype), generator(1))


@over_cases()
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_part_that_is_taken_is_a_part(case, value):
    """Also of a step that is not finite, which optimizers count by it."""
    shape = next(s for kind, s in case.shapes.items() if kind != "empty")
    x = point(case, shape, torch.float32)
    for u in (torch.full_like(x, value), tangent(case.manifold, x, generator(1), 1e30)):
        part = case.manifold.curve_with_fraction(x, u, 1.0)[1]
        if part is not None:
            assert bool(((part >= 0) & (part <= 1)).all())

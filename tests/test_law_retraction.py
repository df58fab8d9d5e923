"""`retract` and `step`: on the surface from any step, and right to first or second order."""

import pytest
import torch
from hypothesis import given
from torch import Generator, Tensor

from riemopt.manifolds import Manifold, Stiefel
from tests.bounds import assert_close, length, wide
from tests.laws import (
    SIZES,
    ambient,
    assert_on_surface,
    event_dims_kept,
    project_scale,
    tangent,
)
from tests.manifold_cases import CASES, EXACT, FULL, generator, over, point, seeds
from tests.slopes import assert_order


def law_retract_stays_on_surface(
    manifold: Manifold, x: Tensor, gen: Generator, size: float
) -> None:
    """A tangent step of any size ends on the surface."""
    y = manifold.retract(x, tangent(manifold, x, gen, size))
    assert bool(y.isfinite().all())
    if not manifold.is_linear:
        assert_on_surface(manifold, y)
    else:  # entries of any size: the error is relative to them
        assert_close(manifold, y, manifold.project(wide(y)), length(manifold, y))


def law_retract_keeps_layout(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """Shape, dtype, contiguous; whatever the strides of the arguments."""
    u = tangent(manifold, x, gen)
    y = manifold.retract(x, u)
    assert (y.shape, y.dtype, y.is_contiguous()) == (x.shape, x.dtype, True)
    strided = [a.transpose(0, -1).contiguous().transpose(0, -1) for a in (x, u)]
    z = manifold.retract(*strided)
    assert z.is_contiguous()
    assert_close(manifold, z, y, 1 + length(manifold, x))


def law_retract_fixes_zero(manifold: Manifold, x: Tensor) -> None:
    """retract(x, 0) = x to rounding."""
    assert_close(manifold, manifold.retract(x, torch.zeros_like(x)), x, length(manifold, x))


def law_retract_is_first_order(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """retract(x, tu) = x + tu + O(t²). Double."""
    u = tangent(manifold, x, gen)
    scale = max(1.0, float(torch.linalg.vector_norm(x)))
    assert_order(lambda t: manifold.retract(x, t * u) - x - t * u, 2, scale)


def law_retract_is_second_order(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """P(retract(x, tu) - x) = tu + O(t³): no tangential acceleration. Ambient metric, double."""
    u = tangent(manifold, x, gen)
    scale = max(1.0, float(torch.linalg.vector_norm(x)))

    def error(t: float) -> Tensor:
        return manifold.proj_tangent(x, manifold.retract(x, t * u) - x) - t * u

    assert_order(error, 3, scale)


def law_retract_agrees_with_exp(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """retract(x, tu) = exp(x, tu) + O(t³): second order in the manifold's own metric. Double."""
    u = tangent(manifold, x, gen)
    scale = max(1.0, float(torch.linalg.vector_norm(x)))
    assert_order(lambda t: manifold.retract(x, t * u) - manifold.exp(x, t * u), 3, scale)


def law_batch_equals_loop(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """A batch of steps of mixed sizes gives what each gives by itself."""
    anchored = manifold.anchored(x.ndim)
    points = [manifold.random_point(*x.shape, generator=gen, dtype=x.dtype) for _ in SIZES]
    steps = [tangent(manifold, y, gen, size) for y, size in zip(points, SIZES, strict=True)]
    vectors = [ambient(x, gen) for _ in SIZES]
    batch = anchored.retract(torch.stack(points), torch.stack(steps))
    projected = anchored.proj_tangent(torch.stack(points), torch.stack(vectors))
    nearest = anchored.project(torch.stack(vectors))
    for i, (y, u, v) in enumerate(zip(points, steps, vectors, strict=True)):
        long = length(manifold, y)
        # A step beyond 1 magnifies the rounding errors of Y = X + U by its condition number.
        condition = 1 + length(manifold, u) if not manifold.is_linear else 1
        alone = manifold.retract(y, u)
        assert_close(manifold, batch[i], alone, (long + length(manifold, alone)) * condition)
        assert_close(manifold, projected[i], manifold.proj_tangent(y, v), length(manifold, v))
        assert_close(manifold, nearest[i], manifold.project(v), project_scale(manifold, v))


def law_step_is_its_definition(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """step(x, d, lr) = retract(x, -lr·Pd), with a number or a tensor as `lr`."""
    d = ambient(x, gen)
    expected = manifold.retract(x, -0.125 * manifold.proj_tangent(x, d))
    scale = length(manifold, x) + length(manifold, d)
    assert_close(manifold, manifold.step(x, d, 0.125), expected, scale)
    assert_close(manifold, manifold.step(x, d, torch.tensor(0.125)), expected, scale)


def law_curve_is_its_definition(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """curve(x, u, t) = retract(x, t·u), with a number or one number for each point."""
    u = tangent(manifold, x, gen)
    each = torch.rand(event_dims_kept(manifold, x), generator=gen, dtype=x.real.dtype)
    for t in (0.0, -0.25, torch.tensor(0.125), each, 500 * each):
        expected = manifold.retract(x, t * u)
        size = length(manifold, x) + length(manifold, t * u)
        assert_close(manifold, manifold.curve(x, u, t), expected, size)


def law_arguments_are_unchanged(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """No method of a step writes to its arguments or returns memory that it shares with them.

    (`proj_tangent` may return its argument: the identity of Euclidean space.)
    """
    u, v = tangent(manifold, x, gen), ambient(x, gen)
    saved = [a.clone() for a in (x, u, v)]
    y = manifold.retract(x, u)
    manifold.proj_tangent(x, v)
    manifold.egrad2rgrad(x, v)
    manifold.inner(x, u, v)
    manifold.norm(x, u)
    manifold.transport(x, y, u)
    manifold.retract_transport(x, u, u)
    manifold.step(x, v, 0.1)
    manifold.curve(x, u, 0.1)
    manifold.average(x, u, v, 0.9)
    manifold.violation(x)
    nearest = manifold.project(v)
    for a, b in zip((x, u, v), saved, strict=True):
        assert torch.equal(a, b)
    if x.numel() and manifold.is_constraint:
        assert y.data_ptr() != x.data_ptr()
        assert nearest.data_ptr() != v.data_ptr()


# --- over the cases ---

STIEFEL = [case for case in CASES if isinstance(case.manifold, Stiefel)]


@over()
@given(seed=seeds)
def test_stays_on_surface(case, shape, dtype, seed):
    x = point(case, shape, dtype, seed)
    for size in SIZES:
        law_retract_stays_on_surface(case.manifold, x, generator(seed + 1), size)


@pytest.mark.parametrize(
    "law",
    [law_retract_keeps_layout, law_step_is_its_definition, law_curve_is_its_definition],
)
@over()
def test_layout_and_step(law, case, shape, dtype):
    law(case.manifold, point(case, shape, dtype), generator(1))


@over()
def test_zero_step(case, shape, dtype):
    law_retract_fixes_zero(case.manifold, point(case, shape, dtype))


@over(dtypes=[torch.float32, torch.complex64])
def test_arguments_are_unchanged(case, shape, dtype):
    law_arguments_are_unchanged(case.manifold, point(case, shape, dtype), generator(1))


@over()
def test_batch_equals_loop(case, shape, dtype):
    law_batch_equals_loop(case.manifold, point(case, shape, dtype), generator(1))


@over(dtypes=EXACT, kinds="small")
@given(seed=seeds)
def test_first_order(case, shape, dtype, seed):
    x = point(case, shape, dtype, seed)
    law_retract_is_first_order(case.manifold, x, generator(seed + 1))


@over(dtypes=EXACT, kinds="small", where=lambda case: case.second_order == "ambient")
@given(seed=seeds)
def test_second_order(case, shape, dtype, seed):
    x = point(case, shape, dtype, seed)
    law_retract_is_second_order(case.manifold, x, generator(seed + 1))


@over(dtypes=EXACT, kinds="small", where=lambda case: case.second_order and case.closed_forms)
@given(seed=seeds)
def test_second_order_in_own_metric(case, shape, dtype, seed):
    x = point(case, shape, dtype, seed)
    law_retract_agrees_with_exp(case.manifold, x, generator(seed + 1))


@over(dtypes=[torch.float64], kinds=["square", "tall", "wide", "vector", "deep"])
def test_gradcheck(case, shape, dtype):
    x = point(case, shape, dtype)
    u = tangent(case.manifold, x, generator(1), 0.5)
    assert torch.autograd.gradcheck(case.manifold.retract, (x.requires_grad_(), u.requires_grad_()))


# Where nothing may be read on the host the number of products is fixed: the same laws.


@over(dtypes=FULL, cases=STIEFEL)
def test_blind_retraction_stays_on_surface(monkeypatch, case, shape, dtype):
    monkeypatch.setattr("riemopt.linalg.host_readable", lambda a: False)
    for size in SIZES:
        law_retract_stays_on_surface(case.manifold, point(case, shape, dtype), generator(1), size)


@over(dtypes=EXACT, kinds="small", cases=STIEFEL)
def test_blind_retraction_is_first_order(monkeypatch, case, shape, dtype):
    monkeypatch.setattr("riemopt.linalg.host_readable", lambda a: False)
    law_retract_is_first_order(case.manifold, point(case, shape, dtype), generator(1))


@over(dtypes=FULL, cases=STIEFEL)
def test_blind_batch_equals_loop(monkeypatch, case, shape, dtype):
    monkeypatch.setattr("riemopt.linalg.host_readable", lambda a: False)
    law_batch_equals_loop(case.manifold, point(case, shape, dtype), generator(1))

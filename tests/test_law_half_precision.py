"""Half precision: float64 rounded, and no more."""

import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from tests.bounds import assert_close, eps, length, rounding, smaller_side, wide
from tests.laws import ambient, project_scale, tangent
from tests.manifold_cases import HALF, for_seeds, generator, over, point


def law_half_precision_is_rounded_double(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """Each method in half precision is the same method in float64, to a few roundings."""
    u, a = tangent(manifold, x, gen), ambient(x, gen)
    X, U, A = wide(x), wide(u), wide(a)
    scale = length(manifold, A)
    assert_close(
        manifold,
        manifold.proj_tangent(x, a),
        manifold.proj_tangent(X, A),
        scale,
        rounding(manifold, x),
    )
    gradient = manifold.egrad2rgrad(X, A)  # longer than A where the metric is small, as x²g
    longest = torch.maximum(scale, length(manifold, gradient))
    assert_close(manifold, manifold.egrad2rgrad(x, a), gradient, longest, rounding(manifold, x))
    y, Y = manifold.retract(x, u), manifold.retract(X, U)
    if manifold.allows_elementwise_scaling:
        assert_close(manifold, y, Y, 1 + length(manifold, X))
        return
    # Computed in float32 and rounded once.
    once = eps(x.dtype) / 2 + rounding(manifold, x.float())
    nearest, exact = manifold.project(a), manifold.project(A)
    if manifold.margin:  # as far inside as the dtype needs
        inside = 8 * eps(x.dtype) * smaller_side(manifold, x) ** 0.5
        assert_close(manifold, y, Y, 1 + length(manifold, Y), inside)
        # What is inside by less than the dtype needs is moved as far as what is outside.
        assert_close(manifold, nearest, exact, 1 + scale, max(inside, manifold.margin))
        return
    assert_close(manifold, y, Y, length(manifold, Y), once)
    assert_close(manifold, nearest, exact, project_scale(manifold, a), once)


@over(dtypes=HALF)
@for_seeds
def test_half_precision(case, shape, dtype, seed):
    x = point(case, shape, dtype)
    law_half_precision_is_rounded_double(case.manifold, x, generator(seed))

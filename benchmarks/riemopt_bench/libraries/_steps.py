"""Learning rates of the step benchmark, which make all methods' steps equally long."""

from __future__ import annotations

import math
from typing import Literal

from riemopt_bench.surfaces import PositiveDefinite, Stiefel, Surface

# The root mean square of the entries of a step is 1e-3 with Adam. With gradients N(0, 1) and
# momentum .9, whose buffer grows to ten gradients, SGD gets there with a tenth of that.
ADAM_LR, SGD_LR, MOMENTUM = 1e-3, 1e-4, 0.9

Rule = Literal["sgd", "adam"]


def point_norm(surface: Surface, shape: tuple[int, ...]) -> float:
    """√(entries of one point): the factor in lr of methods that divide by the gradient's norm."""
    if isinstance(surface, Stiefel):
        return math.sqrt(math.prod(surface.sides(shape)))
    return float(shape[-1]) if isinstance(surface, PositiveDefinite) else math.sqrt(shape[-1])


def gradient_size(surface: Stiefel, shape: tuple[int, ...], inner: float) -> float:
    """Size of an entry of (I - XXᵀ)G + inner·X skew(XᵀG) for G ~ N(0, 1): √(1 - r + inner²·r/2).

    r = p/n. The Euclidean gradient has inner = 1 and the canonical one 2.
    """
    n, p = surface.sides(shape)
    return math.sqrt(1 - p / n + inner**2 * p / (2 * n))

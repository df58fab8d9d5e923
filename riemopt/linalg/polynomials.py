"""Polynomials that bring singular values to 1: coefficients, how far they reach, how they err.

With S = YᴴY - I the polar factor of Y is Y(I + S)^(-1/2). For ‖S‖ ≤ 1/8 one polynomial in S is that
to rounding; cubics in Y, or in (I + S), come there from farther off.
"""

import math
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from riemopt.linalg.products import add_product

Bound = TypeVar("Bound", float, Tensor)
"""A bound of singular values: a number on the host, or one number `(*, 1, 1)` for each matrix."""

REACH = 1 / 8
"""Where ‖YᴴY - I‖ is below this, one polynomial finishes; it is also left by any cubic sweep."""


def step_cap(dtype: torch.dtype) -> float:
    """Longest tangent step whose Gram matrix still resolves the starting point: ¼·eps^(-1/2).

    Examples:
        >>> import torch
        >>> from riemopt.linalg import step_cap
        >>> step_cap(torch.float32), step_cap(torch.float64)
        (724.0773439350246, 16777216.0)
    """
    return 0.25 / math.sqrt(torch.finfo(dtype).eps)


def flattest_cubic(a: Bound, b: Bound) -> tuple[Bound, Bound, Bound]:
    """The odd cubic c₁x - c₃x³ nearest to 1 on [a, b], as c₁, c₃ and its largest error.

    CANS (Grishina, Smirnov, Rakhuba, arXiv 2506.10935, Prop. 2).
    """
    q = a * a + a * b + b * b
    two_e3 = 2 * (q / 3) ** 1.5
    r = a * b * (a + b)
    return 2 * q / (two_e3 + r), 2 / (two_e3 + r), abs(two_e3 - r) / (two_e3 + r)


def cubic_steps(dtype: torch.dtype) -> int:
    """How many bring the singular values of X + ξ, with ξ within `step_cap`, to 1."""
    a, b, steps = 0.7, math.hypot(1, step_cap(dtype)), 0
    while b - a > 4 * torch.finfo(dtype).eps:
        error = flattest_cubic(a, b)[2]
        a, b, steps = 1 - error, 1 + error, steps + 1
    return steps


def sweeps(lowest: float, highest: float, tolerance: float) -> tuple[float, ...]:
    """Numbers c for Y ← Y - c·Y(YᴴY - I), one for each sweep, that bring singular values to 1.

    From between `lowest` < 1 and `highest` to 1, up to `tolerance`. The flattest cubics, each
    scaled so that it leaves 1 where it is: so one list serves all lengths, and what a sweep adds to
    Y is as small as the step. They come closer to the sweep of Newton and Schulz, c = ½.
    """
    a, b, found = lowest, highest, []
    while max(1 - a, b - 1) > tolerance:
        c1, c3, error = flattest_cubic(a, b)
        at_one = c1 - c3
        found.append(c3 / at_one)
        a, b = (1 - error) / at_one, (1 + error) / at_one
    return tuple(found)


def _chebyshev(count: int, reach: float) -> tuple[tuple[float, ...], float]:
    """`count` coefficients of g with s·g(s) ≈ (1 + s)^(-1/2) - 1 for |s| ≤ reach, and the error.

    The Chebyshev series of g, cut off. Of g, and not of s·g, so that S = 0 gives 0.
    """

    def g(s: np.ndarray) -> np.ndarray:
        root = np.sqrt(1 + s)
        return -1 / (root * (1 + root))

    series = np.polynomial.Chebyshev.interpolate(g, 24, domain=[-reach, reach])
    error = reach * np.abs(series.coef[count:]).sum()
    coefficients = series.truncate(count).convert(kind=np.polynomial.Polynomial).coef
    padding = [0.0] * (count - len(coefficients))  # numpy drops trailing zeros
    return (*map(float, coefficients), *padding), float(error)


def _reach(count: int, dtype: torch.dtype) -> float:
    """The widest interval, in steps of a tenth, where `count` coefficients are exact to eps/2."""
    reach = REACH
    while _chebyshev(count, reach)[1] > torch.finfo(dtype).eps / 2:
        reach *= 0.9
    return reach


def _widest(dtype: torch.dtype) -> tuple[float, ...]:
    """The shortest that is exact to eps/2 for |s| ≤ `REACH`."""
    count = 2
    while _chebyshev(count, REACH)[1] > torch.finfo(dtype).eps / 2:
        count += 2
    return _chebyshev(count, REACH)[0]


# Not made when first needed: torch.compile looks at no polynomial of numpy. Complex dtypes count as
# their parts.
WIDEST = {dtype: _widest(dtype) for dtype in (torch.float32, torch.float64)}


@cache
def polynomials(dtype: torch.dtype) -> tuple[tuple[float, tuple[float, ...]], ...]:
    """`(reach, coefficients)` by cost, exact to eps/2 for |s| ≤ reach, up to the widest reach.

    One coefficient costs no product, two cost S², and each further pair one more.
    """
    widest = WIDEST[dtype]
    shorter = [(_reach(n, dtype), n) for n in (1, *range(2, len(widest), 2))]
    return (*((r, _chebyshev(n, r)[0]) for r, n in shorter), (REACH, widest))


def evaluate(coefficients: tuple[float, ...], S: Tensor, S2: Tensor) -> tuple[Tensor, float]:
    """`(P, c)` with c·P = S·g(S), two coefficients for each product (Paterson & Stockmeyer 1973).

    No pass over a matrix is spent on multiplying with a coefficient: products take them along. S
    may be overwritten.
    """
    k = len(coefficients) - 2
    value, scale = None, 1.0
    while True:
        ratio = coefficients[k + 1] / coefficients[k]
        if k == 0 and not S.requires_grad:
            pair = S.add_(S2, alpha=ratio)
        else:
            pair = torch.add(S, S2, alpha=ratio)
        if value is None:
            value, scale = pair, coefficients[k]
        else:
            value = add_product(pair, S2, value, scale, weight=coefficients[k], overwrite=True)
            scale = 1.0
        if k == 0:
            return value, scale
        k -= 2

"""The order of an approximation, read as a slope on a log–log plot.

An error that is O(tᵏ) is a line of slope k there, until it sinks into rounding. The fit is
*floor-aware*: it takes only errors that stand clear of rounding, at steps of .1 at most, and the
Theil–Sen slope, the median over all pairs of points, is not moved by the few at either end that lie
off the line. In float64 it accepts every correct gradient and rejects one that is wrong by 1e-3.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)
# Four steps a decade. At the smallest, a first-order error of 1e-3 still stands clear of rounding.
STEPS = np.logspace(-10, -1, 37)
# So short that no smooth error is left, only rounding and what an iteration stops at.
STILL = (1e-15, 2e-15, 3e-15, 4e-15, 5e-15)
# An error below so many eps is rounding.
FLOOR = 100
# The floor is so many times what is measured at STILL.
MARGIN = 10
# An error that stays above this share of the scale as t → 0 is no rounding.
LARGEST_NOISE = 1e-7
# A slope is accepted if it falls short of the order by less than this.
SLACK = 0.2
# No line is put through fewer points. Fewer than that, and all within this many floors, is what an
# iteration leaves of a mapping that is exact.
LEAST, NEAR = 5, 100


@dataclass(frozen=True)
class Curve:
    """Errors at decreasing steps and the slope of their line, to be compared with `order`.

    `slope` is inf where all errors are rounding, and NaN where no line can be put through them;
    `problem` says why.

    Examples:
        >>> from riemopt.manifolds import Stiefel
        >>> from riemopt.testing import check_retraction
        >>> report = check_retraction(Stiefel("qr"), (5, 2), order=1, repeats=1)
        >>> curve = next(row.curves[0] for row in report.rows if row.curves)
        >>> curve.order, curve.passed
        (2, True)
    """

    order: int
    steps: tuple[float, ...]
    errors: tuple[float, ...]
    scale: float
    """Size of the numbers whose difference the error is."""
    floor: float
    slope: float
    problem: str = ""
    label: str = ""
    """The shape and the seed, once the curve is part of a report."""

    @property
    def passed(self) -> bool:
        """Whether the slope is `order`, or more, up to SLACK."""
        return self.slope > self.order - SLACK

    def __str__(self) -> str:
        if self.slope == math.inf:
            return f"no error but rounding (needed: slope {self.order})"
        return self.problem or f"slope {self.slope:.2f}, needed {self.order}"


def measure(error: Callable[[float], float], order: int, scale: float) -> Curve:
    """Call `error(t)` for all steps and fit the slope, which ought to be `order`.

    Args:
        error: size of the error at the step t.
        order: the order claimed.
        scale: size of the numbers whose difference the error is: eps·scale is its rounding.
    """
    noise = max(map(error, STILL))
    floor = FLOOR * EPS * scale
    if noise <= LARGEST_NOISE * scale:
        floor = max(floor, MARGIN * noise)
    errors = tuple(error(float(t)) for t in STEPS)
    slope, problem = fit(STEPS, np.array(errors), floor)
    return Curve(order, tuple(STEPS.tolist()), errors, scale, floor, slope, problem)


def fit(t: Array, errors: Array, floor: float) -> tuple[float, str]:
    """Slope of log error against log t above the floor, and what prevents one."""
    if not np.isfinite(errors).all():
        return math.nan, "the error is not finite"
    clear = errors > floor
    if clear.sum() < LEAST and errors.max() <= NEAR * floor:
        return math.inf, ""
    if clear.sum() < LEAST:
        return math.nan, f"only {clear.sum()} of {len(t)} errors stand clear of rounding"
    return theil_sen(np.log(t[clear]), np.log(errors[clear])), ""


def theil_sen(x: Array, y: Array) -> float:
    """Median slope over all pairs of points with distinct x (Theil 1950; Sen 1968)."""
    first, second = np.triu_indices(len(x), k=1)
    dx, dy = x[second] - x[first], y[second] - y[first]
    apart = dx != 0
    return float(np.median(dy[apart] / dx[apart]))

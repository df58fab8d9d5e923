"""The order of an approximation, read as a slope on a log-log plot.

The fit is *floor-aware*: only points whose error stands clear of rounding, and steps of .1 at
most; Theil-Sen's median slope is not moved by the few points at either end that lie off the line.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy import stats
from torch import Tensor

STEPS = np.logspace(-7, -1, 43)
# An error below so many eps is rounding.
FLOOR = 100
# A slope is accepted if it falls short of the order by less than this.
SLACK = 0.2


def slope(error: Callable[[float], Tensor], scale: float = 1.0) -> float:
    """Slope of log error against log t in float64; inf if the error is rounding throughout."""
    errors = np.array([float(torch.linalg.vector_norm(error(t))) for t in STEPS])
    assert np.isfinite(errors).all()
    clear = errors > FLOOR * np.finfo(np.float64).eps * scale
    if not clear.any():
        return float("inf")
    assert clear.sum() >= 5, f"only {clear.sum()} steps have an error clear of rounding"
    return float(stats.theilslopes(np.log(errors[clear]), np.log(STEPS[clear])).slope)


def assert_order(error: Callable[[float], Tensor], order: int, scale: float = 1.0) -> None:
    """Error = O(t^order)."""
    found = slope(error, scale)
    assert found > order - SLACK, f"slope {found:.2f}, expected {order}"

"""The order of an approximation, by the fit that users have, and nothing but rounding below it."""

from collections.abc import Callable

import torch
from torch import Tensor

from riemopt.testing import Curve
from riemopt.testing.slopes import EPS, FLOOR, MARGIN, measure


def assert_slope(curve: Curve) -> None:
    """The slope is the order, and errors below the floor of the fit are of the size of rounding.

    (A check of a user's manifold allows for an iteration that stops a little above.)
    """
    assert curve.passed, str(curve)
    assert curve.floor <= MARGIN * FLOOR * EPS * curve.scale, f"rounding is {curve.floor:.3g}"
    assert curve.slope < float("inf") or max(curve.errors) <= curve.floor


def assert_order(error: Callable[[float], Tensor], order: int, scale: float = 1.0) -> None:
    """Error = O(t^order)."""
    assert_slope(measure(lambda t: float(torch.linalg.vector_norm(error(t))), order, scale))

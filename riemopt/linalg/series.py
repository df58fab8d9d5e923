"""Quotients of sines and cosines as functions of θ², smooth where θ is 0.

    >>> sin_over(theta.square())        # sin θ/θ, with the right derivatives of every order

`sin(θ)/θ` is NaN at 0, and the derivative of θ = √z is infinite there. Of z = θ² these functions
are power series; beyond z = 1 their formulas lose no digit.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

_TERMS = 11
"""Σ (-z)ᵏ/(2k)! and the like reach rounding in float64 for z ≤ 1."""


def sin_over(z: Tensor) -> Tensor:
    """sin θ/θ of z = θ² ≥ 0."""
    return _near_zero(z, 1, lambda t: t.sin() / t)


def versine_over(z: Tensor) -> Tensor:
    """(1 - cos θ)/θ² of z = θ² ≥ 0."""
    return _near_zero(z, 2, lambda t: 2 * (t / 2).sin().square() / t.square())


def sin_defect_over(z: Tensor) -> Tensor:
    """(θ - sin θ)/θ³ of z = θ² ≥ 0."""
    return _near_zero(z, 3, lambda t: (t - t.sin()) / t**3)


def _near_zero(z: Tensor, first: int, formula: Callable[[Tensor], Tensor]) -> Tensor:
    """Σ (-z)ᵏ/(2k + first)! for z ≤ 1, and the formula in θ beyond."""
    near = z <= 1
    small = torch.where(near, z, 0)
    series = torch.zeros_like(z)
    for k in reversed(range(_TERMS)):
        series = 1 / math.factorial(2 * k + first) - small * series
    return torch.where(near, series, formula(torch.where(near, 1, z).sqrt()))


def atan2_over(s: Tensor, c: Tensor) -> Tensor:
    """atan2(√s, c)/√s for s ≥ 0, as a function of s and c that is smooth at s = 0 where c > 0."""
    near = (s <= c.square() / 16) & (c > 0)
    c_near = torch.where(near, c, 1)
    t = torch.where(near, s, 0) / c_near.square()
    series = torch.zeros_like(s)
    for k in reversed(range(2 * _TERMS)):  # (1/16)ᵏ/(2k + 1)
        series = 1 / (2 * k + 1) - t * series
    root = torch.where(near, 1, s).clamp(min=torch.finfo(s.dtype).tiny).sqrt()
    return torch.where(near, series / c_near, torch.atan2(root, c) / root)

"""Functions of a squared length that are smooth at 0, and have every derivative there.

cos ‖u‖ and sin ‖u‖/‖u‖ are smooth in u, but autograd finds no second derivative of ‖u‖ at 0, nor of
`torch.sinc`. As functions of s = ‖u‖² they have a Taylor series, which is taken where s is small.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_COS = [(-1) ** k / math.factorial(2 * k) for k in range(10)]
_SINC = [(-1) ** k / math.factorial(2 * k + 1) for k in range(10)]
# ₂F₁(1, 1; 3/2; q): its coefficients are (2k)!!/(2k + 1)!!.
_ANGLE = [4**k * math.factorial(k) ** 2 / math.factorial(2 * k + 1) for k in range(10)]


def cos_of_root(s: Tensor) -> Tensor:
    """cos √s for s ≥ 0."""
    return _smooth(s, _COS, lambda s: s.sqrt().cos())


def sinc_of_root(s: Tensor) -> Tensor:
    """sin √s/√s for s ≥ 0."""
    return _smooth(s, _SINC, lambda s: s.sqrt().sin() / s.sqrt())


def angle_over_sine(a: Tensor, b: Tensor) -> Tensor:
    """θ/sin θ of the angle θ of two vectors x, y of one length: a = ‖x - y‖², b = ‖x + y‖².

    With q = sin²(θ/2) = a/(a + b); the two together tell θ near π, too.
    """
    near = a < (a + b) / 64
    half = torch.atan2(torch.where(near, 1, a).sqrt(), torch.where(near, 1, b).sqrt())
    q = torch.where(near, a, 0) / torch.where(near, a + b, 1)
    return torch.where(near, _series(q, _ANGLE), 2 * half / torch.sin(2 * half))


def _smooth(s: Tensor, coefficients: Sequence[float], far: Callable[[Tensor], Tensor]) -> Tensor:
    """The series where s < 1, and the closed form beyond.

    Each is given what it can differentiate: torch.where multiplies the other's derivative by 0.
    """
    near = s < 1
    return torch.where(
        near, _series(torch.where(near, s, 0), coefficients), far(torch.where(near, 1, s))
    )


def _series(s: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Σ cₖsᵏ: exact to rounding in float64 where it is used here."""
    value = torch.full_like(s, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * s + c
    return value

"""Functions of a squared length or angle that are smooth at 0, and have every derivative there.

cos ‖u‖ and sin ‖u‖/‖u‖ are smooth in u, but autograd finds no second derivative of ‖u‖ at 0, nor of
`torch.sinc`. As functions of s = ‖u‖² they have a Taylor series, which is taken where s is small.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_TERMS = 11
"""With so many, series reach rounding in float64 where they are used here."""
# ₂F₁(1, 1; 3/2; q): its coefficients are (2k)!!/(2k + 1)!!.
_ANGLE = [4**k * math.factorial(k) ** 2 / math.factorial(2 * k + 1) for k in range(_TERMS)]
_ATAN = [(-1) ** k / (2 * k + 1) for k in range(_TERMS)]


def cos_of_root(s: Tensor) -> Tensor:
    """cos θ of s = θ² ≥ 0.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import cos_of_root
        >>> cos_of_root(torch.tensor([0.0, 1.0]))  # 1 and cos 1
        tensor([1.0000, 0.5403])
    """
    return _near_zero(s, 0, torch.cos)


def sinc_of_root(s: Tensor) -> Tensor:
    """sin θ/θ of s = θ² ≥ 0.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import sinc_of_root
        >>> sinc_of_root(torch.tensor([0.0, 1.0]))  # 1 and sin 1
        tensor([1.0000, 0.8415])
    """
    return _near_zero(s, 1, lambda t: t.sin() / t)


def versine_of_root(s: Tensor) -> Tensor:
    """(1 - cos θ)/θ² of s = θ² ≥ 0.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import versine_of_root
        >>> versine_of_root(torch.tensor([0.0, 1.0]))  # ½ and 1 - cos 1
        tensor([0.5000, 0.4597])
    """
    return _near_zero(s, 2, lambda t: 2 * (t / 2).sin().square() / t.square())


def sine_defect_of_root(s: Tensor) -> Tensor:
    """(θ - sin θ)/θ³ of s = θ² ≥ 0."""
    return _near_zero(s, 3, lambda t: (t - t.sin()) / t**3)


def atan2_over_root(s: Tensor, c: Tensor) -> Tensor:
    """atan2(√s, c)/√s for s ≥ 0, as a function of s and c that is smooth at s = 0 where c > 0.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import atan2_over_root
        >>> atan2_over_root(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))  # 1 and π/4
        tensor([1.0000, 0.7854])
    """
    near = (s <= c.square() / 32) & (c > 0)
    c_near = torch.where(near, c, 1)
    series = _series(torch.where(near, s, 0) / c_near.square(), _ATAN)
    root = torch.where(near, 1, s).clamp(min=torch.finfo(s.dtype).tiny).sqrt()
    return torch.where(near, series / c_near, torch.atan2(root, c) / root)


def angle_over_sine(a: Tensor, b: Tensor) -> Tensor:
    """θ/sin θ of the angle θ of two vectors x, y of one length: a = ‖x - y‖², b = ‖x + y‖².

    With q = sin²(θ/2) = a/(a + b); the two together tell θ near π, too.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import angle_over_sine
        >>> x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> angle_over_sine((x - y).square().sum(), (x + y).square().sum())  # π/2
        tensor(1.5708)
    """
    near = a < (a + b) / 64
    half = torch.atan2(torch.where(near, 1, a).sqrt(), torch.where(near, 1, b).sqrt())
    q = torch.where(near, a, 0) / torch.where(near, a + b, 1)
    return torch.where(near, _series(q, _ANGLE), 2 * half / torch.sin(2 * half))


def _near_zero(s: Tensor, first: int, far: Callable[[Tensor], Tensor]) -> Tensor:
    """Σ (-s)ᵏ/(2k + first)! where s ≤ 1, and the closed form in θ = √s beyond.

    Each is given what it can differentiate: torch.where multiplies the other's derivative by 0.
    """
    near = s <= 1
    taylor = [(-1) ** k / math.factorial(2 * k + first) for k in range(_TERMS)]
    series = _series(torch.where(near, s, 0), taylor)
    return torch.where(near, series, far(torch.where(near, 1, s).sqrt()))


def _series(s: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Σ cₖsᵏ."""
    value = torch.full_like(s, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * s + c
    return value

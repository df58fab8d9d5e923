"""Vectors of fixed norm: x/‖x‖, the step that ends there, and tangent vectors.

A vector is what lies along `dims` of a tensor; `radius` is its norm. In a graph of torch.compile
the formulas are written as sums that the loop which makes `u` can find, instead of passes of their
own; elsewhere as the fewest passes over memory.
"""

import math

import torch
from torch import Tensor

from riemopt.linalg.backends import is_traced, known_to_exceed, reads_are_free
from riemopt.linalg.products import add_scaled, average, inner, squared_norm
from riemopt.linalg.sums import norm

_LONGEST = 1e15
"""Entry of which float32 can represent the square, and that of many added up; so its inverse."""


def normalise(a: Tensor, dims: tuple[int, ...], radius: float) -> Tensor:
    """r·a/‖a‖ for `a` of any size; a zero vector goes to the point whose entries are all equal.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import normalise
        >>> normalise(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), (-1,), 1.0)
        tensor([[0.6000, 0.8000],
                [0.7071, 0.7071]])
    """
    # Scaled first: the square of a large or tiny entry is not representable.
    largest = a.abs().amax(dims, keepdim=True) if a.numel() else norm(a, dims, keepdim=True)
    zero = largest == 0
    scaled = torch.where(zero, torch.ones_like(a), a / torch.where(zero, 1, largest))
    return (scaled * (radius / norm(scaled, dims, keepdim=True))).contiguous()


def move_and_normalise(
    x: Tensor, u: Tensor, t: float | Tensor, dims: tuple[int, ...], radius: float
) -> Tensor:
    """r(x + t·u)/‖x + t·u‖ with `u` tangent at `x`.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import move_and_normalise
        >>> move_and_normalise(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 1.0, (-1,), 1.0)
        tensor([0.7071, 0.7071])
    """
    if is_traced():
        return _move_in_a_graph(x, u, t, dims, radius)
    y = add_scaled(x, u, t)
    if reads_are_free(y) and y.numel():
        length = norm(y, dims, keepdim=True)
        shortest, longest = torch.aminmax(length.detach())
        # ‖x + u‖ ≥ ‖x‖: it only can overflow, or be zero where x was no point.
        if shortest.item() > 0 and longest.item() < math.inf:
            length = length if radius == 1 else length / radius
            return (y / length if y.requires_grad else y.div_(length)).contiguous()
    if not reads_are_free(y) and not y.is_complex() and 1 / _LONGEST < radius < _LONGEST:
        return _normalise_in_few_passes(y, dims, radius)
    return normalise(y, dims, radius)


def _normalise_in_few_passes(y: Tensor, dims: tuple[int, ...], radius: float) -> Tensor:
    """r·y/‖y‖ of a y no shorter than a point, and with entries of which squares may overflow.

    Those are cut: a step as long ends on the sphere, in some direction. A zero vector stays one.
    """
    y = y.clamp(-_LONGEST, _LONGEST)
    length = norm(y, dims, keepdim=True).clamp(min=1 / _LONGEST)
    return (y / (length if radius == 1 else length / radius)).contiguous()


def _move_in_a_graph(
    x: Tensor, u: Tensor, t: float | Tensor, dims: tuple[int, ...], radius: float
) -> Tensor:
    """By ‖x‖² + 2t⟨x, u⟩ + t²‖u‖². A step whose square cannot be represented is not taken."""
    xx, xu, uu = (inner(a, b, dims) for a, b in ((x, x), (x, u), (u, u)))
    squared = xx + 2 * t * xu + t * t * uu
    taken = squared < math.inf
    least = torch.finfo(squared.dtype).tiny  # a zero vector stays one
    scale = radius * torch.where(taken, squared, xx).clamp(min=least).rsqrt()
    return (scale * x + torch.where(taken, scale * t, 0) * u).contiguous()


def tangent_to_sphere(x: Tensor, u: Tensor, dims: tuple[int, ...], radius: float) -> Tensor:
    """u - x⟨x, u⟩/r²: the part of `u` that is tangent at `x`.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import tangent_to_sphere
        >>> tangent_to_sphere(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0]), (-1,), 1.0)
        tensor([0., 4.])
    """
    cosine = inner(x, u, dims)
    if is_traced():
        # ‖x‖² in place of r²: one read more. workaround: inductor_copy_keyerror
        squared = inner(x, x, dims).clamp(min=1e-6 * radius**2)
        return u - x * (cosine / squared)  # of an x that was set to zero: u
    return torch.addcmul(u, x, cosine, value=-1 / radius**2)


def mean_along_sphere(
    x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor, dims: tuple[int, ...], radius: float
) -> tuple[Tensor, Tensor]:
    """The tangent part of decay·m + (1 - decay)·g, and ‖the tangent part of g‖².

    The length follows from others, where reading a value is free and rounding allows it.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import mean_along_sphere
        >>> x, g = torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0])
        >>> mean_along_sphere(x, torch.zeros(2), g, 0.5, (-1,), 1.0)
        (tensor([0., 2.]), tensor([16.]))
    """
    found = _by_lengths(x, m, g, decay, dims, radius) if reads_are_free(x, m, g) else None
    if found is not None:
        return found
    tangent = tangent_to_sphere(x, g, dims, radius)
    mean = average(tangent, tangent_to_sphere(x, m, dims, radius), decay)
    return mean, squared_norm(tangent, dims)


def _by_lengths(
    x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor, dims: tuple[int, ...], radius: float
) -> tuple[Tensor, Tensor] | None:
    """By ‖g‖² - ⟨x, g⟩²/r², in fewer passes; None where that cancels: g is nearly normal."""
    cosine = inner(x, g, dims)
    whole = squared_norm(g, dims)
    squared = torch.addcmul(whole, cosine, cosine, value=-1 / radius**2)
    if not known_to_exceed(squared, whole, 1e-3):
        return None
    mean = average(g, m, decay)
    remove = mean.addcmul if mean.requires_grad else mean.addcmul_  # autograd has saved it
    return remove(x, inner(x, mean, dims), value=-1 / radius**2), squared

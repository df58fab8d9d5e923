"""Bounds on rounding errors, derived from eps and sizes.

`eps` is the spacing of the dtype at 1. Half precision is stored in half and summed in float32.
Errors are measured in float64, in the ambient norm of each point.
"""

import math

import torch
from torch import Tensor

from riemopt.manifolds import (
    FlatSubspace,
    Lorentz,
    Manifold,
    Scaled,
    SpecialLinear,
    SymplecticStiefel,
)
from riemopt.testing.sampling import length, wide
from tests.manifold_cases import CASES

__all__ = ["length", "wide"]

# Manifolds given by equations, and the same sets in the catalogue.
TWINS = {case.manifold: case.twin for case in CASES if case.twin is not None}
# A formula of the package is a chain of about so many roundings, each of relative size eps.
OPERATIONS = 8


def eps(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def entries(manifold: Manifold, x: Tensor) -> int:
    """Number of entries of one point."""
    return math.prod(x.shape[d] for d in manifold.event_dims(x.ndim))


def rounding(manifold: Manifold, x: Tensor) -> float:
    """Relative error of a computation on points like `x`: 8·(eps + √N·eps of the sums).

    Each operation rounds its result once; the errors of a sum of N terms grow like √N. A complex
    product is made of four real ones.
    """
    operations = OPERATIONS * (4 if x.is_complex() else 1)
    summed = eps(torch.promote_types(x.dtype, torch.float32))
    return operations * (eps(x.dtype) + summed * math.sqrt(entries(manifold, x)))


def smaller_side(manifold: Manifold, x: Tensor) -> int:
    """p: the smaller side of a matrix; for a vector its size, as its norm is a sum of so many."""
    if hasattr(manifold, "radius"):
        return entries(manifold, x)
    dims = manifold.event_ndim
    return min(x.shape[-dims], math.prod(x.shape[1 - dims :])) if dims else 1


def on_surface(manifold: Manifold, x: Tensor) -> float:
    """The promise for every stored point: violation ≤ 10·eps·√p (relative to a sphere's radius).

    Rounding the entries of orthonormal columns alone gives |XᴴX - I| up to eps in each entry. A
    level set's equation may say ‖x‖² - 1, twice of ‖x‖ - 1; or X - Xᴴ, of entries of any size.
    """
    twin = TWINS.get(manifold)
    if twin is not None:
        size = (
            max(1.0, float(x.abs().max())) if twin.allows_elementwise_scaling and x.numel() else 1.0
        )
        return 2 * on_surface(twin, x) * size
    if isinstance(manifold, Scaled):  # the norm that a point is divided by is rounded, too
        return 2 * on_surface(manifold.base, x)
    flat = isinstance(manifold, FlatSubspace) and not manifold.allows_elementwise_scaling
    if flat or isinstance(
        manifold, Lorentz | SpecialLinear | SymplecticStiefel
    ):  # entries of any size
        radius = max(1.0, float(x.detach().abs().max())) if x.numel() else 1.0
    else:
        radius = getattr(manifold, "radius", 1.0)
    return 10 * eps(x.dtype) * math.sqrt(smaller_side(manifold, x)) * radius


def assert_close(
    manifold: Manifold, a: Tensor, b: Tensor, scale: Tensor | float, bound: float | None = None
) -> None:
    """‖a - b‖ ≤ bound·scale at each point; the bound is `rounding` unless given."""
    assert a.shape == b.shape
    bound = rounding(manifold, a) if bound is None else bound
    error = length(manifold, a - b)
    worst = (
        (error / (bound * torch.as_tensor(scale) + torch.finfo(torch.float64).tiny)).max()
        if error.numel()
        else 0
    )
    assert worst <= 1, f"error is {float(worst):.3g} times the bound {bound:.3g}"
    assert bool(error.isfinite().all())

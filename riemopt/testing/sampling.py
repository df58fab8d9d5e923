"""Points, tangents and lengths that the laws are made of. Lengths are measured in float64."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from riemopt.manifolds.base import require_manifold

DOUBLE = (torch.float64, torch.complex128)
# Points and vectors come from different seeds: a vector that a point was made of is not generic.
VECTORS = 2**31  # (torch uses 32 bits of a seed)
# How often a direction is divided by ten.
SHORTER = 5
Where = Sequence[int] | Tensor
"""Where to check: a shape, of which random points are drawn, or a point."""


@dataclass(frozen=True)
class Sample:
    """A point (or batch), and the seed of the vectors that a law draws at it."""

    point: Tensor
    seed: int

    @property
    def x(self) -> Tensor:
        """A copy for each law, as a method may write to it."""
        return self.point.clone()

    @property
    def label(self) -> str:
        """What it takes to find it again."""
        return f"shape {tuple(self.point.shape)}, seed {self.seed}"

    def generator(self) -> Generator:
        """The same one every time."""
        return torch.Generator().manual_seed(VECTORS + self.seed)


def samples(
    manifold: Manifold, where: Sequence[Where], dtype: torch.dtype, seeds: Sequence[int]
) -> Iterator[Sample]:
    """One sample for each place and seed.

    Raises:
        TypeError: `manifold` is no manifold, or a place is neither a shape nor a tensor.
        ValueError: no place; a dtype other than float64 and complex128; a shape that the manifold
            refuses, or an empty one; a point that is off the surface.
    """
    require_manifold(manifold)
    if not where:
        raise ValueError("Say where to check: a shape such as (5, 2), or a point.")
    if not seeds:
        raise ValueError("At least one repeat is needed; got 0.")
    for place in where:
        shape = _checked_shape(manifold, place)
        for seed in seeds:
            if isinstance(place, Tensor):
                yield Sample(_checked_point(manifold, place), seed)
            else:
                _check_dtype(dtype)
                gen = torch.Generator().manual_seed(seed)
                x = manifold.random_point(*shape, generator=gen, dtype=dtype)
                yield Sample(x.detach(), seed)


def _checked_shape(manifold: Manifold, place: Where) -> tuple[int, ...]:
    if not isinstance(place, Tensor | Sequence) or isinstance(place, str):
        raise TypeError(f"A shape such as (5, 2), or a point, is needed; got {place!r}.")
    shape = tuple(place.shape if isinstance(place, Tensor) else place)
    manifold.check_shape(shape)
    if 0 in shape:
        raise ValueError(f"A shape with at least one point is needed; got {shape}.")
    return shape


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in DOUBLE:
        raise ValueError(
            f"Checks need float64 or complex128, in which a mistake stands clear of rounding; "
            f"got {dtype}."
        )


def _checked_point(manifold: Manifold, point: Tensor) -> Tensor:
    _check_dtype(point.dtype)
    x = point.detach()
    violation, allowed = manifold.violation(x), manifold.tolerance(x)
    if not bool((violation <= allowed).all()):
        raise ValueError(
            f"The point is off {manifold!r} by {float(violation.max()):.3g}, where "
            f"{float(allowed.max()):.3g} is rounding; take {type(manifold).__name__}.project of it."
        )
    return x


# --- vectors ---


def ambient(x: Tensor, gen: Generator) -> Tensor:
    """A standard normal tensor like `x`; `gen` is a generator of the CPU."""
    return torch.randn(x.shape, generator=gen, dtype=x.dtype).to(x.device)


def tangent(manifold: Manifold, x: Tensor, gen: Generator, size: float = 1.0) -> Tensor:
    """A tangent of ambient norm `size` at each point, or 0 where the tangent space is 0."""
    X = wide(x)
    u = manifold.proj_tangent(X, wide(ambient(x, gen)))
    long = length(manifold, u, keepdim=True)
    trivial = long < math.sqrt(torch.finfo(x.dtype).eps)
    u = u * torch.where(trivial, 0, size / torch.where(trivial, 1, long))
    # Once more, as where little of the noise was tangent its rounding error has been magnified.
    return manifold.proj_tangent(X, u).to(x.dtype)


def direction(manifold: Manifold, x: Tensor, gen: Generator) -> Tensor:
    """A tangent v such that steps tv with t ≤ .1 are small.

    In the ambient metric of the length of x, or 1, as surfaces of all sizes are; in a metric of the
    manifold's own of norm 1. Shorter where a step of .1 is not taken whole
    (`Manifold.curve_with_fraction`).
    """
    v = tangent(manifold, x, gen)
    if metric_is_ambient(manifold, x):
        long = length(manifold, x, keepdim=True)
        v = v * torch.where(long > 0, long, 1).to(x.real.dtype)
    else:
        norm = manifold.norm(x, v, keepdim=True)
        v = v / torch.where(norm > 0, norm, 1)
    for _ in range(SHORTER):
        taken = manifold.curve_with_fraction(x, v, 0.1)[1]
        if taken is None or bool((taken == 1).all()):
            return v
        v = 0.1 * v
    raise AssertionError(f"no step is taken whole, down to a length of {0.1 ** (SHORTER + 1):.0e}")


def stored(manifold: Manifold) -> Manifold:
    """The manifold of the tensors that stand for points: the total space of a quotient."""
    return manifold.total_space or manifold


# --- measures ---


def size(a: Tensor) -> float:
    """Norm of all entries together, or 1 for zeros: what rounding is relative to."""
    return float(torch.linalg.vector_norm(a)) or 1.0


def wide(a: Tensor) -> Tensor:
    """`a` in double precision."""
    return a.to(torch.complex128 if a.is_complex() else torch.float64)


def length(manifold: Manifold, a: Tensor, *, keepdim: bool = False) -> Tensor:
    """Ambient norm of each point, in float64; without overflow."""
    dims, a = manifold.event_dims(a.ndim), wide(a)
    return torch.linalg.vector_norm(a, dim=dims, keepdim=keepdim) if dims else a.abs()


def metric_is_ambient(manifold: Manifold, x: Tensor) -> bool:
    """Whether ⟨u, v⟩ at `x` is the ambient inner product, tried on two tangents at each point."""
    if manifold.extends_metric:
        return True
    gen = torch.Generator().manual_seed(VECTORS)  # not the seed that made the point
    u, v = tangent(manifold, x, gen), tangent(manifold, x, gen)
    difference = manifold.inner(x, u, v) - real_inner(manifold, u, v)
    return bool((difference.abs() <= math.sqrt(torch.finfo(x.dtype).eps)).all())


def real_inner(manifold: Manifold, a: Tensor, b: Tensor) -> Tensor:
    """Re⟨a, b⟩ of each point in the ambient inner product, in float64."""
    product = (wide(a).conj() * wide(b)).real
    dims = manifold.event_dims(a.ndim)
    return product.sum(dims) if dims else product


def ambient_inner(manifold: Manifold, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The inner product of the ambient space: `inner` if it `extends_metric`, else `real_inner`."""
    if manifold.extends_metric:
        return manifold.inner(wide(x), wide(a), wide(b))
    return real_inner(manifold, a, b)


def ambient_norm(manifold: Manifold, a: Tensor) -> Tensor:
    """That of `ambient_inner`, in float64."""
    if manifold.extends_metric:
        return ambient_inner(manifold, a, a, a).clamp(min=0).sqrt()
    return length(manifold, a)


def batch_shape(manifold: Manifold, x: Tensor) -> tuple[int, ...]:
    """The shape without the dimensions of a point."""
    events = {d % x.ndim for d in manifold.event_dims(x.ndim)}
    return tuple(n for d, n in enumerate(x.shape) if d not in events)


def event_dims_kept(manifold: Manifold, x: Tensor) -> tuple[int, ...]:
    """The shape with size 1 for the dimensions of a point."""
    events = {d % x.ndim for d in manifold.event_dims(x.ndim)}
    return tuple(1 if d in events else n for d, n in enumerate(x.shape))


def real_rows(manifold: Manifold, x: Tensor) -> Tensor:
    """Each point as a row of real numbers, `(*batch, N)`, or `(*batch, 2N)` if complex; a copy."""
    dims = manifold.event_dims(x.ndim)
    last = x.movedim(dims, tuple(range(-len(dims), 0)))
    flat = last.reshape(*batch_shape(manifold, x), -1).clone()
    return torch.view_as_real(flat).flatten(-2) if x.is_complex() else flat


def points(manifold: Manifold, entries: Tensor, like: Tensor) -> Tensor:
    """Inverse of `real_rows`: points of the shape and dtype of `like`."""
    if like.is_complex():
        entries = torch.view_as_complex(entries.unflatten(-1, (-1, 2)))
    dims = manifold.event_dims(like.ndim)
    event = [like.shape[d] for d in dims]
    last = entries.reshape(*entries.shape[:-1], *event)
    return last.movedim(tuple(range(-len(dims), 0)), dims).contiguous()

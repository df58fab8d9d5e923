"""What the laws of the contract are made of. The laws are in `test_law_*.py`.

A law is a function that raises `AssertionError` where it is broken. It takes the manifold, a point
(or batch) and a generator for the vectors it needs, and works for any manifold and dtype unless it
says otherwise. Each file states its laws and runs them over every case of `manifold_cases.py`;
`test_planted_mistakes.py` shows that each of them can fail.
"""

import math

import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from tests.bounds import TWINS, assert_close, eps, length, on_surface, wide

# Lengths of the steps that a retraction must stand.
SIZES = (0.0, 1e-8, 1.0, 1e3, 1e6)


def ambient(x: Tensor, gen: Generator) -> Tensor:
    """A standard normal tensor like `x`."""
    return torch.randn(x.shape, generator=gen, dtype=x.dtype)


def tangent(manifold: Manifold, x: Tensor, gen: Generator, size: float = 1.0) -> Tensor:
    """A tangent of ambient norm `size` at each point, or 0 where the tangent space is 0."""
    X = wide(x)
    u = manifold.proj_tangent(X, wide(ambient(x, gen)))
    long = length(manifold, u, keepdim=True)
    trivial = long < math.sqrt(eps(x.dtype))
    u = u * torch.where(trivial, 0, size / torch.where(trivial, 1, long))
    # Once more, as where little of the noise was tangent its rounding error has been magnified.
    return manifold.proj_tangent(X, u).to(x.dtype)


def real_inner(a: Tensor, b: Tensor) -> Tensor:
    """Re⟨a, b⟩ of all entries, in float64."""
    return (wide(a).conj() * wide(b)).real.sum()


def batch_shape(manifold: Manifold, x: Tensor) -> tuple[int, ...]:
    events = {d % x.ndim for d in manifold.event_dims(x.ndim)}
    return tuple(n for d, n in enumerate(x.shape) if d not in events)


def event_dims_kept(manifold: Manifold, x: Tensor) -> tuple[int, ...]:
    events = {d % x.ndim for d in manifold.event_dims(x.ndim)}
    return tuple(1 if d in events else n for d, n in enumerate(x.shape))


def assert_on_surface(manifold: Manifold, x: Tensor) -> None:
    bound = on_surface(manifold, x)
    violation = manifold.violation(wide(x))
    assert bool((violation <= bound).all()), f"off by {violation.max():.3g}, bound {bound:.3g}"


def assert_tangent(manifold: Manifold, x: Tensor, u: Tensor) -> None:
    """`proj_tangent` changes nothing about `u`."""
    assert_close(manifold, manifold.proj_tangent(x, u), u, length(manifold, u))


def project_scale(manifold: Manifold, a: Tensor) -> Tensor:
    """‖project(a)‖ times the condition number of the nearest point."""
    y = manifold.project(wide(a))
    manifold = TWINS.get(manifold, manifold)
    if manifold.is_linear:
        return length(manifold, a)
    if hasattr(manifold, "radius"):
        return length(manifold, y)
    matrix = wide(a).flatten(1 - manifold.event_ndim) if manifold.event_ndim > 2 else wide(a)
    sigma = torch.linalg.svdvals(matrix)
    return length(manifold, y) * (1 + sigma[..., 0] / sigma[..., -1])

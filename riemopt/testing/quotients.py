"""Quotients: tangent vectors are horizontal, and vertical ones leave the point where it is."""

import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from riemopt.testing.law import NotApplicableError, Residual, equality, law, need
from riemopt.testing.sampling import ambient, length, size, tangent
from riemopt.testing.slopes import Curve, measure


def total_space(manifold: Manifold) -> Manifold:
    """Of a quotient, with `NotApplicableError` for others."""
    if manifold.total_space is None:
        raise NotApplicableError("it is no quotient: total_space is None")
    return manifold.total_space


@law(
    "tangents of a quotient are tangent to its total space",
    "Is `proj_tangent` the projection on the horizontal space, a part of the tangent space of "
    "`total_space`?",
)
def tangents_are_horizontal(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """For vectors of the ambient space, projected."""
    total = total_space(manifold)
    a = ambient(x, gen)
    u = manifold.proj_tangent(x, a)
    return equality(manifold, total.proj_tangent(x, u), u, length(manifold, a))


@law(
    "‖invariants(R(x, tv)) - invariants(x)‖ = O(t²) for vertical v, and not so for tangent v",
    "Is a direction in which the point moves left out of the tangent space? Is `invariants` the "
    "same for all tensors that stand for a point, and for no others?",
)
def vertical_vectors_leave_the_point(manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
    """Vertical is what is tangent to the total space and orthogonal to the tangents. Double."""
    total = total_space(manifold)
    start = manifold.invariants(x)

    def moved(v: Tensor, t: float) -> float:
        end = manifold.invariants(total.retract(x, t * v))
        return float(torch.linalg.vector_norm(end - start))

    u = tangent(manifold, x, gen)
    trivial = size(u) < 1e-3 * size(x)
    need(trivial or moved(u, 1e-2) > 1e-3 * size(u), "invariants are the same along a tangent")
    a = ambient(x, gen)
    v = total.proj_tangent(x, a) - manifold.proj_tangent(x, a)
    v = v * (size(x) / size(v))
    return measure(lambda t: moved(v, t), 2, size(start))


LAWS = (tangents_are_horizontal, vertical_vectors_leave_the_point)

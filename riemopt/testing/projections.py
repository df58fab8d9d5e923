"""`proj_tangent` is the orthogonal projection on the tangent space of the surface."""

import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from riemopt.testing.law import NotApplicableError, Residual, equality, law, need, rounding
from riemopt.testing.sampling import (
    ambient,
    ambient_inner,
    ambient_norm,
    length,
    points,
    real_rows,
    size,
    stored,
)
from riemopt.testing.slopes import Curve, measure

# The tangent space of a larger point is not measured by a projection of each unit vector.
LARGEST = 256


@law("P(au + bv) = aPu + bPv", "Is something clipped, or divided by a norm of u?")
def projection_is_linear(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """For real a and b."""
    u, v = ambient(x, gen), ambient(x, gen)
    together = manifold.proj_tangent(x, 0.75 * u - 0.5 * v)
    apart = 0.75 * manifold.proj_tangent(x, u) - 0.5 * manifold.proj_tangent(x, v)
    return equality(manifold, together, apart, length(manifold, u) + length(manifold, v))


@law("P(Pu) = Pu", "Is the projection doubled: the normal part taken away twice, or half of it?")
def projection_is_idempotent(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """To rounding."""
    u = ambient(x, gen)
    once = manifold.proj_tangent(x, u)
    return equality(manifold, manifold.proj_tangent(x, once), once, length(manifold, u))


@law(
    "Re⟨Pu, v⟩ = Re⟨u, Pv⟩",
    "The projection is oblique: is it orthogonal in the ambient inner product Re Σ conj(u)·v, "
    "whatever the metric?",
)
def projection_is_self_adjoint(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """At each point; in `inner`, if that `extends_metric`."""
    u, v = ambient(x, gen), ambient(x, gen)
    left = ambient_inner(manifold, x, manifold.proj_tangent(x, u), v)
    right = ambient_inner(manifold, x, u, manifold.proj_tangent(x, v))
    scale = ambient_norm(manifold, u) * ambient_norm(manifold, v)
    return rounding((left - right).abs(), scale, x.dtype)


@law(
    "rank P = dim",
    "Does `dim` count the equations of the constraint, each of them once? Or does the projection "
    "keep too little, as the horizontal space of a quotient?",
)
def projection_has_rank_dim(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """The rank of u ↦ Pu, over the reals, is `dim` for each point. In double."""
    entries = real_rows(manifold, x)
    if entries.shape[-1] > LARGEST:
        raise NotApplicableError(f"more than {LARGEST} real entries a point; give a smaller shape")
    images = []
    for k in range(entries.shape[-1]):
        basis = torch.zeros_like(entries)
        basis[..., k] = 1
        images.append(real_rows(manifold, manifold.proj_tangent(x, points(manifold, basis, x))))
    ranks = torch.linalg.matrix_rank(torch.stack(images, -2), atol=0.5)
    dim = manifold.dim(x.shape, is_complex=x.is_complex())
    found = sorted(set(ranks.flatten().tolist()))
    need(found == [dim] or not found, f"rank {found}, dim {dim}")


@law(
    "‖project(x + ta) - x - tPa‖ = O(t²)",
    {
        0: "Is `project(x)` the point x itself, for x on the surface?",
        1: "The projection is not that of this surface: is a factor ½ missing, a part of the "
        "tangent space left out, or `project` not the nearest point?",
    },
)
def projection_is_derivative_of_project(manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
    """The tangent space is that of the surface. (Of a quotient: of its total space.) Double."""
    if manifold.keeps_entries:
        raise NotApplicableError("keeps_entries: `project` leaves what no step changes")
    a = ambient(x, gen)
    a = a * (size(x) / size(a))
    Pa = stored(manifold).proj_tangent(x, a)

    def error(t: float) -> float:
        return float(torch.linalg.vector_norm(manifold.project(x + t * a) - x - t * Pa))

    return measure(error, 2, size(x))


LAWS = (
    projection_is_linear,
    projection_is_idempotent,
    projection_is_self_adjoint,
    projection_has_rank_dim,
    projection_is_derivative_of_project,
)

"""What a manifold says of itself, on which optimizers rely when they take a short cut."""

import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from riemopt.testing.law import (
    NotApplicableError,
    Residual,
    equality,
    joined,
    law,
    need,
    rounding,
)
from riemopt.testing.sampling import ambient, length, real_inner, tangent


def _claimed(manifold: Manifold, name: str) -> None:
    if not getattr(manifold, name):
        raise NotApplicableError(f"{name} is False")


@law(
    "has_constant_norm: ‖x‖ = ‖y‖ = constant_norm(shape)",
    "Set has_constant_norm = False: weight decay has a tangent part. Or is it another norm?",
)
def norm_is_constant_as_claimed(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """Weight decay is then left out."""
    _claimed(manifold, "has_constant_norm")
    y = manifold.project(ambient(x, gen))
    a, b = length(manifold, x), length(manifold, y)
    try:
        claimed = torch.full_like(a, manifold.constant_norm(x.shape))
    except NotImplementedError:  # which `Scaled` alone asks for
        claimed = a
    return rounding(torch.maximum((a - b).abs(), (a - claimed).abs()), a, x.dtype)


@law(
    "has_ambient_metric: inner(x, u, v) = Re Σ conj(u)·v",
    "Set has_ambient_metric = False, and give `egrad2rgrad`; or inherit `inner`.",
)
def metric_is_as_claimed(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """One projection is then taken of the momentum and the gradient together."""
    _claimed(manifold, "has_ambient_metric")
    u, v = tangent(manifold, x, gen), tangent(manifold, x, gen)
    scale = length(manifold, u) * length(manifold, v)
    return rounding(manifold.inner(x, u, v).double() - real_inner(manifold, u, v), scale, x.dtype)


@law(
    "distorts_lengths: ‖u‖ is not the ambient length",
    "Set distorts_lengths = False: Adam's default then keeps a second moment for each entry.",
)
def lengths_differ_as_claimed(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """Adam's default then is `second_moment="point"`."""
    _claimed(manifold, "distorts_lengths")
    u = tangent(manifold, x, gen)
    squared = manifold.inner(x, u, u).double()
    need(not bool(squared.isclose(real_inner(manifold, u, u)).all()), "all lengths are ambient")


@law(
    "allows_elementwise_scaling: retract(x, u) = x + u, and u/(1 + v²), entry by entry, is tangent",
    "Set allows_elementwise_scaling = False: what leaves the tangent space is then projected.",
)
def linearity_is_as_claimed(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """Adam's elementwise quotient is then taken. (Of complex entries, part by part.)"""
    _claimed(manifold, "allows_elementwise_scaling")
    u, v = tangent(manifold, x, gen), tangent(manifold, x, gen)
    if x.is_complex():
        parts = (torch.view_as_real(a) for a in (u, v))
        numerator, moment = parts
        quotient = torch.view_as_complex(numerator / (1 + moment**2))
    else:
        quotient = u / (1 + v**2)
    scale = length(manifold, x) + length(manifold, u)
    return joined(
        equality(manifold, manifold.retract(x, u), x + u, scale),
        equality(manifold, manifold.proj_tangent(x, quotient), quotient, scale),
    )


@law("is_constraint = False: every tensor is a point", "Set is_constraint = True.")
def absence_of_a_constraint_is_as_claimed(
    manifold: Manifold, x: Tensor, gen: Generator
) -> Residual:
    """Plain Euclidean steps are then taken."""
    if manifold.is_constraint:
        raise NotApplicableError("is_constraint is True")
    a = ambient(x, gen)
    return joined(
        equality(manifold, manifold.proj_tangent(x, a), a, length(manifold, a)),
        equality(manifold, manifold.project(a), a, length(manifold, a)),
    )


@law(
    "keeps_entries: what `proj_tangent` makes 0 stays in `retract` and in `project`",
    "Set keeps_entries = False.",
)
def entries_are_kept_as_claimed(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """Bit for bit, for some entries. Two other laws are then not asked."""
    _claimed(manifold, "keeps_entries")
    a, b = ambient(x, gen), ambient(x, gen)
    kept = (manifold.proj_tangent(x, a) == 0) & (manifold.proj_tangent(x, b) == 0)
    need(bool(kept.any()), "every entry moves")
    y = manifold.retract(x, tangent(manifold, x, gen))
    need(torch.equal(y[kept], x[kept]), "retract changes an entry whose tangents are 0")
    need(torch.equal(manifold.project(a)[kept], a[kept]), "project changes such an entry")


LAWS = (
    norm_is_constant_as_claimed,
    metric_is_as_claimed,
    lengths_differ_as_claimed,
    linearity_is_as_claimed,
    absence_of_a_constraint_is_as_claimed,
    entries_are_kept_as_claimed,
)

"""`retract` follows its tangent to first or second order; what is made of it agrees with it."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from riemopt.testing.law import (
    Law,
    NotApplicableError,
    Residual,
    equality,
    joined,
    law,
    need,
)
from riemopt.testing.sampling import (
    ambient,
    batch_shape,
    direction,
    event_dims_kept,
    length,
    metric_is_ambient,
    size,
    tangent,
)
from riemopt.testing.slopes import Curve, measure

Retraction = Callable[[Tensor, Tensor], Tensor]
# Lengths of the steps that a retraction must stand.
SIZES = (1e-8, 1.0, 1e3)


@law(
    "retract(x, u) is on the surface for ‖u‖ = 1e-8, 1, 1e3",
    "Does the retraction end with an exact map on the surface, or with a few steps of an iteration "
    "that is right for small u only?",
)
def retraction_stays_on_surface(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """For tangents of any size. (A step may be refused: x is on the surface.)"""
    return joined(*(on_surface(manifold, y) for y in ends_of_steps(manifold, x, gen, SIZES)))


def ends_of_steps(
    manifold: Manifold, x: Tensor, gen: Generator, sizes: Sequence[float]
) -> list[Tensor]:
    """retract(x, u) for tangents u of these lengths; finite."""
    ends = [manifold.retract(x, tangent(manifold, x, gen, long)) for long in sizes]
    for y, long in zip(ends, sizes, strict=True):
        need(bool(y.isfinite().all()), f"not finite for ‖u‖ = {long:g}")
    return ends


def on_surface(manifold: Manifold, x: Tensor) -> Residual:
    """The violation, which rounding ought to explain."""
    violation, allowed = manifold.violation(x), manifold.tolerance(x)
    batch = batch_shape(manifold, x)
    for name, result in (("violation", violation), ("tolerance", allowed)):
        need(tuple(result.shape) == batch, f"{name}: shape {tuple(result.shape)}, needed {batch}")
    return Residual(violation.double(), allowed.double(), 1.0)


def first_order(retraction: Retraction, manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
    """Error of R(x, tv) = x + tv + O(t²)."""
    v = direction(manifold, x, gen)
    return _along(retraction, x, v, 2, lambda y, t: y - x - t * v)


def second_order(retraction: Retraction, manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
    """Error of P(R(x, tv) - x) = tv + O(t³): no tangential acceleration in the ambient metric.

    (Absil & Malick 2012.)
    """
    v = direction(manifold, x, gen)

    def error(y: Tensor, t: float) -> Tensor:
        return manifold.proj_tangent(x, y - x) - t * v

    return _along(retraction, x, v, 3, error)


def beside_exp(retraction: Retraction, manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
    """Error of R(x, tv) = exp(x, tv) + O(t³): of second order in the manifold's own metric."""
    v = direction(manifold, x, gen)
    return _along(retraction, x, v, 3, lambda y, t: y - manifold.exp(x, t * v))


def _along(
    retraction: Retraction,
    x: Tensor,
    v: Tensor,
    order: int,
    difference: Callable[[Tensor, float], Tensor],
) -> Curve:
    """The size of a difference at y = R(x, tv)."""

    def error(t: float) -> float:
        return float(torch.linalg.vector_norm(difference(retraction(x, t * v), t)))

    return measure(error, order, size(x))


# --- laws ---

ZERO = "Are the signs of a QR factor fixed? Is there a constant that is added?"
FIRST = {
    0: f"The retraction does not go to x as t → 0. {ZERO}",
    1: "An error of first order: does it move by a multiple of u, or along another vector? Is a "
    "projection doubled on the way?",
}
SECOND = {
    **FIRST,
    2: "A retraction of first order: it accelerates along the surface. That is enough for descent; "
    "check it with order=1. Of second order are: the nearest point to x + u, and the geodesic.",
}


def laws_of(of: Callable[[Manifold], Retraction]) -> tuple[Law, Law, Law, Law]:
    """The laws of the retraction that `of` gives for a manifold, from the weakest up."""

    @law("R(x, 0) = x", ZERO)
    def retraction_fixes_zero(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
        y = of(manifold)(x, torch.zeros_like(x))
        return equality(manifold, y, x, length(manifold, x))

    @law("‖R(x, tv) - x - tv‖ = O(t²)", FIRST)
    def retraction_is_first_order(manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
        return first_order(of(manifold), manifold, x, gen)

    @law("‖P(R(x, tv) - x) - tv‖ = O(t³)", SECOND)
    def retraction_is_second_order(manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
        if not metric_is_ambient(manifold, x):
            raise NotApplicableError("the metric is not the ambient one")
        return second_order(of(manifold), manifold, x, gen)

    @law("‖R(x, tv) - exp(x, tv)‖ = O(t³)", SECOND)
    def retraction_agrees_with_exp(manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
        try:
            return beside_exp(of(manifold), manifold, x, gen)
        except NotImplementedError:
            if metric_is_ambient(manifold, x):
                raise NotApplicableError("no closed-form exp") from None
            raise AssertionError(
                "second order in a metric that is not the ambient one is read off beside `exp`, "
                "which this manifold lacks; check it with order=1"
            ) from None

    return (
        retraction_fixes_zero,
        retraction_is_first_order,
        retraction_is_second_order,
        retraction_agrees_with_exp,
    )


(
    retraction_fixes_zero,
    retraction_is_first_order,
    retraction_is_second_order,
    retraction_agrees_with_exp,
) = laws_of(lambda manifold: manifold.retract)


@law(
    "curve(x, u, t) = retract(x, tu)",
    "`curve` is overridden; leave it out, or give it the formula of `retract`.",
)
def curve_is_its_definition(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """With a number, a tensor, or one number for each point."""
    u = tangent(manifold, x, gen)
    each = torch.rand(event_dims_kept(manifold, x), generator=gen, dtype=x.real.dtype)
    residuals = []
    for t in (0.0, -0.25, torch.tensor(0.125), each.to(x.device), 500 * each.to(x.device)):
        expected = manifold.retract(x, t * u)
        scale = length(manifold, x) + length(manifold, t * u) + length(manifold, expected)
        residuals.append(equality(manifold, manifold.curve(x, u, t), expected, scale))
    return joined(*residuals)


@law(
    "curve_with_fraction(x, u, t) = curve(x, u, t), and the part of the step that was taken",
    "`curve_with_fraction` is overridden: is the point that of `curve`, and the part a number in "
    "[0, 1] for each point, or None?",
)
def fraction_belongs_to_the_curve(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """For short and long steps."""
    u = tangent(manifold, x, gen)
    residuals = []
    for t in (0.1, 100.0):
        y, taken = manifold.curve_with_fraction(x, u, t)
        if taken is not None:
            batch = batch_shape(manifold, x)
            need(tuple(taken.shape) == batch, f"shape {tuple(taken.shape)}, needed {batch}")
            need(bool(((taken >= 0) & (taken <= 1)).all()), "a part is not in [0, 1]")
        residuals.append(equality(manifold, y, manifold.curve(x, u, t), length(manifold, y)))
    return joined(*residuals)


@law(
    "linearised_at(x) is the same manifold",
    "`linearised_at` is overridden: does it keep something of another point?",
)
def manifold_at_a_point_is_the_same(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """It may keep work that calls with the same point share."""
    u, a = tangent(manifold, x, gen), ambient(x, gen)
    here = manifold.linearised_at(x)
    here.proj_tangent(x, a)
    y, z = here.retract(x, u), manifold.retract(x, u)
    projected = manifold.proj_tangent(z, a)  # a point for which nothing was kept
    return joined(
        equality(manifold, y, z, length(manifold, x) + length(manifold, u)),
        equality(manifold, here.proj_tangent(z, a), projected, length(manifold, a)),
    )

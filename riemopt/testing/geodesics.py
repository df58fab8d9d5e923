"""`exp`, `log` and `dist`, where there is a closed form."""

from collections.abc import Callable

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
from riemopt.testing.retractions import FIRST, SECOND, first_order, on_surface, second_order
from riemopt.testing.sampling import batch_shape, direction, length, metric_is_ambient, size
from riemopt.testing.slopes import Curve, measure
from riemopt.testing.surfaces import need_like

# Short enough to be within the injectivity radius of all but strongly curved manifolds.
LENGTH = 0.1
# So near that a formula by acos or acosh has lost half of the digits, and one by atan2 none.
NEAR = 1e-6
# Of the difference quotient that measures a velocity; its error is of the order of H².
H = 1e-5


def closed_form(manifold: Manifold, name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The method, with `NotApplicableError` where the manifold lacks it."""
    method = getattr(manifold, name)

    def call(x: Tensor, y: Tensor) -> Tensor:
        try:
            result: Tensor = method(x, y)
        except NotImplementedError:
            raise NotApplicableError(f"no closed-form {name}") from None
        return result

    return call


@law("exp(x, u) is a point", "Is `exp` the geodesic of the surface, or of the ambient space?")
def exp_stays_on_surface(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """To a rounding error for each unit of length, and of the layout of `x`."""
    exp = closed_form(manifold, "exp")
    residuals = []
    for t in (0.0, 1e-3, 1.0):
        y = exp(x, t * direction(manifold, x, gen))
        need(y.shape == x.shape and y.dtype == x.dtype, f"got {tuple(y.shape)}, {y.dtype}")
        surface = on_surface(manifold, y)
        residuals.append(Residual(surface.error, surface.scale, 10.0))
    return joined(*residuals)


@law("‖exp(x, tv) - x - tv‖ = O(t²)", FIRST)
def exp_is_first_order(manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
    """Double."""
    return first_order(closed_form(manifold, "exp"), manifold, x, gen)


@law(
    "‖P(exp(x, tv) - x) - tv‖ = O(t³)",
    {**SECOND, 2: "The curve accelerates along the surface: is it the geodesic of another metric?"},
)
def exp_has_normal_acceleration(manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
    """A geodesic of the ambient metric. Double."""
    exp = closed_form(manifold, "exp")
    if not metric_is_ambient(manifold, x):
        raise NotApplicableError("the metric is not the ambient one")
    return second_order(exp, manifold, x, gen)


@law(
    "exp(exp(x, su), t·velocity) = exp(x, (s+t)u), at constant speed",
    "Is it a retraction, whose speed varies, in place of the geodesic of the metric?",
)
def exp_is_a_flow(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """The velocity by a difference quotient. Double."""
    exp = closed_form(manifold, "exp")
    u, s, t = direction(manifold, x, gen), 0.7, 0.4
    y = exp(x, s * u)
    velocity = manifold.proj_tangent(y, (exp(x, (s + H) * u) - exp(x, (s - H) * u)) / (2 * H))
    speed, start = manifold.norm(y, velocity), manifold.norm(x, u)
    further = exp(x, (s + t) * u)
    apart = length(manifold, exp(y, t * velocity) - further)
    scale = length(manifold, x) + length(manifold, further)
    quotient_error = 1e-6
    return joined(
        Residual((speed - start).abs().double(), start.double(), quotient_error),
        Residual(apart, scale, quotient_error),
    )


@law(
    "log(x, exp(x, u)) = u and exp(x, log(x, y)) = y",
    "Is it the logarithm of the same metric as `exp`, with the right length?",
)
def log_inverts_exp(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """Within the injectivity radius."""
    exp, log = closed_form(manifold, "exp"), closed_form(manifold, "log")
    u = LENGTH * direction(manifold, x, gen)
    y = exp(x, u)
    v = log(x, y)
    need_like("log", v.contiguous(), x)
    scale = length(manifold, x) + length(manifold, y)
    return joined(equality(manifold, v, u, scale), equality(manifold, exp(x, v), y, scale))


@law(
    "dist(x, exp(x, u)) = ‖u‖ = dist(y, x), and dist(x, x) = 0",
    "Is it the distance along the surface, in the metric of `norm`? (acos and acosh lose half of "
    "the digits of near points; atan2 and asinh do not.)",
)
def dist_is_length_of_geodesic(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """Within the injectivity radius; of the batch's shape."""
    exp, dist = closed_form(manifold, "exp"), closed_form(manifold, "dist")
    v = direction(manifold, x, gen)
    y, near = exp(x, LENGTH * v), exp(x, NEAR * v)
    there, back, close, none = dist(x, y), dist(y, x), dist(x, near), dist(x, x)
    batch = batch_shape(manifold, x)
    need(tuple(there.shape) == batch, f"shape {tuple(there.shape)}, needed {batch}")
    scale = length(manifold, x) + length(manifold, y)
    speed = manifold.norm(x, v)
    return joined(
        rounding((there - LENGTH * speed).abs(), scale, x.dtype),
        rounding((there - back).abs(), scale, x.dtype),
        Residual((close - NEAR * speed).abs().double(), scale * NEAR, 1e-6),
        Residual(none.abs().double(), scale * NEAR, 1e-6),
    )


@law(
    "|dist(x, R(x, tv)) - t‖v‖| = O(t²)",
    {
        0: "dist(x, x) is not 0: acos and acosh lose half of the digits of near points.",
        1: "The distance of near points is not their length: is it in the metric of `norm`?",
    },
)
def dist_agrees_with_norm(manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
    """Where there is no `exp` too. Double."""
    dist = closed_form(manifold, "dist")
    v = direction(manifold, x, gen)
    speed = manifold.norm(x, v)

    def error(t: float) -> float:
        apart = dist(x, manifold.retract(x, t * v)) - t * speed
        return float(torch.linalg.vector_norm(apart))

    return measure(error, 2, size(x))


@law(
    "the gradients of norm(u), exp(x, u), log(x, x + u), dist(x, x + u) at u = 0 are not NaN",
    "The derivative of a square root, or of 0/0: torch.where and torch.sinc take the branch before "
    "it is differentiated.",
)
def gradients_at_zero_are_finite(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """Of `norm`, and of the closed forms that there are."""
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "norm": lambda u: manifold.norm(x, u),
        "exp": lambda u: manifold.exp(x, u),
        "log": lambda u: manifold.log(x, x + u),
        "dist": lambda u: manifold.dist(x, x + u),
    }
    for name, function in functions.items():
        with torch.enable_grad():
            u = torch.zeros_like(x, requires_grad=True)
            try:
                total = function(u).real.sum()
            except NotImplementedError:
                continue
        (gradient,) = torch.autograd.grad(total, u)
        need(bool(gradient.isfinite().all()), f"that of {name} is not finite")


LAWS = (
    exp_stays_on_surface,
    exp_is_first_order,
    exp_has_normal_acceleration,
    exp_is_a_flow,
    log_inverts_exp,
    dist_is_length_of_geodesic,
    dist_agrees_with_norm,
    gradients_at_zero_are_finite,
)

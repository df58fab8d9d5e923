"""`ehess2rhess`, and vectors carried in parallel, where there are closed forms."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from riemopt.testing.geodesics import LENGTH, closed_form
from riemopt.testing.law import NotApplicableError, Residual, equality, joined, law, rounding
from riemopt.testing.sampling import (
    ambient,
    batch_shape,
    direction,
    length,
    metric_is_ambient,
    size,
    tangent,
)
from riemopt.testing.slopes import Curve, measure


class Quartic:
    """f(x) = Re⟨a, y⟩ + ¼·Σ|y|⁴ with a random a: neither gradient nor Hessian is special.

    Of y = x; on a quotient of its `invariants`, as f must be the same for all that stand for x.
    """

    def __init__(self, manifold: Manifold, x: Tensor, gen: Generator) -> None:
        self.of = manifold
        self.a = ambient(self._invariants(x), gen)

    def _invariants(self, x: Tensor) -> Tensor:
        return x if self.of.total_space is None else self.of.invariants(x)

    def value(self, x: Tensor) -> Tensor:
        """Of each point."""
        y = self._invariants(x)
        parts = (self.a.conj() * y).real + y.abs().square().square() / 4
        if self.of.total_space is not None:
            return parts.flatten(len(batch_shape(self.of, x))).sum(-1)
        dims = self.of.event_dims(x.ndim)
        return parts.sum(dims) if dims else parts

    def gradient(self, x: Tensor) -> Tensor:
        """Euclidean."""
        if self.of.total_space is None:
            return self.a + x.abs() ** 2 * x
        derivative: Tensor = torch.func.grad(lambda at: self.value(at).sum())(x)
        return derivative

    def hessian(self, x: Tensor, u: Tensor) -> Tensor:
        """Euclidean, times u."""
        if self.of.total_space is None:
            return 2 * x.abs() ** 2 * u + x**2 * u.conj()
        along: Tensor = torch.func.grad(lambda at: (u.conj() * self.gradient(at)).real.sum())(x)
        return along

    def riemannian(self, x: Tensor, u: Tensor) -> Tensor:
        """The Riemannian Hessian times u, by the method under test."""
        try:
            return self.of.ehess2rhess(x, self.gradient(x), self.hessian(x, u), u)
        except NotImplementedError:
            raise NotApplicableError("no closed-form ehess2rhess") from None


@law(
    "Hess f(x) is tangent and self-adjoint",
    "Is the result projected? Is the derivative of the projection, or of the metric, missing or "
    "taken twice?",
)
def hessian_is_self_adjoint(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """In the metric of `inner`."""
    f = Quartic(manifold, x, gen)
    u, v = direction(manifold, x, gen), direction(manifold, x, gen)
    Hu, Hv = f.riemannian(x, u), f.riemannian(x, v)
    difference = manifold.inner(x, Hu, v) - manifold.inner(x, u, Hv)
    scale = manifold.norm(x, Hu) * manifold.norm(x, v) + manifold.norm(x, u) * manifold.norm(x, Hv)
    return joined(
        equality(manifold, manifold.proj_tangent(x, Hu), Hu, length(manifold, Hu)),
        rounding(difference.abs(), scale, x.dtype),
    )


@law(
    "Hess f(x)[v] is the derivative of the gradient along the surface",
    {
        1: "The Euclidean Hessian alone is not enough: the gradient's normal part turns with the "
        "tangent space (ambient metric), and a metric that changes from point to point adds the "
        "acceleration of its geodesics.",
        2: "The acceleration of the geodesics is missing: is `h` converted as a gradient would be?",
    },
)
def hessian_is_derivative_of_gradient(manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
    """‖P(grad f(R(tv)) - grad f(x)) - t·Hess f[v]‖ = O(t²) in the ambient metric.

    In others |f(exp(tv)) - f - t⟨grad f, v⟩ - ½t²⟨Hess f[v], v⟩| = O(t³). Double.
    """
    f, v = Quartic(manifold, x, gen), direction(manifold, x, gen)
    Hv, grad = f.riemannian(x, v), manifold.egrad2rgrad(x, f.gradient(x))
    if metric_is_ambient(manifold, x):
        return derivative_of_gradient(
            manifold, x, v, lambda y: manifold.egrad2rgrad(y, f.gradient(y)), Hv
        )
    exp = closed_form(manifold, "exp")
    slope, bend = manifold.inner(x, grad, v), manifold.inner(x, Hv, v)
    summands = size(f.a) * size(x)  # which may cancel in f(x)
    return taylor(lambda t: f.value(exp(x, t * v)), slope, bend, summands)


def derivative_of_gradient(
    manifold: Manifold, x: Tensor, v: Tensor, gradient: Callable[[Tensor], Tensor], Hv: Tensor
) -> Curve:
    """‖P(grad f(R(tv)) - grad f(x)) - t·Hv‖ = O(t²), in the ambient metric, for any retraction."""
    grad = gradient(x)

    def error(t: float) -> float:
        there = gradient(manifold.retract(x, t * v))
        return float(torch.linalg.vector_norm(manifold.proj_tangent(x, there - grad) - t * Hv))

    return measure(error, 2, size(grad) + 0.1 * size(Hv))


def taylor(
    value: Callable[[float], Tensor], slope: Tensor, bend: Tensor, summands: float = 0.0
) -> Curve:
    """|f(c(t)) - f(c(0)) - t·slope - ½t²·bend| = O(t³), where `value` is t ↦ f(c(t)).

    `summands` is the size of numbers that may cancel in f.
    """
    start = value(0.0)

    def error(t: float) -> float:
        return float(torch.linalg.vector_norm(value(t) - start - t * slope - t * t * bend / 2))

    return measure(error, 3, summands + size(start) + 0.1 * size(slope))


@law(
    "parallel_transport(x, y, v) is tangent at y and keeps inner products; log(x, y) → -log(y, x)",
    "Is it the transport of the metric of `inner`, along the geodesic from x to y?",
)
def parallel_transport_keeps_inner_products(
    manifold: Manifold, x: Tensor, gen: Generator
) -> Residual:
    """Along a geodesic well within the injectivity radius."""
    exp = closed_form(manifold, "exp")
    u = LENGTH * direction(manifold, x, gen)
    v, w = tangent(manifold, x, gen), tangent(manifold, x, gen)
    y = exp(x, u)
    try:
        V, W, U = (manifold.parallel_transport(x, y, a) for a in (v, w, u))
    except NotImplementedError:
        raise NotApplicableError("no closed-form parallel_transport") from None
    vw = manifold.inner(x, v, w)
    scale = manifold.norm(x, v) * manifold.norm(x, w)
    residuals = [
        equality(manifold, manifold.proj_tangent(y, V), V, length(manifold, V)),
        rounding((manifold.inner(y, V, W) - vw).abs(), scale, x.dtype),
        equality(manifold, manifold.parallel_transport(x, x, v), v, length(manifold, v)),
    ]
    try:
        back = closed_form(manifold, "log")(y, x)
        points = length(manifold, x) + length(manifold, y)
        residuals.append(equality(manifold, U, -back, points))
    except NotApplicableError:
        pass
    return joined(*residuals)


LAWS = (
    hessian_is_self_adjoint,
    hessian_is_derivative_of_gradient,
    parallel_transport_keeps_inner_products,
)

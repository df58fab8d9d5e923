"""A function's Hessian against the function itself, along the curves of a manifold."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from riemopt.testing.gradients import Objective
from riemopt.testing.hessians import derivative_of_gradient, taylor
from riemopt.testing.law import (
    Law,
    NotApplicableError,
    Residual,
    equality,
    joined,
    rounding,
)
from riemopt.testing.retractions import second_order
from riemopt.testing.sampling import direction, length, metric_is_ambient
from riemopt.testing.slopes import Curve

Operator = Callable[[Tensor, Tensor], Tensor]
"""(x, u) ↦ the Hessian at x times u."""


@dataclass(frozen=True)
class SecondOrder:
    """A function with its gradient and its Hessian: one of two kinds, or autograd's."""

    objective: Objective
    euclidean: Operator | None
    riemannian: Operator | None

    def __post_init__(self) -> None:
        if self.euclidean is not None and self.riemannian is not None:
            raise ValueError("Give euclidean_hessian or riemannian_hessian, not both.")
        if self.objective.riemannian is not None and self.riemannian is None:
            raise ValueError(
                "A Riemannian Hessian is made of a Euclidean one by the Euclidean gradient: with "
                "riemannian_gradient give riemannian_hessian, or give euclidean_gradient."
            )

    def hessian(self, x: Tensor, u: Tensor) -> Tensor:
        """The Hessian that is checked, times u; Riemannian if `riemannian` is given."""
        given = self.euclidean or self.riemannian
        if given is None:
            return self._by_autograd(x, u)
        h = given(x.detach().clone(), u.detach().clone())
        if not isinstance(h, Tensor) or h.shape != x.shape or h.dtype != x.dtype:
            found = f"{tuple(h.shape)} of {h.dtype}" if isinstance(h, Tensor) else repr(h)
            raise ValueError(
                f"The Hessian takes a point and a tangent vector, and gives a tensor like them, "
                f"{tuple(x.shape)} of {x.dtype}; got {found}."
            )
        return h.detach()

    def _by_autograd(self, x: Tensor, u: Tensor) -> Tensor:
        """The derivative of Re⟨gradient, u⟩: double backward."""
        with torch.enable_grad():
            f, leaf = self.objective.differentiable(x)
            if not f.requires_grad:
                raise ValueError("The function's value does not depend on the point by autograd.")
            (g,) = torch.autograd.grad(
                f, leaf, create_graph=True, allow_unused=True, materialize_grads=True
            )
            along = (g.conj() * u).real.sum()
            if not along.requires_grad:  # a linear function
                return torch.zeros_like(x)
            (h,) = torch.autograd.grad(along, leaf, allow_unused=True, materialize_grads=True)
        return h.detach()

    def riemannian_hessian(self, manifold: Manifold, x: Tensor, u: Tensor) -> Tensor:
        """The one given, or the Euclidean one converted."""
        h = self.hessian(x, u)
        if self.riemannian is not None:
            return h
        try:
            return manifold.ehess2rhess(x, self.objective.gradient(x), h, u)
        except NotImplementedError as error:
            raise ValueError(f"{error} Give riemannian_gradient and riemannian_hessian.") from None


def laws_of_hessian(f: SecondOrder) -> tuple[Law, ...]:
    """The Hessian is a self-adjoint operator on tangent vectors, and the second derivative."""

    def scale(manifold: Manifold, x: Tensor, u: Tensor, Hu: Tensor) -> Tensor:
        """Of Hu, which may be a difference of larger numbers."""
        return length(manifold, Hu) + length(manifold, f.hessian(x, u))

    def is_tangent(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
        u = direction(manifold, x, gen)
        Hu = f.riemannian_hessian(manifold, x, u)
        return equality(manifold, manifold.proj_tangent(x, Hu), Hu, scale(manifold, x, u, Hu))

    def is_linear(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
        u, v = direction(manifold, x, gen), direction(manifold, x, gen)
        Hu, Hv = (f.riemannian_hessian(manifold, x, w) for w in (u, v))
        both = f.riemannian_hessian(manifold, x, 2 * u + v)
        size = scale(manifold, x, u, Hu) + scale(manifold, x, v, Hv)
        return equality(manifold, both, 2 * Hu + Hv, size)

    def is_self_adjoint(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
        u, v = direction(manifold, x, gen), direction(manifold, x, gen)
        Hu, Hv = (f.riemannian_hessian(manifold, x, w) for w in (u, v))
        difference = manifold.inner(x, Hu, v) - manifold.inner(x, u, Hv)
        norm = manifold.norm
        size = norm(x, Hu) * norm(x, v) + norm(x, u) * norm(x, Hv)
        return joined(rounding(difference.abs(), size, x.dtype))

    def is_derivative(manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
        if not metric_is_ambient(manifold, x):
            raise NotApplicableError("the metric is not the ambient one")
        v = direction(manifold, x, gen)
        Hv = f.riemannian_hessian(manifold, x, v)
        return derivative_of_gradient(
            manifold, x, v, lambda y: f.objective.riemannian_gradient(manifold, y), Hv
        )

    def is_second_order_term(manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
        v = direction(manifold, x, gen)
        curve = geodesic_to_second_order(manifold, x, v, gen)
        Hv = f.riemannian_hessian(manifold, x, v)
        slope = torch.tensor(f.objective.differential(manifold, x, v), dtype=torch.float64)
        bend = manifold.inner(x, Hv, v).sum()
        ends = max(abs(f.objective.value(curve(t))) for t in (0.0, 0.1))
        return taylor(
            lambda t: torch.tensor(f.objective.value(curve(t)), dtype=torch.float64),
            slope,
            bend.cpu(),
            ends + 0.01 * abs(float(bend)),
        )

    missing = (
        "What is left is of second order: is a term of the Hessian missing, or the metric's or the "
        "surface's share? A Euclidean Hessian is no Riemannian one, not even projected."
    )
    return (
        Law(
            "Hessian is tangent",
            "P Hess f(x)[u] = Hess f(x)[u]",
            "A Riemannian Hessian is given that is Euclidean: pass it as euclidean_hessian, or "
            "convert it by manifold.ehess2rhess.",
            is_tangent,
        ),
        Law(
            "Hessian is linear",
            "Hess f(x)[2u + v] = 2 Hess f(x)[u] + Hess f(x)[v]",
            "Is it made by differences, or is a term independent of u, or of second order in it?",
            is_linear,
        ),
        Law(
            "Hessian is self-adjoint",
            "⟨Hess f(x)[u], v⟩ = ⟨u, Hess f(x)[v]⟩ in the manifold's metric",
            "Is a factor transposed, or the derivative of the projection or of the metric missing?",
            is_self_adjoint,
        ),
        Law(
            "Hessian is the gradient's derivative",
            "‖P(grad f(R(x, tv)) - grad f(x)) - t·Hess f(x)[v]‖ = O(t²)",
            {
                0: "The gradient is random, or not continuous.",
                1: "A term of the Hessian is missing, or it and the gradient belong to two "
                "functions. The gradient alone: check_gradient.",
            },
            is_derivative,
        ),
        Law(
            "Hessian is the second-order term",
            "|f(c(t)) - f(x) - t⟨grad f(x), v⟩ - ½t²⟨Hess f(x)[v], v⟩| = O(t³)",
            {1: "The gradient is wrong: check_gradient says more.", 2: missing},
            is_second_order_term,
        ),
    )


def geodesic_to_second_order(
    manifold: Manifold, x: Tensor, v: Tensor, gen: Generator
) -> Callable[[float], Tensor]:
    """A curve from x along v without acceleration at x: `exp`, or a second-order retraction."""
    try:
        manifold.exp(x, 0 * v)
    except NotImplementedError:
        pass
    else:
        return lambda t: manifold.exp(x, t * v)
    if not metric_is_ambient(manifold, x):
        raise NotApplicableError("no closed-form exp, and the metric is not the ambient one")
    if not second_order(manifold.retract, manifold, x, gen).passed:
        raise NotApplicableError("no closed-form exp, and the retraction is of first order")
    return lambda t: manifold.retract(x, t * v)

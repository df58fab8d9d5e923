"""A function's gradient against the function itself, along the curves of a manifold."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from riemopt.testing.law import Law, Residual, equality, rounding
from riemopt.testing.sampling import DOUBLE, direction, length, real_inner
from riemopt.testing.slopes import Curve, measure

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Objective:
    """A function with its gradient: one of two kinds, or autograd's if neither is given."""

    function: Function
    euclidean: Function | None
    riemannian: Function | None

    def __post_init__(self) -> None:
        if self.euclidean is not None and self.riemannian is not None:
            raise ValueError("Give euclidean_gradient or riemannian_gradient, not both.")

    def value(self, x: Tensor) -> float:
        """f(x). (With autograd on, for functions that take a gradient inside.)"""
        return float(self.differentiable(x)[0].detach())

    def differentiable(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f of a copy of x with a graph, and that copy."""
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            f = self.function(leaf)
            f = f.reshape(()) if isinstance(f, Tensor) and f.numel() == 1 else f
        if not isinstance(f, Tensor) or f.ndim or f.dtype != torch.float64:
            found = f"{tuple(f.shape)} of {f.dtype}" if isinstance(f, Tensor) else repr(f)
            raise ValueError(
                f"The function must give one real number in float64, as a tensor; got {found}. "
                "(A model is cast by .double(), a batch is summed.)"
            )
        return f, leaf

    def gradient(self, x: Tensor) -> Tensor:
        """The gradient that is checked, Riemannian if `riemannian` is given."""
        given = self.euclidean or self.riemannian
        if given is not None:
            g = given(x.detach().clone())
            if not isinstance(g, Tensor) or g.shape != x.shape or g.dtype not in DOUBLE:
                found = f"{tuple(g.shape)} of {g.dtype}" if isinstance(g, Tensor) else repr(g)
                raise ValueError(
                    f"The gradient must be like the point, {tuple(x.shape)} of {x.dtype}; "
                    f"got {found}."
                )
            return g.detach()
        f, leaf = self.differentiable(x)
        if not f.requires_grad:
            raise ValueError("The function's value does not depend on the point by autograd.")
        (g,) = torch.autograd.grad(f, leaf, allow_unused=True, materialize_grads=True)
        return g

    def riemannian_gradient(self, manifold: Manifold, x: Tensor) -> Tensor:
        """The one given, or the Euclidean one converted."""
        g = self.gradient(x)
        return g if self.riemannian is not None else manifold.egrad2rgrad(x, g)

    def differential(self, manifold: Manifold, x: Tensor, v: Tensor) -> float:
        """⟨grad f(x), v⟩ of the gradient given, in its own inner product."""
        g = self.gradient(x)
        if self.riemannian is not None:
            return float(manifold.inner(x, g, v).sum())
        return float(real_inner(manifold, g, v).sum())


def laws_of_gradient(objective: Objective) -> tuple[Law, ...]:
    """The gradient is tangent; it is the differential; the manifold's conversion keeps that."""

    def is_tangent(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
        grad = objective.riemannian_gradient(manifold, x)
        # At a critical point the gradient is a difference of numbers of this size.
        unit = 1e-6 * abs(objective.value(x)) / length(manifold, x).clamp(min=1)
        scale = length(manifold, grad) + length(manifold, objective.gradient(x)) + unit
        return equality(manifold, manifold.proj_tangent(x, grad), grad, scale)

    def is_differential(manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
        v = direction(manifold, x, gen)
        f, slope = objective.value(x), objective.differential(manifold, x, v)

        def error(t: float) -> float:
            return abs(objective.value(manifold.retract(x, t * v)) - f - t * slope)

        far = objective.value(manifold.retract(x, 0.1 * v))
        return measure(error, 2, max(abs(f), abs(far), 0.1 * abs(slope)))

    def is_represented(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
        v, g = direction(manifold, x, gen), objective.gradient(x)
        grad = manifold.egrad2rgrad(x, g)
        difference = manifold.inner(x, grad, v) - real_inner(manifold, g, v)
        scale = length(manifold, g) + manifold.norm(x, grad)
        return rounding(difference.abs(), scale, x.dtype)

    tangent = Law(
        "gradient is tangent",
        "P grad f(x) = grad f(x)",
        "A Riemannian gradient is given that is Euclidean: pass it as euclidean_gradient, or "
        "convert it by manifold.egrad2rgrad. If it is the manifold's: see check_manifold.",
        is_tangent,
    )
    differential = Law(
        "gradient is the differential",
        "|f(R(x, tv)) - f(x) - t⟨grad f(x), v⟩| = O(t²)",
        {
            0: "f(R(x, tv)) does not go to f(x): is the function random (dropout), or float32 "
            "somewhere inside?",
            1: "The gradient is wrong: by a factor, in a term, or in a custom backward. If it is "
            "given: is it Euclidean or Riemannian, as named, and the metric the manifold's?",
        },
        is_differential,
    )
    represented = Law(
        "Riemannian gradient represents it",
        "⟨grad f(x), v⟩ = Df(x)[v] in the manifold's metric",
        "`egrad2rgrad` and `inner` of the manifold do not agree: see check_manifold.",
        is_represented,
    )
    return (tangent, differential) + ((represented,) if objective.riemannian is None else ())

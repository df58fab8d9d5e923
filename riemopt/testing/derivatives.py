"""The derivatives that autograd finds of `project`, `exp`, `log` and `dist` are theirs.

At points where formulas break down though the function is smooth, and at others: `project` at
points of the manifold, where singular values are equal; `exp` at u = 0; `log` and dist² at y = x.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from riemopt.testing.geodesics import LENGTH, closed_form
from riemopt.testing.law import NotApplicableError, law
from riemopt.testing.sampling import ambient, direction, size
from riemopt.testing.slopes import Curve, measure

ADVICE = (
    "Autograd finds another derivative, or NaN: does it go through singular vectors of equal "
    "singular values, a detached tensor, or a root or a norm at zero? (torch.where and torch.sinc "
    "take the branch before it is differentiated.)"
)


def derivative(
    function: Callable[..., Tensor],
    arguments: tuple[Tensor, ...],
    gen: Generator,
    reach: float = 1.0,
) -> Curve:
    """⟨w, f(a + td) - f(a)⟩ - t⟨gradient, d⟩ of random w and d, which ought to be O(t²).

    `reach` is the length of d beside that of the first argument.
    """
    directions = [ambient(a, gen) for a in arguments]
    directions = [d * (reach * size(arguments[0]) / size(d)) for d in directions]
    leaves = [a.detach().clone().requires_grad_() for a in arguments]
    with torch.enable_grad():
        start = function(*leaves)
    if not start.requires_grad:
        raise NotApplicableError("autograd does not see it")
    w = ambient(start.detach(), gen)
    gradients = torch.autograd.grad(
        start, leaves, grad_outputs=w, allow_unused=True, materialize_grads=True
    )
    slope = sum(_inner(g, d) for g, d in zip(gradients, directions, strict=True))
    start = start.detach()

    def error(t: float) -> float:
        moved = function(*(a + t * d for a, d in zip(arguments, directions, strict=True)))
        return abs(_inner(w, moved - start) - t * slope)

    return measure(error, 2, size(w) * max(size(start), abs(slope) / size(w)))


def _inner(a: Tensor, b: Tensor) -> float:
    return float((a.conj() * b).real.sum())


@law("D project is that of autograd: |⟨w, f(a + td) - f(a)⟩ - t·Df(a)[d]| = O(t²)", ADVICE)
def project_has_its_derivative(manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
    """At points of the manifold, and near it. Double."""
    apart = ambient(x, gen)
    near = x + _reach(manifold) * LENGTH * size(x) / size(apart) * apart

    def both(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([manifold.project(a), manifold.project(b)])

    return derivative(both, (x, near), gen, _reach(manifold))


@law("D exp(x, u) is that of autograd, at u = 0 too", ADVICE)
def exp_has_its_derivative(manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
    """In x and in u. Double."""
    u = LENGTH * direction(manifold, x, gen)
    arguments = (x, torch.zeros_like(x), u)
    return derivative(_both(closed_form(manifold, "exp")), arguments, gen)


@law("D log(x, y) is that of autograd, at y = x too", ADVICE)
def log_has_its_derivative(manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
    """In x and in y. Double."""
    log = closed_form(manifold, "log")
    y = manifold.retract(x, LENGTH * direction(manifold, x, gen))
    return derivative(_both(log), (x, x, y), gen, _reach(manifold))


@law("D dist²(x, y) is that of autograd, at y = x too", ADVICE)
def squared_dist_has_its_derivative(manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
    """In x and in y; dist itself is not smooth at y = x. Double."""
    dist = closed_form(manifold, "dist")
    if manifold.keeps_entries:
        raise NotApplicableError("where entries that stay differ, the distance is infinite")
    y = manifold.retract(x, LENGTH * direction(manifold, x, gen))
    squared = _both(lambda x, y: dist(x, y).square())
    return derivative(squared, (x, x, y), gen, _reach(manifold))


def _reach(manifold: Manifold) -> float:
    """How far arguments are moved: only a little where the set is open, which they would leave."""
    return 1e-2 if manifold.margin else 1.0


def _both(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The function of (x, u) and of (x, v), as one tensor."""
    return lambda x, u, v: torch.stack([function(x, u), function(x, v)])


LAWS = (
    project_has_its_derivative,
    exp_has_its_derivative,
    log_has_its_derivative,
    squared_dist_has_its_derivative,
)

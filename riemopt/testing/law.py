"""What a law is, and what it shows: a residual, a slope, or a plain yes.

    @law("P(Pu) = Pu", "Is the normal part taken away twice?")
    def projection_is_idempotent(manifold, x, gen):
        ...
        return equality(manifold, twice, once, scale)

A law takes the manifold, a point (or batch) `x` and a generator for the vectors that it needs, and
works for any manifold and any dtype unless it says otherwise. The package's own suite runs the same
laws with tighter bounds.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from riemopt.testing.sampling import length
from riemopt.testing.slopes import Curve


@dataclass(frozen=True, eq=False)
class Residual:
    """How far two things are apart that ought to be equal: `error ≤ bound·scale` at each point."""

    error: Tensor
    scale: Tensor
    bound: float

    def worst(self, bound: float | None = None) -> tuple[float, float]:
        """The error that is largest beside what is allowed, and what is allowed there."""
        if not self.error.numel():
            return 0.0, 0.0
        error = torch.where(self.error.isfinite(), self.error, torch.inf).flatten()
        allowed = self.scale.expand_as(self.error) * (self.bound if bound is None else bound)
        allowed = allowed.flatten() + torch.finfo(torch.float64).tiny
        at = (error / allowed).argmax()
        return float(error[at]), float(allowed[at])

    def excess(self, bound: float | None = None) -> float:
        """The worst error as a multiple of what is allowed: more than 1 where the law is broken.

        `bound` takes the place of the residual's own.
        """
        error, allowed = self.worst(bound)
        return error / allowed if allowed else 0.0


Evidence = Residual | Curve | None


@dataclass(frozen=True)
class Law:
    """A law with its name, its formula, and what is probably wrong where it is broken.

    `advice` may say one thing for each order that an error may have in place of the one needed.
    """

    name: str
    formula: str
    advice: str | Mapping[int, str]
    function: Callable[[Manifold, Tensor, Generator], Evidence]
    by_shape: bool = False
    """Whether it depends on the shape alone, so that one point of each is enough."""

    def __call__(self, manifold: Manifold, x: Tensor, gen: Generator) -> Evidence:
        """The evidence at `x`; `AssertionError` where a law that measures nothing is broken."""
        return self.function(manifold, x, gen)

    def advice_for(self, evidence: Evidence) -> str:
        """What is probably wrong."""
        if isinstance(self.advice, str):
            return self.advice
        if isinstance(evidence, Curve) and math.isfinite(evidence.slope):
            return self.advice.get(round(evidence.slope), "")
        return ""


def law(
    formula: str, advice: str | Mapping[int, str], *, by_shape: bool = False
) -> Callable[[Callable[[Manifold, Tensor, Generator], Evidence]], Law]:
    """Decorator: the function as a law, under its own name."""

    def decorate(function: Callable[[Manifold, Tensor, Generator], Evidence]) -> Law:
        return Law(function.__name__.replace("_", " "), formula, advice, function, by_shape)

    return decorate


class NotApplicableError(Exception):
    """Raised by a law that says nothing about the manifold at hand."""


def need(condition: bool, text: str) -> None:
    """Raise `AssertionError(text)` unless the condition holds; unlike `assert`, under -O too."""
    if not condition:
        raise AssertionError(text)


def equality(manifold: Manifold, a: Tensor, b: Tensor, scale: Tensor | float) -> Residual:
    """a = b at each point, where both are of the size of `scale`."""
    need(a.shape == b.shape, f"shapes {tuple(a.shape)} and {tuple(b.shape)} ought to be equal")
    return rounding(length(manifold, a - b), scale, a.dtype)


def rounding(error: Tensor, scale: Tensor | float, dtype: torch.dtype) -> Residual:
    """An error that ought to be rounding of numbers of size `scale` that are held in `dtype`.

    Half of the digits are asked for: mistakes are of size 1 and rounding is of size eps, and the
    condition numbers of a manifold's formulas lie between.
    """
    scale = torch.as_tensor(scale, device=error.device)
    need(not (error.is_complex() or scale.is_complex()), "a number is complex that is to be real")
    error, scale = error.to(torch.float64), scale.to(torch.float64)
    return Residual(error, scale, math.sqrt(torch.finfo(dtype).eps))


def joined(*residuals: Residual) -> Residual:
    """Several residuals of one law."""
    error = torch.cat([r.error.flatten() for r in residuals])
    allowed = [(r.scale * r.bound).expand_as(r.error).flatten() for r in residuals]
    return Residual(error, torch.cat(allowed) / residuals[0].bound, residuals[0].bound)

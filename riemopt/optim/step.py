"""One step of a stack of points: carry, rule, move.

1. **Carry.** The geometry makes the Riemannian gradient and brings the momentum to the points:
   `carry` turns what the rule asks for (`Request`) into `Carried`.
2. **Rule.** The algorithm makes a `Step` of it: a direction, a factor, a new state. Arithmetic on
   tensors, in the file of the algorithm; it knows no manifold and no process.
3. **Move.** Project the direction if the rule left the tangent space, refuse what is not finite,
   retract: `move`.

A stack is a tensor `(K, *shape)`: K parameters of one shape, dtype and device on one manifold. What
is done here for whole points, `riemopt.optim.sharded_step` does for points that are cut over
processes.

Letters: `x` points, `g` Euclidean gradients, `m` momentum (tangent where the last step started),
`u` a direction, `t` its factor.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from riemopt import linalg
from riemopt.manifolds import Manifold

Scalar = float | Tensor


class Request(NamedTuple):
    """What a rule asks the geometry for."""

    momentum: Tensor | None = None
    """The old momentum, which is brought to the points."""
    decay: Scalar = 0.0
    weight: Scalar | None = None
    """The new momentum is decay·momentum + weight·grad. None: 1 - decay, a running mean."""
    gradient: bool = False
    """Whether the gradient is needed by itself. It always is without momentum."""
    squared_norm: bool = False
    ambient: bool = False
    """Whether the gradient is the Euclidean one, and nothing else is asked for."""


@dataclass
class Carried:
    """What a rule works with: tangent vectors at the points `(K, *shape)`.

    A rule may set to None what it needs no longer, so that its memory is free for the rest.
    """

    momentum: Tensor | None
    gradient: Tensor | None
    squared_norm: Tensor | None
    """‖grad‖² in the metric, with event dimensions of size 1."""
    momentum_sums: Sequence[Tensor] | None = None
    """Of parts: the sums that a step along `momentum` needs."""


@dataclass
class Step:
    """What a rule has decided: to go from the points along t·u. Parts may be let go of early."""

    u: Tensor
    t: Scalar
    state: dict[str, Any] = field(default_factory=dict)
    """New values of the state; tensors `(K, …)`, or a number that holds for all."""
    is_tangent: bool = True
    """False if `u` has to be projected to the tangent space."""
    keeps_nan: bool = False
    """True if `u` is not finite where what was carried is not, so that `u` alone is looked at."""


@dataclass
class SpectralStep(Step):
    """A step in the spectral norm; `u` is any ambient tensor, of which the geometry makes one.

    By `Manifold.spectral_direction`, whose arguments these are, and `Manifold.spectral_curve`.
    """

    msign_steps: int = 6
    eps: float = 1e-7
    exact: bool = True
    decay: Scalar = 0.0
    """Decoupled weight decay: the direction goes by the tangent part of decay·x besides."""


class StepCheck(NamedTuple):
    """Which members of a stack take their step, as `(K,)` booleans."""

    finite: Tensor
    """The step is finite, and no GradScaler objects: the state may change."""
    moved: Tensor
    """And it is not zero: the point may change."""


def descent(
    manifold: Manifold, x: Tensor, g: Tensor, weight_decay: Scalar, maximize: bool
) -> Tensor:
    """The Euclidean gradient, negative for `maximize`, and that of ½·weight_decay·‖x‖²."""
    g = -g if maximize else g
    if weight_decay != 0 and not manifold.has_constant_norm:
        g = g + weight_decay * x
    return g


def carry(manifold: Manifold, x: Tensor, g: Tensor, request: Request) -> Carried:
    """The Riemannian gradient at `x`, and the momentum brought to `x`."""
    with linalg.inexact_products(x, allowed=manifold.tangents_may_be_inexact):
        return _carry(manifold, x, g, request)


def _carry(manifold: Manifold, x: Tensor, g: Tensor, request: Request) -> Carried:
    if request.ambient:
        return Carried(None, g, None)
    m, decay, weight = request.momentum, request.decay, request.weight
    if m is not None and weight is not None:
        momentum = manifold.carry(x, m, g, decay, weight)
        grad = manifold.egrad2rgrad(x, g) if request.gradient else None
        return Carried(momentum, grad, None)
    if m is not None and not request.gradient:
        mean, squared = manifold.carry_mean(x, m, g, decay)
        return Carried(mean, None, squared)
    gradient = manifold.egrad2rgrad(x, g)
    length = manifold.inner(x, gradient, gradient, keepdim=True) if request.squared_norm else None
    if m is None:
        return Carried(None, gradient, length)
    # A linear subspace carries vectors as they are, and m was in it before.
    carried = m if manifold.allows_elementwise_scaling else manifold.proj_tangent(x, m)
    return Carried(linalg.average(gradient, carried, decay), gradient, length)


def make_tangent(manifold: Manifold, x: Tensor, step: Step) -> None:
    """Project the direction of `step` where the rule left the tangent space."""
    if isinstance(step, SpectralStep):
        with linalg.inexact_products(x, allowed=manifold.tangents_may_be_inexact):
            step.u = manifold.spectral_direction(
                x, step.u, step.msign_steps, eps=step.eps, exact=step.exact
            )
            return
    if not step.is_tangent and not manifold.allows_elementwise_scaling:
        with linalg.inexact_products(x, allowed=manifold.tangents_may_be_inexact):
            step.u = manifold.proj_tangent(x, step.u)


def decide(
    manifold: Manifold,
    x: Tensor,
    g: Tensor,
    request: Request,
    rule: Callable[[Carried], Step],
    skip: Tensor | None = None,
    shrink: Scalar = 0.0,
) -> tuple[Step, StepCheck | None]:
    """Carry and rule: the step to take, tangent and checked.

    Args:
        manifold, x, g: where the points lie, the points, their Euclidean gradients.
        request: what `rule` needs.
        rule: makes the step.
        skip: as of `check`.
        shrink: lr times decoupled weight decay: the step goes by -shrink·x besides, made tangent.
    """
    carried = carry(manifold, x, g, request)
    source = carried.momentum if carried.momentum is not None else carried.gradient
    assert source is not None
    del g, request
    step = rule(carried)
    del carried
    looks = not step.keeps_nan and step.u is not source
    largest = linalg.largest_entries(source) if looks else None
    del source
    make_tangent(manifold, x, step)
    if (isinstance(shrink, Tensor) or shrink != 0) and not manifold.has_constant_norm:
        outward = manifold.proj_tangent(x, x)
        if isinstance(step, SpectralStep):  # whose curve is not that of t·u at 1
            step.u = linalg.add_scaled(step.u, outward, step.decay)
        else:
            step.u, step.t = step.t * step.u - shrink * outward, 1.0
    return step, check(step.u, step.t, skip, largest)


def check(
    u: Tensor, t: Scalar, skip: Tensor | None = None, source: Tensor | None = None
) -> StepCheck | None:
    """Look at the steps t·u of a stack; None where the host knows that all are to be taken.

    Args:
        u: tangent directions `(K, *shape)`.
        t: factor, a number or broadcasting to `u`.
        skip: a 0-dimensional boolean: refuse the whole stack.
        source: `(K,)`; a step is refused too where this is not finite.
    """
    if source is not None and linalg.known_all(source.isfinite()):
        source = None
    if skip is None and source is None and linalg.steps_are_known_to_count(u, t):
        return None
    largest = linalg.largest_entries(u)
    if source is not None:
        largest = torch.where(source.isfinite(), largest, torch.nan)
    return check_sizes(largest, t, skip)


def check_sizes(
    largest: Tensor, t: Scalar, skip: Tensor | None, limit: float = math.inf
) -> StepCheck:
    """Which steps to take where `largest`, `(K,)`, bounds the entries of each direction.

    Refused is a step that may have an entry of `limit` or more, or one that is not a number.
    """
    if not isinstance(t, Tensor):
        sizes = largest * abs(t)
    elif t.ndim == 0:
        sizes = (largest * t).abs()
    elif t.numel() == 0:
        sizes = largest
    elif t.numel() == len(t):
        sizes = largest * t.flatten().abs()
    else:  # one factor for each point
        sizes = largest * torch.linalg.vector_norm(t.flatten(1), math.inf, dim=1)
    finite = sizes < limit
    if skip is not None:
        finite = finite & ~skip
    return StepCheck(finite, finite.logical_and(sizes))  # of what is not 0


def move(
    manifold: Manifold,
    x: Tensor,
    u: Tensor,
    t: Scalar,
    checked: StepCheck | None,
    *,
    spectral: bool = False,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Retract along t·u; a member whose step is zero keeps every bit, as does a refused one.

    With `overwrite` the points may be written over x; `spectral` says of what kind u is.

    Returns:
        The points, and how many of a step that was to be taken took only a part of it; None where
        the manifold takes any step whole.
    """
    curve = manifold.spectral_curve if spectral else manifold.curve_with_fraction
    y, fraction = curve(x, u, t)
    shortened = None if fraction is None else fraction < 1
    if checked is not None:
        y = select(checked.moved, y, x, out=x if overwrite else None)
        if shortened is not None:
            shortened = shortened & along(checked.moved, shortened)
    return y, None if shortened is None else count(shortened)


def count(flags: Tensor) -> Tensor:
    """How many of some flags are set, 0-dimensional; one flag is its own number."""
    return flags.sum() if flags.numel() != 1 else flags.view(())


def select(chosen: Tensor, new: Tensor, old: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`new` for the chosen members of a stack, `old` for the others; `out` may be `old`."""
    if out is None:
        return torch.where(along(chosen, old), new.view_as(old), old)
    return torch.where(along(chosen, old), new.view_as(old), old, out=out)


def along(values: Tensor, stack: Tensor) -> Tensor:
    """One value for each member of a stack, shaped to broadcast to it."""
    return values.reshape(-1, *[1] * (stack.ndim - 1))

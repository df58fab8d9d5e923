"""A step of points of which each process holds a part: as `riemopt.optim.step`, with sums.

Each function is an `Exchange`: it yields what has to be summed over the processes and is sent the
sums. What a process decides it decides on sums, which all processes know alike.

    SGD, Adam with a moment for each point     3 rounds: gradient and momentum, the step, its end
    elementwise moments, torch's own rules     4 rounds: the direction is projected once more

and one round less on spheres.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from riemopt import linalg
from riemopt.distributed import ShardedGeometry, Summand
from riemopt.distributed.exchange import Exchange
from riemopt.optim.step import (
    Carried,
    Request,
    Scalar,
    Step,
    StepCheck,
    along,
    check_sizes,
    select,
)


class DirectionSums(NamedTuple):
    """What the processes know together of a direction U."""

    largest: Tensor
    """(K,): a bound of |U| for each member: its largest entry on each process, added up."""
    products: Sequence[Tensor]
    """Of `ShardedGeometry.curve_summands`."""


def carry(
    parts: ShardedGeometry, x: Tensor, g: Tensor, request: Request, skip: Tensor | None
) -> Exchange[Carried]:
    """`step.carry` of the own part. One round; a second where ‖grad‖² is asked for.

    The second sends along what a step along the momentum will need, which most rules take.
    """
    m, decay, weight = request.momentum, request.decay, request.weight
    momentum = None
    if m is None:
        (XG,) = yield [parts.gradient_summand(x, g)]
        gradient = parts.gradient(x, g, XG)
    else:
        XG, XM = yield [parts.gradient_summand(x, g), parts.projection_summand(x, m)]
        gradient = parts.gradient(x, g, XG)
        carried = parts.project(x, m, XM)
        if weight is None:
            momentum = linalg.average(gradient, carried, decay)
        else:
            momentum = linalg.combine(carried, gradient, decay, weight)
    if not request.squared_norm:
        return Carried(momentum, gradient, None)
    summand = parts.squared_summand(x, gradient, XG)
    if momentum is None:
        (squared,) = yield [summand]
        return Carried(None, gradient, squared)
    kept = gradient if request.gradient else None
    del gradient, g  # many steps wait for their sums together
    squared, *sums = yield [summand, *_direction_summands(parts, x, momentum, skip)]
    return Carried(momentum, kept, squared, sums)


def make_tangent(parts: ShardedGeometry, x: Tensor, step: Step) -> Exchange[None]:
    """`step.make_tangent` of the own part. One round, where there is something to do."""
    if not step.is_tangent:
        (XU,) = yield [parts.projection_summand(x, step.u)]
        step.u = parts.project(x, step.u, XU)


def decide(
    parts: ShardedGeometry,
    x: Tensor,
    g: Tensor,
    request: Request,
    rule: Callable[[Carried], Step],
    skip: Tensor | None = None,
) -> Exchange[tuple[Step, DirectionSums, StepCheck | None]]:
    """`step.decide` of the own part, and the sums that `move` needs."""
    carried = yield from carry(parts, x, g, request, skip)
    source = carried.momentum if carried.momentum is not None else carried.gradient
    assert source is not None
    del g, request
    step = rule(carried)
    known = carried.momentum_sums if step.u is carried.momentum else None
    del carried
    if not step.keeps_nan and step.u is not source:
        bad = ~linalg.largest_entries(source).isfinite()
        step.u = torch.where(along(bad, step.u), torch.nan, step.u)
    del source
    yield from make_tangent(parts, x, step)
    if known is None:
        known = yield _direction_summands(parts, x, step.u, skip)
    sums = DirectionSums(known[0], known[1:])
    return step, sums, check(sums, step.t)


def sums_of_direction(parts: ShardedGeometry, x: Tensor, u: Tensor) -> Exchange[DirectionSums]:
    """What a step along `u` needs summed. One round."""
    largest, *products = yield _direction_summands(parts, x, u, None)
    return DirectionSums(largest, products)


def _direction_summands(
    parts: ShardedGeometry, x: Tensor, u: Tensor, skip: Tensor | None
) -> list[Summand]:
    """`skip` refuses the step, on all processes if one of them says so."""
    largest = linalg.largest_entries(u)
    if skip is not None:
        largest = torch.where(skip, torch.nan, largest)
    return [largest, *parts.curve_summands(x, u)]


def check(sums: DirectionSums, t: Scalar) -> StepCheck | None:
    """`step.check`, from what all processes know: they refuse the same steps.

    A step whose square cannot be represented is refused too.
    """
    largest = sums.largest
    for total in sums.products:
        largest = torch.where(total.abs().flatten(1).isfinite().all(1), largest, torch.inf)
    checked = check_sizes(largest, t, None, torch.finfo(largest.dtype).max ** 0.5)
    return None if linalg.known_all(checked.moved) else checked


def move(
    parts: ShardedGeometry,
    x: Tensor,
    u: Tensor,
    t: Scalar,
    sums: DirectionSums,
    checked: StepCheck | None,
) -> Exchange[Tensor]:
    """`step.move` of the own part. One round, or none where the geometry needs no finish."""
    y = parts.curve(x, u, t, *sums.products)
    if parts.needs_finish:
        (YY,) = yield [parts.finish_summand(y)]
        y = parts.finish(y, YY)
    return y if checked is None else select(checked.moved, y, x)

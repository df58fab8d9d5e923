"""The steps of `functional` for points of which each process holds a part.

A step is a generator. It yields the tensors that it needs summed over the processes, and is sent
the sums: that is one *round*. `run` drives the steps of many weights together and sums what all of
them ask for at once, so that the number of all-reduces does not grow with the number of weights:

    SGD, Adam                     3 rounds: for gradient and momentum, the step, and its end
    Adam, elementwise moment      4 rounds: the quotient is projected again

and one round less on spheres. How many there are does not depend on what the tensors hold, and what
a process decides it decides on sums, which all processes know alike.
"""

from collections.abc import Generator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from riemopt import linalg
from riemopt.distributed import ShardedGeometry, Summand
from riemopt.distributed.dtensor import Groups, all_reduce
from riemopt.distributed.summands import numbers, restored
from riemopt.optim import functional
from riemopt.optim.functional import Acceptance, AdamState, Scalar

_T = TypeVar("_T")
Rounds = Generator[Sequence[Summand], list[Tensor], _T]


class Direction(NamedTuple):
    """A step t·U as the processes know it together."""

    x: Tensor
    """The own part of the points, `(K, *local)`."""
    u: Tensor
    """The own part of the directions."""
    t: Scalar
    largest: Tensor
    """(K,): a bound of |U| for each member: its largest entry on each process, added up."""
    sums: Sequence[Tensor]
    """Of `ShardedGeometry.curve_summands`."""


def run(steps: Sequence[tuple[Groups, Rounds[None]]]) -> None:
    """Take all `steps` to their end, each with sums over its own groups of processes."""
    waiting = [(groups, step, next(step)) for groups, step in steps]
    while waiting:
        sums: dict[int, list[Tensor]] = {}
        for groups in dict.fromkeys(groups for groups, _, _ in waiting):
            members = [i for i, entry in enumerate(waiting) if entry[0] == groups]
            shares = [numbers(share) for i in members for share in waiting[i][2]]
            totals = iter(all_reduce(shares, groups))
            for i in members:
                sums[i] = [restored(next(totals), share) for share in waiting[i][2]]
        advanced = []
        for i, (groups, step, _) in enumerate(waiting):
            try:
                advanced.append((groups, step, step.send(sums[i])))
            except StopIteration:
                continue
        waiting = advanced


def sgd(
    parts: ShardedGeometry,
    x: Tensor,
    g: Tensor,
    m: Tensor | None,
    *,
    lr: Scalar,
    momentum: float,
    dampening: float,
    nesterov: bool,
    maximize: bool,
    skip: Tensor | None,
) -> Rounds[tuple[Direction, Tensor | None]]:
    """`functional.sgd`: the direction, and the new `m`."""
    g = -g if maximize else g
    if m is None or momentum == 0:
        (XG,) = yield [parts.gradient_summand(x, g)]
        u = grad = parts.gradient(x, g, XG)
        m = grad if momentum != 0 else m
    else:
        XG, XM = yield [parts.gradient_summand(x, g), parts.projection_summand(x, m)]
        grad = parts.gradient(x, g, XG)
        u = m = torch.add(momentum * parts.project(x, m, XM), grad, alpha=1 - dampening)
    if m is not None and nesterov:
        u = linalg.add_scaled(grad, m, momentum)
    del g, grad  # many steps wait for their sums together
    largest, *sums = yield _shares(parts, x, u, skip)
    return Direction(x, u, -lr, largest, sums), m


def adam(
    parts: ShardedGeometry,
    x: Tensor,
    g: Tensor,
    state: AdamState,
    *,
    lr: Scalar,
    beta1: Scalar,
    beta2: Scalar,
    eps: float,
    amsgrad: bool,
    maximize: bool,
    elementwise: bool,
    skip: Tensor | None,
) -> Rounds[tuple[Direction, AdamState]]:
    """`functional.adam`: the direction, and the new state."""
    g = -g if maximize else g
    XG, XM = yield [parts.gradient_summand(x, g), parts.projection_summand(x, state.m)]
    grad = parts.gradient(x, g, XG)
    m = linalg.average(grad, parts.project(x, state.m, XM), beta1)

    def scale(square: Tensor) -> functional.AdamScale:
        return functional.adam_scale(
            state,
            square,
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            amsgrad=amsgrad,
            elementwise=elementwise,
        )

    if elementwise:
        new = scale(functional.squares(grad))
        quotient = functional.divide(m, new.denominator)
        (XQ,) = yield [parts.projection_summand(x, quotient)]
        u, t = parts.project(x, quotient, XQ), new.length
        largest, *sums = yield _shares(parts, x, u, skip)
    else:
        squared_summand = parts.squared_summand(x, grad, XG)
        del g, grad  # many steps wait for their sums together
        squared, largest, *sums = yield [squared_summand, *_shares(parts, x, m, skip)]
        new = scale(squared / (parts.entries * (2 if x.is_complex() else 1)))
        u, t = m, new.quotient()
    return Direction(x, u, t, largest, sums), AdamState(new.step, m, new.v, new.v_max)


def _shares(parts: ShardedGeometry, x: Tensor, u: Tensor, skip: Tensor | None) -> list[Summand]:
    """What a step along `u` needs summed: `largest` and `sums` of `Direction`.

    `skip` refuses the step, on all processes if one of them says so.
    """
    largest = functional.largest_entries(u)
    if skip is not None:
        largest = torch.where(skip, torch.nan, largest)
    return [largest, *parts.curve_summands(x, u)]


def accept(direction: Direction) -> Acceptance | None:
    """`functional.accept`, from what all processes know: they refuse the same steps.

    A step whose square cannot be represented is refused too.
    """
    largest = direction.largest
    for total in direction.sums:
        largest = torch.where(total.abs().flatten(1).isfinite().all(1), largest, torch.inf)
    limit = torch.finfo(largest.dtype).max ** 0.5
    acceptance = functional.judge(largest, direction.t, None, limit)
    if linalg.host_readable(acceptance.moved) and bool(acceptance.moved.all()):
        return None
    return acceptance


def move(
    parts: ShardedGeometry, direction: Direction, acceptance: Acceptance | None
) -> Rounds[Tensor]:
    """`functional.move`: the own part of the end points."""
    x, u, t, _, (XX, XU, UU) = direction
    y = parts.curve(x, u, t, XX, XU, UU)
    if parts.needs_finish:
        (YY,) = yield [parts.finish_summand(y)]
        y = parts.finish(y, YY)
    return y if acceptance is None else functional.select(acceptance.moved, y, x)

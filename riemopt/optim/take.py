"""A step by a rule of our own, from carry to the written weights; and what was refused, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from riemopt.distributed import ShardedGeometry
from riemopt.distributed.exchange import Exchange
from riemopt.linalg import HALF
from riemopt.manifolds import Manifold
from riemopt.optim import sharded_step
from riemopt.optim import step as steps
from riemopt.optim.parameters import decay_is_decoupled
from riemopt.optim.stack import Stack
from riemopt.optim.step import Step, StepCheck

if TYPE_CHECKING:
    from riemopt.optim.optimizer import RiemannianOptimizer


class Counter:
    """A number on each device, so that counting does not wait for one."""

    def __init__(self) -> None:
        self._counts: dict[torch.device, Tensor] = {}

    def prepare(self, device: torch.device) -> None:
        """Have a number on `device`; called before a step, since a graph cannot make one."""
        if device not in self._counts:
            self._counts[device] = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, number: Tensor) -> None:
        """Add a 0-dimensional tensor."""
        self._counts[number.device].add_(number)

    def total(self) -> int:
        """The sum over all devices; synchronises."""
        return sum(int(count) for count in self._counts.values())


def take(optimizer: RiemannianOptimizer, group: dict[str, Any], stack: Stack) -> None:
    """One step of whole points by the optimizer's own rule.

    What is stored is let go of before the points move: a step needs less memory so.
    """
    skip = optimizer._skip(stack.device)
    x, g = stack.points(), stack.gradients(getattr(optimizer, "grad_scale", None))
    manifold = stack.manifold.linearised_at(x)
    decay, decoupled = group.get("weight_decay", 0.0), decay_is_decoupled(optimizer, group)
    g = steps.descent(manifold, x, g, 0.0 if decoupled else decay, group.get("maximize", False))
    step, checked = steps.decide(
        manifold,
        x,
        g,
        optimizer._request(group, stack),
        lambda carried: optimizer._rule(group, stack, carried),
        skip,
        shrink=group["lr"] * decay if decoupled and decay != 0 else 0.0,
    )
    del g
    _count(optimizer, checked, skip)
    _store_state(stack, step, checked)
    finish(optimizer, stack, manifold, x, step, checked)


def finish(
    optimizer: RiemannianOptimizer,
    stack: Stack,
    manifold: Manifold,
    x: Tensor,
    step: Step,
    checked: StepCheck | None,
) -> None:
    """Move the points and write them; momentum is kept as `Manifold.after_move` says."""
    keeps_x = type(manifold).after_move is not Manifold.after_move
    overwrite = not keeps_x and stack.is_live(x, stack.params[0])
    y, shortened = steps.move(manifold, x, step.u, step.t, checked, overwrite=overwrite)
    if shortened is not None:
        optimizer._shortened.add(shortened)
    if keeps_x:
        _keep_momentum(optimizer, stack, manifold, x, y)
    if y is not x:
        stack.store_points(y)


def _keep_momentum(
    optimizer: RiemannianOptimizer, stack: Stack, manifold: Manifold, x: Tensor, y: Tensor
) -> None:
    for key in optimizer.tangent_state:
        if key in stack.states[0]:
            m = stack.load(key)
            kept = manifold.after_move(x, y, m)
            if kept is not m:
                stack.store(key, kept, (y != x).flatten(1).any(1))


def take_parts(
    optimizer: RiemannianOptimizer, group: dict[str, Any], stack: Stack, parts: ShardedGeometry
) -> Exchange[None]:
    """`take`, for points of which this process holds a part."""
    skip = optimizer._skip(stack.device)
    x, g = stack.points(), stack.gradients(getattr(optimizer, "grad_scale", None))
    g = -g if group.get("maximize") else g
    step, sums, checked = yield from sharded_step.decide(
        parts,
        x,
        g,
        optimizer._request(group, stack),
        lambda carried: optimizer._rule(group, stack, carried),
        skip,
    )
    del g
    _count(optimizer, checked, skip)
    u = step.u
    _store_state(stack, step, checked)
    if stack.params[0].dtype in HALF:  # it was rounded, and the sums are not those of what is left
        step.u = u
    stack.store_points((yield from sharded_step.move(parts, x, step.u, step.t, sums, checked)))


def _store_state(stack: Stack, step: Step, checked: StepCheck | None) -> None:
    """Store the new state and let go of it; `step.u` becomes what is stored, where it is that."""
    finite = None if checked is None else checked.finite
    for key in list(step.state):
        value = step.state.pop(key)
        stack.store(key, value, finite)
        if value is step.u and finite is None and stack.in_place:
            step.u = stack.load(key)
        del value


def _count(optimizer: RiemannianOptimizer, checked: StepCheck | None, skip: Tensor | None) -> None:
    if checked is None:
        return
    refused = steps.count(~checked.finite)
    if skip is not None:  # a GradScaler's own decision, which it counts itself
        refused = refused * ~skip
    optimizer._skipped.add(refused)

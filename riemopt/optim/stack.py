"""Parameters that are stepped as one batch: gathered, and written back.

Parameters and gradients are copied into a batch at each step. The state is not: the tensors that a
parameter finds in its state are views of one batch, made at the first step, so that only the points
travel. They look and behave as if each parameter had its own, and are gathered again when something
(a checkpoint, a user) has put other tensors in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from riemopt import _torch_workarounds, linalg
from riemopt.distributed.dtensor import (
    cut_dims,
    is_dtensor,
    layout,
    local_gradient,
    local_part,
    part_count,
)
from riemopt.distributed.geometry import parts_of
from riemopt.linalg import HALF
from riemopt.manifolds import Manifold
from riemopt.optim.parameters import check_step
from riemopt.optim.state import exact
from riemopt.optim.step import select

if TYPE_CHECKING:
    from riemopt.optim.optimizer import RiemannianOptimizer

# Parameters of up to this many entries are stacked. Adam on Stiefel, two cores, one by one against
# stacked: 64 of 16², 13 times as long; 16 of 128×64, 3.6; 16 of 256×64, 1.6; 16 of 128², 1.04;
# 8 of 256², .96; 8 of 1024×64, .83, since the copies in and out then cost more than they save.
_STACK_NUMEL = 1 << 14


class Stack:
    """Constrained parameters that are stepped as one batch, and their part of the state.

    Args:
        manifold: where all of them lie.
        params: of equal shape, dtype and device, each with a gradient.
        states: the state of each.
        in_place: write results into the existing tensors; False where autograd records the step.

    DTensors are stepped by the part that this process holds. `parts` and `groups` say how, if the
    points are cut; they are None and empty where each process holds whole points.

    Raises:
        NotImplementedError: see `parts_of`.
    """

    def __init__(
        self,
        manifold: Manifold,
        params: list[Tensor],
        states: list[dict[str, Any]],
        *,
        in_place: bool,
    ) -> None:
        self.manifold = manifold
        self.params = params
        self.states = states
        self.in_place = in_place
        self._batches: dict[str, tuple[Tensor, tuple[Tensor, ...]]] = {}
        self.distributed = is_dtensor(params[0])
        self.parts, self.groups = parts_of(params[0], manifold)
        events = manifold.event_dims(params[0].ndim)
        self._scattered = not cut_dims(params[0]) <= set(events)
        self.device = params[0].device
        self.entries = 2 if params[0].is_complex() else 1
        """Real numbers in one whole point."""
        for d in events:
            self.entries *= params[0].shape[d]

    def points(self) -> Tensor:
        """`(K, *shape)` values, in float32 if the parameters are in half precision."""
        return self._full(self._stack(self._local(self.params)))

    def gradients(self, grad_scale: Tensor | None) -> Tensor:
        """`(K, *shape)` gradients; what a GradScaler left to a fused optimizer is unscaled here."""
        tensors = [p.grad for p in self.params if p.grad is not None]
        if self.distributed:
            tensors = list(map(local_gradient, tensors, self.params))
        grads = self._stack(tensors)
        dtype = torch.float32 if self.params[0].dtype in HALF else self.params[0].dtype
        if grads.dtype != dtype:
            grads = grads.to(dtype)
        return grads if grad_scale is None else grads / grad_scale.to(grads.device)

    def load(self, key: str) -> Tensor:
        """`(K, …)` values of one state tensor."""
        batch = self.batch(key)
        if batch is None:
            batch = self._stack(self._local([state[key] for state in self.states]))
        return self._full(batch)

    def store_points(self, x: Tensor) -> None:
        """Write `(K, *shape)` values into the parameters, rounded to their dtype."""
        dtype = self.params[0].dtype
        if x.dtype != dtype:
            x = self.manifold.round_point(x, dtype)
        self._write(self._local(self.params), x)

    def store(self, key: str, value: Tensor | float, accepted: Tensor | None) -> None:
        """Write one state tensor of each parameter whose step was accepted; None means all.

        Of one parameter alone it may be a number, which fills the tensor. A parameter that has no
        such state yet gets zeros first.
        """
        if key not in self.states[0]:
            for p, state in zip(self.params, self.states, strict=True):
                state[key] = torch.zeros_like(
                    p, dtype=exact(p), memory_format=torch.contiguous_format
                )
        if self._scattered and self.states[0][key].ndim == 0:
            accepted = None  # processes refuse points of their own; this number is one for all
        if not isinstance(value, Tensor):
            if accepted is None:
                local_part(self.states[0][key]).fill_(value)
                return
            old = self.load(key)
            value = torch.full_like(old, value)
        if accepted is not None:
            value = select(accepted, value, self.load(key))
        batch, views = self._batches.get(key, (None, ()))
        if batch is None or self.states[0][key] is not views[0]:
            batch = self.batch(key)
        if batch is not None:
            batch.copy_(value)
        elif self.in_place:
            self._write(self._local([state[key] for state in self.states]), value)
        else:
            for state, tensor in zip(self.states, value.unbind(), strict=True):
                state[key] = tensor

    @property
    def has_batches(self) -> bool:
        """Whether state is kept in batches. A graph must not take in tensors that share memory."""
        return (
            len(self.params) > 1
            and self.in_place
            and not self.distributed
            and not linalg.is_traced()
        )

    def batch(self, key: str) -> Tensor | None:
        """The batch of which the parameters' state tensors are views, if that can be."""
        if not self.has_batches:
            return None
        batch, views = self._batches.get(key, (None, ()))
        if batch is None or not same(views, [state[key] for state in self.states]):
            batch = torch.stack([state[key] for state in self.states])
            self.adopt({key: batch})
        return batch

    def adopt(self, batches: dict[str, Tensor]) -> None:
        """Make the parameters' state views of batches `(K, …)`; all of it or, on errors, none."""
        views = {key: batch.unbind() for key, batch in batches.items()}
        for key, batch in batches.items():
            for state, view in zip(self.states, views[key], strict=True):
                state[key] = view
            self._batches[key] = batch, views[key]

    def _local(self, tensors: list[Tensor]) -> list[Tensor]:
        return [local_part(t) for t in tensors] if self.distributed else tensors

    def _stack(self, tensors: list[Tensor]) -> Tensor:
        # One alone is a view, where nothing is saved for backward that writing would spoil.
        alone = len(tensors) == 1 and self.in_place
        return tensors[0].unsqueeze(0) if alone else torch.stack(tensors)

    @staticmethod
    def _full(stacked: Tensor) -> Tensor:
        return stacked.float() if stacked.dtype in HALF else stacked

    @staticmethod
    def _write(targets: list[Tensor], values: Tensor) -> None:
        _torch_workarounds.copy_into(targets, values)  # workaround: inductor_copy_keyerror


class Plan(NamedTuple):
    """How the constrained parameters of a group were stacked at the last step, and for which."""

    params: list[Tensor]
    manifolds: list[Manifold]
    states: list[dict[str, Any]]
    signature: list[Any]
    stacks: list[Stack]

    @classmethod
    def stacks_of(
        cls,
        optimizer: RiemannianOptimizer,
        index: int,
        group: dict[str, Any],
        found: list[tuple[Tensor, Manifold]],
    ) -> list[Stack]:
        """The stacks of group number `index`, as in the step before if nothing has changed."""
        params, manifolds = [p for p, _ in found], [manifold for _, manifold in found]
        states = [optimizer.state[p] for p in params]
        options = (group.get("foreach") is False, group.get("differentiable", False))
        signature = [options, *map(_signature, params, states)]
        keeps = not linalg.is_traced()
        plan = optimizer._plans.get(index) if keeps else None
        if plan is None or not plan._fits(params, manifolds, states, signature):
            stacks = _make_stacks(optimizer, group, params, manifolds, states)
            signature = [options, *map(_signature, params, states)]  # there may be a state now
            plan = cls(params, manifolds, states, signature, stacks)
            if keeps:
                optimizer._plans[index] = plan
        return plan.stacks

    def _fits(
        self,
        params: list[Tensor],
        manifolds: list[Manifold],
        states: list[dict[str, Any]],
        signature: list[Any],
    ) -> bool:
        """Whether nothing has changed that decides what is stacked."""
        return (
            same(self.params, params)
            and same(self.manifolds, manifolds)
            and same(self.states, states)
            and self.signature == signature
        )


def _make_stacks(
    optimizer: RiemannianOptimizer,
    group: dict[str, Any],
    params: list[Tensor],
    manifolds: list[Manifold],
    states: list[dict[str, Any]],
) -> list[Stack]:
    for p, manifold in zip(params, manifolds, strict=True):
        check_step(optimizer, p, manifold, group)
    buckets: dict[Any, list[int]] = {}
    for i, (p, manifold, state) in enumerate(zip(params, manifolds, states, strict=True)):
        assert p.grad is not None
        if not state and optimizer._has_own_rule(manifold):
            state.update(optimizer._initial_state(group, p, manifold))
        optimizer._skipped.prepare(p.device)
        optimizer._shortened.prepare(p.device)
        # Not by the size of the own part: all processes must make the same stacks.
        large = p.numel() > _STACK_NUMEL * part_count(p)
        alone = i if group.get("foreach") is False or large else None
        kind = (p.shape, p.dtype, p.device, layout(p), p.grad.dtype)
        buckets.setdefault((alone, manifold, *kind, frozenset(state)), []).append(i)
    return [
        Stack(
            manifolds[members[0]],
            [params[i] for i in members],
            [states[i] for i in members],
            in_place=not group.get("differentiable", False),
        )
        for members in buckets.values()
    ]


def _signature(param: Tensor, state: dict[str, Any]) -> Any:
    grad = param.grad
    assert grad is not None
    return param.shape, param.dtype, param.device, grad.dtype, grad.is_sparse, len(state)


def same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two sequences are of the same objects."""
    return len(a) == len(b) and all(map(is_, a, b))

"""Parameters that are stepped as one batch: gathered, and written back.

Parameters and gradients are copied into a batch at each step. The state is not: the tensors that a
parameter finds in its state are views of one batch, made at the first step, so that only the points
travel. They look and behave as if each parameter had its own, and are gathered again when something
(a checkpoint, a user) has put other tensors in their place.
"""

from collections.abc import Sequence
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from riemopt.distributed import ShardedGeometry, sharded_geometry
from riemopt.distributed.dtensor import (
    Groups,
    cut_dims,
    groups_over,
    is_dtensor,
    local_gradient,
    local_part,
)
from riemopt.linalg import HALF
from riemopt.manifolds import Manifold
from riemopt.optim import functional


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
        NotImplementedError: see `split_points`; or autograd is to record a step of cut points.
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
        self._distributed = is_dtensor(params[0])
        self.parts, self.groups = split_points(params[0], manifold)
        events = manifold.event_dims(params[0].ndim)
        self._scattered = not cut_dims(params[0]) <= set(events)

    def points(self) -> Tensor:
        """`(K, *shape)` values, in float32 if the parameters are in half precision."""
        return self._full(self._stack(self._local(self.params)))

    def gradients(self, grad_scale: Tensor | None) -> Tensor:
        """`(K, *shape)` gradients; what a GradScaler left to a fused optimizer is unscaled here."""
        tensors = [p.grad for p in self.params if p.grad is not None]
        if self._distributed:
            tensors = list(map(local_gradient, tensors, self.params))
        grads = self._stack(tensors)
        dtype = torch.float32 if self.params[0].dtype in HALF else self.params[0].dtype
        if grads.dtype != dtype:
            grads = grads.to(dtype)
        return grads if grad_scale is None else grads / grad_scale.to(grads.device)

    def load(self, key: str) -> Tensor:
        """`(K, …)` values of one state tensor."""
        batch = self._batch(key)
        if batch is None:
            batch = self._stack(self._local([state[key] for state in self.states]))
        return self._full(batch)

    def store_points(self, x: Tensor) -> None:
        """Write `(K, *shape)` values into the parameters, rounded to their dtype."""
        self._write(self._local(self.params), x)

    def store(self, key: str, value: Tensor | float, accepted: Tensor | None) -> None:
        """Write one state tensor of each parameter whose step was accepted; None means all.

        Of one parameter alone it may be a number, which fills the tensor.
        """
        if self._scattered and self.states[0][key].ndim == 0:
            accepted = None  # processes refuse points of their own; this number is one for all
        if not isinstance(value, Tensor):
            if accepted is None:
                local_part(self.states[0][key]).fill_(value)
                return
            old = self.load(key)
            value = torch.full_like(old, value)
        if accepted is not None:
            value = functional.select(accepted, value, self.load(key))
        batch, views = self._batches.get(key, (None, ()))
        if batch is None or self.states[0][key] is not views[0]:
            batch = self._batch(key)
        if batch is not None:
            batch.copy_(value)
        elif self.in_place:
            self._write(self._local([state[key] for state in self.states]), value)
        else:
            for state, tensor in zip(self.states, value.unbind(), strict=True):
                state[key] = tensor

    def _batch(self, key: str) -> Tensor | None:
        """The batch of which the parameters' state tensors are views, if that can be."""
        if len(self.params) == 1 or not self.in_place or self._distributed:
            return None
        if torch.compiler.is_compiling():  # a graph must not take in tensors that share memory
            return None
        batch, views = self._batches.get(key, (None, ()))
        if batch is None or not same(views, [state[key] for state in self.states]):
            batch = torch.stack([state[key] for state in self.states])
            views = batch.unbind()
            for state, view in zip(self.states, views, strict=True):
                state[key] = view
            self._batches[key] = batch, views
        return batch

    def _local(self, tensors: list[Tensor]) -> list[Tensor]:
        return [local_part(t) for t in tensors] if self._distributed else tensors

    def _stack(self, tensors: list[Tensor]) -> Tensor:
        # One alone is a view, where nothing is saved for backward that writing would spoil.
        alone = len(tensors) == 1 and self.in_place
        return tensors[0].unsqueeze(0) if alone else torch.stack(tensors)

    @staticmethod
    def _full(stacked: Tensor) -> Tensor:
        return stacked.float() if stacked.dtype in HALF else stacked

    @staticmethod
    def _write(targets: list[Tensor], values: Tensor) -> None:
        # In a graph, `copy_` of one tensor too often meets an error of inductor on CPUs: torch 2.13
        # raises KeyError where it fuses the loops of two of them (pytorch #196570).
        if len(targets) == 1 and not torch.compiler.is_compiling():
            targets[0].copy_(values.squeeze(0))
        else:
            torch._foreach_copy_(targets, values.unbind())


def split_points(param: Tensor, manifold: Manifold) -> tuple[ShardedGeometry | None, Groups]:
    """How a weight is stepped whose points are cut, and which processes add their sums.

    Raises:
        NotImplementedError: points of this manifold cannot be stepped where they are cut so.
    """
    cut = cut_dims(param) & set(manifold.event_dims(param.ndim))
    if not cut:
        return None, ()
    return sharded_geometry(manifold, cut, param.shape), groups_over(param, cut)


class Plan(NamedTuple):
    """How the constrained parameters of a group were stacked at the last step, and for which."""

    params: list[Tensor]
    manifolds: list[Manifold]
    states: list[dict[str, Any]]
    signature: list[Any]
    stacks: list[Stack]

    def fits(
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


def same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two sequences are of the same objects."""
    return len(a) == len(b) and all(map(is_, a, b))

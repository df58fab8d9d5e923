"""Parameters that are stepped as one batch: gathered, and written back.

Parameters and gradients are copied into a batch at each step. The state is not: the tensors in the
state of the parameters share the memory of one batch, made at the first step, so that only the
points travel. They stay the same objects, as in torch: whoever holds one reads and edits the live
state. They are gathered again when something (a checkpoint, a user) has put other tensors, or other
memory, in their place.
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
    like_parameter,
    local_gradient,
    local_part,
)
from riemopt.distributed.geometry import parts_of
from riemopt.linalg import HALF
from riemopt.manifolds import Manifold
from riemopt.optim.state import exact
from riemopt.optim.step import select

if TYPE_CHECKING:
    pass


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

    has_sparse_gradient = False

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
        self._batches: dict[str, _Batch] = {}
        self._current: set[str] = set()  # of the batches, those that were looked at in this step
        self._views: dict[str, tuple[Tensor, Tensor]] = {}
        """Of one alone: the state that was looked at in this step, and how it is handed out."""
        self.distributed = is_dtensor(params[0])
        self._is_eager = True
        self._alone = len(params) == 1 and in_place
        self._points: Tensor | None = None
        """Of one alone: the view of it that was handed out in this step."""
        self._may_have_batches = len(params) > 1 and in_place and not self.distributed
        self.parts, self.groups = parts_of(params[0], manifold)
        events = manifold.event_dims(params[0].ndim)
        self._scattered = not cut_dims(params[0]) <= set(events)
        self.device = params[0].device
        self.entries = 2 if params[0].is_complex() else 1
        """Real numbers in one whole point."""
        for d in events:
            self.entries *= params[0].shape[d]

    def points(self) -> Tensor:
        """`(K, *shape)` values, in float32 if the parameters are in half precision.

        Called first in each step.
        """
        self._begin()
        x = self._stack(self._local(self.params))
        if self._alone and self._is_eager:
            self._points = x
        return self._full(x)

    def _begin(self) -> None:
        self._current.clear()
        self._views.clear()
        self._points = None
        self._is_eager = not linalg.is_traced()

    def gradients(self, grad_scale: Tensor | None) -> Tensor:
        """`(K, *shape)` gradients; what a GradScaler left to a fused optimizer is unscaled here."""
        tensors = [
            p.grad.to_dense() if p.grad.is_sparse else p.grad
            for p in self.params
            if p.grad is not None
        ]
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

    def load_number(self, key: str) -> Tensor | float:
        """`load`; the number itself of a state that is a single one and free to read."""
        if not (self._alone and self._is_eager):
            return self.load(key)
        number = linalg.if_free(self.states[0][key])
        return self.load(key) if isinstance(number, Tensor) else number

    def is_live(self, loaded: Tensor, stored: Tensor) -> bool:
        """Whether `loaded`, `(1, …)`, is a view of what is `stored`, so that it may be written."""
        return self._alone and self._is_eager and loaded.dtype == stored.dtype

    def store_points(self, x: Tensor) -> None:
        """Write `(K, *shape)` values into the parameters, rounded to their dtype."""
        dtype = self.params[0].dtype
        if x.dtype != dtype:
            x = self.manifold.round_point(x, dtype)
        if self._points is not None:
            self._points.copy_(x)
            self._points = None
        else:
            self._write(self._local(self.params), x)

    def store(self, key: str, value: Tensor | float, accepted: Tensor | None) -> None:
        """Write one state tensor of each parameter whose step was accepted; None means all.

        It may be a number, for all. A parameter that has no such state yet gets zeros first.
        """
        first = self.states[0].get(key)
        if first is None:
            for p, state in zip(self.params, self.states, strict=True):
                state[key] = torch.zeros_like(
                    p, dtype=exact(p), memory_format=torch.contiguous_format
                )
            first = self.states[0][key]
        if (
            accepted is not None
            and first.ndim == 0
            and (self._scattered or first.device != accepted.device)
        ):  # processes refuse points of their own; a host does not know what a device refuses
            accepted = None
        if not isinstance(value, Tensor):
            if accepted is None and self._alone and self._is_eager:
                (local_part(first) if self.distributed else first).fill_(value)
                return
            value = torch.full_like(self.load(key), value)
        batch = self.batch(key)
        if accepted is not None:
            old = self.load(key)
            if old is batch and old.dtype == value.dtype:
                select(accepted, value, old, out=old)
                return
            value = select(accepted, value, old)
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
        return self._may_have_batches and self._is_eager

    def batch(self, key: str) -> Tensor | None:
        """The memory `(K, …)` of one state tensor, where that of all members is in one piece."""
        if self._alone and self._is_eager:
            tensor = self.states[0][key]
            kept = self._views.get(key)
            if kept is None or kept[0] is not tensor:
                local = local_part(tensor) if self.distributed else tensor
                kept = self._views[key] = tensor, local.unsqueeze(0)
            return kept[1]
        if not self.has_batches:
            return None
        if key not in self._current:
            batch = self._batches.get(key)
            tensors = [state[key] for state in self.states]
            if batch is None or not batch.is_memory_of(tensors):
                self.adopt({key: torch.stack(tensors)})
            self._current.add(key)
        return self._batches[key].values

    def live_state(self, keys: Sequence[str]) -> list[Tensor] | None:
        """The memory of these tensors, of whole points; None where it may not be written early.

        `(K, …)`; of one alone without that dimension. "Early" is before it is known which members
        take their step.
        """
        if self.parts is not None or self.has_sparse_gradient or not self._is_eager:
            return None
        if self._alone:
            return [local_part(self.states[0][key]) for key in keys]
        found = []
        for key in keys:
            batch = self.batch(key)
            if batch is None:
                return None
            found.append(batch)
        return found

    def adopt(self, batches: dict[str, Tensor]) -> None:
        """Let the parameters' state have the memory of batches `(K, …)`; all or, on errors, none.

        A tensor that is there already stays the same object.
        """
        # No views for autograd, which would keep their base. All are made before one is stored.
        views = {key: [v.data for v in batch.unbind()] for key, batch in batches.items()}
        for key, batch in batches.items():
            for state, view in zip(self.states, views[key], strict=True):
                there = state.get(key)
                if isinstance(there, Tensor) and _may_have_memory_of(there, view):
                    there.data = view
                else:
                    state[key] = view
            self._batches[key] = _Batch.of(batch, [state[key] for state in self.states])

    # --- what a torch optimizer is lent ---

    def part(self, value: Any) -> Any:
        """What is stepped here of one parameter's state."""
        return local_part(value) if isinstance(value, Tensor) else value

    def give_back(self, index: int, key: str, value: Any) -> None:
        """Take in what an optimizer made of the `part` of parameter number `index`."""
        state = self.states[index]
        if not self.distributed or not isinstance(value, Tensor) or value.ndim == 0:
            state[key] = value
        elif key not in state or local_part(state[key]) is not value:
            state[key] = like_parameter(value, self.params[index])

    def as_torch_takes_it(self, gradient: Tensor) -> Tensor:
        """The gradient of one parameter, in the layout in which the optimizer would be given it."""
        return gradient

    # --- layout ---

    def _local(self, tensors: list[Tensor]) -> list[Tensor]:
        return [local_part(t) for t in tensors] if self.distributed else tensors

    def _stack(self, tensors: list[Tensor]) -> Tensor:
        # One alone is a view, where nothing is saved for backward that writing would spoil.
        return tensors[0].unsqueeze(0) if self._alone else torch.stack(tensors)

    @staticmethod
    def _full(stacked: Tensor) -> Tensor:
        return stacked.float() if stacked.dtype in HALF else stacked

    @staticmethod
    def _write(targets: list[Tensor], values: Tensor) -> None:
        _torch_workarounds.copy_into(targets, values)  # workaround: inductor_copy_keyerror


class _Batch(NamedTuple):
    """The memory of one state tensor of all members of a stack."""

    values: Tensor
    """`(K, …)`."""
    tensors: list[Tensor]
    """What is in the state of each member."""
    places: list[int]

    @classmethod
    def of(cls, values: Tensor, tensors: list[Tensor]) -> _Batch:
        return cls(values, tensors, linalg.places_in_memory(tensors))

    def is_memory_of(self, tensors: list[Tensor]) -> bool:
        """Whether these are the tensors, and nobody gave them other memory (`tensor.data = …`)."""
        return same(self.tensors, tensors) and self.places == linalg.places_in_memory(tensors)


def _may_have_memory_of(tensor: Tensor, view: Tensor) -> bool:
    return (
        type(tensor) is Tensor
        and tensor.shape == view.shape
        and tensor.dtype == view.dtype
        and tensor.device == view.device
    )


def same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two sequences are of the same objects."""
    return len(a) == len(b) and all(map(is_, a, b))

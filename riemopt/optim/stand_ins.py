"""Tensors that a torch optimizer steps in place of constrained weights; see `torch_rule`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from riemopt import linalg
from riemopt.distributed.exchange import Exchange
from riemopt.manifolds import Manifold
from riemopt.optim import sharded_step
from riemopt.optim import step as steps
from riemopt.optim.parameters import decay_is_decoupled
from riemopt.optim.stack import Stack
from riemopt.optim.step import Request, Step, StepCheck
from riemopt.optim.take import finish

if TYPE_CHECKING:
    from riemopt.optim.optimizer import RiemannianOptimizer


class StandIns:
    """The stand-ins of one stack, from the tangent gradient to the written weights."""

    def __init__(self, optimizer: RiemannianOptimizer, group: dict[str, Any], stack: Stack) -> None:
        self.optimizer, self.group, self.stack = optimizer, group, stack
        self.manifold: Manifold = stack.manifold
        self.tensors: list[Tensor] = []
        """What the torch optimizer steps: one for the whole stack, or one for each parameter."""
        self.states: list[dict[str, Any]] = []
        """The state of each."""
        self._value: Tensor | None = None
        self._x: Tensor | None = None
        self._gradient: Tensor | None = None
        self._before: list[dict[str, Tensor]] = []
        """State that is put back where the gradient was not finite."""
        self._finite: Tensor | None = None
        """`(K,)`, where the host does not know that all gradients are finite."""

    # --- carry ---

    def carry(self) -> Exchange[None]:
        """The tangent gradient of the own part. One round."""
        parts = self.stack.parts
        assert parts is not None
        x, g = self._points_and_gradient()
        largest = linalg.largest_entries(g)
        XG, total = yield [parts.gradient_summand(x, g), largest]
        self._gradient = parts.gradient(x, g, XG)
        self._know_finite(total)

    def _points_and_gradient(self) -> tuple[Tensor, Tensor]:
        self._x = x = self.stack.points()
        self.manifold = self.stack.manifold.linearised_at(x)
        g = self.stack.gradients(None)
        if self._adds_decay():
            # The optimizer turns the sign for `maximize`, and divides by the scale.
            turned = self.group.get("maximize", getattr(self.optimizer, "maximize", False))
            decay = self.group["weight_decay"] * (-1 if turned else 1)
            scale = getattr(self.optimizer, "grad_scale", None)
            g = g + (decay if scale is None else decay * scale.to(g.device)) * x
        return x, g

    def _know_finite(self, largest: Tensor) -> None:
        lr = self.group.get("lr", 0.0)
        lr = lr.to(largest.device, largest.dtype) if isinstance(lr, Tensor) else lr
        finite = (largest + abs(lr)).isfinite()  # neither is negative
        self._finite = None if linalg.known_all(finite) else finite

    # --- lend ---

    def lend(self) -> None:
        """Make the tensors that the torch optimizer steps, and their state."""
        stack = self.stack
        if self._must_be_capturable():
            for state in stack.states:
                for key, value in state.items():
                    if isinstance(value, Tensor) and value.ndim == 0:
                        state[key] = value.to(stack.device)
        if stack.parts is None:
            x, g = self._points_and_gradient()
            self._gradient = steps.carry(self.manifold, x, g, Request(gradient=True)).gradient
            assert self._gradient is not None
            self._know_finite(linalg.largest_entries(self._gradient))
        assert self._x is not None
        assert self._gradient is not None
        # Left out of the call, or stepped by zero and restored: where it is not known which; and
        # where processes refuse points of their own, which must all have the same counters.
        scattered = stack.distributed and stack.parts is None
        takes = None
        if self._finite is not None and not scattered:
            takes = linalg.known_values(self._finite)
        if self._finite is not None and takes is None:
            self._gradient = steps.select(
                self._finite, self._gradient, torch.zeros_like(self._gradient)
            )
        self._gradient = self._gradient.contiguous()  # workaround: fused_adam_strides
        together = self._state_of_all() if takes is None else None
        if together is not None:
            self._value = _contiguous_copy(self._x)
            self._value.grad = self._gradient
            self.tensors, self.states, self._lent = [self._value], [together], dict(together)
        else:
            self._lend_each(takes or [True] * len(stack.params))
        self._gradient = None
        if self._finite is not None and takes is None:
            self._before = [
                {k: v.clone() for k, v in state.items() if self._is_restored(v)}
                for state in self.states
            ]

    def _lend_each(self, takes: list[bool]) -> None:
        stack, x, gradient = self.stack, self._x, self._gradient
        assert x is not None
        assert gradient is not None
        if stack.has_batches:
            self._value = _contiguous_copy(x)
            self.tensors = list(self._value.unbind())
        else:
            self.tensors = [_contiguous_copy(a) for a in x.unbind()]
        for tensor, grad, taken in zip(self.tensors, gradient.unbind(), takes, strict=True):
            if taken:
                tensor.grad = stack.as_torch_takes_it(grad)
        # Copies, so that a state is made whole or not at all if the step is interrupted.
        self.states = [
            {key: stack.part(value) for key, value in state.items()} for state in stack.states
        ]

    def _state_of_all(self) -> dict[str, Any] | None:
        """One state for one stand-in of all members; None where they need one each."""
        stack = self.stack
        if not (self.optimizer.acts_by_entry and stack.has_batches):
            return None
        together: dict[str, Any] = {}
        for key, first in stack.states[0].items():
            if not isinstance(first, Tensor):
                if any(state[key] != first for state in stack.states):
                    return None
                together[key] = first
            elif first.shape == stack.params[0].shape:
                together[key] = stack.batch(key)
            elif first.ndim == 0:
                numbers = stack.batch(key)
                assert numbers is not None
                if not linalg.known_all(numbers == numbers[0]):
                    return None
                together[key] = numbers[0].clone()
            else:
                return None
        return together

    def options(self) -> dict[str, Any]:
        """Options of the group that are not what they are for unconstrained parameters."""
        changed: dict[str, Any] = {}
        if self.group.get("weight_decay", 0) != 0 and (
            self.stack.manifold.has_constant_norm or self._adds_decay()
        ):
            changed["weight_decay"] = 0.0
        if self._must_be_capturable():
            changed["capturable"] = True
        # The fused kernel of a CPU takes a pass over the memory where the others take five.
        unasked = all(self.group.get(key, False) is None for key in ("fused", "foreach"))
        if unasked and self.stack.in_place and self._can_be_fused():
            changed["fused"] = True
        return changed

    def _must_be_capturable(self) -> bool:
        """Whether torch would read the learning rate from the device of the weights."""
        if self.group.get("capturable", True) or self.stack.device.type in ("cpu", "meta"):
            return False
        return isinstance(self.group.get("lr"), Tensor)

    def _can_be_fused(self) -> bool:
        if self.stack.has_sparse_gradient:
            return False
        counters = [state.get("step") for state in self.states]
        return all(
            linalg.adaptive(t) and t.dtype in (torch.float32, torch.float64) for t in self.tensors
        ) and all(
            c is None or (isinstance(c, Tensor) and c.dtype == torch.float32) for c in counters
        )

    def _adds_decay(self) -> bool:
        """Whether weight decay is part of the gradient, to be made tangent with it."""
        return (
            self.group.get("weight_decay", 0) != 0
            and not decay_is_decoupled(self.optimizer, self.group)
            and not self.stack.manifold.has_constant_norm
        )

    # --- take ---

    def move(self) -> Exchange[None]:
        """Project, check and move the own part of cut points. Two rounds and the geometry's."""
        stack, parts = self.stack, self.stack.parts
        assert parts is not None
        x, step = self._direction()
        yield from sharded_step.make_tangent(parts, x, step)
        sums = yield from sharded_step.sums_of_direction(parts, x, step.u)
        checked = self._checked(sharded_step.check(sums, 1.0))
        y = yield from sharded_step.move(parts, x, step.u, 1.0, sums, checked)
        stack.store_points(y)

    def take(self) -> None:
        """Give the state back; move whole points."""
        self._give_back()
        if self.stack.parts is not None:
            return
        x, step = self._direction()
        steps.make_tangent(self.manifold, x, step)
        checked = self._checked(steps.check(step.u, 1.0))
        finish(self.optimizer, self.stack, self.manifold, x, step, checked)

    def _direction(self) -> tuple[Tensor, Step]:
        """Where the torch optimizer went from the points."""
        assert self._x is not None
        x, self._x = self._x, None
        value, self._value = self._value, None
        if value is None:
            alone = len(self.tensors) == 1 and self.stack.in_place
            value = self.tensors[0].unsqueeze(0) if alone else torch.stack(self.tensors)
        self.tensors = []
        u = value.sub_(x) if self.stack.in_place else value - x
        return x, Step(u, 1.0, is_tangent=False)

    def _checked(self, checked: StepCheck | None) -> StepCheck | None:
        """`checked`, and no step for a gradient that was not finite; counts what is refused."""
        if self._finite is None and checked is None:
            return None
        skip = self.optimizer._skip(self.stack.device)
        finite = self._finite
        if checked is None:
            assert finite is not None
            checked = StepCheck(finite, finite)
        elif finite is not None:
            checked = StepCheck(checked.finite & finite, checked.moved & finite)
        refused = steps.count(~checked.finite)
        self.optimizer._skipped.add(refused if skip is None else refused * ~skip)
        return checked

    def _is_restored(self, value: Any) -> bool:
        assert self._finite is not None
        if not isinstance(value, Tensor) or value.device != self._finite.device:
            return False
        # One counter for several members, or for the points of several processes, counts on.
        own = len(self.states) == len(self.stack.params) and not self.stack.distributed
        return value.ndim > 0 or own

    def _give_back(self) -> None:
        stack = self.stack
        if self._before:
            assert self._finite is not None
            self._restore(self._finite)
        if len(self.states) == 1 and len(stack.states) > 1:
            self._spread(self.states[0])
            return
        for i, used in enumerate(self.states):
            for key, value in used.items():
                stack.give_back(i, key, value)

    def _restore(self, finite: Tensor) -> None:
        """Undo what the optimizer did to the state where a gradient was not finite."""
        for i, (state, before) in enumerate(zip(self.states, self._before, strict=True)):
            chosen = finite if len(self.states) < len(finite) else finite[i]
            for key, old in before.items():
                new = state[key]
                mask = steps.along(chosen, new) if chosen.ndim else chosen
                restored = torch.where(mask, new, old)
                if self.stack.in_place:
                    new.copy_(restored)
                else:
                    state[key] = restored

    def _spread(self, together: dict[str, Any]) -> None:
        """The state of all members, from that of their one stand-in."""
        stack, made = self.stack, {}
        for key, value in together.items():
            if isinstance(value, Tensor) and value.ndim == 0:
                numbers = stack.batch(key) if key in self._lent else None
                if numbers is None:
                    made[key] = value.expand(len(stack.params)).clone()
                else:
                    numbers.copy_(value)
            elif isinstance(value, Tensor) and self._lent.get(key) is not value:
                made[key] = value
            elif not isinstance(value, Tensor):
                for state in stack.states:
                    state[key] = value
        stack.adopt(made)


def _contiguous_copy(a: Tensor) -> Tensor:
    return a.clone(memory_format=torch.contiguous_format)

"""Which parameters are stepped as one: sorted into stacks, and found again in the next step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from riemopt import linalg
from riemopt.distributed.dtensor import layout as placed
from riemopt.distributed.dtensor import part_count
from riemopt.linalg import HALF
from riemopt.manifolds import Manifold
from riemopt.optim.parameters import check_step
from riemopt.optim.rows import RowStack, is_stepped_by_rows
from riemopt.optim.stack import Stack, same
from riemopt.optim.state import lay_out, layout_key

if TYPE_CHECKING:
    from riemopt.optim.optimizer import RiemannianOptimizer

# Parameters of up to this many entries are stacked. Adam on Stiefel, two cores, one by one against
# stacked: 64 of 16², 13 times as long; 16 of 128×64, 3.6; 16 of 256×64, 1.6; 16 of 128², 1.04;
# 8 of 256², .96; 8 of 1024×64, .83, since the copies in and out then cost more than they save.
_STACK_NUMEL = 1 << 14


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
        signature = [options, *_signatures(optimizer, params, states)]
        keeps = not linalg.is_traced()
        plan = optimizer._plans.get(index) if keeps else None
        if plan is None or not plan._fits(params, manifolds, states, signature):
            stacks = _make_stacks(optimizer, group, params, manifolds, states)
            signature = [options, *_signatures(optimizer, params, states)]  # with a state now
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
        lay_out(optimizer, p, manifold, state)
        optimizer._skipped.prepare(p.device)
        optimizer._shortened.prepare(p.device)
        # Not by the size of the own part: all processes must make the same stacks.
        large = p.numel() > _STACK_NUMEL * part_count(p)
        by_rows = is_stepped_by_rows(p, state, own_rule=optimizer._has_own_rule(manifold))
        for key, value in [] if by_rows else list(state.items()):
            if isinstance(value, Tensor) and value.is_sparse:
                state[key] = value.to_dense()
        alone = i if group.get("foreach") is False or large or by_rows else None
        kind = (p.shape, p.dtype, p.device, placed(p), p.grad.dtype)
        buckets.setdefault((by_rows, alone, manifold, *kind, _present(state)), []).append(i)
    return [
        (RowStack if by_rows else Stack)(
            manifolds[members[0]],
            [params[i] for i in members],
            [states[i] for i in members],
            in_place=not group.get("differentiable", False),
        )
        for (by_rows, *_), members in buckets.items()
    ]


def _signatures(
    optimizer: RiemannianOptimizer, params: list[Tensor], states: list[dict[str, Any]]
) -> list[Any]:
    signatures, per_point = [], optimizer.per_point_state
    for p, state in zip(params, states, strict=True):
        grad, dtype = p.grad, p.dtype
        assert grad is not None
        layout, types = grad.layout, [*map(type, state.values())]
        dims = None if layout is torch.strided else grad.sparse_dim()
        state_now = layout_key(per_point, p, state) if per_point or dtype in HALF else None
        signatures.append((p.shape, dtype, p.device, grad.dtype, layout, dims, types, state_now))
    return signatures


def _present(state: dict[str, Any]) -> frozenset[str]:
    """The keys of a state that hold something: None is what torch takes for no momentum yet."""
    return frozenset(key for key, value in state.items() if value is not None)

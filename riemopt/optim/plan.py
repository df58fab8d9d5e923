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
from riemopt.optim.stack import Stack
from riemopt.optim.state import lay_out, layout_key

if TYPE_CHECKING:
    from riemopt.optim.optimizer import RiemannianOptimizer

# Parameters of up to this many entries are stacked. Adam on Stiefel, two cores, one by one against
# stacked: 64 of 16², 13 times as long; 16 of 128×64, 3.6; 16 of 256×64, 1.6; 16 of 128², 1.04;
# 8 of 256², .96; 8 of 1024×64, .83, since the copies in and out then cost more than they save.
_STACK_NUMEL = 1 << 14


class Plan(NamedTuple):
    """How the constrained parameters of a group were stacked at the last step, and for which."""

    signature: list[Any]
    """What decides about it: parameters, manifolds and states by their identity, and the layout of
    each."""
    found: list[tuple[Tensor, Manifold]]
    """Kept, as states are in the stacks, so that nothing else can have their identity."""
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
        if linalg.is_traced():
            return _make_stacks(optimizer, group, found)
        plan = optimizer._plans.get(index)
        if plan is None or plan.signature != _signature(optimizer, group, found):
            stacks = _make_stacks(optimizer, group, found)
            signature = _signature(optimizer, group, found)  # with a state now
            plan = cls(signature, found, stacks)
            optimizer._plans[index] = plan
        return plan.stacks


def _make_stacks(
    optimizer: RiemannianOptimizer, group: dict[str, Any], found: list[tuple[Tensor, Manifold]]
) -> list[Stack]:
    params, manifolds = [p for p, _ in found], [manifold for _, manifold in found]
    states = [optimizer.state[p] for p in params]
    for p, manifold in found:
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


def _signature(
    optimizer: RiemannianOptimizer, group: dict[str, Any], found: list[tuple[Tensor, Manifold]]
) -> list[Any]:
    signature: list[Any] = [group.get("foreach") is False, group.get("differentiable", False)]
    all_states, per_point = optimizer.state, optimizer.per_point_state
    for p, manifold in found:
        state, grad, dtype = all_states[p], p.grad, p.dtype
        assert grad is not None
        layout, types = grad.layout, [*map(type, state.values())]
        dims = None if layout is torch.strided else grad.sparse_dim()
        state_now = layout_key(per_point, p, state) if per_point or dtype in HALF else None
        who = id(p), id(manifold), id(state)
        signature.append(
            (who, p.shape, dtype, p.device, grad.dtype, layout, dims, types, state_now)
        )
    return signature


def _present(state: dict[str, Any]) -> frozenset[str]:
    """The keys of a state that hold something: None is what torch takes for no momentum yet."""
    return frozenset(key for key, value in state.items() if value is not None)

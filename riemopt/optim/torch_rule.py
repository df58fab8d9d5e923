"""The rule that is a torch optimizer's own step, run on the tangent gradient.

The optimizer steps a *stand-in* for each constrained weight: a tensor of the same value (in float32
for a half-precision weight) whose gradient is the Riemannian one. Where it goes is the direction;
its tangent part is taken by the retraction. All groups are stepped by one call, so that optimizers
that compare parameters with each other see them all, and unconstrained parameters are in it as they
are. State is torch's own, key by key.

Equal small weights have one stand-in together where that cannot be told from several: the optimizer
steps each entry by itself, and their counters are equal.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer

from riemopt.distributed import exchange
from riemopt.optim.stack import Stack
from riemopt.optim.stand_ins import StandIns

if TYPE_CHECKING:
    from riemopt.optim.optimizer import RiemannianOptimizer

Work = list[tuple[dict[str, Any], list[Stack]]]


def adopt_base(cls: type[RiemannianOptimizer], frame: type) -> None:
    """Find the torch optimizer in the bases of `cls`, and its step without hooks.

    Hooks are called around our step. Decorators that set the grad mode are left out too: our step
    sets it, and they break a graph of torch.compile.
    """
    bases = [c for c in cls.__mro__ if issubclass(c, Optimizer) and not issubclass(c, frame)]
    cls.base = bases[0]
    cls._base_step = staticmethod(inspect.unwrap(cls.base.step))
    init = next(c for c in cls.__mro__ if "__init__" in c.__dict__)
    signature = inspect.signature(cls.base if init is frame else init.__dict__["__init__"])
    if init is not frame:
        signature = signature.replace(parameters=[*signature.parameters.values()][1:])
    cls.__signature__ = signature  # type: ignore[attr-defined]
    if hasattr(cls.base, "_init_group"):
        # torch.compile refuses it, where it is that of the class; it can trace what it is made of.
        cls._init_group = _traceable(cls.base._init_group)  # type: ignore[attr-defined]


def _traceable(function: Callable[..., Any]) -> Callable[..., Any]:
    while hasattr(function, "_torchdynamo_orig_callable"):
        function = function._torchdynamo_orig_callable
    return function


def step(optimizer: RiemannianOptimizer, work: Work) -> None:
    """Step all unconstrained parameters, and the stacks that have no rule of our own."""
    stacks = [
        [stack for stack in stacks if not optimizer._has_own_rule(stack.manifold)]
        for _, stacks in work
    ]
    if not any(stacks):
        free = [manifold is None for manifolds in optimizer._manifolds for manifold in manifolds]
        if all(free):
            type(optimizer)._base_step(optimizer)
        if all(free) or not any(free):
            return
    lent = [
        [StandIns(optimizer, group, stack) for stack in own]
        for (group, _), own in zip(work, stacks, strict=True)
    ]
    everything = [stand_in for own in lent for stand_in in own]
    exchange.run([(s.stack.groups, s.carry()) for s in everything if s.stack.parts is not None])
    for stand_in in everything:
        stand_in.lend()
    _call_base(optimizer, lent)
    exchange.run([(s.stack.groups, s.move()) for s in everything if s.stack.parts is not None])
    for stand_in in everything:
        stand_in.take()


def _call_base(optimizer: RiemannianOptimizer, lent: list[list[StandIns]]) -> None:
    """The torch optimizer's own step, with stand-ins in place of constrained parameters."""
    groups: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = []
    state: defaultdict[Tensor, Any] = defaultdict(dict)
    plain: list[Tensor] = []
    for (group, manifolds), own in zip(optimizer._groups(), lent, strict=True):
        free = [p for p, m in zip(group["params"], manifolds, strict=True) if m is None]
        plain += free
        variants: dict[Any, tuple[dict[str, Any], list[Tensor]]] = {}
        for stand_in in own:
            changed = stand_in.options()
            variants.setdefault(str(changed), (changed, []))[1].extend(stand_in.tensors)
            state.update(zip(stand_in.tensors, stand_in.states, strict=True))
        if free or not variants:  # an empty group too: some optimizers keep numbers in groups
            variants["free"] = {}, free
        for changed, tensors in variants.values():
            given = {**group, **changed, "params": tensors}
            groups.append((group, given, dict(given)))
    if not any(used["params"] for _, _, used in groups):
        return
    for p in plain:
        if p in optimizer.state:
            state[p] = optimizer.state[p]
    before = optimizer.param_groups, optimizer.state
    optimizer.param_groups, optimizer.state = [used for _, _, used in groups], state
    try:
        type(optimizer)._base_step(optimizer)
    finally:
        optimizer.param_groups, optimizer.state = before
    for p in plain:
        if p in state:
            optimizer.state[p] = state[p]
    for group, given, used in groups:  # some optimizers keep counters in their groups
        for key, value in used.items():
            if key not in given or value is not given[key]:
                group[key] = value
    for own in lent:
        for stand_in in own:
            stand_in.states = [state[tensor] for tensor in stand_in.tensors]

"""One step of a method on the task of a workload, over and over from the same place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from riemopt_bench.interface import Attached, Method, Task
from riemopt_bench.speed.devices import WAYS
from riemopt_bench.surfaces import Surface


@dataclass
class Stepper:
    """A step that can be repeated.

    `call` does one step, all by itself. `moved` are the tensors that it moves, `gradients` those
    that hold the gradient. `weights` gives the weights, each with its surface if it has to stay on
    one; `held` all that is kept between steps. With `drifts`, what is moved is put back not to its
    start but to where it is after warm-up. Operators of a call that is not `eager` cannot be
    counted.
    """

    call: Callable[[], object]
    moved: Sequence[Tensor]
    gradients: Sequence[Tensor]
    weights: Callable[[], list[tuple[Surface | None, Tensor]]]
    held: Callable[[], list[Tensor]]
    drifts: bool = False
    eager: bool = True

    def __post_init__(self) -> None:
        self._anchors = [tensor.detach().clone() for tensor in self.moved]

    @cached_property
    def _targets(self) -> list[Tensor]:
        return [tensor.detach() for tensor in self.moved]

    def put_back(self) -> None:
        """Move everything back, so that steps stay as long as they were."""
        torch._foreach_copy_(self._targets, self._anchors)

    def settle(self) -> None:
        """Take the present place as the one to go back to, if the method drifts; after warm-up."""
        if self.drifts:
            torch._foreach_copy_(self._anchors, self._targets)


def stepper(method: Method, task: Task, way: str = "eager") -> Stepper:
    """The step of a method on a task, with the task's first batch, called in one of `WAYS`.

    Of a workload, whose loss is ⟨W, C⟩, that batch is C. Where only the optimizer's step is timed,
    one backward puts the gradient, which is C, in place.
    """
    names = [name for name, _ in task.model.named_parameters()]
    attached = method.attach(task, method.timed.lr, **method.timed.options)
    assert attached.optimizer is not None
    moved = [p for group in attached.optimizer.param_groups for p in group["params"]]
    batch = tree_map_only(Tensor, torch.clone, task.batch(0))
    if method.timed.whole_step:
        call: Callable[[], object] = partial(_whole_step, task, attached, batch)
        gradients = tree_leaves(batch)
    else:
        task.loss(task.model, batch).backward()
        call = attached.step
        gradients = [p.grad for p in moved if p.grad is not None]
    return Stepper(
        WAYS[way](call, attached.optimizer.param_groups),
        moved,
        gradients,
        weights=partial(_weights, task, names, method.constrained),
        held=partial(attached.held, task),
        # At its start, `original` is zero, and the exponential of zero costs less than others.
        drifts=bool(attached.originals()),
        eager=attached.eager and way == "eager",
    )


def _whole_step(task: Task, attached: Attached, batch: Any) -> None:
    assert attached.optimizer is not None
    with attached.forward_context():
        task.loss(task.model, batch).backward()
    attached.step()
    attached.optimizer.zero_grad()


@torch.no_grad()
def _weights(
    task: Task, names: Sequence[str], constrained: bool
) -> list[tuple[Surface | None, Tensor]]:
    return [(task.surfaces.get(n) if constrained else None, task.weight(n)) for n in names]

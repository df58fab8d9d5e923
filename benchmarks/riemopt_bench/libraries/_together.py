"""Two optimizers as one, for libraries whose optimizer takes constrained weights only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from typing_extensions import override

from riemopt_bench.interface import Task


class Together(torch.optim.Optimizer):
    """Steps each of several optimizers; has the groups and the state of all."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        # The very dicts of the parts: a learning rate that is set here is set there.
        self.param_groups = [group for part in parts for group in part.param_groups]

    @classmethod
    def with_adam(
        cls, task: Task, constrained: torch.optim.Optimizer, lr: float
    ) -> torch.optim.Optimizer:
        """That optimizer, and torch's Adam for the parameters that it does not have."""
        known = {id(p) for group in constrained.param_groups for p in group["params"]}
        rest = [p for p in task.model.parameters() if id(p) not in known]
        if not rest:
            return constrained
        return cls(constrained, torch.optim.Adam(rest, lr=lr, weight_decay=0))

    @property
    def state(self) -> Any:
        """The states of all parts, by parameter."""
        return {p: s for part in getattr(self, "parts", ()) for p, s in part.state.items()}

    @state.setter
    def state(self, value: Any) -> None:
        """An optimizer's constructor sets an empty state; the parts have theirs."""

    @override
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of each part; `closure` is not called."""
        for part in self.parts:
            part.step()
        return None

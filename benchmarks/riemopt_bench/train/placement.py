"""A task on another device, or in another dtype, than the problem built it for.

Model and batches are moved. The problem's evaluation holds data of its own, which stay where they
are: the weights that the forward uses are copied into a second model, built alike, and evaluated
there, in float64 if a dtype was asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from riemopt_bench.interface import Evaluation, Problem, Task

DTYPES = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Placement:
    """Where a task is trained. Without a dtype, in that of the problem."""

    device: str = "cpu"
    dtype: str | None = None

    def build(self, problem: Problem, seed: int) -> Task:
        """The problem's task of that seed, moved; its weights are again on their surfaces."""
        task = problem.build(seed)
        if self == Placement():
            return task
        dtype = None if self.dtype is None else getattr(torch, self.dtype)
        task.model.to(self.device, dtype)
        if dtype is not None:
            for name, surface in task.surfaces.items():
                parameter = task.model.get_parameter(name)
                with torch.no_grad():
                    parameter.copy_(surface.nearest(parameter.double()))
        twin = problem.build(seed)
        if dtype is not None:
            twin.model.double()

        def batch(step: int) -> Any:
            return tree_map_only(
                Tensor,
                lambda x: x.to(self.device, dtype if x.is_floating_point() else None),
                task.batch(step),
            )

        def evaluate(model: nn.Module) -> Evaluation:
            twin.model.eval()
            _copy(moved, twin)
            with contextlib.nullcontext() if dtype is None else _in_float64():
                return twin.evaluate(twin.model)

        moved = dataclasses.replace(task, batch=batch, evaluate=evaluate)
        return moved


def reason_against(device: str) -> str | None:
    """Why nothing can be trained on a device, and what to do; None where it can."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        return f"there is no device called {device!r}. There are: cpu, cuda, cuda:0, cuda:1, …"
    count = torch.cuda.device_count()
    if kind == "cuda" and (torch.device(device).index or 0) >= count:
        return (
            f"there is no {device!r}: torch {torch.__version__} sees {count} CUDA devices. Leave "
            "out --device, or run where there is one."
        )
    return None


@torch.no_grad()
def _copy(task: Task, twin: Task) -> None:
    """Copy the weights as the forward uses them, and all other parameters and buffers."""
    for name, parameter in twin.model.named_parameters():
        own = task.weight(name) if name in task.surfaces else task.model.get_parameter(name)
        parameter.copy_(own)
    for name, buffer in twin.model.named_buffers():
        buffer.copy_(task.model.get_buffer(name))


class _Float64(TorchFunctionMode):
    """Every floating-point argument is converted, but for a tensor that is written to."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        kept, others = (args[:1], args[1:]) if in_place else ((), args)
        others, kwargs = tree_map_only(
            Tensor, lambda x: x.double() if x.is_floating_point() else x, (others, kwargs or {})
        )
        return func(*kept, *others, **kwargs)


@contextlib.contextmanager
def _in_float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Float64():
            yield
    finally:
        torch.set_default_dtype(before)

"""What torch's parametrizations and geotorch's have in common: `original` is what is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from riemopt_bench.interface import Attached, Stepping, Task
from riemopt_bench.libraries._layout import original_of
from riemopt_bench.libraries._steps import ADAM_LR
from riemopt_bench.surfaces import LowRank, Stiefel, Surface

Register = Callable[[nn.Module, str], object]


class Kernel(nn.Module):
    """A convolution kernel from its matrix."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, matrix: Tensor) -> Tensor:
        """The kernel of a matrix."""
        return matrix.reshape(self.shape)

    def right_inverse(self, kernel: Tensor) -> Tensor:
        """The matrix of a kernel."""
        return kernel.flatten(1)


def as_matrix(register: Register, module: nn.Module, attribute: str) -> None:
    """Parametrize a convolution kernel as its matrix."""
    kernel: Tensor = getattr(module, attribute)
    setattr(module, attribute, nn.Parameter(kernel.detach().flatten(1)))
    register(module, attribute)
    parametrize.register_parametrization(module, attribute, Kernel(kernel.shape), unsafe=True)


def attach(
    task: Task,
    lr: float,
    register: Callable[[Surface], Register],
    *,
    cached: bool = False,
    foreach: bool | None = None,
    weight_decay: float = 0.0,
    impose_every: int | None = None,
) -> Attached:
    """Register one parametrization per constrained weight; Adam moves the originals.

    With `weight_decay` it is AdamW, on all parameters. After every `impose_every` steps each weight
    is assigned to itself, so that its `original` is computed anew.

    Never fused Adam, as geotorch's `original` is not contiguous: # workaround: fused_adam_strides
    """
    for name, surface in task.surfaces.items():
        register(surface)(*task.place(name))
    originals = {name: original_of(*task.place(name)) for name in task.surfaces}
    rule = torch.optim.AdamW if weight_decay else torch.optim.Adam
    optimizer = rule(task.model.parameters(), lr=lr, weight_decay=weight_decay, foreach=foreach)

    def stored() -> dict[str, Tensor]:
        # Whether factors are on the surface is asked of their product.
        factors = [n for n, surface in task.surfaces.items() if isinstance(surface, LowRank)]
        return originals | {name: task.weight(name) for name in factors}

    return Attached(
        optimizer,
        _imposing(task, optimizer, impose_every) if impose_every else optimizer.step,
        stored=stored,
        used=task.weights,
        originals=lambda: originals,
        forward_context=parametrize.cached if cached else contextlib.nullcontext,
    )


def _imposing(task: Task, optimizer: torch.optim.Optimizer, every: int) -> Callable[[], None]:
    """The optimizer's step, with all weights assigned to themselves from time to time."""
    count = 0

    @torch.no_grad()
    def step() -> None:
        nonlocal count
        optimizer.step()
        count += 1
        if count % every == 0:
            for name, weight in task.weights().items():
                setattr(*task.place(name), weight)

    return step


def stepping_of_a_parametrization() -> Stepping:
    """A parametrization is timed with the forward in which it computes its weights."""
    return Stepping(
        ADAM_LR,
        lambda workload: workload.is_only(Stiefel),
        ("riemopt-adam-share",),
        heavy=True,
        whole_step=True,
        options={"foreach": True, "cached": False},
    )

"""What a step needs apart from time: operators, products, memory; and how well it keeps a surface.

Counted in calls of their own, that nobody times.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from riemopt_bench.memory import bytes_of
from riemopt_bench.speed.devices import DEVICES, Device
from riemopt_bench.speed.stepper import Stepper
from riemopt_bench.speed.workloads import Workload

STEPS = 100
MOST_OPERATORS = 100_000  # flops and peak of more than these would take minutes
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler writes to the terminal otherwise
_SECOND = "second call"


def _product_flops(c: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    """Flops of C + A·B, from the three shapes."""
    return 2 * math.prod(a) * int(b[-1])


# Products into existing memory, which torch's counter leaves out.
_IN_PLACE = {torch.ops.aten.addmm_: _product_flops, torch.ops.aten.baddbmm_: _product_flops}
# Operators that multiply matrices inside, of which torch's counter knows nothing.
_UNCOUNTED = (
    "_linalg_",
    "linalg_qr",
    "linalg_matrix_exp",
    "linalg_householder",
    "linalg_lu",
    "linalg_solve",
    "linalg_inv",
    "geqrf",
    "ormqr",
    "orgqr",
)


@dataclass(frozen=True)
class Cost:
    """What one step needs; None where it cannot be counted.

    `flops` counts matrix products only, two for each multiplication with its addition; if
    `flops_partial`, there were factorisations or exponentials as well. `state` is what is kept
    between steps besides the weights, as a multiple of the weights' bytes. `peak` is the most that
    is allocated during the step, kernels' scratch included, as a multiple of the bytes of the
    largest group of equal tensors. `step_rms` is the root mean square of the entries of one step.
    `violation` is the largest after `violation_steps` steps with new random gradients.
    """

    operators: int | None
    flops: int | None
    flops_partial: bool
    state: float
    peak: float | None
    step_rms: float
    violation: float | None
    violation_steps: int


class OperatorCount(TorchDispatchMode):
    """The names of all operators that are dispatched, backward included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def measure(
    workload: Workload,
    stepper: Stepper,
    seconds: float,
    budget: float,
    device: Device = DEVICES["cpu"],
) -> Cost:
    """The cost of a step after warm-up, which takes about `seconds`.

    The violation is taken after 100 steps, or as many as fit into `budget` seconds.
    """
    operators, flops, partial, peak = None, None, False, None
    weight_bytes = 4 * sum(item.numel for item in workload.items)
    stepper.put_back()
    step_rms = _step_rms(stepper)
    if stepper.eager:
        with OperatorCount() as count:
            stepper.call()
        operators = len(count.names)
        partial = any(name.startswith(_UNCOUNTED) for name in count.names)
        if operators <= MOST_OPERATORS:
            with FlopCounterMode(display=False, custom_mapping=_IN_PLACE) as counter:
                stepper.call()
            flops = counter.get_total_flops()
    if operators is None or operators <= MOST_OPERATORS:
        peak = (device.peak or peak_bytes)(stepper.call) / workload.group_bytes
    state = (bytes_of(stepper.held()) - weight_bytes) / weight_bytes
    steps = min(max(int(budget / seconds), 1), STEPS)
    largest = feasibility(stepper, steps)
    return Cost(operators, flops, partial, state, peak, step_rms, largest, steps)


def _step_rms(stepper: Stepper) -> float:
    before = [weight.detach().clone() for _, weight in stepper.weights()]
    stepper.call()
    after = [weight.detach() for _, weight in stepper.weights()]
    squares = sum(
        (b - a).double().square().sum().item() for a, b in zip(before, after, strict=True)
    )
    return math.sqrt(squares / sum(a.numel() for a in before))


def peak_bytes(call: Callable[[], object]) -> int:
    """The most memory that torch's allocator hands out during a call, beyond what was there before.

    The profiler does not see memory allocated before it started, so the second of two calls under
    it is looked at.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
        with record_function(_SECOND):
            call()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    begin = next(event.start_ns() for event in events if event.name() == _SECOND)
    memory = [event for event in events if event.name() == "[memory]"]
    changes = [(e.start_ns(), e.nbytes()) for e in memory if e.start_ns() >= begin]
    now = peak = 0
    for _, change in sorted(changes, key=lambda event: event[0]):
        now += change
        peak = max(peak, now)
    return peak


def feasibility(stepper: Stepper, steps: int = STEPS, seed: int = 1) -> float | None:
    """Largest violation after steps from the start, each with a new gradient; None without one."""
    if not any(surface for surface, _ in stepper.weights()):
        return None
    stepper.put_back()
    generator = torch.Generator(stepper.gradients[0].device).manual_seed(seed)
    for _ in range(steps):
        for gradient in stepper.gradients:
            _refill(gradient, generator)
        stepper.call()
    return max(surface.violation(weight) for surface, weight in stepper.weights() if surface)


@torch.no_grad()
def _refill(gradient: Tensor, generator: torch.Generator) -> None:
    gradient.normal_(generator=generator)

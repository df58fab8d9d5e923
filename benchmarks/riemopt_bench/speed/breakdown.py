"""Where the time of a step goes: the profile behind a ratio."""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch.profiler import ProfilerActivity, profile

from riemopt_bench.speed.stepper import Stepper
from riemopt_bench.speed.timing import BLOCK_SECONDS, MOST_CALLS, warm_up

METHODS = ("riemopt-sgd", "riemopt-adam", "floor", "pogo-adam", "torch-adam-foreach")
_PRODUCTS = frozenset(
    f"aten::{name}" for name in ("mm", "bmm", "addmm", "addmm_", "baddbmm", "baddbmm_")
)


@dataclass(frozen=True)
class Operator:
    """One operator: how often a step calls it, and the microseconds of these calls together."""

    name: str
    calls: float
    microseconds: float


@dataclass(frozen=True)
class Breakdown:
    """One step under torch's profiler, which adds a microsecond or so to each operator.

    The time `outside` operators is spent in Python, in dispatch and in the profiler.
    """

    method: str
    microseconds: float
    operators: tuple[Operator, ...]

    @property
    def products(self) -> float:
        """Microseconds in matrix products."""
        return sum(op.microseconds for op in self.operators if op.name in _PRODUCTS)

    @property
    def others(self) -> float:
        """Microseconds in all other operators."""
        return sum(op.microseconds for op in self.operators) - self.products

    @property
    def outside(self) -> float:
        """Microseconds outside operators."""
        return max(self.microseconds - self.products - self.others, 0.0)


def measure(method: str, stepper: Stepper, blocks: int) -> Breakdown:
    """The mean over blocks of steps; each block begins where timed ones would."""
    calls = min(max(int(BLOCK_SECONDS / warm_up(stepper)), 1), MOST_CALLS)
    steps, seconds = blocks * calls, 0.0
    found: dict[str, tuple[int, float]] = {}
    for _ in range(blocks):
        stepper.put_back()
        stepper.call()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            begin = time.perf_counter()
            for _ in range(calls):
                stepper.call()
            seconds += time.perf_counter() - begin
        for event in profiler.key_averages():
            if event.key.startswith("aten::"):
                count, total = found.get(event.key, (0, 0.0))
                found[event.key] = count + event.count, total + event.self_cpu_time_total
    operators = [Operator(name, n / steps, us / steps) for name, (n, us) in found.items()]
    operators.sort(key=lambda op: -op.microseconds)
    return Breakdown(method, 1e6 * seconds / steps, tuple(operators))

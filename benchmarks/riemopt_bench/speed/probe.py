"""One call of a heavy method in a process of its own, which can be ended.

Whether a call takes minutes or fills the memory is found out where neither hurts: the process is
ended at the time limit, and may not take more memory than the machine has free.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import torch

from riemopt_bench import registry
from riemopt_bench.processes import Child, describe
from riemopt_bench.speed.devices import DEVICES
from riemopt_bench.speed.stepper import stepper
from riemopt_bench.speed.timing import settle_allocator
from riemopt_bench.speed.workloads import Workload

MEMORY_SHARE = 0.8
Phase = Literal["build", "call"]


@dataclass(frozen=True)
class Probe:
    """`seconds` of the first call, or why there is none."""

    status: Literal["called", "late", "failed"]
    seconds: float = 0.0
    text: str = ""
    phase: Phase = "call"


def probe(
    workload: Workload, method: str, limit: float, threads: int, device: str = "cpu"
) -> Probe:
    """Build and call once, with at most `limit` seconds for each of the two."""
    child = Child(_work, workload, method, threads, device)
    try:
        child.receive()  # imports are done
        phase: Phase
        for phase in ("build", "call"):
            answer = child.receive(limit)
            if answer is None:
                return Probe("late", text=f"longer than {limit:g} s", phase=phase)
            if isinstance(answer, str):
                return Probe("failed", text=answer, phase=phase)
        return Probe("called", float(answer))
    except EOFError:
        return Probe("failed", text=child.how_it_ended())
    finally:
        child.end()


def _work(workload: Workload, method: str, threads: int, device: str, sender: Connection) -> None:
    torch.set_num_threads(threads)
    task = workload.build(device=device)
    settle_allocator()
    sender.send("ready")
    # CUDA reserves more addresses than there is memory, and has an end of memory of its own.
    bounded = _bounded_memory() if device == "cpu" else contextlib.nullcontext()
    with contextlib.suppress(BrokenPipeError), bounded:
        try:
            step = stepper(registry.step_methods()[method], task).call
            sender.send(0.0)
            sender.send(DEVICES[device].clock(step, 1))
        except Exception as error:
            sender.send(describe(error))


@contextlib.contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let an allocation that is too large fail here, before it hurts the rest of the machine."""
    try:
        import resource

        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, StopIteration):
        yield
        return
    limit = used + int(MEMORY_SHARE * free * 1024)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    yield

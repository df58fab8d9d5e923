"""One call of a heavy method in a process of its own, which can be ended.

Whether a call takes minutes or fills the memory is found out where neither hurts: the process is
ended at the time limit, and may not take more memory than the machine has free.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

from riemopt_bench.speed.interface import Workload

MEMORY_SHARE = 0.8
Phase = Literal["build", "call"]


@dataclass(frozen=True)
class Probe:
    """`seconds` of the first call, or why there is none."""

    status: Literal["called", "late", "failed"]
    seconds: float = 0.0
    text: str = ""
    phase: Phase = "call"


def probe(workload: Workload, method: str, limit: float, threads: int) -> Probe:
    """Build and call once, with at most `limit` seconds for each of the two."""
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(  # type: ignore[attr-defined]
        target=_work, args=(workload, method, threads, sender), daemon=True
    )
    process.start()
    sender.close()
    try:
        _receive(receiver, None)  # imports are done
        phase: Phase
        for phase in ("build", "call"):
            answer = _receive(receiver, limit)
            if answer is None:
                return Probe("late", text=f"longer than {limit:g} s", phase=phase)
            if isinstance(answer, str):
                return Probe("failed", text=answer, phase=phase)
        return Probe("called", float(answer))
    except EOFError:
        process.join()
        return Probe("failed", text=f"the process ended with exit code {process.exitcode}")
    finally:
        if process.is_alive():
            process.kill()
        process.join()
        receiver.close()


def _receive(receiver: Connection, limit: float | None) -> Any:
    return receiver.recv() if receiver.poll(limit) else None


def _context() -> multiprocessing.context.BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["riemopt_bench.preload", "riemopt_bench.speed.methods"])
    return context


def _work(workload: Workload, method: str, threads: int, sender: Connection) -> None:
    from riemopt_bench.speed.methods import METHODS
    from riemopt_bench.speed.timing import settle_allocator

    torch.set_num_threads(threads)
    starts = workload.starts()
    settle_allocator()
    sender.send("ready")
    with contextlib.suppress(BrokenPipeError), _bounded_memory():
        try:
            attached = METHODS[method].attach(starts)
            sender.send(0.0)
            begin = time.perf_counter()
            attached.call()
            sender.send(time.perf_counter() - begin)
        except Exception as error:
            sender.send(describe(error))


def describe(error: BaseException) -> str:
    """A type and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextlib.contextmanager
def _bounded_memory() -> Iterator[None]:
    """More than this fails as an error in this process, and not elsewhere on the machine."""
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

"""What depends on the device that steps run on: the clock, memory, and how a step is called.

    device = DEVICES["cuda"]
    device.clock(call, calls)           # seconds of so many calls
    WAYS["graph"](attached.step, ...)   # the same step, captured

A clock is a function, and a way of stepping is one: a new device or way is one line here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Call = Callable[[], object]
WARM_SECONDS = 2.0  # of products, which bring a GPU's clocks up
WARM_CALLS = 3  # before a step is compiled or captured: its state is there then


def cpu_clock(call: Call, calls: int) -> float:
    """Seconds of wall-clock time."""
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - begin


def processor_clock(call: Call, calls: int) -> float:
    """Seconds of the processor's time, which other work on the machine does not count to."""
    begin = time.process_time()
    for _ in range(calls):
        call()
    return time.process_time() - begin


def cuda_events(call: Call, calls: int) -> float:
    """Seconds between two events on the stream.

    Where the host does not keep up with the device, that is the host's time.
    """
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def _peak_on_cuda(call: Call) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _warm_clocks() -> None:
    a = torch.randn(2048, 2048, device="cuda")
    begin = time.perf_counter()
    while time.perf_counter() - begin < WARM_SECONDS:
        a @ a
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Device:
    """Where steps run. `clock` gives the seconds of so many calls.

    `peak` gives the most bytes that a call allocates, beyond what was there; None asks torch's
    profiler. `leading_seconds` of calls come before each block, off the clock.
    """

    name: str
    clock: Callable[[Call, int], float] = cpu_clock
    peak: Callable[[Call], int] | None = None
    warm: Call = lambda: None
    leading_seconds: float = 0.0


DEVICES = {
    device.name: device
    for device in (
        Device("cpu"),
        Device("cuda", cuda_events, _peak_on_cuda, _warm_clocks, leading_seconds=0.01),
    )
}


# --- ways of stepping --------------------------------------------------------------------------


def eager(call: Call, groups: Sequence[dict[str, object]]) -> Call:
    """As it is."""
    return call


def compiled(call: Call, groups: Sequence[dict[str, object]]) -> Call:
    """Through `torch.compile`, once the state is there."""
    for _ in range(WARM_CALLS):
        call()
    return torch.compile(call)


def captured(call: Call, groups: Sequence[dict[str, object]]) -> Call:
    """As a CUDA graph, which is replayed; counters of steps are on the device for that."""
    for group in groups:
        if "capturable" in group:
            group["capturable"] = True
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_CALLS):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


WAYS: Mapping[str, Callable[[Call, Sequence[dict[str, object]]], Call]] = {
    "eager": eager,
    "compiled": compiled,
    "graph": captured,
}


def reason_against(device: str, way: str) -> str | None:
    """Why steps cannot run there in that way, and what to do; None where they can."""
    if device not in DEVICES:
        return f"there is no device called {device!r}. There are: {', '.join(DEVICES)}."
    if way not in WAYS:
        return f"there is no way of stepping called {way!r}. There are: {', '.join(WAYS)}."
    if device == "cuda" and not torch.cuda.is_available():
        return (
            f"there is no CUDA device for torch {torch.__version__} (torch.cuda.is_available() is "
            "False). Leave out --device cuda, or run where there is one."
        )
    if way == "graph" and device != "cuda":
        return f"a step is captured as a graph on CUDA only, not on {device!r}: add --device cuda."
    return None

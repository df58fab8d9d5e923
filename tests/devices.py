"""What tests that run on a GPU are made of; each of them runs on the CPU too, for a few cases.

    @on_devices("case", CASES, here=["sphere"])
    def test_some_law(device, case): ...

`make test-gpu` runs all cases on CUDA. The normal suite runs those that are `here` on the CPU, in
the algorithms that serve an accelerator, so that a test that is rarely run does not rot. What CUDA
alone can do (graphs, its debug mode, its counts of memory) is in the helpers below.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.simulated_tf32 import nothing_is_read


def on_devices(
    names: str, cases: Iterable[Any], here: Iterable[Any], ids: Callable[[Any], str] = str
) -> pytest.MarkDecorator:
    """Parametrise `device` and `names`: all `cases` on CUDA, and those that are `here` on the CPU.

    Several names take tuples, as in pytest.
    """
    several = "," in names

    def parameter(device: str, case: Any, marks: Any = ()) -> Any:
        values = case if several else (case,)
        label = "-".join((device, *(v if isinstance(v, str) else ids(v) for v in values)))
        return pytest.param(device, *values, id=label, marks=marks)

    parameters = [parameter("cpu", case) for case in here]
    parameters += [parameter("cuda", case, pytest.mark.gpu) for case in cases]
    return pytest.mark.parametrize(f"device,{names}", parameters)


def every_device() -> pytest.MarkDecorator:
    """Parametrise `device` alone."""
    return pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def as_accelerator(device: str) -> AbstractContextManager[Any]:
    """On a CPU, a block in which the algorithms of accelerators serve every tensor."""
    return nothing_is_read() if device == "cpu" else nullcontext()


@contextmanager
def no_waiting(device: str) -> Any:
    """A block in which CUDA raises where the host would wait for it."""
    if device == "cpu":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def replayed(function: Callable[[], object], device: str) -> Callable[[], object]:
    """`function` as a CUDA graph, to be called; on a CPU itself. It must have been warmed up.

    Making the graph runs nothing.
    """
    if device == "cpu":
        return function
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


@contextmanager
def side_stream(device: str) -> Any:
    """A block on another stream than the default one, as what will be in a graph is warmed up."""
    if device == "cpu":
        yield
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def peak_bytes(function: Callable[[], object], kept: Iterable[Tensor], device: str) -> int:
    """The most that `function` has allocated at one time, besides the `kept` tensors."""
    if device == "cpu":
        from riemopt_bench.memory import LiveBytes, bytes_of

        kept = list(kept)
        with LiveBytes(kept) as counted:
            function()
        return counted.peak - bytes_of(kept)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before

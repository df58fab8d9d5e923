"""What a constraint costs outside of the optimizer: forward, backward, memory, export, compilation.

One linear layer of 128 units whose weight is orthogonal, on one batch of 64: without a constraint,
stored on the surface by riemopt, and behind torch's three maps. Used once, and ten times as a
recurrent network does, with and without `parametrize.cached()`.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import parametrizations, parametrize

import riemopt
from riemopt import manifolds
from riemopt_bench import environment

UNITS, BATCH, USES = 128, 64, 10
ROUNDS, ENOUGH_SECONDS = 15, 0.2
"""Each work has so many turns, or as many as fit into these seconds; one at least."""
COMPILE_LIMIT = 60.0
MAPS = ("householder", "matrix_exp", "cayley")


@dataclass(frozen=True)
class Price:
    """What one way of keeping the layer orthogonal costs.

    Times in seconds, medians of rounds in turns; those of a weight that is used ten times are for
    all ten, with backward. `saved` are the bytes that autograd keeps for backward, beside
    the batch. `operators` is the size of the exported graph. `compiled` is the seconds until
    torch.compile has made forward and backward; infinite if it had not after a minute, and None if
    it was not tried.
    """

    title: str
    forward: float
    training: float
    repeated: float
    repeated_cached: float | None
    saved: int
    operators: int
    compiled: float | None = None


def layer(way: str) -> nn.Linear:
    """The layer; `way` is "plain", "riemopt" or one of torch's maps."""
    torch.manual_seed(0)
    made = nn.Linear(UNITS, UNITS, bias=False)
    nn.init.orthogonal_(made.weight)
    if way == "riemopt":
        riemopt.constrain(made, "weight", manifolds.Stiefel())
    elif way != "plain":
        parametrizations.orthogonal(made, orthogonal_map=way)
    return made


TITLES = {
    "plain": "no constraint",
    "riemopt": "riemopt: stored on the surface",
    **{name: f"parametrize, {name}" for name in MAPS},
}


def prices(directory: Path, *, compiled: bool) -> list[Price]:
    """The prices, from `directory/price.json` if this machine and these versions measured them."""
    path = directory / "price.json"
    about = {key: environment.describe().get(key) for key in ("cpu", "torch", "riemopt")}
    about |= {"compiled": compiled}
    if path.is_file():
        found = json.loads(path.read_text())
        if found["about"] == about:
            return [Price(**row) for row in found["prices"]]
    measured = measure(compiled=compiled)
    path.write_text(
        json.dumps({"about": about, "prices": [asdict(row) for row in measured]}, indent=1) + "\n"
    )
    return measured


def measure(*, compiled: bool) -> list[Price]:
    """All ways, in turns, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            return _measure(compiled)
    finally:
        torch.set_num_threads(threads)


def _measure(compiled: bool) -> list[Price]:
    layers = {way: layer(way) for way in TITLES}
    batch = torch.randn(BATCH, UNITS)
    works: dict[tuple[str, str], Callable[[], object]] = {}
    for way, module in layers.items():
        works[way, "forward"] = _forward(module, batch)
        works[way, "training"] = _training(module, batch, 1)
        works[way, "repeated"] = _training(module, batch, USES)
        if way in MAPS:
            works[way, "repeated_cached"] = _training(module, batch, USES, cached=True)
    seconds = _in_turns(works)
    return [
        Price(
            TITLES[way],
            seconds[way, "forward"],
            seconds[way, "training"],
            seconds[way, "repeated"],
            seconds.get((way, "repeated_cached")),
            _saved(module, batch),
            _operators(module, batch),
            _compiled(way) if compiled else None,
        )
        for way, module in layers.items()
    ]


def _forward(module: nn.Module, batch: Tensor) -> Callable[[], object]:
    @torch.no_grad()
    def work() -> object:
        return module(batch)

    return work


def _training(
    module: nn.Module, batch: Tensor, uses: int, *, cached: bool = False
) -> Callable[[], object]:
    def work() -> None:
        module.zero_grad()
        with parametrize.cached() if cached else contextlib.nullcontext():
            h = batch
            for _ in range(uses):
                h = module(h)
            h.sum().backward()

    return work


def _in_turns(works: dict[tuple[str, str], Callable[[], object]]) -> dict[tuple[str, str], float]:
    times: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    for turn in range(ROUNDS + 1):  # the first is a warm-up
        for key in random.Random(turn).sample(list(works), len(works)):
            if sum(times[key]) > ENOUGH_SECONDS:
                continue
            begin = time.perf_counter()
            works[key]()
            if turn > 0:
                times[key].append(time.perf_counter() - begin)
    return {key: statistics.median(values) for key, values in times.items()}


def _saved(module: nn.Module, batch: Tensor) -> int:
    """Bytes of the tensors that autograd keeps for backward; parameters and batch not counted."""
    held = {t.untyped_storage().data_ptr() for t in (batch, *module.parameters())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(batch)
    del output
    return sum(kept.values())


def _operators(module: nn.Module, batch: Tensor) -> int:
    """Calls in the graph that `torch.export` makes of the forward."""
    with torch.no_grad():
        graph = torch.export.export(module, (batch,)).graph
    return sum(node.op == "call_function" for node in graph.nodes)


def _compiled(way: str) -> float:
    """Seconds of the first forward and backward through torch.compile, in a process of its own."""
    program = f"from riemopt_bench.page import price; price.compile_once({way!r})"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=COMPILE_LIMIT,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return math.inf
    return float(done.stdout.split()[-1])


def compile_once(way: str) -> None:
    """Compile the layer and print how long that took: what `_compiled` runs."""
    from torch._inductor import config

    config.force_disable_caches = True
    torch.compile(nn.Linear(2, 2), fullgraph=True)(torch.ones(1, 2)).sum().backward()
    module, batch = layer(way), torch.randn(BATCH, UNITS)
    begin = time.perf_counter()
    torch.compile(module, fullgraph=True)(batch).sum().backward()
    print(time.perf_counter() - begin)

"""Step times of two checkouts of riemopt, in turns, in one run.

    git worktree add ../before <commit>
    python benchmarks/two_checkouts.py ../before .

Each checkout runs in a process of its own, which sets up workloads of `riemopt bench speed` (the
quick ones, or those named) and then waits. The two are asked for a block of steps in turns, the
first one changing, so that only one computes at a time and both see the same moods of the machine.
Two processes of one checkout differ by as much as a tenth, so all is done with several pairs of new
processes. Shown are the quartiles of the ratios of neighbouring blocks, of all pairs together.
Options are equal: where the older checkout does not know a name of `second_moment`, it is given the
old one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

BLOCK = 0.1
"""Seconds that a block of steps takes, about."""
METHODS = {
    "SGD, momentum": ("RiemannianSGD", {"lr": 1e-3, "momentum": 0.9}),
    "Adam, point": ("RiemannianAdam", {"lr": 1e-3, "second_moment": "point"}),
    "Adam, carried": ("RiemannianAdam", {"lr": 1e-3, "second_moment": "carried"}),
}
OLD_NAMES = {"carried": "elementwise"}


# --- in the process of a checkout ---


def serve() -> None:
    """Answer requests on standard input: set up a case, or time a block of its steps."""
    steps: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        if "items" in request:
            steps = _set_up(**request)
            print(json.dumps(_time(steps, 3)), flush=True)
        else:
            print(json.dumps(_time(steps, request["count"])), flush=True)


def _time(step: Any, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count


def _set_up(items: list[Any], optimizer: str, options: dict[str, Any], threads: int) -> Any:
    import riemopt
    from riemopt import manifolds

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    groups = []
    for name, shape, count in items:
        params = []
        for _ in range(count):
            manifold = getattr(manifolds, name)()
            noise = torch.randn(shape, generator=generator)
            value = noise if name == "Euclidean" else manifold.project(noise)
            params.append(torch.nn.Parameter(value))
            params[-1].grad = torch.randn(shape, generator=generator)
        groups.append({"params": params, "manifold": getattr(manifolds, name)()})
    cls = getattr(riemopt, optimizer)
    try:
        made = cls(groups, **options)
    except ValueError:
        old = {**options, "second_moment": OLD_NAMES[options["second_moment"]]}
        made = cls(groups, **old)
    return made.step


# --- in the process that asks ---


class Checkout:
    """A process that imports riemopt from a folder."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(folder.resolve())}
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        code += "import two_checkouts; two_checkouts.serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: Any) -> float:
        """Seconds a step."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"A checkout gave no answer to {request}.")
        return float(json.loads(answer))

    def close(self) -> None:
        """End the process."""
        self._process.kill()


def compare(before: Checkout, after: Checkout, case: dict[str, Any], rounds: int) -> np.ndarray:
    """Ratios after ÷ before, one a round."""
    seconds = max(checkout.ask(**case) for checkout in (before, after))
    count = max(1, round(BLOCK / seconds))
    ratios = []
    for i in range(rounds):
        order = (before, after) if i % 2 == 0 else (after, before)
        times = {checkout: checkout.ask(count=count) for checkout in order}
        ratios.append(times[after] / times[before])
    return np.array(ratios)


def _case(workload: Any, method: str, threads: int) -> dict[str, Any]:
    items = [
        (
            "Euclidean" if item.surface is None else type(item.surface).__name__,
            item.shape,
            item.count,
        )
        for item in workload.items
    ]
    optimizer, options = METHODS[method]
    return {"items": items, "optimizer": optimizer, "options": options, "threads": threads}


def main(
    before: Annotated[Path, typer.Argument(help="Folder of the older checkout.")],
    after: Annotated[Path, typer.Argument(help="Folder of the newer checkout.")],
    workload: Annotated[list[str] | None, typer.Option(help="Only this one; repeatable.")] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Pairs of blocks for each case.")] = 11,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of new processes.")] = 6,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Write the quartiles here, as JSON.")] = None,
) -> None:
    """Print after ÷ before of a step's time: quartiles for each workload and optimizer."""
    from riemopt_bench.speed.workloads import WORKLOADS

    chosen = [w for w in WORKLOADS.values() if (w.name in workload if workload else w.quick)]
    table = Table("workload", "optimizer", "lower", "median", "upper", title="after ÷ before")
    ratios: dict[tuple[str, str], list[float]] = {}
    for _ in track(range(pairs), "measuring", console=Console(stderr=True)):
        pair = Checkout(before), Checkout(after)
        for one in chosen:
            for name in METHODS:
                found = compare(*pair, _case(one, name, threads), rounds)
                ratios.setdefault((one.name, name), []).extend(found.tolist())
        for checkout in pair:
            checkout.close()
    rows = []
    for (title, name), values in ratios.items():
        quartiles = np.percentile(values, [25, 50, 75]).round(3).tolist()
        table.add_row(title, name, *map(str, quartiles))
        rows.append({"workload": title, "optimizer": name, "quartiles": quartiles})
    Console().print(table)
    if out is not None:
        out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)

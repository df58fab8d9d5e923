"""CPU time of one Adam step on small, tall and square weights, beside the floor and others' steps.

    python benchmarks/small_steps.py                 # under two minutes, one thread
    python benchmarks/small_steps.py --only 1024x64 --only sphere --no-write
    python benchmarks/small_steps.py --counts        # operators and calls alone: a few seconds

All methods of a workload are timed in turns, in one run, by the processor's clock; a ratio is the
median of the ratios within a round. Of riemopt, Adam has `second_moment="point"`; "the default" is
"tangent". Beside the times stands the fixed cost of our step: the operators that torch dispatches,
and the functions that Python calls, with what both were before they were looked at in brackets. Run
it on an otherwise idle machine: it writes results/small_steps.json and the table in README.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from types import FrameType
from typing import Annotated, Any

import geoopt
import torch
import typer
from catalogue_speed import Build, ours, theirs
from riemopt_bench import registry
from riemopt_bench.environment import write_rows
from riemopt_bench.speed.cost import OperatorCount
from riemopt_bench.speed.devices import Device, processor_clock
from riemopt_bench.speed.stepper import Stepper, stepper
from riemopt_bench.speed.timing import Timing, interleave, settle_allocator
from riemopt_bench.speed.workloads import Item, Workload
from riemopt_bench.surfaces import Sphere, Stiefel, Surface

from riemopt.interop.geoopt import from_geoopt

FOLDER = Path(__file__).parent
OUTPUT, PAGE = FOLDER / "results" / "small_steps.json", FOLDER / "README.md"
MARKS = ("<!-- small steps: begin -->", "<!-- small steps: end -->")
OURS, FLOOR, POGO = "riemopt-adam", "floor", "pogo-adam"
GEOOPT, TORCH = "geoopt-euclidean-adam", "torch-adam-foreach"
AT_MOST, AT_LEAST = "ours ÷ {}", "{} ÷ ours"
WARM_UP = 10
DEFAULT = "riemopt-adam-tangent"
TITLES = {
    FLOOR: "floor",
    POGO: "POGO",
    GEOOPT: "geoopt",
    TORCH: "torch foreach",
    DEFAULT: "the default",
}


@dataclass(frozen=True)
class Target:
    """What is wanted of the time of our step beside that of another."""

    other: str
    ratio: float
    ours_is_above: bool = True
    """The ratio is ours ÷ other, and wanted to be at most that; else other ÷ ours, at least."""

    def of(self, ours: float, other: float) -> float:
        """The ratio of two times."""
        return ours / other if self.ours_is_above else other / ours

    def is_met(self, ratio: float) -> bool:
        """Whether a ratio is as wanted."""
        return ratio <= self.ratio if self.ours_is_above else ratio >= self.ratio

    def __str__(self) -> str:
        return (AT_MOST if self.ours_is_above else AT_LEAST).format(TITLES[self.other])

    @property
    def wanted(self) -> str:
        """In words."""
        return f"{'≤' if self.ours_is_above else '≥'} {self.ratio:g}"


@dataclass(frozen=True)
class Work:
    """One weight, the methods that step it, and what is wanted of their ratios."""

    name: str
    steppers: Callable[[], dict[str, Stepper]]
    targets: tuple[Target, ...]
    others: tuple[str, ...] = ()
    """Methods whose ratio is shown, with nothing wanted."""


def of_benchmark(
    name: str,
    shape: tuple[int, ...],
    surface: Surface,
    *targets: Target,
    others: tuple[str, ...] = (),
) -> Work:
    """A weight that the benchmark's methods step."""
    others = (*others, DEFAULT)
    methods = (OURS, *(target.other for target in targets), *others)
    workload = Workload(name, name, (Item(shape, surface),))

    def steppers() -> dict[str, Stepper]:
        known = registry.step_methods()
        return {method: stepper(known[method], workload.build()) for method in methods}

    return Work(name, steppers, targets, others)


def hyperbolic(manifold: Any, n: int, d: int) -> Work:
    """Points of geoopt's `manifold` in its own optimizer, and in ours through `from_geoopt`."""
    name = f"{type(manifold).__name__} {n}×{d}"
    native = from_geoopt(manifold)
    builds: dict[str, Build] = {OURS: ours(native), GEOOPT: theirs(manifold)}

    def steppers() -> dict[str, Stepper]:
        x = native.random_point(n, d, generator=torch.Generator().manual_seed(0))
        g = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        return {method: build(x, g) for method, build in builds.items()}

    return Work(name, steppers, (Target(GEOOPT, 1.5),))


# Operators and calls, counted as here, when nobody had looked at them.
BEFORE = {
    "Stiefel 10×10": (46, 459),
    "Stiefel 96×96": (52, 478),
    "Stiefel 1024×64": (64, 524),
    "Stiefel 4096×64": (66, 530),
    "Stiefel 1000×16×16": (78, 469),
    "Stiefel 512×512": (66, 488),
    "Stiefel 1024×1024": (72, 504),
    "Sphere 1000×128": (54, 450),
    **{f"PoincareBall {shape}": (100, 566) for shape in ("10×2", "364×5", "20000×5")},
    **{f"Lorentz {shape}": (152, 598) for shape in ("10×2", "364×5", "20000×5")},
}
NO_SLOWER = (Target(POGO, 1.0, False), Target(GEOOPT, 1.0, False))
TALL = (Target(FLOOR, 1.5), Target(POGO, 1.3, False), Target(GEOOPT, 1.8, False))
SQUARE = (Target(FLOOR, 1.1), Target(POGO, 1.4, False))
WORKS = [
    of_benchmark("Stiefel 10×10", (10, 10), Stiefel(), *NO_SLOWER, others=(FLOOR,)),
    of_benchmark("Stiefel 96×96", (96, 96), Stiefel(), *NO_SLOWER, others=(FLOOR,)),
    of_benchmark("Stiefel 1024×64", (1024, 64), Stiefel(), *TALL),
    of_benchmark("Stiefel 4096×64", (4096, 64), Stiefel(), *TALL),
    of_benchmark("Stiefel 1000×16×16", (1000, 16, 16), Stiefel(), *TALL),
    of_benchmark("Stiefel 512×512", (512, 512), Stiefel(), *SQUARE),
    of_benchmark("Stiefel 1024×1024", (1024, 1024), Stiefel(), *SQUARE),
    of_benchmark("Sphere 1000×128", (1000, 128), Sphere(), Target(TORCH, 1.4)),
    *(
        hyperbolic(manifold, n, d)
        for n, d in ((10, 2), (364, 5), (20_000, 5))
        for manifold in (geoopt.PoincareBall(), geoopt.Lorentz())
    ),
]


def python_calls(call: Callable[[], object]) -> int:
    """How many functions a call calls, those written in C included."""
    count = 0

    def look(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def count(work: Work, stepper: Stepper) -> dict[str, Any]:
    """The fixed cost of our step, once its state is there."""
    for _ in range(WARM_UP):
        stepper.call()
    with OperatorCount() as operators:
        stepper.call()
    calls, before = python_calls(stepper.call), BEFORE[work.name]
    return {
        "work": work.name,
        "operators": len(operators.names),
        "operators_before": before[0],
        "calls": calls,
        "calls_before": before[1],
    }


def measure(work: Work, rounds: int) -> dict[str, Any]:
    """The fixed cost and the time of our step, and its ratios with quartiles."""
    steppers = work.steppers()
    row = count(work, steppers[OURS])
    timings = interleave(steppers, rounds, Device("cpu", processor_clock))
    own = timings[OURS]
    assert isinstance(own, Timing), own
    row["ms"] = _quartiles([1e3 * s for s in own.seconds.values()])
    row["ratios"] = []
    for target in (*work.targets, *(Target(other, float("inf")) for other in work.others)):
        other = timings[target.other]
        if not isinstance(other, Timing):
            row["ratios"].append({"ratio": str(target), "error": repr(other)})
            continue
        both = own.seconds.keys() & other.seconds.keys()
        ratio = _quartiles([target.of(own.seconds[k], other.seconds[k]) for k in both])
        is_wanted = target.other not in work.others
        row["ratios"].append(
            {
                "ratio": str(target),
                "other_ms": 1e3 * median(other.seconds.values()),
                "quartiles": ratio,
                "wanted": target.wanted if is_wanted else "–",
                "met": target.is_met(ratio[1]) if is_wanted else None,
            }
        )
    return row


def _quartiles(values: list[float]) -> list[float]:
    low, _, high = quantiles(values, n=4)
    return [low, median(values), high]


def page(rows: list[dict[str, Any]]) -> str:
    """The table of the README."""
    lines = [
        "| weight | operators (before) | calls (before) | ms | ratio | quartiles | wanted |",
        "| --- | ---: | ---: | ---: | --- | --- | --- |",
    ]
    for row in rows:
        fixed = [f"{row[key]} ({row[f'{key}_before']})" for key in ("operators", "calls")]
        cells = [row["work"], *fixed, f"{row['ms'][1]:.3g}" if "ms" in row else ""]
        if "ratios" not in row:
            lines.append("| " + " | ".join([*cells, "", "", ""]) + " |")
            continue
        for ratio in row["ratios"]:
            if "error" in ratio:
                measured, wanted = "failed", ratio["error"][:40]
            else:
                low, middle, high = ratio["quartiles"]
                measured = f"{middle:.2f} ({low:.2f} to {high:.2f})"
                wanted = ratio["wanted"] + (": **missed**" if ratio["met"] is False else "")
            both = [*cells, ratio["ratio"], measured, wanted]
            lines.append("| " + " | ".join(map(str, both)) + " |")
            cells = ["", "", "", ""]
    return "\n".join(lines)


def main(
    only: Annotated[list[str], typer.Option(help="Works whose name has that in it.")] = [],  # noqa: B006
    rounds: Annotated[int, typer.Option(min=5, help="Turns of each method.")] = 40,
    counts: Annotated[bool, typer.Option(help="Count, and time nothing; write the table.")] = False,
    write: Annotated[bool, typer.Option(help="Write the figures, and the table.")] = True,
) -> None:
    """Time Adam steps on small weights in turns with others'."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settle_allocator()
    wanted = [name.lower().replace("x", "×") for name in only]
    chosen = [w for w in WORKS if not wanted or any(name in w.name.lower() for name in wanted)]
    if counts:
        rows = [count(work, work.steppers()[OURS]) for work in chosen]
    else:
        rows = [measure(work, rounds) for work in chosen]
    text = page(rows)
    print(text)
    if write:
        if not counts:
            write_rows(OUTPUT, rows, "pogo-torch")
        between = re.compile("(?<=" + MARKS[0] + "\n).*(?=\n" + MARKS[1] + ")", re.DOTALL)
        PAGE.write_text(between.sub(lambda _: text, PAGE.read_text()))


if __name__ == "__main__":
    typer.run(main)

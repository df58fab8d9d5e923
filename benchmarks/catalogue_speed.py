"""Adam steps on sets of the catalogue against geoopt's and pymanopt's, and against each other.

    python benchmarks/catalogue_speed.py [--quick]

All methods of a workload are timed in turns, in one run. geoopt's are its manifold with its
`RiemannianAdam`; pymanopt has no Adam, so its step is what any of its solvers does with a gradient:
`projection` of the gradient, then `retraction`, in NumPy; ours beside it is `RiemannianSGD`.
It is left out where pymanopt is not installed. Of riemopt, Adam has `second_moment="point"`. Run it
on an otherwise idle machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any

import geoopt
import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from riemopt_bench.environment import write_rows
from riemopt_bench.speed.stepper import Stepper
from riemopt_bench.speed.timing import Timing, interleave, settle_allocator
from torch import Tensor, nn

from riemopt import RiemannianAdam, RiemannianSGD
from riemopt.manifolds import (
    SPD,
    FixedRank,
    Grassmann,
    Lorentz,
    Manifold,
    PoincareBall,
    SpecialOrthogonal,
    Stiefel,
)

OUTPUT = Path(__file__).parent / "results" / "catalogue_speed.json"
LR = 1e-4
Build = Callable[[Tensor, Tensor], Stepper]


def ours(manifold: Manifold, *, adam: bool = True) -> Build:
    """Our optimizer on `manifold`."""

    def build(x: Tensor, g: Tensor) -> Stepper:
        weight = nn.Parameter(x.clone())
        weight.grad = g.clone()
        group: Any = [{"params": [weight], "manifold": manifold}]
        optimizer = (
            RiemannianAdam(group, lr=LR, second_moment="point")
            if adam
            else RiemannianSGD(group, lr=LR)
        )
        return _stepper(optimizer, weight)

    return build


def theirs(manifold: Any) -> Build:
    """geoopt's Adam on its `manifold`."""

    def build(x: Tensor, g: Tensor) -> Stepper:
        weight = geoopt.ManifoldParameter(x.clone(), manifold=manifold)
        weight.grad = g.clone()
        return _stepper(geoopt.optim.RiemannianAdam([weight], lr=LR), weight)

    return build


def _stepper(optimizer: torch.optim.Optimizer, weight: Tensor) -> Stepper:
    assert weight.grad is not None
    return Stepper(optimizer.step, [weight], [weight.grad], list, list)


def pymanopt_rank(n: int, m: int, rank: int) -> Build:
    """A step of pymanopt's `FixedRankEmbedded`, whose points are the factors of an SVD."""

    def build(x: Tensor, g: Tensor) -> Stepper:
        from pymanopt.manifolds import FixedRankEmbedded

        manifold = FixedRankEmbedded(n, m, rank)
        u, s, vt = (a.numpy() for a in torch.linalg.svd(x, full_matrices=False))
        point = type(manifold.random_point())(u[:, :rank], s[:rank], vt[:rank])
        gradient = g.numpy()

        def step() -> None:
            tangent = manifold.projection(point, gradient)
            moved = type(tangent)(*(-LR * np.asarray(part) for part in tangent))
            manifold.retraction(point, moved)

        return Stepper(step, [torch.zeros(())], [], list, list)  # it moves nothing of ours

    return build


@dataclass(frozen=True)
class Work:
    """One shape on one set, stepped by several methods, the first of which is the one compared."""

    name: str
    shape: tuple[int, ...]
    start: Manifold
    methods: dict[str, Build]
    wanted: str
    quick: bool = False


def hyperbolic(n: int, d: int, *, quick: bool = False) -> list[Work]:
    """Both models of one space."""
    return [
        Work(
            f"PoincareBall {n}×{d}",
            (n, d),
            PoincareBall(),
            {"riemopt": ours(PoincareBall()), "geoopt": theirs(geoopt.PoincareBall())},
            "geoopt ÷ riemopt ≥ 2",
            quick,
        ),
        Work(
            f"Lorentz {n}×{d + 1}",
            (n, d + 1),
            Lorentz(),
            {"riemopt": ours(Lorentz()), "geoopt": theirs(geoopt.Lorentz())},
            "geoopt ÷ riemopt ≥ 2",
            quick,
        ),
    ]


def beside_stiefel(name: str, manifold: Manifold, shape: tuple[int, ...]) -> Work:
    """A set whose step is that of `Stiefel`."""
    methods = {"riemopt": ours(manifold), "Stiefel": ours(Stiefel())}
    return Work(name, shape, manifold, methods, "Stiefel ÷ riemopt ≥ .91")


WORKS = [
    *hyperbolic(20_000, 5),
    *hyperbolic(364, 5, quick=True),
    *hyperbolic(10, 2),
    Work(
        "SPD 1000×8×8",
        (1000, 8, 8),
        SPD("affine"),
        {
            "riemopt": ours(SPD("affine")),
            "riemopt, Bures–Wasserstein": ours(SPD()),
            "riemopt, log-Cholesky": ours(SPD("log_cholesky")),
            "riemopt, log-Euclidean": ours(SPD("log_euclidean")),
            "geoopt": theirs(geoopt.SymmetricPositiveDefinite()),
        },
        "geoopt ÷ riemopt ≥ 2",
        quick=True,
    ),
    beside_stiefel("Grassmann 1024×64", Grassmann(), (1024, 64)),
    beside_stiefel("Grassmann 1000×16×4", Grassmann(), (1000, 16, 4)),
    beside_stiefel("SpecialOrthogonal 256×256", SpecialOrthogonal(), (256, 256)),
    beside_stiefel("SpecialOrthogonal 1000×3×3", SpecialOrthogonal(), (1000, 3, 3)),
    Work(
        "FixedRank(10) 1000×800",
        (1000, 800),
        FixedRank(10),
        {
            "riemopt": ours(FixedRank(10), adam=False),
            "riemopt, Adam": ours(FixedRank(10)),
            "pymanopt": pymanopt_rank(1000, 800, 10),
        },
        "–",
    ),
]


def measure(work: Work, rounds: int) -> list[dict[str, Any]]:
    """One row for each method: milliseconds, and its ratio to the first one, with quartiles."""
    x = work.start.random_point(*work.shape, generator=torch.Generator().manual_seed(0))
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    steppers: dict[str, Stepper] = {}
    rows: list[dict[str, Any]] = []
    for name, build in work.methods.items():
        try:
            steppers[name] = build(x, g)
        except ImportError as error:
            rows.append({"work": work.name, "method": name, "error": str(error)})
    timings = interleave(steppers, rounds)
    first = timings["riemopt"]
    for name, timing in timings.items():
        if not isinstance(timing, Timing) or not isinstance(first, Timing):
            rows.append({"work": work.name, "method": name, "error": repr(timing)})
            continue
        both = timing.seconds.keys() & first.seconds.keys()
        row = {"work": work.name, "method": name, "wanted": work.wanted}
        row["ms"] = _quartiles([1e3 * s for s in timing.seconds.values()])
        row["ratio"] = _quartiles([timing.seconds[k] / first.seconds[k] for k in both])
        rows.append(row)
    return rows


def _quartiles(values: list[float]) -> list[float]:
    low, _, high = quantiles(values, n=4)
    return [low, median(values), high]


def show(console: Console, rows: list[dict[str, Any]]) -> None:
    """A table of all rows."""
    table = Table()
    for column in ("set", "method", "ms", "÷ riemopt", "quartiles", "wanted"):
        table.add_column(column, justify="left" if column in ("set", "method") else "right")
    for row in rows:
        if "error" in row:
            table.add_row(row["work"], row["method"], "failed", "", row["error"][:40], "")
            continue
        low, middle, high = row["ratio"]
        own = row["method"] == "riemopt"
        spread = "" if own else f"{low:.2f} to {high:.2f}"
        wanted = row["wanted"] if own else ""
        table.add_row(
            row["work"], row["method"], f"{row['ms'][1]:.3g}", f"{middle:.2f}", spread, wanted
        )
    console.print(table)


def main(
    quick: Annotated[bool, typer.Option(help="A few workloads, few rounds.")] = False,
    rounds: Annotated[int, typer.Option(min=5, help="Turns of each method.")] = 40,
    output: Annotated[Path, typer.Option(help="Where the figures are written, as JSON.")] = OUTPUT,
) -> None:
    """Time steps on sets of the catalogue, in turns with others'."""
    torch.manual_seed(0)
    settle_allocator()
    chosen = [work for work in WORKS if work.quick or not quick]
    rows = [row for work in chosen for row in measure(work, 8 if quick else rounds)]
    console = Console(width=None if sys.stdout.isatty() else 140)
    show(console, rows)
    write_rows(output, rows, "pymanopt")
    console.print(f"Written to {output}")


if __name__ == "__main__":
    typer.run(main)

"""Full-batch solvers on problems with known minima, against pymanopt, geoopt and SciPy.

    python benchmarks/full_batch.py [--quick]

The same cost, start and stopping rule for all, in float64 on one thread; methods take turns in a
new random order each round. Then a thousand small problems in one call, against pymanopt one by
one; and the memory of a large one, in a process of its own. Writes results/full_batch.json and the
tables of README.md. Run it on an otherwise idle machine; it takes some minutes.
"""

from __future__ import annotations

import functools
import random
import re
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any

import numpy as np
import torch
import typer
from full_batch_problems import PROBLEMS
from full_batch_problems.interface import Array, FullBatch, as_it_is
from full_batch_problems.means import squared_distances
from full_batch_problems.solvers import Solve, methods_for, pymanopts
from rich.console import Console
from riemopt_bench.environment import write_rows
from riemopt_bench.problems import procrustes
from riemopt_bench.problems._known_minimum import normal
from riemopt_bench.problems._minima import mean_by_fixed_point
from riemopt_bench.problems.karcher_mean import samples
from riemopt_bench.speed.timing import settle_allocator
from torch import Tensor

import riemopt
from riemopt.manifolds import SPD, Grassmann, Manifold, SpecialOrthogonal

HERE = Path(__file__).parent
OUTPUT, PAGE = HERE / "results" / "full_batch.json", HERE / "README.md"
REFERENCE = "pymanopt CG"
ROUNDS, ENOUGH_SECONDS = 7, 3.0
"""A method has so many turns, or as many as fit into these seconds; one at least."""
MANY, SAMPLE = 1000, 20
"""Problems in a batch, and how many of them pymanopt solves; its time is scaled."""
LARGE = 20_000, 50
Row = dict[str, Any]


def measure(problem: FullBatch, seed: int, rounds: int) -> list[Row]:
    """A row for each method, with seconds and gap."""
    start, methods = problem.start(seed), methods_for(problem)
    rows = {name: {"problem": problem.title, "method": name} for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(rounds + 1):  # the first is not timed: imports, caches
        for name in random.sample(list(methods), len(methods)):
            if "error" in rows[name] or sum(seconds[name]) > ENOUGH_SECONDS:
                continue
            elapsed = _turn(methods[name], problem, start, rows[name])
            if turn > 0:
                seconds[name].append(elapsed)
    reference = seconds[REFERENCE]
    for name, row in rows.items():
        if "error" not in row:
            row["seconds"] = _quartiles(seconds[name])
            if reference:
                middle = median(reference)
                row["reference_ratio"] = _quartiles([middle / s for s in seconds[name]])
    return list(rows.values())


def _turn(solve: Solve, problem: FullBatch, start: Tensor, row: Row) -> float:
    begin = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = solve(problem, start.clone())
    except Exception as error:  # of a package that cannot
        row["error"] = f"{type(error).__name__}: {error}"
        return 0.0
    elapsed = time.perf_counter() - begin
    row.update(
        iterations=int(found.iterations),
        **{name: int(n) for name, n in vars(found.calls).items()},
        gap=problem.gap(found.x),
    )
    return elapsed


def _quartiles(values: list[float]) -> list[float]:
    low, _, high = quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return [low, median(values), high]


# --- many small problems ---


def means() -> list[Row]:
    """A thousand Karcher means of ten 5×5 matrices."""
    A = samples(21, MANY, 10, 5)
    best = squared_distances(A)(torch.from_numpy(mean_by_fixed_point(A.numpy())))
    start = torch.eye(5, dtype=A.dtype).expand(MANY, 5, 5).contiguous()

    def posed(i: int) -> FullBatch:
        from pymanopt.manifolds import SymmetricPositiveDefinite

        cost = squared_distances(A[i])
        return FullBatch(
            "mean",
            "",
            SPD("affine"),
            (5, 5),
            cost,
            float(best[i]),
            lambda: as_it_is(SymmetricPositiveDefinite(5), cost),
        )

    title = f"{MANY} Karcher means of 10 matrices, SPD 5×5"
    return many(title, squared_distances(A), start, SPD("affine"), best, posed)


def rotations() -> list[Row]:
    """A thousand Procrustes problems in space."""
    M = normal(22, MANY, 3, 3)
    best = procrustes.minima(M)
    start = torch.eye(3, dtype=M.dtype).expand(MANY, 3, 3).contiguous()

    def cost_of(target: Tensor) -> Callable[[Tensor], Tensor]:
        return functools.partial(procrustes.costs, M=target)

    def posed(i: int) -> FullBatch:
        from pymanopt.manifolds import SpecialOrthogonalGroup

        cost = cost_of(M[i])
        return FullBatch(
            "rotation",
            "",
            SpecialOrthogonal(),
            (3, 3),
            cost,
            float(best[i]),
            lambda: as_it_is(SpecialOrthogonalGroup(3), cost),
        )

    title = f"{MANY} Procrustes problems, rotations 3×3"
    return many(title, cost_of(M), start, SpecialOrthogonal(), best, posed)


def many(
    title: str,
    cost: Callable[[Tensor], Tensor],
    start: Tensor,
    manifold: Manifold,
    best: Tensor,
    posed: Callable[[int], FullBatch],
) -> list[Row]:
    """All in one call of ours; pymanopt on each of a sample."""
    rows: list[Row] = []
    for method in ("lbfgs", "trust-region"):
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            result = riemopt.minimize(
                cost,
                start,
                manifold,
                method=method,
                tol=0.0,
                options={"gtol": 1e-6},
                batch_ndim=1,
            )
            seconds.append(time.perf_counter() - begin)
        gap = ((torch.from_numpy(result.fun) - best) / best.abs().clamp(min=1)).max()
        rows.append(
            {
                "problem": title,
                "method": f"riemopt {method}, one call",
                "iterations": int(result.nit.max()),
                "seconds": _quartiles(seconds),
                "gap": float(gap),
            }
        )
    for short, name in (("CG", "ConjugateGradient"), ("TR", "TrustRegions")):
        row: Row = {"problem": title, "method": f"pymanopt {short}, one by one"}
        rows.append(row)
        seconds, gaps, iterations = [], [], []
        for i in range(SAMPLE):
            problem = posed(i)
            own: Row = {}
            seconds.append(_turn(pymanopts(name), problem, start[i], own))
            if "error" in own:
                row["error"] = own["error"]
                break
            gaps.append(own["gap"])
            iterations.append(own["iterations"])
        if "error" not in row:
            row.update(
                iterations=max(iterations),
                seconds=[MANY * s for s in _quartiles(seconds)],
                gap=max(gaps),
                scaled_from=SAMPLE,
            )
    return rows


# --- memory ---


def large_operator() -> tuple[Tensor, Tensor, Tensor]:
    """D, U, s of the symmetric matrix diag(D) + U·diag(s)·Uᵀ, whose dominant subspace is sought."""
    n, p = LARGE
    U = torch.linalg.qr(normal(23, n, p))[0]
    return torch.linspace(0, 1, n, dtype=U.dtype), U, torch.linspace(2, 3, p, dtype=U.dtype)


def large() -> None:
    """Solve the large problem and print its gap, seconds, and the peak memory of this process."""
    import scipy.sparse.linalg

    D, U, s = large_operator()
    n, p = LARGE

    def times(X: Tensor) -> Tensor:
        return D[:, None] * X + U @ (s[:, None] * (U.mT @ X))

    start = Grassmann().random_point(
        n, p, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    begin = time.perf_counter()
    result = riemopt.minimize(lambda X: -(X * times(X)).sum(), start, Grassmann())
    seconds = time.perf_counter() - begin
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def product(v: Array) -> Array:
        return times(torch.from_numpy(v).reshape(-1, 1)).numpy()[:, 0]

    operator = scipy.sparse.linalg.LinearOperator((n, n), matvec=product, dtype=np.float64)
    values = scipy.sparse.linalg.eigsh(operator, k=p, return_eigenvectors=False)
    gap = (result.fun + values.sum()) / values.sum()
    print(f"{result.nit} {result.nfev} {seconds} {kilobytes / 1024**2} {gap}")


def memory() -> Row:
    """`large` in a process of its own."""
    command = [sys.executable, __file__, "--large"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    nit, nfev, seconds, gigabytes, gap = map(float, run.stdout.split())
    return {
        "problem": f"Dominant subspace, Grassmann {LARGE[0]}×{LARGE[1]}",
        "method": "riemopt lbfgs",
        "iterations": int(nit),
        "values": int(nfev),
        "seconds": [seconds] * 3,
        "gap": gap,
        "peak_memory_gib": gigabytes,
    }


# --- tables ---

HEADER = (
    "| problem | method | iterations | values, gradients, products | seconds | speed | gap |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
)


def table(rows: list[Row]) -> str:
    """In Markdown; a problem's title stands in its first row alone."""
    lines, last = [HEADER], ""
    for row in rows:
        title = "" if row["problem"] == last else row["problem"]
        last = row["problem"]
        if "error" in row:
            lines.append(f"| {title} | {row['method']} | – | – | – | – | {_first(row['error'])} |")
            continue
        calls = ", ".join(str(row[k]) for k in ("values", "gradients", "products") if k in row)
        low, middle, high = row["seconds"]
        ratio = row.get("reference_ratio")
        speed = f"{ratio[1]:.2g}×" if ratio else ""
        if "peak_memory_gib" in row:
            speed = f"{row['peak_memory_gib']:.2f} GiB"
        seconds = f"{middle:.3g} ({low:.2g} to {high:.2g})"
        lines.append(
            f"| {title} | {row['method']} | {row['iterations']} | {calls} | {seconds} | {speed} | "
            f"{row['gap']:.0e} |"
        )
    return "\n".join(lines)


def _first(error: str) -> str:
    return re.split(r"[\n|]", error)[0][:60]


def write_page(rows: list[Row]) -> None:
    """Put the table between its marks in README.md."""
    text = PAGE.read_text()
    marks = "<!-- full_batch: begin -->", "<!-- full_batch: end -->"
    before, _, rest = text.partition(marks[0])
    _, _, after = rest.partition(marks[1])
    PAGE.write_text(f"{before}{marks[0]}\n{table(rows)}\n{marks[1]}{after}")


def main(
    quick: Annotated[bool, typer.Option(help="Two problems, two rounds; writes no page.")] = False,
    problem: Annotated[list[str] | None, typer.Option(help="Only these; writes no page.")] = None,
    seed: Annotated[int, typer.Option(help="Of the starts.")] = 0,
    output: Annotated[Path, typer.Option(help="Where the figures are written.")] = OUTPUT,
    large_only: Annotated[bool, typer.Option("--large", hidden=True)] = False,
) -> None:
    """Solve all problems with all packages, and write what it took."""
    torch.set_num_threads(1)
    if large_only:
        large()
        return
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    settle_allocator()
    console = Console(width=None if sys.stdout.isatty() else 140)
    names = problem or (["pca", "thomson_12"] if quick else list(PROBLEMS))
    rows: list[Row] = []
    for name in names:
        rows += measure(PROBLEMS[name](), seed, 2 if quick else ROUNDS)
        console.print(f"{name} done")
    if not quick and not problem:
        rows += [*means(), *rotations(), memory()]
        write_rows(output, rows, "pymanopt", "scipy")
        write_page(rows)
        console.print(f"Written to {output} and {PAGE}")
    console.print(table(rows), markup=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)

"""Which second moment Adam should have on a manifold: networks and invariant problems.

    python benchmarks/second_moments.py run
    python benchmarks/second_moments.py table [--page docs/choosing-an-optimizer.md]

How rates are tuned and runs are kept: `training_tasks/study.py`. One thread, about 40 minutes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from riemopt_bench.environment import write_between
from riemopt_bench.stats import quartiles
from scipy.stats import bootstrap
from training_tasks import TASKS, Training
from training_tasks.study import Method, MissingRunError, Study

from riemopt import RiemannianAdam

RESULTS = Path(__file__).parent / "results" / "second_moments.jsonl"
SEEDS = 5
FORMS = ("point", "carried", "tangent")
MARKS = ("<!-- second moments: begin -->", "<!-- second moments: end -->")


class _ProjectedAdam(torch.optim.Adam):
    """Torch's Adam, which knows of no manifold; each step ends at the nearest point."""

    def __init__(self, training: Training, lr: float) -> None:
        self.constrained = training.constrained()
        super().__init__([p for p in training.model.parameters() if p.requires_grad], lr=lr)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        super().step()
        for p, manifold in self.constrained:
            if p.isfinite().all():
                p.copy_(manifold.project(p.double()))  # an SVD in float32 may not converge


def riemopt_adam(second_moment: str) -> Method:
    """Adam with an option of `RiemannianAdam`."""
    return lambda training, lr: RiemannianAdam(
        training.groups(),
        lr=lr,
        second_moment=second_moment,  # type: ignore[arg-type]
    )


METHODS: dict[str, Method] = {
    "point": riemopt_adam("point"),
    "carried": riemopt_adam("carried"),
    "tangent": riemopt_adam("tangent"),
    "projected": _ProjectedAdam,
}


def methods_of(task: str) -> tuple[str, ...]:
    """The control is for networks."""
    return tuple(METHODS) if TASKS[task].kind == "network" else FORMS


# --- tables ---


def collect(study: Study, seeds: int) -> pd.DataFrame:
    """A line for each run that is reported, of tasks where all forms are done.

    The loss of a failure is infinite.
    """
    lines = []
    for task in TASKS:
        for method in methods_of(task):
            try:
                rows = study.fresh(task, method, study.tune(task, method), seeds)
            except MissingRunError:
                continue
            for row in rows:
                failed = math.inf if row["loss"] is None else math.nan
                figures = {"loss": row["loss"] or failed, "test": row.get("test", failed)}
                lines.append({**row, **figures, "kind": TASKS[task].kind})
    runs = pd.DataFrame(lines)
    complete = runs.groupby("task").method.agg(set(FORMS).issubset)
    return runs[runs.task.map(complete)]


def ratios(runs: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Median of each task (rows) and method (columns), relative to the best form of moments."""
    medians = runs.pivot_table(index="task", columns="method", values=figure, aggfunc="median")
    medians = medians.reindex(columns=list(METHODS)).dropna(how="all")
    return medians.div(medians[list(FORMS)].min(axis=1), axis=0)


def mean_with_interval(values: pd.Series) -> tuple[float, float, float]:
    """Geometric mean over tasks and its 95% bootstrap interval, tasks being drawn anew."""
    logs = np.log(values.to_numpy())
    found = bootstrap((logs,), np.mean, method="percentile", rng=np.random.default_rng(0))
    low, high = found.confidence_interval
    return math.exp(logs.mean()), math.exp(low), math.exp(high)


def task_table(runs: pd.DataFrame) -> list[str]:
    """Ratio to the best form, median and quartiles of the final training loss, and the rate."""
    relative = ratios(runs, "loss")
    lines = [_row(["task", *METHODS, "tangent ÷ point", "seeds won"]), _row(["---"] * 7)]
    for task in sorted(relative.index, key=list(TASKS).index):
        of_task = runs[runs.task == task]
        cells = [TASKS[task].title]
        for method in METHODS:
            chosen = of_task[of_task.method == method]
            cells.append(_cell(chosen, relative.loc[task, method]) if len(chosen) else "–")
        by_seed = of_task.pivot(index="seed", columns="method", values="loss")
        won = int((by_seed.tangent < by_seed.point).sum())
        over = relative.loc[task, "tangent"] / relative.loc[task, "point"]
        lines.append(_row([*cells, f"{over:.2f}", f"{won} of {len(by_seed)}"]))
    return lines


def _cell(chosen: pd.DataFrame, ratio: float) -> str:
    low, middle, high = quartiles(list(chosen.loss))
    shown = f"**{ratio:.2f}**" if ratio == 1 else f"{ratio:.2f}"
    return f"{shown}: {middle:.3g} ({low:.3g} to {high:.3g}), {chosen.lr.iloc[0]:g}"


def summary_table(runs: pd.DataFrame) -> list[str]:
    """Geometric means over the networks, with intervals, and seeds won."""
    networks = runs[runs.kind == "network"]
    networks = networks[networks.task.isin(networks.task[networks.method == "projected"])]
    if networks.task.nunique() < 2:  # no interval
        return []
    lines = [_row(["networks", *METHODS]), _row(["---"] * 5)]
    for title, figure, reference in (
        ("training loss ÷ that of point", "loss", "point"),
        ("test loss ÷ that of point", "test", "point"),
        ("training loss ÷ that of tangent", "loss", "tangent"),
        ("test loss ÷ that of tangent", "test", "tangent"),
    ):
        relative = ratios(networks, figure)
        cells = [f"{title}; {len(relative)} tasks"]
        for method in METHODS:
            mean, low, high = mean_with_interval(relative[method] / relative[reference])
            interval = f"{mean:.2f} ({low:.2f} to {high:.2f})"
            cells.append("1" if method == reference else interval)
        lines.append(_row(cells))
    for title, figure in (("training", "loss"), ("test", "test")):
        by_seed = networks.pivot(index=["task", "seed"], columns="method", values=figure).dropna()
        won = by_seed.rsub(by_seed.tangent, axis=0).lt(0).sum()
        cells = [f"{won[m]} of {len(by_seed)}" if m != "tangent" else "–" for m in METHODS]
        lines.append(_row([f"seeds where tangent has the lower {title} loss", *cells]))
    return lines


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def markdown(study: Study, seeds: int = SEEDS) -> str:
    """Both tables."""
    runs = collect(study, seeds)
    return "\n".join([*task_table(runs), "", *summary_table(runs)])


# --- commands ---

app = typer.Typer(add_completion=False, help=__doc__)
ResultsOption = Annotated[Path, typer.Option(help="One JSON object a run and line.")]
SeedsOption = Annotated[int, typer.Option(min=1, help="How many fresh seeds are reported.")]


@app.command()
def run(
    task: Annotated[list[str] | None, typer.Option(help="Only these tasks.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only these methods.")] = None,
    seeds: SeedsOption = SEEDS,
    results: ResultsOption = RESULTS,
) -> None:
    """Tune and run what is missing."""
    torch.set_num_threads(1)
    study = Study(results, METHODS)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    pairs = [(t, m) for t in task or TASKS for m in methods_of(t) if not method or m in method]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=len(pairs))
        for name, how in pairs:
            progress.update(bar, description=f"{name}, {how}")
            study.fresh(name, how, study.tune(name, how), seeds)
            progress.advance(bar)


@app.command()
def table(
    page: Annotated[Path | None, typer.Option(help="Write it between the marks there.")] = None,
    seeds: SeedsOption = SEEDS,
    results: ResultsOption = RESULTS,
) -> None:
    """Print the tables as Markdown."""
    text = markdown(Study(results, METHODS, read_only=True), seeds)
    if page is None:
        print(text)
        return
    write_between(page, MARKS, text)


if __name__ == "__main__":
    app()

"""Training by steps in the spectral norm: Muon against AdamW, with constraints and without.

    python benchmarks/spectral_training.py run [--jobs 2]
    python benchmarks/spectral_training.py table [--page docs/choosing-an-optimizer.md]

A digits net with its hidden weights unconstrained, of a fixed norm, and orthonormal, with and
without a gain, by test loss; and six of the networks of `training_tasks`, each with its own
constraints, by training loss. One rate holds for all weights of a run, since
`adjust_lr_fn="match_rms_adamw"` gives Muon's steps the size of AdamW's; AdamW steps what is not
hidden. How rates are tuned and runs are kept: `training_tasks/study.py`. Some 10 minutes on two
cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from joblib import Parallel, delayed
from riemopt_bench.environment import write_between
from riemopt_bench.stats import quartiles
from torch.optim import Optimizer
from training_tasks import TASKS, Training, TrainingTask
from training_tasks.deep_digits import HIDDEN
from training_tasks.deep_digits import TASKS as DIGITS
from training_tasks.study import Method, MissingRunError, Study

from riemopt import RiemannianAdamW, RiemannianMuon

RESULTS = Path(__file__).parent / "results" / "spectral_training.jsonl"
SEEDS = 5
MARKS = ("<!-- spectral training: begin -->", "<!-- spectral training: end -->")
NETWORKS = ("digits_mlp", "copying_rnn", "sparse_autoencoder", "heads", "adapters", "cnn")
CHOSEN: dict[str, TrainingTask] = {
    **{task.name: task for task in DIGITS},
    **{name: TASKS[name] for name in NETWORKS},
}


def muon(direction: str = "exact") -> Method:
    """Muon for hidden weights, which are the constrained ones, or all of a digits net's."""

    def make(training: Training, lr: float) -> Optimizer:
        groups = training.groups()
        if not training.manifolds:
            weights = dict(training.model.named_parameters())
            rest = [p for n, p in weights.items() if n not in HIDDEN and p.requires_grad]
            groups = [{"params": [weights[name] for name in HIDDEN]}, {"params": rest}]
        if len(groups) > max(len(training.manifolds), 1):
            groups[-1]["use_muon"] = False
        return RiemannianMuon(
            groups,
            lr=lr,
            weight_decay=0.01,
            adjust_lr_fn="match_rms_adamw",
            direction=direction,  # type: ignore[arg-type]
            adamw={"lr": lr, "weight_decay": 0.01},
        )

    return make


def adam(training: Training, lr: float) -> Optimizer:
    """AdamW, on constrained weights too."""
    return RiemannianAdamW(training.groups(), lr=lr, weight_decay=0.01)


METHODS: dict[str, Method] = {"Muon": muon(), "Muon, projected": muon("projected"), "AdamW": adam}


def _methods_of(task: str) -> list[str]:
    """Unconstrained weights have no direction to choose."""
    return [m for m in METHODS if task != "free" or m != "Muon, projected"]


# --- tables ---


def _losses(study: Study, task: str, method: str, figure: str, seeds: int) -> tuple[Any, float]:
    lr = study.tune(task, method, figure)
    rows = study.fresh(task, method, lr, seeds)
    values = [float("inf") if row.get(figure) is None else row[figure] for row in rows]
    return quartiles(values), lr


def table_of(study: Study, tasks: Mapping[str, TrainingTask], figure: str, seeds: int) -> list[str]:
    """Median, quartiles and rate of each method; tasks of which runs are missing are left out."""
    lines = [
        f"| {figure} loss | " + " | ".join(METHODS) + " |",
        "| --- |" + " --- |" * len(METHODS),
    ]
    for name, task in tasks.items():
        cells = [task.title]
        try:
            for method in METHODS:
                if method not in _methods_of(name):
                    cells.append("–")
                    continue
                (low, middle, high), lr = _losses(study, name, method, figure, seeds)
                cells.append(f"{middle:.3g} ({low:.3g} to {high:.3g}), {lr:g}")
        except MissingRunError:
            continue
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def markdown(study: Study, seeds: int = SEEDS) -> str:
    """Both tables."""
    digits = table_of(study, {task.name: task for task in DIGITS}, "test", seeds)
    networks = table_of(study, {name: TASKS[name] for name in NETWORKS}, "loss", seeds)
    networks[0] = networks[0].replace("loss loss", "training loss")
    return "\n".join([*digits, "", *networks])


# --- commands ---

app = typer.Typer(add_completion=False, help=__doc__)
ResultsOption = Annotated[Path, typer.Option(help="One JSON object a run and line.")]
SeedsOption = Annotated[int, typer.Option(min=1, help="How many fresh seeds are reported.")]


def _run(results: Path, task: str, method: str, seeds: int) -> None:
    torch.set_num_threads(1)
    study = Study(results, METHODS, CHOSEN)
    figure = "loss" if task in NETWORKS else "test"
    study.fresh(task, method, study.tune(task, method, figure), seeds)


@app.command()
def run(
    task: Annotated[list[str] | None, typer.Option(help="Only these tasks.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only these methods.")] = None,
    seeds: SeedsOption = SEEDS,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    results: ResultsOption = RESULTS,
) -> None:
    """Tune and run what is missing."""
    pairs = [(t, m) for t in task or CHOSEN for m in _methods_of(t) if not method or m in method]
    Parallel(n_jobs=jobs, verbose=5)(delayed(_run)(results, t, m, seeds) for t, m in pairs)


@app.command()
def table(
    page: Annotated[Path | None, typer.Option(help="Write it between the marks there.")] = None,
    seeds: SeedsOption = SEEDS,
    results: ResultsOption = RESULTS,
) -> None:
    """Print the tables as Markdown."""
    text = markdown(Study(results, METHODS, CHOSEN, read_only=True), seeds)
    if page is None:
        print(text)
    else:
        write_between(page, MARKS, text)


if __name__ == "__main__":
    app()

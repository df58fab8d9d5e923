"""What a constraint written as c(x) = 0 costs: an Adam step, and how far off its end is.

    python benchmarks/any_constraint.py [--quick]

The same set, four ways: the manifold derived by hand, `LevelSet` of one line of code, and cdopt
(constraint dissolving; Xiao, Liu & Toh 2022) with its class for that set and with the equation
alone. All are timed in one run, interleaved. A step of cdopt is the map A(w) that the forward uses,
its derivative, that of the penalty, and torch's Adam; its stored weights are off the surface by
what the penalty leaves, for which the best of several penalties is taken. riemopt's Adam has one
second moment for each point (`second_moment="point"`), as in all figures that are stored.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from riemopt_bench.environment import write_rows
from riemopt_bench.speed.stepper import Stepper
from riemopt_bench.speed.timing import Timing, interleave, settle_allocator
from torch import Tensor, nn

from riemopt import RiemannianAdam
from riemopt.manifolds import LevelSet, Manifold, Sphere, Stiefel

OUTPUT = Path(__file__).parent / "results" / "any_constraint.json"
LR = 1e-3
PENALTIES = (0.01, 0.1, 1.0, 10.0)
DRIFT_STEPS = 1000
# A run of so many steps is not waited for longer.
DRIFT_SECONDS = 100.0


def unit_norm(x: Tensor) -> Tensor:
    return x.square().sum() - 1


def orthonormal(x: Tensor) -> Tensor:
    return x.mT @ x - torch.eye(x.shape[-1])


@dataclass(frozen=True)
class Work:
    """One set: the equation of a point, and how many dimensions make one."""

    name: str
    shape: tuple[int, ...]
    hand: Manifold
    equation: Callable[[Tensor], Tensor]
    event_ndim: int
    quick: bool = False

    def start(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return self.hand.random_point(*self.shape, generator=generator)


WORKS = (
    Work("sphere, rows of 4096×1024", (4096, 1024), Sphere(), unit_norm, 1),
    Work("sphere, one of 1000", (1, 1000), Sphere(), unit_norm, 1, quick=True),
    Work("Stiefel 1024×64", (1024, 64), Stiefel(), orthonormal, 2),
    Work("Stiefel 100×20", (100, 20), Stiefel(), orthonormal, 2, quick=True),
)

Step = Callable[[], object]


@dataclass
class Method:
    """A weight, how it is stepped, and what the forward sees of it."""

    weight: nn.Parameter
    step: Step
    seen: Callable[[], Tensor] = field(default=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        self.weight.grad = torch.randn(
            self.weight.shape, generator=torch.Generator().manual_seed(1)
        )


def ours(manifold: Manifold, *, compiled: bool = False) -> Callable[[Work], Method]:
    def build(work: Work) -> Method:
        weight = nn.Parameter(work.start())
        lr = torch.tensor(LR) if compiled else LR
        group = {"params": [weight], "manifold": manifold}
        optimizer = RiemannianAdam([group], lr=lr, second_moment="point")
        if not compiled:
            return Method(weight, optimizer.step)
        step = torch.compile(lambda: RiemannianAdam.step(optimizer), fullgraph=True)
        return Method(weight, step)

    return build


def by_hand(work: Work, **options: Any) -> Method:
    return ours(work.hand, **options)(work)


def level_set(work: Work, *, cg_iterations: int | None = None, **options: Any) -> Method:
    manifold = LevelSet(work.equation, event_ndim=work.event_ndim, cg_iterations=cg_iterations)
    return ours(manifold, **options)(work)


def dissolving(work: Work, *, automatic: bool, penalty: float = 1.0) -> Method:
    """Cdopt: minimise f(A(w)) + penalty·‖C(w)‖², by torch's Adam."""
    from cdopt.manifold_torch import oblique_torch, stiefel_torch
    from cdopt.manifold_torch.basic_manifold_torch import basic_manifold_torch

    batch, event = work.shape[: -work.event_ndim], work.shape[-work.event_ndim :]

    class Written(basic_manifold_torch):  # type: ignore[misc]
        def __init__(self) -> None:
            rows = torch.vmap(work.equation)(torch.zeros(batch + event)) if batch else None
            shape = work.equation(torch.zeros(event)).shape if rows is None else rows.shape
            super().__init__("written", work.shape, tuple(shape), dtype=torch.float32)

        def C(self, x: Tensor) -> Tensor:  # noqa: N802
            return torch.vmap(work.equation)(x) if batch else work.equation(x)

    stock = oblique_torch if work.event_ndim == 1 else stiefel_torch
    manifold = Written() if automatic else stock(work.shape, dtype=torch.float32)
    weight = nn.Parameter(work.start())
    adam = torch.optim.Adam([weight], lr=LR)
    factor = torch.tensor(penalty)

    def step() -> None:
        # As after a backward of the model, whose gradient with respect to A(w) is `gradient`.
        gradient, weight.grad = weight.grad, None
        torch.autograd.backward(
            [manifold.A(weight), manifold.C_quad_penalty(weight)], [gradient, factor]
        )
        adam.step()
        weight.grad = gradient

    return Method(weight, step, lambda: manifold.A(weight).detach())


METHODS: dict[str, Callable[[Work], Method]] = {
    "by hand": by_hand,
    "by hand, compiled": lambda work: by_hand(work, compiled=True),
    "LevelSet": level_set,
    "LevelSet, compiled": lambda work: level_set(work, compiled=True),
    "LevelSet, compiled, cg_iterations=1": lambda work: level_set(
        work, cg_iterations=1, compiled=True
    ),
    "cdopt, its class": lambda work: dissolving(work, automatic=False),
    "cdopt, from the equation": lambda work: dissolving(work, automatic=True),
}


def wanted(work: Work, name: str) -> bool:
    """Whether it is worth the time, and fits the memory: cdopt forms J, (equations)×(entries)."""
    if name == "cdopt, from the equation":
        equations = work.shape[0] if work.event_ndim == 1 else work.shape[-1] ** 2
        return equations * torch.Size(work.shape).numel() <= 1 << 24
    return not (name.endswith("=1") and work.event_ndim == 1)


def stepper(method: Method) -> Stepper:
    assert method.weight.grad is not None
    return Stepper(method.step, [method.weight], [method.weight.grad], list, list)


def violation(work: Work, weight: Tensor) -> float:
    """Largest residual of the equation, in float64."""
    x = weight.detach().double()
    if work.event_ndim == 1:
        return (x.square().sum(-1) - 1).abs().max().item()
    return (x.mT @ x - torch.eye(x.shape[-1], dtype=x.dtype)).abs().max().item()


def drift(work: Work, method: Method, seconds: float) -> tuple[float, float] | None:
    """Violation of the stored weight and of what the forward sees, after random gradients."""
    if seconds * DRIFT_STEPS > DRIFT_SECONDS:
        return None
    generator = torch.Generator().manual_seed(2)
    for _ in range(DRIFT_STEPS):
        assert method.weight.grad is not None
        method.weight.grad.normal_(generator=generator)
        method.step()
    seen = method.seen()
    stored = violation(work, method.weight)
    return stored, violation(work, seen) if seen.numel() else stored


def drift_of_cdopt(
    work: Work, automatic: bool, seconds: float
) -> tuple[float, tuple[float, float]] | None:
    """The penalty that leaves least, and what it leaves."""
    found = []
    for penalty in PENALTIES:
        left = drift(work, dissolving(work, automatic=automatic, penalty=penalty), seconds)
        if left is None:
            return None
        if left[0] == left[0]:  # not NaN: it did not diverge
            found.append((penalty, left))
    return min(found, key=lambda entry: entry[1]) if found else None


def measure(work: Work, rounds: int) -> list[dict[str, Any]]:
    names = [name for name in METHODS if wanted(work, name)]
    methods = {name: METHODS[name](work) for name in names}
    steppers = {name: stepper(method) for name, method in methods.items()}
    timings = interleave(steppers, rounds)
    rows = []
    for name, timing in timings.items():
        if not isinstance(timing, Timing):
            rows.append({"work": work.name, "method": name, "error": str(timing)})
            continue
        ms = [1e3 * s for s in timing.seconds.values()]
        quartiles = quantiles(ms, n=4) if len(ms) > 1 else [ms[0]] * 3
        row: dict[str, Any] = {"work": work.name, "method": name, "ms": median(ms)}
        row["quartiles"] = [quartiles[0], quartiles[2]]
        reference = timings["by hand, compiled" if "compiled" in name else "by hand"]
        row["ratio"] = _ratio(timing, reference)
        if name.startswith("cdopt"):
            best = drift_of_cdopt(work, "equation" in name, median(ms) / 1e3)
            row |= {"penalty": best[0], "violation": best[1][0], "seen": best[1][1]} if best else {}
        else:
            left = drift(work, methods[name], median(ms) / 1e3)
            row |= {"violation": left[0], "seen": left[1]} if left else {}
        rows.append(row)
    return rows


def _ratio(timing: Timing, reference: Timing | Exception) -> float | None:
    if not isinstance(reference, Timing):
        return None
    both = timing.seconds.keys() & reference.seconds.keys()
    return median(timing.seconds[k] / reference.seconds[k] for k in both)


def show(console: Console, work: Work, rows: list[dict[str, Any]]) -> None:
    table = Table(title=work.name, title_justify="left")
    table.add_column("Adam step")
    for column in ("ms", "quartiles", "÷ by hand", "off after 1,000", "as the forward sees it"):
        table.add_column(column, justify="right")
    for row in rows:
        if "error" in row:
            table.add_row(row["method"], "failed", "", "", row["error"][:40])
            continue
        label = row["method"] + (f" (penalty {row['penalty']:g})" if "penalty" in row else "")
        low, high = row["quartiles"]
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else "–"
        left = [f"{row[key]:.1e}" if key in row else "–" for key in ("violation", "seen")]
        table.add_row(label, f"{row['ms']:.3g}", f"{low:.3g} to {high:.3g}", ratio, *left)
    console.print(table)


def main(
    quick: Annotated[bool, typer.Option(help="The two small sets only, few rounds.")] = False,
    rounds: Annotated[int, typer.Option(min=3, help="Turns of each method.")] = 15,
    output: Annotated[Path, typer.Option(help="Where the figures are written, as JSON.")] = OUTPUT,
) -> None:
    """Time an Adam step on c(x) = 0 by hand, by LevelSet and by cdopt, and see what it leaves."""
    torch.manual_seed(0)
    # One function is compiled for each method.
    torch._dynamo.config.recompile_limit = 64  # type: ignore[attr-defined]
    settle_allocator()
    console = Console(width=None if sys.stdout.isatty() else 120)
    results: list[dict[str, Any]] = []
    for work in WORKS:
        if quick and not work.quick:
            continue
        torch.compiler.reset()
        rows = measure(work, 5 if quick else rounds)
        show(console, work, rows)
        results += rows
    write_rows(output, results)
    console.print(f"Written to {output}")


if __name__ == "__main__":
    typer.run(main)

"""Steps in the spectral norm on orthonormal weights, against other ways to make them.

    python benchmarks/spectral_speed.py [--quick]

All methods of a shape are timed in turns, in one run. "projected" is the step that projects msign
(SPEL); "dual ascent" the one of Bernstein's "manifold Muon", in 100 iterations of torch's msign,
that is in bfloat16; "torch, unconstrained" is `torch.optim.Muon` itself on a weight of the shape.
Run it on an otherwise idle machine: it writes its table into benchmarks/README.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from catalogue_speed import Build, Work, measure, show
from rich.console import Console
from riemopt_bench.environment import write_between, write_rows
from riemopt_bench.speed.stepper import Stepper
from riemopt_bench.speed.timing import settle_allocator
from torch import Tensor, nn
from torch.optim._muon import _zeropower_via_newtonschulz

from riemopt import RiemannianAdam, RiemannianMuon
from riemopt.manifolds import Stiefel

OUTPUT = Path(__file__).parent / "results" / "spectral_speed.json"
PAGE = Path(__file__).parent / "README.md"
MARKS = ("<!-- spectral speed: begin -->", "<!-- spectral speed: end -->")
LR = 1e-3
SHAPES = ((2048, 64), (1024, 128), (512, 256), (384, 384), (64, 64, 64))
QUICK = ((1024, 128), (64, 64, 64))


class DualAscent(torch.optim.Optimizer):
    """min over symmetric Λ of ‖M + 2XΛ‖_* by subgradients; the step is along its msign.

    Bernstein, "Modular manifolds" (2025), with the momentum of Muon.
    """

    def __init__(self, params: Sequence[Tensor], lr: float, iterations: int = 100) -> None:
        super().__init__(params, {"lr": lr, "iterations": iterations})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                m.lerp_(p.grad, 0.05)
                u = self._direction(p, p.grad.lerp(m, 0.95), group["iterations"])
                p.copy_(_msign(p - group["lr"] * u))

    def _direction(self, x: Tensor, m: Tensor, iterations: int) -> Tensor:
        multipliers = -0.25 * (x.mT @ m + m.mT @ x)
        for i in range(iterations):
            u = _msign(m + 2 * x @ multipliers)
            defect = x.mT @ u
            multipliers -= 0.1 * (1 - i / iterations) * (defect + defect.mT)
        return u


def _msign(a: Tensor) -> Tensor:
    return _zeropower_via_newtonschulz(a, (3.4445, -4.7750, 2.0315), 5, 1e-7).to(a.dtype)


def by(make: Callable[[Any], torch.optim.Optimizer], *, constrained: bool = True) -> Build:
    """The step of an optimizer on weights of the shape, one for each matrix."""

    def build(x: Tensor, g: Tensor) -> Stepper:
        weights = [nn.Parameter(w.clone()) for w in x.reshape(-1, *x.shape[-2:])]
        for weight, gradient in zip(weights, g.reshape(-1, *x.shape[-2:]), strict=True):
            weight.grad = gradient.clone()
        group: dict[str, Any] = {"params": weights}
        optimizer = make([{**group, "manifold": Stiefel()} if constrained else group])
        gradients = [w.grad for w in weights if w.grad is not None]
        return Stepper(optimizer.step, weights, gradients, list, list)

    return build


METHODS: dict[str, Build] = {
    "riemopt": by(lambda groups: RiemannianMuon(groups, lr=LR)),
    "projected": by(lambda groups: RiemannianMuon(groups, lr=LR, direction="projected")),
    "dual ascent, 100": by(lambda groups: DualAscent(groups, lr=LR), constrained=False),
    "torch, unconstrained": by(lambda groups: torch.optim.Muon(groups, lr=LR), constrained=False),
    "RiemannianAdam": by(lambda groups: RiemannianAdam(groups, lr=LR)),
}


def work(shape: tuple[int, ...]) -> Work:
    """All methods on one shape."""
    *count, n, p = shape
    name = f"{count[0]} of {n}×{p}" if count else f"{n}×{p}"
    least = "1/1.5" if n == p else "1/2"
    return Work(name, shape, Stiefel(), METHODS, f"dual ascent ≥ 50; torch ≥ {least}")


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Milliseconds of our step, and for each other method its time over ours with quartiles."""
    others = [name for name in METHODS if name != "riemopt"]
    lines = ["| weight | riemopt, ms | " + " | ".join(f"{name} ÷" for name in others) + " |"]
    lines.append("| --- | ---: |" + " ---: |" * len(others))
    for shape in dict.fromkeys(row["work"] for row in rows):
        own = {row["method"]: row for row in rows if row["work"] == shape}
        cells = [shape, f"{own['riemopt']['ms'][1]:.3g}"]
        for name in others:
            low, middle, high = own[name]["ratio"]
            cells.append(f"{middle:.3g} ({low:.3g} to {high:.3g})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(
    quick: Annotated[bool, typer.Option(help="Two shapes, few rounds; writes nothing.")] = False,
    rounds: Annotated[int, typer.Option(min=5, help="Turns of each method.")] = 30,
    output: Annotated[Path, typer.Option(help="Where the figures are written, as JSON.")] = OUTPUT,
    page: Annotated[Path, typer.Option(help="Where the table is written.")] = PAGE,
) -> None:
    """Time steps in the spectral norm, in turns with others."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    settle_allocator()
    shapes = QUICK if quick else SHAPES
    rows = [row for shape in shapes for row in measure(work(shape), 5 if quick else rounds)]
    console = Console(width=None if sys.stdout.isatty() else 140)
    show(console, rows)
    if quick:
        return
    write_rows(output, rows)
    write_between(page, MARKS, markdown(rows))
    console.print(f"Written to {output} and {page}")


if __name__ == "__main__":
    typer.run(main)

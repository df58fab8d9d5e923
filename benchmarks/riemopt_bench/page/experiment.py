"""The experiment that explains the page: what each way of keeping a constraint stores.

Four small runs of real code, torch's `parametrize` and riemopt side by side, on equal gradients:

- `circle`: a point on the circle under a noisy gradient, whose target moves half-way;
- `unused`: a unit vector that gets no gradient, as a token that never occurs, under weight decay;
- `layer`: an orthogonal layer under weight decay, by torch's householder map;
- `symmetric`: the nine numbers that are stored of a symmetric 3×3 weight.

Everything follows from the seed and takes about two seconds. `frames()` returns plain numbers; what
is not finite is None.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from typing_extensions import override

import riemopt
from riemopt import manifolds

SEED = 1
CIRCLE_STEPS, TARGET_MOVES, CIRCLE_LR = 160, 80, 0.5
REIMPOSED_EVERY = 20
UNUSED_STEPS, UNUSED_LR, UNUSED_DECAY = 1200, 0.1, 0.5
LAYER_STEPS, LAYER_LR, LAYER_DECAY = 60, 1e-2, 0.1
SYMMETRIC_STEPS, SYMMETRIC_LR = 60, 0.1


class Normalised(nn.Module):
    """x/‖x‖, as torch's documentation teaches a unit norm."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x / x.norm()

    def right_inverse(self, x: Tensor) -> Tensor:
        """The value itself: it is on the circle."""
        return x


class UpperHalf(nn.Module):
    """The symmetric matrix with the upper triangle of `original`, as torch's tutorial has it."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).mT


class Weight(nn.Module):
    """One parameter."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(value.clone())


def frames() -> dict[str, Any]:
    """All runs, as numbers that JSON holds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        found = {
            "circle": _circle(),
            "unused": _unused(),
            "layer": _layer(),
            "symmetric": _symmetric(),
        }
    finite: dict[str, Any] = _finite(found)
    return finite


# --- the two ways ------------------------------------------------------------------------------


def _parametrized(value: Tensor, map_: nn.Module) -> Weight:
    model = Weight(value)
    parametrize.register_parametrization(model, "weight", map_)
    return model


def _constrained(value: Tensor, manifold: riemopt.Manifold) -> Weight:
    model = Weight(value)
    riemopt.constrain(model, "weight", manifold)
    return model


def _stored(model: nn.Module) -> Tensor:
    return next(model.parameters()).detach()


def _train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: Sequence[Callable[[nn.Module], Tensor]],
) -> Iterator[int]:
    """Yield the number of each step that was taken."""
    for step, loss in enumerate(losses, start=1):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
        yield step


# --- the runs ----------------------------------------------------------------------------------


def _circle() -> dict[str, Any]:
    angles = [0.0] * TARGET_MOVES + [math.radians(-120)] * (CIRCLE_STEPS - TARGET_MOVES)
    targets = torch.tensor([[math.cos(a), math.sin(a)] for a in angles])
    gradients = -(targets + torch.randn(CIRCLE_STEPS, 2))
    losses = [functools.partial(_against, gradient=g) for g in gradients]
    start = torch.tensor([math.cos(2.2), math.sin(2.2)])
    runs: dict[str, Any] = {}
    for name, model, sgd in (
        ("riemopt", _constrained(start, manifolds.Sphere()), riemopt.RiemannianSGD),
        ("parametrize", _parametrized(start, Normalised()), torch.optim.SGD),
        ("reimposed", _parametrized(start, Normalised()), torch.optim.SGD),
    ):
        stored, used = [start.tolist()], [start.tolist()]
        for step in _train(model, sgd(model.parameters(), lr=CIRCLE_LR), losses):
            if name == "reimposed" and step % REIMPOSED_EVERY == 0:
                with torch.no_grad():
                    _stored(model).copy_(model.weight)
            stored.append(_stored(model).tolist())
            used.append(model.weight.tolist())
        runs[name] = {"stored": stored, "used": used}
    return {"gradients": gradients.tolist(), "angles": angles, "lr": CIRCLE_LR, "runs": runs}


def _against(model: nn.Module, gradient: Tensor) -> Tensor:
    return (model.weight * gradient).sum()  # type: ignore[operator]


def _unused() -> dict[str, Any]:
    start = torch.tensor([0.6, 0.8])
    losses = [functools.partial(_against, gradient=torch.zeros(2))] * UNUSED_STEPS
    runs = {}
    for name, model, adamw in (
        ("riemopt", _constrained(start, manifolds.Sphere()), riemopt.RiemannianAdamW),
        ("parametrize", _parametrized(start, Normalised()), torch.optim.AdamW),
    ):
        optimizer = adamw(model.parameters(), lr=UNUSED_LR, weight_decay=UNUSED_DECAY)
        runs[name] = [
            {"step": step, "stored": _norm(_stored(model)), "used": _norm(model.weight)}
            for step in _train(model, optimizer, losses)
            if step % 20 == 0
        ]
    return {"lr": UNUSED_LR, "decay": UNUSED_DECAY, "runs": runs}


def _norm(weight: Any) -> float:
    return float(torch.linalg.vector_norm(weight.detach().double()))


def _layer() -> dict[str, Any]:
    inputs = torch.randn(64, 8)
    outputs = inputs @ torch.linalg.qr(torch.randn(8, 8)).Q

    def loss(model: nn.Module) -> Tensor:
        return (model(inputs) - outputs).square().mean()

    start = nn.init.orthogonal_(torch.empty(8, 8))
    runs = {}
    for name in ("riemopt", "parametrize"):
        model = nn.Linear(8, 8, bias=False)
        with torch.no_grad():
            model.weight.copy_(start)
        if name == "riemopt":
            riemopt.constrain(model, "weight", manifolds.Stiefel())
            adamw: type[torch.optim.AdamW] = riemopt.RiemannianAdamW
        else:
            parametrizations.orthogonal(model, orthogonal_map="householder")
            adamw = torch.optim.AdamW
        optimizer = adamw(model.parameters(), lr=LAYER_LR, weight_decay=LAYER_DECAY)
        runs[name] = [{"step": 0, "norm": _norm(model.weight), "loss": loss(model).item()}]
        runs[name] += [
            {"step": step, "norm": _norm(model.weight), "loss": loss(model).item()}
            for step in _train(model, optimizer, [loss] * LAYER_STEPS)
        ]
    return {"lr": LAYER_LR, "decay": LAYER_DECAY, "runs": runs}


def _symmetric() -> dict[str, Any]:
    goal = torch.randn(3, 3)
    goal = goal + goal.mT
    start = torch.randn(3, 3)
    start = start + start.mT

    def loss(model: nn.Module) -> Tensor:
        return (model.weight - goal).square().sum() / 2  # type: ignore[operator]

    runs = {}
    for name, model, sgd in (
        ("riemopt", _constrained(start, manifolds.Symmetric()), riemopt.RiemannianSGD),
        ("parametrize", _parametrized(start, UpperHalf()), torch.optim.SGD),
    ):
        optimizer = sgd(model.parameters(), lr=SYMMETRIC_LR)
        stored, used = [_stored(model).tolist()], [model.weight.tolist()]
        for _ in _train(model, optimizer, [loss] * SYMMETRIC_STEPS):
            stored.append(_stored(model).tolist())
            used.append(model.weight.tolist())
        runs[name] = {"stored": stored, "used": used}
    return {"runs": runs}


def _finite(value: Any) -> Any:
    """The same lists and dictionaries, with None for numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value

"""The landing algorithm (Ablin & Peyré, AISTATS 2022): no retraction, but a force to the surface.

    X ← X - η(ψ(M) + λX(XᵀX - I)),     ψ(M) = skew(MXᵀ)X

for tall X (Ablin, Vary, Gao & Absil, arXiv 2303.16510, have it for rectangular matrices; the force
is a right factor there, and the same for square X). ψ(M) turns X whatever M is, and the force acts
at a right angle to it. With D = XᵀX - I, d = ‖D‖ and g the norm of the whole step's direction, the
next D is (1 - 2ηλ)D - 2ηλD² + η²(…), whose norm is at most (1 - 2ηλ)d + 2ηλd² + η²g² for
2ηλ ≤ 1. So a step of

    η ≤ (λd(1 - d) + √(λ²d²(1 - d)² + g²(ε - d))) / g²

stays within d ≤ ε: the safe step of the papers, which shortens a longer one.

No package on PyPI has it; the authors' code is installed from their repository. M is the running
mean of gradients with momentum, as in their experiments. Weights that are not constrained are
moved by torch's Adam.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from riemopt_bench.interface import ADAM_GRID, Attached, Method, Task, all_surfaces, unknown
from riemopt_bench.libraries._steps import MOMENTUM
from riemopt_bench.libraries._together import Together
from riemopt_bench.surfaces import Stiefel, Surface

STRENGTH = 1.0
"""λ of the papers' experiments."""
DISTANCE = 0.5
"""ε of the papers' experiments: the largest ‖XᵀX - I‖ allowed."""


def direction(X: Tensor, M: Tensor, strength: float = STRENGTH) -> tuple[Tensor, Tensor]:
    """ψ(M) + λXD, and D = XᵀX - I, for X and M of shape (*batch, n, p), n ≥ p."""
    gram = X.mT @ X
    D = gram - torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)
    return (M @ gram - X @ (M.mT @ X)) / 2 + strength * (X @ D), D


def safe_step(
    D: Tensor, field: Tensor, strength: float = STRENGTH, distance: float = DISTANCE
) -> Tensor:
    """The longest η that is known to stay within the distance, of shape (*batch, 1, 1)."""
    d = torch.linalg.matrix_norm(D, keepdim=True)
    square = field.square().sum((-2, -1), keepdim=True)
    pull = strength * d * (1 - d)
    left = (distance - d).clamp(min=0)
    # The root's other form, without a difference of nearly equal numbers where pull < 0.
    longest = (pull + (pull.square() + square * left).sqrt()) / square.clamp(min=1e-30)
    return longest.clamp(max=1 / (2 * strength))


class Landing(torch.optim.Optimizer):
    """Landing steps with momentum; each group has one `surface`."""

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": MOMENTUM})

    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every weight that has a gradient; `closure` is not called."""
        for group in self.param_groups:
            surface: Stiefel = group["surface"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = weight.grad.clone()
                else:
                    state["momentum_buffer"].mul_(group["momentum"]).add_(weight.grad)
                X, M = surface.tall(weight), surface.tall(state["momentum_buffer"])
                field, D = direction(X, M)
                eta = safe_step(D, field).clamp(max=group["lr"])
                weight.copy_(surface.from_tall(X - eta * field, weight.shape))
        return None


def check_surface(surface: Surface) -> None:
    """Landing keeps orthonormal columns, and nothing else."""
    if not isinstance(surface, Stiefel):
        raise unknown("landing", surface)


def attach(task: Task, lr: float) -> Attached:
    """`Landing` for the constrained weights, torch's Adam for the rest."""
    groups = [
        {"params": [task.weight(name)], "surface": surface}
        for name, surface in task.surfaces.items()
    ]
    optimizer = Together.with_adam(task, Landing(groups, lr), lr)
    return Attached.to_stored_weights(task, optimizer)


METHODS = (
    Method(
        name="landing",
        title="landing",
        family="landing",
        description="Landing (Ablin & Peyré 2022) with momentum .9, λ = 1 and the safe step for "
        "ε = .5: weights are within ‖WᵀW - I‖ ≤ .5. Torch's Adam for what is not constrained.",
        attach=attach,
        check=all_surfaces(check_surface),
        grid=ADAM_GRID,
        constrained=False,
    ),
)

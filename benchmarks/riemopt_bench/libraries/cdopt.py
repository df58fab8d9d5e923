"""cdopt (Xiao, Hu, Liu & Toh, arXiv 2212.02698): constraint dissolving, with torch's Adam.

    f(A(X)) + β/2·‖C(X)‖²,     A(X) = X(3I - XᵀX)/2 for XᵀX = I,  2X/(1 + ‖x‖²) for ‖x‖ = 1

A is the identity on the surface, and brings a point near it nearer, quadratically. X is an ordinary
parameter; the model uses A(X), which is near the surface and not on it. cdopt's manifolds give A
and C. Its `set_constraint_dissolving` is not used, as it takes kernels and batches as other
matrices than the tasks do.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from riemopt_bench.interface import ADAM_GRID, Attached, Method, Task, all_surfaces, unknown
from riemopt_bench.libraries._layout import original_of
from riemopt_bench.libraries._packages import needs
from riemopt_bench.surfaces import Sphere, Stiefel, Surface

BETA = 1.0


@functools.singledispatch
def manifold(surface: Surface) -> type[Any]:
    """cdopt's manifold of a surface."""
    raise unknown("cdopt", surface)


@manifold.register
def _(surface: Stiefel) -> type[Any]:
    from cdopt import manifold_torch

    return manifold_torch.stiefel_torch


@manifold.register
def _(surface: Sphere) -> type[Any]:
    from cdopt import manifold_torch

    return manifold_torch.oblique_torch


class Dissolved(nn.Module):
    """A(X), in the model's layout."""

    def __init__(self, surface: Surface, weight: Tensor) -> None:
        super().__init__()
        self.surface = surface
        shape = tuple(self.inward(weight).shape)
        self.manifold = manifold(surface)(shape, device=weight.device, dtype=weight.dtype)

    def inward(self, weight: Tensor) -> Tensor:
        """The weight in cdopt's layout: tall matrices, or vectors along the last dimension."""
        if isinstance(self.surface, Stiefel):
            return self.surface.tall(weight)
        assert isinstance(self.surface, Sphere)
        return weight.movedim(self.surface.dim, -1)

    def forward(self, X: Tensor) -> Tensor:
        """What the model uses."""
        A: Tensor = self.manifold.A(self.inward(X))
        if isinstance(self.surface, Stiefel):
            return self.surface.from_tall(A, X.shape)
        assert isinstance(self.surface, Sphere)
        return A.movedim(-1, self.surface.dim)

    def penalty(self, X: Tensor) -> Tensor:
        """‖C(X)‖²."""
        value: Tensor = self.manifold.C_quad_penalty(self.inward(X))
        return value


def attach(task: Task, lr: float) -> Attached:
    """Torch's Adam on X. The gradient of the penalty is computed on the optimizer's clock."""
    dissolved: dict[str, Dissolved] = {}
    for name, surface in task.surfaces.items():
        dissolved[name] = Dissolved(surface, task.weight(name).detach())
        parametrize.register_parametrization(*task.place(name), dissolved[name])
    originals = {name: original_of(*task.place(name)) for name in task.surfaces}
    optimizer = torch.optim.Adam(task.model.parameters(), lr=lr, weight_decay=0)

    def step() -> None:
        with torch.enable_grad():
            for name, X in originals.items():
                (BETA / 2 * dissolved[name].penalty(X)).backward(inputs=[X])
        optimizer.step()

    return Attached(
        optimizer,
        step,
        stored=lambda: originals,
        used=task.weights,
        originals=lambda: originals,
        forward_context=parametrize.cached,
    )


METHODS = (
    Method(
        name="cdopt",
        title="cdopt",
        family="cdopt",
        description="cdopt's constraint dissolving: Adam on f(A(X)) + ‖C(X)‖²/2. The model uses "
        "A(X), which is near the surface; cached.",
        attach=attach,
        check=needs("cdopt", all_surfaces(manifold)),
        grid=ADAM_GRID,
        packages=("torch", "cdopt"),
        constrained=False,
    ),
)

"""A linear layer with a symmetric weight, recovered from noisy inputs and outputs.

    minimise  E ‖Wx + b - y‖²  over symmetric W and any b,   y = W*x + b* + noise

What one would train: `nn.Linear` on mini-batches, in float32, with a bias that nothing constrains.
The inputs vary more along some axes than along others, so that the gradient is not symmetric. The
page reports by how much the expected loss exceeds that of (W*, b*), relative to that of W = 0,
b = 0: it needs no constraint to be meaningful, and an unconstrained weight is judged as it is.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from riemopt_bench.interface import Budget, Evaluation, Problem, Task
from riemopt_bench.surfaces import Symmetric

SIDE, SAMPLES, NOISE = 64, 64, 0.5


def build(seed: int) -> Task:
    """The seed draws the layer that is sought, the start and the stream."""
    gen = Generator().manual_seed(seed)
    surface = Symmetric()

    def layer() -> nn.Linear:
        drawn = nn.Linear(SIDE, SIDE)
        with torch.no_grad():
            drawn.weight.copy_(surface.start(torch.randn(SIDE, SIDE, generator=gen)))
            drawn.weight.div_(math.sqrt(SIDE))
            drawn.bias.copy_(torch.randn(SIDE, generator=gen))
        return drawn

    sought, model = layer().requires_grad_(False), layer()
    deviations = torch.logspace(0.5, -0.5, SIDE, base=10.0)

    def risk(weight: Tensor, bias: Tensor) -> float:
        """E ‖Wx + b‖²."""
        W, b = weight.detach().cpu().double(), bias.detach().cpu().double()
        return ((W * deviations).square().sum() + b.square().sum()).item()

    whole = risk(sought.weight, sought.bias)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        noise = Generator().manual_seed(seed * 1_000_003 + step)
        x = torch.randn(SAMPLES, SIDE, generator=noise) * deviations
        return x, sought(x) + NOISE * torch.randn(SAMPLES, SIDE, generator=noise)

    def evaluate(model: nn.Module) -> Evaluation:
        weight, bias = model.weight.cpu() - sought.weight, model.bias.cpu() - sought.bias
        excess = risk(weight, bias) / whole
        return Evaluation(metric=excess, selection=excess)

    return Task(
        model,
        {"weight": surface},
        batch=batch,
        loss=lambda model, batch: functional.mse_loss(model(batch[0]), batch[1]),
        evaluate=evaluate,
    )


PROBLEMS = (
    Problem(
        name="symmetric",
        title="A symmetric layer",
        description=f"A linear layer with a symmetric {SIDE}×{SIDE} weight, from noisy outputs.",
        metric="excess of the expected loss, relative",
        higher_is_better=False,
        target=1e-3,
        surfaces=frozenset({Symmetric()}),
        build=build,
        reference="The layer that made the outputs is known, and its excess is 0.",
        log_metric=True,
        budget=Budget(1000),
    ),
)

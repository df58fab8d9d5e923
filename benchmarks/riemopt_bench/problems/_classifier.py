"""A small classifier with one constrained weight of each kind, for images of handwritten digits.

h = tanh(W₂ tanh(W₁x + b₁) + b₂)      W₁ tall, W₂ square, both with orthonormal columns
z_k = aᵀ S_k b,  [a, b] = A h         S_k symmetric; a ≠ b, so its gradient is not
logit_c = s ⟨p_c, z/‖z‖⟩              p_c a unit vector per class
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from riemopt_bench.interface import Evaluation, Task
from riemopt_bench.surfaces import Sphere, Stiefel, Surface, Symmetric

SURFACES: dict[str, Surface] = {
    "tall.weight": Stiefel(),
    "square.weight": Stiefel(),
    "forms": Symmetric(),
    "prototypes": Sphere(),
}
CLASSES = 10


class Classifier(nn.Module):
    """`inputs` pixels, two orthogonal layers of `hidden` units, `features` bilinear forms."""

    def __init__(self, inputs: int, hidden: int, side: int = 16, features: int = 32) -> None:
        super().__init__()
        self.tall = nn.Linear(inputs, hidden)
        self.square = nn.Linear(hidden, hidden)
        self.mix = nn.Linear(hidden, 2 * side)
        self.forms = nn.Parameter(torch.randn(features, side, side) / math.sqrt(side))
        self.prototypes = nn.Parameter(torch.randn(CLASSES, features))
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (batch, classes)."""
        h = torch.tanh(self.square(torch.tanh(self.tall(x))))
        a, b = self.mix(h).chunk(2, dim=-1)
        z = torch.einsum("ni,kij,nj->nk", a, self.forms, b)
        return self.scale * functional.normalize(z, dim=-1) @ self.prototypes.mT


@dataclass(frozen=True)
class Split:
    """Images (n, pixels) and labels (n,), in three parts: train, validation, test."""

    images: tuple[Tensor, Tensor, Tensor]
    labels: tuple[Tensor, Tensor, Tensor]


def split(images: Tensor, labels: Tensor, generator: torch.Generator) -> Split:
    """A random 60/20/20 split."""
    order = torch.randperm(len(images), generator=generator)
    n = len(order)
    train, validation, test = (
        order[: 6 * n // 10],
        order[6 * n // 10 : 8 * n // 10],
        order[8 * n // 10 :],
    )
    return Split(
        (images[train], images[validation], images[test]),
        (labels[train], labels[validation], labels[test]),
    )


def classifier_task(images: Tensor, labels: Tensor, hidden: int, seed: int) -> Task:
    """Data split, model on its surfaces and batches of 128, all from `seed`."""
    torch.manual_seed(seed)
    data = split(images, labels, torch.Generator().manual_seed(seed))
    model = Classifier(images.shape[1], hidden)
    with torch.no_grad():
        nn.init.orthogonal_(model.tall.weight)
        nn.init.orthogonal_(model.square.weight)
        for name in ("forms", "prototypes"):
            weight = model.get_parameter(name)
            weight.copy_(SURFACES[name].nearest(weight))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randint(len(data.images[0]), (128,), generator=generator)
        return data.images[0][chosen], data.labels[0][chosen]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1])

    def evaluate(model: nn.Module) -> Evaluation:
        validation = functional.cross_entropy(model(data.images[1]), data.labels[1])
        accuracy = (model(data.images[2]).argmax(-1) == data.labels[2]).double().mean()
        return Evaluation(metric=accuracy.item(), selection=validation.item())

    return Task(model, SURFACES, batch, loss, evaluate)

"""An ArcFace head (Deng et al. 2019) on digits: unit class vectors, angles with a margin."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._digits import VALIDATION, learn_from, split_digits
from riemopt_bench.problems._learning import Labelled, Learning, accuracy
from riemopt_bench.surfaces import Sphere

FEATURES, SCALE, MARGIN = 16, 16.0, 0.4


class Net(nn.Module):
    """A small network to unit features, and a unit vector per class."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 96), nn.SiLU(), nn.Linear(96, FEATURES))
        self.classes = nn.Parameter(functional.normalize(torch.randn(10, FEATURES), dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        """Cosines `(N, 10)` between the features of images `(N, 64)` and the classes."""
        return functional.linear(functional.normalize(self.trunk(4 * x - 2), dim=-1), self.classes)


def arcface(model: nn.Module, batch: Labelled) -> Tensor:
    """Cross-entropy of the scaled cosines, the angle to the image's own class made wider."""
    x, y = batch
    cosine = model(x).clamp(-0.999, 0.999)
    wider = (cosine.arccos() + MARGIN).clamp(max=torch.pi).cos()
    own = functional.one_hot(y, 10).bool()
    return functional.cross_entropy(SCALE * torch.where(own, wider, cosine), y)


def learn(seed: int, validation: int = VALIDATION) -> Learning:
    """Model and data, all from `seed`."""
    torch.manual_seed(seed)
    parts = split_digits(seed, validation)
    return learn_from(parts, seed, Net(), {"classes": Sphere()}, arcface)


def build(seed: int) -> Task:
    """Judged by accuracy."""
    return learn(seed).task(accuracy)


PROBLEMS = (
    Problem(
        name="arcface",
        title="Unit embeddings, ArcFace",
        description="8×8 digits; unit features and ten unit class vectors, angles with a margin.",
        metric="test accuracy",
        higher_is_better=True,
        target=0.975,
        surfaces=frozenset({Sphere()}),
        build=build,
        reference="Adam with class vectors of any length, tuned in the same way; the loss is that "
        "of Deng et al. (2019).",
        budget=Budget(400),
    ),
)

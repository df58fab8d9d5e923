"""The networks that are learning problems of the benchmark too: its models, on all their data.

A problem of the benchmark keeps data to choose a learning rate by. A study tunes on other seeds, so
that a task trains on those as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from riemopt_bench.libraries.riemopt import manifold
from riemopt_bench.problems import (
    adapters,
    arcface,
    copying_memory,
    oft,
    orthogonal_cnn,
    pixel_rnn,
    sparse_autoencoder,
    unit_norm_transformer,
)
from riemopt_bench.problems._learning import Learning
from riemopt_bench.surfaces import Rotation, Surface

from riemopt.manifolds import Manifold, Stiefel
from training_tasks.interface import Figures, Training, TrainingTask

# The studies were made with blocks of OFT that are orthogonal; they start at the identity, and a
# step never leaves its component.
OWN: Mapping[type[Surface], Manifold] = {Rotation: Stiefel()}


def training(learning: Learning) -> Training:
    """A learning problem as a start of a task; it ends with the loss on all the data of each part.

    Where every batch is drawn anew there is no training data, and the loss is that on test data.
    """
    model, loss = learning.model, learning.loss

    def evaluate() -> Figures:
        test = loss(model, learning.test).item()
        if learning.training is None:
            return Figures(test)
        return Figures(loss(model, learning.training).item(), test)

    manifolds = {
        name: OWN.get(type(surface)) or manifold(surface)
        for name, surface in learning.surfaces.items()
    }
    return Training(model, manifolds, lambda step: loss(model, learning.batch(step)), evaluate)


def _task(name: str, title: str, steps: int, learn: Callable[[int], Learning]) -> TrainingTask:
    return TrainingTask(name, title, "network", steps, lambda seed: training(learn(seed)))


TASKS = (
    _task("copying_rnn", "orthogonal RNN, copying", 400, partial(copying_memory.learn, delay=15)),
    _task(
        "pixel_rnn",
        "orthogonal RNN, pixels",
        300,
        partial(pixel_rnn.learn, validation=0, pixels=2),
    ),
    _task(
        "char_model",
        "unit-norm character model",
        300,
        partial(unit_norm_transformer.learn, validation=0, context=48),
    ),
    _task(
        "sparse_autoencoder",
        "sparse autoencoder",
        500,
        partial(sparse_autoencoder.learn, validation=0),
    ),
    _task("adapters", "U S Vᵀ adapters", 600, partial(adapters.learn, validation=0)),
    _task("oft", "OFT blocks", 400, partial(oft.learn, validation=0)),
    _task(
        "cnn", "CNN, flattened Stiefel kernels", 400, partial(orthogonal_cnn.learn, validation=0)
    ),
    _task("arcface", "ArcFace head", 600, partial(arcface.learn, validation=0)),
)

"""Small training tasks with constrained weights: from a seed alone, a model, its data, its losses.

    from training_tasks import TASKS, train

    training = TASKS["digits_mlp"].build(seed=0)
    figures = train(training, optimizer, steps=TASKS["digits_mlp"].steps)

One file a task. A run takes one to four seconds on one thread, and needs no network.
"""

from training_tasks import (
    adapters,
    arcface,
    char_model,
    cnn,
    copying_rnn,
    digits_mlp,
    eigenvectors,
    heads,
    oft,
    pixel_rnn,
    procrustes,
    sparse_autoencoder,
    sphere_mean,
)
from training_tasks.interface import Figures, Training, TrainingTask, train

TASKS: dict[str, TrainingTask] = {
    module.TASK.name: module.TASK
    for module in (
        digits_mlp,
        copying_rnn,
        pixel_rnn,
        char_model,
        sparse_autoencoder,
        heads,
        adapters,
        oft,
        cnn,
        arcface,
        eigenvectors,
        procrustes,
        sphere_mean,
    )
}

__all__ = ["TASKS", "Figures", "Training", "TrainingTask", "train"]

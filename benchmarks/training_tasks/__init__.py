"""Small training tasks with constrained weights: from a seed alone, a model, its data, its losses.

    from training_tasks import TASKS, train

    training = TASKS["digits_mlp"].build(seed=0)
    figures = train(training, optimizer, steps=TASKS["digits_mlp"].steps)

Networks that the benchmark has too are defined there (`networks.py`); any other task is one file. A
run takes one to four seconds on one thread, and needs no network.
"""

from training_tasks import digits_mlp, eigenvectors, heads, networks, procrustes, sphere_mean
from training_tasks.interface import Figures, Training, TrainingTask, train

_MADE = (
    *networks.TASKS,
    *(m.TASK for m in (digits_mlp, heads, eigenvectors, procrustes, sphere_mean)),
)
_ORDER = (  # that of the tables
    "digits_mlp",
    "copying_rnn",
    "pixel_rnn",
    "char_model",
    "sparse_autoencoder",
    "heads",
    "adapters",
    "oft",
    "cnn",
    "arcface",
    "eigenvectors",
    "procrustes",
    "sphere_mean",
)
TASKS: dict[str, TrainingTask] = {
    task.name: task for task in sorted(_MADE, key=lambda task: _ORDER.index(task.name))
}

__all__ = ["TASKS", "Figures", "Training", "TrainingTask", "train"]

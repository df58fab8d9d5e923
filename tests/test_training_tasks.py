"""The training tasks start, train, and keep their weights where they are to stay."""

import math
import pathlib
import sys

import pytest
import torch
from training_tasks import TASKS, train
from training_tasks.deep_digits import TASKS as DIGITS
from training_tasks.study import Study, rate

from riemopt import RiemannianAdam

# The losses of steps 0 and 3 from seed 0, by Adam at 1e-2, when the committed results were made.
LOSSES = {
    "digits_mlp": (2.34737, 1.652),
    "copying_rnn": (3.62242, 1.26388),
    "pixel_rnn": (3.56543, 1.66486),
    "char_model": (4.34867, 3.34687),
    "sparse_autoencoder": (1.13011, 0.357044),
    "heads": (2.3542, 2.31084),
    "adapters": (13.0962, 12.3468),
    "oft": (13.0639, 7.3462),
    "cnn": (2.36004, 1.66171),
    "arcface": (13.8282, 8.99095),
    "eigenvectors": (-0.675292, -1.20815),
    "procrustes": (11.2981, 9.50605),
    "sphere_mean": (2.81409, 2.46226),
    "free": (2.31005, 1.69194),
    "sphere_gain": (2.31233, 1.75024),
    "stiefel_gain": (2.31233, 1.85868),
    "stiefel": (2.30557, 2.08861),
}


def adam(training, lr):
    return RiemannianAdam(training.groups(), lr=lr)


@pytest.mark.parametrize("task", [*TASKS.values(), *DIGITS], ids=lambda task: task.name)
def test_the_numbers_are_those_of_the_committed_results(task):
    if task.name == "char_model" and sys.version_info[:2] != (3, 11):
        pytest.skip("its text is Python's manual, and the results are of that of Python 3.11")
    training = task.build(0)
    loss, losses = training.loss, []

    def kept(step):
        losses.append(loss(step))
        return losses[-1]

    training.loss = kept
    train(training, adam(training, 1e-2), steps=4, schedule=False)
    assert [losses[0].item(), losses[3].item()] == pytest.approx(LOSSES[task.name], rel=1e-3)


@pytest.mark.parametrize("name", TASKS)
def test_two_steps(name):
    training = TASKS[name].build(0)
    start = [p.detach().clone() for p, _ in training.constrained()]
    figures = train(training, adam(training, 1e-2), steps=2)
    assert math.isfinite(figures.loss)
    assert figures.test is None or math.isfinite(figures.test)
    for (p, manifold), before in zip(training.constrained(), start, strict=True):
        assert not torch.equal(p, before)
        assert manifold.violation(p.detach()).max() < 1e-5


@pytest.mark.parametrize("name", ["digits_mlp", "copying_rnn", "char_model", "eigenvectors"])
def test_a_seed_gives_all_numbers(name):
    first, second, other = (
        train(training, adam(training, 1e-2), steps=2)
        for training in (TASKS[name].build(seed) for seed in (0, 0, 1))
    )
    assert first == second != other


def test_a_loss_that_is_not_finite_ends_the_run():
    training = TASKS["sphere_mean"].build(0)
    training.loss = lambda step: training.model.x.sum() * math.nan
    assert train(training, adam(training, 1e-2), steps=2) is None


class Made(Study):
    """Runs whose loss is made up: best at lr 1, infinite above 10."""

    def _run(self, spec):
        loss = None if spec.lr > 10 else 1 + abs(math.log(spec.lr))
        return {"key": spec.key, **spec._asdict(), "loss": loss}


def test_a_grid_grows_until_its_best_rate_is_inside(tmp_path):
    study = Made(tmp_path / "runs.jsonl", {"made": adam})
    assert study.tune("eigenvectors", "made") == 1
    tried = sorted({row["lr"] for row in study.rows.values()})
    assert tried[-2:] == [1, 3]
    assert len(tried) >= 5


def test_a_second_start_runs_nothing(tmp_path):
    path = tmp_path / "runs.jsonl"
    Made(path, {"made": adam}).fresh("eigenvectors", "made", 1.0, seeds=2)
    again = Study(path, {}, read_only=True)
    assert [row["seed"] for row in again.fresh("eigenvectors", "made", 1.0, seeds=2)] == [0, 1]
    with pytest.raises(KeyError):
        again.fresh("eigenvectors", "made", 3.0, seeds=1)


def test_rates_are_half_decades():
    assert [rate(i) for i in range(-5, 2)] == [0.003, 0.01, 0.03, 0.1, 0.3, 1, 3]


def test_the_page_shows_the_stored_runs():
    second_moments = pytest.importorskip("second_moments")
    study = Study(second_moments.RESULTS, second_moments.METHODS, read_only=True)
    page = pathlib.Path(__file__).parent.parent / "docs" / "choosing-an-optimizer.md"
    assert second_moments.markdown(study) in page.read_text()

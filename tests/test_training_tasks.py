"""The training tasks start, train, and keep their weights where they are to stay."""

import math
import pathlib

import pytest
import torch
from training_tasks import TASKS, train
from training_tasks.study import Study, rate

from riemopt import RiemannianAdam


def adam(training, lr):
    return RiemannianAdam(training.groups(), lr=lr)


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

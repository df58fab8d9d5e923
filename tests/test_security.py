"""What loading a file may do, and may not: the table of SECURITY.md."""

import json
import os
import pickle

import pytest
import torch
from torch import nn

from riemopt import ManifoldParameter, RiemannianAdam, constrain, manifold_of
from riemopt.manifolds import LevelSet, Sphere, Stiefel


class Payload:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


CALLS = []


def unit_norm(x):
    CALLS.append(x)
    return x.square().sum() - 1


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    torch.save({"weight": torch.zeros(2), "more": Payload(tmp_path / "ran")}, tmp_path / "c.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "c.pt", weights_only=True)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_sets_values_alone(tmp_path):
    """It calls no function of a constraint, moves no value and changes no manifold."""
    model = nn.Linear(3, 4)
    constrain(model, "weight", LevelSet(unit_norm))
    optimizer = RiemannianAdam(model.parameters())
    other = nn.Linear(3, 4)
    constrain(other, "weight", Stiefel())
    with torch.no_grad():
        other.weight.mul_(3)
    saved = {"model": other.state_dict(), "optimizer": RiemannianAdam(other.parameters())}
    saved["optimizer"] = saved["optimizer"].state_dict()
    torch.save(saved, tmp_path / "c.pt")
    loaded = torch.load(tmp_path / "c.pt", weights_only=True)
    CALLS.clear()
    model.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
    assert not CALLS
    assert torch.equal(model.weight, other.weight)
    assert manifold_of(model.weight) == LevelSet(unit_norm)


def test_manifolds_of_numbers_come_with_a_parameter(tmp_path):
    torch.save(ManifoldParameter(torch.eye(3), Sphere(radius=2.0)), tmp_path / "p.pt")
    assert manifold_of(torch.load(tmp_path / "p.pt", weights_only=True)) == Sphere(radius=2.0)


def test_manifolds_that_hold_functions_do_not(tmp_path):
    torch.save(ManifoldParameter(torch.ones(3), LevelSet(unit_norm)), tmp_path / "p.pt")
    CALLS.clear()
    with pytest.raises(pickle.UnpicklingError, match="safe_globals"):
        torch.load(tmp_path / "p.pt", weights_only=True)
    assert not CALLS


@pytest.fixture(scope="module")
def hostile_results(tmp_path_factory):
    """A directory with one run, whose texts are markup and whose names are paths."""
    report = pytest.importorskip("riemopt_bench.page.report")
    from rich.console import Console
    from riemopt_bench import registry
    from riemopt_bench.interface import Budget
    from riemopt_bench.train.runner import Plan, SuiteRunner
    from riemopt_bench.train.suites import Suite

    parent = tmp_path_factory.mktemp("hostile")
    made = tmp_path_factory.mktemp("made")
    method = registry.methods()["riemopt-adam"]
    suite = Suite("tiny", "for tests", {"circle": Budget(2, warmup=1)}, repetitions=1)
    plan = Plan(suite, (registry.problems()["circle"],), (method,), repetitions=1)
    with (parent / "log").open("w") as log:
        SuiteRunner(plan, made, 1, True, Console(file=log)).run()
    markup = "<script>document.title = 'ran'</script><img src=x onerror=alert(1)>"
    lines = []
    for line in (made / "runs.jsonl").read_text().splitlines():
        row = json.loads(line) | {"suite": markup}
        if row.get("environment"):
            row["environment"] |= {"cpu": markup, "torch": markup}
        lines.append(row)
    broken = {k: v for k, v in lines[-1].items() if k not in ("trace", "memory", "environment")}
    lines.append(broken | {"key": "2", "repetition": 1, "status": "failed", "error": markup})
    for name in (markup, "../../outside", "/outside"):
        lines.append(lines[0] | {"key": name, "problem": name})
        lines.append(lines[0] | {"key": name + "m", "method": name})
    directory = parent / "results"
    directory.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (directory / "runs.jsonl").write_text(text)
    before = {path for path in parent.rglob("*") if directory not in path.parents}
    page = report.write_report(directory).read_text()
    after = {path for path in parent.rglob("*") if directory not in path.parents}
    return page, markup, before, after


def test_texts_of_results_are_shown_as_text(hostile_results):
    page, markup, _, _ = hostile_results
    assert markup not in page
    assert "<img" not in page
    assert "&lt;script&gt;document.title" in page


def test_a_report_writes_into_its_directory_alone(hostile_results):
    _, _, before, after = hostile_results
    assert before == after

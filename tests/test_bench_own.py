"""A surface, a problem, a method and a workload of the user's own, all in one file."""

import json
import math
import pathlib
import subprocess
import sys

import pytest
import torch
from riemopt_bench import registry
from riemopt_bench.interface import Attached, Budget, Skip
from riemopt_bench.speed.results import SpeedResults
from riemopt_bench.speed.stepper import stepper
from riemopt_bench.surfaces import Sphere, Stiefel
from riemopt_bench.train import measure
from typer.testing import CliRunner

from riemopt.cli import app

FILE = pathlib.Path(__file__).parent / "bench_own_file.py"


@pytest.fixture
def own():
    """The module of that file, in the registry for the length of a test."""
    registry.use([FILE])
    yield registry._own[FILE.resolve()]
    registry.forget()


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "riemopt.cli", "bench", *map(str, arguments), "--plugin", str(FILE)],
        capture_output=True,
        text=True,
    )


def test_train(tmp_path):
    names = ("riemopt-adam", "geoopt-adam", "lbfgs")
    chosen = [f"--method={name}" for name in names]
    done = command("run", "--problem=rows", "--seeds=1", f"--out={tmp_path}", *chosen)
    assert done.returncode == 0, done.stderr
    assert "left out: geoopt-adam on rows: geoopt has no RowSum" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert {row["status"] for row in rows} == {"ok"}
    measured = {row["method"]: row for row in rows if row["phase"] == "run"}
    assert measured.keys() == {"lbfgs", "riemopt-adam"}
    assert len({row["start"] for row in measured.values()}) == 1
    for name, row in measured.items():
        off = max(row["trace"]["stored_violation"]["weight"])
        assert (off < 1e-5) == (name != "lbfgs")
        assert row["trace"]["step"] == measured["lbfgs"]["trace"]["step"]
        assert row["memory"]["peak"] > row["memory"]["held"] > 0
    page = (tmp_path / "report.html").read_text()
    assert "Rows of sum one" in page
    assert "L-BFGS, no constraint" in page


def test_speed(tmp_path):
    methods = [f"--method={m}" for m in ("riemopt-adam", "torch-adam-foreach", "floor")]
    sizes = ["--quick", "--rounds=1", "--threads=1", "--workload=rows-8x5"]
    done = command("speed", *sizes, *methods, f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    (result,) = SpeedResults.read(tmp_path / "speed.json").workloads
    assert [row.method for row in result.rows] == ["riemopt-adam", "torch-adam-foreach"]
    assert [row.status for row in result.rows] == ["timed", "timed"]
    assert result.rows[0].cost.violation < 1e-5
    assert result.rows[1].cost.violation is None


def test_list_names_them_and_a_wrong_path_is_said():
    done = command("list")
    assert all(name in done.stdout for name in ("rows", "lbfgs", "rows-8x5"))
    wrong = CliRunner().invoke(app, ["bench", "list", "--plugin", "no/such/file.py"])
    assert wrong.exit_code == 2
    assert "no/such/file.py: there is no such file" in wrong.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_package", "cannot be imported (ModuleNotFoundError"),
        ("PROBLEMS = (", "cannot be imported (SyntaxError"),
        (
            "import dataclasses\nfrom riemopt_bench.problems import pca\n"
            "PROBLEMS = (dataclasses.replace(pca.PROBLEMS[0], title='mine'),)",
            "two problems called 'pca'; rename yours",
        ),
    ],
    ids=["import", "syntax", "name"],
)
def test_a_file_that_cannot_be_used_is_said_in_one_line(text, said, tmp_path):
    file = tmp_path / f"own_{abs(hash(text))}.py"
    file.write_text(text)
    result = CliRunner().invoke(app, ["bench", "list", "--plugin", str(file)])
    registry.forget()
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.fixture
def entry_point(tmp_path, monkeypatch):
    """A function that installs a package whose entry point names a module."""

    def install(module):
        info = tmp_path / "extra-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[riemopt.bench]\nmine = {module}\n")
        for folder in (tmp_path, FILE.parent):
            monkeypatch.syspath_prepend(folder)
        registry.forget()

    yield install
    monkeypatch.undo()
    registry.forget()


def test_a_package_may_bring_problems(entry_point):
    assert "rows" not in registry.problems()
    entry_point("bench_own_file")
    assert "rows" in registry.problems()
    assert {"lbfgs", "riemopt-adam"} <= registry.methods().keys()
    assert "rows-8x5" in registry.workloads()
    assert registry.is_own(registry.problems()["rows"])
    assert registry.source("problem", "rows") == registry.source("method", "lbfgs")


def test_an_entry_point_that_cannot_be_used_is_said(entry_point):
    entry_point("no_such_module")
    result = CliRunner().invoke(app, ["bench", "list"])
    assert result.exit_code == 2
    assert "the entry point 'mine' of riemopt.bench cannot be imported" in result.stderr


def test_a_workload_can_be_trained(own):
    """Both benchmarks have one interface: what is stepped is a task like any other."""
    workload, method = own.WORKLOADS[0], registry.methods()["riemopt-adam"]
    task, attached = measure.fresh(workload, method, 1e-3, 0)
    trace = measure.train(task, attached, Budget(3))
    assert trace.metric[-1] < trace.metric[0]
    assert max(trace.stored_violation["0.weight"]) < 1e-5


def test_the_task_of_a_problem_can_be_stepped(own):
    method = registry.step_methods()["riemopt-adam"]
    task = own.PROBLEMS[0].build(0)
    step = stepper(method, task)
    (_, weight), before = step.weights()[0], task.model.weight.detach().clone()
    step.call()
    assert not torch.equal(weight, before)
    step.put_back()
    assert torch.equal(weight, before)


def test_libraries_say_what_they_do_not_know(own):
    left_out = {m.name: m.skip(own.PROBLEMS[0]) for m in registry.methods().values()}
    assert left_out["riemopt-adam"] is left_out["project-after-adam"] is None
    assert left_out["lbfgs"] is left_out["adam-unconstrained"] is None
    assert "RowSum" in left_out["geoopt-adam"].reason
    assert "RowSum" in left_out["parametrize-cayley"].reason
    assert not registry.step_methods()["pogo-adam"].times(own.WORKLOADS[0])


def test_a_library_may_know_a_surface_in_part():
    from riemopt_bench.libraries import geoopt

    geoopt.manifold(Sphere())
    with pytest.raises(Skip, match="dim -1 only"):
        geoopt.manifold(Sphere(dim=0))
    assert Stiefel() == Stiefel() != Stiefel(kernel=True)


# --- loops of a method's own ---


def watch_of(own, budget, solve):
    task = own.build(0)
    attached = Attached.to_stored_weights(task, None, solve=solve)
    return task, attached, budget


def test_lbfgs_solves_the_problem_within_the_budget(own):
    method, budget = registry.methods()["lbfgs"], Budget(12, records=5)
    task, attached = measure.fresh(own.PROBLEMS[0], method, 1.0, 0)
    trace = measure.train(task, attached, budget)
    assert trace.step == [round(12 * share) for share in budget.shares]
    assert len(trace.forward_backward) == len(trace.optimizer) >= 12
    assert trace.loss[-1] < 1e-8 < trace.loss[0]
    assert trace.elapsed == sorted(trace.elapsed)
    assert trace.elapsed[-1] == pytest.approx(sum(trace.forward_backward) + sum(trace.optimizer))


def test_an_iteration_may_spend_several_steps(own):
    seen = []

    def solve(observe):
        while observe():
            seen.append(observe.rate)
            first, second = observe.evaluate(), observe.evaluate()
            assert first == second  # the same data

    trace = measure.train(*watch_of(own, Budget(5), solve))
    assert seen == pytest.approx(
        [1, (1 - math.cos(0.6 * math.pi)) / 2, (1 - math.cos(0.2 * math.pi)) / 2]
    )
    assert trace.step == [0, 1, 2, 3, 4, 5]
    assert len(trace.forward_backward) == 6
    assert trace.elapsed[1] == trace.elapsed[2] < trace.elapsed[3]


def test_a_loop_that_stops_early_stays_where_it_is(own):
    def solve(observe):
        observe()
        observe.evaluate()
        observe()

    trace = measure.train(*watch_of(own, Budget(4), solve))
    assert trace.step == [0, 1, 2, 3, 4]
    assert len(set(trace.loss[1:])) == 1
    assert len(set(trace.elapsed[1:])) == len(set(trace.metric[1:])) == 1


def test_a_solver_may_compute_the_loss_itself(own):
    """As a function of a point outside of the model, and without `backward`."""
    task = own.build(0)
    weight = task.model.weight

    def solve(observe):
        x = weight.detach().clone()
        while observe():
            loss = 0.5 * (x - observe.batch).square().sum()
            observe.tell(loss)
            x -= 0.5 * (x - observe.batch)
            with torch.no_grad():
                weight.copy_(x)

    trace = measure.train(task, Attached.to_stored_weights(task, None, solve=solve), Budget(4))
    assert trace.loss[2:] == pytest.approx([loss / 4 for loss in trace.loss[1:-1]])
    assert trace.forward_backward == [0] * 4
    assert trace.elapsed[-1] == pytest.approx(sum(trace.optimizer))


def test_a_loop_without_evaluations_is_an_error(own):
    def solve(observe):
        while observe():
            pass

    with pytest.raises(RuntimeError, match="without a call of `evaluate`"):
        measure.train(*watch_of(own, Budget(4), solve))


def test_a_method_with_neither_an_optimizer_nor_a_loop_is_an_error(own):
    with pytest.raises(ValueError, match="optimizer or a loop"):
        Attached.to_stored_weights(own.build(0), None)

"""Runs in processes: killed and resumed, several at a time, on a cluster; the settings of a run."""

import dataclasses
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import torch
from rich.console import Console
from riemopt_bench import processes, registry
from riemopt_bench.interface import Budget
from riemopt_bench.train import jobs, measure
from riemopt_bench.train.placement import Placement
from riemopt_bench.train.runner import Plan, SuiteRunner
from riemopt_bench.train.store import Store
from riemopt_bench.train.suites import SUITES, Settings, Suite
from riemopt_bench.train.worker import RunSpec

FILE = pathlib.Path(__file__).parent / "bench_own_file.py"
JOBS = 2


@pytest.fixture(scope="module")
def plan():
    """Three methods on the problem of the user's own file: 4 trials and 6 measured runs."""
    import torch._dynamo  # noqa: F401  (else every forked process does)

    registry.use([FILE])
    known = registry.methods()
    methods = [
        dataclasses.replace(known[m], grid=(0.1, 0.3))
        for m in ("riemopt-adam", "adam-unconstrained")
    ]
    suite = Suite("tiny", "for tests", {}, repetitions=2)
    yield Plan(suite, (registry.problems()["rows"],), (*methods, known["lbfgs"]), repetitions=2)
    registry.forget()


def runner_in(directory, plan, cluster=None):
    console = Console(file=(directory / "log").open("a"), width=200)
    return SuiteRunner(plan, directory, JOBS, True, console, cluster)


@pytest.fixture(scope="module")
def undisturbed(plan, tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed")
    runner_in(directory, plan).run()
    return numbers(directory)


def numbers(directory):
    """What does not depend on the clock, by key."""
    found = {}
    for row in Store(directory).rows():
        trace = {k: v for k, v in row.get("trace", {}).items() if k not in TIMES}
        names = ("status", "lr", "selection", "metric", "memory", "start", "tuning")
        found[row["key"]] = trace | {name: row.get(name) for name in names}
    assert len(found) == len(Store(directory).rows())
    return found


TIMES = ("elapsed", "forward_backward", "optimizer")


FORK = multiprocessing.get_context("fork")


def run_in_fork(directory, plan):
    """A runner that can be killed. It forks its runs too: the server of `plan` is not its own."""
    processes._context = lambda: FORK
    runner_in(directory, plan).run()


def test_killed_at_several_moments_and_resumed(plan, undisturbed, tmp_path):
    """SIGKILL loses the runs in progress, and a line that was being written; nothing else."""
    assert len(undisturbed) == 10
    store = Store(tmp_path)
    for moment in (0, 1, 3, 6, 8):
        process = FORK.Process(target=run_in_fork, args=(tmp_path, plan))
        process.start()
        deadline = time.monotonic() + 60
        while len(store.rows()) < moment and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        found = numbers(tmp_path)
        assert len(found) >= moment
        assert all(undisturbed[key] == value for key, value in found.items())
        if moment == 3:  # in the middle of a write
            data = store.path.read_bytes()
            store.path.write_bytes(data[: -len(data.splitlines()[-1]) // 2])
            assert len(numbers(tmp_path)) == len(found) - 1
    runner_in(tmp_path, plan).run()
    assert numbers(tmp_path) == undisturbed


SPEC = RunSpec("run", "rows", "lbfgs", 1.0, 0, Budget(3, warmup=1))


def test_a_run_that_is_killed_once_is_started_again(plan):
    started = []

    def kill_the_first(child):
        started.append(child.process.pid)
        if len(started) == 1:
            os.kill(child.process.pid, signal.SIGKILL)

    row = jobs.run(SPEC, {"key": "a"}, kill_the_first)
    assert (row["status"], len(started)) == ("ok", 2)


def test_a_run_that_is_killed_twice_has_failed(plan):
    row = jobs.run(SPEC, {"key": "a"}, lambda child: child.kill())
    assert (row["status"], row["error"]) == ("failed", "the process ended with exit code -9")


def test_a_process_ends_with_its_runner():
    """Else one that hangs would outlive every time limit."""
    runner = subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, text=True)
    pid = int(runner.stdout.readline())
    runner.kill()
    runner.wait()
    deadline = time.monotonic() + 20
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(pid)


HANGS = """
import riemopt_bench.processes as processes
import multiprocessing, time
def hang(connection):
    connection.send("started")
    time.sleep(100)
if __name__ == "__main__":
    processes._context = lambda: multiprocessing.get_context("fork")
    child = processes.Child(hang)
    child.receive()
    print(child.process.pid, flush=True)
    time.sleep(100)
"""


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.slow
def test_a_cluster_gives_the_same_rows(plan, undisturbed, tmp_path):
    distributed = pytest.importorskip("distributed")
    local = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with local:
        cluster = jobs.Cluster(local.scheduler_address)
        assert cluster.jobs == 2
        runner_in(tmp_path, plan, cluster).run()
        cluster.client.close()
    assert numbers(tmp_path) == undisturbed


@pytest.mark.slow
def test_workers_with_other_code_are_refused(plan, monkeypatch):
    distributed = pytest.importorskip("distributed")
    local = distributed.LocalCluster(n_workers=1, processes=True, dashboard_address=None)
    monkeypatch.setattr(jobs, "facts", lambda files: {"riemopt_bench": "here"})
    monkeypatch.setattr(distributed.Client, "run", lambda *a: {"w": {"riemopt_bench": "there"}})
    with (
        local,
        pytest.raises(jobs.ClusterError, match="worker w has riemopt_bench there, and this"),
    ):
        jobs.Cluster(local.scheduler_address)


def test_no_cluster_at_the_address(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(jobs, "SECONDS_TO_CONNECT", 0.2)
    with pytest.raises(jobs.ClusterError, match="no scheduler with a worker answers"):
        jobs.Cluster("tcp://127.0.0.1:1")


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(jobs.ClusterError, match=r"riemopt\[cluster\]"):
        jobs.Cluster("tcp://127.0.0.1:1")


# --- suites and settings ---


def test_suites_take_a_share_of_each_problems_own_budget(plan):
    problem = dataclasses.replace(plan.problems[0], budget=Budget(1000, threads=2))
    assert SUITES["full"].budget(problem) == problem.budget
    assert SUITES["quick"].budget(problem) == Budget(167, threads=2, records=10)
    budgeted = [p for p in registry.problems().values() if p.budget is not None]
    for name in ("quick", "full"):
        assert SUITES[name].problems() == budgeted
    assert [SUITES[name].jobs(Settings()) for name in ("demo", "full")] == [1, 1]
    assert SUITES["quick"].jobs(Settings()) == min(2, os.cpu_count())
    assert SUITES["quick"].jobs(Settings(seconds=1.0)) == 1
    names = {p.name for p in SUITES["demo"].problems()}
    assert names == {"circle", "pca", "digits", "rows"}  # the user's own joins
    assert set(SUITES["demo"].only) < {m.name for m in SUITES["demo"].methods()}  # and the own
    assert SUITES["quick"].methods() == list(registry.methods().values())
    method = registry.methods()["riemopt-adam"]
    assert SUITES["full"].grid(method) == method.grid
    assert SUITES["quick"].grid(method) == method.grid[1::2]
    assert SUITES["quick"].grid(registry.methods()["lbfgs"]) == (1.0,)


def test_settings_replace_the_budget():
    budget = Budget(100, threads=2)
    assert Settings().applied(budget) == budget
    assert Settings(steps=7).applied(budget) == Budget(7, threads=2)
    assert Settings(seconds=2.0).applied(budget) == Budget(threads=2, seconds=2.0)
    both = Settings(steps=7, seconds=90.0, schedule="constant").applied(budget)
    assert (both.steps, both.seconds, both.schedule) == (7, 90.0, "constant")
    assert both.time_limit == 900


@pytest.mark.parametrize("limits", [{}, {"steps": 0}, {"seconds": 0.0}])
def test_a_budget_of_nothing_is_an_error(limits):
    with pytest.raises(ValueError, match="steps or seconds"):
        Budget(**limits)


class Clock:
    """A clock that moves on by a second with every reading."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("steps", [None, 4, 1000])
def test_seconds_end_a_run_and_drive_the_schedule(plan, monkeypatch, steps):
    """Every step takes as many seconds as it reads the clock: equally many."""
    monkeypatch.setattr(measure, "time", Clock())
    seen = []
    problem = plan.problems[0]
    task, attached = measure.fresh(problem, registry.methods()["adam-unconstrained"], 0.1, 0)
    step = attached.step

    def noted():
        seen.append(attached.optimizer.param_groups[0]["lr"])
        step()

    budget = Budget(steps, records=5, seconds=40.0)
    trace = measure.train(task, dataclasses.replace(attached, step=noted), budget)
    seconds_a_step = trace.elapsed[-1] / trace.step[-1]
    assert trace.step[-1] == (4 if steps == 4 else -(-40 // seconds_a_step))
    assert len(trace.step) == len(trace.metric) == len(budget.shares)
    limit = 4 if steps == 4 else 40 / seconds_a_step
    expected = [0.1 * budget.rate(1 - t / limit) for t in range(len(seen))]
    assert seen == pytest.approx(expected)


@pytest.mark.parametrize(
    ("dtype", "bound"), [("float64", 1e-12), ("float32", 1e-6), ("bfloat16", 0.1)]
)
def test_a_dtype_is_that_of_model_and_batches(plan, dtype, bound):
    """The evaluation is in float64, on the weights that the forward uses."""
    from bench_own_file import RowSum

    placement = Placement(dtype=dtype)
    method = registry.methods()["riemopt-adam"]
    problem = plan.problems[0]
    task, attached = measure.fresh(problem, method, 0.1, 0, placement)
    kind = getattr(torch, dtype)
    assert task.model.weight.dtype == task.batch(0).dtype == kind
    trace = measure.train(task, attached, Budget(200, records=2))
    assert attached.used()["weight"].dtype == kind
    assert max(trace.used_violation["weight"]) < bound
    a = problem.build(0).batch(0)
    answer = RowSum(1.0).nearest(a).double()
    gap = (task.model.weight.double() - answer).square().mean().item()
    assert trace.metric[-1] == pytest.approx(gap, rel=1e-12)


def slow_unless(*names):
    marks = {n: () if n in names else pytest.mark.slow for n in registry.problems()}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


@pytest.mark.parametrize("name", slow_unless("circle", "pca", "digits"))
def test_problems_can_be_evaluated_in_another_dtype(name):
    problem = registry.problems()[name]
    task, plain = Placement(dtype="float64").build(problem, 0), problem.build(0)
    moved, own = task.evaluate(task.model), plain.evaluate(plain.model)
    assert moved.selection == pytest.approx(own.selection, rel=1e-4, abs=1e-5)
    assert moved.metric == pytest.approx(own.metric, rel=1e-2, abs=1e-5)


def test_a_placement_and_a_budget_in_seconds_are_part_of_the_key():
    keys = {
        dataclasses.replace(SPEC, **change).key
        for change in (
            {},
            {"placement": Placement(dtype="float64")},
            {"placement": Placement(device="cuda")},
            {"budget": Budget(3, warmup=1, seconds=1.0)},
            {"budget": Budget(3, warmup=1, schedule="constant")},
        )
    }
    assert len(keys) == 5

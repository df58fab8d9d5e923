"""From the command to the page, with very small budgets."""

import dataclasses
import json
import multiprocessing
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console
from riemopt_bench import registry
from riemopt_bench.interface import Budget
from riemopt_bench.page.report import write_report
from riemopt_bench.page.wording import headline, problem_summary
from riemopt_bench.progress import Ticker
from riemopt_bench.train.jobs import Here
from riemopt_bench.train.results import collect
from riemopt_bench.train.runner import Plan, SuiteRunner, choose
from riemopt_bench.train.store import Store, StoreError
from riemopt_bench.train.suites import Suite
from riemopt_bench.train.worker import RunSpec

METHODS = ("riemopt-adam", "parametrize-cayley", "parametrize-cayley-cached", "adam-unconstrained")


def small_plan():
    budgets = {"digits": Budget(3, warmup=1), "pca": Budget(3, warmup=1)}
    suite = Suite("tiny", "for tests", budgets, repetitions=1)
    return Plan(
        suite,
        tuple(registry.problems()[name] for name in budgets),
        tuple(dataclasses.replace(registry.methods()[m], grid=(1e-3, 1e-2)) for m in METHODS),
        repetitions=1,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its directory, the keys of the measured runs and what was printed."""
    directory = tmp_path_factory.mktemp("results")
    with (directory / "log").open("w") as log:
        runner = SuiteRunner(small_plan(), directory, 2, True, Console(file=log, width=200))
        keys = runner.run()
    write_report(directory, prefer=keys)
    return directory, keys, (directory / "log").read_text()


class Page(HTMLParser):
    """Ids, sources of anything loaded, and whether the tags balance."""

    VOID = frozenset({"meta", "br", "link", "img", "hr", "path", "use", "rect", "line"})

    def __init__(self, text):
        super().__init__()
        self.ids, self.loads, self.open = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.ids.update(value for name, value in attrs if name == "id")
        self.loads += [v for n, v in attrs if n in ("src", "href", "xlink:href") and v[0] != "#"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_every_run_is_one_row(finished):
    directory, keys, _ = finished
    rows = Store(directory).rows()
    assert [row["status"] for row in rows] == ["ok"] * len(rows)
    assert len({row["key"] for row in rows}) == len(rows)
    measured = [row for row in rows if row["phase"] == "run"]
    assert {row["key"] for row in measured} == set(keys)
    assert len(measured) == 4 + 3  # no unconstrained Adam on PCA
    # two problems, two learning rates; the cached variant shares its trials
    assert sum(row["phase"] == "tune" for row in rows) == (3 + 2) * 2


def test_rows_hold_what_a_reader_needs(finished):
    row = next(r for r in Store(finished[0]).rows() if r["phase"] == "run")
    assert row["budget"]["steps"] == 3
    assert row["environment"].keys() >= {"cpu", "torch", "threads", "load", "riemopt"}
    assert row["memory"]["peak"] > row["memory"]["held"] > 0
    assert set(row["tuning"]) == {"edge", "trials", "failed"}


def test_all_methods_of_a_repetition_had_the_same_start(finished):
    starts = {}
    for row in Store(finished[0]).rows():
        if row["phase"] == "run":
            starts.setdefault(row["problem"], set()).add(row["start"])
    assert all(len(found) == 1 for found in starts.values())


def test_progress_is_plain_lines_without_a_terminal(finished):
    log = finished[2]
    assert "\x1b" not in log
    assert re.search(r"^measuring 7/7  .* \(0 s left\)$", log, flags=re.MULTILINE)


def test_a_second_start_runs_nothing(finished, tmp_path):
    directory, keys, _ = finished
    before = Store(directory).path.read_bytes()
    with (tmp_path / "log").open("w") as log:
        runner = SuiteRunner(small_plan(), directory, 2, True, Console(file=log, width=200))
        assert sorted(runner.run()) == sorted(keys)
    assert Store(directory).path.read_bytes() == before
    assert "7 of 7 runs are in the store already" in (tmp_path / "log").read_text()


def test_the_page_is_complete_and_loads_nothing(finished):
    text = (finished[0] / "report.html").read_text()
    assert "http://" not in text
    assert "https://" not in text
    page = Page(text)
    assert page.loads == []
    assert page.open == []
    sections = {"summary", "experiment", "digits", "pca", "profile", "reading", "failures"}
    assert page.ids >= sections | {"measurement"}
    assert text.count('class="plot"') == 2 * 4 + 1
    for needed in ("How to read this page", "paired bootstrap", "weight_decay", "Left out"):
        assert needed in text


def test_what_lies_beside_the_page(finished):
    directory = finished[0]
    assert (directory / "overview.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((directory / "figures").glob("*.svg"))) == 9
    lines = (directory / "results.csv").read_text().splitlines()
    assert len(lines) == 1 + 7
    assert "stored_violation_largest" in lines[0]


def measured_rows(finished, problem):
    rows = Store(finished[0]).rows()
    return [row for row in rows if row["phase"] == "run" and row["problem"] == problem]


def failed(row):
    changed = {k: v for k, v in row.items() if k not in ("trace", "memory", "environment")}
    return changed | {"status": "failed", "error": "NotFiniteError: <b>the loss became nan</b>"}


@pytest.mark.parametrize("broken", [METHODS[:1], METHODS[1:3], METHODS], ids=["ours", "ref", "all"])
def test_failures_are_listed_and_counted(finished, tmp_path, broken):
    store = Store(tmp_path)
    for row in measured_rows(finished, "pca"):
        store.append(failed(row) if row["method"] in broken else row)
    text = write_report(tmp_path).read_text()
    assert "the loss became nan" in text
    assert "<b>the loss" not in text
    assert f"{len(set(broken) & set(METHODS[:3]))} of 3 runs failed" in text
    assert Page(text).open == []


def slower(row, factor):
    trace = row["trace"]
    scaled = {k: [factor * t for t in trace[k]] for k in ("optimizer", "forward_backward")}
    return row | {"trace": trace | scaled}


@pytest.mark.parametrize(("factor", "word"), [(1000, "slower"), (0.001, "faster")])
def test_the_summary_follows_the_numbers(finished, factor, word):
    rows = []
    for row in measured_rows(finished, "digits"):
        for repetition in range(2):
            copy = row | {"repetition": repetition, "key": f"{row['key']}{repetition}"}
            rows.append(slower(copy, factor) if row["method"] == "riemopt-adam" else copy)
    results = collect(rows)
    assert f"{word} on Digits classifier" in headline(results)[0]
    summary = " ".join(problem_summary(results.problems[0]))
    assert ("riemopt is slower here" in summary) == (word == "slower")
    assert ("times less" in summary) == (word == "faster")


@pytest.mark.parametrize(("change", "word"), [(-0.5, "worse"), (0.0, "no clear difference")])
def test_the_summary_says_when_the_result_is_worse(finished, change, word):
    rows = []
    for row in measured_rows(finished, "digits"):
        better = 0.9 + (change if row["method"] == "riemopt-adam" else 0)
        rows.append(row | {"trace": row["trace"] | {"metric": [better]}})
    results = collect(rows)
    assert f"{word} on Digits classifier" in headline(results)[1]


def test_a_newer_measurement_replaces_an_older_one(finished):
    rows = Store(finished[0]).rows()
    ours = [r for r in rows if r["phase"] == "run" and r["method"] == "riemopt-adam"]
    row = next(r for r in ours if r["problem"] == "digits")
    newer = row | {"cell": "other", "key": "other", "lr": 0.5}
    cells = collect([*rows, newer]).problems[0].cells
    assert [r["key"] for r in cells["riemopt-adam"].rows] == ["other"]
    cells = collect([*rows, newer], prefer=[row["key"]]).problems[0].cells
    assert [r["key"] for r in cells["riemopt-adam"].rows] == [row["key"]]


def test_unequal_data_is_noticed(finished):
    rows = [dict(row) for row in Store(finished[0]).rows()]
    next(r for r in rows if r["phase"] == "run")["start"] = "other"
    assert any("different data or starts" in note for note in collect(rows).notes)


def test_a_busy_machine_is_noticed(finished):
    rows = measured_rows(finished, "pca")
    idle = [row | {"environment": row["environment"] | {"load": 0.5}} for row in rows]
    assert collect(idle).notes == []
    busy = [row | {"environment": row["environment"] | {"load": 999.0}} for row in rows]
    assert "more work than cores" in collect(busy).notes[0]


def test_a_report_of_nothing_is_an_error(tmp_path):
    Store(tmp_path).append({"key": "a", "phase": "tune"})
    with pytest.raises(StoreError, match="holds no measured runs"):
        write_report(tmp_path)


def test_a_cut_off_last_line_is_said_on_the_page(finished, tmp_path):
    Store(tmp_path).append(measured_rows(finished, "pca")[0])
    with Store(tmp_path).path.open("a") as file:
        file.write('{"key": "cut')
    assert "runs.jsonl is cut off" in write_report(tmp_path).read_text()


def test_an_interrupt_leaves_a_store_that_a_second_start_completes(tmp_path, monkeypatch):
    plan = small_plan()
    plan = dataclasses.replace(plan, problems=plan.problems[1:], methods=plan.methods[:1])
    count = 0

    def done(self, text, failed=False):
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Ticker, "done", done)
    with (tmp_path / "log").open("w") as log:
        runner = SuiteRunner(plan, tmp_path, 1, True, Console(file=log))
        with pytest.raises(KeyboardInterrupt):
            runner.run()
        kept = Store(tmp_path).keys()
        assert len(kept) == 2
        assert multiprocessing.active_children() == []
        runner.run()
    keys = [row["key"] for row in Store(tmp_path).rows()]
    assert len(keys) == len(set(keys)) == 3
    assert set(keys) > kept


def test_a_run_that_takes_too_long_or_breaks_is_a_failed_row():
    slow = RunSpec("tune", "pca", "geoopt-adam", 0.1, 0, Budget(10**6, time_limit=0.5))
    broken = RunSpec("tune", "no such problem", "geoopt-adam", 0.1, 0, Budget(1))
    rows = {row["name"]: row for row in Here(2).rows([(slow, {"name": 1}), (broken, {"name": 2})])}
    assert rows[1]["status"] == rows[2]["status"] == "failed"
    assert "time limit" in rows[1]["error"]
    assert "KeyError" in rows[2]["error"]


def trial(lr, selection):
    status = {"status": "failed"} if selection is None else {"status": "ok", "selection": selection}
    return json.loads(json.dumps({"lr": lr, **status}))


def test_choosing_a_learning_rate():
    grid = (0.1, 0.2, 0.3)
    tuned = choose(grid, [trial(0.1, 3.0), trial(0.2, 1.0), trial(0.3, None)])
    assert (tuned.lr, tuned.edge, tuned.failed) == (0.2, False, 1)
    tuned = choose(grid, [trial(0.1, 0.5), trial(0.2, 1.0), trial(0.3, None)])
    assert (tuned.lr, tuned.edge) == (0.1, True)
    assert choose(grid, [trial(lr, None) for lr in grid]).lr == 0.2
    assert not choose((0.1,), [trial(0.1, 1.0)]).edge
    assert choose((0.1,), []).lr == 0.1

"""From the command to the page, with very small budgets."""

import dataclasses
import json
import multiprocessing
import re
import time
from html.parser import HTMLParser

import pandas as pd
import pytest
from rich.console import Console
from riemopt_bench import registry
from riemopt_bench.interface import Budget
from riemopt_bench.page import price
from riemopt_bench.page.price import Price
from riemopt_bench.page.report import write_report
from riemopt_bench.page.summary import write_readme
from riemopt_bench.page.wording import problem_summary, verdicts
from riemopt_bench.progress import Ticker
from riemopt_bench.train.jobs import Here
from riemopt_bench.train.results import collect
from riemopt_bench.train.runner import Plan, SuiteRunner, choose
from riemopt_bench.train.store import Store, StoreError
from riemopt_bench.train.suites import Suite
from riemopt_bench.train.worker import RunSpec
from typer.testing import CliRunner

from riemopt.cli import app

METHODS = ("riemopt-adam", "parametrize-cayley", "parametrize-cayley-cached", "adam-unconstrained")


@pytest.fixture(scope="module", autouse=True)
def _few_prices():
    """A page in a tenth of the time: its table of prices is measured on a tiny layer."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"UNITS": 8, "USES": 2, "ENOUGH_SECONDS": 0.0}.items():
            patch.setattr(price, name, value)
        yield


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


def test_the_time_left_is_that_of_tuning_and_measuring(monkeypatch, tmp_path):
    """Four trials of a second each are done after four; eight more are to come."""
    now = iter([0.0, 1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    with (tmp_path / "log").open("w") as log:
        ticker = Ticker(Console(file=log, width=200), "tuning", 4, later=8.0)
        for _ in range(4):
            ticker.done("")
    left = re.findall(r"\((\d+) s left\)", (tmp_path / "log").read_text())
    assert left == ["11", "10", "9", "8"]


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
    sections = {"summary", "experiment", "digits", "pca", "glance", "price", "reading", "failures"}
    assert page.ids >= sections | {"measurement"}
    assert text.count('class="plot"') == 2 * 4 + 3
    for needed in ("How to read this page", "paired bootstrap", "weight_decay", "Left out"):
        assert needed in text


def test_what_lies_beside_the_page(finished):
    directory = finished[0]
    assert (directory / "overview.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((directory / "figures").glob("*.svg"))) == 2 * 4 + 3
    lines = (directory / "results.csv").read_text().splitlines()
    assert len(lines) == 1 + 7
    assert "stored_violation_largest" in lines[0]
    runs = pd.read_parquet(directory / "results.parquet")
    assert list(runs.columns) == lines[0].split(",")
    assert len(runs) == 7
    curves = pd.read_parquet(directory / "curves.parquet")
    assert len(curves) == 7 * 4
    last = curves[curves["step"] == 3].set_index(["problem", "method"])["metric"]
    assert last.to_dict() == runs.set_index(["problem", "method"])["metric"].to_dict()


def test_a_summary_for_a_readme(finished, tmp_path):
    directory = finished[0]
    text = (directory / "results.md").read_text()
    assert text.startswith("**Which is fastest?**\n\n* A training step of riemopt Adam")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert {len(row) for row in rows} == {7}
    digits, pca = rows[2:4]
    assert digits[0] == "Digits classifier: test accuracy (higher is better)"
    assert digits[1].endswith("ms)")
    assert "(parametrize cayley" in digits[3]
    assert digits[5].endswith("ms)")
    assert pca[4:6] == ["–", "–"]  # no other library and no method without constraint were run
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    write_readme(directory / "results.md", readme)
    assert readme.read_text() == f"before\n<!-- results -->\n{text}<!-- /results -->\nafter\n"
    readme.write_text("no marks\n")
    result = CliRunner().invoke(app, ["bench", "report", str(directory), "--readme", str(readme)])
    assert result.exit_code == 2
    assert "<!-- /results -->" in result.stderr
    assert readme.read_text() == "no marks\n"


def test_how_many_learning_rates_are_good(finished):
    results = collect(Store(finished[0]).rows())
    p = next(p for p in results.problems if p.problem.name == "digits")
    trials = [r for r in Store(finished[0]).rows() if r["phase"] == "tune"]
    own = {
        row["lr"]: row["selection"]
        for row in trials
        if (row["problem"], row["method"]) == ("digits", "parametrize-cayley-cached")
    }
    assert p.trials["parametrize-cayley-cached"] == p.trials["parametrize-cayley"] == own
    assert p.sensitivity("parametrize-cayley", factor=1e9) == (2, 2)
    assert p.sensitivity("parametrize-cayley", factor=1.0) == (1, 2)


def test_ranks_are_over_what_all_were_run_on(finished):
    ranks = collect(Store(finished[0]).rows()).ranks()
    assert ranks.problems == 2
    assert ranks.average.keys() == set(METHODS[:3])  # the constrained ones


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


def answers(results):
    """What the page says to each question."""
    prices = [Price("plain", 1, 1, 1, None, 0, 1), Price("map", 2, 2, 2, 2, 0, 9)]
    return {v.question: " ".join(v.sentences) for v in verdicts(results, prices)}


@pytest.mark.parametrize(("factor", "word"), [(1000, "slower"), (0.001, "faster")])
def test_the_summary_follows_the_numbers(finished, factor, word):
    rows = []
    for row in measured_rows(finished, "digits"):
        for repetition in range(2):
            copy = row | {"repetition": repetition, "key": f"{row['key']}{repetition}"}
            rows.append(slower(copy, factor) if row["method"] == "riemopt-adam" else copy)
    results = collect(rows)
    answer = answers(results)["Which is fastest?"]
    assert (float(re.search(r"parametrize: ([0-9.]+) times", answer)[1]) > 1) == (word == "slower")
    advice = answers(results)["When should I use parametrize anyway?"]
    assert ("shorter than that of riemopt Adam: Digits" in advice) == (word == "slower")
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
    assert f"{word} on Digits classifier" in answers(results)["Which ends best?"]


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


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupt_leaves_a_store_that_a_second_start_completes(tmp_path, monkeypatch, jobs):
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
        runner = SuiteRunner(plan, tmp_path, jobs, True, Console(file=log))
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

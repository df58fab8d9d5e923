"""The micro-benchmark's machinery. Nothing here depends on how long anything takes."""

import functools
import math

import pytest
import torch
from riemopt_bench.speed import breakdown, cost, figures, growth, probe, runner, tables, timing
from riemopt_bench.speed.interface import Attached, Item, Workload, violation
from riemopt_bench.speed.methods import METHODS
from riemopt_bench.speed.results import Results, Row, WorkloadResult, ratio, slope
from riemopt_bench.speed.targets import TARGETS, Target, judge, verdicts
from riemopt_bench.speed.workloads import WORKLOADS, matrix
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from riemopt.cli import app

TINY = {
    "square": (Item((8, 8), "stiefel"),),
    "tall": (Item((12, 3), "stiefel"),),
    "wide": (Item((3, 12), "stiefel"),),
    "batch": (Item((4, 6, 6), "stiefel"),),
    "kernel": (Item((4, 3, 2, 2), "stiefel"),),
    "separate": (Item((6, 6), "stiefel", 3),),
    "sphere": (Item((5, 9), "sphere"),),
    "symmetric": (Item((7, 7), "symmetric"),),
    "plain": (Item((7, 3), "plain"), Item((5,), "plain")),
    "mixed": (Item((7, 3), "plain"), Item((9, 4), "stiefel", 2)),
}
TINY = {name: Workload(name, name, items) for name, items in TINY.items()}
PAIRS = [
    (workload, method)
    for workload in TINY.values()
    for method in METHODS.values()
    if method.applies(workload)
]


def timed(method, seconds, status="timed"):
    return Row(method, status, dict(enumerate(seconds)))


def results_of(*rows, workload="4096x64"):
    return Results("workloads", {}, {}, [WorkloadResult(workload, "title", list(rows))])


# --- workloads and methods ---


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads(name):
    workload = WORKLOADS[name]
    assert workload.name == name
    if sum(item.count * math.prod(item.shape) for item in workload.items) > 2**20:
        return
    starts = workload.starts()
    assert len(starts) == sum(item.count for item in workload.items)
    for start, again in zip(starts, workload.starts(), strict=True):
        assert start.point.dtype == torch.float32
        assert start.point.shape == start.gradient.shape == start.item.shape
        assert torch.equal(start.point, again.point)
        assert violation(start.item.kind, start.point) < 1e-6


def test_models():
    assert len(WORKLOADS["plain-model"].starts()) == 66
    mixed = WORKLOADS["mixed-model"]
    assert len(mixed.starts()) == 200
    assert sum(start.item.kind == "stiefel" for start in mixed.starts()) == 2


def test_every_method_is_tried_somewhere():
    assert {method.name for _, method in PAIRS} == METHODS.keys()


@pytest.mark.parametrize(("workload", "method"), PAIRS, ids=lambda value: value.name)
def test_one_method_on_one_workload(workload, method, monkeypatch):
    compiler = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", compiler)
    starts = workload.starts()
    attached = method.attach(starts)
    begin = [weight.detach().clone() for _, weight in attached.weights()]
    for weight, start in zip(begin, starts, strict=True):
        same = weight.reshape(-1).sort().values - start.point.reshape(-1).sort().values
        assert same.abs().max() < 1e-5  # the same start, in whatever layout
    for _ in range(30):
        attached.put_back()
        attached.call()
    attached.settle()
    found = cost.measure(workload, attached, seconds=1.0, budget=3.0)
    assert 0.4e-3 < found.step_rms < 2.5e-3  # steps of comparable length
    assert found.violation_steps == 3
    if any(kind != "plain" for kind, _ in attached.weights()):
        assert found.violation < 1e-4
    else:
        assert found.violation is None
    if attached.eager:
        assert found.operators > 0
        assert found.flops >= 0
    assert found.state >= 0.9
    assert found.peak >= 0


def test_violation_sees_each_constraint():
    starts = {kind: TINY[kind].starts()[0].point for kind in ("sphere", "symmetric")}
    starts["stiefel"] = TINY["kernel"].starts()[0].point
    for kind, point in starts.items():
        assert violation(kind, point) < 1e-6
        point.view(-1)[1] += 0.1
        assert violation(kind, point) > 1e-3


def test_what_takes_too_long_to_count_is_left_out(monkeypatch):
    monkeypatch.setattr(cost, "MOST_OPERATORS", 5)
    found = cost.measure(TINY["tall"], METHODS["pogo-sgd"].attach(TINY["tall"].starts()), 1.0, 1.0)
    assert found.operators > 5
    assert found.flops is None
    assert found.peak is None


def test_flops_of_the_floor():
    n, p = 12, 3
    attached = METHODS["floor"].attach(matrix(n, p).starts())
    found = cost.measure(matrix(n, p), attached, 1.0, 1.0)
    assert found.flops == 4 * 2 * n * p * p
    assert not found.flops_partial


# --- the clock ---


def counting(log, name, fails_at=None):
    tensor = torch.zeros(3)

    def call():
        log.append(name)
        if fails_at is not None and log.count(name) >= fails_at:
            raise RuntimeError("it broke\nin detail")
        tensor.add_(1)

    return Attached(call, [tensor], [], list, list), tensor


def test_all_methods_take_turns_in_a_random_order(monkeypatch):
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 0)
    monkeypatch.setattr(timing, "WARM_UP_CALLS", (3, 3))
    monkeypatch.setattr(timing, "LEADING_SECONDS", 0)
    log = []
    attached = {name: counting(log, name)[0] for name in "abc"}
    found = timing.interleave(attached, 20)
    assert list(found) == ["a", "b", "c"]
    assert all(list(one.seconds) == list(range(20)) for one in found.values())
    turns = ["".join(log[i : i + 3]) for i in range(9, len(log), 3)]
    assert {"".join(sorted(turn)) for turn in turns} == {"abc"}
    assert len(set(turns)) > 1


def test_a_method_that_fails_fails_alone(monkeypatch):
    monkeypatch.setattr(timing, "WARM_UP_CALLS", (3, 3))
    log = []
    attached = {
        "early": counting(log, "early", fails_at=2)[0],
        "late": counting(log, "late", fails_at=6)[0],
        "good": counting(log, "good")[0],
    }
    found = timing.interleave(attached, 4)
    assert [type(one).__name__ for one in found.values()] == [
        "RuntimeError",
        "RuntimeError",
        "Timing",
    ]
    assert probe.describe(found["early"]) == "RuntimeError: it broke"


def test_what_moved_is_put_back():
    attached, tensor = counting([], "a")
    attached.call()
    attached.put_back()
    assert tensor.sum() == 0
    attached.drifts = True
    attached.call()
    attached.settle()
    attached.call()
    attached.put_back()
    assert tensor.sum() == 3


def test_slow_methods_take_part_in_fewer_rounds():
    assert timing._every(30, 0.02) == 1
    assert timing._every(30, 1.0) == 5
    assert timing._every(30, 100.0) == 10


def test_a_process_of_its_own():
    assert probe.probe(TINY["tall"], "floor", 60.0, 1).status == "called"
    failed = probe.probe(TINY["plain"], "pogo-adam", 60.0, 1)
    assert (failed.status, failed.phase) == ("failed", "build")
    assert "Error" in failed.text
    late = probe.probe(matrix(512, 64), "geotorch", 1e-4, 1)
    assert (late.status, late.phase, late.text) == ("late", "build", "longer than 0.0001 s")


# --- results ---


def test_ratios_are_paired_by_round():
    drifting, reference = timed("a", [2, 20, 200]), timed("b", [1, 10, 100])
    found = ratio(drifting, reference)
    assert (found.q1, found.value, found.q3) == (2, 2, 2)
    assert ratio(drifting, Row("b", "failed")) is None
    assert ratio(None, reference) is None
    assert ratio(timed("a", [30], "once"), timed("b", [1, 2, 3])).value == 15
    bound = ratio(Row("a", "skipped", at_least=60.0), timed("b", [1, 2, 3]))
    assert (bound.value, bound.at_least) == (30, True)
    assert ratio(Row("a", "skipped"), reference) is None


AT_LEAST = Target("t", "a", "b", "≥", 3, ("4096x64",))
AT_MOST = Target("t", "a", "b", "≤", 3, ("4096x64",))


@pytest.mark.parametrize(
    ("target", "dividend", "divisor", "answer", "note"),
    [
        (AT_LEAST, timed("a", [4]), timed("b", [1]), "met", ""),
        (AT_LEAST, timed("a", [2]), timed("b", [1]), "not met", ""),
        (AT_MOST, timed("a", [2]), timed("b", [1]), "met", ""),
        (AT_MOST, timed("a", [4]), timed("b", [1]), "not met", ""),
        (AT_LEAST, timed("a", [4], "once"), timed("b", [1]), "met", "one call"),
        (AT_LEAST, Row("a", "skipped", at_least=4.0), timed("b", [1]), "met", ""),
        (AT_LEAST, Row("a", "skipped", at_least=2.0), timed("b", [1]), "not measured", "bound"),
        (AT_MOST, Row("a", "skipped", at_least=4.0), timed("b", [1]), "not met", ""),
        (AT_MOST, Row("a", "skipped", at_least=2.0), timed("b", [1]), "not measured", "bound"),
        (AT_LEAST, timed("a", [4]), Row("b", "failed", note="no memory"), "not measured", "b: no"),
    ],
)
def test_verdicts(target, dividend, divisor, answer, note):
    found = judge(target, "4096x64", dividend, divisor)
    assert found.answer == answer
    assert note in found.note
    assert len(verdicts(results_of(dividend, divisor), [target])) == 1
    tables.target_table([found])
    assert ("1 of 1" if answer == "met" else "0 of 1") in tables.summary([found])


def test_targets_name_what_there_is():
    for target in TARGETS:
        for name in target.workloads:
            for method in (target.dividend, target.divisor):
                assert METHODS[method].applies(WORKLOADS[name]), (target.title, name)


def test_counterparts_are_riemopts():
    for method in METHODS.values():
        assert all(METHODS[name].family == "riemopt" for name in method.counterparts)


def test_json_round_trip(tmp_path):
    counted = cost.Cost(3, None, True, 1.0, 2.0, 1e-3, None, 100)
    row = Row("a", "timed", {0: 1.0, 7: 2.0}, calls=4, note="slow", cost=counted)
    written = results_of(row, Row("b", "skipped", at_least=2.0))
    written.write(tmp_path / "deep" / "speed.json")
    assert Results.read(tmp_path / "deep" / "speed.json") == written
    (tmp_path / "other.json").write_text('{"format": 0}')
    with pytest.raises(ValueError, match="format"):
        Results.read(tmp_path / "other.json")


def test_growth_fits_exponents():
    study = growth.studies(quick=True)[0]
    rows = [
        WorkloadResult(w.name, w.title, [timed(m, [p**2]) for m in growth.METHODS])
        for p, w in study.points
    ]
    found = Results("growth", {}, {}, rows)
    found.extra["studies"] = growth.fit(found, [study])
    curve = found.extra["studies"][0]["curves"]["floor"]
    assert curve["exponent"] == pytest.approx(2)
    assert curve["exponent_at_end"] == pytest.approx(2)
    assert slope([1, 2, 4], [8, 4, 2]) == pytest.approx(-1)
    figures.growth(found)
    tables.growth_table(found.extra["studies"])


# --- a whole run ---


def invoke(*arguments):
    arguments = ("bench", "speed", "--threads", "1", *arguments)
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


def test_a_run(tmp_path):
    chosen = [f"--method={name}" for name in ("riemopt-adam", "floor", "torch-adam-fused")]
    result = invoke("--quick", "--rounds=1", "--shape=64x64", *chosen, f"--out={tmp_path}")
    assert result.exit_code == 0, result.output
    assert result.output.rstrip().endswith(str(tmp_path / "speed.json"))
    for name in ("speed.json", "speed.svg", "speed.png"):
        assert (tmp_path / name).stat().st_size > 0
    found = Results.read(tmp_path / "speed.json")
    rows = found.workloads[0].rows
    assert [row.method for row in rows] == ["riemopt-adam", "floor", "torch-adam-fused"]
    assert all(row.status == "timed" and row.cost is not None for row in rows)
    assert found.environment["pogo-torch"] != "not installed"


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        (probe.Probe("late", text="longer than 2 s"), "skipped", "a call takes longer than 2 s"),
        (probe.Probe("late", text="longer than 2 s", phase="build"), "skipped", "setting it up"),
        (probe.Probe("failed", text="MemoryError"), "failed", "MemoryError"),
        (probe.Probe("called", 3.0), "once", "n = 1"),
    ],
)
def test_what_is_too_slow_or_fails_is_a_row(answer, status, text, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "probe", lambda *arguments: answer)
    chosen = ["--method=floor", "--method=geotorch"]
    result = invoke("--quick", "--rounds=1", "--shape=64x64", *chosen, f"--out={tmp_path}")
    assert result.exit_code == 0, result.output
    row = Results.read(tmp_path / "speed.json").workloads[0].row("geotorch")
    assert row.status == status
    assert text in row.note


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--workload", "64x65"], "there is no workload called '64x65'. Did you mean '64x64'?"),
        (["--method", "pogo-adamm"], "Did you mean 'pogo-adam'?"),
        (["--growth", "--method", "floor"], "leave the filters out"),
        (["--shape", "plain-model", "--method", "floor"], "nothing to run"),
        (["--profile", "--growth"], "two runs"),
        (["--profile", "--method", "geotorch"], "leave out geotorch"),
        (["--profile", "--limit", "1"], "leave out --limit"),
    ],
)
def test_what_cannot_be_run(arguments, text, tmp_path):
    result = invoke(*arguments, "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert text in result.stderr
    assert not (tmp_path / "out").exists()


def test_help_names_every_option():
    result = CliRunner().invoke(app, ["bench", "speed", "--help"], env={"COLUMNS": "200"})
    options = ("workload", "shape", "method", "quick", "growth", "profile", "rounds", "threads")
    for option in (*options, "limit"):
        assert f"--{option}" in result.output


def test_profile(tmp_path):
    """The floor is four products and one operator more; all time is in one of three parts."""
    result = invoke("--profile", "--rounds=2", "--shape=64x64", f"--out={tmp_path}")
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "profile.json") in result.output
    found = Results.read(tmp_path / "profile.json").extra["profiles"]["64x64"]
    assert [one["method"] for one in found] == [m for m in METHODS if m in breakdown.METHODS]
    for one in found:
        operators = tuple(breakdown.Operator(**op) for op in one.pop("operators"))
        profile = breakdown.Breakdown(operators=operators, **one)
        parts = (profile.products, profile.others, profile.outside)
        assert min(parts) >= 0
        assert sum(parts) >= 0.999 * profile.microseconds
        calls = {op.name: op.calls for op in operators}
        if profile.method == "floor":
            assert sum(calls[name] for name in calls if name in breakdown._PRODUCTS) == 4


def test_products_into_existing_memory_are_counted():
    a, b, c = torch.randn(1, 8, 4), torch.randn(1, 4, 4), torch.randn(1, 8, 4)
    counts = []
    for product in (c.baddbmm, c.baddbmm_):
        with FlopCounterMode(display=False, custom_mapping=cost._IN_PLACE) as counter:
            product(a, b)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * 8 * 4 * 4

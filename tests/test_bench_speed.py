"""The micro-benchmark's machinery. Nothing here depends on how long anything takes."""

import functools
import math

import pytest
import torch
from riemopt_bench import environment, processes, registry
from riemopt_bench.speed import breakdown, cost, figures, growth, probe, runner, tables, timing
from riemopt_bench.speed.results import Measurement, SpeedResults, WorkloadResult, ratio, slope
from riemopt_bench.speed.stepper import Stepper, stepper
from riemopt_bench.speed.targets import CUDA_TARGETS, TARGETS, Target, judge, verdicts
from riemopt_bench.speed.workloads import WORKLOADS, Item, Workload, matrix
from riemopt_bench.surfaces import Sphere, Stiefel, Symmetric
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from riemopt.cli import app
from tests import needs

METHODS = registry.step_methods()
TINY = {
    "square": (Item((8, 8), Stiefel()),),
    "tall": (Item((12, 3), Stiefel()),),
    "wide": (Item((3, 12), Stiefel()),),
    "batch": (Item((4, 6, 6), Stiefel()),),
    "kernel": (Item((4, 3, 2, 2), Stiefel(kernel=True)),),
    "separate": (Item((6, 6), Stiefel(), 3),),
    "sphere": (Item((5, 9), Sphere()),),
    "symmetric": (Item((7, 7), Symmetric()),),
    "plain": (Item((7, 3), None), Item((5,), None)),
    "mixed": (Item((7, 3), None), Item((9, 4), Stiefel(), 2)),
}
TINY = {name: Workload(name, name, items) for name, items in TINY.items()}
PAIRS = [
    pytest.param(workload, method, marks=needs.pogo if method.name.startswith("pogo") else ())
    for workload in TINY.values()
    for method in METHODS.values()
    if method.times(workload)
]


def timed(method, seconds, status="timed"):
    return Measurement(method, status, dict(enumerate(seconds)))


def skipped(method, at_least):
    return Measurement(method, "skipped", at_least=at_least)


def failed(method, note):
    return Measurement(method, "failed", note=note)


def results_of(*rows, workload="4096x64"):
    return SpeedResults("workloads", {}, {}, [WorkloadResult(workload, "title", list(rows))])


# --- workloads and methods ---


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads(name):
    workload = WORKLOADS[name]
    assert workload.name == name
    if sum(item.count * math.prod(item.shape) for item in workload.items) > 2**20:
        return
    task, again = workload.build(), workload.build()
    weights = dict(task.model.named_parameters())
    shapes = [item.shape for item in workload.items for _ in range(item.count)]
    assert [tuple(weight.shape) for weight in weights.values()] == shapes
    assert [tuple(target.shape) for target in task.batch(0)] == shapes
    for weight, same in zip(weights.values(), again.model.parameters(), strict=True):
        assert weight.dtype == torch.float32
        assert torch.equal(weight, same)
    for name, surface in task.surfaces.items():
        assert surface.violation(weights[name]) < 1e-6
    task.loss(task.model, task.batch(0)).backward()
    for weight, target in zip(weights.values(), task.batch(0), strict=True):
        assert torch.equal(weight.grad, target)


def test_models():
    assert len(list(WORKLOADS["plain-model"].build().model.parameters())) == 66
    mixed = WORKLOADS["mixed-model"].build()
    assert len(list(mixed.model.parameters())) == 200
    assert list(mixed.surfaces.values()) == [Stiefel()] * 2


@needs.pogo
def test_every_method_is_tried_somewhere():
    assert {pair.values[1].name for pair in PAIRS} == METHODS.keys()


@pytest.mark.parametrize(("workload", "method"), PAIRS, ids=lambda value: value.name)
def test_one_method_on_one_workload(workload, method, monkeypatch):
    compiler = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", compiler)
    step = stepper(method, workload.build())
    begin = [weight.detach().clone() for _, weight in step.weights()]
    for weight, start in zip(begin, workload.build().model.parameters(), strict=True):
        torch.testing.assert_close(weight, start, atol=1e-5, rtol=0)
    for _ in range(30):
        step.put_back()
        step.call()
    step.settle()
    found = cost.measure(workload, step, seconds=1.0, budget=3.0)
    assert 0.4e-3 < found.step_rms < 2.5e-3  # steps of comparable length
    assert found.violation_steps == 3
    if any(surface for surface, _ in step.weights()):
        assert found.violation < 1e-4
    else:
        assert found.violation is None
    if step.eager:
        assert found.operators > 0
        assert found.flops >= 0
    assert found.state >= 0.9
    assert found.peak >= 0


@needs.pogo
def test_what_takes_too_long_to_count_is_left_out(monkeypatch):
    monkeypatch.setattr(cost, "MOST_OPERATORS", 5)
    found = cost.measure(TINY["tall"], stepper(METHODS["pogo-sgd"], TINY["tall"].build()), 1.0, 1.0)
    assert found.operators > 5
    assert found.flops is None
    assert found.peak is None


def test_flops_of_the_floor():
    n, p = 12, 3
    step = stepper(METHODS["floor"], matrix(n, p).build())
    found = cost.measure(matrix(n, p), step, 1.0, 1.0)
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

    return Stepper(call, [tensor], [], list, list), tensor


def test_all_methods_take_turns_in_a_random_order(monkeypatch):
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 0)
    monkeypatch.setattr(timing, "WARM_UP_CALLS", (3, 3))
    monkeypatch.setattr(timing, "LEADING_SECONDS", 0)
    log = []
    steppers = {name: counting(log, name)[0] for name in "abc"}
    found = timing.interleave(steppers, 20)
    assert list(found) == ["a", "b", "c"]
    assert all(list(one.seconds) == list(range(20)) for one in found.values())
    turns = ["".join(log[i : i + 3]) for i in range(9, len(log), 3)]
    assert {"".join(sorted(turn)) for turn in turns} == {"abc"}
    assert len(set(turns)) > 1


def test_a_method_that_fails_fails_alone(monkeypatch):
    monkeypatch.setattr(timing, "WARM_UP_CALLS", (3, 3))
    log = []
    steppers = {
        "early": counting(log, "early", fails_at=2)[0],
        "late": counting(log, "late", fails_at=6)[0],
        "good": counting(log, "good")[0],
    }
    found = timing.interleave(steppers, 4)
    assert [type(one).__name__ for one in found.values()] == [
        "RuntimeError",
        "RuntimeError",
        "Timing",
    ]
    assert processes.describe(found["early"]) == "RuntimeError: it broke"


def test_what_moved_is_put_back():
    step, tensor = counting([], "a")
    step.call()
    step.put_back()
    assert tensor.sum() == 0
    step.drifts = True
    step.call()
    step.settle()
    step.call()
    step.put_back()
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
    assert (found.low, found.value, found.high, found.pairs) == (2, 2, 2, 3)
    assert ratio(drifting, Measurement("b", "failed")) is None
    assert ratio(None, reference) is None
    assert ratio(timed("a", [30], "once"), timed("b", [1, 2, 3])).value == 15
    bound = ratio(Measurement("a", "skipped", at_least=60.0), timed("b", [1, 2, 3]))
    assert (bound.value, bound.at_least) == (30, True)
    assert ratio(Measurement("a", "skipped"), reference) is None


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
        (AT_LEAST, Measurement("a", "skipped", at_least=4.0), timed("b", [1]), "met", ""),
        (
            AT_LEAST,
            Measurement("a", "skipped", at_least=2.0),
            timed("b", [1]),
            "not measured",
            "bound",
        ),
        (AT_MOST, Measurement("a", "skipped", at_least=4.0), timed("b", [1]), "not met", ""),
        (
            AT_MOST,
            Measurement("a", "skipped", at_least=2.0),
            timed("b", [1]),
            "not measured",
            "bound",
        ),
        (
            AT_LEAST,
            timed("a", [4]),
            Measurement("b", "failed", note="no memory"),
            "not measured",
            "b: no",
        ),
    ],
)
def test_verdicts(target, dividend, divisor, answer, note):
    found = judge(target, "4096x64", dividend, divisor)
    assert found.answer == answer
    assert note in found.note
    assert len(verdicts(results_of(dividend, divisor), [target])) == 1
    tables.target_table([found])
    assert ("1 of 1" if answer == "met" else "0 of 1") in tables.summary([found])


@needs.pogo
def test_targets_name_what_there_is():
    for target in (*TARGETS, *CUDA_TARGETS):
        for name in target.workloads:
            for method in (target.dividend, target.divisor):
                assert METHODS[method].times(WORKLOADS[name]), (target.title, name)


def test_counterparts_are_riemopts():
    for method in METHODS.values():
        assert all(METHODS[name].family == "riemopt" for name in method.timed.counterparts)


def test_json_round_trip(tmp_path):
    counted = cost.Cost(3, None, True, 1.0, 2.0, 1e-3, None, 100)
    row = Measurement("a", "timed", {0: 1.0, 7: 2.0}, calls=4, note="slow", cost=counted)
    written = results_of(row, Measurement("b", "skipped", at_least=2.0))
    written.write(tmp_path / "deep" / "speed.json")
    assert SpeedResults.read(tmp_path / "deep" / "speed.json") == written
    (tmp_path / "other.json").write_text('{"format": 0}')
    with pytest.raises(ValueError, match="format"):
        SpeedResults.read(tmp_path / "other.json")


def test_growth_fits_exponents():
    study = growth.studies(quick=True)[0]
    rows = [
        WorkloadResult(w.name, w.title, [timed(m, [p**2]) for m in growth.METHODS])
        for p, w in study.points
    ]
    found = SpeedResults("growth", {}, {}, rows)
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
    found = SpeedResults.read(tmp_path / "speed.json")
    rows = found.workloads[0].rows
    assert [row.method for row in rows] == ["riemopt-adam", "floor", "torch-adam-fused"]
    assert all(row.status == "timed" and row.cost is not None for row in rows)
    assert found.environment["geoopt"] != "not installed"


def test_compiled_steps_are_timed(tmp_path, monkeypatch):
    """Without inductor, which would take its time."""
    compiler = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(registry, "workloads", lambda: TINY)
    chosen = ["--method=riemopt-adam", "--method=torch-adam-foreach", "--way=compiled"]
    result = invoke("--rounds=1", "--workload=tall", *chosen, f"--out={tmp_path}")
    assert result.exit_code == 0, result.output
    found = SpeedResults.read(tmp_path / "speed.json")
    assert found.settings["way"] == "compiled"
    for row in found.workloads[0].rows:
        assert row.status == "timed", row.note
        assert row.cost.operators is None  # of a compiled step none is seen
        assert row.cost.step_rms > 0


def test_what_is_not_installed_is_left_out_with_a_line(tmp_path, monkeypatch):
    version = environment.version
    monkeypatch.setattr(
        environment, "version", lambda p: "not installed" if p == "pogo-torch" else version(p)
    )
    chosen = ["--method=floor", "--method=pogo-adam"]
    result = invoke("--quick", "--rounds=1", "--shape=64x64", *chosen, f"--out={tmp_path}")
    assert result.exit_code == 0, result.output
    assert "left out: pogo-adam, as pogo-torch is not installed" in result.output
    rows = SpeedResults.read(tmp_path / "speed.json").workloads[0].rows
    assert [row.method for row in rows] == ["floor"]
    result = invoke("--shape=64x64", "--method=pogo-adam", f"--out={tmp_path}")
    assert result.exit_code == 2
    assert "pogo-adam needs pogo-torch" in result.stderr


def test_large_workloads_are_for_a_gpu():
    large = {name for name, workload in WORKLOADS.items() if workload.large}
    assert large == {"4096x4096", "16384x1024", "10000x64x64"}
    targets = {name for target in TARGETS for name in target.workloads}
    assert not large & targets
    assert large <= {name for target in CUDA_TARGETS for name in target.workloads}


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["eager", "graph"])
def test_a_run_on_a_gpu(way, tmp_path):
    chosen = [f"--method={name}" for name in ("riemopt-adam", "floor", "torch-adam-fused")]
    options = ("--device=cuda", f"--way={way}", f"--out={tmp_path}")
    result = invoke("--quick", "--rounds=1", "--shape=64x64", *chosen, *options)
    assert result.exit_code == 0, result.output
    found = SpeedResults.read(tmp_path / "speed.json")
    assert found.environment["gpu"] in result.output
    assert all(row.status == "timed" for row in found.workloads[0].rows), result.output
    assert all(
        row.cost.violation is None or row.cost.violation < 1e-5 for row in found.workloads[0].rows
    )


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
    row = SpeedResults.read(tmp_path / "speed.json").workloads[0].row("geotorch")
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
        (["--device", "tpu"], "no device called 'tpu'. There are: cpu, cuda"),
        (["--way", "fast"], "no way of stepping called 'fast'. There are: eager, compiled, graph"),
        (["--way", "graph"], "on CUDA only"),
        (["--profile", "--way", "compiled"], "eager steps on the CPU"),
        pytest.param(
            ["--device", "cuda"],
            "there is no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
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
    for option in (*options, "limit", "device", "way"):
        assert f"--{option}" in result.output


@needs.pogo
def test_profile(tmp_path):
    """The floor is four products and one operator more; all time is in one of three parts."""
    result = invoke("--profile", "--rounds=2", "--shape=64x64", f"--out={tmp_path}")
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "profile.json") in result.output
    found = SpeedResults.read(tmp_path / "profile.json").extra["profiles"]["64x64"]
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

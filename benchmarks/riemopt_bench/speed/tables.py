"""The tables that a run prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from riemopt_bench.page.numbers import NOTHING, significant
from riemopt_bench.registry import step_methods
from riemopt_bench.speed.breakdown import Breakdown
from riemopt_bench.speed.cost import STEPS
from riemopt_bench.speed.results import Measurement, WorkloadResult, ratio
from riemopt_bench.speed.targets import Verdict
from riemopt_bench.speed.workloads import Workload
from riemopt_bench.stats import Ratio
from riemopt_bench.surfaces import Stiefel


def baselines(workload: Workload) -> tuple[str, ...]:
    """What times are divided by: the floor on Stiefel manifolds, else torch's Adam."""
    return ("floor",) if workload.is_only(Stiefel) else ("torch-adam-foreach", "torch-adam-fused")


def counterpart(result: WorkloadResult, method: str) -> Measurement | None:
    """The row of riemopt's method that does the same work."""
    rows = (result.row(name) for name in step_methods()[method].timed.counterparts)
    return next((row for row in rows if row is not None), None)


def workload_table(workload: Workload, result: WorkloadResult) -> Table:
    """One row per method; the numbers are explained in benchmarks/README.md."""
    table = Table(title=f"{workload.name}: {workload.title}", title_justify="left")
    table.add_column("method", no_wrap=True, style="cyan")
    divided = [f"÷ {step_methods()[name].title}" for name in baselines(workload)]
    for column in ("ms", "quartiles", *divided, "÷ riemopt"):
        table.add_column(column, justify="right", no_wrap=column in ("ms", "quartiles"))
    for column in ("violation", "operators", "Mflop", "state", "peak"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    for row in result.rows:
        ratios = [ratio(row, result.row(name)) for name in baselines(workload)]
        ratios.append(ratio(row, counterpart(result, row.method)))
        table.add_row(
            step_methods()[row.method].title,
            *_times(row),
            *(ratio_text(one) for one in ratios),
            *_costs(row),
            row.note,
        )
    return table


def _times(row: Measurement) -> tuple[str, str]:
    if row.status == "skipped" and row.at_least is not None:
        return f"> {significant(1e3 * row.at_least)}", NOTHING
    if not row.measured:
        return row.status, NOTHING
    q1, median, q3 = (significant(1e3 * value) for value in row.quartiles)
    return median, f"{q1} to {q3}" if len(row.seconds) > 1 else "one call"


def ratio_text(value: Ratio | None) -> str:
    """Two or three digits, and whether it is a lower bound."""
    if value is None:
        return NOTHING
    return ("> " if value.at_least else "") + significant(value.value)


def _costs(row: Measurement) -> tuple[str, ...]:
    cost = row.cost
    if cost is None:
        return (NOTHING,) * 5
    violation = NOTHING if cost.violation is None else f"{cost.violation:.1e}"
    if cost.violation is not None and cost.violation_steps < STEPS:
        violation += f" ({cost.violation_steps})"
    flops = NOTHING
    if cost.flops is not None:
        flops = ("> " if cost.flops_partial else "") + significant(cost.flops / 1e6)
    operators = NOTHING if cost.operators is None else f"{cost.operators:,}"
    peak = NOTHING if cost.peak is None else f"{cost.peak:.2f}"
    return (violation, operators, flops, f"{cost.state:.2f}", peak)


def target_table(verdicts: Sequence[Verdict]) -> Table:
    """One line per target and workload."""
    table = Table(title="Targets", title_justify="left")
    for column in ("ratio of times", "workload", "wanted", "reached", "quartiles", ""):
        table.add_column(column, no_wrap=column not in ("", "ratio of times"))
    for verdict in verdicts:
        reached, spread = verdict.reached, NOTHING
        if reached is not None and reached.low is not None and reached.high is not None:
            spread = f"{significant(reached.low)} to {significant(reached.high)}"
        target = verdict.target
        colour = {"met": "green", "not met": "red", "not measured": "yellow"}[verdict.answer]
        note = f" ({verdict.note})" if verdict.note else ""
        table.add_row(
            target.title,
            verdict.workload,
            target.wanted,
            ratio_text(reached),
            spread,
            f"[{colour}]{verdict.answer}[/]{note}",
        )
    return table


def summary(verdicts: Sequence[Verdict]) -> str:
    """'12 of 14 targets met; 1 not measured.'"""
    count = {
        answer: sum(v.answer == answer for v in verdicts)
        for answer in ("met", "not met", "not measured")
    }
    text = f"{count['met']} of {len(verdicts)} targets met"
    return text + (f"; {count['not measured']} not measured." if count["not measured"] else ".")


def profile_table(workload: Workload, profiles: Sequence[Breakdown]) -> Table:
    """Microseconds of a step by kind, and the operators that take most of them."""
    table = Table(title=f"{workload.name}: {workload.title}", title_justify="left")
    table.add_column("method", no_wrap=True, style="cyan")
    for column in ("µs", "products", "other operators", "outside operators"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("operators: calls, µs", overflow="fold")
    for one in profiles:
        parts = (one.products, one.others, one.outside)
        table.add_row(
            step_methods()[one.method].title,
            significant(one.microseconds),
            *(f"{significant(part)} ({part / one.microseconds:.0%})" for part in parts),
            ", ".join(
                f"{op.name.removeprefix('aten::')} {op.calls:.3g}, {significant(op.microseconds)}"
                for op in one.operators[:8]
            ),
        )
    return table


def growth_table(studies: Sequence[dict[str, Any]]) -> Table:
    """Milliseconds by size, and the exponents."""
    table = Table(title="Growth", title_justify="left")
    for column in ("what grows", "method", "ms by size", "exponent", "of the largest three"):
        table.add_column(column)
    for study in studies:
        for method, curve in study["curves"].items():
            points = zip(curve["size"], curve["milliseconds"], strict=True)
            table.add_row(
                f"{study['variable']}: {study['title']}",
                step_methods()[method].title,
                ", ".join(f"{size}: {significant(ms)}" for size, ms in points),
                *(exponent_text(curve[key]) for key in ("exponent", "exponent_at_end")),
            )
    return table


def exponent_text(value: float | None) -> str:
    """Two decimals, if there were sizes enough."""
    return NOTHING if value is None else f"{value:.2f}"

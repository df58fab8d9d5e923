"""What the step is meant to reach, and whether it does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from riemopt_bench.speed.results import Measurement, SpeedResults, ratio
from riemopt_bench.speed.workloads import SMALL, SQUARE, TALL
from riemopt_bench.stats import Ratio

Answer = Literal["met", "not met", "not measured"]


@dataclass(frozen=True)
class Target:
    """`dividend` ÷ `divisor` is to be at most, or at least, `bound` on each of the workloads."""

    title: str
    dividend: str
    divisor: str
    most_or_least: Literal["≤", "≥"]
    bound: float
    workloads: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """One target on one workload."""

    target: Target
    workload: str
    reached: Ratio | None
    answer: Answer
    note: str = ""


_FLOOR = "riemopt {} against the floor"
_PLAIN = "no constraints: riemopt Adam against torch Adam, {}"

TARGETS = (
    *(
        Target(_FLOOR.format(title), name, "floor", "≤", bound, workloads)
        for title, name in (("SGD", "riemopt-sgd"), ("Adam", "riemopt-adam"))
        for bound, workloads in ((1.5, SQUARE[1:]), (1.25, TALL))
    ),
    *(
        Target(f"{title} against riemopt Adam", name, "riemopt-adam", "≥", bound, workloads)
        for title, name, tall, square, small in (
            ("POGO VectorAdam", "pogo-adam", 3, 1.7, 2),
            ("geoopt Euclidean Adam", "geoopt-euclidean-adam", 5, 1.8, 5),
            ("geoopt canonical Adam", "geoopt-canonical-adam", 50, 5, 5),
        )
        for bound, workloads in ((tall, TALL), (square, SQUARE), (small, SMALL))
    ),
    *(
        Target(
            f"training share: parametrize {title} against riemopt Adam",
            name,
            "riemopt-adam-share",
            "≥",
            bound,
            (workload,),
        )
        for title, name in (
            ("householder", "parametrize-householder"),
            ("matrix_exp", "parametrize-matrix-exp"),
        )
        for bound, workload in ((30, "512x512"), (3000, "4096x64"))
    ),
    Target(
        "a loop over parameters against all at once",
        "riemopt-adam-loop",
        "riemopt-adam",
        "≥",
        6,
        ("1000-of-16x16",),
    ),
    Target(
        "many small parameters: riemopt Adam against torch Adam, foreach",
        "riemopt-adam",
        "torch-adam-foreach",
        "≤",
        1,
        ("1000-of-16x16",),
    ),
    Target(
        "sphere: riemopt Adam against torch Adam, foreach",
        "riemopt-adam",
        "torch-adam-foreach",
        "≤",
        1.5,
        ("sphere-4096x1024",),
    ),
    Target(
        "sphere: compiled riemopt Adam against torch Adam, fused",
        "riemopt-adam-compiled",
        "torch-adam-fused",
        "≤",
        1.5,
        ("sphere-4096x1024",),
    ),
    *(
        Target(
            _PLAIN.format(how),
            f"riemopt-adam-{how}",
            f"torch-adam-{how}",
            "≤",
            1.05,
            ("plain-model",),
        )
        for how in ("foreach", "fused")
    ),
)


def verdicts(results: SpeedResults, targets: Iterable[Target] = TARGETS) -> list[Verdict]:
    """One for each target and workload that was asked for, whether or not it could be timed."""
    found = []
    for target in targets:
        for workload in target.workloads:
            result = results.find(workload)
            if result is not None:
                rows = result.row(target.dividend), result.row(target.divisor)
                if rows[0] is not None and rows[1] is not None:
                    found.append(judge(target, workload, rows[0], rows[1]))
    return found


def judge(target: Target, workload: str, dividend: Measurement, divisor: Measurement) -> Verdict:
    """Compare the ratio that was reached with the bound; what is not known is said to be so."""
    rows = (dividend, divisor)
    reached = ratio(dividend, divisor)
    if reached is None:
        reasons = [f"{row.method}: {row.note or row.status}" for row in rows if not row.measured]
        return Verdict(target, workload, None, "not measured", "; ".join(reasons))
    if target.most_or_least == "≥":
        met = reached.value >= target.bound
    else:
        met = reached.value <= target.bound
    if reached.at_least and (not met if target.most_or_least == "≥" else met):
        return Verdict(target, workload, reached, "not measured", "a lower bound only")
    once = any(row.status == "once" for row in rows)
    return Verdict(
        target, workload, reached, "met" if met else "not met", "one call" if once else ""
    )

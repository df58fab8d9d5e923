"""What the step is meant to reach, and whether it does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from riemopt_bench.speed.results import Measurement, SpeedResults, ratio
from riemopt_bench.speed.workloads import SMALL, SQUARE, TALL
from riemopt_bench.stats import Ratio

Answer = Literal["met", "not met", "not measured"]
Bound = tuple[float, tuple[str, ...]]


@dataclass(frozen=True)
class Target:
    """`dividend` ÷ `divisor` is to be at most, or at least, `bound` on each of the workloads."""

    title: str
    dividend: str
    divisor: str
    most_or_least: Literal["≤", "≥"]
    bound: float
    workloads: tuple[str, ...]

    @property
    def wanted(self) -> str:
        """The bound in words."""
        return f"{self.most_or_least} {self.bound:g}"


@dataclass(frozen=True)
class Verdict:
    """One target on one workload."""

    target: Target
    workload: str
    reached: Ratio | None
    answer: Answer
    note: str = ""


def _targets(
    title: str, dividend: str, divisor: str, sign: Literal["≤", "≥"], *bounds: Bound
) -> list[Target]:
    return [Target(title, dividend, divisor, sign, bound, where) for bound, where in bounds]


def _against_adam(title: str, name: str, tall: float, square: float, small: float) -> list[Target]:
    bounds = (tall, TALL), (square, SQUARE), (small, SMALL)
    return _targets(f"{title} against riemopt Adam", name, "riemopt-adam", "≥", *bounds)


def _share(orthogonal_map: str) -> list[Target]:
    title = f"training share: parametrize {orthogonal_map} against riemopt Adam"
    name = f"parametrize-{orthogonal_map.replace('_', '-')}"
    bounds = (30, ("512x512",)), (3000, ("4096x64",))
    return _targets(title, name, "riemopt-adam-share", "≥", *bounds)


def _plain(kernel: str) -> list[Target]:
    title = f"no constraints: riemopt Adam against torch Adam, {kernel}"
    names = f"riemopt-adam-{kernel}", f"torch-adam-{kernel}"
    return _targets(title, *names, "≤", (1.05, ("plain-model",)))


_FLOOR = (1.5, SQUARE[1:]), (1.25, TALL)
_MANY, _SPHERE = ("1000-of-16x16",), ("sphere-4096x1024",)
_ADAM, _PAIR = "riemopt-adam", "riemopt Adam against torch Adam, foreach"

TARGETS = (
    *_targets("riemopt SGD against the floor", "riemopt-sgd", "floor", "≤", *_FLOOR),
    *_targets("riemopt Adam against the floor", _ADAM, "floor", "≤", *_FLOOR),
    *_against_adam("POGO VectorAdam", "pogo-adam", 3, 1.7, 2),
    *_against_adam("geoopt Euclidean Adam", "geoopt-euclidean-adam", 5, 1.8, 5),
    *_against_adam("geoopt canonical Adam", "geoopt-canonical-adam", 50, 5, 5),
    *_share("householder"),
    *_share("matrix_exp"),
    Target("a loop over parameters against all at once", "riemopt-adam-loop", _ADAM, "≥", 6, _MANY),
    Target(f"many small parameters: {_PAIR}", _ADAM, "torch-adam-foreach", "≤", 1, _MANY),
    Target(f"sphere: {_PAIR}", _ADAM, "torch-adam-foreach", "≤", 1.5, _SPHERE),
    Target(
        "sphere: compiled riemopt Adam against torch Adam, fused",
        "riemopt-adam-compiled",
        "torch-adam-fused",
        "≤",
        1.5,
        _SPHERE,
    ),
    *_plain("foreach"),
    *_plain("fused"),
)


_ALL = (*SQUARE, *TALL, *SMALL, "4096x4096", "16384x1024", "10000x64x64")
CUDA_TARGETS = (
    Target(
        "POGO VectorAdam against riemopt Adam",
        "pogo-adam",
        _ADAM,
        "≥",
        2,
        ("1024x1024", "4096x4096"),
    ),
    Target("POGO VectorAdam against riemopt Adam, not slower", "pogo-adam", _ADAM, "≥", 1, _ALL),
)


def verdicts(results: SpeedResults, targets: Iterable[Target] = TARGETS) -> list[Verdict]:
    """A verdict for each target on each workload that was run, whether or not it was timed."""
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
    """Compare the ratio with the bound; one that is not known well enough is not measured."""
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

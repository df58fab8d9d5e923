"""What a run has found, in memory and as JSON; ratios of methods."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from riemopt_bench.speed.cost import Cost
from riemopt_bench.stats import Quartiles, Ratio, quartiles

FORMAT = 1
Status = Literal["timed", "once", "skipped", "failed"]


@dataclass
class Measurement:
    """One method on one workload.

    `timed`: `seconds` per call of each block, by round. `once`: a single call, too slow for rounds.
    `skipped`: a call takes longer than `at_least` seconds, if that is not None. `note` says why.
    """

    method: str
    status: Status
    seconds: dict[int, float] = field(default_factory=dict)
    calls: int = 1
    at_least: float | None = None
    note: str = ""
    cost: Cost | None = None

    @property
    def measured(self) -> bool:
        """Whether there is a time."""
        return bool(self.seconds)

    @property
    def quartiles(self) -> Quartiles:
        """Quartiles of the seconds per call; NaN without any."""
        return quartiles(list(self.seconds.values()))


@dataclass
class WorkloadResult:
    """All methods on one workload."""

    workload: str
    title: str
    rows: list[Measurement]
    load: float | None = None

    def row(self, method: str) -> Measurement | None:
        """The method's row, if it was run."""
        return next((row for row in self.rows if row.method == method), None)


@dataclass
class SpeedResults:
    """One run; `kind` tells the workloads from a growth study."""

    kind: Literal["workloads", "growth", "profile"]
    settings: dict[str, Any]
    environment: dict[str, Any]
    workloads: list[WorkloadResult] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def find(self, workload: str) -> WorkloadResult | None:
        """The workload's results, if it was run."""
        return next((result for result in self.workloads if result.workload == workload), None)

    def write(self, path: Path) -> None:
        """Write everything measured, with medians and quartiles, as JSON."""
        data = {"format": FORMAT, **asdict(self)}
        for result, written in zip(self.workloads, data["workloads"], strict=True):
            for row, one in zip(result.rows, written["rows"], strict=True):
                if row.measured:
                    one["milliseconds"] = {
                        name: 1e3 * value for name, value in row.quartiles._asdict().items()
                    }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> SpeedResults:
        """What `write` has written."""
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("format", None) != FORMAT:
            raise ValueError(f"{path} is not of format {FORMAT}")
        workloads = [
            WorkloadResult(**{**result, "rows": [_measurement(row) for row in result["rows"]]})
            for result in data.pop("workloads")
        ]
        return cls(**data, workloads=workloads)


def _measurement(data: dict[str, Any]) -> Measurement:
    data = {key: value for key, value in data.items() if key != "milliseconds"}
    seconds = {int(number): value for number, value in data.pop("seconds").items()}
    cost = data.pop("cost")
    return Measurement(**data, seconds=seconds, cost=None if cost is None else Cost(**cost))


def ratio(dividend: Measurement | None, divisor: Measurement | None) -> Ratio | None:
    """Median and quartiles over the rounds that both took part in; None if one has no time.

    A time that is known once, or from below, is divided by the other's median.
    """
    if dividend is None or divisor is None or not divisor.measured:
        return None
    if dividend.status == "skipped" and dividend.at_least is not None:
        value = dividend.at_least / divisor.quartiles.median
        return Ratio(value, None, None, at_least=True)
    if not dividend.measured:
        return None
    if "once" in (dividend.status, divisor.status):
        value = dividend.quartiles.median / divisor.quartiles.median
        return Ratio(value, None, None)
    shared = sorted(dividend.seconds.keys() & divisor.seconds.keys())
    values = [dividend.seconds[r] / divisor.seconds[r] for r in shared]
    if not values:
        return None
    low, median, high = quartiles(values)
    if len(values) == 1:
        return Ratio(median, None, None)
    return Ratio(median, low, high, pairs=len(values))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Exponent of the power law through the points, by least squares in logarithms."""
    return statistics.linear_regression(
        [math.log(value) for value in x], [math.log(value) for value in y]
    ).slope

"""Medians, paired intervals, time to target and performance profiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap


class Quartiles(NamedTuple):
    """First quartile, median and third quartile."""

    q1: float
    median: float
    q3: float


class Ratio(NamedTuple):
    """A ratio of times with an interval; the function that computes it says which.

    The interval is missing with fewer than two pairs. `at_least`: a lower bound only, since the
    dividend was ended before it was done.
    """

    value: float
    low: float | None
    high: float | None
    pairs: int = 1
    at_least: bool = False

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 1."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


def quartiles(values: Sequence[float]) -> Quartiles:
    """Quartiles by linear interpolation. Infinite values (failures) are allowed."""
    if not values:
        return Quartiles(math.nan, math.nan, math.nan)
    ordered = sorted(values)

    def at(q: float) -> float:
        position = q * (len(ordered) - 1)
        low = math.floor(position)
        high = math.ceil(position)
        if low == high or ordered[low] == ordered[high]:
            return ordered[low]
        return ordered[low] + (position - low) * (ordered[high] - ordered[low])

    return Quartiles(at(0.25), at(0.5), at(0.75))


def paired_ratio(times: Mapping[int, float], reference: Mapping[int, float]) -> Ratio | None:
    """Median of times/reference over the repetitions that both have, with a 95% interval.

    It is the percentile bootstrap (`scipy.stats.bootstrap`, 9,999 resamples, fixed seed)
    of the median log ratio: a median, since one run that something else disturbed must not decide.
    With three pairs it is little more than their range.
    """
    shared = sorted(times.keys() & reference.keys())
    logs = np.array([math.log(times[r] / reference[r]) for r in shared])
    if len(logs) == 0:
        return None
    value = math.exp(float(np.median(logs)))
    if len(logs) < 2:
        return Ratio(value, None, None, len(logs))
    if np.ptp(logs) == 0:
        return Ratio(value, value, value, len(logs))
    interval = bootstrap(
        (logs,), np.median, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return Ratio(value, math.exp(interval.low), math.exp(interval.high), len(logs))


def time_to_target(
    elapsed: Sequence[float], metric: Sequence[float], reached: Callable[[float], bool]
) -> float:
    """Clock seconds at the first recorded step whose metric is at the target; inf if none is."""
    return next((t for t, m in zip(elapsed, metric, strict=True) if reached(m)), math.inf)


def performance_profile(
    times: Mapping[str, Mapping[str, float]], taus: Sequence[float]
) -> dict[str, list[float]]:
    """Dolan and Moré: the fraction of instances that a method solves within tau × the best time.

    `times[method][instance]`; inf or a missing instance is a failure. Instances that no method
    solves count for none.
    """
    instances = {i for by_instance in times.values() for i in by_instance}
    best = {i: min(t.get(i, math.inf) for t in times.values()) for i in instances}
    solvable = [i for i in instances if math.isfinite(best[i])]

    def fraction(method: str, tau: float) -> float:
        within = (times[method].get(i, math.inf) <= tau * best[i] for i in solvable)
        return sum(within) / len(solvable)

    if not solvable:
        return {method: [0.0 for _ in taus] for method in times}
    return {method: [fraction(method, tau) for tau in taus] for method in times}

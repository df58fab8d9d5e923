"""Medians, paired intervals, time to target, performance profiles and ranks over problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap, friedmanchisquare, rankdata, studentized_range


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


class Ranks(NamedTuple):
    """Average ranks of methods over problems, and how far apart they must be to be told apart.

    `average` is sorted, best first. `p_value` is that of the Friedman test: whether all ranks
    could be equal. Two methods whose ranks are nearer than `critical_difference` are not told
    apart; `cliques` are the largest groups in which no two are.
    """

    average: dict[str, float]
    statistic: float
    p_value: float
    critical_difference: float
    cliques: list[list[str]]
    problems: int


def average_ranks(scores: Mapping[str, Sequence[float]], alpha: float = 0.05) -> Ranks | None:
    """Friedman's test with Nemenyi's critical difference at level `alpha`.

    `scores[method]` holds one value for each problem, the same problems in the same order; lower
    is better, inf a failure, and equal values share their ranks. Friedman's statistic is corrected
    for ties (`scipy.stats.friedmanchisquare`). None with fewer than three methods or two problems.

    Source:
        J. Demšar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006),
        section 3.2.2.
    """
    names = list(scores)
    table = np.array([scores[name] for name in names], dtype=float)
    k, n = table.shape if names else (0, 0)
    if k < 3 or n < 2:
        return None
    ranks = rankdata(table, axis=0)
    mean = dict(zip(names, ranks.mean(axis=1).tolist(), strict=True))
    ordered = dict(sorted(mean.items(), key=lambda item: item[1]))
    if np.ptp(ranks) == 0:  # all equal on every problem: nothing to test
        statistic, p_value = 0.0, 1.0
    else:
        statistic, p_value = map(float, friedmanchisquare(*ranks))
    q = studentized_range.ppf(1 - alpha, k, np.inf) / math.sqrt(2)
    difference = float(q) * math.sqrt(k * (k + 1) / (6 * n))
    return Ranks(ordered, statistic, p_value, difference, _cliques(ordered, difference), n)


def _cliques(ordered: Mapping[str, float], difference: float) -> list[list[str]]:
    """The longest stretches of the order that are no longer than `difference`."""
    names, found = list(ordered), list[list[str]]()
    for first, name in enumerate(names):
        group = [m for m in names[first:] if ordered[m] - ordered[name] <= difference]
        if len(group) > 1 and not (found and set(group) <= set(found[-1])):
            found.append(group)
    return found


def complete_table(problems_of: Mapping[str, set[str]]) -> tuple[list[str], list[str]]:
    """Methods and problems such that every one of the methods was run on every problem.

    Methods are taken in the order of how many problems they were run on; of the tables without a
    gap that arise so, the one with the most cells is kept, the one with more methods of equals.
    """
    order = sorted(problems_of, key=lambda method: -len(problems_of[method]))
    best: tuple[list[str], set[str]] = ([], set())
    shared: set[str] | None = None
    for count, method in enumerate(order, start=1):
        shared = problems_of[method] if shared is None else shared & problems_of[method]
        if count * len(shared) >= len(best[0]) * len(best[1]):
            best = order[:count], shared
    return best[0], sorted(best[1])


def rates_within(selections: Mapping[float, float], factor: float) -> int:
    """How many learning rates end within `factor` of the best of them.

    `selections[lr]` is what the rate was chosen by: lower is better, not finite a failure. Where
    the best is not positive only equal ones count.
    """
    finite = [value for value in selections.values() if math.isfinite(value)]
    if not finite:
        return 0
    best = min(finite)
    limit = factor * best if best > 0 else best
    return sum(value <= limit for value in finite)

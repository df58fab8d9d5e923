"""Statistics on numbers whose answer is known."""

import math

import pytest
from riemopt_bench.stats import (
    paired_ratio,
    performance_profile,
    quartiles,
    time_to_target,
)


def test_quartiles():
    assert quartiles([4, 1, 3, 2, 5]) == (2, 3, 4)
    assert quartiles([1, 2]) == (1.25, 1.5, 1.75)
    assert quartiles([7]) == (7, 7, 7)
    assert all(math.isnan(q) for q in quartiles([]))


def test_quartiles_with_failures():
    assert quartiles([1, 2, math.inf]) == (1.5, 2, math.inf)
    assert quartiles([math.inf, math.inf, 1]) == (math.inf, math.inf, math.inf)


def test_one_disturbed_run_does_not_decide():
    ratio = paired_ratio(
        dict.fromkeys(range(5), 1.0), {0: 100.0, **dict.fromkeys(range(1, 5), 2.0)}
    )
    assert ratio.value == pytest.approx(0.5)


def test_paired_ratio_is_the_median_log_ratio_over_shared_repetitions():
    ratio = paired_ratio({0: 1.0, 1: 4.0, 2: 9.0}, {0: 1.0, 1: 1.0, 3: 1.0})
    assert ratio.value == pytest.approx(2)
    assert ratio.pairs == 2
    assert ratio.low == pytest.approx(1)
    assert ratio.high == pytest.approx(4)
    assert not ratio.clear


def test_pairing_removes_what_both_share():
    reference = {r: 10.0**r for r in range(5)}
    ratio = paired_ratio({r: 0.5 * t for r, t in reference.items()}, reference)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((0.5, 0.5, 0.5))
    assert ratio.clear


def test_paired_ratio_with_too_few_pairs():
    assert paired_ratio({0: 1.0}, {1: 1.0}) is None
    single = paired_ratio({0: 3.0}, {0: 1.0})
    assert single.value == pytest.approx(3)
    assert (single.low, single.high, single.clear) == (None, None, False)


def test_time_to_target():
    reached = (0.1).__ge__  # metric <= 0.1
    assert time_to_target([0, 1, 2, 3], [1.0, 0.5, 0.1, 0.2], reached) == 2
    assert time_to_target([0, 1], [1.0, 0.5], reached) == math.inf


def test_performance_profile():
    times = {
        "quick": {"a": 1.0, "b": 4.0},
        "steady": {"a": 2.0, "b": 2.0},
        "fails": {"a": math.inf},
    }
    profile = performance_profile(times, [1, 2, 10])
    assert profile == {"quick": [0.5, 1, 1], "steady": [0.5, 1, 1], "fails": [0, 0, 0]}


def test_performance_profile_when_nothing_is_solved():
    assert performance_profile({"a": {"x": math.inf}}, [1, 2]) == {"a": [0, 0]}

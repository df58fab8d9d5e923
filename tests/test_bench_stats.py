"""Statistics on numbers whose answer is known."""

import math

import pytest
from riemopt_bench.stats import (
    average_ranks,
    complete_table,
    paired_ratio,
    performance_profile,
    quartiles,
    rates_within,
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


# --- ranks over problems ---

# C4.5 and three variants on 14 sets of data: ranks with the averages of Demšar (2006), table 6.
C45 = {
    "C4.5": (4, 1, 4, 4, 4, 1, 3, 2.5, 4, 2.5, 4, 3, 4, 3),
    "+m": (3, 2, 1, 1, 2, 2.5, 2, 2.5, 3, 2.5, 2.5, 2, 1, 1),
    "+cf": (2, 3, 2, 3, 3, 4, 4, 4, 2, 2.5, 1, 4, 2, 4),
    "+m+cf": (1, 4, 3, 2, 1, 2.5, 1, 1, 1, 2.5, 2.5, 1, 3, 2),
}


def test_the_worked_example_of_demsar():
    """Average ranks, Friedman's 9.28 (the paper does not correct for ties), and 1.25."""
    ranks = average_ranks(C45)
    expected = {"+m+cf": 1.964, "+m": 2.0, "+cf": 2.893, "C4.5": 3.143}
    assert ranks.average == pytest.approx(expected, abs=5e-4)
    assert list(ranks.average) == list(expected)
    assert ranks.problems == 14
    ties = (4**3 - 4) + 3 * (2**3 - 2)  # one problem with all equal, three with a pair
    assert ranks.statistic * (1 - ties / (14 * 4 * 15)) == pytest.approx(9.28, abs=0.005)
    assert 0.01 < ranks.p_value < 0.05
    assert ranks.critical_difference == pytest.approx(1.25, abs=0.005)


def test_at_a_tenth_the_example_tells_c45_from_both_that_tune_m():
    ranks = average_ranks(C45, alpha=0.1)
    assert ranks.critical_difference == pytest.approx(1.12, abs=0.005)
    assert ranks.cliques == [["+m+cf", "+m", "+cf"], ["+cf", "C4.5"]]
    assert average_ranks(C45).cliques == [["+m+cf", "+m", "+cf", "C4.5"]]


def test_failures_rank_last_and_equals_share():
    ranks = average_ranks({"a": [1, 1], "b": [1, math.inf], "c": [math.inf, math.inf]})
    assert ranks.average == {"a": 1.25, "b": 2.0, "c": 2.75}
    assert average_ranks({"a": [1, 2], "b": [1, 2]}) is None
    assert average_ranks({"a": [1], "b": [1], "c": [2]}) is None
    assert average_ranks({}) is None
    equal = average_ranks({m: [1.0, 2.0] for m in "abc"})
    assert (equal.statistic, equal.p_value, equal.cliques) == (0, 1, [["a", "b", "c"]])


def test_the_largest_table_without_a_gap():
    ran = {"everywhere": set("pqrs"), "often": set("pqr"), "here": set("pqr"), "once": set("s")}
    assert complete_table(ran) == (["everywhere", "often", "here"], list("pqr"))
    assert complete_table({}) == ([], [])


def test_rates_within_a_factor_of_the_best():
    assert rates_within({0.1: 1.0, 0.2: 1.9, 0.3: 2.1, 0.4: math.inf, 0.5: math.nan}, 2) == 2
    assert rates_within({0.1: -1.0, 0.2: -1.0, 0.3: 0.0}, 2) == 2
    assert rates_within({0.1: math.inf}, 2) == 0

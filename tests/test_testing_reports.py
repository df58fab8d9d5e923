"""What a check hands back: the fitted slope, the table, the plot."""

import importlib
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from riemopt.manifolds import Sphere
from riemopt.testing import check_projection, check_retraction
from riemopt.testing.slopes import FLOOR, LEAST, STEPS, fit, measure, theil_sen
from tests import test_planted_mistakes as planted

# --- the fit ---


def test_theil_sen_is_scipys():
    gen = np.random.default_rng(0)
    for n in (5, 30):
        x, y = gen.standard_normal(n), gen.standard_normal(n)
        assert theil_sen(x, y) == pytest.approx(stats.theilslopes(y, x).slope)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_slope_of_a_power_with_a_floor(order):
    gen = np.random.default_rng(0)

    def error(t):
        return 3 * t**order * (1 + t) + 1e-15 * gen.random()

    curve = measure(error, order, 1.0)
    assert curve.slope == pytest.approx(order, abs=0.05)
    assert curve.passed
    assert not replace(curve, order=order + 1).passed


def test_what_is_left_by_an_iteration_is_no_slope():
    """Noise far above rounding raises the floor; an error that stays is not taken for noise."""
    gen = np.random.default_rng(0)
    curve = measure(lambda t: t**2 + 1e-10 * gen.random(), 2, 1.0)
    assert curve.passed
    assert curve.floor > 1e-10
    assert measure(lambda t: 0.1 + t**2, 2, 1.0).slope == pytest.approx(0, abs=0.05)


def test_no_error_at_all_passes():
    curve = measure(lambda t: 1e-16, 2, 1.0)
    assert curve.passed
    assert curve.slope == math.inf
    assert "no error but rounding" in str(curve)


def test_where_no_line_can_be_put_through_nothing_passes():
    curve = measure(lambda t: math.nan, 2, 1.0)
    assert not curve.passed
    assert str(curve) == "the error is not finite"
    few = np.full(len(STEPS), 1e-20)
    few[-LEAST + 1 :] = 1.0
    slope, problem = fit(STEPS, few, FLOOR * 1e-16)
    assert math.isnan(slope)
    assert problem == "only 4 of 37 errors stand clear of rounding"


# --- reports ---


def test_a_report_is_true_and_reads_as_a_table():
    report = check_projection(Sphere(), (5,))
    assert report
    assert report.passed
    assert report.failed == ()
    assert report.require() is report
    lines = str(report).splitlines()
    assert lines[0] == "check_projection: Sphere() on (5,); float64, seeds 0 to 4"
    assert lines[1] == "5 hold"
    assert all(line.startswith("ok     ") for line in lines[3:])
    assert "slope 2.00, needed 2" in lines[-1]
    with pytest.raises(KeyError, match="no law 'nothing'"):
        report["nothing"]
    assert report["projection is linear"].slope is None


def test_a_plot_has_a_panel_for_each_slope(tmp_path):
    report = check_retraction(Sphere(), (5,), order=2)
    figure = report.plot(tmp_path / "slopes.svg")
    assert (tmp_path / "slopes.svg").read_text().startswith("<?xml")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title.split(":")[0] for title in titles] == [
        "retraction is first order",
        "retraction is second order",
        "retraction agrees with exp",
    ]
    assert all(len(axes.lines) == 2 * 5 + 2 for axes in figure.axes)  # clear, faint; references


def test_a_plot_on_axes_of_ones_own():
    figure = Figure()
    axes = figure.subplots()
    assert check_retraction(planted.SlowRetraction(), (5,)).plot(axes) is figure
    assert "slope 1.0" in axes.get_title(loc="left")
    with pytest.raises(ValueError, match="One Axes takes one slope"):
        check_retraction(Sphere(), (5,), order=2).plot(axes)


def test_a_report_without_slopes_has_no_plot():
    report = check_projection(Sphere(), (5,))
    equalities = replace(report, rows=report.rows[:3])
    with pytest.raises(ValueError, match="no slope to plot"):
        equalities.plot()
    report.plot()


def test_matplotlib_is_needed_for_plots_alone(monkeypatch):
    for module in [m for m in sys.modules if m.startswith(("matplotlib", "riemopt.testing"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    fresh = importlib.import_module("riemopt.testing")
    report = fresh.check_retraction(Sphere(), (5,))
    assert report
    with pytest.raises(ImportError, match=r"pip install 'riemopt\[bench\]'"):
        report.plot()

"""Slopes on log–log axes. matplotlib is imported here alone, when a plot is asked for."""

import math
import os
from typing import TYPE_CHECKING, Any

from riemopt.testing.reports import Report, Row, worst
from riemopt.testing.slopes import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"holds": "#0a4f9e", "fails": "#c1440e", "skipped": "#7d8590"}
REFERENCE = "#7d8590"
PANEL = (4.2, 3.4)  # inches
COLUMNS = 3


def draw(report: Report, target: "str | os.PathLike[str] | Axes | None") -> "Figure":
    """As `Report.plot`."""
    rows = [row for row in report.rows if row.curves]
    if not rows:
        raise ValueError("There is no slope to plot in this report; its laws are plain equalities.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plots need matplotlib: pip install 'riemopt[bench]'.") from error
    if target is None or isinstance(target, str | os.PathLike):
        columns = min(len(rows), COLUMNS)
        lines = math.ceil(len(rows) / columns)
        figure = Figure(figsize=(columns * PANEL[0], lines * PANEL[1]), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False).flatten()
        for axes, row in zip(panels, rows, strict=False):
            panel(axes, row)
        for axes in panels[len(rows) :]:
            axes.set_axis_off()
        if target is not None:
            figure.savefig(target, dpi=150)
        return figure
    if len(rows) > 1:
        names = ", ".join(repr(row.law) for row in rows)
        raise ValueError(f"One Axes takes one slope; this report has {names}. Give a path or None.")
    panel(target, rows[0])
    parent: Any = target.figure
    return parent


def panel(axes: "Axes", row: Row) -> None:
    """Errors of all curves of a law, those in rounding faint, beside a line of the slope needed."""
    axes.set(xscale="log", yscale="log", xlabel="t", ylabel=row.formula.split(" = O")[0])
    for curve in row.curves:
        pairs = list(zip(curve.steps, curve.errors, strict=True))
        clear = [(t, e) for t, e in pairs if e > curve.floor]
        faint = [(t, e) for t, e in pairs if 0 < e <= curve.floor]
        for points, alpha in ((clear, 0.9), (faint, 0.25)):
            t, e = [p[0] for p in points], [p[1] for p in points]
            axes.plot(t, e, "o", color=COLORS[row.verdict], alpha=alpha, markersize=3)
    _reference(axes, row.curves)
    title = f"{row.law}: {row.verdict}\n{worst(row.curves)}"
    axes.set_title(title, fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _reference(axes: "Axes", curves: tuple[Curve, ...]) -> None:
    """The line of the needed slope through the error of a curve at its largest step."""
    curve = max(curves, key=lambda c: c.errors[-1] if c.errors else 0.0)
    line: dict[str, Any] = {"color": REFERENCE, "linewidth": 1.0}
    axes.axhline(curve.floor, linestyle=":", label="rounding", **line)
    if curve.errors and curve.errors[-1] > curve.floor > 0:
        end, error = curve.steps[-1], curve.errors[-1]
        start = max(curve.steps[0], end * (curve.floor / error) ** (1 / curve.order))
        ends = [error * (t / end) ** curve.order for t in (start, end)]
        axes.plot([start, end], ends, "--", label=f"slope {curve.order}, as needed", **line)
    axes.legend(frameon=False, fontsize=8, loc="upper left")

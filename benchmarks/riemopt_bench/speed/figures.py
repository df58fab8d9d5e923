"""Pictures of a run: a dot per method and workload, and curves of growth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from riemopt_bench.page.drawing import document, save, shades, styled
from riemopt_bench.page.numbers import significant
from riemopt_bench.registry import step_methods
from riemopt_bench.speed.results import Measurement, SpeedResults, WorkloadResult, ratio
from riemopt_bench.speed.tables import exponent_text


def baseline(result: WorkloadResult) -> Measurement | None:
    """The row that times are divided by: the floor, or torch's Adam."""
    for name in ("floor", "torch-adam-foreach", "torch-adam-fused"):
        row = result.row(name)
        if row is not None and row.measured:
            return row
    return None


def relative_times(results: SpeedResults) -> Figure | None:
    """One panel per workload: time of every method as a multiple of the floor or torch's Adam."""
    shown = [result for result in results.workloads if baseline(result) is not None]
    if not shown:
        return None
    pairs = [shown[i : i + 2] for i in range(0, len(shown), 2)]
    heights = [max(len(result.rows) for result in pair) + 3 for pair in pairs]
    with styled():
        figure = Figure(figsize=(11, 0.2 * sum(heights)), layout="constrained")
        axes = figure.subplots(len(pairs), 2, squeeze=False, height_ratios=heights)
        for row, pair in zip(axes, pairs, strict=True):
            for axis, result in zip(row, pair, strict=False):
                _panel(axis, result)
            for axis in row[len(pair) :]:
                axis.set_visible(False)
    return figure


def _panel(axis: Axes, result: WorkloadResult) -> None:
    reference = baseline(result)
    assert reference is not None
    for position, row in enumerate(result.rows):
        value = ratio(row, reference)
        color = shades(step_methods()[row.method].family)[0]
        if value is None:
            axis.text(1, position, f" {row.status}", va="center", fontsize=7.5, color=color)
            continue
        if value.at_least:
            axis.plot(value.value, position, ">", color=color)
        else:
            hollow = "white" if row.status == "once" else color
            axis.plot(value.value, position, "o", color=color, markerfacecolor=hollow)
            if value.low is not None and value.high is not None:
                span = [value.low, value.high]
                axis.plot(span, [position, position], color=color, lw=3, alpha=0.4)
        axis.annotate(
            ("> " if value.at_least else "") + significant(value.value),
            (value.value, position),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
        )
    axis.axvline(1, color="#555", lw=0.9, ls=(0, (4, 3)), zorder=0)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_yticks(range(len(result.rows)), [step_methods()[r.method].title for r in result.rows])
    axis.tick_params(axis="y", labelsize=7.5)
    axis.set_ylim(len(result.rows) - 0.5, -0.5)
    axis.margins(x=0.15)
    axis.grid(axis="y", visible=False)
    axis.set_title(result.title)
    axis.set_xlabel(
        f"multiple of {step_methods()[reference.method].title}, "
        f"{significant(1e3 * reference.quartiles.median)} ms"
    )


def growth(results: SpeedResults) -> Figure:
    """Time against size on logarithmic axes, one panel per study, with the fitted exponents."""
    studies = results.extra["studies"]
    with styled():
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        axes = figure.subplots(1, len(studies), squeeze=False)[0]
        for axis, study in zip(axes, studies, strict=True):
            for method, curve in study["curves"].items():
                axis.plot(
                    curve["size"],
                    curve["milliseconds"],
                    "o-",
                    color=shades(step_methods()[method].family)[0],
                    label=f"{step_methods()[method].title}: {_exponents(curve)}",
                )
            axis.set_xscale("log")
            axis.set_yscale("log")
            sizes = max((curve["size"] for curve in study["curves"].values()), key=len)
            axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_title(study["title"])
            axis.set_xlabel(study["variable"])
            axis.legend()
        axes[0].set_ylabel("ms per step")
    return figure


def _exponents(curve: dict[str, Any]) -> str:
    whole, end = (exponent_text(curve[key]) for key in ("exponent", "exponent_at_end"))
    return f"exponent {whole}, of the largest three {end}"


def write(figure: Figure, directory: Path, name: str) -> list[Path]:
    """The figure as SVG and PNG."""
    vector, pixels = directory / f"{name}.svg", directory / f"{name}.png"
    save(document(figure, name), vector)
    with styled():
        figure.savefig(pixels, dpi=130)
    return [vector, pixels]

"""Figures, drawn without a display: one function per figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from riemopt_bench.interface import Method
from riemopt_bench.page.drawing import shades, styled
from riemopt_bench.stats import performance_profile, quartiles
from riemopt_bench.surfaces import Stiefel
from riemopt_bench.train.results import Cell, ProblemResults, Results

METRIC_FLOOR = 1e-8
FLOOR = 1e-9  # a violation of exactly zero has to be somewhere on a logarithmic axis


def is_variant(method: Method) -> bool:
    """Whether a method repeats another's arithmetic, so that its curve would cover that one's."""
    return method.tuned_as is not None


def color(method: Method, cells: Sequence[Cell]) -> str:
    """The family's colours in the order of the methods."""
    name = method.tuned_as or method.name
    family = [c.method.name for c in cells if c.method.family == method.family]
    family = [n for n in family if not is_variant(_method(cells, n))]
    palette = shades(method.family)
    return palette[(family.index(name) if name in family else 0) % len(palette)]


def _method(cells: Sequence[Cell], name: str) -> Method:
    return next(c.method for c in cells if c.method.name == name)


def curves(p: ProblemResults) -> Figure | None:
    """Metric and loss against clock time and against steps; median and quartiles."""
    if not any(c.ok for c in p.cells.values()):
        return None
    with styled():
        figure = Figure(figsize=(10.2, 6.2), layout="constrained")
        axes = figure.subplots(2, 2, sharey="row")
        for row, what in zip(axes, ("metric", "loss"), strict=True):
            label = p.problem.metric if what == "metric" else "training loss"
            row[0].set_ylabel(label)
            logarithmic = _logarithmic(p, what)
            for axis, x in zip(row, ("elapsed", "step"), strict=True):
                _series(axis, p, _series_of(what), x=x, floor=logarithmic)
                axis.set_xlabel(
                    "seconds of training (forward, backward, step)" if x == "elapsed" else "step"
                )
                if logarithmic:
                    axis.set_yscale("log")
                if x == "elapsed":
                    axis.set_xscale("log")
                if what == "metric":
                    axis.axhline(p.problem.target, color="#555", lw=0.9, ls=(0, (4, 3)))
        axes[0][0].set_title("against time (target dashed)")
        axes[0][1].set_title("against steps")
        _legend(figure, axes[0][0])
    return figure


def violations(p: ProblemResults) -> Figure | None:
    """Distance from the surface over the steps, per weight: as stored, and as used."""
    cell = next((c for c in p.cells.values() if c.ok), None)
    if cell is None:
        return None
    names = list(cell.ok[0]["trace"]["stored_violation"])
    with styled():
        figure = Figure(figsize=(10.2, 5.2), layout="constrained")
        axes = figure.subplots(2, len(names), sharey=True, sharex=True, squeeze=False)
        for row, which in zip(axes, ("stored", "used"), strict=True):
            for axis, name in zip(row, names, strict=True):
                violation_panel(axis, p, which, [name])
            row[0].set_ylabel(f"the weight as {which}")
        for axis, name in zip(axes[0], names, strict=True):
            axis.set_title(name)
        for axis in axes[1]:
            axis.set_xlabel("step")
        _legend(figure, axes[0][0])
    return figure


def violation_panel(axis: Axes, p: ProblemResults, which: str, names: Sequence[str]) -> None:
    """Largest violation over some weights, against steps, on a logarithmic axis."""

    def largest(row: dict[str, Any]) -> list[float]:
        series = [row["trace"][f"{which}_violation"][name] for name in names]
        return [max(max(values), FLOOR) for values in zip(*series, strict=True)]

    _series(axis, p, largest, x="step")
    axis.set_yscale("log")


def originals(p: ProblemResults) -> Figure | None:
    """The norm of every `original` over the steps."""
    cells = [c for c in p.cells.values() if c.original_norms() and not is_variant(c.method)]
    if not cells:
        return None
    names = list(cells[0].original_norms())
    with styled():
        figure = Figure(figsize=(10.2, 3.0), layout="constrained")
        axes = figure.subplots(1, len(names), squeeze=False)[0]
        for axis, name in zip(axes, names, strict=True):
            _series(axis, p, _series_of("original_norm", name), only=cells)
            axis.set_title(name)
            axis.set_xlabel("step")
        axes[0].set_ylabel("norm of `original`")
        _legend(figure, axes[0])
    return figure


def time_bars(p: ProblemResults) -> Figure | None:
    """Time per step, split in forward + backward and optimizer."""
    cells = [c for c in p.cells.values() if c.ok]
    if not cells:
        return None
    with styled():
        figure = Figure(figsize=(10.2, 0.9 + 0.3 * len(cells)), layout="constrained")
        bars_panel(figure.subplots(), cells)
    return figure


def bars_panel(axis: Axes, cells: Sequence[Cell]) -> None:
    """Horizontal bars, first method on top."""
    for position, cell in enumerate(cells):
        forward = 1e3 * cell.seconds("forward_backward").median
        optimizer = 1e3 * cell.seconds("optimizer").median
        shade = color(cell.method, cells)
        axis.barh(position, forward, color=shade, alpha=0.4, height=0.68)
        axis.barh(position, optimizer, left=forward, color=shade, height=0.68)
        axis.text(
            forward + optimizer, position, f" {forward + optimizer:.2f}", va="center", fontsize=8
        )
    axis.set_yticks(range(len(cells)), [c.method.title for c in cells])
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.1)
    axis.set_xlabel("ms per step (light: forward + backward; full colour: optimizer)")


# For each problem: the function, the name of its file, title and caption.
OF_A_PROBLEM = (
    (
        time_bars,
        "time",
        "Time per step",
        "Median over steps, then over repetitions. Light: forward and backward, which is where "
        "parametrize recomputes its weights. Full colour: the optimizer.",
    ),
    (
        curves,
        "curves",
        "Progress against time and against steps",
        "Median and quartiles over repetitions. Cached variants do the same arithmetic as the "
        "plain ones and are left out of curves. On a logarithmic axis, a metric below "
        f"{METRIC_FLOOR:.0e} is drawn there.",
    ),
    (
        violations,
        "violation",
        "Distance from the surface",
        "Largest residual of the constraint, in float64. Upper row: the tensor that the "
        "optimizer moves and a checkpoint holds. Lower row: the weight of the forward. "
        f"Exactly zero is drawn at {FLOOR:.0e}.",
    ),
    (
        originals,
        "originals",
        "The norm of parametrize's original",
        "The unconstrained tensor behind each constrained weight. Where the weight does not "
        "depend on its length, a longer one turns by less for the same step.",
    ),
)


def profile(results: Results) -> Figure | None:
    """Performance profile of the time to target over all problems and repetitions."""
    times: dict[str, dict[str, float]] = {}
    cells: dict[str, Cell] = {}
    for p in results.problems:
        alias = {m.name: skip.same_as for m, skip in p.left_out if skip.same_as}
        cells |= {name: c for name, c in p.cells.items() if c.method.constrained}
        for name in [*p.cells, *alias]:
            source = p.cells.get(alias.get(name) or name)
            if source is None or not source.method.constrained:
                continue
            for row, seconds in zip(source.rows, source.to_target, strict=True):
                instance = f"{p.problem.name}/{row['repetition']}"
                times.setdefault(name, {})[instance] = seconds
    times = {name: t for name, t in times.items() if name in cells}
    if not times:
        return None
    taus = [10 ** (i / 50) for i in range(126)]
    with styled():
        figure = Figure(figsize=(10.2, 3.8), layout="constrained")
        axis = figure.subplots()
        for name, fractions in performance_profile(times, taus).items():
            method = cells[name].method
            dashes = "--" if is_variant(method) else "-"
            shade = color(method, list(cells.values()))
            axis.step(taus, fractions, dashes, where="post", color=shade, label=method.title)
        axis.set_xscale("log")
        axis.set_xlabel("within this factor of the fastest method's time to target")
        axis.set_ylabel("fraction of runs")
        axis.set_ylim(-0.03, 1.03)
        _legend(figure, axis)
    return figure


def overview(results: Results) -> Figure | None:
    """The picture for a README: time per step, and the distance of the stored weight."""
    if not results.problems:
        return None
    p = max(results.problems, key=lambda p: len(p.problem.surfaces))
    cells = [c for c in p.cells.values() if c.ok]
    if not cells:
        return None
    with styled():
        figure = Figure(figsize=(11, 4.4), layout="constrained", dpi=160)
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        bars_panel(left, cells)
        left.set_title(f"{p.problem.title}: time per step")
        task = p.problem.build(0)
        orthogonal = [n for n, surface in task.surfaces.items() if isinstance(surface, Stiefel)]
        violation_panel(right, p, "stored", orthogonal or list(task.surfaces))
        surface = "WᵀW = I" if orthogonal else "their surfaces"
        right.set_title(f"Distance of the stored weights from {surface}")
        right.set_ylim(bottom=1e-8)
        right.set_xlabel("step")
        right.set_ylabel("largest residual")
        _legend(figure, right)
    return figure


def _series_of(*keys: str) -> Callable[[dict[str, Any]], Sequence[float]]:
    """What a row's trace holds under these keys."""

    def values(row: dict[str, Any]) -> Sequence[float]:
        found = row["trace"]
        for key in keys:
            found = found[key]
        series: Sequence[float] = found
        return series

    return values


def _logarithmic(p: ProblemResults, what: str) -> bool:
    if what == "metric":
        return p.problem.log_metric
    losses = [min(row["trace"]["loss"]) for c in p.cells.values() for row in c.ok]
    return bool(losses) and min(losses) > 0


def _series(
    axis: Axes,
    p: ProblemResults,
    values: Callable[[dict[str, Any]], Sequence[float]],
    x: str = "step",
    floor: bool = False,
    only: Sequence[Cell] | None = None,
) -> None:
    every = [c for c in p.cells.values() if c.ok]
    for cell in only if only is not None else every:
        if not cell.ok or is_variant(cell.method):
            continue
        series = zip(*(values(row) for row in cell.ok), strict=True)
        bands = [quartiles([max(v, METRIC_FLOOR) if floor else v for v in at]) for at in series]
        times = zip(*(row["trace"][x] for row in cell.ok), strict=True)
        position = [quartiles(at).median for at in times]
        if x == "elapsed":  # time zero has no place on a logarithmic axis
            bands, position = bands[1:], position[1:]
        shade = color(cell.method, every)
        line = [b.median for b in bands]
        axis.plot(position, line, color=shade, label=cell.method.title)
        axis.fill_between(
            position, [b.q1 for b in bands], [b.q3 for b in bands], color=shade, alpha=0.15, lw=0
        )


def _legend(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4)

"""Figures, drawn without a display: one function per figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from riemopt_bench.interface import Method
from riemopt_bench.page.drawing import shades, styled
from riemopt_bench.page.wording import OWN
from riemopt_bench.stats import performance_profile, quartiles
from riemopt_bench.surfaces import Stiefel
from riemopt_bench.train.results import Cell, ProblemResults, Results

METRIC_FLOOR = 1e-14
MOST_CURVES = 10  # up to so many methods are all drawn
FLOOR = 1e-9  # a violation of exactly zero has to be somewhere on a logarithmic axis


def is_variant(method: Method) -> bool:
    """Whether a method repeats another's arithmetic, so that its curve would cover that one's."""
    return method.tuned_as is not None


def shown(p: ProblemResults) -> list[Cell]:
    """The cells that curves are drawn of: riemopt Adam, and the best of each family of methods."""
    ok = [c for c in p.cells.values() if c.ok and not is_variant(c.method)]
    best = [p.best(c for c in ok if c.method.family == f) for f in {c.method.family for c in ok}]
    chosen = {c.method.name for c in best if c is not None} | {OWN}
    return [c for c in ok if c.method.name in chosen or len(ok) <= MOST_CURVES]


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
    """The metric against clock time and against steps; median and quartiles."""
    if not any(c.ok for c in p.cells.values()):
        return None
    with styled():
        figure = Figure(figsize=(10.2, 3.7), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        axes[0].set_ylabel(p.problem.metric)
        for axis, x in zip(axes, ("elapsed", "step"), strict=True):
            _series(axis, p, _series_of("metric"), x=x, floor=p.problem.log_metric)
            if p.problem.log_metric:
                axis.set_yscale("log")
            axis.axhline(p.problem.target, color="#555", lw=0.9, ls=(0, (4, 3)))
        axes[0].set_xscale("log")
        axes[0].set_xlabel("seconds of training (forward, backward, step)")
        axes[1].set_xlabel("step")
        axes[0].set_title("against time (target dashed)")
        axes[1].set_title("against steps")
        _legend(figure, axes[0])
    return figure


def violations(p: ProblemResults) -> Figure | None:
    """Distance from the surface over the steps, of the worst weight: as stored, and as used."""
    cell = next((c for c in p.cells.values() if c.ok), None)
    if cell is None:
        return None
    names = list(cell.ok[0]["trace"]["stored_violation"])
    with styled():
        figure = Figure(figsize=(10.2, 3.5), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for axis, which in zip(axes, ("stored", "used"), strict=True):
            violation_panel(axis, p, which, names)
            axis.set_title(f"the weight as {which}")
            axis.set_xlabel("step")
        axes[0].set_ylabel("largest residual")
        _legend(figure, axes[0])
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
    cells = cells[:MOST_CURVES]
    if not cells:
        return None
    names = _most_changed(cells)
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


def _most_changed(cells: Sequence[Cell]) -> list[str]:
    """The weights, four at most, whose `original` has changed its length most."""
    changes = {
        name: max(_change(*cell.original_norms()[name]) for cell in cells)
        for name in cells[0].original_norms()
    }
    return sorted(sorted(changes, key=changes.__getitem__)[-4:])


def _change(start: float, end: float) -> float:
    """How far two norms lie apart, as a ratio of at least 1."""
    return max(start, end) / max(min(start, end), 1e-30)


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
        "Median and quartiles over repetitions, of riemopt Adam and of the best method of each "
        "family; the tables hold all methods. On a logarithmic axis, a metric below "
        f"{METRIC_FLOOR:.0e} is drawn there.",
    ),
    (
        violations,
        "violation",
        "Distance from the surface",
        "Largest residual of the constraint over all constrained weights, in float64. Left: the "
        "tensor that the optimizer moves and a checkpoint holds. Right: the weight of the forward. "
        f"Exactly zero is drawn at {FLOOR:.0e}.",
    ),
    (
        originals,
        "originals",
        "The norm of parametrize's original",
        "The unconstrained tensor behind constrained weights, of the four whose length changed "
        "most. Where the weight does not depend on its length, a longer one turns by less for the "
        "same step.",
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


def critical_difference(results: Results) -> Figure | None:
    """Average ranks on one axis, bars join methods that are not told apart (Demšar 2006)."""
    ranks = results.ranks()
    if ranks is None:
        return None
    methods = {name: c.method for p in results.problems for name, c in p.cells.items()}
    names, count = list(ranks.average), len(ranks.average)
    half = (count + 1) // 2
    first_name = 0.9 + 0.28 * len(ranks.cliques)
    with styled():
        figure = Figure(
            figsize=(10.2, 1.0 + 0.3 * (half + len(ranks.cliques))), layout="constrained"
        )
        axis = figure.subplots()
        for i, name in enumerate(names):
            rank, best_half = ranks.average[name], i < half
            depth = first_name + (i if best_half else count - 1 - i)
            end = 0.4 if best_half else count + 0.6
            shade = shades(methods[name].family)[0]
            axis.plot([rank, rank, end], [0, depth, depth], color=shade, lw=1)
            text = f"{methods[name].title}  {rank:.1f}"
            side = "right" if best_half else "left"
            axis.text(end, depth, f" {text} ", ha=side, va="center", color=shade, fontsize=8.5)
        for i, clique in enumerate(ranks.cliques):
            ends = [ranks.average[clique[0]] - 0.06, ranks.average[clique[-1]] + 0.06]
            axis.plot(ends, [0.45 + 0.28 * i] * 2, color="#333", lw=3.2, solid_capstyle="butt")
        axis.plot([1, 1 + ranks.critical_difference], [-1.1, -1.1], color="#333", lw=1.6)
        words = f"critical difference {ranks.critical_difference:.2f}"
        axis.text(1, -1.35, words, va="bottom", fontsize=8.5)
        axis.set_xlim(0.4 - 0.33 * count, 1.33 * count + 0.6)
        axis.set_ylim(first_name + half, -2.2)
        axis.plot([1, count], [0, 0], color="#333", lw=1.2)
        for tick in range(1, count + 1):
            axis.plot([tick, tick], [-0.2, 0], color="#333", lw=1)
            axis.text(tick, -0.3, str(tick), ha="center", fontsize=8)
        axis.axis("off")
    return figure


def sensitivity(results: Results) -> Figure | None:
    """How many of the learning rates end near the best: one bar a method."""
    cells = {name: c for p in results.problems for name, c in p.cells.items()}
    shares: dict[str, list[float]] = {}
    for p in results.problems:
        for name, cell in p.cells.items():
            found = p.sensitivity(name)
            if found is not None and found[1] > 1 and not is_variant(cell.method):
                shares.setdefault(name, []).append(found[0] / found[1])
    if not shares:
        return None
    ordered = sorted(shares, key=lambda name: -sum(shares[name]) / len(shares[name]))
    with styled():
        figure = Figure(figsize=(10.2, 0.9 + 0.26 * len(ordered)), layout="constrained")
        axis = figure.subplots()
        for position, name in enumerate(ordered):
            mean = 100 * sum(shares[name]) / len(shares[name])
            axis.barh(position, mean, color=shades(cells[name].method.family)[0], height=0.68)
            note = f" {mean:.0f}% on {len(shares[name])} problems"
            axis.text(mean, position, note, va="center", fontsize=8)
        axis.set_yticks(range(len(ordered)), [cells[name].method.title for name in ordered])
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.margins(x=0.18)
        axis.set_xlabel("learning rates whose trial ended within twice the best one's value, %")
    return figure


# The same of all problems together.
OF_ALL_PROBLEMS = (
    (
        profile,
        "performance-profile",
        "Who reaches the target first, over all problems",
        "For each method: the share of runs (problem × repetition) that reached the target within "
        "a given factor of the fastest method's time on that run. Higher and further left is "
        "better; a curve that ends below 1 missed the target in some runs. Dashed: not cached.",
    ),
    (
        critical_difference,
        "critical-difference",
        "Who ends best, over all problems",
        "Average rank by the final result (1 is best; failures are last), over the largest set of "
        "methods and problems without a gap. A bar joins methods that a Friedman test with "
        "Nemenyi's critical difference cannot tell apart at the level of 5% (Demšar 2006).",
    ),
    (
        sensitivity,
        "sensitivity",
        "How much the learning rate matters",
        "The mean share of the learning rates tried whose trial ended within twice the value "
        "(validation loss, or gap) of the method's own best. A long bar forgives a bad guess.",
    ),
)


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


def _series(
    axis: Axes,
    p: ProblemResults,
    values: Callable[[dict[str, Any]], Sequence[float]],
    x: str = "step",
    floor: bool = False,
    only: Sequence[Cell] | None = None,
) -> None:
    every = [c for c in p.cells.values() if c.ok]
    for cell in only if only is not None else shown(p):
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

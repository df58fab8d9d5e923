"""The page in plain language: sentences that are computed from the results, losses included."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from riemopt_bench.page.numbers import milliseconds, ratio_text, significant, size
from riemopt_bench.page.price import UNITS, USES, Price
from riemopt_bench.stats import Quartiles, Ratio, paired_ratio
from riemopt_bench.train.results import REFERENCE, RIEMOPT, Cell, ProblemResults, Results

OWN, FREE = "riemopt-adam", "adam-unconstrained"
LIBRARIES = {
    "parametrize": "parametrize",
    "geotorch": "geotorch",
    "geoopt": "geoopt",
    "pogo": "POGO",
    "landing": "landing",
    "projection": "projection after a plain step",
}
"""The families that answers name, in the words of a sentence."""


def metric_text(results: ProblemResults, value: float) -> str:
    """A metric value as the page writes it: accuracies in per cent."""
    if not math.isfinite(value):
        return "failed"
    if results.problem.higher_is_better:
        return f"{100 * value:.1f}%"
    if abs(value) < results.problem.resolution:
        return f"< {results.problem.resolution:.0e}"
    return f"{value:.3g}" if 1e-2 <= abs(value) < 1e3 else f"{value:.1e}"


def budget_text(budget: dict[str, Any]) -> str:
    """'600 steps', '2 s of the clock', or both."""
    parts = []
    if budget["steps"] is not None:
        parts.append(f"{budget['steps']} steps")
    if budget.get("seconds") is not None:
        parts.append(f"{budget['seconds']:g} s of the clock")
    return " or ".join(parts)


def times_as_long(ratio: Ratio) -> str:
    """'3.1 times less', '1.2 times as much', or that there is no clear difference."""
    interval = ""
    if ratio.low is not None and ratio.high is not None:
        low, high = ratio.low, ratio.high
        if ratio.value < 1:
            low, high = 1 / high, 1 / low
        interval = f" (95% interval {low:.2f} to {high:.2f})"
    if not ratio.clear and ratio.low is not None:
        return f"no clear difference (ratio {ratio_text(ratio)})"
    if ratio.value < 1:
        return f"{1 / ratio.value:.2f} times less{interval}"
    return f"riemopt is slower here and takes {ratio.value:.2f} times as much{interval}"


def compare(p: ProblemResults, one: Quartiles, other: Quartiles) -> str:
    """'better', 'worse' or 'no clear difference', by whether the quartile ranges overlap."""
    a, b = (Quartiles(*map(p.problem.resolved, values)) for values in (one, other))
    if a.q1 <= b.q3 and b.q1 <= a.q3:
        return "no clear difference"
    return "better" if (a.median > b.median) == p.problem.higher_is_better else "worse"


@dataclass(frozen=True)
class Verdict:
    """A question that readers have, and what the runs answer: one statement per sentence."""

    question: str
    sentences: list[str]


def verdicts(results: Results, prices: Sequence[Price]) -> list[Verdict]:
    """The page's first screen: answers over all problems, losses included."""
    own = [(p, p.cells[OWN]) for p in results.problems if OWN in p.cells and p.cells[OWN].ok]
    found = [
        Verdict("Which is fastest?", _fastest(own)),
        Verdict("Which ends best?", _ends_best(own)),
        Verdict("What does parametrize cost?", [*_cost_in_training(own), *_cost_of_use(prices)]),
        Verdict("When should I use parametrize anyway?", _anyway(own)),
        Verdict("What does a constraint cost at all?", _cost_of_constraint(own)),
    ]
    if results.failures:
        share = f"{len(results.failures)} of {len(results.rows)} measured runs"
        failed = f"{share} failed; they count as the worst result."
        found.append(Verdict("Did anything fail?", [failed]))
    answered = [verdict for verdict in found if verdict.sentences]
    nothing = Verdict("What was measured?", ["No run of riemopt Adam has ended well yet."])
    return answered if own else [nothing]


Own = Sequence[tuple[ProblemResults, Cell]]


def _fastest(own: Own) -> list[str]:
    """Time per step of riemopt Adam against the fastest method of each other library."""
    sentences = []
    for family, name in LIBRARIES.items():
        ratios = {
            p.problem.title: paired_ratio(cell.step_times, other.step_times)
            for p, cell in own
            if (other := p.fastest(c for c in p.constrained if c.method.family == family))
        }
        known = {title: ratio for title, ratio in ratios.items() if ratio is not None}
        if known:
            sentences.append(f"A training step of riemopt Adam against {name}: {_spread(known)}.")
    return sentences


def _spread(ratios: Mapping[str, Ratio]) -> str:
    """How ratios of time lie around 1 over some problems, and where the extremes are."""
    ordered = sorted(ratios, key=lambda title: ratios[title].value)
    values = [ratios[title].value for title in ordered]
    if len(values) == 1:
        return f"{values[0]:.2f} times its time on {ordered[0]}"
    faster = sum(v < 1 for v in values)
    return (
        f"{statistics.median(values):.2f} times its time in the median of {len(values)} problems, "
        f"from {values[0]:.2f} ({ordered[0]}) to {values[-1]:.2f} ({ordered[-1]}); faster on "
        f"{faster}, slower on {len(values) - faster}"
    )


def _ends_best(own: Own) -> list[str]:
    """The final result of riemopt Adam against the best method of each other library."""
    sentences = []
    for family, name in LIBRARIES.items():
        said: dict[str, list[str]] = {"better": [], "worse": [], "no clear difference": []}
        for p, cell in own:
            best = p.best(c for c in p.constrained if c.method.family == family)
            if best is not None:
                said[compare(p, cell.metric, best.metric)].append(p.problem.title)
        if any(said.values()):
            parts = [f"{verdict} on {_some(titles)}" for verdict, titles in said.items() if titles]
            sentences.append(
                f"Final result of riemopt Adam against the best of {name} on each problem: "
                f"{'; '.join(parts)}."
            )
    return sentences


def _cost_in_training(own: Own) -> list[str]:
    """Forward and backward, and memory, of the fastest parametrize variant."""
    pairs = [(cell, p.reference) for p, cell in own if p.reference is not None]
    if not pairs:
        return []

    def median_ratio(of: Callable[[Cell], float]) -> str:
        return f"{statistics.median(of(theirs) / of(ours) for ours, theirs in pairs):.2f} times"

    forward = median_ratio(lambda cell: cell.seconds("forward_backward").median)
    optimizer = median_ratio(lambda cell: cell.seconds("optimizer").median)
    held = median_ratio(lambda cell: cell.bytes("held"))
    peak = median_ratio(lambda cell: cell.bytes("peak"))
    return [
        "Of the parametrize variant that is fastest on each problem, forward and backward take "
        f"{forward} as long as with a stored weight, its optimizer {optimizer} as long as "
        f"riemopt's; it holds {held} the bytes between steps and {peak} at the peak (medians of "
        f"{len(pairs)} problems)."
    ]


def _cost_of_use(prices: Sequence[Price]) -> list[str]:
    """What a parametrized weight costs wherever it is used: the table of prices in words."""
    plain = prices[0]
    once, repeated = plain.forward, plain.repeated
    maps = [price for price in prices if price.repeated_cached is not None]

    def span(of: Callable[[Price], float]) -> str:
        values = sorted(of(price) for price in maps)
        return f"{significant(values[0], 2)} to {significant(values[-1], 2)}"

    return [
        f"Wherever an orthogonal layer of {UNITS} units is used, prediction included, its forward "
        f"takes {span(lambda price: price.forward / once)} times as long as with a stored weight; "
        f"if used {USES} times in a step, forward and backward take "
        f"{span(lambda price: price.repeated / repeated)} times as long, and inside "
        f"`parametrize.cached()` {span(lambda price: (price.repeated_cached or 0) / repeated)} "
        "times.",
        f"Exported, the layer is {min(price.operators for price in maps)} to "
        f"{max(price.operators for price in maps)} operators and not {plain.operators}. A stored "
        "weight costs nothing there: it is a plain tensor.",
    ]


def _anyway(own: Own) -> list[str]:
    """Problems on which parametrize is clearly faster, or ends clearly better."""
    faster, better = [], []
    for p, cell in own:
        ratio = p.ratio(cell)
        if ratio is not None and ratio.value > 1 and (ratio.clear or ratio.low is None):
            faster.append(f"{p.problem.title} ({ratio.value:.2f} times)")
        best = p.best(c for c in p.constrained if c.method.family == REFERENCE)
        if best is not None and compare(p, cell.metric, best.metric) == "worse":
            better.append(p.problem.title)
    sentences = []
    if faster:
        sentences.append(f"Where its step is shorter than that of riemopt Adam: {_and(faster)}.")
    if better:
        sentences.append(f"Where its best map ended better than riemopt Adam: {_and(better)}.")
    return [
        *sentences,
        "And where a map means more than its surface: a scale that must be `exp` of a number.",
    ]


def _cost_of_constraint(own: Own) -> list[str]:
    """riemopt Adam against Adam without a constraint, where the loss allows that."""
    said: dict[str, list[str]] = {"better": [], "worse": [], "no clear difference": []}
    times = {}
    for p, cell in own:
        free = next((c for c in p.cells.values() if c.method.name == FREE and c.ok), None)
        if free is None:
            continue
        ours, theirs = (metric_text(p, c.metric.median) for c in (cell, free))
        verdict = compare(p, cell.metric, free.metric)
        said[verdict].append(f"{p.problem.title} ({ours} against {theirs})")
        ratio = paired_ratio(cell.step_times, free.step_times)
        if ratio is not None:
            times[p.problem.title] = ratio
    sentences = []
    if any(said.values()):
        parts = [f"{verdict} on {_and(titles)}" for verdict, titles in said.items() if titles]
        sentences.append(
            "Final result with the constraint, by riemopt Adam, against Adam without: "
            f"{'; '.join(parts)}."
        )
    if times:
        sentences.append(f"A step with it against a step without: {_spread(times)}.")
    return sentences


def problem_summary(p: ProblemResults) -> list[str]:
    """What happened on one problem, one statement per sentence."""
    own = p.cells.get("riemopt-adam")
    sentences = []
    if own is not None and own.ok:
        sentences.append(_speed(p, own))
        sentences.append(_quality(p, own))
        sentences.append(_memory(p, own))
    elif own is not None:
        sentences.append(f"All {own.failed} runs of riemopt Adam failed.")
    sentences.append(_surface(p))
    sentences.append(_growth(p))
    sentences.append(_winners(p))
    sentences.append(_edges(p))
    return [s for s in sentences if s]


def _speed(p: ProblemResults, own: Cell) -> str:
    text = f"riemopt Adam took {milliseconds(own.seconds('total').median)} per step"
    ratio = p.ratio(own)
    if p.reference is None or ratio is None:
        return text + "."
    other = milliseconds(p.reference.seconds("total").median)
    return (
        f"{text}; the fastest parametrize variant ({p.reference.method.title}) took {other}: "
        f"{times_as_long(ratio)}."
    )


def _quality(p: ProblemResults, own: Cell) -> str:
    text = f"Its {p.problem.metric} at the end was {metric_text(p, own.metric.median)} (median"
    text += f" of {len(own.rows)})"
    others = [c for c in p.constrained if c.method.family == REFERENCE]
    best = p.best(others)
    if best is None:
        return text + "."
    verdict = compare(p, own.metric, best.metric)
    text += f", against {metric_text(p, best.metric.median)} for {best.method.title}, the best"
    text += f" of the parametrize variants: {verdict}."
    free = next((c for c in p.cells.values() if not c.method.constrained and c.ok), None)
    if free is not None:
        text += f" Without constraints Adam had {metric_text(p, free.metric.median)}."
    return text


def _memory(p: ProblemResults, own: Cell) -> str:
    if p.reference is None:
        return ""
    mine, theirs = own.bytes("held"), p.reference.bytes("held")
    peak, their_peak = own.bytes("peak"), p.reference.bytes("peak")
    return (
        f"Between steps it holds {size(mine)} (parameters, buffers, optimizer state) against "
        f"{size(theirs)}; the peak within a step is {size(peak)} against {size(their_peak)}."
    )


def _surface(p: ProblemResults) -> str:
    own = [c for c in p.constrained if c.method.family == RIEMOPT]
    theirs = [c for c in p.constrained if c.method.family == REFERENCE]
    parts = []
    if own:
        worst = max(c.violation("stored")[0] for c in own)
        parts.append(
            f"The weight that riemopt stores was at most {worst:.1e} from its surface at any "
            "recorded step"
        )
    if theirs:
        stored = max(c.violation("stored")[0] for c in theirs)
        used = max(c.violation("used")[0] for c in theirs)
        parts.append(
            f"parametrize stores `original`, which is not on the surface by construction (up to "
            f"{stored:.1e} off); the weight it computes from it was at most {used:.1e} off"
        )
    return "; ".join(parts) + "." if parts else ""


def _growth(p: ProblemResults) -> str:
    found = [
        (end / start, cell, name, start, end)
        for cell in p.constrained
        for name, (start, end) in cell.original_norms().items()
        if start > 0
    ]
    if not found:
        return ""
    factor, cell, name, start, end = max(found, key=lambda f: f[0])
    verb = "grew" if factor > 1 else "went"
    steps = cell.ok[0]["trace"]["step"][-1]
    return (
        f"The norm of parametrize's `original` {verb} most for {name} under {cell.method.title}: "
        f"from {significant(start)} to {significant(end)} in {steps} steps."
    )


def _winners(p: ProblemResults) -> str:
    fastest, best = p.fastest(p.constrained), p.best(p.constrained)
    if fastest is None or best is None:
        return ""
    value = metric_text(p, best.metric.median)
    equal = [c.method for c in p.constrained if metric_text(p, c.metric.median) == value]
    who = f"{best.method.title} had"
    if len(equal) > 1:
        ours = _and([m.title for m in equal if m.family == RIEMOPT] or ["none of riemopt's"])
        who = f"{len(equal)} of {len(p.constrained)} ({ours} among them) share"
    return (
        f"Of all constrained methods, {fastest.method.title} was the fastest per step "
        f"({milliseconds(fastest.seconds('total').median)}); {who} the best median "
        f"{p.problem.metric} ({value})."
    )


def _edges(p: ProblemResults) -> str:
    names = [c.method.title for c in p.cells.values() if c.edge]
    if not names:
        return ""
    return f"The tuned learning rate is at the edge of what was tried for {_and(names)}."


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _some(titles: Sequence[str]) -> str:
    """The titles, or how many there are where a sentence cannot hold them."""
    return _and(titles) if len(titles) <= 4 else f"{len(titles)} problems"

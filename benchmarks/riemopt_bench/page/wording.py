"""The page in plain language: sentences that are computed from the results, losses included."""

from __future__ import annotations

import math
from typing import Any

from riemopt_bench.page.numbers import milliseconds, ratio_text, significant, size
from riemopt_bench.stats import Quartiles, Ratio
from riemopt_bench.train.results import REFERENCE, RIEMOPT, Cell, ProblemResults, Results


def metric_text(results: ProblemResults, value: float) -> str:
    """A metric value as the page writes it: accuracies in per cent."""
    if not math.isfinite(value):
        return "failed"
    if results.problem.higher_is_better:
        return f"{100 * value:.1f}%"
    if abs(value) < results.problem.resolution:
        return f"< {results.problem.resolution:.0e}"
    return f"{value:.1e}"


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


def headline(results: Results) -> list[str]:
    """Two or three sentences over all problems."""
    verdicts: dict[str, list[str]] = {"faster": [], "slower": [], "not clearly different": []}
    quality: dict[str, list[str]] = {"better": [], "worse": [], "no clear difference": []}
    for p in results.problems:
        own = p.cells.get("riemopt-adam")
        if own is None or not own.ok or p.reference is None:
            continue
        ratio = p.ratio(own)
        if ratio is not None:
            verdict = (
                ("faster" if ratio.value < 1 else "slower")
                if ratio.clear
                else "not clearly different"
            )
            if ratio.low is None:
                verdict = "faster" if ratio.value < 1 else "slower"
            verdicts[verdict].append(f"{p.problem.title} ({ratio.value:.2f}×)")
        best = p.best(c for c in p.constrained if c.method.family == REFERENCE)
        if best is not None:
            verdict = compare(p, own.metric, best.metric)
            quality[verdict].append(p.problem.title)
    sentences = []
    if any(verdicts.values()):
        parts = [f"{word} on {_and(names)}" for word, names in verdicts.items() if names]
        sentences.append(
            "Per step, riemopt Adam against the fastest parametrize variant of each problem: "
            + "; ".join(parts)
            + ". (In brackets: its time as a multiple of parametrize's.)"
        )
    if any(quality.values()):
        parts = [f"{word} on {_and(names)}" for word, names in quality.items() if names]
        sentences.append(
            "Final result, riemopt Adam against the best parametrize variant: "
            + "; ".join(parts)
            + "."
        )
    if results.failures:
        sentences.append(f"{len(results.failures)} of {len(results.rows)} runs failed; see below.")
    return sentences or ["There are no runs of riemopt Adam and parametrize to compare yet."]


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


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]

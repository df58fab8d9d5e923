"""`report.html` and what lies beside it: figures, `overview.png`, and the results as data."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from riemopt_bench import registry
from riemopt_bench.environment import version
from riemopt_bench.page import animation, drawing, figures, price, summary, tables, wording
from riemopt_bench.page.numbers import significant, size
from riemopt_bench.train.measure import START_TOLERANCE
from riemopt_bench.train.results import ProblemResults, Results, collect
from riemopt_bench.train.store import Store, StoreError


@dataclass(frozen=True)
class Picture:
    """One figure of the page."""

    name: str
    title: str
    caption: str
    svg: Markup
    series: list[dict[str, Any]]


def write_report(directory: Path, prefer: Iterable[str] = ()) -> Path:
    """Make the page from `directory/runs.jsonl`; return its path.

    `prefer` holds the keys of the runs that the page is about, if a store has several versions.
    """
    store = Store(directory)
    rows = store.rows()
    results = collect(rows, prefer)
    if not results.problems:
        raise StoreError(
            f"{store.path} holds no measured runs. `riemopt bench report DIR` needs a directory in "
            "which `riemopt bench run --out DIR` has finished at least one."
        )
    if store.truncated:
        results.notes.append("The last line of runs.jsonl is cut off; it was left out.")
    suite = _most_common(row.get("suite", "?") for row in results.rows)
    prices = price.prices(directory, compiled=suite == "full")
    verdicts = wording.verdicts(results, prices)
    page = _render(results, directory, suite=suite, prices=prices, verdicts=verdicts)
    lines = tables.run_lines(results)
    tables.write_csv(lines, directory / "results.csv")
    summary.write_parquet(lines, results, directory)
    summary.write_markdown(results, verdicts, directory / "results.md")
    picture = figures.overview(results)
    if picture is not None:
        picture.savefig(directory / "overview.png")
    path = directory / "report.html"
    temporary = directory / ".report.html.part"
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)
    return path


def _render(results: Results, directory: Path, **parts: Any) -> str:
    environment = Environment(
        loader=PackageLoader("riemopt_bench.page", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code": _code, "number": significant, "size": size}
    sections = [_section(p, directory) for p in results.problems]
    overall = [
        _picture(draw(results), directory, name, title, caption)
        for draw, name, title, caption in figures.OF_ALL_PROBLEMS
    ]
    return environment.get_template("report.html.j2").render(
        **parts,
        price_units=price,
        schedules=sorted({row["budget"]["schedule"] for row in results.rows}),
        glance_header=list(tables.GLANCE),
        glance=tables.glance(results),
        experiment=animation.section(environment),
        sections=sections,
        overall=[picture for picture in overall if picture is not None],
        notes=results.notes,
        failures=[_failure(row) for row in results.failures],
        runs=len(results.rows),
        machine=_machine(results),
        methods=list(registry.methods().values()),
        method_names={row["method"] for row in results.rows},
        start_tolerance=f"{START_TOLERANCE:.0e}",
        riemopt_version=version("riemopt"),
        made=time.strftime("%Y-%m-%d %H:%M"),
    )


def _section(p: ProblemResults, directory: Path) -> dict[str, Any]:
    name = p.problem.name
    pictures = [
        _picture(draw(p), directory, f"{name}-{suffix}", title, caption)
        for draw, suffix, title, caption in figures.OF_A_PROBLEM
    ]
    return {
        "id": name,
        "title": p.problem.title,
        "description": f"{p.problem.description} {p.problem.reference}".strip(),
        "target": wording.metric_text(p, p.problem.target),
        "metric": p.problem.metric,
        "budget": p.budget,
        "spent": wording.budget_text(p.budget),
        "repetitions": max(len(c.rows) for c in p.cells.values()),
        "summary": wording.problem_summary(p),
        "header": tables.header(p),
        "table": tables.table(p),
        "first_table": tables.FIRST_TABLE,
        "left_out": p.left_out,
        "pictures": [picture for picture in pictures if picture is not None],
    }


def _picture(
    figure: Figure | None, directory: Path, name: str, title: str, caption: str
) -> Picture | None:
    if figure is None:
        return None
    series = drawing.name_series(figure, name)
    document = drawing.document(figure, name)
    drawing.save(document, directory / "figures" / f"{name}.svg")
    return Picture(name, title, caption, Markup(drawing.inline(document, title)), series)


def _code(text: str) -> Markup:
    """Text with `code` between backticks."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _failure(row: dict[str, Any]) -> dict[str, str]:
    return {
        "what": f"{row['problem']}, {row['method']}, repetition {row['repetition'] + 1}, "
        f"lr {row['lr']:g}",
        "error": str(row["error"]),
    }


def _machine(results: Results) -> dict[str, str]:
    found = [row["environment"] for row in results.rows if "environment" in row]
    if not found:
        return {}
    loads = [e["load"] for e in found if e.get("load") is not None]
    names = {
        "cpu": "processor",
        "cores": "cores",
        "threads": "threads per run",
        "system": "system",
        "python": "Python",
        "torch": "torch",
        "riemopt": "riemopt (+ hash of its source)",
        "geoopt": "geoopt",
    }
    facts = {
        label: ", ".join(dict.fromkeys(str(e.get(key)) for e in found))
        for key, label in names.items()
    }
    jobs = ", ".join(sorted({str(row.get("jobs", "?")) for row in results.rows}))
    facts["runs at the same time"] = jobs
    if loads:
        facts["load average when runs began"] = f"{min(loads)} to {max(loads)}"
    return facts


def _most_common(values: Iterable[str]) -> str:
    return Counter(values).most_common(1)[0][0]

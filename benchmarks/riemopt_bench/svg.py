"""Matplotlib figures as SVG: documents for files, elements for the page."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from riemopt_bench.figures import STYLE


def document(figure: Figure, name: str) -> str:
    """The figure as a standalone SVG document; `name` keeps ids apart within one page."""
    buffer = StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def inline(text: str, label: str) -> str:
    """An SVG document as an element of an HTML page: no prolog, no metadata, no fixed size."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", body)
    head, rest = body.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    title = label.replace("&", "&amp;").replace('"', "&quot;")
    return f'{head} role="img" aria-label="{title}">{rest}'


def save(text: str, path: Path) -> None:
    """Write an SVG document to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

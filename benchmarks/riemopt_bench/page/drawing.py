"""How all figures look, and figures as SVG: documents for files, elements for the page."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

# The shades of each family of methods; a family of your own is drawn in the last ones.
COLORS = {
    "riemopt": ("#0a4f9e", "#4f9be0", "#7fc4ff"),
    "floor": ("#000000",),
    "parametrize": ("#c1440e", "#e58a1f", "#d9b310"),
    "geotorch": ("#d9b310",),
    "geoopt": ("#1f8a5b", "#69bd94"),
    "pogo": ("#7a4fa3",),
    "projection": ("#5d6b2f", "#9aa858"),
    "landing": ("#a3195b",),
    "cdopt": ("#d46a9f",),
    "penalty": ("#8c6d46", "#bfa27c"),
    "pymanopt": ("#00838f", "#4db6c1"),
    "unconstrained": ("#7d8590", "#a9b0b8"),
    "": ("#a3195b", "#d46a9f"),
}
_STYLE = {
    "font.size": 9,
    "font.family": "DejaVu Sans",  # ships with matplotlib
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a93a0",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": "#e6e9ee",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "path.simplify": False,  # each value is a vertex: the page's script finds it
    "figure.facecolor": "white",
}


def shades(family: str) -> tuple[str, ...]:
    """The colours of a family of methods."""
    return COLORS.get(family, COLORS[""])


def styled(**more: Any) -> AbstractContextManager[None]:
    """A context in which figures are drawn in the common style."""
    settings: Any = {**_STYLE, **more}
    return mpl.rc_context(settings)


def name_series(figure: Figure, name: str) -> list[dict[str, Any]]:
    """Give each labelled line an id in the page; return ids, labels and values, for its script."""
    found: list[dict[str, Any]] = []
    for axis in figure.axes:
        for line in axis.get_lines():
            label = str(line.get_label())
            if label.startswith("_") or line.get_drawstyle() != "default":
                continue
            line.set_gid(f"{name}-series-{len(found)}")
            x, y = (np.asarray(v, float).tolist() for v in (line.get_xdata(), line.get_ydata()))
            found.append({"id": line.get_gid(), "label": label, "x": x, "y": y})
    return found


def document(figure: Figure, name: str) -> str:
    """The figure as a standalone SVG document; `name` keeps ids apart within one page."""
    buffer = StringIO()
    with styled(**{"svg.hashsalt": name}):
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
    return f'{head} class="plot" role="img" aria-label="{title}">{rest}'


def save(text: str, path: Path) -> None:
    """Write an SVG document to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

"""The runs of `experiment` as moving pictures: SVG that animates itself, and needs no network.

A still picture is the last frame: it is what is printed, and what those see who prefer no motion.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from riemopt_bench.page import experiment

UNIT = 42
"""Length of a unit vector, in the panels of 300 × 300 whose middle is the origin."""

Point = Sequence[float]


@dataclass(frozen=True)
class Path:
    """A line that grows: where it goes, how much of it is drawn in each frame, and its end."""

    points: str
    offsets: str
    x: str
    y: str
    last: tuple[str, str]


@dataclass(frozen=True)
class CirclePanel:
    """What one way of keeping a unit vector stores, and what the forward uses."""

    title: str
    caption: str
    family: str
    stored: Path
    used: Path
    effect: Path
    last_effect: float
    last_norm: float


@dataclass(frozen=True)
class Grid:
    """Nine numbers, in colours that change."""

    title: str
    caption: str
    family: str
    cells: list[dict[str, Any]]


def section(environment: Environment) -> Markup:
    """The part of the page that shows the experiment."""
    data = experiment.frames()
    return Markup(
        environment.get_template("animation.html.j2").render(
            step=_one_step(),
            panels=_circle_panels(data["circle"]),
            target=_path(_target(data["circle"]["angles"])),
            unused=_unused(data["unused"]),
            layer=_layer(data["layer"]),
            grids=_grids(data["symmetric"]["runs"]),
            unit=UNIT,
            target_moves=experiment.TARGET_MOVES,
            steps=experiment.CIRCLE_STEPS,
            every=experiment.REIMPOSED_EVERY,
            circle_lr=experiment.CIRCLE_LR,
            decay=data["unused"],
            layer_run=data["layer"],
        )
    )


# --- lines -------------------------------------------------------------------------------------


def _on_panel(point: Point, unit: float = UNIT) -> tuple[float, float]:
    return 150 + unit * point[0], 150 - unit * point[1]


def _path(places: Iterable[tuple[float, float]]) -> Path:
    """Through `places`, one for each frame, in the coordinates of the panel."""
    points = list(places)
    lengths = [0.0]
    for a, b in itertools.pairwise(points):
        lengths.append(lengths[-1] + math.dist(a, b))
    whole = lengths[-1] or 1.0
    return Path(
        " ".join(f"{x:.1f},{y:.1f}" for x, y in points),
        ";".join(f"{1 - length / whole:.3f}" for length in lengths),
        ";".join(f"{x:.1f}" for x, _ in points),
        ";".join(f"{y:.1f}" for _, y in points),
        (f"{points[-1][0]:.1f}", f"{points[-1][1]:.1f}"),
    )


# --- the circle --------------------------------------------------------------------------------


def _target(angles: Sequence[float]) -> Iterable[tuple[float, float]]:
    for angle in [*angles[:1], *angles]:
        yield _on_panel((3.2 * math.cos(angle), 3.2 * math.sin(angle)))


def _one_step() -> dict[str, Any]:
    """A sketch of a step of length 0.9 on the circle: x, x - lr·g, x + u, R(x + u), the tangent."""
    x, tangent = (-0.5, 0.75**0.5), (-(0.75**0.5), -0.5)
    normal_part, length = 0.55, 0.9
    ahead = [a + length * t for a, t in zip(x, tangent, strict=True)]
    raw = [a + normal_part * b for a, b in zip(ahead, x, strict=True)]
    back = [a / math.hypot(*ahead) for a in ahead]
    line = [[a + t * b for a, b in zip(x, tangent, strict=True)] for t in (-0.5, 1.25)]
    named = {"x": x, "raw": raw, "ahead": ahead, "back": back, "from": line[0], "to": line[1]}
    return {name: [round(c, 1) for c in _on_panel(p, 90)] for name, p in named.items()}


def _circle_panels(circle: dict[str, Any]) -> list[CirclePanel]:
    words = {
        "riemopt": (
            "riemopt stores the point",
            "The stored tensor is the weight. Each step turns it as far as the gradient says.",
        ),
        "parametrize": (
            "x/‖x‖ by parametrize",
            "The gradient is at a right angle to `original`, so each step lengthens it, and the "
            "longer it is the less the same gradient turns the weight.",
        ),
        "reimposed": (
            f"x/‖x‖, re-imposed every {experiment.REIMPOSED_EVERY} steps",
            "`original` is set back to the weight now and then: it jumps back, and so does the "
            "effect of a step.",
        ),
    }
    panels = []
    for name, run in circle["runs"].items():
        norms = [math.hypot(*point) for point in run["stored"]]
        effects = [norm**-2 if name != "riemopt" else 1.0 for norm in norms]
        steps = len(norms) - 1
        panels.append(
            CirclePanel(
                *words[name],
                "riemopt" if name == "riemopt" else "parametrize",
                _path(map(_on_panel, run["stored"])),
                _path(map(_on_panel, run["used"])),
                _path((10 + 280 * i / steps, 78 - 66 * e) for i, e in enumerate(effects)),
                effects[-1],
                norms[-1],
            )
        )
    return panels


# --- weight decay ------------------------------------------------------------------------------


def _unused(unused: dict[str, Any]) -> dict[str, Any]:
    """log₁₀‖stored‖ from 0 to -24, and when the weight is not a number any more."""
    found: dict[str, Any] = {}
    for name, rows in unused["runs"].items():
        numbers = [row for row in rows if row["used"] and row["stored"]]
        places = [
            (44 + 246 * row["step"] / rows[-1]["step"], 20 - 9 * math.log10(row["stored"]))
            for row in numbers
        ]
        frames = places + [places[-1]] * (len(rows) - len(places))
        found[name] = _path(frames)
        lost = next((row["step"] for row in rows if not row["used"]), None)
        found[f"{name}_lost"] = lost
        found[f"{name}_lost_part"] = (lost or rows[-1]["step"]) / rows[-1]["step"]
    return found


def _layer(layer: dict[str, Any]) -> dict[str, Any]:
    """‖W‖ between 0 and 3."""
    found: dict[str, Any] = {}
    for name, rows in layer["runs"].items():
        steps = rows[-1]["step"]
        places = ((44 + 246 * row["step"] / steps, 240 - 70 * row["norm"]) for row in rows)
        found[name] = _path(places)
        found[f"{name}_loss"] = rows[-1]["loss"]
    return found


# --- a symmetric weight in memory --------------------------------------------------------------


def _grids(runs: dict[str, Any]) -> list[Grid]:
    words = (
        (
            "parametrize",
            "stored",
            "stored by parametrize: original",
            "The lower triangle is never read: it keeps what was there first, and a checkpoint "
            "holds it.",
        ),
        ("parametrize", "used", "computed from it in every forward", "The weight that is used."),
        (
            "riemopt",
            "stored",
            "stored by riemopt: the weight",
            "Symmetric in memory before and after every step.",
        ),
    )
    return [
        Grid(title, caption, name, _cells(runs[name][which], dim=which == "stored"))
        for name, which, title, caption in words
    ]


def _cells(frames: Sequence[Sequence[Sequence[float]]], *, dim: bool) -> list[dict[str, Any]]:
    last = frames[-1]
    return [
        {
            "x": 30 + 80 * j,
            "y": 20 + 80 * i,
            "colours": ";".join(_colour(frame[i][j]) for frame in frames),
            "colour": _colour(last[i][j]),
            "last": f"{last[i][j]:.2f}",
            "differs": dim and abs(last[i][j] - last[j][i]) > 1e-6 and i > j,
        }
        for i in range(3)
        for j in range(3)
    ]


def _colour(value: float, largest: float = 5.6) -> str:
    """Blue below 0, white at 0, orange above."""
    part = max(-1.0, min(1.0, value / largest))
    end = (217, 110, 20) if part > 0 else (10, 79, 158)
    mixed = (round(255 + abs(part) ** 0.6 * (c - 255)) for c in end)
    return "#{:02x}{:02x}{:02x}".format(*mixed)

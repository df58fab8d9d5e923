"""Writes docs/catalogue.md from the classes and their docstrings, and its pictures.

    python docs/make_catalogue.py             # the page
    python docs/make_catalogue.py --pictures  # its pictures, too

A test compares the page with what this makes of the classes as they are.
"""

import inspect
import math
import pathlib
import re
import textwrap
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
import typer

from riemopt import manifolds
from riemopt.manifolds import Manifold, PoincareBall, Product, Simplex, Sphere

HERE = pathlib.Path(__file__).parent
PAGE = HERE / "catalogue.md"
LABELS = ("Dimension", "Metric", "Step", "Cost", "For", "Not for")
FORMULA = r"(tr|det|mask|np|nk|n|p|x|u)\b|[^\W\d_]*[⁺₀-₉]"
"""With what a formula begins, whose case is not that of a sentence."""
FORMS = {"exp": "exp", "log": "log", "dist": "dist", "parallel_transport": "transport"}


class Family(NamedTuple):
    """A section of the page."""

    title: str
    about: str
    picture: str
    """Name of a file in `images`, or nothing."""
    members: dict[str, tuple[str, tuple[int, ...]]]
    """Of each class an instance, and a shape of tensors that are its points."""


FAMILIES = [
    Family(
        "Spheres and orthonormal matrices",
        "Vectors of fixed norm, orthonormal columns, rotations, subspaces.",
        "sphere.png",
        {
            "Sphere": ("Sphere()", (4, 3)),
            "Stiefel": ("Stiefel()", (5, 2)),
            "SpecialOrthogonal": ("SpecialOrthogonal()", (3, 3)),
            "SpecialEuclidean": ("SpecialEuclidean()", (4, 4)),
            "Grassmann": ("Grassmann()", (5, 2)),
            "Flag": ("Flag(1, 2)", (5, 3)),
            "GeneralizedStiefel": ("GeneralizedStiefel(torch.eye(5))", (5, 2)),
            "SymplecticStiefel": ("SymplecticStiefel()", (6, 4)),
            "Scaled": ("Scaled(Stiefel())", (5, 2)),
        },
    ),
    Family(
        "Positive matrices, numbers and mixtures",
        "Open sets with a metric in which their boundary is far away, so that steps stay inside.",
        "simplex.png",
        {
            "SPD": ("SPD()", (3, 3)),
            "Correlation": ("Correlation()", (3, 3)),
            "Positive": ("Positive()", (4,)),
            "Interval": ("Interval(0.0, 1.0)", (4,)),
            "Simplex": ("Simplex()", (4, 3)),
            "DoublyStochastic": ("DoublyStochastic()", (4, 4)),
        },
    ),
    Family(
        "Low rank",
        "Matrices of a given rank, whole or as their factors.",
        "",
        {
            "PSDFixedRank": ("PSDFixedRank(2)", (5, 2)),
            "Elliptope": ("Elliptope(2)", (5, 2)),
            "Spectrahedron": ("Spectrahedron(2)", (5, 2)),
            "FixedRank": ("FixedRank(2)", (5, 4)),
            "FixedRankFactors": ("FixedRankFactors(rows=5)", (9, 2)),
        },
    ),
    Family(
        "Hyperbolic spaces",
        "Spaces that grow like trees. [Hyperbolic spaces](hyperbolic.md) says how far out points "
        "may be, and has what layers call.",
        "poincare.png",
        {
            "PoincareBall": ("PoincareBall()", (4, 2)),
            "Lorentz": ("Lorentz()", (4, 3)),
            "Stereographic": ("Stereographic(k=0.5)", (4, 2)),
        },
    ),
    Family(
        "Linear and affine sets",
        "Flat: a step is a straight line, and back it is a projection.",
        "",
        {
            "Symmetric": ("Symmetric()", (3, 3)),
            "SkewSymmetric": ("SkewSymmetric()", (3, 3)),
            "FixedSum": ("FixedSum()", (4, 3)),
            "Sparsity": ("Sparsity(torch.ones(3, 3).tril() > 0)", (3, 3)),
            "Toeplitz": ("Toeplitz()", (4, 3)),
            "Circulant": ("Circulant()", (4, 4)),
            "AffineSubspace": ("AffineSubspace(torch.ones(1, 5), 1.0)", (5,)),
        },
    ),
    Family(
        "Linear groups",
        "Invertible matrices in a metric that is the same at X and at YX.",
        "",
        {
            "GLPlus": ("GLPlus()", (3, 3)),
            "SpecialLinear": ("SpecialLinear()", (3, 3)),
        },
    ),
    Family(
        "Any equation",
        "[Constrain anything](constrain-anything.md) has examples.",
        "",
        {"LevelSet": ("LevelSet(lambda x: x.square().sum() - 1)", (5,))},
    ),
    Family(
        "Made of others",
        "What they say of themselves follows from the manifolds that they are given.",
        "",
        {
            "Product": ("Product([(Stiefel(), (3, 2)), (Euclidean(), 2)])", (8,)),
            "RowBlocks": ("RowBlocks(Stiefel(), 3)", (6, 2)),
            "ExceptRows": ("ExceptRows(Sphere(), rows=0)", (4, 3)),
            "Flattened": ("Flattened(Stiefel())", (8, 3, 2, 2)),
            "Euclidean": ("Euclidean()", (4,)),
            "Frozen": ("Frozen()", (4,)),
        },
    ),
]

INTRO = """\
# Catalogue of manifolds

After this page you know which manifold your constraint is, what a step on it costs, and when not
to take it.

All manifolds of `riemopt.manifolds`, in families. Each converts gradients and Hessians
(`egrad2rgrad`, `ehess2rhess`), projects any tensor, steps, transports, draws random points and
measures how far off a tensor is; leading dimensions are a batch. They are values: `Stiefel() ==
Stiefel()`. float64 and float32 are computed in, bfloat16 and float16 are stepped in float32 and
rounded. "Closed forms" are those of geodesics. `lr` is the optimizer's. For a set that is not here,
write its equation (`LevelSet`), or [sixty lines](write-your-own-manifold.md).
"""


def instance(call: str) -> Manifold:
    """What `call` makes."""
    return eval(call, {"torch": torch, **vars(manifolds)})


def paragraphs(cls: type) -> list[str]:
    """Those of the docstring, without line breaks that mean nothing."""
    doc = inspect.getdoc(cls)
    if not doc:
        raise ValueError(f"{cls.__name__} has no docstring.")
    return doc.split("\n\n")


def labelled(cls: type) -> dict[str, str]:
    """The paragraphs that begin with one of `LABELS` and a colon."""
    found = {}
    for paragraph in paragraphs(cls):
        label, colon, text = paragraph.partition(": ")
        if colon and label in LABELS:
            found[label] = " ".join(text.split())
    return found


def closed_forms(cls: type) -> str:
    """Those that the class has."""
    if "base" in inspect.signature(cls).parameters or cls is Product:
        return "those of the base"
    own = [word for name, word in FORMS.items() if _overrides(cls, name)]
    return ", ".join(own) or "–"


def _overrides(cls: type, name: str) -> bool:
    return getattr(cls, name) is not getattr(Manifold, name)


def fields(call: str, shape: tuple[int, ...]) -> str:
    """Whether points are real, or may be complex."""
    manifold = instance(call)
    try:
        manifold.violation(manifold.random_point(*shape, dtype=torch.complex128))
    except (ValueError, RuntimeError):
        return "real"
    return "real, complex"


def as_markdown(paragraph: str) -> str:
    """One paragraph of a docstring."""
    lines = paragraph.splitlines()
    head, rest = lines[0], textwrap.dedent("\n".join(lines[1:]))
    if paragraph.startswith("    "):
        return f"```\n{textwrap.dedent(paragraph)}\n```"
    if head == "Examples:":  # which are run where they stand
        return f"```pycon\n{rest}\n```"
    if head in ("Args:", "Raises:"):
        entries = re.split(r"\n(?=\S)", rest)
        items = [re.sub(r"^([\w, ]+): ", r"`\1`: ", " ".join(entry.split())) for entry in entries]
        title = "Options" if head == "Args:" else "Raises"
        return f"{title}:\n\n" + "\n".join(f"* {item}" for item in items)
    label = head.partition(": ")[0]
    text = " ".join(paragraph.split())
    if label in LABELS and ": " in head:
        text = text.removeprefix(f"{label}: ")
        if not re.match(FORMULA, text):
            text = text[0].upper() + text[1:]
        return f"**{label}.** {text}"
    return text


def section(name: str, call: str, shape: tuple[int, ...]) -> str:
    """What the page says of one class."""
    cls = getattr(manifolds, name)
    signature = f"{name}({', '.join(map(str, _parameters(cls)))})"
    facts = f"*{fields(call, shape)}; closed forms: {closed_forms(cls)}*"
    body = "\n\n".join(map(as_markdown, paragraphs(cls)))
    return f"### {name}\n\n`{signature}` – {facts}\n\n{body}\n"


def _parameters(cls: type) -> list[str]:
    shown = []
    for parameter in inspect.signature(cls).parameters.values():
        star = "*" * (parameter.kind is parameter.VAR_POSITIONAL)
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        shown.append(f"{star}{parameter.name}{default}")
    return shown


def overview() -> str:
    """A table of all classes."""
    lines = ["| class | points | dimension | closed forms |", "| --- | --- | --- | --- |"]
    for family in FAMILIES:
        for name in family.members:
            cls = getattr(manifolds, name)
            points = " ".join(paragraphs(cls)[0].split()).replace("|", "\\|")
            dimension = re.split(r"[;:.] |\.$", labelled(cls).get("Dimension", "of the base"))[0]
            link = f"[`{name}`](#{name.lower()})"
            lines.append(f"| {link} | {points} | {dimension} | {closed_forms(cls)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page."""
    parts = [INTRO, overview()]
    for family in FAMILIES:
        parts.append(f"## {family.title}\n\n{family.about}\n")
        if family.picture:
            parts.append(f"![{CAPTIONS[family.picture]}](images/{family.picture})\n")
        parts += [section(name, *example) for name, example in family.members.items()]
    return "\n".join(parts)


# --- pictures ---


def draw_sphere() -> None:
    """A step: the gradient, its tangent part, and the way back."""
    figure = plt.figure(figsize=(4.2, 3.6))
    axes = figure.add_subplot(projection="3d")
    a, b = torch.meshgrid(
        torch.linspace(0, 2 * torch.pi, 49), torch.linspace(0, torch.pi, 25), indexing="ij"
    )
    surface = (a.cos() * b.sin(), a.sin() * b.sin(), b.cos())
    axes.plot_surface(*(s.numpy() for s in surface), color="0.9", alpha=0.15, linewidth=0)
    axes.plot_wireframe(*(s.numpy() for s in surface), color="0.8", linewidth=0.4, rstride=4)
    sphere, x = Sphere(), torch.tensor([0.5, -0.6, 0.62])
    x = sphere.project(x)
    g = torch.tensor([0.75, 0.25, 0.85])
    u = sphere.proj_tangent(x, g)
    for vector, colour, label in ((g, "C3", "−gradient"), (u, "C0", "tangent part")):
        axes.quiver(*x, *vector, color=colour, label=label, arrow_length_ratio=0.12)
    curve = torch.stack([sphere.retract(x, t * u) for t in torch.linspace(0, 1, 30)])
    axes.plot(*curve.T.numpy(), color="C2", label="retraction", linewidth=2)
    axes.scatter(*x, color="k", s=18)
    axes.view_init(elev=22, azim=-50)
    axes.set_box_aspect((1, 1, 1), zoom=1.35)
    axes.set_axis_off()
    axes.legend(loc="lower center", ncols=3, frameon=False, fontsize=8)
    _save(figure, "sphere.png")


def draw_simplex() -> None:
    """Geodesics from the centre to points at equal angles, in Fisher's metric."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
    figure, axes = plt.subplots(figsize=(4.2, 3.6))
    axes.plot(*corners[[0, 1, 2, 0]].T.numpy(), color="0.4")
    simplex = Simplex()
    times = torch.linspace(0, 1, 40).unsqueeze(1)
    starts = [torch.tensor([0.9, 0.05, 0.05]), torch.tensor([0.05, 0.9, 0.05])]
    for start, colour in zip(starts, ("C0", "C3"), strict=True):
        for share in torch.linspace(0.05, 0.95, 9):
            end = torch.tensor([0.0, 0.0, 0.96]) + 0.02
            end = simplex.project(end + share * torch.tensor([0.5, 0.5, -0.9]))
            way = simplex.geodesic(start.expand(40, 3), end.expand(40, 3), times)
            axes.plot(*(way @ corners).T.numpy(), color=colour, linewidth=1)
    axes.set_aspect("equal")
    axes.set_axis_off()
    _save(figure, "simplex.png")


def draw_poincare() -> None:
    """A tree of which all edges have one length."""
    figure, axes = plt.subplots(figsize=(4.2, 4.2))
    axes.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.4"))
    ball, length = PoincareBall(), 1.15  # ln 3 is the least by which branches keep apart
    times = torch.linspace(0, 1, 20, dtype=torch.float64).unsqueeze(1)
    origin = torch.zeros(2, dtype=torch.float64)
    # A branch is a point, the direction to go on, and how often it still divides.
    branches = [(origin, 2 * math.pi * k / 3, 6) for k in range(3)]
    while branches:
        x, angle, left = branches.pop()
        direction = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        u = direction / ball.norm(x, direction)
        y = ball.exp(x, length * u)
        way = ball.geodesic(x.expand(20, 2), y.expand(20, 2), times)
        axes.plot(*way.T.numpy(), color="C0", linewidth=0.4 + 0.3 * left)
        back = -ball.log(y, x)
        onward = math.atan2(back[1], back[0])
        if left:
            branches += [(y, onward + turn, left - 1) for turn in (-math.pi / 3, math.pi / 3)]
    axes.set_aspect("equal")
    axes.set_axis_off()
    _save(figure, "poincare.png")


def _save(figure: plt.Figure, name: str) -> None:
    figure.savefig(HERE / "images" / name, dpi=130, bbox_inches="tight")
    plt.close(figure)


CAPTIONS = {
    "sphere.png": "A step on the sphere: the gradient, its tangent part, and the way back",
    "simplex.png": "Geodesics of mixtures of three, in Fisher's metric",
    "poincare.png": "A tree whose edges have one length in the Poincaré ball",
}


def main(pictures: bool = False) -> None:
    """Write the page, and with --pictures its pictures."""
    PAGE.write_text(page())
    if pictures:
        mpl.use("agg")
        draw_sphere()
        draw_simplex()
        draw_poincare()


if __name__ == "__main__":
    typer.run(main)

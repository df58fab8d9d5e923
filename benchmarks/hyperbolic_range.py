"""How far out the models of hyperbolic space are good: the table of docs/hyperbolic.md.

Pairs of points at a radius r and at the distance 1 are made with sixty digits, rounded to a dtype,
and measured by `dist`. What is printed is the median relative error: that of the rounded points,
in the first table, and that of the formula alone, in the second.

    python benchmarks/hyperbolic_range.py
"""

import statistics

import mpmath
import torch
from mpmath import mp, mpf

from riemopt.manifolds import Lorentz, Manifold, PoincareBall

mp.dps = 60
RADII = (1, 2, 4, 6, 8, 10, 12, 16, 20, 28, 36)
PAIRS, DIMENSION, DISTANCE = 40, 3, 1
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def unit(gen: torch.Generator) -> list[mpf]:
    """A random direction."""
    values = [mpf(v) for v in torch.randn(DIMENSION, generator=gen, dtype=torch.float64).tolist()]
    norm = mpmath.sqrt(mpmath.fsum(v * v for v in values))
    return [v / norm for v in values]


def pair(radius: int, gen: torch.Generator) -> list[list[mpf]]:
    """Spatial parts, on the hyperboloid, of two points at DISTANCE, the first at `radius`."""
    n, frame = unit(gen), unit(gen)
    x = [mpmath.sinh(radius) * v for v in n]
    along = mpmath.fsum(v * w for v, w in zip(n, frame, strict=True))
    tangent = [w + (mpmath.cosh(radius) - 1) * along * v for v, w in zip(n, frame, strict=True)]
    y = [
        mpmath.cosh(DISTANCE) * v + mpmath.sinh(DISTANCE) * u
        for v, u in zip(x, tangent, strict=True)
    ]
    return [x, y]


def height(x: list[mpf]) -> mpf:
    """x₀ of the spatial part."""
    return mpmath.sqrt(1 + mpmath.fsum(v * v for v in x))


def distance(x: list[mpf], y: list[mpf]) -> mpf:
    """Exact."""
    inner = mpmath.fsum(v * w for v, w in zip(x, y, strict=True))
    return mpmath.acosh(max(mpf(1), height(x) * height(y) - inner))


def in_model(model: Manifold, space: list[mpf]) -> list[mpf]:
    """Coordinates of the model."""
    if isinstance(model, Lorentz):
        return [height(space), *space]
    return [v / (1 + height(space)) for v in space]


def in_space(model: Manifold, point: list[mpf]) -> list[mpf] | None:
    """Inverse of `in_model`; None for points that are not within the boundary."""
    if isinstance(model, Lorentz):
        return point[1:]
    gap = 1 - mpmath.fsum(v * v for v in point)
    return [2 * v / gap for v in point] if gap > 0 else None


def errors(model: Manifold, dtype: torch.dtype, radius: int) -> tuple[float, float]:
    """Median relative errors: of rounded points and the formula together, and of the formula."""
    gen = torch.Generator().manual_seed(0)
    whole, formula = [], []
    for _ in range(PAIRS):
        points = [in_model(model, space) for space in pair(radius, gen)]
        rounded = [
            torch.tensor([float(v) for v in p], dtype=torch.float64).to(dtype) for p in points
        ]
        found = float(model.dist(*rounded))
        whole.append(abs(found - DISTANCE) / DISTANCE)
        spaces = [in_space(model, [mpf(v) for v in p.double().tolist()]) for p in rounded]
        if None not in spaces:
            exact = distance(*spaces)
            if exact > 1e-20:  # they have not become one point
                formula.append(float(abs(found - exact) / exact))
    return statistics.median(whole), statistics.median(formula) if formula else float("nan")


def main() -> None:
    """Print both tables as markdown."""
    for which in (0, 1):
        print("\n| | " + " | ".join(f"r = {r}" for r in RADII) + " |")
        print("| --- " * (len(RADII) + 1) + "|")
        for dtype in DTYPES:
            for model in (PoincareBall(), Lorentz()):
                found = [errors(model, dtype, r)[which] for r in RADII]
                cells = [f"{e:.0e}".replace("e-0", "e-") if e < 0.5 else "–" for e in found]
                name = f"{str(dtype).removeprefix('torch.')} {type(model).__name__}"
                print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()

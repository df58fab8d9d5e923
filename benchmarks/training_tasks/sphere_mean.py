"""The Fréchet mean of points of a sphere, min Σ dist(x, pᵢ)², from ten of the points a step."""

import torch
from riemopt_bench.problems._learning import draws
from torch import Tensor

from riemopt.manifolds import Sphere
from training_tasks.interface import Figures, Training, TrainingTask
from training_tasks.point import Point, gap

SIZE, POINTS, BATCH = 50, 200, 10


def frechet_mean(points: Tensor) -> Tensor:
    """By averaging logarithms (Afsari, Tron & Vidal 2013)."""
    sphere = Sphere()
    x = sphere.project(points.mean(0))
    for _ in range(200):
        x = sphere.project(sphere.exp(x, sphere.log(x, points).mean(0)))
    return x


def build(seed: int) -> Training:
    torch.manual_seed(seed)
    sphere = Sphere()
    turn = torch.linalg.qr(torch.randn(SIZE, SIZE, dtype=torch.float64)).Q
    spread = torch.logspace(-2, 0, SIZE, dtype=torch.float64)
    centre = 2.0 * torch.eye(SIZE, dtype=torch.float64)[0]
    noise = torch.randn(POINTS, SIZE, dtype=torch.float64)
    points = sphere.project((centre + noise * spread) @ turn)
    point = Point(sphere, SIZE)

    draw = draws(seed, lambda generator: torch.randint(POINTS, (BATCH,), generator=generator))

    def value(x: Tensor, points: Tensor) -> Tensor:
        return sphere.dist(x, points).square().mean()

    best = value(frechet_mean(points), points)
    return Training(
        point,
        {"x": sphere},
        lambda step: value(point.x, points[draw(step)]),
        lambda: Figures(gap(value(point.x, points), best)),
    )


TASK = TrainingTask("sphere_mean", "Fréchet mean on a sphere", "invariant", 400, build)

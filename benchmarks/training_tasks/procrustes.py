"""Procrustes on O(n): min ‖AX - B‖², from a start on the solution's component."""

import torch
from torch import Tensor

from riemopt.manifolds import Stiefel
from training_tasks.interface import Figures, Training, TrainingTask
from training_tasks.point import Point, gap

SIZE, ROWS, NOISE = 30, 100, 0.1


def build(seed: int) -> Training:
    torch.manual_seed(seed)
    group = Stiefel()
    turn = group.random_point(SIZE, SIZE, dtype=torch.float64)
    A = torch.randn(ROWS, SIZE, dtype=torch.float64) * torch.logspace(-1.5, 0, SIZE) @ turn
    B = A @ group.random_point(SIZE, SIZE, dtype=torch.float64)
    B = B + NOISE * torch.randn_like(B)
    point = Point(group, SIZE, SIZE)
    solution = group.project(A.mT @ B)
    if torch.linalg.det(solution) * torch.linalg.det(point.x.detach()) < 0:
        point.x.data[:, 0] *= -1

    def error(X: Tensor) -> Tensor:
        return (A @ X - B).square().sum() / ROWS

    return Training(
        point,
        {"x": group},
        lambda step: error(point.x),
        lambda: Figures(gap(error(point.x), error(solution))),
    )


TASK = TrainingTask("procrustes", "Procrustes on O(n)", "invariant", 300, build)

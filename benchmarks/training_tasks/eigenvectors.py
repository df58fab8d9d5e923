"""Ten leading eigenvectors of the covariance of the digits, in random coordinates."""

import torch
from riemopt_bench.problems._digits import digits
from torch import Tensor

from riemopt.manifolds import Stiefel
from training_tasks.interface import Figures, Training, TrainingTask
from training_tasks.point import Point, gap

RANK = 10


def build(seed: int) -> Training:
    torch.manual_seed(seed)
    images = digits()[0].double()
    n = images.shape[1]
    turn = Stiefel().random_point(n, n, dtype=torch.float64)
    A = turn @ images.mT.cov() @ turn.mT
    point = Point(Stiefel(), n, RANK)
    best = -torch.linalg.eigvalsh(A)[-RANK:].sum()

    def loss(step: int) -> Tensor:
        return -(point.x * (A @ point.x)).sum()

    return Training(point, {"x": Stiefel()}, loss, lambda: Figures(gap(loss(0), best)))


TASK = TrainingTask("eigenvectors", "eigenvectors", "invariant", 100, build)

"""A model that is one point, for problems without a network."""

import torch
from torch import Tensor, nn

from riemopt.manifolds import Manifold


class Point(nn.Module):
    """One weight, a random point of a manifold in float64."""

    def __init__(self, manifold: Manifold, *shape: int) -> None:
        super().__init__()
        self.x = nn.Parameter(manifold.random_point(*shape, dtype=torch.float64))


def gap(value: Tensor, best: Tensor) -> float:
    """(f - f*)/|f*|, not below 1e-13, where it is rounding alone."""
    return max(((value - best) / best.abs()).item(), 1e-13)

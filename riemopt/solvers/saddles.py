"""Saddle points: where a small gradient is not that of a minimum, and the way out."""

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from riemopt.solvers.krylov import Krylov
from riemopt.solvers.method import Stepper
from riemopt.solvers.points import Mask, Numbers, Points, host, times
from riemopt.solvers.problem import Evaluation, Hessian, Problem


class LeavesSaddles(Stepper):
    """A stepper that looks for negative curvature where the gradient is small.

    Args:
        problem: the cost.
        checks: products with the Hessian that are spent on that at most; 0 for none.
    """

    def __init__(self, problem: Problem, checks: int) -> None:
        self.problem, self._checks = problem, checks
        self.escape: tuple[Mask, Tensor] | None = None
        """Which problems are at a saddle, and unit vectors along which the curvature is negative;
        of the latest check, for the next step to use."""

    @override
    def confirms(self, here: Evaluation, small: Mask) -> Mask:
        if not self._checks:
            return small
        hessian = self.problem.hessian(here, small)
        leaves, along = negative_curvature(
            self.problem.points, here.x, hessian, self._checks, small
        )
        self.escape = (leaves, along) if leaves.any() else None
        return np.asarray(small & ~leaves)

    def descent(
        self, here: Evaluation, hessian: Hessian, along: Tensor
    ) -> tuple[Tensor, Numbers, Numbers]:
        """`along` or its opposite, so that the cost does not rise; its slope and its curvature."""
        points = self.problem.points
        slope, bend = host(
            points.inner(here.x, here.grad, along), points.inner(here.x, hessian(along), along)
        )
        sign = np.where(slope > 0, -1.0, 1.0)
        return times(sign, along), sign * slope, bend


def negative_curvature(
    points: Points, x: Tensor, hessian: Hessian, steps: int, active: Mask
) -> tuple[Mask, Tensor]:
    """Where the Hessian has a negative eigenvalue that Lanczos's method sees, and along what.

    From one random vector, the same in each call, since the gradient has no part in it at a saddle
    point: each problem of a batch has that which it would have alone.

    Returns:
        A mask, and tangent vectors of length 1.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(points.size, generator=generator, dtype=x.dtype).to(x.device)
    space = Krylov.of(points, x, points.proj_tangent(x, noise.expand(x.shape).contiguous()))
    smallest = np.zeros_like(space.length)
    for _ in range(min(steps, points.dim())):
        space.grow(hessian)
        values, vectors = np.linalg.eigh(space.tridiagonal())
        smallest = values[..., 0]
        size = np.abs(values).max(-1)
        found = active & (smallest < -(points.eps**0.5) * size) & (size > 0)
        if (found | space.is_invariant | ~active).all():
            break
    return found, space.combine(vectors[..., 0])

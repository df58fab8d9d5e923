"""What methods without gradients have in common: a cost that is only evaluated."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from riemopt.linalg import outside_autocast
from riemopt.solvers.points import Mask, Numbers, Points
from riemopt.solvers.problem import Evaluation, Problem


class GradientFree(Problem):
    """A cost that is only evaluated. It may use NumPy, `.item()`, or a program of its own.

    It may return Python's or NumPy's numbers. Gradients and their norm are NaN.
    """

    has_gradient = False

    @override
    def _cost(self, leaves: list[Tensor]) -> Tensor:
        value: Any = self._structure.cost([leaf.detach() for leaf in leaves])
        if not isinstance(value, Tensor):
            value = torch.as_tensor(value, dtype=torch.float64)
        return self._checked(value)

    @override
    def evaluate(
        self,
        x: Tensor,
        active: Mask | None = None,
        velocity: Tensor | None = None,
    ) -> Evaluation:
        return known(x, self.value(x, active))


def known(x: Tensor, value: Numbers) -> Evaluation:
    """A point whose value is known, as an evaluation without a gradient."""
    nothing = torch.full_like(x, torch.nan)
    nan = np.full(value.shape, np.nan)
    return Evaluation(x, value, nothing, nothing, nan, nan, nan)


@outside_autocast
def orthonormal_basis(points: Points, x: Tensor, generator: torch.Generator) -> Tensor:
    """A random basis of the tangent space at x, orthonormal in the metric: (dim, *batch, N)."""
    vectors = torch.stack([points.random_tangent(x, generator) for _ in range(points.dim())])
    lowered = points.lower(x, vectors)
    gram = vectors.movedim(0, -2) @ lowered.movedim(0, -2).mT
    factor = torch.linalg.cholesky((gram + gram.mT) / 2)
    basis = torch.linalg.solve_triangular(factor, vectors.movedim(0, -2), upper=False)
    return basis.movedim(-2, 0)


def towards(points: Points, x: Tensor, y: Tensor) -> Tensor:
    """The tangent vector at x that points to y: `log`, or P(y - x) where there is none."""

    def vector(m: Any, a: Tensor, b: Tensor) -> Tensor:
        try:
            return m.log(a, b)
        except NotImplementedError:
            return m.proj_tangent(a, b - a)

    return points.map(vector, x, y)

"""L-BFGS: steps of a quasi-Newton method, by pairs of steps and changes of the gradient."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from riemopt.linalg import outside_autocast
from riemopt.solvers.line_search import LineSearch, StrongWolfe
from riemopt.solvers.method import Move, Stepper
from riemopt.solvers.points import Mask, Numbers, Points, host, times, where
from riemopt.solvers.problem import Evaluation, Problem


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS with transported pairs (Huang, Gallivan & Absil 2015, §5).

    Every step needs one gradient, and one more where the line search does not take its first trial.
    All pairs (s, y) are transported to the new point. One whose curvature ⟨s, y⟩ is not positive
    enough there is left out, so that the direction is one of descent.

    Memory: 2·memory vectors of the size of a point, and as many again while they are transported.

    Not for: costs that are not smooth; saddle points, which it may take for minima.

    Args:
        memory: how many pairs are kept.
        line_search: how far to go.
    """

    memory: int = 10
    line_search: LineSearch = field(default_factory=StrongWolfe)

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise ValueError(f"lbfgs needs memory ≥ 1; got {self.memory!r}.")

    def start(self, problem: Problem, here: Evaluation) -> "_Run":
        """With no pair: the first step is one along the negative gradient, of length 1."""
        return _Run(self, problem, Pairs(problem.points, self.memory))


class Pairs:
    """The last pairs (s, y), s a step and y the change of the gradient along it, at one point.

    Vectors are kept as rows (2k, *batch, N): s, y of the oldest, …, s, y of the newest pair.
    """

    def __init__(self, points: Points, memory: int) -> None:
        self.points = points
        self.memory = memory
        self.rows: Tensor | None = None

    def clear(self, where_: Mask | None = None) -> None:
        """Forget the pairs, of the problems of the mask or of all."""
        if where_ is None or where_.all():
            self.rows = None
        elif self.rows is not None:
            self.rows = where(where_, torch.zeros_like(self.rows), self.rows)

    @outside_autocast
    def move(
        self, here: Evaluation, there: Evaluation, step: Tensor, active: Mask | None = None
    ) -> None:
        """Bring all to the next point, and take in the newest pair.

        Args:
            here, there: before and after.
            step: the tangent vector at `here` by which the point has moved.
            active: which problems have moved; of others the newest pair is zero, which counts for
                nothing.
        """
        new = torch.stack([step, here.grad])
        rows = new if self.rows is None else torch.cat([self.rows[-2 * self.memory + 2 :], new])
        if self.memory == 1:
            rows = new
        rows = self.points.transport(here.x, there.x, rows)
        change = there.grad - rows[-1]
        if active is not None:
            change = where(active, change, torch.zeros_like(change))
        rows[-1] = change
        self.rows = rows

    @outside_autocast
    def direction(self, here: Evaluation) -> tuple[Tensor, Numbers]:
        """-H·grad f, and its product with the gradient, the slope.

        The two loops over the pairs (Nocedal & Wright 2006, algorithm 7.4) need products of pairs
        alone: they are done on coefficients, with all products from one matrix product (Chen, Wang
        & Zhou 2014).
        """
        if self.rows is None:
            return -here.grad, -np.square(here.norm)
        k = self.rows.shape[0] // 2
        rows = self.rows.movedim(0, -2)  # (*batch, 2k, N)
        lowered = self.points.lower(here.x, self.rows).movedim(0, -2)
        gram = rows @ lowered.mT
        with_grad = lowered @ here.grad.unsqueeze(-1)
        (products,) = host(torch.cat([gram, with_grad], -1))  # (*batch, 2k, 2k + 1)
        pairs, grad = two_loops(products, k)
        coefficients = torch.from_numpy(pairs).to(rows.device, rows.dtype).unsqueeze(-2)
        d = times(grad, here.grad) + (coefficients @ rows).squeeze(-2)
        slope = (pairs * products[..., -1]).sum(-1) + grad * np.square(here.norm)
        return d, np.asarray(slope)


def two_loops(products: Numbers, k: int) -> tuple[Numbers, Numbers]:
    """Coefficients of -H·g in s₁, y₁, …, s_k, y_k, g.

    Args:
        products: `(*batch, 2k, 2k + 1)`: those of each s and y with each s and y, and with g.
        k: the number of pairs.

    Returns:
        `(*batch, 2k)` and `(*batch,)`.
    """
    gram, r = products[..., :-1], products[..., -1]
    sy = np.stack([gram[..., 2 * i, 2 * i + 1] for i in range(k)], -1)
    ss = np.stack([gram[..., 2 * i, 2 * i] for i in range(k)], -1)
    yy = np.stack([gram[..., 2 * i + 1, 2 * i + 1] for i in range(k)], -1)
    # Transport may have turned a curvature negative, and rounding make it anything.
    good = (sy > 1e-10 * np.sqrt(ss * yy)) & np.isfinite(sy) & (ss > 0)
    rho = np.where(good, 1 / np.where(good, sy, 1), 0)
    # r = (products with) the vector under way, c its coefficients.
    c = np.zeros_like(r)
    alphas: list[Numbers] = [np.zeros(()) for _ in range(k)]
    for i in reversed(range(k)):
        alphas[i] = rho[..., i] * r[..., 2 * i]
        c[..., 2 * i + 1] = -alphas[i]
        r = r - alphas[i][..., None] * gram[..., 2 * i + 1]
    gamma = np.ones(r.shape[:-1])
    for i in range(k):  # that of the newest good pair
        gamma = np.where(good[..., i], sy[..., i] / np.where(good[..., i], yy[..., i], 1), gamma)
    c, r = gamma[..., None] * c, gamma[..., None] * r
    for i in range(k):
        beta = alphas[i] - rho[..., i] * r[..., 2 * i + 1]
        c[..., 2 * i] += beta
        r = r + beta[..., None] * gram[..., 2 * i]
    return -c, -gamma


class _Run(Stepper):
    def __init__(self, options: LBFGS, problem: Problem, pairs: Pairs) -> None:
        self.options, self.problem, self.pairs = options, problem, pairs

    def step(self, here: Evaluation, active: Mask) -> Move:
        d, slope = self.pairs.direction(here)
        first = np.asarray(self.pairs.rows is None) | (slope >= 0)
        if self.pairs.rows is not None and (first & active).any():
            d = where(first, -here.grad, d)
            slope = np.where(first, -np.square(here.norm), slope)
        length = np.where(first, first_length(here), 1.0)
        found = self.options.line_search(self.problem, here, d, slope, length, active)
        failed = active & ~found.moved
        stuck = failed & first
        self.pairs.move(here, found.there, times(found.length, d), found.moved)
        self.pairs.clear(failed)
        return Move(found.there, found.moved, stuck, {"step": found.length})


def first_length(here: Evaluation) -> Numbers:
    """Of the first trial along -grad f: of a step of length 1."""
    return 1 / np.where(here.norm > 0, here.norm, 1)

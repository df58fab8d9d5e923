"""L-BFGS: steps of a quasi-Newton method, by pairs of steps and changes of the gradient."""

import functools
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from riemopt.linalg import outside_autocast
from riemopt.solvers.line_search import LineSearch, StrongWolfe, first_length
from riemopt.solvers.method import Method, Move, Stepper
from riemopt.solvers.points import Mask, Numbers, Points, host, times, where
from riemopt.solvers.problem import Evaluation, Problem


@dataclass(frozen=True)
class LBFGS(Method):
    """Limited-memory BFGS with transported pairs (Huang, Gallivan & Absil 2015, §5).

    Every step needs one gradient, and one more where the line search does not take its first trial.
    All pairs (s, y) are transported to the new point. One whose curvature ⟨s, y⟩ is not positive
    enough there is left out, so that the direction is one of descent.

    Memory: 2·memory vectors of the size of a point, and as many again while they are transported.

    Not for: costs that are not smooth; saddle points, which it may take for minima.

    Args:
        memory: how many pairs are kept.
        line_search: how far to go.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import LBFGS
        >>> A = torch.diag(torch.arange(1.0, 6.0)).double()
        >>> x, method = Sphere().project(torch.ones(5).double()), LBFGS(memory=5)
        >>> minimize(lambda x: x @ A @ x, x, Sphere(), method=method).success
        True
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
        self,
        here: Evaluation,
        there: Evaluation,
        step: Tensor,
        curvature: Numbers,
        moved: Mask | None = None,
    ) -> None:
        """Bring all to the next point, and take in the newest pair.

        Args:
            here, there: before and after.
            step: the tangent vector at `here` by which the point has moved.
            curvature: t·(φ'(t) - φ'(0)) of the line search. The part of y along s is set so that
                ⟨s, y⟩ is this: by itself it is so to first order alone, and not where a transport
                has torsion, as the left translation of a matrix group. NaN where it is not known.
            moved: which problems have moved; of others the newest pair is zero, which counts for
                nothing. None for all.
        """
        new = torch.stack([step, here.grad])
        kept = (
            None if self.rows is None else self.rows[max(len(self.rows) - 2 * self.memory + 2, 0) :]
        )
        rows = new if kept is None else torch.cat([kept, new])
        rows = self.points.transport(here.x, there.x, rows)
        s, y = rows[-2], there.grad - rows[-1]
        ss, sy = (self.points.inner(there.x, s, v) for v in (s, y))
        exact = torch.as_tensor(curvature, dtype=sy.dtype).to(sy.device)
        excess = torch.where(exact > 0, (exact - sy) / ss, 0)
        y = y + torch.where(excess.isfinite(), excess, 0).unsqueeze(-1) * s
        if moved is not None and not moved.all():
            y = where(moved, y, torch.zeros_like(y))
        rows[-1] = y
        self.rows = rows

    @outside_autocast
    def direction(self, here: Evaluation) -> tuple[Tensor, Numbers]:
        """-H·grad f, and its product with the gradient, the slope.

        All products of pairs come from one matrix product; the rest is done on coefficients.
        """
        if self.rows is None:
            return -here.grad, -np.square(here.norm)
        rows = self.rows.movedim(0, -2)  # (*batch, 2k, N)
        lowered = self.points.lower(here.x, self.rows).movedim(0, -2)
        gram = rows @ lowered.mT
        with_grad = lowered @ here.grad.unsqueeze(-1)
        (products,) = host(torch.cat([gram, with_grad], -1))  # (*batch, 2k, 2k + 1)
        pairs, grad = compact(products)
        coefficients = torch.from_numpy(pairs).to(rows.device, rows.dtype).unsqueeze(-2)
        d = times(grad, here.grad) + (coefficients @ rows).squeeze(-2)
        slope = (pairs * products[..., -1]).sum(-1) + grad * np.square(here.norm)
        return d, np.asarray(slope)


def compact(products: Numbers) -> tuple[Numbers, Numbers]:
    """Coefficients of -H·g in s₁, y₁, …, s_k, y_k, and in g.

    By the compact form of the inverse BFGS matrix (Byrd, Nocedal & Schnabel 1994, eq. 3.1):

        H·g = γg + S·q - γY·p,    R·p = Sᵀg,    Rᵀ·q = (D + γYᵀY)·p - γYᵀg

    with R the upper triangle of SᵀY and D its diagonal.

    Args:
        products: `(*batch, 2k, 2k + 1)`: those of each s and y with each s and y, and with g.

    Returns:
        `(*batch, 2k)` and `(*batch,)`.
    """
    sy, yy = products[..., ::2, 1:-1:2], products[..., 1::2, 1:-1:2]
    sg, yg = products[..., ::2, -1], products[..., 1::2, -1]
    D, y_squared = _diagonal(sy), _diagonal(yy)
    s_squared = _diagonal(products[..., ::2, :-1:2])
    # Transport may have turned a curvature negative. Such pairs become those of an identity.
    good = (1e-10 * np.sqrt(s_squared * y_squared) < D) & np.isfinite(s_squared * y_squared)
    if good.all():
        gamma = D[..., -1] / y_squared[..., -1]
    else:
        both = good[..., :, None] & good[..., None, :]
        sy, yy = np.where(both, sy, 0) + np.eye(good.shape[-1]) * ~both, np.where(both, yy, 0)
        sg, yg, D = np.where(good, sg, 0), np.where(good, yg, 0), np.where(good, D, 0)
        gamma = _of_newest(good, D, y_squared)
    inverse = np.linalg.inv(sy * _upper(sy.shape[-1]))  # of R
    g = gamma[..., None]
    p = (inverse @ sg[..., None])[..., 0]
    right = D * p + g * ((yy @ p[..., None])[..., 0] - yg)
    coefficients = np.empty_like(products[..., -1])
    coefficients[..., ::2] = -(right[..., None, :] @ inverse)[..., 0, :]
    coefficients[..., 1::2] = g * p
    return coefficients, -gamma


@functools.cache
def _upper(k: int) -> Numbers:
    return np.triu(np.ones((k, k)))


def _diagonal(a: Numbers) -> Numbers:
    return np.diagonal(a, axis1=-2, axis2=-1)


def _of_newest(good: Mask, D: Numbers, y_squared: Numbers) -> Numbers:
    """γ = ⟨s, y⟩/⟨y, y⟩ of the newest good pair, the size of the inverse Hessian; 1 without one."""
    newest = good.shape[-1] - 1 - np.argmax(good[..., ::-1], -1)[..., None]
    curvature, length = (np.take_along_axis(a, newest, -1)[..., 0] for a in (D, y_squared))
    return np.where(good.any(-1), curvature / np.where(length > 0, length, 1), 1.0)


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
        curvature = found.length * (found.there.slope - slope)
        self.pairs.move(here, found.there, times(found.length, d), curvature, found.moved)
        self.pairs.clear(failed)
        return Move(found.there, found.moved, stuck, {"step": found.length})

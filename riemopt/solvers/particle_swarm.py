"""Particle swarms: many points that are drawn to the best one seen; no gradient is needed."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from riemopt.solvers.gradient_free import GradientFree, known, towards
from riemopt.solvers.method import Method, Move, Stepper
from riemopt.solvers.points import Mask, where
from riemopt.solvers.problem import Evaluation, Problem


@dataclass(frozen=True)
class ParticleSwarm(Method):
    """A swarm in search of the lowest value (Kennedy & Eberhart 1995; Borckmans et al. 2010).

    Each particle x has a velocity v and knows the best point p that it has seen and g, the best of
    all: v ← inertia·v + nostalgia·r₁∘(towards p) + social·r₂∘(towards g), x ← R(x, v), with new
    random numbers r₁, r₂ in [0, 1] for each entry; the products are projected. The default weights
    are those with which a swarm contracts by itself (Clerc & Kennedy 2002). It ends when the lowest
    value has not fallen for a while.

    For: costs with several minima, of a few dimensions; costs without a gradient. End with a local
    method: its minimum is exact to √ftol at best.

    Not for: minima to many digits.

    Args:
        particles: how many; None for ten for each dimension, at most 40.
        spread: the swarm starts in steps of this length from `x0`. None: at random points of the
            whole manifold (of ℝⁿ, standard normal ones), and one at `x0`.
        inertia, nostalgia, social: the weights.
        ftol: a fall by less than this part of the lowest value is none; `tol` sets it.
        patience: it ends after so many iterations without a fall.
        seed: of all random numbers.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import ParticleSwarm
        >>> start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
        >>> method = ParticleSwarm(particles=20)
        >>> found = minimize(lambda x: float(x[2]), start, Sphere(), method=method)
        >>> round(found.fun, 4)
        -1.0
    """

    problem = GradientFree
    particles: int | None = None
    spread: float | None = None
    inertia: float = 0.7298
    nostalgia: float = 1.4962
    social: float = 1.4962
    ftol: float = 1e-8
    patience: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.particles is not None and self.particles < 2:
            raise ValueError(f"particle-swarm needs particles ≥ 2; got {self.particles!r}.")
        if self.patience < 1:
            raise ValueError(f"particle-swarm needs patience ≥ 1; got {self.patience!r}.")
        for name, value in (("spread", self.spread), ("ftol", self.ftol)):
            if value is not None and not value > 0:
                raise ValueError(f"particle-swarm needs {name} > 0; got {value!r}.")

    @override
    def start(self, problem: Problem, here: Evaluation) -> "_Run":
        """With the first swarm, all but one of which are evaluated."""
        return _Run(self, problem, here)


class _Run(Stepper):
    converged = "Converged: the lowest value has not fallen for many iterations"

    def __init__(self, options: ParticleSwarm, problem: Problem, here: Evaluation) -> None:
        points = self.points = problem.points
        self.options, self.problem = options, problem
        self.generator = torch.Generator(here.x.device).manual_seed(options.seed)
        count = options.particles or max(2, min(40, 10 * points.dim()))
        self.x = torch.cat([here.x.unsqueeze(0), self._others(here.x, count - 1)])
        self.v = torch.zeros_like(self.x)
        rest = [problem.value(x, problem.all) for x in self.x[1:]]
        self.best, self.values = self.x, np.stack([here.value, *rest])
        self.first_spread = np.ptp(self.values, axis=0)
        self.noted = self.values.min(0)
        self.waited = np.zeros(points.batch, dtype=np.int64)

    def _others(self, x0: Tensor, count: int) -> Tensor:
        """The particles that do not start at x0: (count, *batch, N)."""
        points = self.points
        if self.options.spread is not None:
            at = x0.expand(count, *x0.shape)
            u = points.random_tangent(at, self.generator)
            norm = points.inner(at, u, u).sqrt().unsqueeze(-1)
            return points.retract(at, self.options.spread * u / norm)
        tensors = [
            m.random_point(
                count,
                *points.batch,
                *shape,
                generator=self.generator,
                dtype=dtype,
                device=points.device,
            )
            for m, shape, dtype in zip(points.manifolds, points.shapes, points.dtypes, strict=True)
        ]
        return points.pack(tensors)

    @override
    def step(self, here: Evaluation, active: Mask) -> Move:
        options, points = self.options, self.points
        leader = self._leader().expand(self.x.shape)
        self.v = (
            options.inertia * self.v
            + options.nostalgia * self._drawn_to(self.best)
            + options.social * self._drawn_to(leader)
        )
        y = points.retract(self.x, self.v)
        self.v = points.transport(self.x, y, self.v)
        self.x = y
        values = np.stack([self.problem.value(x, active) for x in y])
        better = active & (values < self.values)
        self.best = where(better, y, self.best)
        self.values = np.where(better, values, self.values)

        lowest = self.values.min(0)
        least = options.ftol * np.maximum(np.abs(lowest), options.ftol * self.first_spread)
        falls = self.noted - lowest > least
        self.noted = np.where(falls, lowest, self.noted)
        self.waited = np.where(falls, 0, self.waited + 1)
        stuck = active & (self.waited >= options.patience)
        there = known(self._leader(), lowest)
        return Move(
            there, active & (lowest < here.value), stuck, {"spread": np.ptp(self.values, axis=0)}
        )

    def _leader(self) -> Tensor:
        """The best point seen, of each problem."""
        index = torch.from_numpy(np.asarray(self.values.argmin(0)[None, ..., None]))
        return torch.take_along_dim(self.best, index.to(self.best.device), 0)[0]

    def _drawn_to(self, y: Tensor) -> Tensor:
        """r∘(towards y), projected."""
        r = torch.rand(y.shape, generator=self.generator, dtype=y.dtype, device=y.device)
        return self.points.proj_tangent(self.x, r * towards(self.points, self.x, y))

"""Electrons on a sphere, as far apart as they can be: Thomson's problem.

    minimise  f(x) = Σ 1/‖xᵢ - xⱼ‖  over pairs of n unit vectors in space

Twelve electrons make an icosahedron. For 32 and 50 there are local minima, and what a method ends
in follows from the start, the same for all methods. The least energies known are those of Wales &
Ulker (2006), printed to nine decimals.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._known_minimum import GAP, normal, one_weight
from riemopt_bench.surfaces import Sphere

MINIMA = {12: 49.165253058, 32: 412.261274651, 50: 1055.182314726}


@functools.cache
def pairs(n: int) -> tuple[Tensor, Tensor]:
    """First and second members of the pairs."""
    first, second = torch.triu_indices(n, n, offset=1)
    return first, second


def cost(x: Tensor, pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Σ 1/‖xᵢ - xⱼ‖, of x `(*batch, n, 3)`."""
    first, second = pairs
    apart = x.index_select(-2, first) - x.index_select(-2, second)
    return torch.rsqrt(apart.square().sum(-1)).sum(-1)


def build(n: int, seed: int) -> Task:
    """The seed draws the start."""
    start = Sphere().start(normal(seed, n, 3))
    return one_weight(Sphere(), start, cost, pairs(n), MINIMA[n])


PROBLEMS = tuple(
    Problem(
        name=f"thomson-{n}",
        title=f"Thomson's problem, {n} electrons",
        description=f"{n} points on a sphere that repel each other.",
        metric=GAP,
        higher_is_better=False,
        target=1e-6,
        surfaces=frozenset({Sphere()}),
        build=functools.partial(build, n),
        reference="The least energy known (Wales & Ulker 2006).",
        bounded=False,
        full_batch=True,
        log_metric=True,
        resolution=2e-11,  # of nine decimals
        budget=Budget(500),
    )
    for n in MINIMA
)

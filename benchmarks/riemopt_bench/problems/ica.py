"""One basis in which many symmetric matrices are diagonal: the last step of ICA.

    minimise  f(X) = Σᵢ ‖off-diagonal part of XᵀAᵢX‖²  over orthogonal X

In independent component analysis the Aᵢ are cumulants or lagged covariances of whitened signals
(Cardoso & Souloumiac 1993; Belouchrani et al. 1997). Here they commute, so that the minimum is 0.
Without the constraint X = 0 would do.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._known_minimum import normal, one_weight
from riemopt_bench.surfaces import Stiefel

SIDE, COUNT = 10, 20


@functools.cache
def matrices(n: int, k: int) -> Tensor:
    """A₁, …, A_k, of shape (k, n, n), with normal eigenvalues and a common basis."""
    Q = torch.linalg.qr(normal(6, n, n))[0]
    A = (Q * normal(7, k, 1, n)) @ Q.mT
    return (A + A.mT) / 2


def cost(X: Tensor, A: Tensor) -> Tensor:
    """Σᵢ ‖off-diagonal part of XᵀAᵢX‖²."""
    off = 1 - torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)
    return (off * (X.mT @ A @ X)).square().sum()


def build(seed: int) -> Task:
    """The matrices are fixed; the seed draws the start."""
    start = Stiefel().start(normal(seed, SIDE, SIDE))
    return one_weight(Stiefel(), start, cost, matrices(SIDE, COUNT), 0.0)


PROBLEMS = (
    Problem(
        name="ica",
        title="ICA by joint diagonalisation",
        description=f"An orthogonal {SIDE}×{SIDE} matrix that makes {COUNT} matrices diagonal.",
        metric="f",
        higher_is_better=False,
        target=1e-6,
        surfaces=frozenset({Stiefel()}),
        build=build,
        reference="The matrices commute: the optimum is 0.",
        full_batch=True,
        log_metric=True,
        resolution=1e-24,
        budget=Budget(1000),
    ),
)

"""Deterministic problems with known minima, posed to solvers that take the whole batch.

    from full_batch_problems import PROBLEMS

    problem = PROBLEMS["brockett"]()

A file a family. Costs, data and minima come from `riemopt_bench.problems`. The sizes are those of
Manopt's and pymanopt's own examples, or larger.
"""

import functools
from collections.abc import Callable

from full_batch_problems.completion import completion
from full_batch_problems.interface import FullBatch
from full_batch_problems.means import karcher_mean
from full_batch_problems.relaxations import max_cut, nearest_correlation
from full_batch_problems.rotations import joint_diagonalisation, procrustes
from full_batch_problems.spectral import brockett, dominant_subspace, pca, rayleigh
from full_batch_problems.thomson import thomson

PROBLEMS: dict[str, Callable[[], FullBatch]] = {
    "rayleigh": rayleigh,
    "dominant_subspace": dominant_subspace,
    "brockett": brockett,
    "pca": pca,
    "procrustes": procrustes,
    "max_cut": max_cut,
    "nearest_correlation": nearest_correlation,
    "karcher_mean": karcher_mean,
    "joint_diagonalisation": joint_diagonalisation,
    "completion": completion,
    "thomson_12": functools.partial(thomson, 12),
    "thomson_32": functools.partial(thomson, 32),
    "thomson_50": functools.partial(thomson, 50),
}
"""Builders by name; a problem is built when it is asked for."""

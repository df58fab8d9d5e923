"""The catalogue. One file per manifold; the contract is in `base.py`."""

import torch

from riemopt.manifolds.base import Manifold
from riemopt.manifolds.euclidean import Euclidean
from riemopt.manifolds.flattened import Flattened
from riemopt.manifolds.level_set import LevelSet
from riemopt.manifolds.linear import LinearSubspace
from riemopt.manifolds.skew_symmetric import SkewSymmetric
from riemopt.manifolds.sphere import Sphere
from riemopt.manifolds.stiefel import Stiefel
from riemopt.manifolds.symmetric import Symmetric

__all__ = [
    "Euclidean",
    "Flattened",
    "LevelSet",
    "LinearSubspace",
    "Manifold",
    "SkewSymmetric",
    "Sphere",
    "Stiefel",
    "Symmetric",
]

# `torch.load(weights_only=True)` may rebuild these: descriptions made of Python scalars.
torch.serialization.add_safe_globals(
    [Euclidean, Flattened, SkewSymmetric, Sphere, Stiefel, Symmetric]
)

"""The catalogue. One file per manifold; the contract is in `base.py`."""

import torch

from riemopt.manifolds.affine import AffineSubspace
from riemopt.manifolds.as_product import ExceptRows, RowBlocks
from riemopt.manifolds.base import Manifold
from riemopt.manifolds.constant import Constant
from riemopt.manifolds.correlation import Correlation
from riemopt.manifolds.cut import Cut
from riemopt.manifolds.doubly_stochastic import DoublyStochastic
from riemopt.manifolds.elliptope import Elliptope
from riemopt.manifolds.euclidean import Euclidean
from riemopt.manifolds.fixed_rank import FixedRank
from riemopt.manifolds.fixed_rank_factors import FixedRankFactors
from riemopt.manifolds.fixed_sum import FixedSum
from riemopt.manifolds.flag import Flag
from riemopt.manifolds.flattened import Flattened
from riemopt.manifolds.frozen import Frozen
from riemopt.manifolds.generalized_stiefel import GeneralizedStiefel
from riemopt.manifolds.gl_plus import GLPlus
from riemopt.manifolds.grassmann import Grassmann
from riemopt.manifolds.interval import Interval
from riemopt.manifolds.level_set import LevelSet
from riemopt.manifolds.linear import FlatSubspace, LinearSubspace
from riemopt.manifolds.lorentz import Lorentz
from riemopt.manifolds.poincare_ball import PoincareBall
from riemopt.manifolds.positive import Positive
from riemopt.manifolds.product import Product
from riemopt.manifolds.psd_fixed_rank import PSDFixedRank
from riemopt.manifolds.retractions import QR, Cayley, Cubic, Polar, Retraction
from riemopt.manifolds.scaled import Scaled
from riemopt.manifolds.simplex import Simplex
from riemopt.manifolds.skew_symmetric import SkewSymmetric
from riemopt.manifolds.sparsity import Sparsity
from riemopt.manifolds.spd import SPD
from riemopt.manifolds.special_euclidean import SpecialEuclidean
from riemopt.manifolds.special_linear import SpecialLinear
from riemopt.manifolds.special_orthogonal import SpecialOrthogonal, SpecialUnitary
from riemopt.manifolds.spectrahedron import Spectrahedron
from riemopt.manifolds.sphere import Sphere
from riemopt.manifolds.stereographic import Stereographic
from riemopt.manifolds.stiefel import Stiefel
from riemopt.manifolds.symmetric import Symmetric
from riemopt.manifolds.symplectic_stiefel import SymplecticStiefel
from riemopt.manifolds.toeplitz import Circulant, Toeplitz

__all__ = [
    "QR",
    "SPD",
    "AffineSubspace",
    "Cayley",
    "Circulant",
    "Constant",
    "Correlation",
    "Cubic",
    "DoublyStochastic",
    "Elliptope",
    "Euclidean",
    "ExceptRows",
    "FixedRank",
    "FixedRankFactors",
    "FixedSum",
    "Flag",
    "FlatSubspace",
    "Flattened",
    "Frozen",
    "GLPlus",
    "GeneralizedStiefel",
    "Grassmann",
    "Interval",
    "LevelSet",
    "LinearSubspace",
    "Lorentz",
    "Manifold",
    "PSDFixedRank",
    "PoincareBall",
    "Polar",
    "Positive",
    "Product",
    "Retraction",
    "RowBlocks",
    "Scaled",
    "Simplex",
    "SkewSymmetric",
    "Sparsity",
    "SpecialEuclidean",
    "SpecialLinear",
    "SpecialOrthogonal",
    "SpecialUnitary",
    "Spectrahedron",
    "Sphere",
    "Stereographic",
    "Stiefel",
    "Symmetric",
    "SymplecticStiefel",
    "Toeplitz",
]

# `torch.load(weights_only=True)` may rebuild what is made of numbers and arrays, not of functions.
_DESCRIPTIONS = [globals()[name] for name in __all__ if name != "LevelSet"]
torch.serialization.add_safe_globals([Cut, *_DESCRIPTIONS])

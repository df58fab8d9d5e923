"""Riemannian optimizers for PyTorch: the stored weight itself stays on the constraint surface.

constrain(model.fc, "weight", Stiefel())
optimizer = RiemannianAdam(model.parameters(), lr=1e-3)
optimizer.step()                # model.fc.weight has orthonormal columns, to rounding
"""

from riemopt import manifolds, swa_utils
from riemopt.manifolds import Manifold
from riemopt.manifolds.means import mean, median
from riemopt.nn.constrain import (
    Constraint,
    ManifoldParameter,
    constrain,
    constraints,
    manifold_of,
    project_,
    unconstrain,
)
from riemopt.nn.table import LostManifoldError
from riemopt.optim import (
    OffManifoldWarning,
    RiemannianAdagrad,
    RiemannianAdam,
    RiemannianAdamW,
    RiemannianLBFGS,
    RiemannianMuon,
    RiemannianNAdam,
    RiemannianOptimizer,
    RiemannianRMSprop,
    RiemannianSGD,
    RiemannianSparseAdam,
    riemannian,
)
from riemopt.solvers.minimize import minimize

__version__ = "0.2.0"

__all__ = [
    "Constraint",
    "LostManifoldError",
    "Manifold",
    "ManifoldParameter",
    "OffManifoldWarning",
    "RiemannianAdagrad",
    "RiemannianAdam",
    "RiemannianAdamW",
    "RiemannianLBFGS",
    "RiemannianMuon",
    "RiemannianNAdam",
    "RiemannianOptimizer",
    "RiemannianRMSprop",
    "RiemannianSGD",
    "RiemannianSparseAdam",
    "constrain",
    "constraints",
    "manifold_of",
    "manifolds",
    "mean",
    "median",
    "minimize",
    "project_",
    "riemannian",
    "swa_utils",
    "unconstrain",
]

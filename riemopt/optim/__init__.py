"""Riemannian optimizers with the signatures of torch's own."""

from riemopt.optim import torch_steps  # noqa: F401 (it warns of torch's own steps)
from riemopt.optim.adam import RiemannianAdam, RiemannianAdamW
from riemopt.optim.classes import (
    RiemannianAdagrad,
    RiemannianNAdam,
    RiemannianRMSprop,
    RiemannianSparseAdam,
    riemannian,
)
from riemopt.optim.lbfgs import RiemannianLBFGS
from riemopt.optim.muon import RiemannianMuon
from riemopt.optim.off_manifold import OffManifoldWarning
from riemopt.optim.optimizer import RiemannianOptimizer
from riemopt.optim.sgd import RiemannianSGD

__all__ = [
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
    "riemannian",
]

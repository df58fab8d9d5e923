"""Riemannian optimizers with the signatures of torch's own."""

from riemopt.optim.adam import RiemannianAdam, RiemannianAdamW
from riemopt.optim.classes import (
    RiemannianAdagrad,
    RiemannianNAdam,
    RiemannianRMSprop,
    RiemannianSparseAdam,
    riemannian,
)
from riemopt.optim.optimizer import RiemannianOptimizer
from riemopt.optim.sgd import RiemannianSGD

__all__ = [
    "RiemannianAdagrad",
    "RiemannianAdam",
    "RiemannianAdamW",
    "RiemannianNAdam",
    "RiemannianOptimizer",
    "RiemannianRMSprop",
    "RiemannianSGD",
    "RiemannianSparseAdam",
    "riemannian",
]

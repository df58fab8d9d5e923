"""Riemannian optimizers with the signatures of torch's own."""

from riemopt.optim.adam import RiemannianAdam, RiemannianAdamW
from riemopt.optim.base import RiemannianOptimizer
from riemopt.optim.sgd import RiemannianSGD

__all__ = ["RiemannianAdam", "RiemannianAdamW", "RiemannianOptimizer", "RiemannianSGD"]

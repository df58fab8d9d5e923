"""The optimizers that `riemannian(cls)` is tested on, and weights to try them with."""

import pytest
import torch
from torch import nn

from riemopt import ManifoldParameter
from riemopt.manifolds import Sphere, Stiefel, Symmetric
from riemopt.optim import riemannian
from tests.bounds import on_surface, wide

try:
    import pytorch_optimizer
except ImportError:  # an optional dependency of the tests
    OUTSIDE = {}
else:
    OUTSIDE = {"Lion": pytorch_optimizer.Lion, "Prodigy": pytorch_optimizer.Prodigy}

# Subclasses of these; LBFGS itself needs a closure, see test_lbfgs.py.
REFUSED = {"LBFGS": r"move all parameters along one line"}
SPARSE = {"SparseAdam"}  # takes no dense gradients; see test_sparse_gradients.py
TORCH = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type)
    and issubclass(cls, torch.optim.Optimizer)
    and cls is not torch.optim.Optimizer
    and name not in {*REFUSED, *SPARSE}
}
BASES = {**TORCH, **OUTSIDE}
# With which they move a weight of unit size visibly in a few steps.
OPTIONS = {
    "ASGD": {"lr": 0.05},
    "Adadelta": {"lr": 1.0, "eps": 1e-3},
    "Adafactor": {"lr": 0.1},
    "Adagrad": {"lr": 0.05},
    "Adam": {"lr": 0.05, "amsgrad": True},
    "AdamW": {"lr": 0.05},
    "Adamax": {"lr": 0.05},
    "Lion": {"lr": 0.02},
    "Muon": {"lr": 0.05},
    "NAdam": {"lr": 0.05},
    "Prodigy": {"d0": 0.02, "growth_rate": 1.02},
    "RAdam": {"lr": 0.05},
    "RMSprop": {"lr": 0.02, "momentum": 0.5},
    "Rprop": {"lr": 0.02},
    "SGD": {"lr": 0.05, "momentum": 0.9},
}
# These compare all parameters with each other, or keep what they need of the others in a group.
LOOKS_AT_ALL = ("Prodigy",)
BY_ENTRY = [n for n in BASES if n not in ("Adafactor", "Muon", "Lion", "Prodigy")]
POINTS = {
    "sphere": (Sphere(), (4, 6)),
    "tall": (Stiefel(), (6, 3)),
    "wide": (Stiefel(), (3, 6)),
    "square": (Stiefel(), (4, 4)),
    "symmetric": (Symmetric(), (4, 4)),
}
PLAIN = [(3, 2), (4, 5), (1, 6)]  # matrices, since Muon takes no others
DTYPES = [torch.float64, torch.float32, torch.bfloat16]

every_class = pytest.mark.parametrize("name", BASES)
every_point = pytest.mark.parametrize("point", POINTS)


class Clipped(torch.optim.SGD):
    """A class whose step is that of its base and something besides, as many are written."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            nn.utils.clip_grad_value_(group["params"], group["clip"])
        return super().step(closure)

    def __init__(self, params, lr=0.1, clip=0.5):
        super().__init__(params, lr, momentum=0.9)
        for group in self.param_groups:
            group["clip"] = clip


def make(name, params, **changed):
    return riemannian(BASES[name])(params, **{**OPTIONS[name], **changed})


def counterparts(optimizer, params, copied):
    """The parameters of a copy of the optimizer, in the order of `params`."""
    groups = zip(optimizer.param_groups, copied.param_groups, strict=True)
    pairs = {id(p): q for a, b in groups for p, q in zip(a["params"], b["params"], strict=True)}
    return [pairs[id(p)] for p in params]


def noise(shape, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(10**6 + seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


def weight(point, seed=0, dtype=torch.float32):
    manifold, shape = POINTS[point]
    return ManifoldParameter(noise(shape, -seed - 1, dtype), manifold)


def plain_weights(dtype=torch.float32):
    return [nn.Parameter(noise(s, -90 - i, dtype)) for i, s in enumerate(PLAIN)]


def fill(params, step):
    for i, p in enumerate(params):
        p.grad = noise(p.shape, 100 * step + i, p.dtype)


def run(optimizer, params, steps=3, start=0):
    for step in range(start, start + steps):
        fill(params, step)
        optimizer.step()


def assert_same_state(ours, theirs):
    """The same values, options and state; parameters are matched by their place."""
    for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - {"params"}:
            assert a[key] == b[key], key
        for p, q in zip(a["params"], b["params"], strict=True):
            torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=0, equal_nan=True)
            assert_equal_entries(ours.state[p], theirs.state[q])


def assert_equal_entries(mine, other):
    assert mine.keys() == other.keys()
    for key, value in mine.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other[key], rtol=0, atol=0)
        else:
            assert value == other[key], key


def assert_on_the_surface(p):
    x = p.detach()
    size = float(x.abs().max()) if isinstance(p.manifold, Symmetric) else 1.0
    violation = p.manifold.violation(wide(x) if x.dtype != torch.bfloat16 else x).max()
    assert violation <= on_surface(p.manifold, x) * max(1.0, size)

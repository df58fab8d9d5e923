"""A deeper classifier of digits, 64-256-128-128-10, whose three hidden weights lie where one says.

With a gain a layer, a learned factor that starts at √2, or without.
"""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from riemopt_bench.problems._digits import learn_from, split_digits
from torch import Tensor, nn

from riemopt.manifolds import Manifold, Sphere, Stiefel
from training_tasks.interface import Training, TrainingTask
from training_tasks.networks import training

WIDTHS = (64, 256, 128, 128)
HIDDEN = [f"hidden.{i}.weight" for i in range(len(WIDTHS) - 1)]


class Net(nn.Module):
    def __init__(self, *, has_gain: bool) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(WIDTHS))
        for layer in self.hidden:
            nn.init.orthogonal_(layer.weight)
        self.gains = nn.Parameter(torch.full((len(self.hidden),), 2**0.5), requires_grad=has_gain)
        if not has_gain:
            self.gains.data.fill_(1)
        self.head = nn.Linear(WIDTHS[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer, gain in zip(self.hidden, self.gains, strict=True):
            x = (gain * layer(x)).relu()
        return self.head(x)


def build(seed: int, *, kind: str, has_gain: bool) -> Training:
    torch.manual_seed(seed)
    net = Net(has_gain=has_gain)
    weights = dict(net.named_parameters())
    manifolds: dict[str, Manifold] = {}
    if kind == "stiefel":
        manifolds = {name: Stiefel() for name in HIDDEN}
    elif kind == "sphere":  # orthonormal rows or columns have this norm
        manifolds = {
            name: Sphere(dim=None, radius=min(weights[name].shape) ** 0.5) for name in HIDDEN
        }
    elif kind == "free" and not has_gain:  # the gain that the others learn
        for name in HIDDEN:
            weights[name].data.mul_(2**0.5)
    start = training(learn_from(split_digits(seed, validation=0), seed, net, {}))
    return replace(start, manifolds=manifolds)


def _task(name: str, title: str, kind: str, *, has_gain: bool) -> TrainingTask:
    made = partial(build, kind=kind, has_gain=has_gain)
    return TrainingTask(name, title, "network", 300, made)


TASKS = (
    _task("free", "unconstrained", "free", has_gain=False),
    _task("sphere_gain", "norm of each matrix kept, gain", "sphere", has_gain=True),
    _task("stiefel_gain", "orthonormal, gain", "stiefel", has_gain=True),
    _task("stiefel", "orthonormal, no gain", "stiefel", has_gain=False),
)

"""How many operations a step dispatches: a host's time for many small weights, a GPU's launches."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import riemopt
from riemopt.manifolds import Lorentz, PoincareBall, Sphere, Stiefel, Symmetric
from tests import needs

# What puts tensors into a stack and takes them out again, views included.
PLUMBING = {
    "_foreach_copy_",
    "alias",
    "as_strided",
    "cat",
    "copy_",
    "detach",
    "expand",
    "narrow",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "stack",
    "unbind",
    "unsqueeze",
    "view",
}
OPTIMIZERS = {
    "momentum": lambda p: riemopt.RiemannianSGD(p, lr=0.01, momentum=0.9),
    "adam": lambda p: riemopt.RiemannianAdam(p, lr=0.01),
}
CASES = [(Stiefel(), (6, 3)), (Sphere(), (4, 6)), (Symmetric(), (4, 4))]


class Operations(TorchDispatchMode):
    """Count the operations by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "aten":
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def operations(optimizer):
    """Of the second step, when all state is there."""
    optimizer.step()
    with Operations() as mode:
        optimizer.step()
    return mode.counts


def equal_parameters(manifold, shape, count, device="cpu"):
    """Equal in value too: on a CPU the number of products follows the data."""
    point, gradient = manifold.random_point(*shape), torch.randn(shape)
    params = [nn.Parameter(point.to(device, copy=True)) for _ in range(count)]
    for p in params:
        p.grad = gradient.to(device, copy=True)
    return params


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case[0]))
@pytest.mark.parametrize("make", OPTIMIZERS)
def test_equal_small_parameters_are_stepped_as_one_batch(make, case, device):
    manifold, shape = case

    def counts(count):
        params = equal_parameters(manifold, shape, count, device)
        return operations(OPTIMIZERS[make]([{"params": params, "manifold": manifold}]))

    few, many = counts(8), counts(32)
    assert few.keys() - PLUMBING
    for name in (few.keys() | many.keys()) - PLUMBING:
        assert few[name] == many[name], name
    # Points, gradients, moments and counters go in and out, each through two views at most.
    assert many.total() - few.total() <= 24 * 2 * 8


# Of a step of Adam with one second moment for each point, views and reads included. On a small
# weight each costs some microseconds, which is more than its arithmetic. (Torch 2.6 to 2.8 have one
# more.)
SMALL = [
    (Stiefel(), (10, 10), 32),
    (Stiefel(), (96, 96), 35),
    (Stiefel(), (1024, 64), 44),
    (Stiefel(), (1000, 16, 16), 52),
    (Sphere(), (364, 5), 39 + (needs.VERSION < "2.9")),
    (PoincareBall(), (364, 5), 66),
    (Lorentz(), (364, 6), 105),
]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case[0]}, {case[1]}")
def test_a_step_of_a_small_weight_takes_few_operators(case):
    manifold, shape, most = case
    params = equal_parameters(manifold, shape, 1)
    group = [{"params": params, "manifold": manifold}]
    assert operations(riemopt.RiemannianAdam(group, second_moment="point")).total() <= most


@pytest.mark.parametrize(
    ("manifold", "shape", "most"),
    [(Stiefel(), (10, 10), 34), (Stiefel(), (1024, 64), 36), (Sphere(), (364, 5), 27)],
    ids=str,
)
def test_a_step_of_the_default_takes_few_operators(manifold, shape, most):
    params = equal_parameters(manifold, shape, 1)
    group = [{"params": params, "manifold": manifold}]
    assert operations(riemopt.RiemannianAdam(group)).total() <= most


def test_unconstrained_parameters_cost_what_they_cost_in_torch():
    def plain():
        return [nn.Parameter(torch.ones(4)) for _ in range(200)]

    def constrained():
        return [
            riemopt.ManifoldParameter(torch.eye(6, 3), Stiefel()),
            riemopt.ManifoldParameter(torch.eye(4, 6), Sphere()),
        ]

    def count(cls, params):
        for p in params:
            p.grad = torch.arange(float(p.numel())).view_as(p)
        return operations(cls(params, foreach=True))

    head, tail = plain()[:120], plain()[120:]
    first, second = constrained()
    together = count(riemopt.RiemannianAdam, [*head, first, *tail, second])
    alone = count(riemopt.RiemannianAdam, constrained())
    assert together == count(torch.optim.Adam, plain()) + alone

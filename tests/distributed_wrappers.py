"""Wrappers of torch.distributed around our optimizers, checked on one process and on several.

Launched by `tests.distributed_run` and by tests/test_distributed_wrappers.py.
"""

import copy
import io

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.optim import PostLocalSGDOptimizer, ZeroRedundancyOptimizer

import riemopt
from riemopt import (
    ManifoldParameter,
    RiemannianAdagrad,
    RiemannianAdam,
    RiemannianAdamW,
    RiemannianNAdam,
    RiemannianRMSprop,
    RiemannianSGD,
    riemannian,
)
from riemopt.manifolds import Sphere, Stiefel, Symmetric
from tests.distributed_run import assert_identical

OPTIMIZERS = {
    "SGD": (RiemannianSGD, {}),
    "SGD with momentum": (RiemannianSGD, {"momentum": 0.9}),
    "Adam": (RiemannianAdam, {}),
    "Adam, amsgrad": (RiemannianAdam, {"amsgrad": True}),
    "Adam, carried": (RiemannianAdam, {"second_moment": "carried"}),
    "Adam, point": (RiemannianAdam, {"second_moment": "point", "amsgrad": True}),
    "AdamW": (RiemannianAdamW, {}),
    "AdamW, point": (RiemannianAdamW, {"second_moment": "point"}),
    "RMSprop": (RiemannianRMSprop, {"momentum": 0.5}),
    "Adagrad": (RiemannianAdagrad, {}),
    "NAdam": (RiemannianNAdam, {}),
    "RAdam": (riemannian(torch.optim.RAdam), {}),
    "Adafactor": (riemannian(torch.optim.Adafactor), {}),
    "torch's Adam": (torch.optim.Adam, {}),
}


class Net(nn.Module):
    """Weights that are stacked, one of each other kind, and free ones."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(6, 4) for _ in range(4))
        for layer, manifold in zip(self.layers, (Stiefel(), Stiefel(), Sphere()), strict=False):
            riemopt.constrain(layer, "weight", manifold)
        self.loose = ManifoldParameter(torch.randn(4, 4), Symmetric())
        self.named = nn.Parameter(Sphere(radius=2.0).random_point(3, 5))

    def groups(self):
        weights = [layer.weight for layer in self.layers]
        return [
            {"params": [*weights, self.named], "lr": 0.02},
            {"params": [*(layer.bias for layer in self.layers), self.loose]},
        ]


def _train(optimizer, model, steps):
    for step in steps:
        for i, p in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(100 * step + i)
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()


def _assert_equal(model, other):
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    assert_identical(*(p.detach() for p in model.parameters()))


def _satisfied(model):
    assert all(c.satisfied for c in riemopt.constraints(model))


def _zero(model, name, **wrapper):
    cls, options = OPTIMIZERS[name]
    return ZeroRedundancyOptimizer(
        model.groups(), optimizer_class=cls, lr=0.01, **options, **wrapper
    )


def _consolidated(optimizer):
    """Its state, on all processes."""
    optimizer.consolidate_state_dict()
    saved = [copy.deepcopy(optimizer.state_dict()) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(saved)
    return saved[0]


def zero_redundancy_continues(folder=None):
    """Saving, and loading into the same and into a new optimizer, changes no bit."""
    for name in OPTIMIZERS:
        for as_views in (False, True):
            _zero_continues(name, as_views)


def _zero_continues(name, as_views):
    models = [Net() for _ in range(4)]
    saved, loaded, alone, fresh = models
    optimizers = [_zero(m, name, parameters_as_bucket_view=as_views) for m in models]
    for model, optimizer in zip(models[:3], optimizers[:3], strict=True):
        _train(optimizer, model, range(3))
    final = _consolidated(optimizers[0])
    optimizers[1].load_state_dict(_consolidated(optimizers[1]))
    with torch.no_grad():
        for p, q in zip(fresh.parameters(), saved.parameters(), strict=True):
            p.copy_(q)
    optimizers[3].load_state_dict(final)
    for model, optimizer in zip(models, optimizers, strict=True):
        _train(optimizer, model, range(3, 6))
    for model in (loaded, alone, fresh):
        _assert_equal(saved, model)
    if name != "torch's Adam":
        _satisfied(saved)


def zero_redundancy_is_the_optimizer_alone(folder=None):
    """The same weights as without the wrapper, which steps each weight on one process."""
    for name, (cls, options) in OPTIMIZERS.items():
        wrapped, alone = Net(), Net()
        _train(_zero(wrapped, name), wrapped, range(4))
        _train(cls(alone.groups(), lr=0.01, **options), alone, range(4))
        for p, q in zip(wrapped.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-5, atol=1e-6)


def zero_redundancy_loads_into_the_optimizer_alone_and_back(folder=None):
    for name in ("SGD with momentum", "Adam", "Adam, point"):
        cls, options = OPTIMIZERS[name]
        wrapped, alone, again = Net(), Net(), Net()
        optimizer = _zero(wrapped, name)
        _train(optimizer, wrapped, range(3))
        saved = _consolidated(optimizer)
        alone.load_state_dict(wrapped.state_dict())
        single = cls(alone.groups(), lr=0.01, **options)
        single.load_state_dict(saved)
        _train(optimizer, wrapped, range(3, 5))
        again.load_state_dict(alone.state_dict())
        back = _zero(again, name)
        back.load_state_dict(copy.deepcopy(single.state_dict()))
        _train(single, alone, range(3, 5))
        _train(back, again, range(3, 5))
        for p, q in zip(wrapped.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-5, atol=1e-6)
        _assert_equal(wrapped, again)


def zero_redundancy_of_groups_that_name_their_manifold(folder=None):
    model = Net()
    groups = [{"params": [model.named], "manifold": Sphere(radius=2.0)}, model.groups()[1]]
    optimizer = ZeroRedundancyOptimizer(groups, optimizer_class=RiemannianAdam, lr=0.1)
    _train(optimizer, model, range(2))
    optimizer.load_state_dict(_consolidated(optimizer))
    _train(optimizer, model, range(2, 4))
    assert Sphere(radius=2.0).violation(model.named.detach()).max() < 1e-5
    optimizer.add_param_group({"params": [model.layers[0].weight]})
    _train(optimizer, model, range(4, 6))
    _satisfied(model)


def post_local_sgd(folder=None):
    """Averages leave the surface, and the next step returns to it."""
    for name in ("SGD with momentum", "Adam", "Adam, point"):
        cls, options = OPTIMIZERS[name]
        models = [Net(), Net()]
        wrapped = [
            PostLocalSGDOptimizer(
                optim=cls(m.groups(), lr=0.01, **options),
                averager=PeriodicModelAverager(period=2, warmup_steps=0),
            )
            for m in models
        ]
        for model, optimizer in zip(models, wrapped, strict=True):
            _train(optimizer, model, range(3))
        file = io.BytesIO()
        torch.save(wrapped[0].state_dict(), file)
        file.seek(0)
        wrapped[0].load_state_dict(torch.load(file, weights_only=True))
        for model, optimizer in zip(models, wrapped, strict=True):
            _train(optimizer, model, range(3, 6))
        _assert_equal(*models)
        _satisfied(models[0])


def state_dict_functions(folder=None):
    """`get_optimizer_state_dict` and `set_optimizer_state_dict`."""
    for name in OPTIMIZERS:
        cls, options = OPTIMIZERS[name]
        if name == "torch's Adam":
            continue
        first, second, alone = Net(), Net(), Net()
        one, two, three = (cls(m.groups(), lr=0.01, **options) for m in (first, second, alone))
        _train(one, first, range(3))
        _train(three, alone, range(3))
        second.load_state_dict(first.state_dict())
        state = copy.deepcopy(get_optimizer_state_dict(first, one))
        set_optimizer_state_dict(second, two, state)
        set_optimizer_state_dict(first, one, get_optimizer_state_dict(first, one))
        for model, optimizer in ((first, one), (second, two), (alone, three)):
            _train(optimizer, model, range(3, 5))
        _assert_equal(first, second)
        _assert_equal(first, alone)


CHECKS = {
    check.__name__.replace("_", " "): check
    for check in (
        zero_redundancy_continues,
        zero_redundancy_is_the_optimizer_alone,
        zero_redundancy_loads_into_the_optimizer_alone_and_back,
        zero_redundancy_of_groups_that_name_their_manifold,
        post_local_sgd,
        state_dict_functions,
    )
}

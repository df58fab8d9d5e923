"""Checks that several processes run together; see `tests.distributed_run`.

`TWO` names those that are made for 2 processes, and `FOUR` those for 4.
"""

import copy
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from riemopt import RiemannianAdam, RiemannianAdamW, RiemannianSGD, constrain, constraints, project_
from riemopt.dtensor import local_gradient
from riemopt.interop.distributed import shard_placement
from riemopt.manifolds import (
    FixedSum,
    Flattened,
    LevelSet,
    SkewSymmetric,
    Sphere,
    Stiefel,
    Symmetric,
)
from tests.distributed_run import Collectives, Twins, assert_identical, everywhere, line, randn
from tests.manifold_cases import unit_norm

TENSOR_LR = torch.tensor(0.1, dtype=torch.float64)
# Rounds of sums that a step on Stiefel takes, and on a sphere.
OPTIMIZERS = {
    "sgd": (lambda p: RiemannianSGD(p, lr=0.1), 3, 2),
    "momentum": (lambda p: RiemannianSGD(p, lr=0.1, momentum=0.9, weight_decay=0.1), 3, 2),
    "nesterov": (
        lambda p: RiemannianSGD(p, lr=TENSOR_LR, momentum=0.9, nesterov=True, maximize=True),
        3,
        2,
    ),
    "dampening": (lambda p: RiemannianSGD(p, lr=0.1, momentum=0.9, dampening=0.3), 3, 2),
    "adam": (lambda p: RiemannianAdam(p, lr=0.1), 3, 2),
    "amsgrad": (
        lambda p: RiemannianAdam(p, lr=0.1, amsgrad=True, maximize=True, weight_decay=0.1),
        3,
        2,
    ),
    "adamw": (lambda p: RiemannianAdamW(p, lr=TENSOR_LR, foreach=False), 3, 2),
    "elementwise": (lambda p: RiemannianAdam(p, lr=0.1, second_moment="elementwise"), 4, 3),
}
# Manifold, shape of the weight, dimension that is cut.
CASES = {
    "tall": (Stiefel(), (8, 4), 0),
    "tall, uneven": (Stiefel(), (5, 3), 0),
    "parts wider than tall": (Stiefel(), (5, 4), 0),
    "one row": (Stiefel(), (1, 1), 0),
    "square": (Stiefel(), (4, 4), 0),
    "square by columns": (Stiefel(), (4, 4), 1),
    "wide": (Stiefel(), (3, 7), 1),
    "qr": (Stiefel("qr"), (7, 3), 0),
    "wide qr": (Stiefel("qr"), (3, 7), 1),
    "cayley": (Stiefel("cayley"), (7, 3), 0),
    "wide cayley": (Stiefel("cayley", "canonical"), (3, 8), 1),
    "canonical": (Stiefel(metric="canonical"), (6, 3), 0),
    "whole matrices": (Stiefel(), (3, 5, 2), 0),
    "cut matrices": (Stiefel(), (3, 5, 2), 1),
    "rows on the sphere": (Sphere(), (5, 4), 0),
    "one row on one process": (Sphere(), (1, 4), 0),
    "cut rows": (Sphere(radius=2.0), (3, 5), 1),
    "cut columns": (Sphere(dim=0), (5, 3), 0),
    "one entry on one process": (Sphere(dim=0), (1, 3), 0),
    "one sphere": (Sphere(dim=None), (3, 2, 2), 0),
    "wide kernel": (Flattened(Stiefel()), (4, 3, 2, 2), 1),
    "wide kernel by its height": (Flattened(Stiefel()), (4, 3, 2, 2), 2),
    "tall kernel": (Flattened(Stiefel(metric="canonical")), (13, 1, 2, 2), 0),
    "symmetric matrices": (Symmetric(), (3, 4, 4), 0),
    "one symmetric matrix": (Symmetric(), (1, 4, 4), 0),
    "rows on a level set": (LevelSet(unit_norm, event_ndim=1), (3, 4), 0),
    "rows of fixed sum": (FixedSum(), (3, 4), 0),
}


def equal(name, folder):
    manifold, shape, dim = CASES[name]
    for make, *_ in OPTIMIZERS.values():
        twins = Twins(make, manifold, shape, [Shard(dim)])
        for seed in range(4):
            twins.step(randn(*shape, seed=seed + 1))
        twins.assert_close(rtol=1e-11, atol=1e-11)
        assert manifold.violation(twins.whole).max() < 1e-14


def equal_in_dtype(name, dtype, folder):
    manifold, shape, dim = CASES[name]
    eps = torch.finfo(dtype).eps
    for optimizer in ("momentum", "adam", "elementwise"):
        twins = Twins(OPTIMIZERS[optimizer][0], manifold, shape, [Shard(dim)], dtype=dtype)
        for seed in range(3):
            twins.step(randn(*shape, seed=seed + 1, dtype=dtype))
        twins.assert_close(rtol=50 * eps, atol=50 * eps)
        assert_identical(twins.whole)


def long_steps(folder):
    """Longer than what a Gram matrix of X + U resolves, and from points off the surface."""
    for name in ("tall", "wide", "cut columns", "wide kernel", "qr", "cayley"):
        manifold, shape, dim = CASES[name]
        for size in (10.0, 1e4, 1e8):
            twins = Twins(lambda p: RiemannianSGD(p, lr=1.0), manifold, shape, [Shard(dim)])
            twins.step(size * randn(*shape, seed=1))
            twins.assert_close(rtol=1e-6, atol=1e-6)
            assert manifold.violation(twins.whole).max() < 1e-13
    for name in ("tall", "wide", "cut columns", "qr"):
        manifold, shape, dim = CASES[name]
        twins = Twins(lambda p: RiemannianSGD(p, lr=0.1), manifold, shape, [Shard(dim)])
        with torch.no_grad():
            twins.alone.mul_(1.2)
            twins.spread.mul_(1.2)
        for seed in range(3):
            twins.step(randn(*shape, seed=seed + 1))
        twins.assert_close(rtol=1e-11, atol=1e-11)


def rounds(folder):
    """How many all-reduces a step takes, whatever the number of weights, and how small they are."""
    shapes = [(9, 4), (9, 4), (400, 8)]
    for make, matrix_rounds, sphere_rounds in OPTIMIZERS.values():
        for manifold, expected in ((Stiefel(), matrix_rounds), (Sphere(dim=0), sphere_rounds)):
            params = [
                nn.Parameter(distribute_tensor(manifold.random_point(*s), line(), [Shard(0)]))
                for s in shapes
            ]
            optimizer = make([{"params": params, "manifold": manifold}])
            for seed in range(3):
                for p in params:
                    p.grad = distribute_tensor(
                        randn(*p.shape, seed=seed, dtype=torch.float32), line(), [Shard(0)]
                    )
                with Collectives() as seen:
                    optimizer.step()
                alone = 3 if optimizer.defaults["foreach"] is False else 1
                assert seen.names == ["allreduce_"] * (expected * alone)
                # Triangles: for gradient, momentum, three of the step, its end; and a quotient.
                sides = [p * (p + 1) // 2 if manifold == Stiefel() else p for _, p in shapes]
                numbers = 7 * sum(sides) + len(shapes) + sum(p for _, p in shapes)
                assert seen.nbytes <= 4 * numbers


def whole_points_are_stepped_without_communication(folder):
    for name in ("rows on the sphere", "whole matrices", "symmetric matrices"):
        manifold, shape, dim = CASES[name]
        for make, *_ in OPTIMIZERS.values():
            twins = Twins(make, manifold, shape, [Shard(dim)])
            twins.step(randn(*shape, seed=1))
            twins.spread.grad = distribute_tensor(randn(*shape, seed=2), line(), [Shard(dim)])
            with Collectives() as seen:
                twins.spread_optimizer.step()
            assert seen.calls == []


def refused_alike(folder):
    """A gradient that is not finite on one process: no process steps, and all count it."""
    for name in ("tall, uneven", "cut columns", "wide", "one row"):
        manifold, shape, dim = CASES[name]
        for optimizer, (make, *_) in OPTIMIZERS.items():
            for bad in (torch.nan, torch.inf, 1e300):
                if bad == 1e300 and (optimizer == "elementwise" or name == "one row"):
                    continue  # no part of the step is too long then
                twins = Twins(make, manifold, shape, [Shard(dim)])
                twins.step(randn(*shape, seed=1))
                before = copy.deepcopy((twins.whole, twins.spread_optimizer.state_dict()["state"]))
                g = randn(*shape, seed=2)
                g.view(-1)[0] = bad
                twins.spread.grad = distribute_tensor(g, line(), [Shard(dim)])
                twins.spread_optimizer.step()
                assert everywhere(twins.spread_optimizer.skipped_steps) == [1, 1]
                assert torch.equal(twins.whole, before[0])
                for key, value in twins.spread_optimizer.state_dict()["state"].get(0, {}).items():
                    if isinstance(value, DTensor):
                        assert torch.equal(value.full_tensor(), before[1][0][key].full_tensor())
                    else:
                        assert torch.equal(value, before[1][0][key])
                twins.spread.grad = distribute_tensor(randn(*shape, seed=3), line(), [Shard(dim)])
                twins.spread_optimizer.step()
                assert manifold.violation(twins.whole).max() < 1e-14


def own_points_are_refused_alone(folder):
    """Where each process has whole points it refuses its own; what all share stays equal."""
    manifold, shape, dim = CASES["rows on the sphere"]
    twins = Twins(OPTIMIZERS["adam"][0], manifold, shape, [Shard(dim)])
    before = twins.whole
    g = randn(*shape, seed=2)
    g[0, 0] = torch.nan
    twins.spread.grad = distribute_tensor(g, line(), [Shard(dim)])
    twins.spread_optimizer.step()
    assert everywhere(twins.spread_optimizer.skipped_steps) == [1, 0]
    assert_identical(twins.spread_optimizer.state[twins.spread]["step"])
    moved = (twins.whole != before).any(1)
    assert moved.tolist() == [False] * 3 + [True] * 2


def no_step_changes_no_bit(folder):
    for name in ("tall, uneven", "cut columns", "wide kernel", "rows on the sphere"):
        manifold, shape, dim = CASES[name]
        for make, *_ in OPTIMIZERS.values():
            twins = Twins(make, manifold, shape, [Shard(dim)])
            before = twins.whole
            twins.step(torch.zeros(shape, dtype=torch.float64))
            assert torch.equal(twins.whole, before)
            twins.spread_optimizer.param_groups[0]["lr"] = 0.0
            twins.step(randn(*shape, seed=1))
            assert torch.equal(twins.whole, before)


def a_gradient_placed_otherwise(folder):
    manifold, shape, dim = CASES["tall"]
    twins = Twins(OPTIMIZERS["adam"][0], manifold, shape, [Shard(dim)])
    half = randn(*shape, seed=1) / 2
    twins.alone.grad = 2 * half
    twins.spread.grad = DTensor.from_local(half, line(), [Partial()]).redistribute(
        placements=[Replicate()]
    )
    twins.alone_optimizer.step()
    twins.spread_optimizer.step()
    twins.assert_close(rtol=1e-11, atol=1e-11)
    with pytest.raises(ValueError, match="is a DTensor and its gradient a plain tensor"):
        local_gradient(half, twins.spread)


def compiled(folder):
    for name in ("momentum", "adam"):
        manifold, shape, dim = CASES["tall, uneven"]
        twins = Twins(OPTIMIZERS[name][0], manifold, shape, [Shard(dim)])
        twins.step(randn(*shape, seed=1))
        twins.spread_optimizer.step = torch.compile(twins.spread_optimizer.step, backend="eager")
        for seed in range(2, 4):
            twins.step(randn(*shape, seed=seed))
        twins.assert_close(rtol=1e-11, atol=1e-11)


def refusals(folder):
    """What cannot be stepped is refused when the optimizer is built, with what to do instead."""
    for manifold, shape, dim, match in [
        (Symmetric(), (4, 4), 0, r"dimension 0, which cuts its points.*Keep the weight whole"),
        (FixedSum(), (4, 4), 1, r"dimension 1, which cuts its points.*Keep the weight whole"),
        (SkewSymmetric(), (4, 4), 1, r"dimension 1, which cuts its points.*Keep the weight whole"),
        (Stiefel(), (8, 3), 1, r"a tall matrix can be spread only by its rows.*shard_placement"),
        (Stiefel(), (3, 8), 0, r"a wide matrix can be spread only by its columns"),
        (Stiefel("qr"), (4, 4), 1, r"needs whole rows. Use Shard\(0\)"),
        (Flattened(Stiefel()), (2, 2, 3, 3), 0, r"only by its columns"),
        (Flattened(Symmetric(), 3), (4, 2, 2), 0, r"which cuts its points"),
    ]:
        x = manifold.random_point(*shape)
        p = nn.Parameter(distribute_tensor(x, line(), [Shard(dim)]))
        optimizer = RiemannianAdam([torch.ones(2, requires_grad=True)], lr=0.1)
        with pytest.raises(NotImplementedError, match=match):
            optimizer.add_param_group({"params": [p], "manifold": manifold})
        assert len(optimizer.param_groups) == 1
        # An optimizer whose parameters were swapped for sharded ones finds out in its step.
        free = nn.Parameter(torch.ones(2))
        groups = [{"params": [free]}, {"params": [nn.Parameter(x)], "manifold": manifold}]
        optimizer = RiemannianAdam(groups, lr=0.1)
        optimizer.param_groups[1]["params"][0] = p
        free.grad, p.grad = torch.ones(2), distribute_tensor(x, line(), [Shard(dim)])
        with pytest.raises(NotImplementedError, match=match):
            optimizer.step()
        assert torch.equal(free, torch.ones(2))
        assert not any(optimizer.state.values())
    p = nn.Parameter(DTensor.from_local(Stiefel().random_point(4, 2), line(), [Partial()]))
    with pytest.raises(NotImplementedError, match=r"a sum that has not been taken"):
        RiemannianSGD([{"params": [p], "manifold": Stiefel()}], lr=0.1)
    x = distribute_tensor(Stiefel().random_point(4, 2), line(), [Shard(0)])
    group = {"params": [x.requires_grad_()], "manifold": Stiefel()}
    optimizer = RiemannianSGD([group], lr=0.1, differentiable=True)
    x.grad = x.detach().clone()
    with pytest.raises(NotImplementedError, match="differentiable=True is not supported"):
        optimizer.step()


# --- models ----------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tall = constrain(nn.Linear(6, 9, dtype=torch.float64), "weight", Stiefel())
        self.wide = constrain(nn.Linear(9, 4, dtype=torch.float64), "weight", Stiefel())
        self.wide.weight  # noqa: B018
        self.head = constrain(nn.Linear(4, 5, dtype=torch.float64), "weight", Sphere())
        self.columns = constrain(nn.Linear(5, 3, dtype=torch.float64), "weight", Sphere(dim=0))

    def forward(self, x):
        x = torch.tanh(self.wide(torch.tanh(self.tall(x))))
        return self.columns(torch.tanh(self.head(x)))


class EvenNet(Net):
    """Whose wide weight has columns that 2 and 4 divide."""

    def __init__(self):
        super().__init__()
        self.tall = constrain(nn.Linear(6, 8, dtype=torch.float64), "weight", Stiefel())
        self.wide = constrain(nn.Linear(8, 4, dtype=torch.float64), "weight", Stiefel())


def train(model, optimizer, steps=range(4), *, share=slice(None), clip=True):
    for seed in steps:
        data = randn(8, 6, seed=seed)[share]
        optimizer.zero_grad()
        model(data).square().mean().backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()


def share():
    """The rows of a batch of 8 that this process works on."""
    size = 8 // dist.get_world_size()
    return slice(dist.get_rank() * size, (dist.get_rank() + 1) * size)


def assert_same_weights(model, other):
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        whole = p.full_tensor() if isinstance(p, DTensor) else p
        torch.testing.assert_close(whole, q, rtol=1e-10, atol=1e-10, msg=name)


MODEL_OPTIMIZERS = [OPTIMIZERS[name][0] for name in ("momentum", "adam", "amsgrad")]


def fsdp(folder):
    """`fully_shard` with momentum and Adam gives what one process gives on the whole batch."""
    for make in MODEL_OPTIMIZERS:
        alone, model = EvenNet(), EvenNet()
        fully_shard(model, shard_placement_fn=shard_placement)
        optimizer = make(model.parameters())
        assert "2 on Stiefel" in repr(optimizer)
        train(alone, make(alone.parameters()))
        train(model, optimizer, share=share())
        assert_same_weights(model, alone)
        assert Stiefel().violation(model.tall.weight.full_tensor()) < 1e-14


def tangent_gradients(folder):
    """Gradients that `tangent_grad=True` makes tangent are so when they have been sharded."""
    torch.manual_seed(0)
    alone = constrain(nn.Linear(3, 6, dtype=torch.float64), "weight", Stiefel(), tangent_grad=True)
    model = fully_shard(copy.deepcopy(alone))
    for layer in (alone, model):
        layer(randn(2, 3, seed=1)).square().sum().backward()
    torch.testing.assert_close(model.weight.grad.full_tensor(), alone.weight.grad)


def scaled_gradients(folder):
    """What a GradScaler finds on one process, no process steps with."""
    for fused in (None, True):
        model = fully_shard(EvenNet(), shard_placement_fn=shard_placement)
        optimizer = RiemannianAdam(model.parameters(), lr=0.1, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for overflow in (False, True, False):
            before = [p.full_tensor() for p in model.parameters()]
            optimizer.zero_grad()
            scaler.scale(model(randn(8, 6, seed=1)).square().mean()).backward()
            if overflow and dist.get_rank() == 0:
                model.tall.weight.grad.to_local()[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            for p, old in zip(model.parameters(), before, strict=True):
                assert torch.equal(p.full_tensor(), old) == overflow
        assert everywhere(optimizer.skipped_steps) == [0, 0]


def optimizer_built_before(folder):
    """An optimizer whose parameters are swapped for sharded ones keeps its manifolds."""
    alone, model = EvenNet(), EvenNet()
    optimizer = RiemannianAdam(model.parameters(), lr=0.1)
    fully_shard(model, shard_placement_fn=shard_placement)
    optimizer.param_groups[0]["params"] = list(model.parameters())
    train(alone, RiemannianAdam(alone.parameters(), lr=0.1))
    train(model, optimizer, share=share())
    assert_same_weights(model, alone)


def ddp(folder):
    for make in MODEL_OPTIMIZERS:
        alone, model = Net(), DistributedDataParallel(Net())
        train(alone, make(alone.parameters()))
        train(model, make(model.parameters()), share=share())
        assert_identical(*(p.detach() for p in model.parameters()))
        assert_same_weights(model.module, alone)


def whole_weights_beside_sharded_ones(folder):
    """What the advice for a symmetric matrix says."""
    from torch.distributed._composable.replicate_with_fsdp import replicate

    def build():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)).double()
        constrain(layers[0], "weight", Symmetric())
        constrain(layers[1], "weight", Stiefel())
        return layers

    alone, model = build(), build()
    replicate(model[0], mesh=line())
    fully_shard(model, mesh=line())
    train(alone, RiemannianAdam(alone.parameters(), lr=0.1))
    train(model, RiemannianAdam(model.parameters(), lr=0.1), share=share())
    assert_same_weights(model, alone)
    assert_identical(model[0].weight.to_local().detach())


def report_and_repair(folder):
    """`constraints` and `project_` see whole weights; each process keeps its part."""
    model = fully_shard(EvenNet(), shard_placement_fn=shard_placement)
    before = [p.to_local().clone() for p in model.parameters()]
    assert all(c.satisfied for c in constraints(model))
    project_(model)
    assert all(
        torch.equal(p.to_local(), b) for p, b in zip(model.parameters(), before, strict=True)
    )
    with torch.no_grad():
        model.tall.weight.mul_(1.5)
        model.head.weight.mul_(1.5)
    off = {c.name for c in constraints(model) if not c.satisfied}
    assert off == {"tall.weight", "head.weight"}
    project_(model)
    assert all(c.satisfied for c in constraints(model))
    for p, b in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.to_local(), b)
    # Of a sharded weight too; an optimizer that cannot step it says so in its step.
    layer = fully_shard(nn.Linear(4, 4))
    optimizer = RiemannianSGD(layer.parameters(), lr=0.1)
    constrain(layer, "weight", Symmetric())
    assert constraints(layer)[0].satisfied
    layer(torch.ones(1, 4)).sum().backward()
    bias = layer.bias.full_tensor()
    with pytest.raises(NotImplementedError, match="Keep the weight whole"):
        optimizer.step()
    assert torch.equal(bias, layer.bias.full_tensor())


def placement(folder):
    def chosen(manifold, *shape):
        layer = nn.Module()
        layer.w = nn.Parameter(torch.ones(shape))
        constrain(layer, "w", manifold)
        return shard_placement(layer.w)

    assert shard_placement(nn.Parameter(torch.ones(3))) is None
    assert chosen(Stiefel(), 8, 4) == chosen(Sphere(), 8, 4) == chosen(Stiefel(), 4, 4) == Shard(0)
    assert chosen(Stiefel(), 4, 8) == chosen(Flattened(Stiefel()), 4, 3, 3, 3) == Shard(1)
    assert chosen(Stiefel(), 4, 2, 8) == chosen(Flattened(Stiefel()), 40, 1, 3, 3) == Shard(0)
    with pytest.raises(NotImplementedError, match="Keep the weight whole"):
        chosen(Symmetric(), 4, 4)


def tensor_parallel(folder):
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    # No clipping: torch does not clip DTensors and plain tensors together.
    alone, model = EvenNet(), EvenNet()
    parallelize_module(model, line(), {"tall": ColwiseParallel(), "wide": RowwiseParallel()})
    train(alone, RiemannianAdam(alone.parameters(), lr=0.1), clip=False)
    train(model, RiemannianAdam(model.parameters(), lr=0.1), clip=False)
    assert model.wide.weight.placements == (Shard(1),)
    assert_same_weights(model, alone)


# --- checkpoints -----------------------------------------------------------------------------


def saved(folder):
    """Trains 4 steps, saves, trains 4 more; the file and the end are read by other checks."""
    model = fully_shard(EvenNet(), shard_placement_fn=shard_placement)
    optimizer = RiemannianAdam(model.parameters(), lr=0.1, amsgrad=True)
    train(model, optimizer, share=share())
    moment = optimizer.state[model.tall.weight]
    assert moment["exp_avg"].placements == model.tall.weight.placements
    assert moment["exp_avg_sq"].shape == (1, 1)
    assert moment["exp_avg_sq"].placements == (Replicate(),)
    assert_identical(moment["exp_avg_sq"].to_local())
    rows = optimizer.state[model.head.weight]["exp_avg_sq"]
    assert (rows.shape, rows.placements) == ((5, 1), (Shard(0),))
    weights, moments = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=folder / "checkpoint")
    train(model, optimizer, range(4, 8), share=share())
    end = {name: p.full_tensor() for name, p in model.state_dict().items()}
    if dist.get_rank() == 0:
        torch.save(end, folder / "end.pt")
    dist.barrier()


def resume(folder):
    """A new model, with a new optimizer, loads what `saved` wrote: the end is the same."""
    model = fully_shard(EvenNet(), shard_placement_fn=shard_placement)
    optimizer = RiemannianAdam(model.parameters(), lr=0.1, amsgrad=True)
    before = [p.full_tensor() for p in model.parameters()]
    weights, moments = get_state_dict(model, optimizer)
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p.full_tensor(), old)  # torch makes the state by a step of lr 0
    dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=folder / "checkpoint")
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
    train(model, optimizer, range(4, 8), share=share())
    end = torch.load(folder / "end.pt", weights_only=True)
    for name, p in model.state_dict().items():
        # The same processes sum in the same order, others do not.
        tolerance = 0 if dist.get_world_size() == 2 else 1e-10
        whole = p.full_tensor()
        torch.testing.assert_close(whole, end[name], rtol=tolerance, atol=tolerance)


def torch_checkpoints(folder):
    """Moments travel to torch's Adam on the same shards, and back."""
    model = fully_shard(EvenNet(), shard_placement_fn=shard_placement)
    ours = RiemannianAdam(model.parameters(), lr=0.1)
    train(model, ours, share=share())
    theirs = torch.optim.Adam(model.parameters(), lr=0.1)
    theirs.load_state_dict(ours.state_dict())
    moment = theirs.state[model.tall.weight]["exp_avg_sq"]
    assert moment.placements == model.tall.weight.placements
    again = RiemannianAdam(model.parameters(), lr=0.1)
    again.load_state_dict(theirs.state_dict())
    for p in model.parameters():
        for key, value in ours.state[p].items():
            loaded = again.state[p][key]
            if isinstance(value, DTensor):
                assert loaded.placements == value.placements
                loaded, value = loaded.to_local(), value.to_local()
            assert torch.equal(loaded, value), key
    # An uneven second moment is reduced to its mean, over parts of unequal size.
    g = randn(9, 2, seed=0).square()
    p = nn.Parameter(distribute_tensor(Stiefel().random_point(9, 2).double(), line(), [Shard(0)]))
    adam = RiemannianAdam([{"params": [p], "manifold": Stiefel()}])
    p.grad = torch.zeros_like(p)
    adam.step()
    packed = adam.state_dict()
    packed["state"][0]["exp_avg_sq"] = distribute_tensor(g, line(), [Shard(0)])
    adam.load_state_dict(packed)
    torch.testing.assert_close(adam.state[p]["exp_avg_sq"].to_local(), g.mean().view(1, 1))
    packed["state"][0]["exp_avg"] = g
    with pytest.raises(ValueError, match=r"'exp_avg'.*is a whole tensor.*set_optimizer_state_dict"):
        adam.load_state_dict(packed)
    assert isinstance(adam.state[p]["exp_avg"], DTensor)


def whole_checkpoints(folder):
    """Full state dicts, as for one process, of and into sharded models."""
    options = StateDictOptions(full_state_dict=True)
    model = fully_shard(EvenNet(), shard_placement_fn=shard_placement)
    optimizer = RiemannianAdam(model.parameters(), lr=0.1)
    train(model, optimizer, share=share())
    whole = get_optimizer_state_dict(model, optimizer, options=options)
    if dist.get_rank() == 0:
        assert whole["state"]["tall.weight"]["exp_avg_sq"].shape == (8, 6)
    alone = EvenNet()
    adam = RiemannianAdam(alone.parameters(), lr=0.1)
    train(alone, adam)
    expected = get_optimizer_state_dict(alone, adam)
    for name, state in whole["state"].items():
        for key, value in state.items():
            torch.testing.assert_close(value, expected["state"][name][key], rtol=1e-9, atol=1e-9)


# --- 4 processes -----------------------------------------------------------------------------


def hsdp(folder):
    """Two replicas of two parts each: the replicas are equal bit for bit."""
    for make in MODEL_OPTIMIZERS:
        grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
        alone, model = EvenNet(), EvenNet()
        fully_shard(model, mesh=grid, shard_placement_fn=shard_placement)
        train(alone, make(alone.parameters()))
        optimizer = make(model.parameters())
        train(model, optimizer, share=share())
        assert_same_weights(model, alone)
        for p in model.parameters():
            mine = [p.to_local().detach()]
            mine += [v.to_local() for v in optimizer.state[p].values() if isinstance(v, DTensor)]
            parts = everywhere(mine)
            rank = dist.get_rank()
            assert all(map(torch.equal, mine, parts[(rank + 2) % 4]))


def fsdp_of_tensor_parallel_layers(folder):
    """Rows that two dimensions of a mesh cut, one of them in strides."""
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    for make in MODEL_OPTIMIZERS:
        alone, model = EvenNet(), EvenNet()
        plan = {"tall": ColwiseParallel(), "wide": RowwiseParallel()}
        parallelize_module(model, grid["tensor"], plan)
        fully_shard(model, mesh=grid["data"], shard_placement_fn=shard_placement)
        assert len(model.tall.weight.placements) == 2
        train(alone, make(alone.parameters()), clip=False)
        half = slice(0, 4) if grid.get_local_rank("data") == 0 else slice(4, 8)
        train(model, make(model.parameters()), share=half, clip=False)
        assert_same_weights(model, alone)


def cut_twice(folder):
    """Rows cut over both dimensions of a mesh, and matrices of a batch over one of them."""
    grid = init_device_mesh("cpu", (2, 2))
    for manifold, shape, placements in [
        (Stiefel(), (9, 3), [Shard(0), Shard(0)]),
        (Stiefel(), (3, 9, 2), [Shard(0), Shard(1)]),
        (Stiefel(), (1, 9, 2), [Shard(0), Shard(1)]),
        (Sphere(dim=None), (5, 4), [Shard(0), Shard(1)]),
        (Sphere(), (5, 4), [Replicate(), Shard(1)]),
    ]:
        for make in MODEL_OPTIMIZERS:
            twins = Twins(make, manifold, shape, placements, mesh=grid)
            for seed in range(3):
                twins.step(randn(*shape, seed=seed + 1))
            twins.assert_close(rtol=1e-11, atol=1e-11)
    x = distribute_tensor(Stiefel().random_point(8, 4), grid, [Shard(0), Shard(1)])
    with pytest.raises(NotImplementedError, match="only one side of a matrix may be cut"):
        RiemannianSGD([{"params": [nn.Parameter(x)], "manifold": Stiefel()}], lr=0.1)


# ---------------------------------------------------------------------------------------------

CASE_CHECKS = {f"{name}: as one process": partial(equal, name) for name in CASES}
for _case in ("tall, uneven", "cut columns"):
    for _dtype in (torch.float32, torch.complex64, torch.complex128, torch.bfloat16):
        CASE_CHECKS[f"{_case}: in {_dtype}"] = partial(equal_in_dtype, _case, _dtype)


def _named(*checks):
    return {check.__name__.replace("_", " "): check for check in checks}


# In this order: `resume` reads what `saved` writes.
MODEL_CHECKS = _named(
    long_steps,
    rounds,
    whole_points_are_stepped_without_communication,
    refused_alike,
    own_points_are_refused_alone,
    no_step_changes_no_bit,
    a_gradient_placed_otherwise,
    refusals,
    fsdp,
    tangent_gradients,
    scaled_gradients,
    optimizer_built_before,
    ddp,
    whole_weights_beside_sharded_ones,
    report_and_repair,
    placement,
    tensor_parallel,
    saved,
    resume,
    torch_checkpoints,
    whole_checkpoints,
)
FOUR_CHECKS = _named(hsdp, fsdp_of_tensor_parallel_layers, cut_twice, resume, compiled)
CHECKS = {**CASE_CHECKS, **MODEL_CHECKS, **FOUR_CHECKS}
TWO, FOUR = [*CASE_CHECKS, *MODEL_CHECKS], [*FOUR_CHECKS]

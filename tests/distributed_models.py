"""Checks of models on 2 processes, and on 4; see `tests.distributed_run`."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel

from riemopt import RiemannianAdam, RiemannianSGD, constrain, constraints, project_
from riemopt.interop.distributed import shard_placement
from riemopt.manifolds import (
    Flattened,
    Sphere,
    Stiefel,
    Symmetric,
)
from tests import needs
from tests.distributed_run import assert_identical, everywhere, line, randn
from tests.distributed_weights import OPTIMIZERS


class Net(nn.Module):
    """With a wide weight whose columns 2 and 4 divide, as torch wants them; rows they need not."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tall = constrain(nn.Linear(6, 8, dtype=torch.float64), "weight", Stiefel())
        self.wide = constrain(nn.Linear(8, 4, dtype=torch.float64), "weight", Stiefel())
        self.head = constrain(nn.Linear(4, 5, dtype=torch.float64), "weight", Sphere())
        self.columns = constrain(nn.Linear(5, 3, dtype=torch.float64), "weight", Sphere(dim=0))

    def forward(self, x):
        x = torch.tanh(self.wide(torch.tanh(self.tall(x))))
        return self.columns(torch.tanh(self.head(x)))


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


# Until torch 2.9 `clip_grad_norm_` rounds the factor of DTensors to float32.
CLOSE = 1e-10 if needs.VERSION >= "2.9" else 1e-6


def assert_same_weights(model, other):
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        whole = p.full_tensor() if isinstance(p, DTensor) else p
        torch.testing.assert_close(whole, q, rtol=CLOSE, atol=CLOSE, msg=name)


MODEL_OPTIMIZERS = [OPTIMIZERS[name][0] for name in ("momentum", "adam", "amsgrad")]


def fsdp(folder):
    """`fully_shard` with momentum and Adam gives what one process gives on the whole batch."""
    for make in MODEL_OPTIMIZERS:
        alone, model = Net(), Net()
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
        model = fully_shard(Net(), shard_placement_fn=shard_placement)
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
    alone, model = Net(), Net()
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
    model = fully_shard(Net(), shard_placement_fn=shard_placement)
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
    alone, model = Net(), Net()
    parallelize_module(model, line(), {"tall": ColwiseParallel(), "wide": RowwiseParallel()})
    train(alone, RiemannianAdam(alone.parameters(), lr=0.1), clip=False)
    train(model, RiemannianAdam(model.parameters(), lr=0.1), clip=False)
    assert model.wide.weight.placements == (Shard(1),)
    assert_same_weights(model, alone)


def hsdp(folder):
    """Two replicas of two parts each: the replicas are equal bit for bit."""
    for make in MODEL_OPTIMIZERS:
        grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
        alone, model = Net(), Net()
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
        alone, model = Net(), Net()
        plan = {"tall": ColwiseParallel(), "wide": RowwiseParallel()}
        parallelize_module(model, grid["tensor"], plan)
        fully_shard(model, mesh=grid["data"], shard_placement_fn=shard_placement)
        assert len(model.tall.weight.placements) == 2
        train(alone, make(alone.parameters()), clip=False)
        half = slice(0, 4) if grid.get_local_rank("data") == 0 else slice(4, 8)
        train(model, make(model.parameters()), share=half, clip=False)
        assert_same_weights(model, alone)

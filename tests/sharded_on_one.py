"""`fully_shard` in a group of one process, whose collectives are NCCL's on a GPU.

    python -m tests.sharded_on_one cuda

Ends with code 0 if all is as without it. A process of its own, as a group is one for all of it.
"""

import copy
import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from riemopt import RiemannianAdam, RiemannianSGD, constrain
from riemopt.interop.distributed import shard_placement
from riemopt.manifolds import Sphere, Stiefel
from tests.devices import no_waiting

OPTIMIZERS = {
    "momentum": lambda p: RiemannianSGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: RiemannianAdam(p, lr=0.05),
    "point": lambda p: RiemannianAdam(p, lr=0.05, second_moment="point"),
    "carried": lambda p: RiemannianAdam(p, lr=0.05, second_moment="carried"),
}


def model_on(device, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(4, 5))
    manifolds = (Stiefel(), Stiefel(), Sphere())
    for layer, manifold in zip(model, manifolds, strict=True):
        constrain(layer, "weight", manifold)
    return model.to(device, dtype)


def train(model, optimizer, steps, *, watched=False):
    device, dtype = next(model.parameters()).device.type, next(model.parameters()).dtype
    for seed in steps:
        data = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        optimizer.zero_grad()
        model(data.to(device)).square().mean().backward()
        if watched and seed > 1:
            with no_waiting(device):
                optimizer.step()
        else:
            optimizer.step()


def check(device, make, dtype):
    """The same weights as without, also after a checkpoint went out and in again."""
    alone = model_on(device, dtype)
    train(alone, OPTIMIZERS[make](alone.parameters()), range(6))
    model = model_on(device, dtype)
    mesh = init_device_mesh(device, (1,))
    fully_shard(model, mesh=mesh, shard_placement_fn=shard_placement)
    optimizer = OPTIMIZERS[make](model.parameters())
    assert "on Stiefel" in repr(optimizer)
    train(model, optimizer, range(3), watched=True)
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    optimizer = OPTIMIZERS[make](model.parameters())
    set_optimizer_state_dict(model, optimizer, saved)
    train(model, optimizer, range(3, 6))
    close = {"rtol": 1e-9, "atol": 1e-9} if dtype is torch.float64 else {"rtol": 0, "atol": 2e-3}
    for (name, p), q in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert p.device_mesh.device_type == device
        torch.testing.assert_close(p.full_tensor(), q.detach(), msg=f"{make}, {name}", **close)


def main() -> None:
    device = sys.argv[1]
    torch.set_num_threads(1)
    where = {}
    if device == "cuda":
        torch.cuda.set_device(0)
        where["device_id"] = torch.device("cuda", 0)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=dist.HashStore(),
        rank=0,
        world_size=1,
        **where,
    )
    for make in OPTIMIZERS if device == "cuda" else ("adam", "point"):
        for dtype in (torch.float64, torch.float32):
            check(device, make, dtype)
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads now and then abort a process that ends with Python's own clean-up


if __name__ == "__main__":
    main()

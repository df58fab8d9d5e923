"""Train orthogonal and unit-norm layers whose weights are spread over processes; stop, resume.

torchrun --nproc-per-node 2 examples/fsdp_training.py

Runs on GPUs with NCCL where there are any, and otherwise on CPUs. No process ever holds a whole
weight outside of the forward and backward pass.
"""

import gc
import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

from riemopt import RiemannianAdam, constrain, constraints
from riemopt.interop.distributed import shard_placement
from riemopt.manifolds import Sphere, Stiefel

STEPS, HALF, BATCH = 60, 30, 64


def build(device):
    torch.manual_seed(0)  # the same weights on all processes, of which each keeps a part
    model = nn.Sequential(
        constrain(nn.Linear(10, 64), "weight", Stiefel()),  # tall: cut by rows
        nn.Tanh(),
        constrain(nn.Linear(64, 16), "weight", Stiefel()),  # wide: cut by columns
        nn.Tanh(),
        constrain(nn.Linear(16, 2), "weight", Sphere()),  # rows: each on one process
    ).to(device)
    for layer in model[::2]:
        fully_shard(layer, shard_placement_fn=shard_placement)
    fully_shard(model)
    return model, RiemannianAdam(model.parameters(), lr=1e-2)


def train(model, optimizer, steps, device):
    """The mean losses over all processes, each of which works on its part of every batch."""
    inputs = torch.randn(1024, 10, generator=torch.Generator().manual_seed(0)).to(device)
    targets = torch.sin(inputs[:, :2])
    losses = []
    for step in steps:
        batch = torch.randperm(1024, generator=torch.Generator().manual_seed(step))[:BATCH]
        own = batch.chunk(dist.get_world_size())[dist.get_rank()]
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs[own]), targets[own])
        loss.backward()
        optimizer.step()
        loss = loss.detach()
        dist.all_reduce(loss)
        losses.append(loss.item() / dist.get_world_size())
    return losses


def main(device):
    whole = train(*build(device), range(STEPS), device)

    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(folder)
    model, optimizer = build(device)
    first = train(model, optimizer, range(HALF), device)
    weights, moments = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=folder[0])

    model, optimizer = build(device)
    weights, moments = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=folder[0])
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
    second = train(model, optimizer, range(HALF, STEPS), device)

    report = constraints(model)  # gathers, so all processes take part
    if dist.get_rank() == 0:
        print(f"loss {whole[0]:.4f} -> {whole[-1]:.4f} on {dist.get_world_size()} processes")
        print(f"resumed run identical: {first + second == whole}")
        for name, manifold, violation, _ in report:
            weight = model.get_parameter(name)
            shape, own = tuple(weight.shape), tuple(weight.to_local().shape)
            print(f"{name:9} {shape!s:9} here {own!s:9} on {manifold!s:10} off by {violation:.1e}")


if __name__ == "__main__":
    dist.init_process_group()
    if torch.cuda.is_available():
        torch.cuda.set_device(dist.get_node_local_rank())
    main("cuda" if torch.cuda.is_available() else "cpu")
    gc.collect()  # gloo's threads abort a process whose tensors outlive the group
    dist.destroy_process_group()

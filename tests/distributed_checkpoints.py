"""Checks of checkpoints of spread weights; see `tests.distributed_run`."""

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
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from riemopt import RiemannianAdam
from riemopt.interop.distributed import shard_placement
from riemopt.manifolds import (
    Stiefel,
)
from tests.distributed_models import CLOSE, Net, share, train
from tests.distributed_run import assert_identical, line, randn

SECOND_MOMENTS = ("tangent", "point")


def saved(folder):
    """Trains 4 steps, saves, trains 4 more; the file and the end are read by other checks."""
    for second_moment in SECOND_MOMENTS:
        _save(folder / second_moment, second_moment)


def _save(folder, second_moment):
    model = fully_shard(Net(), shard_placement_fn=shard_placement)
    optimizer = RiemannianAdam(
        model.parameters(), lr=0.1, amsgrad=True, second_moment=second_moment
    )
    train(model, optimizer, share=share())
    moment = optimizer.state[model.tall.weight]
    assert moment["exp_avg"].placements == model.tall.weight.placements
    if second_moment == "point":
        assert moment["exp_avg_sq"].shape == (1, 1)
        assert moment["exp_avg_sq"].placements == (Replicate(),)
        assert_identical(moment["exp_avg_sq"].to_local())
        rows = optimizer.state[model.head.weight]["exp_avg_sq"]
        assert (rows.shape, rows.placements) == ((5, 1), (Shard(0),))
    else:
        assert moment["exp_avg_sq"].shape == model.tall.weight.shape
        assert moment["exp_avg_sq"].placements == model.tall.weight.placements
    weights, moments = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=folder / "checkpoint")
    train(model, optimizer, range(4, 8), share=share())
    end = {name: p.full_tensor() for name, p in model.state_dict().items()}
    if dist.get_rank() == 0:
        torch.save(end, folder / "end.pt")
    dist.barrier()


def resume(folder):
    """A new model, with a new optimizer, loads what `saved` wrote: the end is the same."""
    for second_moment in SECOND_MOMENTS:
        _resume(folder / second_moment, second_moment)


def _resume(folder, second_moment):
    model = fully_shard(Net(), shard_placement_fn=shard_placement)
    optimizer = RiemannianAdam(
        model.parameters(), lr=0.1, amsgrad=True, second_moment=second_moment
    )
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
        tolerance = 0 if dist.get_world_size() == 2 else CLOSE
        whole = p.full_tensor()
        torch.testing.assert_close(whole, end[name], rtol=tolerance, atol=tolerance)


def torch_checkpoints(folder):
    """Moments travel to torch's Adam on the same shards, and back."""
    for second_moment in SECOND_MOMENTS:
        _there_and_back(second_moment)
    _uneven_moments_are_reduced()


def _there_and_back(second_moment):
    model = fully_shard(Net(), shard_placement_fn=shard_placement)
    ours = RiemannianAdam(model.parameters(), lr=0.1, second_moment=second_moment)
    train(model, ours, share=share())
    theirs = torch.optim.Adam(model.parameters(), lr=0.1)
    theirs.load_state_dict(ours.state_dict())
    moment = theirs.state[model.tall.weight]["exp_avg_sq"]
    assert moment.placements == model.tall.weight.placements
    again = RiemannianAdam(model.parameters(), lr=0.1, second_moment=second_moment)
    again.load_state_dict(theirs.state_dict())
    loaded_state = again.state_dict()["state"]
    for number, state in ours.state_dict()["state"].items():
        for key, value in state.items():
            loaded = loaded_state[number][key]
            if isinstance(value, DTensor):
                assert loaded.placements == value.placements
                loaded, value = loaded.to_local(), value.to_local()
            assert torch.equal(loaded, value), key


def _uneven_moments_are_reduced():
    """To their mean, over parts of unequal size."""
    g = randn(9, 2, seed=0).square()
    p = nn.Parameter(distribute_tensor(Stiefel().random_point(9, 2).double(), line(), [Shard(0)]))
    adam = RiemannianAdam([{"params": [p], "manifold": Stiefel()}], second_moment="point")
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
    model = fully_shard(Net(), shard_placement_fn=shard_placement)
    optimizer = RiemannianAdam(model.parameters(), lr=0.1)
    train(model, optimizer, share=share())
    whole = get_optimizer_state_dict(model, optimizer, options=options)
    if dist.get_rank() == 0:
        assert whole["state"]["tall.weight"]["exp_avg_sq"].shape == (8, 6)
    alone = Net()
    adam = RiemannianAdam(alone.parameters(), lr=0.1)
    train(alone, adam)
    expected = get_optimizer_state_dict(alone, adam)
    for name, state in whole["state"].items():
        for key, value in state.items():
            torch.testing.assert_close(
                value, expected["state"][name][key], rtol=10 * CLOSE, atol=10 * CLOSE
            )

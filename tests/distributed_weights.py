"""Checks of single weights, spread over 2 processes; see `tests.distributed_run`."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from riemopt import RiemannianAdam, RiemannianAdamW, RiemannianSGD
from riemopt.distributed.dtensor import local_gradient
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
    "adam": (lambda p: RiemannianAdam(p, lr=0.1), 4, 3),
    "point": (lambda p: RiemannianAdam(p, lr=0.1, second_moment="point"), 3, 2),
    "amsgrad": (
        lambda p: RiemannianAdam(
            p, lr=0.1, amsgrad=True, maximize=True, weight_decay=0.1, second_moment="point"
        ),
        3,
        2,
    ),
    "adamw": (lambda p: RiemannianAdamW(p, lr=TENSOR_LR, foreach=False), 4, 3),
    "one by one": (
        lambda p: RiemannianAdamW(p, lr=TENSOR_LR, foreach=False, second_moment="point"),
        3,
        2,
    ),
    "carried": (lambda p: RiemannianAdam(p, lr=0.1, second_moment="carried"), 4, 3),
}
# Manifold, shape of the weight, dimension that is cut.
CASES = {
    "tall": (Stiefel(), (8, 4), 0),
    "tall, uneven": (Stiefel(), (5, 3), 0),
    "parts wider than tall": (Stiefel(), (5, 4), 0),
    "one row each": (Stiefel(), (2, 1), 0),
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
    "one entry each": (Sphere(dim=0), (2, 3), 0),
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
    for optimizer in ("momentum", "adam", "carried"):
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
                # With torch's own rule all weights are stepped by one call in any case.
                own_rule = optimizer._has_own_rule(manifold)
                alone = 3 if optimizer.defaults["foreach"] is False and own_rule else 1
                assert seen.names == ["allreduce_"] * (expected * alone)
                # Triangles: for gradient, momentum, three of the step, its end; and a quotient.
                sides = [p * (p + 1) // 2 if manifold == Stiefel() else p for _, p in shapes]
                numbers = 7 * sum(sides) + 2 * len(shapes) + sum(p for _, p in shapes)
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
    for name in ("tall, uneven", "cut columns", "wide", "one row each"):
        manifold, shape, dim = CASES[name]
        for optimizer, (make, *_) in OPTIMIZERS.items():
            for bad in (torch.nan, torch.inf, 1e300):
                elementwise = optimizer in ("adam", "adamw", "carried")
                if bad == 1e300 and elementwise:
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
        # In a graph torch's Adam takes powers of its betas in float32, the type of its counter.
        tolerance = 1e-5 if name == "adam" else 1e-11
        twins.assert_close(rtol=tolerance, atol=tolerance)


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
        for name in ("momentum", "adam", "amsgrad"):
            make = OPTIMIZERS[name][0]
            twins = Twins(make, manifold, shape, placements, mesh=grid)
            for seed in range(3):
                twins.step(randn(*shape, seed=seed + 1))
            twins.assert_close(rtol=1e-11, atol=1e-11)
    x = distribute_tensor(Stiefel().random_point(8, 4), grid, [Shard(0), Shard(1)])
    with pytest.raises(NotImplementedError, match="only one side of a matrix may be cut"):
        RiemannianSGD([{"params": [nn.Parameter(x)], "manifold": Stiefel()}], lr=0.1)

"""Bytes that a step on sharded weights sends, against gathering the weights: a table.

torchrun --nproc-per-node 2 benchmarks/communication.py

Counted at the collective operations that run, and turned into what each process sends if these are
rings: 2(W-1)/W of an all-reduced buffer, (W-1)/W of a gathered tensor. Gathering means that each
process gathers the weight and its gradient, steps the whole, and keeps its part. Nothing is timed.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from riemopt import RiemannianAdam, RiemannianSGD
from riemopt.manifolds import Sphere, Stiefel

OPTIMIZERS = {
    "SGD, momentum": lambda groups: RiemannianSGD(groups, lr=0.1, momentum=0.9),
    "Adam": lambda groups: RiemannianAdam(groups, lr=0.1),
    'Adam, "point"': lambda groups: RiemannianAdam(groups, lr=0.1, second_moment="point"),
}
# Name, manifold, shape, dimension that is cut, number of such weights.
WEIGHTS = [
    ("Stiefel", Stiefel(), (4096, 64), 0, 1),
    ("Stiefel", Stiefel(), (16384, 128), 0, 1),
    ("Stiefel, by columns", Stiefel(), (256, 4096), 1, 1),
    ("Stiefel", Stiefel(), (1024, 1024), 0, 1),
    ("Stiefel", Stiefel(), (1024, 64), 0, 24),
    ("sphere, each column", Sphere(dim=0), (4096, 64), 0, 1),
    ("sphere, each row", Sphere(), (4096, 64), 0, 1),
]


class SentBytes(TorchDispatchMode):
    """What this process sends in the collective operations of ring algorithms."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.nbytes = 0, 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        namespace, _, name = func._schema.name.partition("::")
        if namespace in ("c10d", "_c10d_functional") and "wait" not in name and "wrap" not in name:
            self.calls += 1
            share = (dist.get_world_size() - 1) / dist.get_world_size()
            if "allreduce" in name:
                share, tensors = 2 * share, args
            elif "all_gather" in name:
                tensors = result
            else:
                raise NotImplementedError(f"no rule for {name}")
            leaves = [t for t in tree_leaves(tensors) if isinstance(t, torch.Tensor)]
            self.nbytes += share * sum(t.nbytes for t in leaves)
        return result


def measure(make, manifold, shape, dim, count):
    """Calls and bytes of the second step, and of gathering; and the violation after it."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    params = [
        nn.Parameter(distribute_tensor(manifold.random_point(*shape), mesh, [Shard(dim)]))
        for _ in range(count)
    ]
    optimizer = make([{"params": params, "manifold": manifold}])
    for _ in range(2):
        for p in params:
            p.grad = distribute_tensor(torch.randn(shape), mesh, [Shard(dim)])
        with SentBytes() as stepped:
            optimizer.step()
    with SentBytes() as gathered, torch.no_grad():
        for p in params:
            p.full_tensor(), p.grad.full_tensor()
    violation = max(manifold.violation(p.detach().full_tensor()).max().item() for p in params)
    return stepped, gathered, violation


def main():
    torch.manual_seed(0)
    lines = [
        "| weight | optimizer | all-reduces | bytes sent | bytes to gather | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, manifold, shape, dim, count in WEIGHTS:
        for optimizer, make in OPTIMIZERS.items():
            stepped, gathered, violation = measure(make, manifold, shape, dim, count)
            assert violation < 1e-5
            what = f"{name}, {count if count > 1 else ''} {shape[0]}×{shape[1]}".replace(
                ",  ", ", "
            )
            ratio = f"1 : {gathered.nbytes / stepped.nbytes:.0f}" if stepped.nbytes else "nothing"
            lines.append(
                f"| {what} | {optimizer} | {stepped.calls} | {stepped.nbytes:,.0f} | "
                f"{gathered.nbytes:,.0f} | {ratio} |"
            )
    if dist.get_rank() == 0:
        print("\n".join(lines))


if __name__ == "__main__":
    dist.init_process_group("gloo")
    main()
    dist.destroy_process_group()

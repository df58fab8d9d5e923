"""What runs the checks of `tests.distributed_checks`: each of several processes, all checks.

torchrun --nproc-per-node 2 -m tests.distributed_run REPORT FOLDER NAME ...

A check is a function that raises `AssertionError`. Process 0 writes to REPORT, as JSON, the errors
of each check. After an error the rest is not run, since the processes may no longer be in step.
"""

import datetime
import json
import os
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def randn(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def line() -> DeviceMesh:
    """All processes in a row."""
    return init_device_mesh("cpu", (dist.get_world_size(),))


def everywhere(value):
    """The values that all processes have."""
    gathered = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def assert_identical(*tensors):
    """The same bits on each process."""
    for others in everywhere(tensors):
        assert all(map(torch.equal, tensors, others))


class Collectives(TorchDispatchMode):
    """The collective operations that this process takes part in, and the bytes it hands to each."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        namespace, _, name = func._schema.name.partition("::")
        if namespace in ("c10d", "_c10d_functional") and "wait" not in name:
            tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
            self.calls.append((name, sum(t.nbytes for t in tensors)))
        return func(*args, **(kwargs or {}))

    @property
    def names(self):
        return [name for name, _ in self.calls]

    @property
    def nbytes(self):
        return sum(nbytes for _, nbytes in self.calls)


class Twins:
    """One weight on this process alone, and spread over all; stepped with the same gradients."""

    def __init__(self, make, manifold, shape, placements, *, dtype=torch.float64, mesh=None):
        generator = torch.Generator().manual_seed(0)
        x = manifold.random_point(*shape, dtype=dtype, generator=generator)
        self.mesh, self.placements = mesh or line(), placements
        self.alone = nn.Parameter(x.clone())
        self.spread = nn.Parameter(distribute_tensor(x, self.mesh, placements))
        self.alone_optimizer = make([{"params": [self.alone], "manifold": manifold}])
        self.spread_optimizer = make([{"params": [self.spread], "manifold": manifold}])

    def step(self, g):
        self.alone.grad = g.clone()
        self.spread.grad = distribute_tensor(g, self.mesh, self.placements)
        self.alone_optimizer.step()
        self.spread_optimizer.step()

    @property
    def whole(self):
        """The spread weight, gathered."""
        return self.spread.detach().full_tensor()

    def assert_close(self, **tolerance):
        """Weights and states agree, and a state is spread as its weight is."""
        torch.testing.assert_close(self.whole, self.alone.detach(), **tolerance)
        alone = self.alone_optimizer.state_dict()["state"].get(0, {})
        spread = dict(self.spread_optimizer.state_dict()["state"].get(0, {}))  # the live state
        assert [*alone] == [*spread]
        for key, value in alone.items():
            assert isinstance(spread[key], DTensor) == (value.ndim > 0)
            if isinstance(spread[key], DTensor):
                assert spread[key].placements == tuple(self.placements)
                spread[key] = spread[key].full_tensor()
            torch.testing.assert_close(spread[key], value, **tolerance)


def main() -> None:
    from tests.distributed_checks import CHECKS

    report, folder, names = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    results = dict.fromkeys(names, "not run")
    for name in names:
        error = ""
        try:
            torch.manual_seed(0)
            CHECKS[name](folder)
        except BaseException:  # what pytest and torch's checkpoints raise is not always less
            error = f"process {dist.get_rank()}: {traceback.format_exc()}"
            print(error, file=sys.stderr, flush=True)  # before others are waited for
        results[name] = "\n".join(e for e in everywhere(error) if e)
        if results[name]:
            break
    if dist.get_rank() == 0:
        report.write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort a process that ends with Python's own clean-up


if __name__ == "__main__":
    main()

"""Compiled steps on a GPU, and weights that are spread over a group of one process there."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

from riemopt import ManifoldParameter, constraints
from tests import needs
from tests.devices import every_device, on_devices, replayed, side_stream
from tests.manifold_cases import generator
from tests.test_no_host_sync import FEW, MANIFOLDS, OPTIMIZERS

needs_a_compiler = pytest.mark.skipif(
    torch.cuda.is_available() and not any(map(shutil.which, ("cc", "gcc", "clang"))),
    reason="triton needs a C compiler",
)


class Net(nn.Module):
    """Weights of a few kinds, and one that is free."""

    def __init__(self, device):
        super().__init__()
        names = FEW if device == "cuda" else FEW[:2]  # which takes seconds to compile
        self.layers = nn.ModuleDict({name: nn.Module() for name in names})
        for i, name in enumerate(names):
            manifold, shape = MANIFOLDS[name]
            start = torch.randn(shape, generator=generator(i), dtype=torch.float64)
            start = manifold.project(start).float().to(device)
            self.layers[name].weight = ManifoldParameter(start, manifold)
        self.plain = nn.Parameter(torch.randn(5, generator=generator(9)).to(device))

    def fill(self, step):
        for i, p in enumerate(self.parameters()):
            g = torch.randn(p.shape, generator=generator(100 * step + i)).to(p.device)
            p.grad = g if p.grad is None else p.grad.copy_(g)


def options(device, make):
    on_device = device == "cuda" and make not in ("sgd", "momentum")
    return {"capturable": True} if on_device else {}


def compiled_step(optimizer, device, mode=None):
    """On the CPU without inductor, which takes its time."""
    step = type(optimizer).step
    how = {"mode": mode} if device == "cuda" else {"backend": "eager"}
    return torch.compile(lambda: step(optimizer), fullgraph=True, **how)


def trained(device, make, wrap):
    """Six steps; the first one, which makes the state, is eager."""
    net = Net(device)
    optimizer = OPTIMIZERS[make](net.parameters(), **options(device, make))
    net.fill(0)
    optimizer.step()
    step = wrap(net, optimizer)
    for i in range(1, 6):
        net.fill(i)
        step()
    assert optimizer.skipped_steps == 0
    assert all(c.satisfied for c in constraints(net))
    return list(net.parameters())


@needs.compiled_steps
@needs_a_compiler
@on_devices("make", ["momentum", "point"], ["point"])
def test_a_compiled_step_with_cuda_graphs_is_the_eager_step(device, make):
    """torch's own ("reduce-overhead")."""
    torch._dynamo.reset()
    eager = trained(device, make, lambda net, optimizer: optimizer.step)
    compiled = trained(
        device,
        make,
        lambda net, optimizer: compiled_step(optimizer, device, mode="reduce-overhead"),
    )
    for p, q in zip(compiled, eager, strict=True):
        torch.testing.assert_close(p, q, rtol=2e-3, atol=2e-3)


@needs.compiled_steps
@needs_a_compiler
@on_devices("make", ["adam"], ["momentum"])
def test_a_compiled_step_can_be_part_of_a_graph(device, make):
    """One made by hand. So it asks nothing of the host."""

    def wrap(net, optimizer):
        step = compiled_step(optimizer, device)
        with side_stream(device):
            weights = [p.detach().clone() for p in net.parameters()]
            state = [v for s in optimizer.state.values() for v in s.values()]
            kept = [v.clone() for v in state]
            for _ in range(3):  # compiles; what that has done is undone
                step()
            with torch.no_grad():
                torch._foreach_copy_([*net.parameters(), *state], [*weights, *kept])
        return replayed(step, device)

    torch._dynamo.reset()
    eager = trained(device, make, lambda net, optimizer: optimizer.step)
    graph = trained(device, make, wrap)
    for p, q in zip(graph, eager, strict=True):
        torch.testing.assert_close(p, q, rtol=2e-3, atol=2e-3)


@needs.fully_shard_on_cpu
@every_device()
def test_weights_spread_over_a_group_of_one_process(device):
    """With the collectives of the device: NCCL's, or gloo's."""
    if device == "cuda" and not torch.distributed.is_nccl_available():
        pytest.skip("this torch has no NCCL")
    root = pathlib.Path(__file__).parents[1]
    path = os.pathsep.join(map(str, [root, *filter(None, [os.environ.get("PYTHONPATH")])]))
    process = subprocess.run(
        [sys.executable, "-m", "tests.sharded_on_one", device],
        cwd=root,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr

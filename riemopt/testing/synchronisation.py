"""What a step asks of the host: which operators the methods of a step use, and what they make."""

from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from riemopt.manifolds import Manifold
from riemopt.testing.law import law, need

SYNCHRONISING = (
    "_local_scalar_dense",
    "nonzero",
    "_linalg_svd",
    "_linalg_eigh",
    "linalg_eig",
    "linalg_matrix_exp",
    "linalg_cholesky",
    "linalg_inv",
    "_linalg_check_errors",
)
"""Operators that read a value on the host, or whose kernels on an accelerator do."""


class Recorder(TorchDispatchMode):
    """Records each operator and the shapes of the tensors that it makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[str, list[tuple[int, ...]]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it, and note it down."""
        out = func(*args, **(kwargs or {}))
        shapes = [tuple(a.shape) for a in tree_leaves(out) if isinstance(a, Tensor)]
        self.calls.append((func.__name__.split(".")[0], shapes))
        return out


def step_operators(manifold: Manifold, x: Tensor) -> list[tuple[str, list[tuple[int, ...]]]]:
    """Operators of everything that a step may use on `x`, and the shapes that they make."""
    u = torch.ones_like(x)
    with Recorder() as recorder:
        manifold.proj_tangent(x, u)
        manifold.egrad2rgrad(x, u)
        manifold.inner(x, u, u)
        manifold.norm(x, u, keepdim=True)
        manifold.transport(x, x, u)
        manifold.retract(x, u)
        manifold.carry(x, u, u, 0.9, 0.1)
        manifold.carry_mean(x, u, u, 0.9)
        manifold.violation(x)
    return recorder.calls


@law(
    "the methods of a step read no value on the host",
    "It works, but waits for an accelerator at every step, and rules out CUDA graphs and "
    "torch.compile. torch.where stands for `if`; cholesky_ex, solve_ex and inv_ex with "
    "check_errors=False do not wait; svd, eigh and matrix_exp do. If that is meant: "
    'skip=["step reads nothing on the host"].',
    by_shape=True,
)
def step_reads_nothing_on_the_host(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """On the meta device, where there is no value to read."""
    meta = x.to("meta")
    try:
        names = {name for name, _ in step_operators(manifold, meta)}
    except (RuntimeError, NotImplementedError) as error:
        raise AssertionError(f"on the meta device: {str(error).splitlines()[0]}") from error
    waiting = sorted(names & set(SYNCHRONISING))
    need(not waiting, f"it uses {', '.join(waiting)}")

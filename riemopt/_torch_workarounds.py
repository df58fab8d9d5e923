"""Errors of torch that are worked around, each with a name and what is done instead.

At the site stands nothing but the name: `# workaround: inductor_copy_keyerror`. For each there is a
test in tests/test_torch_workarounds.py that fails while the error lives; once it passes, torch has
repaired the error and what is here can go.

fused_adam_strides
    The fused SGD and Adam of torch 2.13 on CPUs pair the entries of a parameter and its gradient by
    their place in memory, also where the strides differ. Both are made contiguous before.
inductor_copy_keyerror
    Inductor of torch 2.13 raises KeyError on CPUs where it fuses two loops that write into
    arguments of the graph (pytorch #196570). `copy_into` copies by the foreach operation in a
    graph; a projection on the tangent space of a sphere reads its result once more.
inductor_stale_alpha
    Inductor of torch 2.13 keeps an old `alpha` of `add` where the number changes between calls of a
    graph and has another use there. `add_scaled` multiplies and adds.
matrix_exp_of_one_matrix
    `torch.linalg.matrix_exp` of one matrix, of a norm at which it takes the polynomial of degree 8,
    has a wrong coefficient: an error of 1e-10 in float64 and 1e-5 in float32 (pytorch #196592).
    `matrix_exp` computes a batch of two.
parameter_of_parameter
    `torch.nn.Parameter(p)` of torch 2.13 raises RuntimeError where p is of a subclass of Parameter
    for which `detach` gives a plain tensor, as it does for Parameter itself. A `ManifoldParameter`
    gives one of its own kind to that caller alone.
"""

import math
import sys
from collections.abc import Sequence

import torch
from torch import Tensor


def copy_into(targets: Sequence[Tensor], values: Tensor) -> None:
    """Write `(K, *shape)` values into K targets.

    workaround: inductor_copy_keyerror
    """
    if len(targets) == 1 and not torch.compiler.is_compiling():
        targets[0].copy_(values.squeeze(0))
    else:
        torch._foreach_copy_(list(targets), list(values.unbind()))


def add_scaled(x: Tensor, u: Tensor, t: float) -> Tensor:
    """X + t·U for a number t, in one pass.

    workaround: inductor_stale_alpha
    """
    return x + t * u if torch.compiler.is_compiling() else torch.add(x, u, alpha=t)


def is_made_a_parameter() -> bool:
    """Whether the method that asks was called by `torch.nn.Parameter(p)`.

    workaround: parameter_of_parameter
    """
    maker = getattr(torch.nn.Parameter.__new__, "__code__", None)
    return not torch.compiler.is_compiling() and sys._getframe(2).f_code is maker


def matrix_exp(a: Tensor) -> Tensor:
    """`torch.linalg.matrix_exp`, a single matrix in a batch of two.

    workaround: matrix_exp_of_one_matrix
    """
    if math.prod(a.shape[:-2]) != 1:
        return torch.linalg.matrix_exp(a)
    return torch.linalg.matrix_exp(torch.stack([a, a]))[0]

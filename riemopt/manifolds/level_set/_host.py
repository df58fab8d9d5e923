"""Which algorithm computes, and what is known on the host for free: asked here alone.

Where values can be read without waiting, as on eager CPU tensors, algorithms are *adaptive*: they
look whether they have arrived. Elsewhere their length is *fixed*.
"""

import torch
from torch import Tensor

from riemopt.linalg import host_readable


def adaptive(like: Tensor) -> bool:
    """Whether the adaptive algorithm computes on tensors like this one."""
    return host_readable(like)


def rounds(like: Tensor, *, at_most: int, fixed: int) -> range:
    """The rounds of an iteration: `at_most` where a stopping test ends it, else `fixed` ones."""
    return range(at_most if adaptive(like) else fixed)


def known_all(condition: Tensor) -> bool:
    """True only if every entry is known for free to be True; False where it cannot be read."""
    return host_readable(condition) and bool(condition.all())


def known_any(condition: Tensor) -> bool:
    """True only if some entry is known for free to be True; False where it cannot be read."""
    return host_readable(condition) and bool(condition.any())


def is_recorded_outside(x: Tensor) -> bool:
    """Whether torch.compile, a transform of torch.func or autograd records what is called on x."""
    return (
        torch.compiler.is_compiling()
        or torch._C._functorch.is_functorch_wrapped_tensor(x)
        or torch.is_grad_enabled()
    )

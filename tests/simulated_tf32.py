"""A CPU that behaves as an accelerator: nothing may be read, and inexact products round to TF32.

with SimulatedTF32():
    optimizer.step()

And what steps of such precision are judged by, here and on a GPU.
"""

import math
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from riemopt import linalg
from riemopt._torch_versions import CUDA_PRODUCTS
from riemopt.linalg import backends
from riemopt.manifolds import Manifold

PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "addmm_": 1, "baddbmm": 1, "baddbmm_": 1}
"""Where the first of two factors stands among the arguments."""


def round_to_tf32(a: Tensor) -> Tensor:
    """The nearest number with 10 bits after the leading one, of each entry; halves go to even."""
    if a.is_complex():
        parts = torch.view_as_real(a.resolve_conj())
        return torch.view_as_complex(round_to_tf32(parts))
    bits = a.contiguous().view(torch.int32)
    rounded = (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF
    return torch.where(a.isfinite(), rounded.view(torch.float32), a)


class SimulatedTF32(TorchDispatchMode):
    """In this block no value may be read, and products that may be inexact are.

    Attributes:
        exact, inexact: multiplications in products of float32 matrices of each kind.
    """

    def __init__(self) -> None:
        super().__init__()
        self.exact = self.inexact = 0

    def __enter__(self) -> "SimulatedTF32":
        self._patches = ExitStack()
        dtypes = (torch.float32, torch.complex64)
        self._patches.enter_context(
            mock.patch.object(backends, "has_tf32", lambda like: like.dtype in dtypes)
        )
        self._patches.enter_context(nothing_is_read())
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = PRODUCTS.get(func.overloadpacket.__name__)
        if first is not None and args[first].dtype in (torch.float32, torch.complex64):
            a, b = args[first : first + 2]
            multiplications = a.numel() * b.shape[-1]
            if CUDA_PRODUCTS.fp32_precision == "tf32":
                self.inexact += multiplications
                args = (*args[:first], round_to_tf32(a), round_to_tf32(b), *args[first + 2 :])
            else:
                self.exact += multiplications
        return func(*args, **(kwargs or {}))


def nothing_is_read() -> Any:
    """A block in which the algorithms of accelerators serve every tensor."""
    return mock.patch.object(backends, "reads_are_free", return_value=False)


# --- bounds ------------------------------------------------------------------------------------

TF32 = 3e-4
"""Error of a step relative to its length, where the inputs of products have 10 bits."""


def tangent_of_norm(
    manifold: Manifold, x: Tensor, kind: str, rho: float, random: torch.Generator
) -> Tensor:
    """Of spectral norm rho, in all directions ("random") or in a few ("rank 2")."""
    if kind == "random":
        a = torch.randn(x.shape, generator=random, dtype=x.dtype)
    else:
        left = torch.randn(*x.shape[:-1], 2, generator=random, dtype=x.dtype)
        right = torch.randn(*x.shape[:-2], 2, x.shape[-1], generator=random, dtype=x.dtype)
        a = left @ right
    u = manifold.proj_tangent(x, a.to(x.device))
    # Singular values would take most of a test's time on a GPU.
    norm = torch.linalg.eigvalsh(linalg.gram(u, u))[..., -1:].sqrt().unsqueeze(-1)
    return u * (rho / norm)


def defect(x: Tensor) -> Tensor:
    """max |XᴴX - I| of all matrices, in double precision."""
    return linalg.gram_defect(_double(x)).abs().max()


def bound_of_surface(x: Tensor) -> float:
    """The promise for every stored point: 10·eps·√p."""
    return 10 * torch.finfo(x.dtype).eps * math.sqrt(min(x.shape[-2:]))


def relative_error(
    manifold: Manifold, x: Tensor, u: Tensor, taken: Tensor | float, y: Tensor
) -> Tensor:
    """Of each step that was taken, against the eager one in double precision."""
    v = _double(u) * taken
    error = torch.linalg.matrix_norm(_double(y) - manifold.retract(_double(x), v))
    return error / torch.linalg.matrix_norm(v)


def _double(a: Tensor) -> Tensor:
    return a.to(torch.complex128 if a.is_complex() else torch.float64)

"""A CPU that behaves as an accelerator: nothing may be read, and inexact products round to TF32.

with SimulatedTF32():
    optimizer.step()
"""

from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from riemopt._torch_versions import CUDA_PRODUCTS
from riemopt.linalg import backends

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

"""Arrays that belong to the description of a manifold: a mask, the rows of a matrix.

A description has no device and no dtype, so it holds such data on the host, in double precision,
and compares it by value. Where a point needs it, a copy is made once for each device and dtype:

    mask = Constant(torch.eye(3) > 0)
    mask.on(x)              # on x's device; made at the first call, or by `Manifold.prepare`
"""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from riemopt.linalg import HALF, Copies


class Constant:
    """An immutable array, equal by value: boolean, or float64 or complex128 on the host.

    Args:
        value: a tensor with data, of any dtype and on any device; copied. Integers become floats.

    Raises:
        ValueError: `value` is on the meta device.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Constant
        >>> mask = Constant(torch.eye(2) > 0)
        >>> mask == Constant(torch.eye(2).double() > 0)
        True
        >>> mask.on(torch.zeros(2, 2))  # where the points are
        tensor([[ True, False],
                [False,  True]])
    """

    def __init__(self, value: Tensor) -> None:
        if value.is_meta:
            raise ValueError("A manifold needs the values of its data; got a tensor on 'meta'.")
        kept = torch.complex128 if value.is_complex() else torch.float64
        if value.dtype == torch.bool:
            array = value.detach().cpu().numpy().copy()
        else:
            # + 0, since -0 and 0 are one value.
            array = value.detach().to("cpu", kept).resolve_conj().resolve_neg().numpy() + 0
        self.array: np.ndarray = array
        self.array.setflags(write=False)
        self.shape: tuple[int, ...] = self.array.shape
        self.kind = str(self.array.dtype.kind)  # torch.compile looks at no dtype of numpy
        described = f"{self.array.shape} {self.array.dtype} ".encode()
        self.digest = hashlib.sha256(described + self.array.tobytes()).hexdigest()
        self.copies = Copies(self.array)

    def on(self, x: Tensor) -> Tensor:
        """The array on the device of `x` and, unless boolean, in its dtype: float32 for half.

        Raises:
            TypeError: the array is complex and `x` is real.
        """
        dtype = torch.float32 if x.dtype in HALF else x.dtype
        if self.kind == "b":
            dtype = torch.bool
        if self.kind == "c" and not dtype.is_complex:
            raise TypeError(
                f"This manifold is described by complex numbers: points must be complex; got "
                f"{x.dtype}."
            )
        return self.copies.on(x, dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<{'×'.join(map(str, self.shape)) or 'number'} #{self.digest[:6]}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> "Constant":
        return self

    def __reduce__(self) -> Any:
        return Constant, (torch.tensor(self.array),)

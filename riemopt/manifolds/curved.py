"""What spaces of constant curvature have in common: the option that says how curved they are."""

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from riemopt.linalg import Curvature
from riemopt.manifolds.base import Manifold


class Curved(Manifold):
    """Vectors with one option, the curvature: a number, or a tensor of one number.

    A number is compared by value. A tensor may be a Parameter that is learned, so that its value
    changes: a manifold is equal to another one if both refer to the same tensor, and its hash is
    that of the tensor's identity. Implementations name the option by `_option`.
    """

    event_ndim = 1
    distorts_lengths = True
    _option: ClassVar[str] = "c"

    def _set_curvature(self, value: Curvature, *, positive: bool) -> None:
        name, need = type(self).__name__, "positive, finite" if positive else "finite"
        if isinstance(value, Tensor):
            if value.ndim or not value.is_floating_point():
                raise ValueError(
                    f"{name} needs a tensor of no dimensions and a floating-point dtype for "
                    f"{self._option}; got {value.dtype} of shape {tuple(value.shape)}."
                )
        else:
            value = float(value)
        if not (isinstance(value, Tensor) and value.is_meta):
            number = float(value.detach() if isinstance(value, Tensor) else value)
            if not math.isfinite(number) or (positive and number <= 0):
                raise ValueError(f"{name} needs a {need} {self._option}; got {number!r}.")
        object.__setattr__(self, self._option, value)

    @property
    def _key(self) -> Any:
        value = getattr(self, self._option)
        return id(value) if isinstance(value, Tensor) else value

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        mine, theirs = getattr(self, self._option), getattr(other, self._option)
        if isinstance(mine, Tensor) or isinstance(theirs, Tensor):
            return mine is theirs
        return bool(mine == theirs)

    def __hash__(self) -> int:
        return hash((type(self), self._key))

    def __repr__(self) -> str:
        value = getattr(self, self._option)
        if not isinstance(value, Tensor):
            return super().__repr__()
        described = f"<learned, {float(value.detach()):.4g}>" if not value.is_meta else "<learned>"
        return f"{type(self).__name__}({self._option}={described})"

    # --- what the methods of a step share at one point ---

    _here: ClassVar[tuple[Tensor | None, Tensor | None]] = (None, None)

    def _measure(self, x: Tensor) -> Tensor:
        """The number of each point, `(*batch, 1)`, on which the metric depends."""
        raise NotImplementedError

    def _measured(self, x: Tensor) -> Tensor:
        at, kept = self._here
        return kept if at is x and kept is not None else self._measure(x)

    @override
    def linearised_at(self, x: Tensor) -> "Curved":
        """A copy that keeps the number of each point on which its metric depends."""
        here = copy.copy(self)
        object.__setattr__(here, "_here", (x, self._measure(x)))
        return here

    def _check_vectors(self, shape: Sequence[int], least: int) -> None:
        if not shape or shape[-1] < least:
            entries = "one entry" if least == 1 else f"{least} entries"
            self._reject(shape, f"vectors (*batch, n) of at least {entries}")

    def _need_real(self, a: Tensor) -> None:
        if a.is_complex():
            raise TypeError(f"Points of {self!r} are real; got {a.dtype}.")

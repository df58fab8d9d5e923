"""A tensor that is cut along one dimension into slices, each of a shape of its own.

cut = Cut(((3, 3), (3,)), dim=-1)
rotation, translation = cut.split(poses)         # (…, 12) -> (…, 3, 3), (…, 3): views
poses = cut.join([rotation, translation])        # a copy, unless there is one part
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cut:
    """Slices of prod(shape) entries along `dim`; in each, that dimension is unflattened to `shape`.

    A part has the dimensions `(*batch, *shape, *trailing)`: those after `dim` stay as they are. One
    number of one shape may be -1: whatever is left.
    """

    shapes: tuple[tuple[int, ...], ...]
    dim: int
    """Negative."""

    @property
    def sizes(self) -> list[int]:
        """Entries along `dim` of each slice; -k for a multiple of k, in the slice with a -1."""
        return [math.prod(shape) for shape in self.shapes]

    def sizes_in(self, total: int) -> list[int] | None:
        """The sizes where there are `total` entries along `dim`; None if they do not fit."""
        sizes = self.sizes
        rest = total - sum(size for size in sizes if size > 0)
        multiple = next((-size for size in sizes if size < 0), 0)
        if rest < 0 or (rest % multiple if multiple else rest):
            return None
        return [size if size > 0 else rest for size in sizes]

    def split(self, x: Tensor) -> list[Tensor]:
        """The parts, as views."""
        sizes = self.sizes_in(x.shape[self.dim])
        assert sizes is not None
        slices = x.split(sizes, self.dim)
        return [
            piece.unflatten(self.dim, shape) if len(shape) > 1 else piece
            for piece, shape in zip(slices, self.shapes, strict=True)
        ]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The tensor of which these are the parts, contiguous; one alone may keep its memory."""
        slices = [
            part.flatten(self.dim - len(shape) + 1, self.dim) if len(shape) > 1 else part
            for part, shape in zip(parts, self.shapes, strict=True)
        ]
        return torch.cat(slices, self.dim) if len(slices) > 1 else slices[0].contiguous()

    def split_numbers(self, t: float | Tensor, ndim: int) -> list[float | Tensor]:
        """What broadcasts to one number for each point, `ndim` dimensions, so for each part."""
        if not isinstance(t, Tensor) or t.ndim == 0:
            return [t] * len(self.shapes)
        full = t.reshape(*[1] * (ndim - t.ndim), *t.shape)
        return [full.unflatten(self.dim, [1] * len(shape)) for shape in self.shapes]

    def point_shapes(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """The shape of each part of a tensor of `shape`, without the batch."""
        trailing = tuple(shape[len(shape) + self.dim + 1 :])
        sizes = self.sizes_in(shape[self.dim])
        assert sizes is not None
        known = [
            tuple(n if n > 0 else size // -math.prod(own) for n in own)
            for own, size in zip(self.shapes, sizes, strict=True)
        ]
        return [own + trailing for own in known]

    def check_parts(self, parts: Sequence[Tensor]) -> None:
        """Raise `ValueError` unless these have the shapes of parts."""
        trailing = -self.dim - 1
        for part, shape in zip(parts, self.shapes, strict=True):
            end = part.ndim - trailing
            given = part.shape[max(end - len(shape), 0) : max(end, 0)]
            if len(given) != len(shape) or any(
                n not in (-1, m) for n, m in zip(shape, given, strict=True)
            ):
                sizes = ["·" if n < 0 else str(n) for n in shape]
                layout = ", ".join(("*batch", *sizes, *["·"] * trailing))
                raise ValueError(f"A part of shape ({layout}) is needed; got {tuple(part.shape)}.")

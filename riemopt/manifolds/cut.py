"""A tensor that is cut along one dimension into slices, each of a shape of its own.

cut = Cut(((3, 3), (3,)), dim=-1)
rotation, translation = cut.split(poses)         # (…, 12) -> (…, 3, 3), (…, 3): views
poses = cut.join([rotation, translation])        # a copy
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cut:
    """Slices of prod(shape) entries along `dim`; in each, that dimension is unflattened to `shape`.

    A part has the dimensions `(*batch, *shape, *trailing)`: those after `dim` stay as they are.
    """

    shapes: tuple[tuple[int, ...], ...]
    dim: int
    """Negative."""

    @property
    def sizes(self) -> list[int]:
        """Entries along `dim` of each slice."""
        return [math.prod(shape) for shape in self.shapes]

    def split(self, x: Tensor) -> list[Tensor]:
        """The parts, as views."""
        slices = x.split(self.sizes, self.dim)
        return [
            piece.unflatten(self.dim, shape) if len(shape) > 1 else piece
            for piece, shape in zip(slices, self.shapes, strict=True)
        ]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The tensor of which these are the parts; a copy, contiguous."""
        slices = [
            part.flatten(self.dim - len(shape) + 1, self.dim) if len(shape) > 1 else part
            for part, shape in zip(parts, self.shapes, strict=True)
        ]
        return torch.cat(slices, self.dim)

    def split_numbers(self, t: float | Tensor, ndim: int) -> list[float | Tensor]:
        """What broadcasts to one number for each point, `ndim` dimensions, so for each part."""
        if not isinstance(t, Tensor) or t.ndim == 0:
            return [t] * len(self.shapes)
        full = t.reshape(*[1] * (ndim - t.ndim), *t.shape)
        return [full.unflatten(self.dim, [1] * len(shape)) for shape in self.shapes]

    def point_shapes(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """The shape of each part of a tensor of `shape`, without the batch."""
        trailing = tuple(shape[len(shape) + self.dim + 1 :])
        return [own + trailing for own in self.shapes]

    def check_parts(self, parts: Sequence[Tensor]) -> None:
        """Raise `ValueError` unless these have the shapes of parts."""
        trailing = -self.dim - 1
        for part, shape in zip(parts, self.shapes, strict=True):
            end = part.ndim - trailing
            if tuple(part.shape[max(end - len(shape), 0) : max(end, 0)]) != shape:
                layout = ", ".join(("*batch", *map(str, shape), *["·"] * trailing))
                raise ValueError(f"A part of shape ({layout}) is needed; got {tuple(part.shape)}.")

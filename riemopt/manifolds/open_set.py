"""What open sets of real numbers have in common, whose metrics make them complete or nearly so."""

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from riemopt.manifolds.base import Manifold


class OpenSet(Manifold):
    """A set of real tensors whose vectors are carried in parallel, by a closed form.

    Implementations give `parallel_transport`; momentum is carried by it too, since its length in
    the metric changes with the point.
    """

    @override
    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """The parallel transport."""
        return self.parallel_transport(x, y, v)

    @override
    def after_move(self, x: Tensor, y: Tensor, m: Tensor) -> Tensor:
        return self.parallel_transport(x, y, m)

    def _refuse_complex(self, is_complex: bool) -> None:
        if is_complex:
            raise ValueError(f"{self!r} needs real tensors; complex numbers have no order.")


class OpenInterval(OpenSet):
    """An open set in which each entry of a tensor is a point by itself."""

    event_ndim = 0
    distorts_lengths = True

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        pass

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension 1."""
        self._refuse_complex(is_complex)
        return 1

    def _violation(self, inside: Tensor, x: Tensor) -> Tensor:
        """0 where a point is inside, infinite elsewhere."""
        return torch.where(inside, torch.zeros_like(x), torch.inf)

"""Parametrizations that torch does not have: modules for `register_parametrization`.

    register_parametrization(layer, "weight", Symmetrize())
    register_parametrization(layer, "weight", Normalize())      # each row x/‖x‖

Each leaves the points of its manifold as they are, so that any weight on it can be assigned, and
is its own original.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from riemopt.linalg import skew, sym
from riemopt.manifolds import Manifold, SkewSymmetric, Sphere, Symmetric


class Normalize(nn.Module):
    """r·x/‖x‖ along `dim`: onto `Sphere(dim, radius)`, with its arguments.

    Examples:
        >>> import torch
        >>> from riemopt.interop.parametrize import Normalize
        >>> Normalize()(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 1.0000]])
    """

    def __init__(self, dim: int | Sequence[int] | None = -1, radius: float = 1.0) -> None:
        super().__init__()
        self.manifold = Sphere(dim, radius)

    @override
    def forward(self, x: Tensor) -> Tensor:
        dims = self.manifold.event_dims(x.ndim)
        return x * (self.manifold.radius / torch.linalg.vector_norm(x, dim=dims, keepdim=True))

    def right_inverse(self, x: Tensor) -> Tensor:
        """The weight itself: its length does not matter."""
        return x

    @override
    def extra_repr(self) -> str:
        return repr(self.manifold)


class Symmetrize(nn.Module):
    """(X + Xᴴ)/2: onto `Symmetric()`.

    Examples:
        >>> import torch
        >>> from riemopt.interop.parametrize import Symmetrize
        >>> Symmetrize()(torch.tensor([[1.0, 2.0], [4.0, 3.0]]))
        tensor([[1., 3.],
                [3., 3.]])
    """

    manifold: Manifold = Symmetric()

    @override
    def forward(self, x: Tensor) -> Tensor:
        return sym(x)

    def right_inverse(self, x: Tensor) -> Tensor:
        """The weight itself: its skew part does not matter."""
        return x


class SkewSymmetrize(nn.Module):
    """(X - Xᴴ)/2: onto `SkewSymmetric()`.

    Examples:
        >>> import torch
        >>> from riemopt.interop.parametrize import SkewSymmetrize
        >>> SkewSymmetrize()(torch.tensor([[1.0, 2.0], [4.0, 3.0]]))
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """

    manifold: Manifold = SkewSymmetric()

    @override
    def forward(self, x: Tensor) -> Tensor:
        return skew(x)

    def right_inverse(self, x: Tensor) -> Tensor:
        """The weight itself: its symmetric part does not matter."""
        return x


class ScaledDirection(nn.Module):
    """W = g·D, with a free length g for each slice and a direction D on a sphere.

    What `weight_norm`, W = g·V/‖V‖, becomes: `original0` is g as it was, `original1` is D, which a
    Riemannian optimizer keeps at ‖D‖ = 1. W itself is on no manifold.

    Args:
        dim: as in `torch.nn.utils.parametrizations.weight_norm`: lengths are told apart along it;
            -1 or None for one length of the whole tensor.

    Examples:
        >>> from torch import nn
        >>> from torch.nn.utils.parametrizations import weight_norm
        >>> from riemopt import constraints
        >>> from riemopt.interop.parametrize import from_parametrized
        >>> layer = weight_norm(nn.Linear(4, 6))
        >>> _ = from_parametrized(layer)  # W = g·D, and D on a sphere
        >>> [(c.name, c.manifold) for c in constraints(layer)]
        [('parametrizations.weight.original1', Sphere())]
    """

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def direction(self, v: Tensor) -> tuple[Sphere, Tensor]:
        """V/‖V‖ and where it lies, with dimensions counted from the end.

        Raises:
            ValueError: no dimension is left for a direction.
        """
        sphere = self.sphere(v.ndim)
        with torch.no_grad():
            direction = v / torch.norm_except_dim(v, 2, self.dim)
        return Sphere(sphere.event_dims(v.ndim), sphere.radius), direction

    def sphere(self, ndim: int) -> Sphere:
        """Where D lies, for a weight of `ndim` dimensions.

        Raises:
            ValueError: no dimension is left for a direction.
        """
        if self.dim == -1:
            return Sphere(dim=None)
        return Sphere(dim=[d - ndim for d in range(ndim) if d != self.dim])

    @override
    def forward(self, length: Tensor, direction: Tensor) -> Tensor:
        return length * direction

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """‖W‖ and W/‖W‖."""
        length = torch.norm_except_dim(weight, 2, self.dim)
        return length, weight / length

    @override
    def extra_repr(self) -> str:
        return f"dim={self.dim}"

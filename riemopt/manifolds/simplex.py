"""The probability simplex: vectors, or slices of any shape, of positive entries with sum 1."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import upcast
from riemopt.manifolds.base import Manifold
from riemopt.manifolds.open_set import OpenSet
from riemopt.manifolds.slices import Slices


@final
@dataclass(frozen=True, init=False, repr=False)
class Simplex(Slices, OpenSet):
    """{x : xᵢ > 0, Σ xᵢ = 1} with Fisher's metric Σ uᵢvᵢ/xᵢ. Each slice along `dim` is one point.

        Simplex()            each row of a (k, n) tensor
        Simplex(dim=0)       each column
        Simplex(dim=None)    the whole tensor is one point

    Args:
        dim: dimension or dimensions of one point; None for all of them.

    Dimension: n - 1 for n entries a point; an open set.

    Metric: 2√x maps it to a part of the sphere of radius 2, so that exp, log and dist are those of
    great circles (Amari & Nagaoka 2000, §2.6, for the metric). The gradient is x∘(g - ⟨x, g⟩): an
    `lr` times it is a step of the replicator equation.

    Step: x⁺ ∝ u + √(x² + u²), of first order and inside for u of any length. Entries stay above
    eps².

    Cost: some passes over the entries; nothing waits for a device.

    For: mixture weights, categorical distributions, attention that is stored.

    Not for: zeros: its gradient vanishes on the way to them.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Simplex
        >>> x = torch.tensor([0.2, 0.3, 0.5])
        >>> y = Simplex().retract(x, Simplex().egrad2rgrad(x, torch.tensor([1.0, 0.0, 0.0])))
        >>> y.sum(), bool(y[0] > x[0])
        (tensor(1.), True)
    """

    slice_dims: tuple[int, ...] | None

    def __init__(self, dim: int | Sequence[int] | None = -1) -> None:
        self._set_dims(dim)

    def __repr__(self) -> str:
        return self._describe()

    @override
    def along(self, dims: Sequence[int]) -> Manifold:
        return Simplex(dims)

    @property
    @override
    def margin(self) -> float:
        return 0.01

    @override
    @upcast
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The entries u - mean(u)."""
        return u - u.mean(self.event_dims(u.ndim), keepdim=True)

    @override
    @upcast
    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        """x∘(g - ⟨x, g⟩)."""
        return x * (g - self._sum(x * g))

    @override
    @upcast
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """The gradient made of h + ½(g - ⟨x, g⟩)∘u/x: geodesics have ẍ = ½(u²/x - x·Σu²/x)."""
        return self.egrad2rgrad(x, h + (g - self._sum(x * g)) * (u / x) / 2)

    @override
    @upcast
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        """Σ uᵢvᵢ/xᵢ."""
        return (u * (v / x)).sum(self.event_dims(x.ndim), keepdim=keepdim)

    @override
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """u + √(x² + u²), divided by its sum."""
        wide = torch.promote_types(x.dtype, torch.float32)
        y = linalg.positive_step(x.to(wide), u.to(wide))
        return self.round_point(y / self._sum(y), x.dtype)

    def _inside(self, x: Tensor) -> Tensor:
        return x.clamp(min=_least(x.dtype)).contiguous()

    @override
    def round_point(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """x rounded, with entries of eps² at least."""
        return self._inside(x.to(dtype))

    @override
    @upcast
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """w∘(V - (z + w)⟨w, V⟩/(1 + ⟨z, w⟩)) with z = √x, w = √y, V = v/z: that of the sphere."""
        z, w = x.sqrt(), y.sqrt()
        V = v / z
        return w * (V - (z + w) * (self._sum(w * V) / (1 + self._sum(z * w))))

    @override
    @upcast
    def project(self, a: Tensor) -> Tensor:
        """max(a - τ, 0), the τ for which it sums to 1 (Duchi et al. 2008), if no entry is 0.

        Else mixed with a hundredth of the uniform distribution.
        """
        self._check_real(a)
        dims = self.event_dims(a.ndim)
        flat = a.movedim(dims, tuple(range(-len(dims), 0))).flatten(-len(dims))
        n, least = flat.shape[-1], _least(a.dtype)
        even = flat - (flat.mean(-1, keepdim=True) - 1 / n)
        inside = (even > least).all(-1, keepdim=True)
        flat = (flat - flat.amax(-1, keepdim=True)).clamp(min=-1)  # below that entries are 0
        ordered = flat.sort(-1, descending=True)[0]
        count = torch.arange(1, n + 1, device=a.device, dtype=a.dtype)
        excess = (ordered.cumsum(-1) - 1) / count
        tau = torch.where(ordered > excess, excess, -torch.inf).amax(-1, keepdim=True)
        flat = (flat - tau).clamp(min=0)
        mixed = 0.99 * flat / flat.sum(-1, keepdim=True) + 0.01 / n
        flat = torch.where(inside, even, mixed)
        event = [a.shape[d] for d in dims]
        return flat.unflatten(-1, event).movedim(tuple(range(-len(dims), 0)), dims).contiguous()

    @override
    @upcast
    def violation(self, x: Tensor) -> Tensor:
        """|Σ xᵢ - 1| of each point; infinite where an entry is not positive."""
        dims = self.event_dims(x.ndim)
        return torch.where((x > 0).all(dims), (x.sum(dims) - 1).abs(), torch.inf)

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension n - 1 for n entries a point."""
        self._refuse_complex(is_complex)
        return math.prod(shape[d] for d in self.event_dims(len(shape))) - 1

    @override
    def random_point(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """exp(z/2) of standard normal z, divided by its sum."""
        self.check_shape(shape)
        weights = (torch.randn(*shape, generator=generator, dtype=dtype, device=device) / 2).exp()
        return self._normalised(weights)

    @upcast
    def _normalised(self, weights: Tensor) -> Tensor:
        return self._inside(weights / self._sum(weights))

    @override
    @upcast
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """(cos θ·z + sin θ/θ·ż)² with z = √x, ż = u/2z, θ = ‖ż‖: a geodesic up to the boundary."""
        z = x.sqrt()
        velocity = u / (2 * z)
        squared = self._sum(velocity.square())
        moving = squared > 0
        angle = torch.where(moving, squared, 1).sqrt() * moving
        end = torch.cos(angle) * z + torch.sinc(angle / math.pi) * velocity
        return self._inside(end.square())

    @override
    @upcast
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """2z∘P(√y - z)/sinc θ, θ the angle between z = √x and √y."""
        z, apart, angle = self._angle(x, y)
        along = apart - z * self._sum(z * apart)
        return 2 * z * along / torch.sinc(angle / math.pi)

    @override
    @upcast
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """4·atan2(‖√x - √y‖, ‖√x + √y‖) = 2·arccos Σ√(xᵢyᵢ), exact to rounding at every angle."""
        return 2 * self._angle(x, y)[2].sum(self.event_dims(x.ndim))

    def _angle(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """√x, √y - √x, and the angle between the roots, with event dimensions of size 1."""
        dims = self.event_dims(x.ndim)
        z, w = x.sqrt(), y.sqrt()
        apart = (y - x) / (z + w)
        far = torch.linalg.vector_norm(apart, dim=dims, keepdim=True)
        return (
            z,
            apart,
            2 * torch.atan2(far, torch.linalg.vector_norm(z + w, dim=dims, keepdim=True)),
        )

    def _sum(self, a: Tensor) -> Tensor:
        return a.sum(self.event_dims(a.ndim), keepdim=True)


def _least(dtype: torch.dtype) -> float:
    """The smallest entry that is kept; n of them change a sum of 1 by less than rounding."""
    return float(torch.finfo(dtype).eps ** 2)

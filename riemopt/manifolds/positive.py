"""Positive numbers."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import upcast
from riemopt.manifolds.open_set import OpenInterval


@final
@dataclass(frozen=True, repr=False)
class Positive(OpenInterval):
    """{x : x > 0} with ⟨u, v⟩ = uv/x². Every entry of a real tensor is a point by itself.

    Dimension: 1 an entry.

    Metric: flat and complete: log x is a Cartesian coordinate, and the gradient is x²g, by `lr`
    times which entries move. As `SPD("affine")` of 1×1 matrices (Pennec et al. 2006).

    Step: x⁺ = u + √(x² + u²), which agrees with the geodesic x·exp(u/x) to second order, is
    positive for u of any length, and not longer than 2u.

    Cost: some passes over the entries; nothing waits for a device.

    For: scales, rates, variances, temperatures.

    Not for: 0, which is infinitely far; bounded entries (`Interval`).

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Positive
        >>> Positive().retract(torch.tensor([1.0, 2.0]), torch.tensor([-100.0, 0.0])) > 0
        tensor([True, True])
        >>> Positive().geodesic(torch.tensor(1.0), torch.tensor(4.0), 0.5)
        tensor(2.)
    """

    @property
    @override
    def margin(self) -> float:
        return 0.01

    @override
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The vector u itself."""
        return u

    @override
    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        """x²g."""
        return x * (x * g)

    @override
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """x²h + xgu."""
        return x * (x * h + g * u)

    @override
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        """The product uv/x² of each entry."""
        return (u / x) * (v / x)

    @override
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """u + √(x² + u²)."""
        wide = torch.promote_types(x.dtype, torch.float32)
        return self.round_point(linalg.positive_step(x.to(wide), u.to(wide)), x.dtype)

    @override
    def round_point(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """x rounded, and at least the smallest normal number of `dtype`."""
        numbers = torch.finfo(dtype)
        return x.clamp(numbers.tiny, numbers.max).to(dtype).contiguous()

    @override
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """vy/x."""
        return v * (y / x)

    @override
    def project(self, a: Tensor) -> Tensor:
        """a, where it is positive, and .01 elsewhere."""
        self._check_real(a)
        return torch.where(a < torch.finfo(a.dtype).tiny, self.margin, a).contiguous()

    @override
    def violation(self, x: Tensor) -> Tensor:
        """0 for positive numbers, infinite for others."""
        return self._violation((x > 0) & (x < math.inf), x)

    @override
    def random_point(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """exp(z/2) of standard normal z."""
        return (torch.randn(*shape, generator=generator, dtype=dtype, device=device) / 2).exp()

    @override
    @upcast
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """x·exp(u/x)."""
        return x * (u / x).exp()

    @override
    @upcast
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """x·log(y/x)."""
        return x * linalg.log_ratio(y, x, y - x)

    @override
    @upcast
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """|log(y/x)|."""
        return linalg.log_ratio(y, x, y - x).abs()

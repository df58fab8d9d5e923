"""Numbers between two bounds."""

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
class Interval(OpenInterval):
    """{x : low < x < high} with ⟨u, v⟩ = uv/s², s = (x - low)(high - x)/(high - low).

    Every entry of a real tensor is a point by itself.

    Args:
        low, high: finite, low < high.

    Dimension: 1 an entry.

    Metric: the one in which log((x - low)/(high - x)), the logit, is a Cartesian coordinate: flat
    and complete. The gradient is s²g: entries move by about `lr` times that, at most by a quarter
    of high - low squared times g.

    Step: multiplies (x - low)/(high - x) by exp(arsinh(u/s)), which agrees with the geodesic to
    second order and stays inside for u of any length.

    Cost: some passes over the entries; nothing waits for a device.

    For: probabilities, gates, physical parameters that are known to lie in a range, boxes.

    Not for: an optimum that may be a bound: that is infinitely far, and s²g vanishes on the way to
    it.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Interval
        >>> box = Interval(-1.0, 1.0)
        >>> x = box.retract(torch.tensor([0.0, 0.5]), torch.tensor([10.0, 0.0]))
        >>> bool((x < 1).all()), x[1]
        (True, tensor(0.5000))
    """

    event_ndim = 0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not (-math.inf < self.low < self.high < math.inf):
            raise ValueError(
                f"Interval needs finite bounds low < high; got {self.low!r} and {self.high!r}."
            )
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))

    @property
    @override
    def margin(self) -> float:
        return 0.01 * (self.high - self.low)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The distances to the bounds, and s."""
        p, q = x - self.low, self.high - x
        return p, q, p * (q / (self.high - self.low))

    @override
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The vector u itself."""
        return u

    @override
    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        """s²g."""
        _, _, s = self._parts(x)
        return s * (s * g)

    @override
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """s²h + s(high + low - 2x)gu/(high - low)."""
        p, q, s = self._parts(x)
        return s * (s * h + (q - p) / (self.high - self.low) * (g * u))

    @override
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        """The product uv/s² of each entry."""
        _, _, s = self._parts(x)
        return (u / s) * (v / s)

    @override
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """low + (high - low)·pf/(pf + q) with p = x - low, q = high - x, f = exp(arsinh(u/s))."""
        wide = torch.promote_types(x.dtype, torch.float32)
        p, q, s = self._parts(x.to(wide))
        grown = p * linalg.positive_step(s, u.to(wide))  # p·f·s
        return self.round_point(self._between(grown, q * s), x.dtype)

    def _between(self, p: Tensor, q: Tensor) -> Tensor:
        """The point whose distances to the bounds are in the ratio p : q."""
        width = self.high - self.low
        return torch.where(
            p < q, self.low + width * (p / (p + q)), self.high - width * (q / (p + q))
        )

    def _inside(self, x: Tensor) -> Tensor:
        edge = 2 * torch.finfo(x.dtype).eps * max(abs(self.low), abs(self.high))
        return x.clamp(self.low + edge, self.high - edge).contiguous()

    @override
    def round_point(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """x rounded, off the bounds by 2·eps·max(|low|, |high|) at least."""
        return self._inside(x.to(dtype))

    @override
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """v·s(y)/s(x)."""
        return v * (self._parts(y)[2] / self._parts(x)[2])

    @override
    def project(self, a: Tensor) -> Tensor:
        """a, where it is inside; elsewhere the bound, moved inside by a hundredth of the range."""
        self._check_real(a)
        low, high = self.low + self.margin, self.high - self.margin
        inside = self._inside(a) == a
        return torch.where(inside, a, a.clamp(low, high)).contiguous()

    @override
    def violation(self, x: Tensor) -> Tensor:
        """0 between the bounds, infinite elsewhere."""
        return self._violation((self.low < x) & (x < self.high), x)

    @override
    def random_point(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """The point whose logit is half of a standard normal number."""
        z = torch.randn(*shape, generator=generator, dtype=dtype, device=device) / 2
        return self._inside(self._between(z.sigmoid(), (-z).sigmoid()))

    @override
    @upcast
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """The point whose logit is that of x, plus u/s."""
        p, q, s = self._parts(x)
        logit = p.log() - q.log() + u / s
        return self._inside(self._between(logit.sigmoid(), (-logit).sigmoid()))

    @override
    @upcast
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """s times the difference of logits."""
        return self._parts(x)[2] * self._difference(x, y)

    @override
    @upcast
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """The absolute difference of logits."""
        return self._difference(x, y).abs()

    def _difference(self, x: Tensor, y: Tensor) -> Tensor:
        (p, q, _), (pp, qq, _) = self._parts(x), self._parts(y)
        return linalg.log_ratio(pp, p, y - x) - linalg.log_ratio(qq, q, x - y)

"""Matrices of one rank, stored as two factors: low-rank adapters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import exact_products, product, sym, upcast
from riemopt.manifolds.base import Manifold


@final
@dataclass(frozen=True, repr=False)
class FixedRankFactors(Manifold):
    """The product G·Hᴴ of an n×r and an m×r matrix, stored one above the other: `(*batch, n+m, r)`.

        manifold = FixedRankFactors(rows=out_features)
        factors = ManifoldParameter(manifold.join(B, A.mT), manifold)     # of LoRA: W + B·A
        G, H = manifold.split(factors)      # views; the layer adds (x @ H) @ G.mT

    Args:
        rows: n, the rows of G; the other rows of the tensor are H.
        damping: δ of the metric, in units of GᴴG and HᴴH.

    Every tensor is a point, also where a factor is zero, as B of LoRA at its start: δ > 0 keeps the
    metric definite. All (GA, HA⁻ᴴ) have one product.

    Dimension: (n + m)r, of which r² move along the factors of one product. In this metric the
    gradient of a loss of the product has no part there.

    Metric: Re tr(ξ_Gᴴη_G(HᴴH + δI)) + Re tr(ξ_Hᴴη_H(GᴴG + δI)), that of Mishra, Adithya
    Apuroop & Sepulchre (2012) for matrix completion with δ = 0; its gradient, ∂G(HᴴH + δI)⁻¹ and
    ∂H(GᴴG + δI)⁻¹, is what Riemannian LoRA steps along (Zhang & Pilanci 2024). Up to δ the metric
    is the same for all factors of one product: steps of SGD, with momentum too, and of Adam with
    `second_moment="point"` lead to products that do not depend on the factors at the start, and one
    `lr` serves both. (Adam that divides entry by entry does depend on them.)

    Step: an addition. One of SGD moves the product by about `lr` times P∇ + ∇Q, where ∇ is its own
    Euclidean gradient and P and Q project on its column and row space. Momentum is kept as it is.

    Cost: two thin QR decompositions and products with r×r matrices; no n×m matrix is formed, and
    nothing waits for a device.

    For: adapters of large layers (LoRA), factorised layers, completion of large matrices.

    Not for: an n×m weight that a layer reads or a checkpoint holds itself (`FixedRank`), or a loss
    that is not one of the product.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import FixedRankFactors
        >>> manifold = FixedRankFactors(rows=6)
        >>> factors = manifold.join(torch.zeros(6, 2), torch.randn(8, 2))  # B and Aᵀ of an adapter
        >>> G, H = manifold.split(factors)
        >>> factors.shape, (G @ H.mT).shape
        (torch.Size([14, 2]), torch.Size([6, 8]))
    """

    event_ndim = 2

    rows: int
    damping: float = 1e-6

    def __post_init__(self) -> None:
        if not isinstance(self.rows, int) or self.rows < 1:
            raise ValueError(f"FixedRankFactors needs rows ≥ 1, those of G; got {self.rows!r}.")
        if not 0 < self.damping < float("inf"):
            raise ValueError(
                f"FixedRankFactors needs a damping above 0, such as 1e-6; got {self.damping!r}."
            )

    # --- layout ---

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(G, H)`, n×r and m×r: views of `x`."""
        return x[..., : self.rows, :], x[..., self.rows :, :]

    def join(self, G: Tensor, H: Tensor) -> Tensor:
        """The point whose factors these are; a copy.

        Raises:
            ValueError: G has not `rows` rows, or the two have not the same number of columns.
        """
        if G.shape[-2] != self.rows or G.shape[-1] != H.shape[-1]:
            raise ValueError(
                f"{self!r} joins G of shape (*batch, {self.rows}, r) and H of shape "
                f"(*batch, m, r); got {tuple(G.shape)} and {tuple(H.shape)}."
            )
        return torch.cat([G, H], -2)

    def matrix(self, x: Tensor) -> Tensor:
        """G·Hᴴ, `(*batch, n, m)`."""
        G, H = self.split(x)
        return G @ H.mH

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        """Two or more dimensions, with rows left for H; r at most n and m."""
        if len(shape) < 2 or shape[-1] < 1 or shape[-2] <= self.rows:
            self._reject(shape, f"tensors (*batch, {self.rows} + m, r) with m ≥ 1 and r ≥ 1")
        n, m = self.rows, shape[-2] - self.rows
        if shape[-1] > min(n, m):
            self._reject(
                shape,
                f"r ≤ {min(n, m)} columns, the largest rank of a {n}×{m} matrix",
                " Rows are those of G and of H, columns the rank: a matrix r×m is stored as its "
                "transpose.",
            )

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension (n + m)r, or twice as much of complex factors."""
        return shape[-2] * shape[-1] * (2 if is_complex else 1)

    # --- metric ---

    @override
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """U itself."""
        return u

    @override
    @upcast
    @exact_products
    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        """∂G(HᴴH + δI)⁻¹ and ∂H(GᴴG + δI)⁻¹."""
        (G, H), (dG, dH) = self.split(x), self.split(g)
        return torch.cat([self._divide(dG, H), self._divide(dH, G)], -2)

    def _divide(self, d: Tensor, f: Tensor) -> Tensor:
        """D(FᴴF + δI)⁻¹, by the QR decomposition of F above √δ·I: FᴴF is never rounded."""
        root = self.damping**0.5 * linalg.identity_like(f[..., : f.shape[-1], :])
        R = torch.linalg.qr(torch.cat([f, root], -2))[1]
        half = torch.linalg.solve_triangular(R, d, upper=True, left=False)
        return torch.linalg.solve_triangular(R.mH, half, upper=False, left=False)

    @override
    @upcast
    @exact_products
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        """Re tr(U_GᴴV_G(HᴴH + δI)) + Re tr(U_HᴴV_H(GᴴG + δI))."""
        parts = zip(self.split(u), self.split(v), reversed(self.split(x)), strict=True)
        total = self.damping * super().inner(x, u, v, keepdim=keepdim)
        for a, b, f in parts:
            F = product(f.mH, f)
            total = total + linalg.inner(product(a.mH, b), F, (-2, -1), keepdim=keepdim)
        return total

    @override
    @upcast
    @exact_products
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """By the acceleration of geodesics, which come from the Lagrangian ½⟨Ẋ, Ẋ⟩ of the metric.

        G̈(HᴴH + δI) = GḢᴴḢ - Ġ(ḢᴴH + HᴴḢ), and the same with G and H exchanged.
        """
        bent = [torch.zeros_like(part) for part in self.split(h)]
        points, along = self.split(x), self.split(u)
        grads = self.split(self.egrad2rgrad(x, g))
        for i, j in ((0, 1), (1, 0)):
            F, K, W = points[i], points[j], grads[i]
            dF, dK = along[i], along[j]
            bent[i] = bent[i] - product(W, sym(product(K.mH, dK)))
            bent[j] = bent[j] + product(dK, sym(product(F.mH, W)))
            bent[j] = bent[j] - product(K, sym(product(dF.mH, W)))
        return self.egrad2rgrad(x, h + torch.cat(bent, -2))

    # --- points ---

    @override
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """X + U."""
        return self.curve(x, u, 1.0)

    @override
    @upcast
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        return linalg.add_scaled(x, u, t).contiguous()

    @override
    def project(self, a: Tensor) -> Tensor:
        """A copy."""
        return a.clone(memory_format=torch.contiguous_format)

    @override
    def violation(self, x: Tensor) -> Tensor:
        """Zeros: every tensor is a point."""
        return x.real.new_zeros(x.shape[:-2])

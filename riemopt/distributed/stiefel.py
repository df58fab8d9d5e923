"""Stiefel matrices whose long side is cut: sums of p×p matrices, and never an n×n one.

A step of any retraction has the form X⁺ = X·A + U·B with p×p matrices A and B that
follow from XᴴX, XᴴU and UᴴU. Each process finds the same A and B and moves its own rows. Rounding
errors of those Gram matrices, and a defect that X has, are then taken away in a second pass, from
the Gram matrix of the rows that were found.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from riemopt import linalg
from riemopt.distributed.geometry import ShardedGeometry, refuse, sharded_geometry
from riemopt.distributed.roots import inverse_cholesky, inverse_root, small_correction
from riemopt.distributed.summands import Hermitian, Summand
from riemopt.linalg import exact_products, product
from riemopt.manifolds import Stiefel


class ShardedStiefel(ShardedGeometry):
    """`Stiefel`: what is summed are p×p matrices, with p the side that is not cut.

    In the formulas the rows are cut. With `wide` it is the columns of `x`, and `x` stands for its
    adjoint; that cannot be seen from the own part, which may have any number of rows.
    """

    needs_finish = True

    def __init__(self, manifold: Stiefel, shape: Sequence[int], *, wide: bool) -> None:
        super().__init__(manifold, shape)
        self.metric, self.retraction = manifold.metric, manifold.retraction_of(shape)
        self.wide = wide

    @exact_products
    def _gram(self, a: Tensor, b: Tensor) -> Tensor:
        return product(a, b.mH) if self.wide else product(a.mH, b)

    def _times(self, x: Tensor, S: Tensor) -> Tensor:
        return product(S.mH, x) if self.wide else product(x, S)

    def gradient_summand(self, x: Tensor, g: Tensor) -> Summand:
        """sym(XᴴG), or XᴴG in the canonical metric."""
        XG = self._gram(x, g)
        return XG if self.metric == "canonical" else Hermitian(linalg.sym(XG))

    def gradient(self, x: Tensor, g: Tensor, XG: Tensor) -> Tensor:
        """G - X sym(XᴴG), or G - XGᴴX in the canonical metric."""
        return g - self._times(x, XG.mH)

    def squared_summand(self, x: Tensor, grad: Tensor, XG: Tensor) -> Tensor:
        """tr(gradᴴgrad), or tr(gradᴴ(I - XXᴴ/2)grad) in the canonical metric."""
        if self.metric == "euclidean":
            return linalg.squared_norm(grad, (-2, -1))
        other = grad - self._times(x, linalg.skew(XG))  # Xᴴgrad = XᴴG - GᴴX
        return (grad.conj() * other).real.sum((-2, -1), keepdim=True)

    def projection_summand(self, x: Tensor, v: Tensor) -> Summand:
        """sym(XᴴV)."""
        return Hermitian(linalg.sym(self._gram(x, v)))

    def project(self, x: Tensor, v: Tensor, XV: Tensor) -> Tensor:
        """V - X sym(XᴴV)."""
        return v - self._times(x, XV)

    def curve_summands(self, x: Tensor, u: Tensor) -> tuple[Summand, Summand, Summand]:
        """XᴴX; sym(XᴴU), or XᴴU for "cayley" and "cubic"; UᴴU."""
        XU = self._gram(x, u)
        return (
            Hermitian(self._gram(x, x)),
            XU if self.retraction in ("cayley", "cubic") else Hermitian(linalg.sym(XU)),
            Hermitian(self._gram(u, u)),
        )

    @exact_products
    def curve(
        self, x: Tensor, u: Tensor, t: float | Tensor, XX: Tensor, XU: Tensor, UU: Tensor
    ) -> Tensor:
        """X·A + t·U·B; the step t·U is cut to the length `step_cap` as in `Stiefel`."""
        length = UU.diagonal(dim1=-2, dim2=-1).real.sum(-1)[..., None, None].clamp(min=0).sqrt()
        length = (length * t).abs()
        limit = linalg.step_cap(u.dtype)
        t = t * torch.where(length > limit, limit / length, 1.0)
        XU, UU = t * XU, t**2 * UU
        if self.retraction in ("cayley", "cubic"):
            coefficients = cubic_coefficients if self.retraction == "cubic" else cayley_coefficients
            A, B = coefficients(XX, XU, UU)
            return self._times(x, A) + self._times(t * u, B)
        root = inverse_root if self.retraction == "polar" else inverse_cholesky
        R = root(linalg._add_identity(XX + 2 * XU + UU, -1))
        return self._times(linalg.add_scaled(x, u, t), R)

    def finish_summand(self, y: Tensor) -> Summand:
        """YᴴY."""
        return Hermitian(self._gram(y, y))

    @exact_products
    def finish(self, y: Tensor, YY: Tensor) -> Tensor:
        """Y(YᴴY)^(-1/2), or the Q of Y."""
        S = linalg._add_identity(YY.clone(), -1)
        if self.retraction == "qr":
            return self._times(y, inverse_cholesky(S))
        if self.retraction == "cayley":  # which keeps the defect that X has, of any size
            return self._times(y, inverse_root(S))
        return y + self._times(y, small_correction(S))


def cubic_coefficients(XX: Tensor, XU: Tensor, UU: Tensor) -> tuple[Tensor, Tensor]:
    """`(A, B)` with X·A + U·B the polar factor of Z = X + U - ½(X + ¼U)S.

    S = UᴴU; `linalg.cubic_step` says why, and where a step is cut.
    """

    def defect(A: Tensor, B: Tensor) -> Tensor:
        """(XA + UB)ᴴ(XA + UB) - I."""
        half = product(A.mH, product(XU, B)) + product(A.mH, product(XX, A)) / 2
        return linalg._add_identity(2 * linalg.sym(half) + product(B.mH, product(UU, B)), -1)

    eye = torch.eye(XX.shape[-1], dtype=XX.dtype, device=XX.device).expand_as(XX)
    scale = linalg.cubic_cut(UU)
    S = scale.square() * UU
    A, B = eye - S / 2, scale * (eye - S / 8)
    root = inverse_root(defect(A, B))
    return product(A, root), product(B, root)


def cayley_coefficients(XX: Tensor, XU: Tensor, UU: Tensor) -> tuple[Tensor, Tensor]:
    """`(A, B)` with X·A + U·B = (I - W/2)⁻¹(I + W/2)X, the Cayley transform of X along U.

    W = V Xᴴ - X Vᴴ with V = U - X(XᴴU)/2 (Wen & Yin 2013, lemma 4): with C = [V, X] and
    D = [X, -V], X⁺ = X + C(I - DᴴC/2)⁻¹DᴴX, where DᴴC and DᴴX are made of the Gram matrices.
    """
    p = XX.shape[-1]
    half = XU / 2
    XV = XU - product(XX, half)
    UV = UU - product(XU.mH, half)
    VV = UV - product(half.mH, XV)
    DC = torch.cat([torch.cat([XV, XX], -1), torch.cat([-VV, -XV.mH], -1)], -2)
    DX = torch.cat([XX, -XV.mH], -2)
    eye = torch.eye(2 * p, dtype=XX.dtype, device=XX.device)
    K = torch.linalg.solve_ex(eye - DC / 2, DX)[0]
    B, K2 = K[..., :p, :], K[..., p:, :]
    return eye[:p, :p] + K2 - product(half, B), B


@sharded_geometry.register
def _(manifold: Stiefel, cut: frozenset[int], shape: Sequence[int]) -> ShardedGeometry:
    n, p = shape[-2:]
    if len(cut) == 2:
        refuse(manifold, cut, shape, "only one side of a matrix may be cut", "shard one dimension")
    if n == p and cut == {-1} and manifold.retraction == "qr":
        refuse(manifold, cut, shape, "the QR factor needs whole rows", "use Shard(0)")
    if n != p and cut != {-2 if n > p else -1}:
        kind, side = ("tall", "rows") if n > p else ("wide", "columns")
        refuse(
            manifold,
            cut,
            shape,
            f"a {kind} matrix can be spread only by its {side}",
            "shard its longer side, as fully_shard does with shard_placement_fn="
            "riemopt.interop.distributed.shard_placement",
        )
    return ShardedStiefel(manifold, shape, wide=cut == {-1})

"""Stiefel matrices whose long side is cut: sums of p×p matrices, and never an n×n one.

A step of a retraction has the form X⁺ = X·A + U·B with p×p matrices A and B that follow from XᴴX,
XᴴU and UᴴU (`Retraction.coefficients`). Each process finds the same A and B and moves its own rows.
Rounding errors of those Gram matrices, and a defect that X has, are then taken away in a second
pass, from the Gram matrix of the rows that were found.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from riemopt import linalg
from riemopt.distributed.geometry import ShardedGeometry, refuse, sharded_geometry
from riemopt.distributed.summands import Hermitian, Summand
from riemopt.linalg import exact_products, product
from riemopt.manifolds import Stiefel


class ShardedStiefel(ShardedGeometry):
    """`Stiefel`: what is summed are p×p matrices, with p the side that is not cut.

    In the formulas the rows are cut, and X is the stored matrix divided by the scale. With `wide`
    it is the columns of `x`, and `x` stands for its adjoint; that cannot be seen from the own part,
    which may have any number of rows.
    """

    needs_finish = True

    def __init__(self, manifold: Stiefel, shape: Sequence[int], *, wide: bool) -> None:
        super().__init__(manifold, shape)
        self.metric, self.retraction = manifold.metric, manifold.retraction_of(shape)
        self._unscaled = manifold.unscaled
        self.wide = wide

    @exact_products
    def _gram(self, a: Tensor, b: Tensor) -> Tensor:
        return product(a, b.mH) if self.wide else product(a.mH, b)

    def _times(self, x: Tensor, S: Tensor) -> Tensor:
        return product(S.mH, x) if self.wide else product(x, S)

    def gradient_summand(self, x: Tensor, g: Tensor) -> Summand:
        """sym(XᴴG), or XᴴG in the canonical metric."""
        XG = self._gram(self._unscaled(x), g)
        return XG if self.metric == "canonical" else Hermitian(linalg.sym(XG))

    def gradient(self, x: Tensor, g: Tensor, XG: Tensor) -> Tensor:
        """G - X sym(XᴴG), or G - XGᴴX in the canonical metric."""
        return g - self._times(self._unscaled(x), XG.mH)

    def squared_summand(self, x: Tensor, grad: Tensor, XG: Tensor) -> Tensor:
        """tr(gradᴴgrad), or tr(gradᴴ(I - XXᴴ/2)grad) in the canonical metric."""
        if self.metric == "euclidean":
            return linalg.squared_norm(grad, (-2, -1))
        other = grad - self._times(self._unscaled(x), linalg.skew(XG))  # Xᴴgrad = XᴴG - GᴴX
        return linalg.inner(grad, other, (-2, -1))

    def projection_summand(self, x: Tensor, v: Tensor) -> Summand:
        """sym(XᴴV)."""
        return Hermitian(linalg.sym(self._gram(self._unscaled(x), v)))

    def project(self, x: Tensor, v: Tensor, XV: Tensor) -> Tensor:
        """V - X sym(XᴴV)."""
        return v - self._times(self._unscaled(x), XV)

    def curve_summands(self, x: Tensor, u: Tensor) -> tuple[Summand, Summand, Summand]:
        """XᴴX; sym(XᴴU), or XᴴU if the retraction needs all of it; UᴴU."""
        x, u = self._unscaled(x), self._unscaled(u)
        XU = self._gram(x, u)
        share = XU if self.retraction.needs_whole_products else Hermitian(linalg.sym(XU))
        return Hermitian(self._gram(x, x)), share, Hermitian(self._gram(u, u))

    @exact_products
    def curve(
        self, x: Tensor, u: Tensor, t: float | Tensor, XX: Tensor, XU: Tensor, UU: Tensor
    ) -> Tensor:
        """X·A + t·U·B; the step t·U is cut to the length `step_cap` as in `Stiefel`."""
        length = UU.diagonal(dim1=-2, dim2=-1).real.sum(-1)[..., None, None].clamp(min=0).sqrt()
        length = (length * t).abs()
        limit = linalg.step_cap(u.dtype)
        t = t * torch.where(length > limit, limit / length, 1.0)
        A, B = self.retraction.coefficients(XX, t * XU, t**2 * UU)
        if A is B:
            return self._times(linalg.add_scaled(x, u, t), A)
        return self._times(x, A) + self._times(t * u, B)

    def finish_summand(self, y: Tensor) -> Summand:
        """YᴴY."""
        Y = self._unscaled(y)
        return Hermitian(self._gram(Y, Y))

    @exact_products
    def finish(self, y: Tensor, YY: Tensor) -> Tensor:
        """Y·R, with the R that the retraction finds."""
        return self._times(y, self.retraction.finish(linalg.add_identity(YY.clone(), -1)))


@sharded_geometry.register
def _(manifold: Stiefel, cut: frozenset[int], shape: Sequence[int]) -> ShardedGeometry:
    n, p = shape[-2:]
    if len(cut) == 2:
        refuse(manifold, cut, shape, "only one side of a matrix may be cut", "shard one dimension")
    retraction = manifold.retraction_of(shape)
    name = type(retraction).__name__
    if not retraction.is_shardable:
        refuse(manifold, cut, shape, f"{name} has no `coefficients`", "give it that method")
    if n == p and cut == {-1} and not retraction.commutes_with_adjoint:
        refuse(manifold, cut, shape, f"{name} needs whole rows", "use Shard(0)")
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

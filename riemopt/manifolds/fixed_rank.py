"""Matrices of one rank, stored whole."""

import copy
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import exact_products, product, upcast
from riemopt.manifolds.base import Manifold

Parts = tuple[Tensor, Tensor]
"""A and B of a tangent U·A + B·Vᴴ."""


class _Here:
    """What calls at one point share: X = U·R·Vᴴ, and the parts of the last tangent made there.

    A step that goes along that tangent need not take it apart again, which is a tenth of its time.
    """

    def __init__(self, x: Tensor, rank: int) -> None:
        self.x, self.spaces = x, linalg.spaces(x, rank)
        self._last: tuple[weakref.ref[Tensor], int, Parts] | None = None

    def keep(self, u: Tensor, parts: Parts) -> None:
        if linalg.can_be_read(u) and not u.is_inference():
            self._last = weakref.ref(u), u._version, parts

    def parts_of(self, u: Tensor) -> Parts | None:
        """Those of `u`, if it is the tensor that was kept, and has not been written to since."""
        if self._last is None:
            return None
        tangent, version, parts = self._last
        return parts if tangent() is u and u._version == version else None


@final
@dataclass(frozen=True, repr=False)
class FixedRank(Manifold):
    """{X : rank X = r}, `(*batch, n, m)`.

        constrain(layer, "weight", FixedRank(10))

    Args:
        rank: r, from 1 to min(n, m) of the tensors it is used for.

    The weight is an ordinary n×m tensor, which any layer can use. With X = U·R·Vᴴ, tangent vectors
    are U·A + B·Vᴴ.

    Dimension: r(n + m - r); twice as much if complex.

    Metric: the ambient one: `lr` times a gradient with entries of size 1 moves entries by about
    `lr`.

    Step: the projector splitting of Lubich & Oseledets (2014), Y = QQᴴ(X + ξ) with Q a basis of the
    columns of (X + ξ)V: of second order (Absil & Oseledets 2015), and it stands any length of ξ.
    Nothing is divided by a singular value: a rank that is smaller, as of a weight that is set to
    zero, is a limit that steps lead away from. `ehess2rhess` does divide.

    Cost: seven products of an n×m matrix with one of r columns for a step of SGD, three of which
    find U and V anew, ten for one of Adam; and four thin QR decompositions. Nothing waits for a
    device, as an SVD of X + ξ would.

    For: matrix completion (Vandereycken 2013), low-rank layers and adapters (Bogachev et al. 2025),
    reduced-order models.

    Not for: a weight whose size is the trouble: train the factors, `FixedRankFactors`. Nor where
    the rank that is needed is not known: too small a rank has bad local minima, and with too large
    a one small singular values make a sharply curved set, on which steps have to be short.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import FixedRank
        >>> X = FixedRank(1).project(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        >>> X.abs()
        tensor([[3., 0.],
                [0., 0.]])
        >>> FixedRank(2).dim((10, 8))
        32
    """

    event_ndim = 2

    rank: int

    _here: ClassVar[_Here | None] = None

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"FixedRank needs a rank of 1 or more; got {self.rank!r}.")

    @override
    def linearised_at(self, x: Tensor) -> "FixedRank":
        """A copy that keeps the spaces of X."""
        here = copy.copy(self)
        object.__setattr__(here, "_here", _Here(x, self.rank))
        return here

    def _spaces(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """U, R and V of X = U·R·Vᴴ."""
        if self._here is not None and self._here.x is x:
            return self._here.spaces
        return linalg.spaces(x, self.rank)

    @override
    @upcast
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """UUᴴZ + ZVVᴴ - UUᴴZVVᴴ (Vandereycken 2013)."""
        U, _, V = self._spaces(x)
        parts = linalg.thin_parts(U, V, u)
        tangent = linalg.of_thin_parts(U, V, *parts)
        if self._here is not None and self._here.x is x:
            self._here.keep(tangent, parts)
        return tangent

    @override
    def carry_mean(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        if x.dtype in linalg.HALF:
            mean, squared = self.carry_mean(x.float(), m.float(), g.float(), decay)
            return mean.to(x.dtype), squared.to(x.dtype)
        U, _, V = self._spaces(x)
        (A, B), (C, D) = linalg.thin_parts(U, V, g), linalg.thin_parts(U, V, m)
        squared = linalg.squared_norm(A, (-2, -1)) + linalg.squared_norm(B, (-2, -1))
        A, B = linalg.average(A, C, decay), linalg.average(B, D, decay)
        return linalg.of_thin_parts(U, V, A, B), squared

    @override
    @upcast
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """P(H) + N·ξᴴ·X⁺ᴴ + X⁺ᴴ·ξᴴ·N with N = (I - UUᴴ)G(I - VVᴴ).

        The curvature terms are those of Absil, Mahony & Trumpf (2013), divided by singular values.
        """
        U, R, V = self._spaces(x)
        A, B = linalg.thin_parts(U, V, h)
        F, E = linalg.thin_parts(U, V, u)
        F = F - product(product(F, V), V.mH)
        NF, EN = product(g, F.mH), product(E.mH, g)  # N·ξᴴ·U and Vᴴ·ξᴴ·N, once made normal
        NF = NF - product(U, product(U.mH, NF))
        EN = EN - product(product(EN, V), V.mH)
        A = A + torch.linalg.solve_triangular(R.mH, EN, upper=False)
        B = B + torch.linalg.solve_triangular(R.mH, NF, upper=False, left=False)
        return linalg.of_thin_parts(U, V, A, B)

    @override
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """QQᴴ(X + ξ), with ξ the tangent part of U."""
        return self.curve(x, u, 1.0)

    @override
    @upcast
    @exact_products
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        U, R, V = self._spaces(x)
        kept = None if self._here is None or self._here.x is not x else self._here.parts_of(u)
        A, B = kept or linalg.thin_parts(U, V, u)
        Q = torch.linalg.qr(product(U, R + t * product(A, V)) + t * B)[0]  # of (X + tξ)V
        QU = product(Q.mH, U)
        rows = product(product(QU, R) + t * product(Q.mH, B), V.mH) + t * product(QU, A)
        return product(Q, rows).contiguous()

    @override
    @upcast
    def project(self, a: Tensor) -> Tensor:
        """The nearest point, by an SVD; not unique where singular values r and r + 1 are equal.

        Singular values are at least 10·eps times the largest one. Zeros go to a small point.
        """
        floor = 10 * torch.finfo(a.dtype).eps
        n, m = a.shape[-2:]
        small = floor * linalg.scattered(n, self.rank, a) @ linalg.scattered(m, self.rank, a).mH
        zero = (a == 0).all(-1, keepdim=True).all(-2, keepdim=True)
        return linalg.nearest_of_rank(torch.where(zero, small, a), self.rank, floor).contiguous()

    @override
    @upcast
    @exact_products
    def violation(self, x: Tensor) -> Tensor:
        """max |X - URVᴴ| of each matrix, relative to max |X|.

        The distance to the nearest matrix of rank r; if that is large, up to about twice as much. A
        smaller rank is none.
        """
        exact = linalg.in_double(x, (-2, -1))
        U, R, V = linalg.spaces(exact, self.rank)
        off = exact - product(product(U, R), V.mH)
        size = exact.abs().amax((-2, -1))
        return (off.abs().amax((-2, -1)) / torch.where(size > 0, size, 1)).to(x.real.dtype)

    @override
    def tolerance(self, x: Tensor) -> Tensor:
        """The relative error 10·eps·√max(n, m)."""
        return x.real.new_full(
            x.shape[:-2], 10 * torch.finfo(x.dtype).eps * max(x.shape[-2:]) ** 0.5
        )

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        """Two or more dimensions; the last two at least the rank."""
        if len(shape) < 2 or 0 in shape[-2:]:
            self._reject(shape, "matrices (*batch, n, m) with n ≥ 1 and m ≥ 1")
        if min(shape[-2:]) < self.rank:
            self._reject(
                shape,
                f"matrices (*batch, n, m) with n ≥ {self.rank} and m ≥ {self.rank}",
                f" Take a rank of at most {min(shape[-2:])}.",
            )

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension r(n + m - r), or twice as much of complex matrices."""
        n, m = shape[-2:]
        return self.rank * (n + m - self.rank) * (2 if is_complex else 1)

    @override
    def random_point(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """√(n/r)·UHᴴ for n ≤ m, with a uniform basis U and a standard normal H of size m×r.

        Entries have the mean square 1. If n > m, the roles of the two are exchanged.
        """
        self.check_shape(shape)
        *batch, n, m = shape
        thin, long = (
            torch.randn(*batch, k, self.rank, generator=generator, dtype=dtype, device=device)
            for k in sorted((n, m))
        )
        return _of_bases(thin, long, n > m).contiguous()


@upcast
@exact_products
def _of_bases(thin: Tensor, long: Tensor, swap: bool) -> Tensor:
    k, rank = thin.shape[-2:]
    x = (k / rank) ** 0.5 * product(linalg.qr_positive(thin), long.mH)
    return x.mH if swap else x

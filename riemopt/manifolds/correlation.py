"""Correlation matrices of full rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import exact_products, product, sym, upcast
from riemopt.manifolds.shortened_steps import ShortenedSteps

LONGEST = 1.0
"""Of a step, as ‖L⁻¹UL⁻ᴴ‖: as of `SPD`."""
_MATRIX = (-2, -1)
_FARTHEST = 1e3
"""A tensor with larger entries is made smaller before the nearest point is looked for."""
_ROUNDS, _FIXED_ROUNDS, _ARRIVED = 200, 40, 1e-4
"""Of Dykstra's method; it need not be exact, as the result is moved inside by more."""


@final
@dataclass(frozen=True, repr=False)
class Correlation(ShortenedSteps):
    """{C = Cᴴ positive definite, Cᵢᵢ = 1}, `(*batch, n, n)`; complex matrices are Hermitian.

    Dimension: n(n-1)/2, an open set; n(n-1) if complex.

    Metric: Euclidean–Cholesky, ‖Z‖² with Z the change of Γ = D⁻¹L, for C = LLᴴ and D the diagonal
    of L (Thanwerdas & Pennec 2022): Γ is unit lower triangular, any such Γ belongs to one C, and
    the entries below its diagonal are Cartesian coordinates. So it is flat and complete, geodesics
    never end, and exp, log, distance, means and parallel transport are closed forms without
    eigenvalues. It depends on the order of the variables. The gradient of G is the vector of
    Z = ⌊2D(G - D(GC))L⌋, ⌊·⌋ the strictly lower part and D(·) a diagonal. Train with
    `RiemannianSGD`, or with Adam and `second_moment="point"`: a gradient that is divided entry by
    entry may point uphill.

    Step: the geodesic, so that C stays in the set for U of any length; one longer than 1 in the
    affine metric of `SPD` is cut to that. Entries move by about `lr` times those of the Riemannian
    gradient. Stored is C, Hermitian bit for bit, with ones on its diagonal, and its Cholesky factor
    exists.

    Cost: two Cholesky factors, two triangular solves and some products a step; nothing waits for a
    device.

    For: correlations that are learned, as of a Gaussian copula; functional connectivity.

    Not for: a low rank (`Elliptope`): singular matrices are infinitely far.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Correlation
        >>> C = Correlation().project(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
        >>> C
        tensor([[1.0000, 0.9900],
                [0.9900, 1.0000]])
    """

    event_ndim = 2
    distorts_lengths = True

    @property
    @override
    def margin(self) -> float:
        return 0.01

    @override
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The Hermitian part, with zeros on its diagonal."""
        return _hollow(sym(u))

    @override
    @upcast
    @exact_products
    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        L = linalg.cholesky(x)
        return linalg.from_unit_factor(L, _gradient(x, L, sym(g)))

    @override
    def carry_mean(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        grad, squared = _gradient_and_square(x, g)
        return linalg.average(grad, self.proj_tangent(x, m), decay), squared

    @override
    @upcast
    @exact_products
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """The vector of the derivative of Z along U: Γ has no acceleration."""
        L, G, H = linalg.cholesky(x), sym(g), sym(h)
        W = linalg.to_factor(L, u)
        D, rate = (linalg.real_diagonal(a).unsqueeze(-1) for a in (L, W))
        A = G - _diagonal(product(G, x))
        B = H - _diagonal(product(H, x) + product(G, u))
        Z = rate * product(A, L) + D * (product(B, L) + product(A, W))
        return linalg.from_unit_factor(L, 2 * Z.tril(-1))

    @override
    @upcast
    @exact_products
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        L = linalg.cholesky(x)
        Z = _coordinates(L, u)
        return linalg.inner(Z, Z if u is v else _coordinates(L, v), _MATRIX, keepdim=keepdim)

    @override
    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """The parallel transport."""
        return self.parallel_transport(x, y, v)

    @override
    def after_move(self, x: Tensor, y: Tensor, m: Tensor) -> Tensor:
        return self.parallel_transport(x, y, m)

    @override
    @upcast
    @exact_products
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """The vector of the same Z."""
        return linalg.from_unit_factor(linalg.cholesky(y), _coordinates(linalg.cholesky(x), v))

    @override
    @exact_products
    def curve_with_fraction(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The geodesic, of steps that are not cut; the part taken is 1/‖L⁻¹UL⁻ᴴ‖, or 1."""
        wide = torch.promote_types(x.dtype, torch.float32)
        X, U = x.to(wide), (t * u).to(wide)
        L = linalg.cholesky(X)
        w = linalg.whiten(L, U)
        length = torch.linalg.vector_norm(w, dim=_MATRIX, keepdim=True)
        taken = LONGEST / length.clamp(min=LONGEST)
        Z = linalg.to_unit_factor(L, product(L, linalg.half_lower(taken * w)))
        y = _definite(linalg.of_unit_factor(linalg.unit_factor(L) + Z), torch.finfo(wide).eps)
        finite = y.isfinite().all(-1).all(-1) & length[..., 0, 0].isfinite()
        y, part = linalg.taken_where(finite, y, X, taken[..., 0, 0])
        return self.round_point(y, x.dtype), part

    @override
    def round_point(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """C rounded, or mixed with the identity first where that is not positive definite."""
        if x.dtype == dtype:
            return x.contiguous()
        eps = torch.finfo(dtype).eps
        y = x.to(dtype)
        safe = linalg.is_positive_definite(y.to(x.dtype), eps / 4)
        return torch.where(safe[..., None, None], y, _definite(x, eps).to(dtype)).contiguous()

    @override
    def project(self, a: Tensor) -> Tensor:
        """The Hermitian part with ones on its diagonal, if it is positive definite.

        Else the nearest correlation matrix, by the method of Higham (2002) with a few dozen
        eigendecompositions, mixed with a hundredth of the identity.
        """
        wide = torch.promote_types(a.dtype, torch.float32)
        A = linalg.with_unit_diagonal(sym(a.to(wide)))
        inside = linalg.is_positive_definite(A, torch.finfo(wide).eps)[..., None, None]
        if not linalg.known_all(inside):
            A = torch.where(inside, A, _nearest(A.detach(), self.margin))
        return self.round_point(A, a.dtype)

    @override
    @upcast
    def violation(self, x: Tensor) -> Tensor:
        """max |C - Cᴴ|/2 and max |Cᵢᵢ - 1|; infinite where it is not positive definite."""
        off = (x - linalg.with_unit_diagonal(sym(x))).abs().amax(_MATRIX)
        return torch.where(linalg.is_positive_definite(x), off, torch.inf)

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        self._check_square(shape)

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension n(n-1)/2, or n(n-1) for Hermitian matrices."""
        n = shape[-1]
        return n * (n - 1) // (1 if is_complex else 2)

    @override
    def random_point(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """The correlations of 4n draws of n independent normal numbers."""
        self.check_shape(shape)
        n = shape[-1]
        G = torch.randn(*shape[:-1], 4 * n, generator=generator, dtype=dtype, device=device)
        rows = G.to(torch.promote_types(G.dtype, torch.float32))
        rows = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        return self.project((rows @ rows.mH).to(G.dtype))

    @override
    @upcast
    @exact_products
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """The matrix of Γ + Z."""
        L = linalg.cholesky(x)
        end = linalg.of_unit_factor(linalg.unit_factor(L) + _coordinates(L, u))
        return _definite(end, torch.finfo(x.dtype).eps)

    @override
    @upcast
    @exact_products
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The vector of the difference of Γ."""
        L = linalg.cholesky(x)
        return linalg.from_unit_factor(L, linalg.unit_factor_difference(L, y - x))

    @override
    @upcast
    @exact_products
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """The norm of the difference of Γ, to rounding of the difference itself."""
        apart = linalg.unit_factor_difference(linalg.cholesky(x), y - x)
        return torch.linalg.vector_norm(apart, dim=_MATRIX)


def _diagonal(a: Tensor) -> Tensor:
    """The matrix of the real part of the diagonal alone."""
    return torch.diag_embed(linalg.real_diagonal(a)).to(a.dtype)


def _hollow(a: Tensor) -> Tensor:
    """A with zeros in place of its diagonal."""
    return a - torch.diag_embed(a.diagonal(dim1=-2, dim2=-1))


def _coordinates(L: Tensor, u: Tensor) -> Tensor:
    """Z of U."""
    return linalg.to_unit_factor(L, linalg.to_factor(L, u))


def _gradient(x: Tensor, L: Tensor, G: Tensor) -> Tensor:
    """Z of the gradient: ⌊2D(G - D(GC))L⌋."""
    inside = product(G - _diagonal(product(G, x)), L)
    return 2 * (linalg.real_diagonal(L).unsqueeze(-1) * inside).tril(-1)


@exact_products
def _gradient_and_square(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    L = linalg.cholesky(x)
    Z = _gradient(x, L, sym(g))
    return linalg.from_unit_factor(L, Z), linalg.squared_norm(Z, _MATRIX)


def _definite(y: Tensor, eps: float) -> Tensor:
    """Y, or (Y + cI)/(1 + c) with c = 4·eps·‖Y‖ where eigenvalues are below about 2·eps·‖Y‖."""
    raised = linalg.keep_definite(y, eps)
    scale = linalg.real_diagonal(raised)[..., :1, None]
    return linalg.with_unit_diagonal(raised / scale)


def _nearest(A: Tensor, margin: float) -> Tensor:
    """Alternating projections with Dykstra's correction, which make the limit the nearest point."""
    Y = A * (_FARTHEST / A.abs().amax(_MATRIX, keepdim=True)).clamp(max=1)
    X, correction = Y, torch.zeros_like(Y)
    arrived = torch.zeros_like(Y[..., :1, :1], dtype=torch.bool)
    for _ in linalg.rounds(Y, at_most=_ROUNDS, fixed=_FIXED_ROUNDS):
        R = Y - correction
        values, vectors = linalg.eigh(R)
        semidefinite = sym(product(vectors * values.clamp(min=0).unsqueeze(-2), vectors.mH))
        correction, Y = semidefinite - R, linalg.with_unit_diagonal(semidefinite)
        X = torch.where(arrived, X, semidefinite)
        arrived = arrived | ((X - Y).abs().amax(_MATRIX, keepdim=True) < _ARRIVED)
        if linalg.known_all(arrived):
            break
    size = linalg.real_diagonal(X).clamp(min=torch.finfo(X.dtype).eps).rsqrt()
    C = X * size.unsqueeze(-1) * size.unsqueeze(-2)
    return linalg.with_unit_diagonal((1 - margin) * sym(C))

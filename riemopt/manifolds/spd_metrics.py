"""Metrics of positive definite matrices: what `SPD` asks of each, and the four that it has.

Letters: X, Y points, U, V tangent vectors, all Hermitian `(*batch, n, n)`; L the Cholesky factor of
X. ⟨A, B⟩ = Re tr AB. Costs are for one matrix. What decomposes a matrix by `linalg.eigh` waits for
no device, and costs there as that function says.
"""

from dataclasses import dataclass
from typing import NoReturn, final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import EXP, LOG, LOG1P, SQRT, product, sym

_MATRIX = (-2, -1)


class SPDMetric:
    """A metric of positive definite matrices. Gradients G and Hessians H are made Hermitian."""

    name: str

    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool) -> Tensor:
        """⟨U, V⟩ at X, of the batch's shape; real."""
        raise NotImplementedError

    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """The Riemannian gradient of a function whose Euclidean one is G."""
        raise NotImplementedError

    def hessian(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """The Riemannian Hessian along U."""
        raise NotImplementedError

    def step(self, L: Tensor, w: Tensor) -> Tensor:
        """What a retraction adds to X along U = LwLᴴ, ‖w‖ ≤ 1: that of `LogCholesky`, as cheap.

        Not the sum, so that a step which is as small as rounding of X is not lost.
        """
        D = linalg.change_of_factor(L, w)
        return sym(product(2 * L + D, D.mH))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """V at X carried to Y."""
        return v

    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Along the geodesic."""
        raise NotImplementedError

    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """The end of the geodesic."""
        raise NotImplementedError

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The inverse of `exp`."""
        raise NotImplementedError

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """The length of the geodesic."""
        raise NotImplementedError


@final
@dataclass(frozen=True)
class AffineInvariant(SPDMetric):
    """tr X⁻¹UX⁻¹V (Pennec, Fillard & Ayache 2006): invariant under X ↦ AXAᴴ, and complete."""

    name = "affine"

    @override
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool) -> Tensor:
        L = linalg.cholesky(x)
        U = linalg.whiten(L, u)
        return linalg.inner(U, U if u is v else linalg.whiten(L, v), _MATRIX, keepdim=keepdim)

    @override
    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        return linalg.colour(x, g)

    @override
    def hessian(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """XHX + sym(UGX)."""
        return self.gradient(x, h) + sym(product(u, product(g, x)))

    @override
    def step(self, L: Tensor, w: Tensor) -> Tensor:
        """U + ½UX⁻¹U: eigenvalues of I + w + ½w² increase with w for w ≥ -1."""
        return linalg.colour(L, w + product(w, w) / 2)

    @override
    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """AVAᴴ with A = KL⁻¹, Y = KKᴴ: it keeps inner products, by two Cholesky factors."""
        return linalg.colour(linalg.cholesky(y), linalg.whiten(linalg.cholesky(x), v))

    @override
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """EVEᴴ with E = L(L⁻¹YL⁻ᴴ)^½L⁻¹."""
        L = linalg.cholesky(x)
        root = linalg.hermitian_function(linalg.whiten(L, y), SQRT)
        return linalg.colour(L, linalg.colour(root, linalg.whiten(L, v)))

    @override
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        L = linalg.cholesky(x)
        return linalg.colour(L, linalg.hermitian_function(linalg.whiten(L, u), EXP))

    @override
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return linalg.colour(linalg.cholesky(x), self._white_log(x, y))

    @override
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """‖log(L⁻¹YL⁻ᴴ)‖."""
        return torch.linalg.vector_norm(self._white_log(x, y), dim=_MATRIX)

    def _white_log(self, x: Tensor, y: Tensor) -> Tensor:
        """By log1p of the difference Y - X, so that near points keep their digits."""
        return linalg.hermitian_function(linalg.whiten(linalg.cholesky(x), y - x), LOG1P)


@final
@dataclass(frozen=True)
class LogCholesky(SPDMetric):
    """‖⌊W⌋‖² + ‖D(L)⁻¹D(W)‖² of W = L·half(L⁻¹UL⁻ᴴ) (Lin 2019).

    ⌊·⌋ is the strictly lower part, D the diagonal. Flat and complete: ⌊L⌋ and log D(L) are
    Cartesian coordinates. No eigenvalues.
    """

    name = "log_cholesky"

    @override
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool) -> Tensor:
        L = linalg.cholesky(x)
        U = self._coordinates(L, u)
        return linalg.inner(U, U if u is v else self._coordinates(L, v), _MATRIX, keepdim=keepdim)

    @override
    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """LWᴴ + WLᴴ with W = ⌊2GL⌋ + D(L)²D(2GL)."""
        L = linalg.cholesky(x)
        return self._represent(L, 2 * product(g, L))

    @override
    def hessian(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """As the gradient, of 2HL + 2GW + D(2GL)D(W)D(L)⁻¹: geodesics have L̈ = D(W)²D(L)⁻¹."""
        L = linalg.cholesky(x)
        W = linalg.to_factor(L, u)
        GL = product(g, L)
        rate = linalg.real_diagonal(W) / linalg.real_diagonal(L)
        bent = torch.diag_embed(linalg.real_diagonal(GL) * rate).to(W.dtype)
        return self._represent(L, 2 * (product(h, L) + product(g, W) + bent))

    @override
    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self.parallel_transport(x, y, v)

    @override
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """⌊W⌋ + D(K)D(L)⁻¹D(W) at the factor K of Y."""
        K = linalg.cholesky(y)
        coordinates = self._coordinates(linalg.cholesky(x), v)
        return linalg.from_factor(K, _scale_diagonal(coordinates, linalg.real_diagonal(K)))

    @override
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """KKᴴ with ⌊K⌋ = ⌊L + W⌋ and D(K) = D(L)exp(D(W)/D(L))."""
        L = linalg.cholesky(x)
        K = L + linalg.change_of_factor(L, linalg.whiten(L, u))
        return sym(product(K, K.mH))

    @override
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        L = linalg.cholesky(x)
        apart = self._apart(L, x, y)
        return linalg.from_factor(L, _scale_diagonal(apart, linalg.real_diagonal(L)))

    @override
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """(‖⌊K⌋ - ⌊L⌋‖² + ‖log D(K) - log D(L)‖²)^½."""
        return torch.linalg.vector_norm(self._apart(linalg.cholesky(x), x, y), dim=_MATRIX)

    def _coordinates(self, L: Tensor, u: Tensor) -> Tensor:
        """⌊W⌋ + D(L)⁻¹D(W), in which the metric is the ambient one."""
        return _scale_diagonal(linalg.to_factor(L, u), 1 / linalg.real_diagonal(L))

    def _represent(self, L: Tensor, c: Tensor) -> Tensor:
        """The tangent vector that represents V ↦ Re⟨C, W⟩, W of V."""
        squares = linalg.real_diagonal(L).square()
        return linalg.from_factor(L, _scale_diagonal(c, squares))

    def _apart(self, L: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """⌊K - L⌋ + log D(K) - log D(L), with K = L + LC by C, so that near points keep digits."""
        C = linalg.cholesky_beside_identity(linalg.whiten(L, y - x))
        diagonal = linalg.real_diagonal(C).log1p()
        return product(L, C).tril(-1) + torch.diag_embed(diagonal).to(C.dtype)


@final
@dataclass(frozen=True)
class BuresWasserstein(SPDMetric):
    """½tr 𝓛[U]V, where 𝓛 = 𝓛[U] solves X𝓛 + 𝓛X = U (Malagò, Montrucchio & Pistone 2018).

    The optimal transport distance of centred Gaussians. Not complete: singular matrices are at a
    finite distance. Well conditioned where X is not (Han et al. 2021).
    """

    name = "bures_wasserstein"

    @override
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool) -> Tensor:
        return linalg.inner(linalg.lyapunov(x, u), v, _MATRIX, keepdim=keepdim) / 2

    @override
    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """4 sym(GX)."""
        return 4 * sym(product(g, x))

    @override
    def hessian(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """4 sym(HX + G𝓛X)."""
        return 4 * sym(product(h + product(g, linalg.lyapunov(x, u)), x))

    @override
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> NoReturn:
        raise NotImplementedError(
            "SPD(metric='bures_wasserstein') has no closed-form parallel_transport; `transport` "
            "carries vectors as they are."
        )

    @override
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """(I + 𝓛)X(I + 𝓛), a geodesic while I + 𝓛 is positive definite."""
        K = linalg.lyapunov(x, u)
        return x + sym(u) + linalg.colour(K, x)

    @override
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """EX + XE, where I + E is the optimal map from X to Y."""
        L = linalg.cholesky(x)
        return 2 * sym(product(self._map_times(L, x, y), L.mH))

    @override
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """(tr EXE)^½ = (tr X + tr Y - 2tr(X^½YX^½)^½)^½, without the cancellation of the latter."""
        return torch.linalg.vector_norm(self._map_times(linalg.cholesky(x), x, y), dim=_MATRIX)

    def _map_times(self, L: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """EL = L⁻ᴴ((LᴴYL)^½ - LᴴL), where (I + E)X(I + E) = Y."""
        B = product(L.mH, L)
        apart = linalg.colour(L.mH, y - x)
        D = linalg.hermitian_difference(sym(product(B, B)) + apart, product(B, B), apart, SQRT)
        return torch.linalg.solve_triangular(L.mH, D, upper=True)


@final
@dataclass(frozen=True)
class LogEuclidean(SPDMetric):
    """⟨Dlog_X[U], Dlog_X[V]⟩ (Arsigny et al. 2007): log X are flat coordinates."""

    name = "log_euclidean"

    @override
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool) -> Tensor:
        U = linalg.hermitian_derivative(x, u, LOG)
        V = U if u is v else linalg.hermitian_derivative(x, v, LOG)
        return linalg.inner(U, V, _MATRIX, keepdim=keepdim)

    @override
    def gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """Dexp[Dexp[G]] at log X."""
        spectrum = linalg.eigh(sym(x))
        return self._dexp(x, self._dexp(x, g, spectrum), spectrum)

    @override
    def hessian(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """Dexp[Dexp[H] + D²exp[G, Dlog[U]]] at log X."""
        S = linalg.hermitian_function(x, LOG)
        velocity = linalg.hermitian_derivative(x, u, LOG)
        bent = linalg.hermitian_second(S, g, velocity, EXP)
        spectrum = linalg.eigh(sym(x))
        return self._dexp(x, self._dexp(x, h, spectrum) + bent, spectrum)

    @override
    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self.parallel_transport(x, y, v)

    @override
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Dexp_{log Y}[Dlog_X[V]]."""
        return self._dexp(y, linalg.hermitian_derivative(x, v, LOG))

    @override
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """exp(log X + Dlog_X[U])."""
        S = linalg.hermitian_function(x, LOG) + linalg.hermitian_derivative(x, u, LOG)
        return linalg.hermitian_function(S, EXP)

    @override
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = sym(x), sym(y)
        return self._dexp(x, linalg.hermitian_difference(y, x, y - x, LOG))

    @override
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """‖log Y - log X‖."""
        x, y = sym(x), sym(y)
        return torch.linalg.vector_norm(linalg.hermitian_difference(y, x, y - x, LOG), dim=_MATRIX)

    def _dexp(self, x: Tensor, g: Tensor, spectrum: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Dexp at log X, whose spectrum may be given."""
        values, vectors = spectrum or linalg.eigh(sym(x))
        S = linalg.hermitian_function(x, LOG, (values, vectors))
        return linalg.hermitian_derivative(S, g, EXP, (values.log(), vectors))


def _scale_diagonal(c: Tensor, factors: Tensor) -> Tensor:
    """The lower triangle of C with its real diagonal times `factors`."""
    return c.tril(-1) + torch.diag_embed(linalg.real_diagonal(c) * factors).to(c.dtype)


METRICS: dict[str, SPDMetric] = {
    metric.name: metric
    for metric in (AffineInvariant(), LogCholesky(), BuresWasserstein(), LogEuclidean())
}

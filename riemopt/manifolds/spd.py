"""Symmetric (Hermitian) positive definite matrices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import exact_products, sym, upcast
from riemopt.manifolds.shortened_steps import ShortenedSteps
from riemopt.manifolds.spd_metrics import METRICS

LONGEST = 1.0
"""Of a step, as ‖L⁻¹UL⁻ᴴ‖: relative to the point, in the affine metric."""

Metric = Literal["bures_wasserstein", "affine", "log_cholesky", "log_euclidean"]


@final
@dataclass(frozen=True, repr=False)
class SPD(ShortenedSteps):
    """{X : X = Xᴴ, X positive definite}, `(*batch, n, n)`; complex matrices are Hermitian.

    Dimension: n(n+1)/2, an open set; n² if complex.

    Args:
        metric: with G the Euclidean gradient, made Hermitian,
            "bures_wasserstein": ½tr 𝓛V with X𝓛 + 𝓛X = U; gradient 2(GX + XG) (Malagò, Montrucchio &
            Pistone 2018). The optimal transport of Gaussians. To train weights: the cheapest, and
            the best conditioned where X is not (Han et al. 2021).
            "affine": tr X⁻¹UX⁻¹V; gradient XGX (Pennec, Fillard & Ayache 2006). Invariant under
            X ↦ AXAᴴ: covariances whose coordinates mean nothing, as of electrodes.
            "log_cholesky": flat in the Cholesky factor's lower part and the logarithms of its
            diagonal (Lin 2019). Closed forms without eigenvalues.
            "log_euclidean": ‖Dlog_X[U]‖², flat in log X (Arsigny et al. 2007).

    Metric: one of these four. Train with `RiemannianSGD`, or with Adam: in the last three with
    `second_moment="point"`, for there a gradient that is divided entry by entry may point uphill.

    Step: positive definite for U of any length; one longer than 1 in the affine metric is cut to
    that. Entries move by about `lr` times those of the Riemannian gradient. The stored matrix is
    Hermitian bit for bit and its Cholesky factor exists: eigenvalues are at least about 2·eps·‖X‖.

    Cost: two Cholesky factors, two triangular solves and some products a step, which waits for no
    device; that of "log_euclidean" finds eigenvalues three times besides. `inner`, `exp`, `log` and
    `dist` of all metrics but "log_cholesky" need some. Off a CPU that is Jacobi's method, some
    3n·(5 + log₂n) products, which is much for n > 64. Derivatives are right where eigenvalues are
    equal.

    For: covariances, kernels, diffusion tensors, preconditioners; brain signals, Gaussian mixtures.

    Not for: matrices that may be of lower rank: the optimum of such a problem is not in the set,
    and steps get shorter on the way to it.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import SPD
        >>> affine = SPD("affine")
        >>> X, Y = torch.eye(2), torch.diag(torch.tensor([4.0, 1.0]))
        >>> affine.geodesic(X, Y, 0.5)  # the geometric mean
        tensor([[2., 0.],
                [0., 1.]])
        >>> affine.dist(X, Y)  # log 4
        tensor(1.3863)
    """

    event_ndim = 2

    metric: Metric = "bures_wasserstein"

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(
                f"metric must be one of {', '.join(map(repr, METRICS))}; got {self.metric!r}."
            )

    @property
    @override
    def margin(self) -> float:
        return 0.01

    @property
    @override
    def distorts_lengths(self) -> bool:
        return self.metric != "bures_wasserstein"  # whose boundary is at a finite distance

    @override
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The Hermitian part (U + Uᴴ)/2."""
        return sym(u)

    @override
    @upcast
    @exact_products
    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        """XGX, ½(⌊2GL⌋ + D(L)²D(2GL))Lᴴ + adjoint, 4 sym(GX), or Dexp[Dexp[G]], of Hermitian G."""
        return METRICS[self.metric].gradient(x, sym(g))

    @override
    def carry_mean(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        grad = self.egrad2rgrad(x, g)
        mean = linalg.average(grad, sym(m), decay)
        # ‖grad‖² = ⟨G, grad⟩, where `inner` would factorise.
        return mean, linalg.inner(sym(g), grad, (-2, -1)).clamp(min=0)

    @override
    @upcast
    @exact_products
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        return METRICS[self.metric].hessian(x, sym(g), sym(h), u)

    @override
    @upcast
    @exact_products
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        return METRICS[self.metric].inner(x, u, v, keepdim=keepdim)

    @override
    @upcast
    @exact_products
    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """The vector carried by Cholesky factors (affine), in parallel (flat metrics), or as it is.

        The first two keep its length.
        """
        return METRICS[self.metric].transport(x, y, v)

    @override
    def after_move(self, x: Tensor, y: Tensor, m: Tensor) -> Tensor:
        return self.transport(x, y, m)

    @override
    @upcast
    @exact_products
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """EVEᴴ with E = L(L⁻¹YL⁻ᴴ)^½L⁻¹ (affine), or that of flat coordinates.

        Raises:
            NotImplementedError: the metric is "bures_wasserstein", which has no closed form.
        """
        return METRICS[self.metric].parallel_transport(x, y, v)

    @override
    @exact_products
    def curve_with_fraction(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """To X + U + O(U²), positive definite for any U; the part taken is LONGEST/‖L⁻¹UL⁻ᴴ‖, or 1.

        X + U + ½UX⁻¹U in the affine metric, of second order; else the geodesic of log-Cholesky.

        A step of several times the smallest eigenvalue would land far off: U mixes it with others,
        and these have to grow by as much for the matrix to stay positive definite.
        """
        wide = torch.promote_types(x.dtype, torch.float32)
        X, U = x.to(wide), (t * u).to(wide)
        L = linalg.cholesky(X)
        W = linalg.whiten(L, U)
        length = torch.linalg.vector_norm(W, dim=(-2, -1), keepdim=True)
        taken = LONGEST / length.clamp(min=LONGEST)
        step = METRICS[self.metric].step(L, taken * W)
        y = linalg.keep_definite(sym(X) + step, torch.finfo(wide).eps)
        y, part = linalg.taken_where(y.isfinite().all(-1).all(-1), y, X, taken[..., 0, 0])
        return self.round_point(y, x.dtype), part

    @override
    def round_point(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """X rounded, or X + 4·eps·‖X‖·I where that is not positive definite.

        A matrix with entries that `dtype` cannot hold is made smaller.
        """
        if x.dtype == dtype:
            return x.contiguous()
        eps, most = torch.finfo(dtype).eps, torch.finfo(dtype).max / 2
        x = x * (most / x.abs().amax((-2, -1), keepdim=True)).clamp(max=1)
        y = x.to(dtype)
        safe = linalg.is_positive_definite(y.to(x.dtype), eps / 4)
        raised = linalg.keep_definite(x, eps).to(dtype)
        return torch.where(safe[..., None, None], y, raised).contiguous()

    @override
    def project(self, a: Tensor) -> Tensor:
        """The Hermitian part A, if it is positive definite; zeros go to the identity.

        Of other matrices eigenvalues are raised to .01·‖A‖/√n: the nearest point so far inside. By
        an eigendecomposition.
        """
        wide = torch.promote_types(a.dtype, torch.float32)
        return self.round_point(_nearest(sym(a.to(wide)), self.margin), a.dtype)

    @override
    @upcast
    def violation(self, x: Tensor) -> Tensor:
        """max |X - Xᴴ|/2 of each matrix; infinite where it is not positive definite."""
        off = (x - sym(x)).abs().amax((-2, -1))
        return torch.where(linalg.is_positive_definite(x), off, torch.inf)

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        self._check_square(shape)

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension n(n+1)/2, or n² for Hermitian matrices."""
        n = shape[-1]
        return n * n if is_complex else n * (n + 1) // 2

    @override
    def random_point(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """GGᴴ/4n of a standard normal n×4n matrix G: of mean I, with eigenvalues of ¼ to 9/4."""
        self.check_shape(shape)
        n = shape[-1]
        G = torch.randn(*shape[:-1], 4 * n, generator=generator, dtype=dtype, device=device)
        wide = G.to(torch.promote_types(G.dtype, torch.float32))
        return self.project((wide @ wide.mH / (4 * n)).to(G.dtype))

    @override
    @upcast
    @exact_products
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        return METRICS[self.metric].exp(x, u)

    @override
    @upcast
    @exact_products
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return METRICS[self.metric].log(x, y)

    @override
    @upcast
    @exact_products
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """‖log(L⁻¹YL⁻ᴴ)‖, the norm of the difference of flat coordinates, or that of Bures."""
        return METRICS[self.metric].dist(x, y)


def _nearest(A: Tensor, margin: float) -> Tensor:
    size = A.abs().amax((-2, -1), keepdim=True)
    zero = size == 0
    unit = A / torch.where(zero, 1, size)  # whose squares can be represented
    inside = linalg.is_positive_definite(unit, torch.finfo(A.dtype).eps / 2)[..., None, None]
    values, vectors = linalg.eigh(unit)
    least = margin / A.shape[-1] ** 0.5 * torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    raised = vectors * torch.maximum(values, least).unsqueeze(-2)
    other = sym(linalg.product(raised, vectors.mH)) * size
    return torch.where(inside, A, torch.where(zero, linalg.identity_like(A), other))

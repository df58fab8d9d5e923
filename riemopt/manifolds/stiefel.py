"""The Stiefel manifold: matrices with orthonormal columns (or rows, if wide)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from riemopt import linalg
from riemopt.linalg import (
    add_product,
    average,
    exact_products,
    gram,
    host_readable,
    plus_adjoint,
    squared_norm,
    upcast,
)
from riemopt.manifolds.base import Manifold


@final
@dataclass(frozen=True, repr=False)
class Stiefel(Manifold):
    """{X : XᴴX = I}, `(*batch, n, p)`; with orthonormal rows where n < p.

    The same convention as `torch.nn.init.orthogonal_`; O(n) or U(n) if square. In the formulas X
    is tall; a wide matrix stands for its transpose. Dimension np - p(p+1)/2.

    Args:
        retraction: how a step comes back. "polar": the nearest point to X + U, by matrix
            products alone. "cubic", for square matrices: the nearest point to X(I + Ω + Ω²/2 +
            Ω³/8), where U = XΩ, by fewer products; off the geodesic by Ω³/24, an eighth as much
            as "polar". "qr": the Q factor of X + U. "cayley": Wen & Yin (2013), which needs a
            2p×2p solve and suits p ≪ n. None: "cubic" for square matrices, "polar" for others.
            All stay on the surface to rounding. All are of first order; "cubic" is of second,
            "polar" in the Euclidean metric and "cayley" in the canonical one.
        metric: "euclidean" or "canonical" (Edelman, Arias & Smith 1998, §2.4). The canonical
            gradient is G - XGᴴX, whose part along the columns' own span is twice the Euclidean one.

    An `lr` times a Riemannian gradient with entries of size 1 moves entries by about `lr`. Steps
    longer than ¼·eps^(-1/2) (700 in float32) in Frobenius norm are cut to that length: beyond it
    X + U no longer resolves X. Products of the retraction are true float32 also where
    `torch.set_float32_matmul_precision` allows less, except under torch.compile. Do not use it
    where only the column space matters (that is the Grassmann manifold). Convolution kernels:
    `Flattened(Stiefel())`.
    """

    event_ndim = 2
    retraction: Literal["polar", "cubic", "qr", "cayley"] | None = None
    metric: Literal["euclidean", "canonical"] = "euclidean"

    def __post_init__(self) -> None:
        if self.retraction not in (None, "polar", "cubic", "qr", "cayley"):
            raise ValueError(
                "retraction must be None, 'polar', 'cubic', 'qr' or 'cayley'; "
                f"got {self.retraction!r}."
            )
        if self.metric not in ("euclidean", "canonical"):
            raise ValueError(f"metric must be 'euclidean' or 'canonical'; got {self.metric!r}.")

    @property
    def has_constant_norm(self) -> bool:
        """Yes."""
        return True

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """U - X sym(XᴴU): orthogonal in both metrics, whose normal space is {XS : S = Sᴴ}."""
        return add_product(u, x, plus_adjoint(gram(x, u)), -0.5)

    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        """G - X sym(XᴴG), or G - XGᴴX in the canonical metric."""
        if self.metric == "euclidean":
            return self.proj_tangent(x, g)
        return add_product(g, x, gram(g, x), -1)

    def carry(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor, weight: float | Tensor
    ) -> Tensor:
        """As any manifold's; one projection in the Euclidean metric."""
        if self.metric == "euclidean":
            return self.proj_tangent(x, linalg.combine(m, g, decay, weight))
        return super().carry(x, m, g, decay, weight)

    def carry_mean(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """As any manifold's, with three n×p×p products for four where rounding allows it.

        ‖grad‖² = ‖G‖² - ‖sym XᴴG‖² needs no gradient, but cancels where G is nearly normal; that is
        looked at where reading a value is free. A square X has XᴴG = X⁻¹G, and all is p×p.
        """
        if self.metric == "canonical":
            return super().carry_mean(x, m, g, decay)
        if linalg.is_square(x):
            new = plus_adjoint(gram(x, g), -1)  # all are twice the skew parts
            squared = squared_norm(new, (-2, -1)) * 0.25
            mean = average(new, plus_adjoint(gram(x, m), -1), decay)
            return add_product(m, x, mean, 0.5, weight=0), squared
        S, T = plus_adjoint(gram(x, g)), plus_adjoint(gram(x, m))
        whole = squared_norm(g, (-2, -1))
        squared = whole - squared_norm(S, (-2, -1)) * 0.25
        if host_readable(x) and linalg.is_resolved(squared, whole):
            mean = average(g, m, decay)
            return add_product(mean, x, average(S, T, decay), -0.5, overwrite=True), squared
        grad = add_product(g, x, S, -0.5)
        squared = squared_norm(grad, (-2, -1))
        return average(grad, add_product(m, x, T, -0.5), decay), squared

    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        """tr(UᴴV), or tr(Uᴴ(I - XXᴴ/2)V) in the canonical metric; real, of the batch's shape."""
        product = super().inner(x, u, v, keepdim=keepdim)
        if self.metric == "euclidean":
            return product
        XU = gram(x, u)
        XV = XU if u is v else gram(x, v)
        value = product - super().inner(x, XU, XV, keepdim=keepdim) / 2
        # ⟨U, U⟩ ≥ ½‖U‖² for orthonormal X. Far off the surface (an edited weight) I - XXᴴ/2
        # is not positive, and a norm would be NaN.
        return torch.maximum(value, product / 2) if u is v else value

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """The point that `retraction` reaches from X along U."""
        return self.curve(x, u, 1.0)

    def retraction_of(self, shape: Sequence[int]) -> Literal["polar", "cubic", "qr", "cayley"]:
        """`retraction`, or what stands for None with matrices of `shape`."""
        if self.retraction is None:
            return "cubic" if shape[-1] == shape[-2] else "polar"
        return self.retraction

    @upcast
    @exact_products
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        """As `retract`; "polar" and "cubic" form X + t·U in one pass."""
        retraction = self.retraction_of(x.shape)
        if retraction in ("polar", "cubic"):
            step = linalg.polar_step if retraction == "polar" else linalg.cubic_step
            return step(x, u, t).contiguous()
        u = linalg.cap_norm(t * u, linalg.step_cap(u.dtype))
        wide = linalg.is_wide(x)
        X, U = (x.mH, u.mH) if wide else (x, u)
        # The Cayley transform keeps the defect that X has, so one polar pass takes that away.
        Y = linalg.qr_positive(X + U) if retraction == "qr" else linalg.polar(linalg.cayley(X, U))
        return (Y.mH if wide else Y).contiguous()

    @upcast
    @exact_products
    def project(self, a: Tensor) -> Tensor:
        """The polar factor UVᴴ of A = USVᴴ; not unique where A is rank-deficient."""
        return linalg.project_polar(a)

    @upcast
    @exact_products
    def violation(self, x: Tensor) -> Tensor:
        """max |XᴴX - I| of each matrix."""
        return linalg.gram_defect(x).abs().amax((-2, -1))

    def check_shape(self, shape: Sequence[int]) -> None:
        """Two or more dimensions; the last two not empty."""
        if len(shape) < 2 or 0 in shape[-2:]:
            self._reject(shape, "matrices (*batch, n, p) with n ≥ 1 and p ≥ 1")
        if self.retraction == "cubic":
            self._check_square(shape)

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """np - p(p+1)/2 for n ≥ p, and 2np - p² for complex matrices."""
        p, n = sorted(shape[-2:])
        return 2 * n * p - p * p if is_complex else n * p - p * (p + 1) // 2

    @upcast
    @exact_products
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """Geodesic of the chosen metric (Edelman et al. 1998, eq. 2.42 and theorem 2.1).

        With V in place of the theorem's QR factors, which have no derivative where V loses rank.
        Costs the exponential of a 2p×2p matrix; synchronises on an accelerator.
        """
        wide = linalg.is_wide(x)
        X, U = (x.mH, u.mH) if wide else (x, u)
        A = X.mH @ U
        euclidean = self.metric == "euclidean"
        V = U if euclidean else U - X @ A
        # Any s > 0 gives the same point; ‖V‖ balances the generator, and 1 leaves V = 0 alone.
        s = torch.linalg.matrix_norm(V.detach(), keepdim=True)
        s = torch.where(s > 0, s, 1)
        eye = torch.eye(A.shape[-1], dtype=x.dtype, device=x.device).expand_as(A)
        corner = A if euclidean else torch.zeros_like(A)
        generator = torch.cat(
            [torch.cat([A, -V.mH @ (V / s)], -1), torch.cat([s * eye, corner], -1)], -2
        )
        Y = torch.cat([X, V / s], -1) @ linalg.matrix_exp(generator)[..., : A.shape[-1]]
        if euclidean:
            Y = Y @ linalg.matrix_exp(-A)
        return (Y.mH if wide else Y).contiguous()

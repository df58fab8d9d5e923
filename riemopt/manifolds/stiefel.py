"""The Stiefel manifold: matrices with orthonormal columns (or rows, if wide)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import add_product, exact_products, gram, right_multiply, upcast
from riemopt.manifolds.retractions import Retraction, default_retraction, retraction_of
from riemopt.manifolds.shortened_steps import ShortenedSteps


@final
@dataclass(frozen=True, init=False, repr=False)
class Stiefel(ShortenedSteps):
    """{X : XᴴX = I}, `(*batch, n, p)`; with orthonormal rows where n < p.

        constrain(layer, "weight", Stiefel())
        constrain(layer, "weight", Stiefel(scale=2**0.5))  # the gain of a ReLU

    The same convention as `torch.nn.init.orthogonal_`; O(n) or U(n) if square. In the formulas X
    is tall; a wide matrix stands for its transpose.

    Dimension: np - p(p+1)/2; 2np - p² if complex.

    Args:
        retraction: how a step comes back: `Polar()`, `Cubic()` for square matrices, `QR()`,
            `Cayley()`, one of your own, or one of the names "polar", "cubic", "qr", "cayley"; see
            `riemopt.manifolds.retractions`. None: Cubic for square matrices, Polar for others. All
            stay on the surface to rounding.
        metric: "euclidean" or "canonical" (Edelman, Arias & Smith 1998, §2.4). The canonical
            gradient is G - XGᴴX, whose part along the columns' own span is twice the Euclidean one.
        scale: c > 0 of the set {cX}, the gain that `orthogonal_` takes: the weights of a layer
            have all singular values c. In the formulas X is the stored matrix divided by c. Lengths
            and steps are those of the stored entries. For a gain that is learned: `Scaled`.

    Metric: "euclidean" is the ambient one. An `lr` times a Riemannian gradient with entries of size
    1 moves entries by about `lr`.

    Step: by the retraction. Steps longer than ¼·eps^(-1/2) (700 in float32) in Frobenius norm,
    times the scale, are cut to that length: beyond it X + U no longer resolves X. On an accelerator
    the number of products is fixed, and steps are cut at √‖UᴴU‖ = 3.1 if square, and at 2 if not:
    `optimizer.shortened_steps` counts them. What decides about the surface is computed in true
    float32 there, the rest of a step may take TF32 inputs; `torch.set_float32_matmul_precision`
    changes nothing of this, except under torch.compile.

    Cost: some four products of the size of XᴴX·X for a step of Adam on a CPU, more where nothing
    may be read; nothing waits for a device.

    For: layers and recurrent maps that keep the norm, filters and heads that are not to repeat each
    other, whitening, independent and principal components.

    Not for: a loss that is the same for all bases of a subspace (`Grassmann`); rotations without
    reflections (`SpecialOrthogonal`). For kernels of convolutions take `Flattened(Stiefel())`.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Stiefel
        >>> stiefel, X = Stiefel(), torch.eye(3, 2)
        >>> grad = stiefel.egrad2rgrad(X, torch.ones(3, 2))
        >>> grad
        tensor([[0., 0.],
                [0., 0.],
                [1., 1.]])
        >>> bool(stiefel.violation(stiefel.retract(X, -0.1 * grad)) < 1e-6)
        True
    """

    event_ndim = 2
    tangents_may_be_inexact = True
    retraction: Retraction | None = None
    metric: Literal["euclidean", "canonical"] = "euclidean"
    scale: float = 1.0

    def __init__(
        self,
        retraction: Retraction | Literal["polar", "cubic", "qr", "cayley"] | None = None,
        metric: Literal["euclidean", "canonical"] = "euclidean",
        scale: float = 1.0,
    ) -> None:
        if isinstance(metric, int):
            given = f"Stiefel({retraction!r}, {metric!r})"
            raise TypeError(f"Sizes are those of the tensor: write Stiefel(); got {given}.")
        if metric not in ("euclidean", "canonical"):
            raise ValueError(f"metric must be 'euclidean' or 'canonical'; got {metric!r}.")
        # A tuple, as torch.compile of torch 2.8 cannot trace `int | float`.
        if not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
            raise ValueError(
                f"Stiefel needs a scale that is a positive, finite number; got {scale!r}. "
                "Scaled(Stiefel()) has one that is learned."
            )
        object.__setattr__(self, "retraction", retraction_of(retraction))
        object.__setattr__(self, "metric", metric)
        object.__setattr__(self, "scale", float(scale))

    def unscaled(self, a: Tensor) -> Tensor:
        """A/scale: of a point the X with XᴴX = I. The argument itself where the scale is 1."""
        return a if self.scale == 1 else a / self.scale

    def _scaled(self, a: Tensor) -> Tensor:
        return a if self.scale == 1 else a * self.scale

    @property
    @override
    def has_ambient_metric(self) -> bool:
        return self.metric == "euclidean"

    @property
    @override
    def has_constant_norm(self) -> bool:
        return True

    @override
    def constant_norm(self, shape: Sequence[int]) -> float:
        return self.scale * math.sqrt(min(shape[-2:]))

    @override
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """U - X sym(XᴴU): orthogonal in both metrics, whose normal space is {XS : S = Sᴴ}."""
        return linalg.tangent_to_columns(self.unscaled(x), u)

    @override
    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        """G - X sym(XᴴG), or G - XGᴴX in the canonical metric."""
        if self.metric == "euclidean":
            return self.proj_tangent(x, g)
        X = self.unscaled(x)
        return add_product(g, X, gram(g, X), -1)

    @override
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """P(H - U sym(XᴴG)); in the canonical metric by the acceleration of its geodesics.

        These satisfy Ẍ = -ẊẊᴴX - X((XᴴẊ)² + ẊᴴẊ) (Edelman et al. 1998, eq. 2.41).
        """
        X, U = self.unscaled(x), self.unscaled(u)
        XG = gram(X, g)
        if self.metric == "euclidean":
            return self.proj_tangent(x, add_product(h, U, linalg.sym(XG), -1))
        A = gram(X, U)
        bent = right_multiply(X, gram(g, U) + XG @ A.mH + A.mH @ XG)
        bent = bent + right_multiply(g, A) + right_multiply(U, XG + XG.mH)
        return self.egrad2rgrad(x, h - bent / 2)

    @override
    def carry_mean(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.metric == "canonical":
            return super().carry_mean(x, m, g, decay)
        return linalg.mean_along_columns(self.unscaled(x), m, g, decay)

    @override
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        """tr(UᴴV), or tr(Uᴴ(I - XXᴴ/2)V) in the canonical metric; real, of the batch's shape."""
        product = super().inner(x, u, v, keepdim=keepdim)
        if self.metric == "euclidean":
            return product
        X = self.unscaled(x)
        XU = gram(X, u)
        XV = XU if u is v else gram(X, v)
        value = product - super().inner(x, XU, XV, keepdim=keepdim) / 2
        # ⟨U, U⟩ ≥ ½‖U‖² for orthonormal X. Far off the surface (an edited weight) I - XXᴴ/2
        # is not positive, and a norm would be NaN.
        return torch.maximum(value, product / 2) if u is v else value

    def retraction_of(self, shape: Sequence[int]) -> Retraction:
        """`retraction`, or what stands for None with matrices of `shape`."""
        return self.retraction or default_retraction(shape)

    @override
    @upcast
    @exact_products
    def curve_with_fraction(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """To the point that `retraction` reaches from X along t·U."""
        move = self.retraction_of(x.shape).curve_with_fraction
        y, fraction = move(self.unscaled(x), self.unscaled(u), t)
        return self._scaled(y).contiguous(), fraction

    @override
    def spectral_shape(self, shape: Sequence[int]) -> tuple[int, int] | None:
        return shape[-2], shape[-1]

    @override
    @upcast
    def spectral_direction(
        self, x: Tensor, m: Tensor, steps: int = 6, *, eps: float = 1e-7, exact: bool = True
    ) -> Tensor:
        """msign(skew(MXᴴ))·X, which has the largest Re⟨M, Φ⟩: see `steepest_along_columns`.

        Not `exact`: the projection of msign, a few products less where n/2 < p < n; some .9 of
        that value.
        """
        if not exact:
            return super().spectral_direction(x, m, steps, eps=eps)
        return linalg.steepest_along_columns(self.unscaled(x), m, steps, eps)

    @override
    @upcast
    @exact_products
    def spectral_curve(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """cos(t)·X + sin(t)·U, made orthonormal; by `retraction`, if one was chosen."""
        if self.retraction is not None:
            return self.curve_with_fraction(x, u, t)
        y, fraction = linalg.turn_with_fraction(self.unscaled(x), u, t / self.scale)
        return self._scaled(y).contiguous(), fraction

    @override
    @upcast
    @exact_products
    def project(self, a: Tensor) -> Tensor:
        """The polar factor UVᴴ of A = USVᴴ; not unique where A is rank-deficient."""
        return self._scaled(linalg.project_polar(a))

    @override
    @upcast
    @exact_products
    def violation(self, x: Tensor) -> Tensor:
        """max |XᴴX - I| of each matrix: relative to the scale."""
        exact = linalg.in_double(x, (-2, -1))
        return linalg.gram_defect(self.unscaled(exact)).abs().amax((-2, -1)).to(x.real.dtype)

    @override
    def tolerance(self, x: Tensor) -> Tensor:
        return super().tolerance(self.unscaled(x))

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        """Two or more dimensions; the last two not empty."""
        if len(shape) < 2 or 0 in shape[-2:]:
            self._reject(shape, "matrices (*batch, n, p) with n ≥ 1 and p ≥ 1")
        if self.retraction_of(shape).needs_square:
            self._check_square(shape)

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension np - p(p+1)/2 for n ≥ p, and 2np - p² of complex matrices."""
        p, n = sorted(shape[-2:])
        return 2 * n * p - p * p if is_complex else n * p - p * (p + 1) // 2

    @override
    @upcast
    @exact_products
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """Geodesic of the chosen metric (Edelman et al. 1998, eq. 2.42 and theorem 2.1).

        With V in place of the theorem's QR factors, which have no derivative where V loses rank.
        Costs the exponential of a 2p×2p matrix; synchronises on an accelerator.
        """
        wide = linalg.is_wide(x)
        X, U = self.unscaled(x), self.unscaled(u)
        X, U = (X.mH, U.mH) if wide else (X, U)
        A = gram(X, U)
        euclidean = self.metric == "euclidean"
        V = U if euclidean else U - X @ A
        # Any s > 0 gives the same point; ‖V‖ balances the generator, and 1 leaves V = 0 alone.
        s = torch.linalg.matrix_norm(V.detach(), keepdim=True)
        s = torch.where(s > 0, s, 1)
        eye = torch.eye(A.shape[-1], dtype=x.dtype, device=x.device).expand_as(A)
        corner = A if euclidean else torch.zeros_like(A)
        generator = torch.cat(
            [torch.cat([A, -gram(V, V / s)], -1), torch.cat([s * eye, corner], -1)], -2
        )
        Y = torch.cat([X, V / s], -1) @ linalg.matrix_exp(generator)[..., : A.shape[-1]]
        if euclidean:
            Y = Y @ linalg.matrix_exp(-A)
        return self._scaled(Y.mH if wide else Y).contiguous()

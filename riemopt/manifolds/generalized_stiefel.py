"""Matrices with columns that are orthonormal in a given inner product."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import add_product, exact_products, gram, right_multiply, sym, upcast
from riemopt.manifolds.base import Manifold
from riemopt.manifolds.constant import Constant
from riemopt.manifolds.stiefel import Stiefel

_STIEFEL = Stiefel()


@final
@dataclass(frozen=True, init=False, repr=False)
class GeneralizedStiefel(Manifold):
    """{X : XᴴBX = I} of a positive definite n×n matrix B, `(*batch, n, p)` with p ≤ n.

        x_side = GeneralizedStiefel(X.T @ X / len(X))   # CCA: directions of unit variance

    Args:
        B: symmetric, or Hermitian, and positive definite, `(n, n)`. Values are copied. A Hermitian
            B needs complex points.

    Dimension: np - p(p+1)/2; 2np - p² if complex.

    Metric: tr UᴴBV. It is one inner product of all n×p matrices, in which `proj_tangent` is
    orthogonal and `project` nearest (`extends_metric`). With B = LLᴴ the map X ↦ LᴴX goes to
    `Stiefel`, and keeps all lengths and geodesics. Riemannian gradient B⁻¹G - X sym(XᴴG) (Edelman,
    Arias & Smith 1998, §4.5; Manopt's `stiefelgeneralizedfactory` is this geometry). It is
    preconditioned by B⁻¹; an `lr` times one with entries of size 1 moves entries by about `lr`.

    Step: to Y(YᴴBY)^(-1/2) with Y = X + U, of second order. Rounding errors grow as the root of the
    condition number of B, those of gradients as that number itself.

    Cost: B is factored once, in float64, and kept with L and L⁻¹: a step takes six products with
    n×n matrices, 12n²p flops, and waits for no device.

    For: canonical correlations, generalised eigenvalue problems AX = BXΛ, modes of vibration with a
    mass matrix.

    Not for: B = I (`Stiefel`); a singular B, to which a multiple of the identity is to be added.

    Raises:
        ValueError: B is not a square matrix, not finite, not Hermitian, or not positive definite.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import GeneralizedStiefel
        >>> B = torch.diag(torch.tensor([4.0, 1.0, 1.0]))
        >>> GeneralizedStiefel(B).project(torch.eye(3, 2))
        tensor([[0.5000, 0.0000],
                [0.0000, 1.0000],
                [0.0000, 0.0000]])
    """

    event_ndim = 2
    dims_are_explicit = True
    extends_metric = True

    n: int
    given: str
    """What tells B from others."""
    _B: Constant = field(compare=False)
    _Lh: Constant = field(compare=False)
    """Lᴴ of B = LLᴴ."""
    _inverse: Constant = field(compare=False)
    """L⁻ᴴ."""

    def __init__(self, B: Tensor) -> None:
        kept = Constant(_checked(B))
        L = torch.linalg.cholesky(torch.tensor(kept.array))
        identity = torch.eye(len(L), dtype=L.dtype)
        inverse = torch.linalg.solve_triangular(L.mH, identity, upper=True)
        object.__setattr__(self, "n", len(L))
        object.__setattr__(self, "given", kept.digest)
        object.__setattr__(self, "_B", kept)
        object.__setattr__(self, "_Lh", Constant(L.mH))
        object.__setattr__(self, "_inverse", Constant(inverse))

    def __repr__(self) -> str:
        return f"GeneralizedStiefel(<{self.n}×{self.n} #{self.given[:6]}>)"

    @override
    def prepare(self, x: Tensor) -> None:
        for constant in (self._B, self._Lh, self._inverse):
            constant.on(x)

    def whiten(self, a: Tensor) -> Tensor:
        """LᴴA: a point of `Stiefel`, if A is one of this manifold."""
        return self._Lh.on(a) @ a

    def colour(self, z: Tensor) -> Tensor:
        """L⁻ᴴZ, the inverse of `whiten`."""
        return self._inverse.on(z) @ z

    @override
    @upcast
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """U - X sym(XᴴBU): orthogonal in tr UᴴBV, whose normal space is {XS : S = Sᴴ}."""
        return add_product(u, x, sym(gram(self._B.on(x) @ x, u)), -1)

    @override
    @upcast
    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        """B⁻¹G - X sym(XᴴG)."""
        return add_product(self._raise(g), x, sym(gram(x, g)), -1)

    @override
    @upcast
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """P(B⁻¹H - U sym(XᴴG))."""
        bent = add_product(self._raise(h), u, sym(gram(x, g)), -1)
        return self.proj_tangent(x, bent)

    def _raise(self, g: Tensor) -> Tensor:
        """B⁻¹G."""
        inverse = self._inverse.on(g)
        return inverse @ (inverse.mH @ g)

    @override
    @upcast
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        """tr UᴴBV."""
        U = self.whiten(u)
        return super().inner(x, U, U if u is v else self.whiten(v), keepdim=keepdim)

    @override
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """The nearest point to X + U in the norm of B; a long step is cut as in `Stiefel`."""
        return self.curve(x, u, 1.0)

    @override
    @upcast
    @exact_products
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        U = self.whiten(u)
        length = t * torch.linalg.vector_norm(U, dim=(-2, -1), keepdim=True)
        limit = linalg.step_cap(u.dtype)
        t = t * (limit / length.abs().clamp(min=limit))
        Z = self.whiten(x) + t * U
        y = right_multiply(x + t * u, linalg.inverse_root(linalg.gram_defect(Z)))
        # A long step has rounded X + U; and the root of a large matrix is less exact.
        rest = linalg.small_correction(linalg.gram_defect(self.whiten(y)))
        return add_product(y, y, rest).contiguous()

    @override
    @upcast
    @exact_products
    def project(self, a: Tensor) -> Tensor:
        """The nearest point in the norm (tr AᴴBA)^½: L⁻ᴴ times the polar factor of LᴴA."""
        return self.colour(linalg.project_polar(self.whiten(a))).contiguous()

    @override
    @upcast
    @exact_products
    def violation(self, x: Tensor) -> Tensor:
        """max |XᴴBX - I| of each matrix."""
        return linalg.gram_defect(self.whiten(x)).abs().amax((-2, -1))

    @override
    def tolerance(self, x: Tensor) -> Tensor:
        """As of the entries of X, or of ‖B‖^½X where that is more."""
        size = float(abs(self._B.array).sum(1).max()) ** 0.5
        return super().tolerance(x) * max(1.0, size)

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        if len(shape) < 2 or shape[-2] != self.n or not 1 <= shape[-1] <= self.n:
            self._reject(shape, f"matrices (*batch, {self.n}, p) with 1 ≤ p ≤ {self.n}")

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension np - p(p+1)/2, and 2np - p² of complex matrices."""
        return _STIEFEL.dim(shape, is_complex=is_complex)

    @override
    def random_point(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """L⁻ᴴ times a uniform point of `Stiefel`: uniform in the metric."""
        self.check_shape(shape)
        z = _STIEFEL.random_point(*shape, generator=generator, dtype=dtype, device=device)
        return self._point_of(z)

    @override
    @upcast
    @exact_products
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """That of `Stiefel` for LᴴX and LᴴU; synchronises on an accelerator."""
        return self._point_of(_STIEFEL.exp(self.whiten(x), self.whiten(u)))

    @upcast
    @exact_products
    def _point_of(self, z: Tensor) -> Tensor:
        return self.colour(z).contiguous()


def _checked(B: Tensor) -> Tensor:
    """(B + Bᴴ)/2 in double precision.

    Raises:
        ValueError: as in the class.
    """
    if not isinstance(B, Tensor) or B.ndim != 2 or B.shape[0] != B.shape[1] or not len(B):
        given = tuple(B.shape) if isinstance(B, Tensor) else type(B).__name__
        raise ValueError(f"GeneralizedStiefel needs a matrix B, a tensor (n, n); got {given}.")
    eps = torch.finfo(B.dtype).eps if B.is_floating_point() or B.is_complex() else 2.0**-52
    if B.is_meta:
        raise ValueError("GeneralizedStiefel needs the values of B; got a tensor on 'meta'.")
    B = B.detach().to("cpu", torch.complex128 if B.is_complex() else torch.float64)
    if not bool(B.isfinite().all()):
        raise ValueError("GeneralizedStiefel needs finite numbers; B has an infinity or a NaN.")
    size, n = float(B.abs().max()), len(B)
    apart = float((B - B.mH).abs().max())
    if apart > 100 * eps * size:
        raise ValueError(
            f"GeneralizedStiefel needs a symmetric (Hermitian) matrix; B and its adjoint differ by "
            f"{apart:.3g}, entries have sizes up to {size:.3g}. Give (B + B.mH) / 2."
        )
    B = sym(B)
    values = torch.linalg.eigvalsh(B)
    least, largest = float(values[0]), float(values[-1])
    if least <= n * eps * largest or largest <= 0:
        raise ValueError(
            f"GeneralizedStiefel needs a positive definite matrix; the eigenvalues of B are from "
            f"{least:.3g} to {largest:.3g}, known to {n * eps * abs(largest):.1g}. For a "
            "covariance of few samples add a multiple of the identity."
        )
    return B

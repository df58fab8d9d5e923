"""Retractions of `Stiefel`: how a step along a tangent comes back to orthonormal columns.

    Stiefel(retraction=Polar())         Stiefel("polar") is the same

Of matrices cut over processes each holds some rows. There a step must have the form
X⁺ = X·A + U·B, with p×p matrices A and B that follow from XᴴX, XᴴU and UᴴU: those are summed, each
process finds the same A and B, and moves its own rows. What gives A and B (`coefficients`) can be
sharded, and needs to give nothing else: `curve` follows from it.

    @dataclass(frozen=True)
    class Mine(Retraction):
        def coefficients(self, XX, XU, UU):
            return polar_of(A, B, XX, XU, UU)       # any A and B, made orthonormal
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import add_identity, product, sym


@dataclass(frozen=True)
class Retraction:
    """A way back to orthonormal columns, equal by value to others of its class and options.

    A retraction of your own is a subclass that gives `coefficients`, or `curve`, or both: then by
    less work for whole matrices. Options are fields of a frozen dataclass. All methods are given
    batches, read no value on the host, and take steps of any length; products are true float32.
    `torch.load(weights_only=True)` takes it once `torch.serialization.add_safe_globals([Mine])`
    has been called.

    In the formulas X is tall. Tensors `x, u` may be wide, which stands for the adjoint: see
    `riemopt.linalg`, whose functions take both.

    Examples:
        >>> from dataclasses import dataclass
        >>> import torch
        >>> from riemopt.linalg import add_identity
        >>> from riemopt.manifolds import Retraction, Stiefel
        >>> from riemopt.manifolds.retractions import polar_of
        >>> @dataclass(frozen=True)
        ... class Mine(Retraction):  # X + U, made orthonormal
        ...     def coefficients(self, XX, XU, UU):
        ...         one = torch.eye(XX.shape[-1], dtype=XX.dtype)
        ...         return polar_of(one, one, XX, XU, UU)
        >>> X, U = torch.eye(3, 2), torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
        >>> torch.allclose(Stiefel(Mine()).retract(X, U), Stiefel("polar").retract(X, U), atol=1e-6)
        True
    """

    needs_square: ClassVar[bool] = False
    """Whether it is for square matrices alone."""
    needs_whole_products: ClassVar[bool] = True
    """Whether `coefficients` needs XᴴU; False where sym(XᴴU) will do, half of which is sent."""
    commutes_with_adjoint: ClassVar[bool] = False
    """Whether a square Xᴴ, along Uᴴ, leads to (X⁺)ᴴ: so that its columns may be cut too."""

    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        """The point reached from X along t·U, in the layout of `x`."""
        u = linalg.cap_norm(t * u, linalg.step_cap(u.dtype))
        XU = linalg.gram(x, u)
        XU = XU if self.needs_whole_products else sym(XU)
        A, B = self.coefficients(linalg.gram(x, x), XU, linalg.gram(u, u))
        y = linalg.right_multiply(x, A) + linalg.right_multiply(u, B)
        return linalg.right_multiply(y, self.finish(linalg.gram_defect(y)))

    def curve_with_fraction(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """`curve`, and what fraction of t·U was taken, `(*,)`; None where that is not counted."""
        return self.curve(x, u, t), None

    def coefficients(self, XX: Tensor, XU: Tensor, UU: Tensor) -> tuple[Tensor, Tensor]:
        """`(A, B)`, `(*, p, p)`, with X·A + U·B orthonormal up to what `finish` takes away.

        The arguments are XᴴX, XᴴU (or its Hermitian part, see `needs_whole_products`) and UᴴU,
        where U is the whole step and no longer than `step_cap`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no coefficients.")

    def finish(self, S: Tensor) -> Tensor:
        """R, `(*, p, p)`, with Y·R the end point, where S = YᴴY - I of Y = X·A + U·B.

        That takes away rounding errors of A and B, and a defect that X has.
        """
        return linalg.inverse_root(S)

    @property
    def is_shardable(self) -> bool:
        """Whether it gives `coefficients`."""
        return type(self).coefficients is not Retraction.coefficients


@final
@dataclass(frozen=True)
class Polar(Retraction):
    """The nearest point to X + U, (X + U)(I + UᴴU)^(-1/2), by matrix products alone.

    Of second order in the Euclidean metric.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Polar, Stiefel
        >>> Stiefel(Polar()).retract(torch.eye(2, 1), torch.tensor([[0.0], [1.0]]))
        tensor([[0.7071],
                [0.7071]])
    """

    needs_whole_products = False
    commutes_with_adjoint = True

    @override
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        return self.curve_with_fraction(x, u, t)[0]

    @override
    def curve_with_fraction(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        return linalg.polar_step_with_fraction(x, u, t)

    @override
    def coefficients(self, XX: Tensor, XU: Tensor, UU: Tensor) -> tuple[Tensor, Tensor]:
        R = linalg.inverse_root(add_identity(XX + 2 * XU + UU, -1))
        return R, R

    @override
    def finish(self, S: Tensor) -> Tensor:
        return add_identity(linalg.small_correction(S), 1)


@final
@dataclass(frozen=True)
class Cubic(Retraction):
    """The nearest point to X(I + Ω + Ω²/2 + Ω³/8), where U = XΩ, for square matrices.

    By fewer products than `Polar`; off the geodesic by Ω³/24, an eighth as much. Of second order.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Cubic, Stiefel
        >>> Stiefel(Cubic()) == Stiefel("cubic")
        True
        >>> Stiefel(Cubic()).retract(torch.eye(2), torch.tensor([[0.0, -0.1], [0.1, 0.0]]))
        tensor([[ 0.9950, -0.0999],
                [ 0.0999,  0.9950]])
    """

    needs_square = True
    commutes_with_adjoint = True

    @override
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        return self.curve_with_fraction(x, u, t)[0]

    @override
    def curve_with_fraction(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        return linalg.cubic_step_with_fraction(x, u, t)

    @override
    def coefficients(self, XX: Tensor, XU: Tensor, UU: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the polar factor of X + U - ½(X + ¼U)S, S = UᴴU; see `linalg.cubic_step`."""
        eye = linalg.identity_like(UU)
        scale = linalg.cubic_cut(UU)
        S = scale.square() * UU
        return polar_of(eye - S / 2, scale * (eye - S / 8), XX, XU, UU)

    @override
    def finish(self, S: Tensor) -> Tensor:
        return add_identity(linalg.small_correction(S), 1)


@final
@dataclass(frozen=True)
class QR(Retraction):
    """The Q factor of X + U whose R has a positive diagonal; of first order.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import QR, Stiefel
        >>> Stiefel(QR()).retract(torch.eye(2), torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
        tensor([[ 0.7071, -0.7071],
                [ 0.7071,  0.7071]])
    """

    needs_whole_products = False

    @override
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        return linalg.qr_positive(x + linalg.cap_norm(t * u, linalg.step_cap(u.dtype)))

    @override
    def coefficients(self, XX: Tensor, XU: Tensor, UU: Tensor) -> tuple[Tensor, Tensor]:
        R = linalg.inverse_cholesky(add_identity(XX + 2 * XU + UU, -1))
        return R, R

    @override
    def finish(self, S: Tensor) -> Tensor:
        return linalg.inverse_cholesky(S)


@final
@dataclass(frozen=True)
class Cayley(Retraction):
    """The Cayley transform of Wen & Yin (2013), which needs a 2p×2p solve and suits p ≪ n.

    Of second order in the canonical metric.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Cayley, Stiefel
        >>> stiefel = Stiefel(Cayley(), metric="canonical")
        >>> stiefel.retract(torch.eye(2, 1), torch.tensor([[0.0], [2.0]]))  # a quarter turn
        tensor([[0.],
                [1.]])
    """

    commutes_with_adjoint = True

    @override
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        u = linalg.cap_norm(t * u, linalg.step_cap(u.dtype))
        with linalg.inexact_products(u):
            y = linalg.cayley(x, u)
        return linalg.polish(y)  # the transform keeps the defect that X has

    @override
    def coefficients(self, XX: Tensor, XU: Tensor, UU: Tensor) -> tuple[Tensor, Tensor]:
        return linalg.cayley_coefficients(XX, XU, UU)


def polar_of(A: Tensor, B: Tensor, XX: Tensor, XU: Tensor, UU: Tensor) -> tuple[Tensor, Tensor]:
    """`(A·R, B·R)` with which X·A·R + U·B·R is the polar factor of X·A + U·B."""
    half = product(A.mH, product(XU, B)) + product(A.mH, product(XX, A)) / 2
    S = add_identity(2 * sym(half) + product(B.mH, product(UU, B)), -1)
    R = linalg.inverse_root(S)
    return product(A, R), product(B, R)


NAMED: dict[str, Retraction] = {
    "polar": Polar(),
    "cubic": Cubic(),
    "qr": QR(),
    "cayley": Cayley(),
}


def retraction_of(value: Retraction | str | None) -> Retraction | None:
    """The retraction of that name; others and None as they are.

    Raises:
        ValueError: there is no such name.
    """
    if value is None or isinstance(value, Retraction):
        return value
    if isinstance(value, str) and value in NAMED:
        return NAMED[value]
    names = ", ".join(map(repr, NAMED))
    raise ValueError(
        f"retraction must be one of {names}, a Retraction such as Polar() or one of your own, or "
        f"None for 'cubic' with square matrices and 'polar' with others; got {value!r}."
    )


def default_retraction(shape: Sequence[int]) -> Retraction:
    """`Cubic` for square matrices, `Polar` for others."""
    return NAMED["cubic" if shape[-1] == shape[-2] else "polar"]

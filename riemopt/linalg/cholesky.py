"""Cholesky factors of positive definite matrices, and the coordinates that they make.

Points X = LLᴴ, `(*, n, n)`; L is lower triangular with a positive diagonal. A tangent vector U at X
is the derivative of LLᴴ along the lower triangular W = L·half(L⁻¹UL⁻ᴴ): U = LWᴴ + WLᴴ (Lin 2019).
Nothing here reads a value.
"""

import torch
from torch import Tensor

from riemopt.linalg.products import add_identity, product, sym

_MATRIX = (-2, -1)


def cholesky(x: Tensor) -> Tensor:
    """The factor L of X = LLᴴ; of a matrix that is not positive definite, meaningless.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import cholesky
        >>> cholesky(torch.tensor([[4.0, 2.0], [2.0, 10.0]]))
        tensor([[2., 0.],
                [1., 3.]])
    """
    return torch.linalg.cholesky_ex(sym(x))[0]


def is_positive_definite(x: Tensor, least: float = 0.0) -> Tensor:
    """Whether all eigenvalues are above least·‖X‖: booleans of the batch's shape.

    X is Hermitian. To rounding: by whether the Cholesky factor exists.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import is_positive_definite
        >>> is_positive_definite(torch.diag_embed(torch.tensor([[1.0, 2.0], [1.0, -2.0]])))
        tensor([ True, False])
    """
    shifted = add_identity(x.clone(), -least * _norm(x)) if least else x
    return (torch.linalg.cholesky_ex(shifted)[1] == 0) & x.isfinite().all(-1).all(-1)


def left_divide(L: Tensor, u: Tensor) -> Tensor:
    """L⁻¹U."""
    return torch.linalg.solve_triangular(L, u, upper=False)


def whiten(L: Tensor, u: Tensor) -> Tensor:
    """L⁻¹UL⁻ᴴ of Hermitian U: U in coordinates in which X is the identity.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import cholesky, whiten
        >>> X = torch.tensor([[4.0, 2.0], [2.0, 3.0]], dtype=torch.float64)
        >>> whiten(cholesky(X), X)
        tensor([[1.0000, 0.0000],
                [0.0000, 1.0000]], dtype=torch.float64)
    """
    return sym(left_divide(L, left_divide(L, u).mH))


def colour(L: Tensor, w: Tensor) -> Tensor:
    """LWLᴴ of Hermitian W: the inverse of `whiten`.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import cholesky, colour, whiten
        >>> X = torch.tensor([[4.0, 2.0], [2.0, 3.0]], dtype=torch.float64)
        >>> U = torch.tensor([[1.0, 0.5], [0.5, 2.0]], dtype=torch.float64)
        >>> L = cholesky(X)
        >>> torch.allclose(colour(L, whiten(L, U)), U)
        True
    """
    return sym(product(L, product(w, L.mH)))


def half_lower(p: Tensor) -> Tensor:
    """The lower triangular matrix whose Hermitian part is P/2, for Hermitian P.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import half_lower
        >>> half_lower(torch.tensor([[2.0, 3.0], [3.0, 4.0]]))
        tensor([[1., 0.],
                [3., 2.]])
    """
    return p.tril(-1) + torch.diag_embed(real_diagonal(p) / 2).to(p.dtype)


def real_diagonal(a: Tensor) -> Tensor:
    """The real part of the diagonal, `(*, n)`.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import real_diagonal
        >>> real_diagonal(torch.tensor([[1 + 0j, 2j], [-2j, 3 + 0j]]))
        tensor([1., 3.])
    """
    return a.diagonal(dim1=-2, dim2=-1).real


def to_factor(L: Tensor, u: Tensor) -> Tensor:
    """W = L·half(L⁻¹UL⁻ᴴ): how the factor changes where X changes by U.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import cholesky, to_factor
        >>> X = torch.tensor([[4.0, 2.0], [2.0, 3.0]], dtype=torch.float64)
        >>> U = torch.tensor([[1.0, 0.5], [0.5, 2.0]], dtype=torch.float64)
        >>> L = cholesky(X)
        >>> W = to_factor(L, U)
        >>> torch.allclose(L @ W.mT + W @ L.mT, U)
        True
    """
    return product(L, half_lower(whiten(L, u)))


def from_factor(L: Tensor, W: Tensor) -> Tensor:
    """U = LWᴴ + WLᴴ: the inverse of `to_factor`.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import cholesky, from_factor, to_factor
        >>> X = torch.tensor([[4.0, 2.0], [2.0, 3.0]], dtype=torch.float64)
        >>> U = torch.tensor([[1.0, 0.5], [0.5, 2.0]], dtype=torch.float64)
        >>> L = cholesky(X)
        >>> torch.allclose(from_factor(L, to_factor(L, U)), U)
        True
    """
    return 2 * sym(product(W, L.mH))


def change_of_factor(L: Tensor, w: Tensor) -> Tensor:
    """K - L, where ⌊K⌋ = ⌊L + L·half(w)⌋ and D(K) = D(L)exp(D(w)/2), for Hermitian w.

    ⌊·⌋ is the strictly lower part and D the diagonal.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import change_of_factor
        >>> L, w = torch.eye(2), torch.diag(torch.tensor([2.0, 0.0]))
        >>> change_of_factor(L, w)  # e - 1, on the diagonal
        tensor([[1.7183, 0.0000],
                [0.0000, 0.0000]])
    """
    diagonal = real_diagonal(L) * (real_diagonal(w) / 2).expm1()
    return product(L, half_lower(w)).tril(-1) + torch.diag_embed(diagonal).to(w.dtype)


def cholesky_beside_identity(w: Tensor) -> Tensor:
    """C with (I + C)(I + C)ᴴ = I + W, lower triangular: to rounding of W itself, however small.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import cholesky_beside_identity
        >>> W = 1e-12 * torch.eye(2).double()
        >>> cholesky_beside_identity(W).diagonal() / 1e-12
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    identity = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
    L = cholesky(identity + w)
    C = L - identity
    # One step of Newton's method takes away what the sum I + W has rounded.
    residual = w - C - C.mH - product(C, C.mH)
    return C + to_factor(L, residual)


def keep_definite(y: Tensor, eps: float) -> Tensor:
    """Y + c·I, where c is 4·eps·‖Y‖ if Y has eigenvalues below about 2·eps·‖Y‖, else 0.

    Y is Hermitian and at most rounding errors away from a positive semidefinite matrix. The result
    stays positive definite when it is rounded to a dtype of that eps.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import is_positive_definite, keep_definite
        >>> Y = torch.diag(torch.tensor([1.0, 0.0]))
        >>> bool(is_positive_definite(keep_definite(Y, 1e-7)))
        True
    """
    safe = is_positive_definite(y, 2 * eps)[..., None, None]
    return add_identity(y.clone(), torch.where(safe, 0, 4 * eps * _norm(y)))


def _norm(y: Tensor) -> Tensor:
    """‖Y‖, `(*, 1, 1)`, also where its square cannot be represented."""
    size = y.abs().amax(_MATRIX, keepdim=True)
    unit = y / torch.where(size > 0, size, 1)
    return size * torch.linalg.vector_norm(unit, dim=_MATRIX, keepdim=True)


# --- correlation matrices: C = LLᴴ with rows of L of length 1 -------------------------------------
#
# Γ = D⁻¹L, D the diagonal of L, is unit lower triangular, and any such Γ belongs to one C. Tangent
# vectors U, of zero diagonal, are derivatives along strictly lower Z (Thanwerdas & Pennec 2022).


def unit_factor(L: Tensor) -> Tensor:
    """Γ = D⁻¹L.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import unit_factor
        >>> unit_factor(torch.tensor([[2.0, 0.0], [3.0, 4.0]]))
        tensor([[1.0000, 0.0000],
                [0.7500, 1.0000]])
    """
    return L / real_diagonal(L).unsqueeze(-1)


def of_unit_factor(gamma: Tensor) -> Tensor:
    """C = LLᴴ, where L are the rows of Γ divided by their lengths; the diagonal is 1 exactly.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import of_unit_factor
        >>> of_unit_factor(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        tensor([[1.0000, 0.7071],
                [0.7071, 1.0000]])
    """
    L = gamma / torch.linalg.vector_norm(gamma, dim=-1, keepdim=True)
    return with_unit_diagonal(sym(product(L, L.mH)))


def with_unit_diagonal(a: Tensor) -> Tensor:
    """A with ones in place of its diagonal.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import with_unit_diagonal
        >>> with_unit_diagonal(torch.tensor([[2.0, 0.5], [0.5, 3.0]]))
        tensor([[1.0000, 0.5000],
                [0.5000, 1.0000]])
    """
    ones = torch.ones_like(a.diagonal(dim1=-2, dim2=-1))
    return torch.diagonal_scatter(a, ones, dim1=-2, dim2=-1)


def to_unit_factor(L: Tensor, W: Tensor) -> Tensor:
    """Z = D⁻¹(W - D(W)Γ): how Γ changes where L changes by W.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import cholesky, to_unit_factor
        >>> C = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
        >>> L, W = cholesky(C), torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
        >>> to_unit_factor(L, W)  # how L of unit diagonal, times a diagonal, changes below it
        tensor([[0.0000, 0.0000],
                [1.1547, 0.0000]], dtype=torch.float64)
    """
    change = W - real_diagonal(W).unsqueeze(-1) * unit_factor(L)
    return change.tril(-1) / real_diagonal(L).unsqueeze(-1)


def from_unit_factor(L: Tensor, z: Tensor) -> Tensor:
    """U = E - ½(D(E)C + C·D(E)) with E = D(ZΓᴴ + ΓZᴴ)D: how C changes where Γ changes by Z.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import cholesky, from_unit_factor
        >>> C = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
        >>> L, W = cholesky(C), torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
        >>> U = from_unit_factor(L, W)
        >>> U.diagonal(), bool((U == U.mT).all())
        (tensor([0., 0.], dtype=torch.float64), True)
    """
    E = from_factor(L, real_diagonal(L).unsqueeze(-1) * z)
    diagonal = real_diagonal(E).unsqueeze(-1)
    U = E - sym(diagonal * product(L, L.mH))
    return U - torch.diag_embed(U.diagonal(dim1=-2, dim2=-1))


def unit_factor_difference(L: Tensor, apart: Tensor) -> Tensor:
    """Γ of Y less Γ of X = LLᴴ, where Y - X is known to be `apart`: near points keep digits.

    With the factor L(I + C) of Y it is (I + c)⁻¹(ΓC - cΓ), c the diagonal of C.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import cholesky, unit_factor, unit_factor_difference
        >>> C = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
        >>> apart = torch.tensor([[0.0, 0.1], [0.1, 0.0]], dtype=torch.float64)
        >>> change = unit_factor_difference(cholesky(C), apart)
        >>> torch.allclose(change, unit_factor(cholesky(C + apart)) - unit_factor(cholesky(C)))
        True
    """
    gamma, C = unit_factor(L), cholesky_beside_identity(whiten(L, apart))
    c = real_diagonal(C).unsqueeze(-1)
    return (product(gamma, C) - c * gamma).tril(-1) / (1 + c)

"""Factors Y of one matrix YYᴴ, which differ by a rotation: Y and YQ, `(*, n, k)`, are as good.

    without_rotation(Y, U)          # U - YΩ, orthogonal to all ways YΩ of turning Y
    aligned_difference(X, Y)        # YQ - X, as short as it can be: orthogonal Procrustes

Nothing is divided by a difference of singular values. Factors of less than full rank do no harm: Ω
is then about the shortest there is.
"""

import torch
from torch import Tensor

from riemopt.linalg.backends import (
    known_all,
    needs_functional_derivatives,
    reads_are_free,
    sums_exactly,
)
from riemopt.linalg.cholesky import is_positive_definite
from riemopt.linalg.hermitian import eigh
from riemopt.linalg.polar import project_polar
from riemopt.linalg.products import (
    add_identity,
    add_product,
    identity_like,
    product,
    skew,
    squared_norm,
    sym,
)

_NEWTON_STEPS = 12
"""Ten are enough for a condition of 1/eps in float64."""
_REFINEMENTS = 3
"""Where G is singular to rounding, its inverses have few digits."""
_NEAR = 1 / 32
"""The largest skew part, beside eigenvalues, of which two corrections leave no error."""
_MATRIX = (-2, -1)


def without_rotation(y: Tensor, u: Tensor) -> Tensor:
    """U - YΩ with the skew-Hermitian Ω for which Yᴴ(U - YΩ) is Hermitian.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import without_rotation
        >>> Y, U = torch.eye(3, 2), torch.randn(3, 2)
        >>> V = without_rotation(Y, U)
        >>> torch.allclose(Y.mT @ V, V.mT @ Y, atol=1e-6)
        True
    """
    return add_product(u, y, skew_lyapunov(y.mH @ y, 2 * skew(y.mH @ u)), -1)


def skew_lyapunov(g: Tensor, k: Tensor) -> Tensor:
    """The skew-Hermitian Ω with GΩ + ΩG = K of Hermitian G ≥ 0 and skew-Hermitian K, `(*, k, k)`.

    By an eigendecomposition of G on an eager CPU tensor; elsewhere, and where derivatives are
    recorded, by at most 12 inverses of k×k matrices, which do not wait and whose derivative is
    right.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import skew_lyapunov
        >>> K = torch.tensor([[0.0, -2.0], [2.0, 0.0]])
        >>> skew_lyapunov(torch.eye(2), K)
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """
    if reads_are_free(g, k) and not (torch.is_grad_enabled() or needs_functional_derivatives()):
        return _by_eigenvalues(g, k)
    return _by_inverses(g, k)


def _by_eigenvalues(g: Tensor, k: Tensor) -> Tensor:
    values, vectors = eigh(sym(g))
    numbers = torch.finfo(g.dtype)
    sums = values.unsqueeze(-1) + values.unsqueeze(-2)
    least = numbers.eps * sums.amax(_MATRIX, keepdim=True) + numbers.tiny
    inside = product(vectors.mH, product(k, vectors)) / torch.maximum(sums, least)
    return skew(product(vectors, product(inside, vectors.mH)))


def _by_inverses(g: Tensor, k: Tensor) -> Tensor:
    """By Newton's iteration for the sign of [[G, K], [0, -G]], which is [[I, 2Ω], [0, -I]].

    (Roberts 1980.) In double precision, where the device has it. For the inverses, and for them
    alone, G is raised a little.
    """
    double = torch.promote_types(sums_exactly(g), g.dtype)
    relative = (1e3 if g.dtype == double else 4 * g.shape[-1]) * torch.finfo(g.dtype).eps
    G, K = sym(g.to(double)), k.to(double)
    trace = G.diagonal(dim1=-2, dim2=-1).real.sum(-1)[..., None, None]
    least = relative * trace + torch.finfo(double).tiny ** 0.25
    steps = _sign_steps(add_identity(G.clone(), least))

    def approximate(right: Tensor) -> Tensor:
        for inverse, scale in steps:
            right = (scale * right + product(inverse, product(right, inverse)) / scale) / 2
        return right / 2

    omega = approximate(K)
    for _ in range(_REFINEMENTS):
        omega = omega + approximate(K - product(G, omega) - product(omega, G))
    return skew(omega).to(g.dtype)


def _sign_steps(A: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The inverses A⁻¹ and scales c of A ← (cA + (cA)⁻¹)/2, which goes to I."""
    steps = []
    for _ in range(_NEWTON_STEPS):
        # The error of a round is the square of this, and so is that of a derivative.
        defect = squared_norm(add_identity(A.detach().clone(), -1), _MATRIX)
        inverse = torch.linalg.inv_ex(A)[0]
        sizes = squared_norm(inverse.detach(), _MATRIX), squared_norm(A.detach(), _MATRIX)
        scale = (sizes[0] / sizes[1]) ** 0.25
        steps.append((inverse, scale))
        if known_all(defect < torch.finfo(A.dtype).eps):
            break
        A = (scale * A + inverse / scale) / 2
    return steps


def aligned_difference(x: Tensor, y: Tensor) -> Tensor:
    """YQ - X with the unitary Q for which it is shortest; unique where YᴴX is not singular.

    To rounding of the difference itself where Y is near X. By an SVD: it waits for a device.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import aligned_difference
        >>> Y = torch.randn(4, 2)
        >>> turned = Y @ torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> bool(aligned_difference(Y, turned).norm() < 1e-5)
        True
    """
    apart = y - x
    A, K = _parts(x, apart)
    size = torch.linalg.vector_norm(K, dim=_MATRIX, keepdim=True)
    near = is_positive_definite(add_identity(A.detach().clone(), -size.detach() / _NEAR))
    if not known_all(near):
        # Its derivative is that of the correction below, whatever Q is.
        Q = project_polar((y.mH @ x).detach())
        Q = torch.where(near[..., None, None], identity_like(Q), Q)
        apart = product(y, Q) - x
    for _ in range(2):
        A, K = _parts(x, apart)
        half = skew_lyapunov(A, K)
        turn = torch.linalg.solve_ex(identity_like(half) - half, 2 * half)[0]  # Cayley's, less I
        apart = apart + product(x + apart, turn)
    return apart


def _parts(x: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
    """The Hermitian and the skew-Hermitian part of YᴴX, where Y - X is known to be `apart`."""
    across = apart.mH @ x
    return sym(x.mH @ x) + sym(across), skew(across)

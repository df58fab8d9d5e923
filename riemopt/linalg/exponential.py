"""Maps from skew matrices to rotations: the exponential and the Cayley transform."""

import torch
from torch import Tensor

from riemopt import _torch_workarounds
from riemopt.linalg.products import gram, is_square, is_wide, product, skew


def matrix_exp(a: Tensor) -> Tensor:
    """Exponential of `(*, n, n)` matrices. Synchronises on an accelerator.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import matrix_exp
        >>> matrix_exp(torch.zeros(2, 2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    return _torch_workarounds.matrix_exp(a)  # workaround: matrix_exp_of_one_matrix


def cayley(x: Tensor, u: Tensor) -> Tensor:
    """Cayley transform of X along the tangent U: (I - W/2)⁻¹(I + W/2)X; X is tall, or `x` its Xᴴ.

    W = P U Xᴴ - X Uᴴ P with P = I - XXᴴ/2 is skew-Hermitian with WX = U. It has rank 2p, so the
    solve is 2p×2p by the Sherman-Morrison-Woodbury formula (Wen & Yin 2013, lemma 4), and p×p for
    square X, where W = U Xᴴ.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import cayley
        >>> X, U = torch.eye(2, 1), torch.tensor([[0.0], [2.0]])
        >>> cayley(X, U)
        tensor([[0.],
                [1.]])
    """
    if is_wide(x):
        return cayley(x.mH, u.mH).mH
    p = x.shape[-1]
    XhU = gram(x, u)
    if is_square(x):
        W, eye = skew(XhU), torch.eye(p, dtype=x.dtype, device=x.device)
        return x + x @ torch.linalg.solve_ex(eye - W / 2, W)[0]
    PU = u - x @ (XhU / 2)
    A, B = torch.cat([PU, x], -1), torch.cat([x, -PU], -1)  # W = A Bᴴ, both n×2p
    eye = torch.eye(2 * p, dtype=x.dtype, device=x.device)
    BA, BX = _adjoint_times(B, A), _adjoint_times(B, x)
    return x + A @ torch.linalg.solve_ex(eye - BA / 2, BX)[0]


def _adjoint_times(b: Tensor, a: Tensor) -> Tensor:
    """BᴴA of `(*, n, m)` B, also where m > n."""
    return b.mH @ a if is_wide(b) else gram(b, a)


def cayley_coefficients(XX: Tensor, XU: Tensor, UU: Tensor) -> tuple[Tensor, Tensor]:
    """`(A, B)` with X·A + U·B = `cayley(X, U)`, of the p×p matrices XᴴX, XᴴU and UᴴU.

    W = V Xᴴ - X Vᴴ with V = U - X(XᴴU)/2: with C = [V, X] and D = [X, -V],
    X⁺ = X + C(I - DᴴC/2)⁻¹DᴴX, where DᴴC and DᴴX are made of the arguments.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import cayley, cayley_coefficients
        >>> X, U = torch.eye(2, 1), torch.tensor([[0.0], [2.0]])
        >>> A, B = cayley_coefficients(X.mT @ X, X.mT @ U, U.mT @ U)
        >>> torch.allclose(X @ A + U @ B, cayley(X, U))
        True
    """
    p = XX.shape[-1]
    half = XU / 2
    XV = XU - product(XX, half)
    UV = UU - product(XU.mH, half)
    VV = UV - product(half.mH, XV)
    DC = torch.cat([torch.cat([XV, XX], -1), torch.cat([-VV, -XV.mH], -1)], -2)
    DX = torch.cat([XX, -XV.mH], -2)
    eye = torch.eye(2 * p, dtype=XX.dtype, device=XX.device)
    K = torch.linalg.solve_ex(eye - DC / 2, DX)[0]
    B, K2 = K[..., :p, :], K[..., p:, :]
    return eye[:p, :p] + K2 - product(half, B), B

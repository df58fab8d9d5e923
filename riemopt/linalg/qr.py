"""The QR decomposition whose R has a positive diagonal, which makes it unique."""

import torch
from torch import Tensor

from riemopt.linalg.products import (
    add_identity,
    gram_defect,
    identity_like,
    is_wide,
    right_multiply,
)
from riemopt.linalg.sums import LONG


def qr_positive(y: Tensor) -> Tensor:
    """The Q of Y = QR with a positive diagonal of R; Y is tall, or `y` its Yᴴ.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import qr_positive
        >>> Y = torch.tensor([[3.0, 1.0], [4.0, 2.0]])
        >>> R = qr_positive(Y).mT @ Y
        >>> bool((R.diagonal() > 0).all()), abs(R[1, 0].item()) < 1e-6
        (True, True)
    """
    if is_wide(y):
        return qr_positive(y.mH).mH
    Q, R = torch.linalg.qr(y)
    d = R.diagonal(dim1=-2, dim2=-1)
    Q = Q * torch.where(d == 0, torch.ones_like(d), torch.sgn(d)).unsqueeze(-2)
    # LAPACK adds up a long column as it comes, and leaves Q off by 1e-5 in float32.
    return right_multiply(Q, inverse_cholesky(gram_defect(Q))) if y.shape[-2] > LONG else Q


def inverse_cholesky(S: Tensor) -> Tensor:
    """R⁻¹ of the Cholesky factor RᴴR = I + S, with a positive diagonal: `(*, p, p)`.

    The identity where I + S is singular, as of a weight that is zero: the step after the next ends
    on the surface then, where a NaN would stay.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import inverse_cholesky
        >>> inverse_cholesky(torch.diag(torch.tensor([3.0, 0.0])))
        tensor([[0.5000, 0.0000],
                [0.0000, 1.0000]])
    """
    return inverse_factor(add_identity(S.clone(), 1))


def inverse_factor(C: Tensor) -> Tensor:
    """`inverse_cholesky` of C = RᴴR."""
    L, info = torch.linalg.cholesky_ex(C)
    eye = identity_like(C)
    inverse = torch.linalg.solve_triangular(L.mH, eye, upper=True)
    return torch.where((info == 0)[..., None, None], inverse, eye)

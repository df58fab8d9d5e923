"""Angles between subspaces and of rotations, by products and inverses.

    angles_of(Q @ sin(theta) @ Vh, V @ cos(theta) @ Vh)        # Q·θ·Vᴴ

No function reads a value or divides by a difference of singular values: derivatives of every order
are right where angles are equal, and where they are 0.
"""

import torch
from torch import Tensor

from riemopt.linalg.exponential import matrix_exp
from riemopt.linalg.polar import inverse_root
from riemopt.linalg.products import identity_like, product, squared_norm, sym

_HALVINGS = 2
_TERMS = 12
"""Of the series of atan for tan(π/16) = .2, the largest tangent after so many halvings."""


def angles_of(sine: Tensor, cosine: Tensor) -> Tensor:
    """QθVᴴ of Q·sin(θ)·Vᴴ, `(*, n, p)`, and V·cos(θ)·Vᴴ, `(*, p, p)`, with 0 ≤ θ ≤ π/2.

    For angles of either sign too, as of a skew-Hermitian sine. Small ones are as accurate, relative
    to their size, as the sine is.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import angles_of
        >>> theta = torch.tensor([0.1, 1.5])
        >>> angles_of(torch.diag(theta.sin()), torch.diag(theta.cos())).diagonal()
        tensor([0.1000, 1.5000])
    """
    eye = identity_like(cosine)
    for _ in range(_HALVINGS):  # sin(θ/2) = sin θ/(2·cos(θ/2)), and cos likewise
        P = inverse_root(sym(cosine - eye) / 2) / 2
        sine, cosine = product(sine, P), sym(product(eye + cosine, P))
    tangent = torch.linalg.solve_ex(sym(eye + cosine), sine, left=False)[0]
    squared = product(tangent.mH, tangent)
    series = torch.zeros_like(squared)
    for k in reversed(range(_TERMS)):
        series = eye / (2 * k + 1) - product(squared, series)
    return 2 ** (_HALVINGS + 1) * product(tangent, series)


def sine_and_cosine(Z: Tensor) -> tuple[Tensor, Tensor]:
    """`(sin(√Z)/√Z, cos √Z)` of Hermitian Z ≥ 0, `(*, p, p)`.

    By the exponential of a 2p×2p matrix, which synchronises on an accelerator.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import sine_and_cosine
        >>> sine, cosine = sine_and_cosine(torch.diag(torch.tensor([0.0, 1.0])))
        >>> sine.diagonal(), cosine.diagonal()  # sin 1 and cos 1
        (tensor([1.0000, 0.8415]), tensor([1.0000, 0.5403]))
    """
    p, eye = Z.shape[-1], identity_like(Z)
    zero = torch.zeros_like(Z)
    generator = torch.cat([torch.cat([zero, -Z], -1), torch.cat([eye, zero], -1)], -2)
    found = matrix_exp(generator)[..., :p]
    return found[..., p:, :], found[..., :p, :]


_NEWTON_STEPS = 12
"""Ten are enough for a condition of 1/eps in float64."""


def unitary_factor(y: Tensor) -> Tensor:
    """The unitary polar factor of nonsingular `(*, n, n)` matrices, by Newton's iteration.

    Scaled by Frobenius norms (Higham 2008, §8.6). It does not wait, and its derivative is right.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import unitary_factor
        >>> unitary_factor(torch.diag(torch.tensor([3.0, -2.0])))
        tensor([[ 1.,  0.],
                [ 0., -1.]])
    """
    for _ in range(_NEWTON_STEPS):
        inverse = torch.linalg.inv_ex(y)[0].mH
        ratio = squared_norm(inverse.detach(), (-2, -1)) / squared_norm(y.detach(), (-2, -1))
        scale = ratio**0.25
        y = (scale * y + inverse / scale) / 2
    return y

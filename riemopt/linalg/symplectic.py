"""Symplectic matrices: real 2n×2p X with XᵀJX = J, where J = [[0, I], [-I, 0]] of either size.

    Y = cayley_step(X, U)           # XᵀJX = J, U tangent
    towards_symplectic(Y)           # nearer to the surface, if Y is near it

The adjoint of X in the form xᵀJy is X* = JᵀXᵀJ, so that X*X = I on the surface. Nothing here waits
for a device.
"""

import torch
from torch import Tensor

from riemopt.linalg.polar import project_polar
from riemopt.linalg.polar_derivative import solve_lyapunov
from riemopt.linalg.products import add_identity, identity_like, product, skew


def times_form(a: Tensor) -> Tensor:
    """JA: the lower half of the rows, and then the upper half with the sign changed."""
    upper, lower = a.chunk(2, -2)
    return torch.cat([lower, -upper], -2)


def symplectic_adjoint(x: Tensor) -> Tensor:
    """X* = JᵀXᵀJ = [[Dᵀ, -Bᵀ], [-Cᵀ, Aᵀ]] of X = [[A, B], [C, D]]."""
    (A, B), (C, D) = (half.chunk(2, -1) for half in x.chunk(2, -2))
    return torch.cat([torch.cat([D.mT, -B.mT], -1), torch.cat([-C.mT, A.mT], -1)], -2)


def symplectic_defect(x: Tensor) -> Tensor:
    """X*X - I, `(*, 2p, 2p)`.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import symplectic_defect
        >>> symplectic_defect(torch.eye(2))
        tensor([[0., 0.],
                [0., 0.]])
    """
    return add_identity(product(symplectic_adjoint(x), x), -1)


def tangent_to_symplectic(x: Tensor, u: Tensor) -> Tensor:
    """U - JXΩ with XᵀXΩ + ΩXᵀX = -2 skew(XᵀJU): orthogonal; UᵀJX + XᵀJU becomes 0.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import tangent_to_symplectic
        >>> tangent_to_symplectic(torch.eye(2), torch.eye(2))  # of trace 0, at I
        tensor([[0., 0.],
                [0., 0.]])
    """
    JX = times_form(x)
    Omega = solve_lyapunov(product(x.mT, x), 2 * skew(product(JX.mT, u)), waits=False)
    return u - product(JX, Omega)


def cayley_step(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The Cayley transform from X along the tangent U, cut where that is long; and the part taken.

    Y = -X + (H + 2X)(I - A/2 + H*H/4)⁻¹ with A = X*U and H = U - XA, which takes one 2p×2p solve
    (Bendokat & Zimmermann 2021, proposition 5.2). The inverse exists where A and H*H are small: the
    step is cut such that the matrix is within ½ of I, and to the length of X.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import cayley_step, symplectic_defect
        >>> Y, part = cayley_step(torch.eye(2), torch.tensor([[0.1, 0.0], [0.0, -0.1]]))
        >>> bool(symplectic_defect(Y).abs().max() < 1e-6), part
        (True, tensor(1.))
    """
    A = product(symplectic_adjoint(x), u)
    H = u - product(x, A)
    HH = product(symplectic_adjoint(H), H)
    bound = _norm(A) + (_norm(HH) / 2).sqrt()
    s = 1 / torch.maximum(bound, _norm(u) / _norm(x)).clamp(min=1)
    A, H, HH = s * A, s * H, s**2 * HH
    K = identity_like(A) - A / 2 + HH / 4
    moved = torch.linalg.solve_ex(K.mT, (H + 2 * x).mT)[0].mT - x
    return moved, s[..., 0, 0]


def towards_symplectic(y: Tensor) -> Tensor:
    """Y(I - E/2) with E = Y*Y - I, which leaves ¾E² of it: Newton's method for Y(Y*Y)^(-1/2).

    Examples:
        >>> import torch
        >>> from riemopt.linalg import symplectic_defect, towards_symplectic
        >>> Y = towards_symplectic(1.001 * torch.eye(2))
        >>> bool(symplectic_defect(Y).abs().max() < 1e-5)
        True
    """
    return y - product(y, symplectic_defect(y)) / 2


def orthosymplectic(a: Tensor) -> Tensor:
    """The nearest matrix to A that is symplectic with orthonormal columns, to any A.

    These commute with J: they are [[P, -Q], [Q, P]] with P + iQ unitary. By a complex SVD, so that
    an accelerator is waited for.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import orthosymplectic, symplectic_defect
        >>> Y = orthosymplectic(torch.randn(4, 2))
        >>> bool(symplectic_defect(Y).abs().max() < 1e-5)
        True
        >>> torch.allclose(Y.mT @ Y, torch.eye(2), atol=1e-5)
        True
    """
    (A, B), (C, D) = (half.chunk(2, -1) for half in a.chunk(2, -2))
    U = project_polar(torch.complex(A + D, C - B))
    P, Q = U.real, U.imag
    return torch.cat([torch.cat([P, -Q], -1), torch.cat([Q, P], -1)], -2)


def _norm(a: Tensor) -> Tensor:
    """‖A‖, `(*, 1, 1)`, with derivative 0 at A = 0."""
    squared = a.square().sum((-2, -1), keepdim=True)
    positive = squared > 0
    return torch.where(positive, squared, 1).sqrt() * positive

"""Polar factors where nothing may be read: a fixed number of products. See `polar`.

For accelerators, graphs of torch.compile, meta and functorch tensors. Bounds of singular values are
tensors here, one for each matrix, and every algorithm takes as many rounds as the longest step
needs.
"""

import torch
from torch import Tensor

from riemopt.linalg.polynomials import WIDEST, cubic_steps, evaluate, flattest_cubic, step_cap
from riemopt.linalg.products import (
    add_identity,
    add_product,
    gram,
    gram_defect,
    is_square,
    product,
    right_multiply,
    sym,
)
from riemopt.linalg.steps import cap_norm, cubic_cut

_STEPS = {dtype: cubic_steps(dtype) for dtype in WIDEST}


def polar_step(x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
    """`polar.polar_step`."""
    return polar(x + cap_norm(t * u, step_cap(u.dtype)))


def cubic_step(x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
    """`polar.cubic_step`."""
    u = cap_norm(t * u, step_cap(u.dtype))
    S = gram(u, u)
    scale = cubic_cut(S)
    return polar(cubic_of(x, scale * u, scale.square() * S))


def cubic_of(x: Tensor, u: Tensor, S: Tensor) -> Tensor:
    """X + U - ½(X + ¼U)S with S = UᴴU."""
    return add_product(x + u, x + 0.25 * u, S, -0.5)


def polar(y: Tensor) -> Tensor:
    """`polar.polar`: sweeps of a square Y, or the inverse root of a p×p matrix; one polynomial."""
    S = gram_defect(y)
    bound = _norms(S)
    if is_square(y):
        a, b = _spread(bound)
        for _ in range(_STEPS[y.real.dtype]):
            c1, c3, error = flattest_cubic(a, b)
            y = product(y, add_identity(-c3 * S, c1 - c3))  # Y(c₁I - c₃YᴴY)
            S = gram_defect(y)
            a, b = 1 - error, 1 + error
    else:
        y = right_multiply(y, inverse_root(S))
        S = gram_defect(y)
    P, scale = evaluate(WIDEST[y.real.dtype], S, product(S, S))
    return add_product(y, y, P, scale)


def inverse_root(S: Tensor) -> Tensor:
    """`polar.inverse_root`."""
    a, b = _spread(_norms(S))
    G = add_identity(S.clone(), 1)
    c1, c3, error = flattest_cubic(a, b)
    P = Z = add_identity(-c3 * G, c1)
    for _ in range(_STEPS[S.real.dtype] - 1):
        G = sym(product(P, product(G, P)))
        c1, c3, error = flattest_cubic(1 - error, 1 + error)
        P = add_identity(-c3 * G, c1)
        Z = product(Z, P)
    return Z


def _norms(S: Tensor) -> Tensor:
    """‖S‖ of each matrix, `(*, 1, 1)`."""
    return torch.linalg.vector_norm(S.detach(), dim=(-2, -1), keepdim=True)


def _spread(bound: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest singular value of Y if ‖YᴴY - I‖ ≤ bound.

    Those of X + ξ are at least 1; the floor of .7 leaves room for an X that is off by .3.
    """
    return (1 - bound).clamp(min=0.5) ** 0.5, (1 + bound) ** 0.5

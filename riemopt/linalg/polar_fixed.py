"""Polar factors where nothing may be read: a fixed number of products. See `polar`.

For accelerators, graphs of torch.compile, meta and functorch tensors.

A *step* is written as X and something as small as the step, so that products may round their inputs
to TF32: that error is relative to the step, or makes Y longer and shorter in directions that the
last sweep sees. What must be exact is the surface, and with it one Gram matrix at the end:

    S = YᴴY - I                         # in full float32
    Y = Y - ½YS                         # leaves ¾S²

The numbers of the sweeps are fixed, and leave singular values of 1 where they are. They reach so
far; a longer step is shortened, by a factor that is computed where the step is.

The polar factor of *any* matrix (`polar`, `inverse_root`) has no such bound: there bounds of
singular values are tensors, one for each matrix, with as many rounds as the longest step needs.
"""

import math

import torch
from torch import Tensor

from riemopt.linalg import backends
from riemopt.linalg.polynomials import WIDEST, cubic_steps, evaluate, flattest_cubic, sweeps
from riemopt.linalg.products import (
    add_identity,
    add_product,
    add_scaled,
    exact_gram_defect,
    gram,
    gram_defect,
    inexact_products,
    is_square,
    product,
    right_multiply,
    sym,
)

LONGEST_CUBIC = 3.1
"""Of a cubic step, as the root of ‖UᴴU‖; a half turn is reached at 2.8."""
LONGEST_POLAR = 2.0
"""Of a polar step, likewise: the tangent of the angle it turns by."""
NARROW = 128
"""Columns up to which memory, and not arithmetic, bounds the time of a product with tall X."""

_LOWEST = 0.7  # singular value of a point that is off; what is lower takes more than one step
_DTYPES = (torch.float32, torch.float64)
_STEPS = {dtype: cubic_steps(dtype) for dtype in WIDEST}
# What is left at last, of S = 2e with e the tolerance: ¾S² of square matrices, of others 5/16·S³.
_CUBIC = {
    dtype: sweeps(_LOWEST, math.hypot(1, LONGEST_CUBIC**3 / 8), 0.7 * torch.finfo(dtype).eps ** 0.5)
    for dtype in _DTYPES
}
_POLAR = {
    dtype: sweeps(_LOWEST, math.hypot(1, LONGEST_POLAR), torch.finfo(dtype).eps / 4)
    for dtype in _DTYPES
}
_INEXACT_POLAR = sweeps(0.8, math.hypot(1, LONGEST_POLAR), 2.7e-3)
_TURNED = {dtype: sweeps(_LOWEST, 1.6, 0.7 * torch.finfo(dtype).eps ** 0.5) for dtype in _DTYPES}


# --- steps -------------------------------------------------------------------------------------


def cubic_step(x: Tensor, u: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
    """`polar.cubic_step`, and what fraction of t·U was taken, `(*, 1, 1)`."""
    u = t * u
    with inexact_products(u):
        S = gram(u, u)
        fraction = _fraction_within(S, LONGEST_CUBIC)
        quarter = torch.addcmul(x, u, fraction, value=0.25)
        y = add_product(add_scaled(x, u, fraction), quarter, fraction.square() * S, -0.5)
        for c in _CUBIC[y.real.dtype]:
            y = add_product(y, y, gram_defect(y), -c)
    S = exact_gram_defect(y)
    with inexact_products(u):
        return add_product(y, y, S, -0.5), fraction


def polar_step(x: Tensor, u: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
    """`polar.polar_step`, and what fraction of t·U was taken, `(*, 1, 1)`.

    By the inverse root of a p×p matrix.
    """
    u = t * u
    narrow = min(x.shape[-2:]) <= NARROW and not backends.is_traced()
    if narrow or not backends.has_tf32(u):
        return _exact_polar_step(x, u)
    with inexact_products(u):
        S = gram_defect(x + u)
        fraction = _fraction_within(S, LONGEST_POLAR)
        y = add_scaled(x, u, fraction)
        y = add_product(y, y, _root_defect(fraction.square() * S, _INEXACT_POLAR))
    return polish(y), fraction


def _exact_polar_step(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Of a narrow X: two exact products, which take no longer there, and no last sweep.

    Not in a graph, where the user's setting holds for all products but `exact_gram_defect`.
    """
    with inexact_products(u):
        fraction = _fraction_within(gram(u, u), LONGEST_POLAR)
    y = add_scaled(x, u, fraction)
    return add_product(y, y, _root_defect(gram_defect(y), _POLAR[y.real.dtype])), fraction


def polar_of_turned(y: Tensor) -> Tensor:
    """Polar factor of a Y with singular values between .7 and 1.6."""
    sweep = _TURNED[y.real.dtype]
    with inexact_products(y):
        if is_square(y):
            for c in sweep:
                y = add_product(y, y, gram_defect(y), -c)
        else:
            y = add_product(y, y, _root_defect(gram_defect(y), sweep))
    return polish(y)


def polish(y: Tensor) -> Tensor:
    """`polar.polish`: Y(I - ½S + ⅜S²), S = YᴴY - I."""
    S = exact_gram_defect(y)
    with inexact_products(y):
        return add_product(y, y, add_product(S, S, S, 0.375, weight=-0.5))


def _root_defect(S: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Z with I + Z = (I + S)^(-1/2), by the sweeps of Y in terms of S: a product of I - cS."""
    c, *others = coefficients
    Z = -c * S
    for following in others:
        SP = add_product(S, S, S, c * c, weight=c * c - 2 * c)
        S = add_product(S, S, SP, weight=1 - 2 * c)  # (I + S)(I - cS)² - I
        c = following
        Z = add_product(add_scaled(Z, S, -c), Z, S, -c)
    return Z


def _fraction_within(S: Tensor, longest: float) -> Tensor:
    """What fraction of a step with UᴴU = S is taken, `(*, 1, 1)`.

    Of a step of some 1e9 in float32 it is 0, as ‖S‖ overflows; S itself is made finite.
    """
    largest = torch.finfo(S.dtype).max
    parts = torch.view_as_real(S) if S.is_complex() else S
    parts.nan_to_num_(largest, largest, -largest)
    norm = torch.linalg.vector_norm(S, dim=(-2, -1), keepdim=True)
    return (norm / longest**2).clamp(min=1).rsqrt()


# --- any matrix --------------------------------------------------------------------------------


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

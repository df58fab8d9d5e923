"""Polar factors by matrix products: the nearest matrix with orthonormal columns.

    Y = X + xi                      # X has orthonormal columns, xi is tangent at X
    polar(Y)                        # Y(YᴴY)^(-1/2)
    polar_step(X, U, t)             # of X + t·U, any length of it
    cubic_step(X, U, t)             # nearer to the geodesic, of square X

This file says what each computes. Which algorithm does it is decided here by a question to
`backends`: on an eager CPU tensor `polar_adaptive`, whose number of products follows the data;
elsewhere `polar_fixed`, which reads nothing. Both give the same to rounding.
"""

import math

import torch
from torch import Tensor

from riemopt.linalg import backends, polar_adaptive, polar_derivative, polar_fixed
from riemopt.linalg.polynomials import WIDEST, evaluate
from riemopt.linalg.products import add_scaled, product

LARGEST_TURN = math.pi / 4
"""Of a turn, in radians."""


def polar(y: Tensor) -> Tensor:
    """Unitary polar factor Y(YᴴY)^(-1/2), by matrix products only.

    `(*, n, p)`, singular values at least about 0.7 (X + ξ with ξ tangent at X has σ ≥ 1) and at
    most `step_cap`. S = YᴴY - I is formed, and Y + Y·q(S) is orthonormal to rounding where ‖S‖ is
    below 1/8: two products with the n×p matrix and a few p×p ones. A larger S is brought there
    first by a cubic iteration, which in a Gram matrix of condition ‖S‖ loses that many digits.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import polar
        >>> Y = torch.eye(3, 2) + 0.1 * torch.randn(3, 2)
        >>> Q = polar(Y)
        >>> torch.allclose(Q.mT @ Q, torch.eye(2), atol=1e-6)
        True
    """
    if y.numel() == 0:
        return y.clone()
    if backends.reads_are_free(y):
        factor, _ = polar_adaptive.polar(y)
        return factor
    return polar_fixed.polar(y)


def polish(y: Tensor) -> Tensor:
    """Polar factor of a Y that is off by rounding, or by little: S = YᴴY - I of norm below .01.

    Where nothing may be read it is known up to 5/16·S³; else `polar`, which takes any S.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import polish
        >>> Q = polish(1.001 * torch.eye(3, 2))
        >>> torch.allclose(Q, torch.eye(3, 2), atol=1e-6)
        True
    """
    if y.numel() == 0 or backends.reads_are_free(y):
        return polar(y)
    return polar_fixed.polish(y)


def polar_step(x: Tensor, u: Tensor, t: float | Tensor = 1.0) -> Tensor:
    """Polar factor of X + t·U; t·U is cut to the length `step_cap`, or see below.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import polar_step
        >>> X, U = torch.eye(2, 1), torch.tensor([[0.0], [1.0]])
        >>> polar_step(X, U)
        tensor([[0.7071],
                [0.7071]])
        >>> polar_step(X, U, 0.0)
        tensor([[1.],
                [0.]])
    """
    return polar_step_with_fraction(x, u, t)[0]


def polar_step_with_fraction(
    x: Tensor, u: Tensor, t: float | Tensor = 1.0
) -> tuple[Tensor, Tensor | None]:
    """`polar_step`, and what fraction of t·U was taken, `(*,)`; None where reads are free.

    Elsewhere a step is cut where t²·‖UᴴU‖ is above `polar_fixed.LONGEST_POLAR`² (4).

    Examples:
        >>> import torch
        >>> from riemopt.linalg import polar_step_with_fraction
        >>> X, U = torch.eye(2, 1), torch.tensor([[0.0], [1.0]])
        >>> polar_step_with_fraction(X, U)  # on a CPU a step is taken whole, and not counted
        (tensor([[0.7071],
                [0.7071]]), None)
    """
    if u.numel() == 0:
        return x + t * u, None
    if _reads_are_free(x, u, t):
        return polar_adaptive.polar_step(x, u, t), None
    y, fraction = polar_fixed.polar_step(x, u, t)
    return y, fraction[..., 0, 0]


def cubic_step(x: Tensor, u: Tensor, t: float | Tensor = 1.0) -> Tensor:
    """Unitary polar factor of Y - ½(X + ¼t·U)S, where Y = X + t·U and S = t²·UᴴU; X is square.

    With t·U = XΩ, Ω skew-Hermitian, that is X(I + Ω + Ω²/2 + Ω³/8), which agrees with X·exp(Ω) to
    second order and is unitary up to Ω⁶/64: for ‖Ω‖₂ ≤ .14 to rounding in float32, so that two
    products are enough (of Y - ½YS, as much work, ¾Ω⁴ would be left). Steps with ‖S‖ above 64 are
    cut to that length; or see below.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import cubic_step
        >>> W = torch.tensor([[0.0, -0.1], [0.1, 0.0]])
        >>> torch.allclose(cubic_step(torch.eye(2), W), torch.matrix_exp(W), atol=1e-4)
        True
    """
    return cubic_step_with_fraction(x, u, t)[0]


def cubic_step_with_fraction(
    x: Tensor, u: Tensor, t: float | Tensor = 1.0
) -> tuple[Tensor, Tensor | None]:
    """`cubic_step`, and what fraction of t·U was taken, `(*,)`; None where reads are free.

    Elsewhere a step is cut where ‖S‖ is above `polar_fixed.LONGEST_CUBIC`² (9.6).

    Examples:
        >>> import torch
        >>> from riemopt.linalg import cubic_step_with_fraction
        >>> W = torch.tensor([[0.0, -0.1], [0.1, 0.0]])
        >>> cubic_step_with_fraction(torch.eye(2), W)[1] is None  # on a CPU
        True
    """
    if u.numel() == 0:
        return x + t * u, None
    if _reads_are_free(x, u, t):
        return polar_adaptive.cubic_step(x, u, t), None
    y, fraction = polar_fixed.cubic_step(x, u, t)
    return y, fraction[..., 0, 0]


def turn_with_fraction(x: Tensor, u: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor | None]:
    """Polar factor of cos t·X + sin t·U for tangent U of ‖U‖₂ ≤ 2, and what fraction was taken.

    Where UᴴU = I that sum is orthonormal itself: X turns by the angle t towards U, along a
    geodesic, and the Gram matrix is all that is left to do. Otherwise YᴴY = I - sin²t·(I - UᴴU).
    It is the polar step along tan t·U, and taken up to |t| = π/4: singular values of Y are at
    least .7 then. The fraction is `(*,)`; None where `t` is a number and all of it was taken.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import turn_with_fraction
        >>> X, U = torch.eye(2, 1), torch.tensor([[0.0], [1.0]])
        >>> turn_with_fraction(X, U, 0.5)[0]  # cos ½, sin ½
        tensor([[0.8776],
                [0.4794]])
    """
    angle, fraction = _angle(u, t)
    if isinstance(angle, Tensor):
        y = angle.cos() * x + angle.sin() * u
    else:
        y = add_scaled(x if angle == 0 else math.cos(angle) * x, u, math.sin(angle))
    if u.numel() == 0:
        return y, fraction
    if _reads_are_free(x, u, angle):
        y, _ = polar_adaptive.polar(y)
    else:
        y = polar_fixed.polar_of_turned(y)
    return y, fraction


def _angle(u: Tensor, t: float | Tensor) -> tuple[float | Tensor, Tensor | None]:
    """t up to `LARGEST_TURN` either way, and what fraction of it that is."""
    batch = u.shape[:-2]
    if not isinstance(t, Tensor):
        if abs(t) <= LARGEST_TURN:
            return t, None
        fraction = torch.full(batch, LARGEST_TURN / abs(t), dtype=u.real.dtype, device=u.device)
        return math.copysign(LARGEST_TURN, t), fraction
    angle = t.to(u.real.dtype).clamp(-LARGEST_TURN, LARGEST_TURN)
    fraction = torch.where(t == 0, 1, angle / t)
    return angle, (fraction if t.ndim == 0 else fraction[..., 0, 0]).expand(batch)


def _reads_are_free(x: Tensor, u: Tensor, t: float | Tensor) -> bool:
    """Of X + t·U; X may be a parameter."""
    tensors = (u, t) if isinstance(t, Tensor) else (u,)
    return backends.reads_are_free(*tensors) and not backends.is_wrapped(x)


def inverse_root(S: Tensor) -> Tensor:
    """(I + S)^(-1/2), `(*, p, p)`, for Hermitian S ≥ -1/2 of norm up to `step_cap` squared.

    It is known to about eps·‖S‖.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import inverse_root
        >>> inverse_root(torch.diag(torch.tensor([3.0, 0.0])))
        tensor([[0.5000, 0.0000],
                [0.0000, 1.0000]])
    """
    if S.numel() == 0:
        return S.clone()
    if backends.reads_are_free(S):
        return polar_adaptive.inverse_root(S)
    return polar_fixed.inverse_root(S)


def small_correction(S: Tensor) -> Tensor:
    """(I + S)^(-1/2) - I for ‖S‖ ≤ 1/8, to rounding and zero where S is.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import small_correction
        >>> S = torch.diag(torch.tensor([0.1, 0.0]))
        >>> torch.allclose(small_correction(S).diagonal(), (1 + S.diagonal()) ** -0.5 - 1)
        True
    """
    P, scale = evaluate(WIDEST[S.real.dtype], S.clone(), product(S, S))
    return scale * P


def project_polar(a: Tensor) -> Tensor:
    """Nearest matrix with orthonormal columns (rows, if wide) to any `(*, n, p)` matrix: UVᴴ.

    By an SVD, so of any rank (not unique where rank-deficient). Differentiable wherever the rank is
    full, any number of times. For starting points and layers, never for a step: it synchronises on
    an accelerator.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import project_polar
        >>> project_polar(torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
        tensor([[1., 0.],
                [0., 1.],
                [0., 0.]])
    """
    return polar_derivative.nearest_orthonormal(a).contiguous()

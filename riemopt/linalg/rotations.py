"""Rotations: square X with XᴴX = I and determinant 1. Tangents, exponentials, logarithms.

    R = exp_skew(W)                 # W skew-Hermitian
    log_rotation(skew(R), sym(R))   # W again, if no plane turns by π or more

Closed forms serve real 2×2 and 3×3 matrices. No function divides by a difference of eigenvalues, so
derivatives of every order are right where angles are equal, and where they are 0.
"""

import math

import torch
from torch import Tensor

from riemopt.linalg import decompositions
from riemopt.linalg.angles import angles_of, unitary_factor
from riemopt.linalg.exponential import matrix_exp
from riemopt.linalg.polar import project_polar
from riemopt.linalg.polar_derivative import solve_lyapunov, with_own_derivative
from riemopt.linalg.products import (
    add_product,
    average,
    exact_products,
    identity_like,
    plus_adjoint,
    product,
    skew,
    squared_norm,
    sym,
)
from riemopt.linalg.quaternions import quaternion_of, skew_of
from riemopt.linalg.removable import (
    atan2_over_root,
    sinc_of_root,
    sine_defect_of_root,
    versine_of_root,
)

# --- tangent vectors ---------------------------------------------------------------------------


def twice_generator(x: Tensor, u: Tensor) -> Tensor:
    """2Ω of the tangent part XΩ of U: XᴴU - UᴴX, and without a trace if complex.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import twice_generator
        >>> twice_generator(torch.eye(2), torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
        tensor([[ 0., -2.],
                [ 2.,  0.]])
    """
    W = plus_adjoint(product(x.mH, u), -1)
    if W.is_complex():
        W = W - _trace(W) / W.shape[-1] * identity_like(W)
    return W


def tangent_to_rotations(x: Tensor, u: Tensor) -> Tensor:
    """X·skew(XᴴU), without the trace of the skew part if complex.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import tangent_to_rotations
        >>> tangent_to_rotations(torch.eye(2), torch.tensor([[1.0, 0.0], [2.0, 3.0]]))
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """
    return add_product(u, x, twice_generator(x, u), 0.5, weight=0)


def mean_along_rotations(
    x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor
) -> tuple[Tensor, Tensor]:
    """The tangent part of decay·M + (1 - decay)·G, and ‖the tangent part of G‖², `(*, 1, 1)`.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import mean_along_rotations
        >>> X, G = torch.eye(2), torch.tensor([[1.0, 0.0], [2.0, 3.0]])
        >>> mean, squared = mean_along_rotations(X, torch.zeros(2, 2), G, 0.5)
        >>> mean, squared
        (tensor([[ 0.0000, -0.5000],
                [ 0.5000,  0.0000]]), tensor([[2.]]))
    """
    new = twice_generator(x, g)
    mean = average(new, twice_generator(x, m), decay)
    return add_product(m, x, mean, 0.5, weight=0), squared_norm(new, (-2, -1)) * 0.25


# --- determinants ------------------------------------------------------------------------------


def phase_of_determinant(x: Tensor) -> Tensor:
    """The angle of det X, in (-π, π]; real `(*,)`. By an LU factorisation that does not wait.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import phase_of_determinant
        >>> phase_of_determinant(torch.diag(torch.tensor([1j, 1 + 0j])))  # π/2
        tensor(1.5708)
    """
    sign: Tensor = torch.linalg.slogdet(x).sign
    return sign.angle()


def without_phase(x: Tensor) -> Tensor:
    """X·(det X)^(-1/n) of unitary X: of determinant 1. Real matrices are left as they are.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import without_phase
        >>> torch.linalg.det(without_phase(torch.diag(torch.tensor([1j, 1 + 0j]))))
        tensor(1.0000+0.j)
    """
    if not x.is_complex():
        return x
    phase = phase_of_determinant(x) / x.shape[-1]
    return x * torch.polar(torch.ones_like(phase), -phase)[..., None, None]


def project_rotation(a: Tensor) -> Tensor:
    """The nearest matrix with XᴴX = I and det X = 1 to any `(*, n, n)` matrix, by an SVD.

    With A = USVᴴ it is U·diag(e^{iθ})·Vᴴ, where θ makes Σ sᵢ·cos θᵢ largest while the angles sum to
    -arg det(UVᴴ). If real (Kabsch 1976) that turns the last angle by π, where it is needed at all.
    Differentiable wherever it is unique. For starting points and layers, never for a step: it
    synchronises on an accelerator.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import project_rotation
        >>> project_rotation(torch.diag(torch.tensor([3.0, 2.0, -1.0])))
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    return _nearest_rotation(a)


def _compute(a: Tensor) -> Tensor:
    U, S, Vh = decompositions.svd(a)
    phase = -phase_of_determinant(U @ Vh)
    if a.is_complex():
        turn = torch.polar(torch.ones_like(S), _shares_of_phase(S, phase))
    else:
        turn = torch.ones_like(S)
        turn[..., -1] = torch.where(phase == 0, 1, -1)
    return without_phase(project_polar((U * turn.unsqueeze(-2)) @ Vh))


@exact_products
def _derivative(A: Tensor, R: Tensor, dA: Tensor) -> Tensor:
    """RΩ, where the traceless skew part of RᴴA stays 0: HΩ + ΩH = RᴴdA - dAᴴR + iμI, tr Ω = 0.

    H is the Hermitian part of RᴴA. R makes Re⟨R, A⟩ largest and is the gradient of that maximum, so
    that the map is self-adjoint and serves backward too.
    """
    H = sym(R.mH @ A)
    W = solve_lyapunov(H, plus_adjoint(R.mH @ dA, -1))
    if A.is_complex():
        Z = solve_lyapunov(H, identity_like(H))
        W = W - _trace(W) / _trace(Z) * Z
    return R @ W


_nearest_rotation = with_own_derivative(_compute, _derivative)


def _shares_of_phase(S: Tensor, phase: Tensor) -> Tensor:
    """θ with Σθᵢ = phase that makes Σ sᵢ·cos θᵢ largest, for descending S.

    There sᵢ·sin θᵢ is the same for all i: all follow from the last angle t, and their sum is φ for
    one t in [0, π]. (Beyond π/2 the sum is concave in π - t, and π at t = π.)
    """
    phi, last = phase.abs().unsqueeze(-1), S[..., -1:]
    ratio = torch.where(S > 0, last / torch.where(S > 0, S, 1), 1)[..., :-1]

    def angles(t: Tensor) -> Tensor:
        return torch.cat([(ratio * t.sin()).clamp(max=1).asin(), t], -1)

    def falls_short(t: Tensor) -> Tensor:
        return angles(t).sum(-1, keepdim=True) < phi

    middle = torch.full_like(phi, math.pi / 2)
    beyond = falls_short(middle)
    low = torch.where(beyond, middle, 0)
    high = torch.where(beyond, math.pi, middle)
    for _ in range(64):
        t = (low + high) / 2
        short = falls_short(t)
        low, high = torch.where(short, t, low), torch.where(short, high, t)
    return angles(high) * phase.sign().unsqueeze(-1)


# --- exponential and logarithm -----------------------------------------------------------------


def exp_skew(W: Tensor) -> Tensor:
    """exp(W) of skew-Hermitian W; by Rodrigues' formula if real and 2×2 or 3×3.

    Synchronises on an accelerator otherwise.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import exp_skew
        >>> W = torch.tensor([[0.0, -0.5], [0.5, 0.0]])
        >>> exp_skew(W)
        tensor([[ 0.8776, -0.4794],
                [ 0.4794,  0.8776]])
    """
    n = W.shape[-1]
    if W.is_complex() or n not in (2, 3):
        return matrix_exp(W)
    squared = W.square().sum((-2, -1), keepdim=True) / 2  # of the angle; a norm has no derivative
    R = sinc_of_root(squared) * W + versine_of_root(squared) * product(W, W)
    return R + identity_like(R)


def mean_rotation(W: Tensor) -> Tensor:
    """∫ exp(sW) ds over [0, 1], of skew-Hermitian W.

    The corner of exp([[W, I], [0, 0]]); a closed form if real and of at most 3×3.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import mean_rotation
        >>> mean_rotation(torch.zeros(3, 3))
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    n, eye = W.shape[-1], identity_like(W)
    if W.is_complex() or n > 3:
        zero = torch.zeros_like(W)
        generator = torch.cat([torch.cat([W, eye], -1), torch.cat([zero, zero], -1)], -2)
        return matrix_exp(generator)[..., :n, n:]
    squared = W.square().sum((-2, -1), keepdim=True) / 2
    return eye + versine_of_root(squared) * W + sine_defect_of_root(squared) * product(W, W)


def log_rotation(S: Tensor, C: Tensor) -> Tensor:
    """The skew-Hermitian W of least norm with exp(W) = R, R = C + S a rotation.

    Args:
        S: skew-Hermitian part of R. A small W is as accurate, relative to its size, as S is.
        C: Hermitian part of R.

    W is unique where no plane is turned by π; if complex where the eigenvalues of W span less than
    a full turn. At a half turn of the plane or of space one of two is returned; of larger matrices
    NaN. Complex matrices are waited for on an accelerator.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import exp_skew, log_rotation, skew, sym
        >>> W = torch.tensor([[0.0, -0.5], [0.5, 0.0]])
        >>> R = exp_skew(W)
        >>> log_rotation(skew(R), sym(R))
        tensor([[ 0.0000, -0.5000],
                [ 0.5000,  0.0000]])
    """
    n = S.shape[-1]
    if n == 1:
        return 0 * S
    if S.is_complex():
        return _log_without_trace(S, C)
    if n == 2:
        sine, cosine = S[..., 1, 0], (C[..., 0, 0] + C[..., 1, 1]) / 2
        angle = torch.atan2(sine, cosine)
        J = torch.tensor([[0.0, -1], [1, 0]], dtype=S.dtype, device=S.device)
        return angle[..., None, None] * J
    if n == 3:
        return _log_by_quaternion(S, C)
    return _log_by_halves(S, C)


def _log_by_quaternion(S: Tensor, C: Tensor) -> Tensor:
    q = quaternion_of(S, C)
    w, v = q[..., :1], q[..., 1:]
    return skew_of(2 * atan2_over_root(v.square().sum(-1, keepdim=True), w) * v)


_NEAR = 0.5
"""‖R - I‖ below which the logarithm is taken from sines, which are known to more digits than R."""


def _log_by_halves(S: Tensor, C: Tensor) -> Tensor:
    """2·log √R, with √R the polar factor of I + R.

    Where a plane turns by nearly π, √R is known to eps/(π - θ) only; what exp(W) then lacks of R is
    added. NaN where that is much.
    """
    eye = identity_like(S)
    R = C + S
    near = squared_norm(R.detach() - eye, (-2, -1)) < _NEAR**2
    root = unitary_factor((eye + R) / 2)
    cosine = torch.where(near, sym(root), eye)
    sine = torch.where(near, skew(torch.linalg.solve_ex(cosine, S)[0]) / 2, skew(root))
    W = 2 * skew(angles_of(sine, torch.where(near, cosine, sym(root))))
    rest = product(matrix_exp(-W), R)
    found = squared_norm(rest.detach() - eye, (-2, -1)) < torch.finfo(W.dtype).eps ** 0.5
    return torch.where(near, W, torch.where(found, W + skew(rest), torch.nan))


def _log_without_trace(S: Tensor, C: Tensor) -> Tensor:
    """The shortest logarithm of trace 0 of a unitary matrix of determinant 1.

    The matrix is turned by e^{iα} so that no eigenvalue is near -1. The angles θ of the logarithm W
    of that, less iα, lie within one full turn and sum to 2π·m, m whole. Those of the shortest sum
    to 0 and lie within a full turn, too: m turns are taken away, from all angles, and what is left
    from the largest. These have the spectral projector ½(I + sign(-iW - gap)), gap a number below.
    """
    eye, n = identity_like(S), S.shape[-1]
    alpha = _turn_to_widest_gap(C + S)[..., None]
    turned = alpha.cos() * S + 1j * alpha.sin() * C, alpha.cos() * C + 1j * alpha.sin() * S
    W = _log_by_halves(*turned) - 1j * alpha * eye
    theta = torch.linalg.eigvalsh(-1j * W.detach())
    m = (theta.sum(-1, keepdim=True) / math.tau).round()
    rest = m % n
    below = (n - rest).long().clamp(max=n - 1)
    gap = (theta.gather(-1, below - 1) + theta.gather(-1, below))[..., None] / 2
    none, each = (rest == 0)[..., None], ((m - rest) / n)[..., None]
    sign = unitary_factor(torch.where(none, -eye, -1j * W - gap * eye))
    W = W - 1j * math.pi * torch.where(none, 2 * each * eye, (2 * each + 1) * eye + sign)
    return W - _trace(W) / n * eye


def _turn_to_widest_gap(R: Tensor) -> Tensor:
    """α, `(*, 1)`, such that e^{iα}R has no eigenvalue near -1; 0 where R has none."""
    angles = torch.linalg.eigvals(R.detach()).angle().sort(-1).values
    gaps = torch.cat([angles[..., 1:], angles[..., :1] + math.tau], -1) - angles
    width, at = gaps.max(-1, keepdim=True)
    alpha = math.pi - angles.gather(-1, at) - width / 2
    alpha = torch.where(alpha > math.pi, alpha - math.tau, alpha)
    return torch.where(angles.abs().amax(-1, keepdim=True) < math.pi / 2, 0, alpha)


def _trace(W: Tensor) -> Tensor:
    return W.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]

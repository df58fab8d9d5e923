"""(I + S)^(-1/2) of small Hermitian matrices, by products alone: as `riemopt.linalg` has it."""

import torch
from torch import Tensor

from riemopt import linalg


def inverse_root(S: Tensor) -> Tensor:
    """(I + S)^(-1/2), `(*, p, p)`, for Hermitian S ≥ -1/2 of norm up to `step_cap` squared.

    It is known to about eps·‖S‖. On an eager CPU tensor the number of products follows the data,
    elsewhere it is fixed, so that nothing is read back to the host.
    """
    norms = linalg._norms(S)
    if not linalg.host_readable(S):
        steps = linalg._BLIND_STEPS[S.real.dtype]
        return linalg._inverse_sqrt(S.clone(), norms[..., None, None], steps)
    bound = linalg._largest(norms) if S.numel() else 0.0
    if bound <= linalg._POLYNOMIAL_REACH:
        return linalg._add_identity(small_correction(S), 1)
    return linalg._inverse_sqrt(S.clone(), bound, None)


def small_correction(S: Tensor) -> Tensor:
    """(I + S)^(-1/2) - I for ‖S‖ ≤ 1/8, to rounding and zero where S is."""
    coefficients = linalg._BLIND_POLYNOMIAL[S.real.dtype]
    P, scale = linalg._evaluate(coefficients, S.clone(), linalg.product(S, S))
    return scale * P


def inverse_cholesky(S: Tensor) -> Tensor:
    """R⁻¹ of the Cholesky factor RᴴR = I + S, with a positive diagonal: `(*, p, p)`.

    The identity where I + S is singular, as of a weight that is zero: the step after the next ends
    on the surface then, where a NaN would stay.
    """
    L, info = torch.linalg.cholesky_ex(linalg._add_identity(S.clone(), 1))
    eye = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device).expand_as(S)
    inverse = torch.linalg.solve_triangular(L.mH, eye, upper=True)
    return torch.where((info == 0)[..., None, None], inverse, eye)

"""How long a step may be: beyond that, arithmetic no longer sees where it began."""

import torch
from torch import Tensor

from riemopt.linalg import backends

LONGEST_CUBIC = 8.0
"""Of a cubic step, as the root of ‖UᴴU‖; a half turn is reached at 2.8."""


def cap_norm(u: Tensor, limit: float) -> Tensor:
    """Scale each `(*, n, p)` matrix down to Frobenius norm `limit` where it is longer."""
    scale = (limit / torch.linalg.vector_norm(u, dim=(-2, -1), keepdim=True)).clamp(max=1)
    return u if backends.reads_are_free(scale) and not bool((scale < 1).any()) else u * scale


def cubic_cut(S: Tensor) -> Tensor:
    """What part of a step with UᴴU = S is taken, `(*, 1, 1)`: 1, or less where it is too long."""
    norm = torch.linalg.vector_norm(S, dim=(-2, -1), keepdim=True)
    return LONGEST_CUBIC / norm.clamp(min=LONGEST_CUBIC**2).sqrt()


def taken_where(safe: Tensor, y: Tensor, x: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices Y and the part of the step that led there; X and 0 where it is not safe, `(*,)`."""
    return torch.where(safe[..., None, None], y, x), torch.where(safe, part, 0)

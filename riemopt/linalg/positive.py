"""Numbers that stay positive: a step that never leaves them."""

import torch
from torch import Tensor


def positive_step(x: Tensor, u: Tensor) -> Tensor:
    """u + √(x² + u²) = x·exp(arsinh(u/x)) for x > 0: x + u + u²/2x + O(u⁴), without cancellation.

    Positive, increasing in u, and at most x + 2u. Kept among the normal numbers of the dtype.
    """
    far = torch.hypot(x, u) + u.abs()
    numbers = torch.finfo(x.dtype)
    return torch.where(u < 0, x * (x / far), far).clamp(numbers.tiny, numbers.max)


def log_ratio(y: Tensor, x: Tensor, apart: Tensor) -> Tensor:
    """log(y/x) of positive numbers, where y - x is known to be `apart`: near ones keep digits."""
    relative = apart / x
    near = relative.abs() < 0.5
    return torch.where(near, torch.where(near, relative, 0).log1p(), y.log() - x.log())

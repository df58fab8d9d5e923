"""Numbers that stay positive: a step that never leaves them."""

import torch
from torch import Tensor


def positive_step(x: Tensor, u: Tensor) -> Tensor:
    """u + √(x² + u²) = x·exp(arsinh(u/x)) for x > 0: x + u + u²/2x + O(u⁴), without cancellation.

    Positive, increasing in u, and at most x + 2u. Kept among the normal numbers of the dtype.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import positive_step
        >>> positive_step(torch.tensor([1.0, 1.0]), torch.tensor([0.0, -100.0]))
        tensor([1.0000, 0.0050])
    """
    far = torch.hypot(x, u) + u.abs()
    numbers = torch.finfo(x.dtype)
    return torch.where(u < 0, x * (x / far), far).clamp(numbers.tiny, numbers.max)


def log_ratio(y: Tensor, x: Tensor, apart: Tensor) -> Tensor:
    """log(y/x) of positive numbers, where y - x is known to be `apart`: near ones keep digits.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import log_ratio
        >>> log_ratio(torch.tensor(1.0), torch.tensor(1.0), torch.tensor(1e-12))  # not 0
        tensor(1.0000e-12)
    """
    relative = apart / x
    near = relative.abs() < 0.5
    return torch.where(near, torch.where(near, relative, 0).log1p(), y.log() - x.log())

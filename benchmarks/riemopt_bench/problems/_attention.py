"""Attention whose heads have orthonormal query and key maps, as torch keeps them: one per head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class OrthogonalHeads(nn.Module):
    """`q` and `k` have shape (heads, width, head), and orthonormal columns in each head.

    A learned `sharpness` for each head does what the norms of free maps would do.
    """

    def __init__(self, width: int, heads: int, *, is_causal: bool = False) -> None:
        super().__init__()
        self.heads, self.is_causal = heads, is_causal
        self.q, self.k = (nn.Parameter(_start(width, heads)) for _ in range(2))
        self.sharpness = nn.Parameter(torch.ones(heads, 1, 1))
        self.v, self.o = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, a: Tensor) -> Tensor:
        """Mixed states `(N, T, width)` of the states `(N, T, width)`."""
        q, k = a[:, None] @ self.q, a[:, None] @ self.k  # (N, heads, T, head)
        v = self.v(a).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(
            self.sharpness * q, k, v, is_causal=self.is_causal
        )
        return self.o(mixed.transpose(1, 2).flatten(2))


def _start(width: int, heads: int) -> Tensor:
    size = (width, width // heads)
    return torch.stack([nn.init.orthogonal_(torch.empty(size)) for _ in range(heads)])

"""Arithmetic that is the same on tensors and on Python numbers, written for both once."""

import math
from typing import Any

import torch
from torch import Tensor

from riemopt.linalg.backends import reads_are_free


def number_if_free(a: Tensor | None) -> Any:
    """A single number as a Python number where it can be read for free; else `a` itself."""
    return a if a is None or a.numel() != 1 or not reads_are_free(a) else a.item()


def maximum(a: Any, b: Any) -> Any:
    """The larger one, of tensors or of numbers."""
    return torch.maximum(a, b) if isinstance(b, Tensor) else max(a, b)


def root_plus(a: Any, eps: float) -> Any:
    """√a + eps of a number, or of a tensor that may be overwritten if autograd does not look on."""
    if not isinstance(a, Tensor):
        return (math.sqrt(a) if a >= 0 else math.nan) + eps
    return a.sqrt() + eps if torch.is_grad_enabled() else a.sqrt_().add_(eps)


def divide(a: Tensor, b: Tensor) -> Tensor:
    """A/B, in the memory of B where that can be."""
    if reads_are_free(b) and not torch.is_grad_enabled():
        return torch.div(a, b, out=b)
    return a / b

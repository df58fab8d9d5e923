"""Arithmetic that is the same on tensors and on Python numbers, written for both once."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from riemopt.linalg.backends import reads_are_free

_T = TypeVar("_T")


def on_host_numbers(function: Callable[..., _T]) -> Callable[..., _T]:
    """Decorator: compute with Python numbers what is a single number and free to read.

    A dozen operators on single numbers on a CPU cost more than the step of a small point. The first
    argument is read if it can be; the others if all of them can. With numbers the function may
    raise ZeroDivisionError where tensors give infinity or NaN; then it is called with tensors.
    """

    @wraps(function)
    def wrapper(first: Tensor, *others: Tensor | None, **options: Any) -> _T:
        if torch.is_grad_enabled():
            return function(first, *others, **options)
        given: list[Any] = [first, *others]
        if first.numel() == 1 and reads_are_free(first):
            given[0] = first.item()
        present = [a for a in others if a is not None]
        if all([a.numel() == 1 for a in present]) and reads_are_free(*present):  # noqa: C419
            given[1:] = [None if a is None else a.item() for a in others]
        try:
            return function(*given, **options)
        except ZeroDivisionError:
            return function(first, *others, **options)

    return wrapper


def maximum(a: Any, b: Any) -> Any:
    """The larger one, of tensors or of numbers."""
    return torch.maximum(a, b) if isinstance(b, Tensor) else max(a, b)


def root_plus(a: Any, eps: Any) -> Any:
    """√a + eps of a number, or of a tensor."""
    if not isinstance(a, Tensor):
        return (math.sqrt(a) if a >= 0 else math.nan) + eps
    root = a.sqrt()
    return root + eps if torch.is_grad_enabled() else root.add_(eps)


def divide(a: Tensor, b: Tensor) -> Tensor:
    """A/B, in the memory of B where that can be."""
    if reads_are_free(b) and not torch.is_grad_enabled():
        return torch.div(a, b, out=b)
    return a / b

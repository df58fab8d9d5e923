"""Arithmetic that is the same on tensors and on Python numbers, written for both once."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from riemopt.linalg.backends import reads_are_free

Scalar = float | Tensor
_T = TypeVar("_T")


def on_host_numbers(function: Callable[..., _T]) -> Callable[..., _T]:
    """Decorator: compute with Python numbers what is a single number and free to read.

    A dozen operators on single numbers on a CPU cost more than the step of a small point. The first
    argument is read if it can be; the others if all of them can. Some may be numbers already. With
    numbers the function may raise ZeroDivisionError where tensors give infinity or NaN; then it is
    called with tensors.
    """

    @wraps(function)
    def wrapper(first: Scalar, *others: Scalar | None, **options: Any) -> _T:
        rest = [if_free(a) for a in others]
        if any([isinstance(a, Tensor) for a in rest]):  # noqa: C419 (a list is faster)
            rest = [*others]
        try:
            return function(if_free(first), *rest, **options)
        except ZeroDivisionError:
            return function(*[_as_tensor(a) for a in (first, *others)], **options)

    return wrapper


def if_free(a: Any) -> Any:
    """A tensor of one real number as that number, where reading is free; all else as it is.

    Not where autograd records.
    """
    if not isinstance(a, Tensor) or a.numel() != 1 or a.is_complex() or torch.is_grad_enabled():
        return a
    return a.item() if reads_are_free(a) else a


def _as_tensor(a: Any) -> Any:
    return torch.tensor(a, dtype=torch.float64) if isinstance(a, float) else a


def by_numbers(formula: Callable[..., Any], first: Tensor, *others: Tensor) -> Tensor:
    """`formula(first, …)`, with Python numbers where all are single ones that are free to read.

    The result may take the place of `first`.
    """
    numbers = [if_free(a) for a in (first, *others)]
    if any([isinstance(a, Tensor) for a in numbers]):  # noqa: C419
        result: Tensor = formula(first, *others)
        return result
    return first.fill_(formula(*numbers))


def less_square(a: Any, b: Any, factor: float) -> Any:
    """A - factor·b², of tensors or of numbers."""
    if isinstance(a, Tensor):
        return torch.addcmul(a, b, b, value=-factor)
    return a - factor * b * b


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

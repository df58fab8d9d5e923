"""Derivatives by autograd of functions of a point, for the Hessians of manifolds."""

from collections.abc import Callable

import torch
from torch import Tensor


def derivative_of_inner(
    g: Tensor, function: Callable[[Tensor, Tensor], Tensor], x: Tensor, u: Tensor
) -> Tensor:
    """Gradient with respect to x of Re⟨g, function(x, u)⟩, summed over the batch.

    Itself differentiable where autograd records.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import derivative_of_inner
        >>> x = torch.tensor([1.0, 2.0])
        >>> derivative_of_inner(torch.ones(2), lambda x, u: x**2 * u, x, torch.ones(2))  # 2x
        tensor([2., 4.])
    """
    derivative: Callable[[Tensor], Tensor] = torch.func.grad(
        lambda at: (g.conj() * function(at, u)).real.sum()
    )
    return derivative(x)

"""Tangent vectors of matrices with orthonormal columns (rows, if wide), in the Euclidean metric."""

import math
from collections.abc import Callable

from torch import Tensor

from riemopt.linalg.backends import known_to_exceed, reads_are_free
from riemopt.linalg.numbers import by_numbers, less_square
from riemopt.linalg.products import (
    add_product,
    average,
    gram,
    is_square,
    plus_adjoint,
    squared_norm,
)
from riemopt.linalg.sums import norm
from riemopt.linalg.tiny import in_pieces


@in_pieces
def tangent_to_columns(x: Tensor, u: Tensor) -> Tensor:
    """U - X sym(XᴴU): the part of U that is tangent at X.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import tangent_to_columns
        >>> X, U = torch.eye(3, 2), torch.ones(3, 2)
        >>> V = tangent_to_columns(X, U)
        >>> X.mT @ V + V.mT @ X
        tensor([[0., 0.],
                [0., 0.]])
    """
    return add_product(u, x, plus_adjoint(gram(x, u)), -0.5)


@in_pieces
def across_columns(x: Tensor, u: Tensor) -> Tensor:
    """U - XXᴴU: the part of U that is normal to all columns of X.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import across_columns
        >>> across_columns(torch.eye(3, 2), torch.ones(3, 2))
        tensor([[0., 0.],
                [0., 0.],
                [1., 1.]])
    """
    return add_product(u, x, gram(x, u), -1)


def mean_along_columns(
    x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor
) -> tuple[Tensor, Tensor]:
    """The tangent part of decay·M + (1 - decay)·G, and ‖the tangent part of G‖², `(*, 1, 1)`.

    A square X has XᴴG = X⁻¹G, and all is p×p. Of a tall one the length would take a product more,
    if it did not follow from other lengths, where reading a value is free and rounding allows it.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import mean_along_columns
        >>> X, G = torch.eye(3, 2), torch.ones(3, 2)
        >>> mean, squared = mean_along_columns(X, torch.zeros(3, 2), G, 0.5)
        >>> mean, squared
        (tensor([[0.0000, 0.0000],
                [0.0000, 0.0000],
                [0.5000, 0.5000]]), tensor([[2.0000]]))
    """
    if x.ndim > 3:  # one batch dimension, so that products need no views of their own
        X, M, G = (a.flatten(0, -3) for a in (x, m, g))
        mean, squared = mean_along_columns(X, M, G, decay)
        return mean.view(x.shape), squared.view(*x.shape[:-2], 1, 1)
    if is_square(x):
        new = plus_adjoint(gram(x, g), -1)  # all are twice the skew parts
        squared = by_numbers(lambda a: 0.25 * a * a, norm(new, (-2, -1), keepdim=True))
        mean = average(new, plus_adjoint(gram(x, m), -1), decay, overwrite=True)
        return add_product(m, x, mean, 0.5, weight=0), squared
    return _mean_without(x, m, g, decay, lambda a: plus_adjoint(gram(x, a)), 0.5)


def mean_across_columns(
    x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor
) -> tuple[Tensor, Tensor]:
    """As `mean_along_columns`, of parts that are normal to all columns.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import mean_across_columns
        >>> X, G = torch.eye(3, 2), torch.ones(3, 2)
        >>> mean, squared = mean_across_columns(X, torch.zeros(3, 2), G, 0.5)
        >>> mean, squared
        (tensor([[0.0000, 0.0000],
                [0.0000, 0.0000],
                [0.5000, 0.5000]]), tensor([[2.0000]]))
    """
    return _mean_without(x, m, g, decay, lambda a: gram(x, a), 1.0)


def _mean_without(
    x: Tensor,
    m: Tensor,
    g: Tensor,
    decay: float | Tensor,
    coefficients: Callable[[Tensor], Tensor],
    share: float,
) -> tuple[Tensor, Tensor]:
    """The mean of A - share·XS of G and of M, with S the `coefficients` of A; and its ‖·‖² of G.

    XS is normal to A - share·XS.
    """
    S = coefficients(g)
    squared = _length_by_others(g, S, share) if reads_are_free(x, m, g) else None
    if squared is not None:
        mean = average(g, m, decay)
        overwrite = not mean.requires_grad  # else autograd has saved it
        return add_product(mean, x, coefficients(mean), -share, overwrite=overwrite), squared
    tangent = add_product(g, x, S, -share)
    mean = average(tangent, add_product(m, x, coefficients(m), -share), decay)
    return mean, squared_norm(tangent, (-2, -1))


def _length_by_others(g: Tensor, S: Tensor, share: float) -> Tensor | None:
    """‖G‖² - ‖share·S‖²; None where that cancels, since little of G is tangent: below .001·‖G‖²."""
    whole, part = (norm(a, (-2, -1), keepdim=True) for a in (g, S))
    if not known_to_exceed(whole, part, share / math.sqrt(0.999)):
        return None
    return by_numbers(lambda a, b: less_square(a * a, b, share**2), whole, part)

"""The polar factor of any matrix, with derivatives of every order.

    Q = nearest_orthonormal(A)      # A = QH with QᴴQ = I and H = Hᴴ ≥ 0

A derivative through the singular vectors of A is NaN or wrong where singular values are equal, as
at every orthonormal A, though Q is smooth wherever A has full rank. It is (Higham, *Functions of
Matrices*, 2008, §8.1; for H Ω + Ω H = C see there §B.14)

    dQ = QΩ + (I - QQᴴ)dA·H⁻¹,    HΩ + ΩH = QᴴdA - dAᴴQ.

Q is the gradient of the sum of singular values, so that its derivative is symmetric, and backward
is the same map as forward. It is written in products and Lyapunov solves, and the derivative of a
Lyapunov solve is again one: so there are derivatives of every order, in reverse mode, in forward
mode over it, and under vmap. Forward mode within forward mode is refused: torch takes what a custom
`jvp` computes for a constant there.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from riemopt.linalg import decompositions
from riemopt.linalg.autocast import outside_autocast
from riemopt.linalg.backends import is_traced, refuse_nested_forward_mode
from riemopt.linalg.hermitian import eigh
from riemopt.linalg.products import (
    exact_products,
    gram_defect,
    identity_like,
    is_square,
    is_wide,
    plus_adjoint,
    right_multiply,
    sym,
)


def with_own_derivative(
    compute: Callable[[Tensor], Tensor], derivative: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """`compute` as a function of autograd whose derivative is a self-adjoint map.

    Args:
        compute: f(A); autograd does not look into it.
        derivative: Df(A)[dA] from A, f(A) and dA, made of what can be differentiated. As it is
            self-adjoint, it serves reverse and forward mode.
    """

    class Traced(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(a: Tensor) -> Tensor:
            return compute(a)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.save_for_backward(*inputs, output)
            ctx.save_for_forward(*inputs, output)

        @staticmethod
        @outside_autocast
        def backward(ctx: Any, G: Tensor) -> Tensor:
            A, Q = ctx.saved_tensors
            return derivative(A, Q, G)

    class Eager(Traced):
        @staticmethod
        @outside_autocast
        def jvp(ctx: Any, dA: Tensor) -> Tensor:
            refuse_nested_forward_mode("project")
            A, Q = ctx.saved_tensors
            return derivative(A, Q, dA)

    def function(a: Tensor) -> Tensor:
        # A graph of torch.compile takes no function with a forward mode of its own.
        chosen: Any = Traced if is_traced() else Eager
        result: Tensor = chosen.apply(a)
        return result

    return function


def nearest_orthonormal(a: Tensor) -> Tensor:
    """The matrix with orthonormal columns (rows, if wide) nearest to `(*, n, p)` A: UVᴴ of its SVD.

    Where A has not full rank that is not unique, and the derivative is that of no function: it is
    finite, and zero along the directions in question.
    """
    return _polar_factor(a.mH).mH if is_wide(a) else _polar_factor(a)


def _compute(a: Tensor) -> Tensor:
    """Q of a tall A = QH."""
    U, _, Vh = decompositions.svd(a)
    Q = U @ Vh
    # In float32 the product is orthonormal to 5e-6 only. One Newton-Schulz pass.
    return Q - right_multiply(Q, gram_defect(Q)) / 2


@exact_products
def _derivative(A: Tensor, Q: Tensor, dA: Tensor) -> Tensor:
    """QΩ + (I - QQᴴ)dA·H⁻¹."""
    H, QdA = sym(Q.mH @ A), Q.mH @ dA
    dQ = Q @ solve_lyapunov(H, plus_adjoint(QdA, -1))
    if is_square(A):
        return dQ
    inverse = solve_lyapunov(H, 2 * identity_like(H))
    return dQ + (dA - Q @ QdA) @ inverse


_polar_factor = with_own_derivative(_compute, _derivative)


def solve_lyapunov(h: Tensor, c: Tensor, *, waits: bool = True) -> Tensor:
    """X with HX + XH = C, for Hermitian H and any C, `(*, n, n)`.

    Where two eigenvalues of H add up to 0, to rounding, it is the least of the solutions. By an
    eigendecomposition, for which an accelerator is waited for unless `waits` is False: then it is
    that of `hermitian.eigh`, of many more products.
    """
    function: Any = _TracedLyapunov if is_traced() else _Lyapunov
    solution: Tensor = function.apply(h, c, waits)
    return solution


class _TracedLyapunov(torch.autograd.Function):
    """By HdX + dXH = dC - dH·X - X·dH; the solve is self-adjoint."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, c: Tensor, waits: bool) -> Tensor:
        eigenvalues, V = decompositions.eigh(h) if waits else eigh(h)
        sums = eigenvalues.unsqueeze(-1) + eigenvalues.unsqueeze(-2)
        # Eigenvalues are known to eps times the largest.
        eps = torch.finfo(sums.dtype).eps
        known = sums.abs() > h.shape[-1] * eps * eigenvalues.abs().amax(-1)[..., None, None]
        inverses = torch.where(known, 1 / torch.where(known, sums, 1), 0)
        return V @ (V.mH @ c @ V * inverses) @ V.mH

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)
        ctx.waits = inputs[2]

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, Tensor, None]:
        H, X = ctx.saved_tensors
        Y = solve_lyapunov(H, G, waits=ctx.waits)
        return -(Y @ X.mH + X.mH @ Y), Y, None


class _Lyapunov(_TracedLyapunov):
    @staticmethod
    @outside_autocast
    def jvp(ctx: Any, dH: Tensor, dC: Tensor, _: None) -> Tensor:
        refuse_nested_forward_mode("project")
        H, X = ctx.saved_tensors
        return solve_lyapunov(H, dC - dH @ X - X @ dH, waits=ctx.waits)

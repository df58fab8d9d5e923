"""Products with the Jacobian of a function of batches, and with its transpose.

    d = derivative(c, x)                # c: (B, n) -> (B, m), each row by itself
    d.value, d.adjoint(r), d.rows(), d.apply(u)

`adjoint` is a backward pass of c, and `apply` one of `adjoint`, which is linear in r: by r along u
its derivative is Ju, whatever r. Forward mode would evaluate c again at each product, and some
operators do not support it. `torch.autograd` is called directly where possible: with `torch.func`,
which records every backward pass, a step on 1024×64 matrices takes 1.3 times as long, and hooks on
saved tensors, such as those of torch.utils.checkpoint, are refused.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt.linalg import internal_graph, needs_functional_derivatives


class Derivative(ABC):
    """J = Dc(x) at `(B, n)` points, as an operator."""

    value: Tensor
    """c(x), `(B, m)`."""

    @abstractmethod
    def adjoint(self, r: Tensor) -> Tensor:
        """Jᵀr, `(B, n)`."""

    @abstractmethod
    def apply(self, u: Tensor) -> Tensor:
        """Ju, `(B, m)`."""

    @abstractmethod
    def _adjoints(self, basis: Tensor) -> Tensor:
        """Jᵀr for each r of `(K, B, m)`: `(K, B, n)`."""

    def rows(self) -> Tensor:
        """J itself, `(B, m, n)`."""
        m = self.value.shape[1]
        if m == 1:
            return self.adjoint(torch.ones_like(self.value)).unsqueeze(1)
        basis = torch.eye(m, dtype=self.value.dtype, device=self.value.device).unsqueeze(1)
        return self._adjoints(basis.expand(m, *self.value.shape)).movedim(0, 1)


def derivative(c: Callable[[Tensor], Tensor], x: Tensor) -> Derivative:
    """The derivative of c at x, by autograd; itself recorded where that of x is."""
    return Functional(c, x) if needs_functional_derivatives() else Direct(c, x)


@final
class Direct(Derivative):
    """By `torch.autograd.grad`, on a graph of its own, or on that of x where it is recorded."""

    def __init__(self, c: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self._recorded = torch.is_grad_enabled() and x.requires_grad
        with internal_graph():
            self._x = x if self._recorded else _leaf(x)
            self._c = c(self._x)
        self.value = self._c if self._recorded else self._c.detach()
        self._probe: tuple[Tensor, Tensor] | None = None

    def _backward(
        self, r: Tensor, *, create_graph: bool = False, is_grads_batched: bool = False
    ) -> Tensor:
        if not self._c.requires_grad:  # c is constant
            return r.new_zeros(*r.shape[:-2], *self._x.shape)
        return _gradient(
            self._c,
            self._x,
            r,
            create_graph=create_graph or self._recorded,
            is_grads_batched=is_grads_batched,
        )

    @override
    def adjoint(self, r: Tensor) -> Tensor:
        return self._backward(r)

    def _adjoints(self, basis: Tensor) -> Tensor:
        return self._backward(basis, is_grads_batched=True)

    def apply(self, u: Tensor) -> Tensor:
        """A backward pass of a backward pass."""
        if self._probe is None:
            with internal_graph():
                r = torch.zeros_like(self.value, requires_grad=True)
                self._probe = r, self._backward(r, create_graph=True)
        r, image = self._probe
        if not image.requires_grad:
            return torch.zeros_like(self.value)
        return _gradient(image, r, u, create_graph=self._recorded)


def _leaf(x: Tensor) -> Tensor:
    """A leaf with the value of x that autograd can record, also if inference mode made x."""
    x = x.detach()
    return (x.clone() if x.is_inference() else x).requires_grad_()


def _gradient(of: Tensor, by: Tensor, along: Tensor, **options: bool) -> Tensor:
    with internal_graph():
        along = along.clone() if along.is_inference() else along
        grads = torch.autograd.grad(
            of, by, along, retain_graph=True, materialize_grads=True, **options
        )
    return grads[0]


@final
class Functional(Derivative):
    """By `torch.func`: for graphs of torch.compile, and inside of other transforms."""

    def __init__(self, c: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self.value, self._pullback = torch.func.vjp(c, x)  # type: ignore[misc]
        self._push: Any = None

    @override
    def adjoint(self, r: Tensor) -> Tensor:
        gradient: Tensor = self._pullback(r)[0]
        return gradient

    def _adjoints(self, basis: Tensor) -> Tensor:
        gradients: Tensor = torch.vmap(self.adjoint)(basis)
        return gradients

    def apply(self, u: Tensor) -> Tensor:
        """The pull-back of the pull-back."""
        if self._push is None:
            zero = torch.zeros_like(self.value)
            _, self._push = torch.func.vjp(self.adjoint, zero)  # type: ignore[misc]
        product: Tensor = self._push(u)[0]
        return product

"""Stochastic gradient descent on manifolds (Bonnabel 2013; torch's form of momentum)."""

from typing import Any

import torch
from typing_extensions import override

from riemopt import linalg
from riemopt.optim.optimizer import RiemannianOptimizer
from riemopt.optim.stack import Stack
from riemopt.optim.step import Carried, Request, Scalar, Step


def sgd(carried: Carried, *, lr: Scalar, momentum: float, nesterov: bool) -> Step:
    """The step along the momentum; without one, along the gradient.

    With `nesterov` it goes along grad + μ·m. The first momentum is the gradient.
    """
    grad, m = carried.gradient, carried.momentum
    if momentum == 0:
        assert grad is not None
        return Step(grad, -lr)
    if m is None:
        m = grad
    assert m is not None
    u = m
    if nesterov:
        assert grad is not None
        u = linalg.add_scaled(grad, m, momentum)
    return Step(u, -lr, {"momentum_buffer": m}, keeps_nan=True)


class RiemannianSGD(RiemannianOptimizer, torch.optim.SGD):
    """`torch.optim.SGD` whose constrained parameters stay on their manifolds.

    Momentum lives in the tangent space: m ← proj_x(μ·m + (1-τ)·g), the first m being the Riemannian
    gradient; the weight moves by retraction along -lr·m. The arguments, their order and defaults,
    the state and the numbers on unconstrained parameters are torch's.

    Args:
        params: parameters, named parameters, or groups; a group may hold `"manifold": Stiefel()`.
        lr: length of the step per unit of Riemannian gradient.
        momentum: factor μ of the buffer.
        dampening: τ. After a first gradient that is not finite, the next one is damped too.
        weight_decay: coefficient of the gradient of ½‖x‖², projected like any other: it is zero
            on spheres and Stiefel manifolds.
        nesterov: step along grad + μ·m.
        maximize: ascend.
        foreach: False steps constrained parameters one by one; None and True stack small ones of
            equal shape.
        differentiable: let autograd record the step; parameters must not be leaves then.
        fused: torch's fused kernel for the unconstrained parameters; under a GradScaler the
            constrained ones are unscaled, and skipped where it found an infinity.

    Of a sparse gradient (`nn.Embedding(sparse=True)`) the rows alone are stepped, if points are
    rows. Momentum is sparse then, as in torch, and moves all rows that had a gradient before.

    Raises:
        ValueError, TypeError, RuntimeError: as `torch.optim.SGD`; and as `add_param_group`.

    Examples:
        >>> import torch
        >>> from riemopt import ManifoldParameter, RiemannianSGD
        >>> from riemopt.manifolds import Sphere
        >>> A = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
        >>> x = ManifoldParameter(torch.ones(3), Sphere())
        >>> optimizer = RiemannianSGD([x], lr=0.1, momentum=0.5)
        >>> for _ in range(100):
        ...     optimizer.zero_grad()
        ...     (x @ A @ x).backward()
        ...     optimizer.step()
        >>> f"{(x @ A @ x).item():.3f}"  # the smallest eigenvalue
        '1.000'
    """

    tangent_state = ("momentum_buffer",)
    decay_is_decoupled = False
    acts_by_entry = True
    sparse_gradients = "taken"

    @override
    def _request(self, group: dict[str, Any], stack: Stack) -> Request:
        momentum = group["momentum"]
        if momentum == 0 or stack.states[0].get("momentum_buffer") is None:
            return Request(gradient=True)
        return Request(
            stack.load("momentum_buffer"),
            momentum,
            1 - group["dampening"],
            gradient=group["nesterov"],
        )

    @override
    def _rule(self, group: dict[str, Any], stack: Stack, carried: Carried) -> Step:
        return sgd(carried, lr=group["lr"], momentum=group["momentum"], nesterov=group["nesterov"])

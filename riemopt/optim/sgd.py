"""Stochastic gradient descent on manifolds."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import _device_dtype_check_for_fused
from torch.optim.sgd import sgd

from riemopt.distributed import ShardedGeometry
from riemopt.optim import functional, rounds
from riemopt.optim.base import RiemannianOptimizer, Update
from riemopt.optim.rounds import Direction, Rounds
from riemopt.optim.stack import Stack


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

    Raises:
        ValueError, TypeError, RuntimeError: as `torch.optim.SGD`; and as `add_param_group`.
    """

    _saved_options = ("lr", "momentum", "dampening", "weight_decay")

    def _plain_step(self, group: dict[str, Any], params: list[Tensor]) -> None:
        if group["fused"] and getattr(self, "_need_device_dtype_check_for_fused", True):
            _device_dtype_check_for_fused(params[0])
            self._need_device_dtype_check_for_fused = False
        grads = [p.grad for p in params if p.grad is not None]
        momentum = group["momentum"] != 0
        buffers = [self.state[p].get("momentum_buffer") for p in params] if momentum else []
        sgd(
            params,
            grads,
            buffers,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            has_sparse_grad=any(g.is_sparse for g in grads),
            foreach=group["foreach"],
            fused=group["fused"],
            grad_scale=getattr(self, "grad_scale", None),
            found_inf=getattr(self, "found_inf", None),
        )
        if momentum:
            for p, buffer in zip(params, buffers, strict=True):
                self.state[p]["momentum_buffer"] = buffer

    def _update(self, group: dict[str, Any], stack: Stack) -> Update:
        x, g = stack.points(), stack.gradients(getattr(self, "grad_scale", None))
        manifold = stack.manifold.linearised_at(x)
        u, t, m = functional.sgd(
            manifold,
            x,
            g,
            _buffer(stack),
            weight_decay=group["weight_decay"],
            **_options(group),
        )
        return Update(manifold, x, u, t, _new_state(group, stack, m))

    def _split_update(
        self, group: dict[str, Any], stack: Stack, parts: ShardedGeometry
    ) -> Rounds[tuple[Direction, dict[str, Any]]]:
        x, g = stack.points(), stack.gradients(getattr(self, "grad_scale", None))
        direction, m = yield from rounds.sgd(
            parts, x, g, _buffer(stack), skip=self._skip(x.device), **_options(group)
        )
        return direction, _new_state(group, stack, m)


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {key: group[key] for key in ("lr", "momentum", "dampening", "nesterov", "maximize")}


def _buffer(stack: Stack) -> Tensor | None:
    first = stack.states[0].get("momentum_buffer") is None
    return None if first else stack.load("momentum_buffer")


def _new_state(group: dict[str, Any], stack: Stack, m: Tensor | None) -> dict[str, Any]:
    if m is None or group["momentum"] == 0:
        return {}
    if stack.states[0].get("momentum_buffer") is None:
        for p, state in zip(stack.params, stack.states, strict=True):
            state["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.contiguous_format)
    return {"momentum_buffer": m}

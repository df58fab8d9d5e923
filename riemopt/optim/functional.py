"""One step of each algorithm, as pure functions on a stack of points.

A stack is a tensor `(K, *shape)`: K parameters of one shape, dtype and device on one manifold. The
functions return the tangent step to take and the new state; `move` takes it. They write nothing,
read nothing on the host and know no manifold by name.

Letters: `x` points, `g` Euclidean gradients, `m` first moments (tangent at x, or at the previous
point), `v` second moments, `u` the tangent step.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from riemopt.manifolds import Manifold

Scalar = float | Tensor


def _momentum(
    manifold: Manifold, x: Tensor, m: Tensor, g: Tensor, decay: Scalar, weight: Scalar
) -> Tensor:
    """Decay·transport(m) + weight·grad, tangent at x.

    In the ambient metric one projection both carries the old buffer and projects the gradient.
    """
    if manifold.has_ambient_metric:
        return manifold.proj_tangent(x, decay * m + weight * g)
    return decay * manifold.proj_tangent(x, m) + weight * manifold.egrad2rgrad(x, g)


def _ascent(
    manifold: Manifold, x: Tensor, g: Tensor, weight_decay: Scalar, maximize: bool
) -> Tensor:
    """The Euclidean gradient with torch's sign convention and coupled weight decay."""
    g = -g if maximize else g
    if weight_decay != 0 and not manifold.has_constant_norm:
        g = g + weight_decay * x
    return g


def sgd(
    manifold: Manifold,
    x: Tensor,
    g: Tensor,
    m: Tensor | None,
    *,
    lr: Scalar,
    momentum: float,
    dampening: float,
    weight_decay: Scalar,
    nesterov: bool,
    maximize: bool,
) -> tuple[Tensor, Tensor | None]:
    """Riemannian gradient descent with momentum (Bonnabel 2013; torch's form of momentum).

    m ← proj_x(μ·m + (1-τ)·g), the first m being the Riemannian gradient, and u = -lr·m; with
    `nesterov` u = -lr·(grad + μ·m); without momentum u = -lr·grad.

    Returns:
        The step `u` and the new `m` (None without momentum).
    """
    g = _ascent(manifold, x, g, weight_decay, maximize)
    if momentum == 0:
        return -lr * manifold.egrad2rgrad(x, g), m
    if m is None:
        m = manifold.egrad2rgrad(x, g)
    else:
        m = _momentum(manifold, x, m, g, momentum, 1 - dampening)
    direction = manifold.egrad2rgrad(x, g) + momentum * m if nesterov else m
    return -lr * direction, m


class AdamState(NamedTuple):
    """Moments of a stack of K points, and how many steps each has taken."""

    step: Tensor
    """(K,): steps taken, before this one on entry and after it on return."""
    m: Tensor
    v: Tensor
    """Like the points, or with event dimensions of size 1."""
    v_max: Tensor | None


def adam(
    manifold: Manifold,
    x: Tensor,
    g: Tensor,
    state: AdamState,
    *,
    lr: Scalar,
    beta1: Scalar,
    beta2: Scalar,
    eps: float,
    weight_decay: Scalar,
    decoupled_weight_decay: bool,
    amsgrad: bool,
    maximize: bool,
    elementwise: bool,
) -> tuple[Tensor, AdamState]:
    """Adam on a manifold (Kingma & Ba 2015; Bécigneul & Ganea 2019).

    m ← β₁·proj_x(m) + (1-β₁)·grad and v ← β₂·v + (1-β₂)·mean |grad|² over the real entries of each
    point, in the manifold's metric, so that m/√v is tangent and a step is as long as torch's Adam
    makes it at the same `lr`. With `elementwise`, v is torch's, and m/√v is projected again.
    Decoupled weight decay is the gradient of ½‖x‖², projected.

    Returns:
        The step `u` and the new state.
    """
    coupled = 0.0 if decoupled_weight_decay else weight_decay
    grad = manifold.egrad2rgrad(x, _ascent(manifold, x, g, coupled, maximize))
    m = beta1 * manifold.proj_tangent(x, state.m) + (1 - beta1) * grad
    square = _squares(grad) if elementwise else _mean_square(manifold, x, grad)
    v = beta2 * state.v + (1 - beta2) * square
    v_max = torch.maximum(state.v_max, v) if amsgrad and state.v_max is not None else state.v_max

    step = state.step + 1
    t = step.to(x.real.dtype)
    largest = v_max if amsgrad and v_max is not None else v
    denominator = (largest / _along(1 - beta2**t, largest)).sqrt() + eps
    direction = _divide(m / _along(1 - beta1**t, m), denominator)
    if elementwise and not manifold.is_linear:
        direction = manifold.proj_tangent(x, direction)
    if decoupled_weight_decay and weight_decay != 0 and not manifold.has_constant_norm:
        direction = direction + weight_decay * manifold.proj_tangent(x, x)
    return -lr * direction, AdamState(step, m, v, v_max)


def _along(values: Tensor, stack: Tensor) -> Tensor:
    """One value per member of a stack, shaped to broadcast to it."""
    return values.reshape(-1, *[1] * (stack.ndim - 1))


def _squares(grad: Tensor) -> Tensor:
    """|g|² of each entry; of complex ones, of the two parts by themselves in a last dimension."""
    return torch.view_as_real(grad).square() if grad.is_complex() else grad.square()


def _divide(m: Tensor, denominator: Tensor) -> Tensor:
    if m.is_complex() and denominator.ndim > m.ndim:
        return torch.view_as_complex(torch.view_as_real(m) / denominator)
    return m / denominator


def _mean_square(manifold: Manifold, x: Tensor, grad: Tensor) -> Tensor:
    entries = math.prod([x.shape[d] for d in manifold.event_dims(x.ndim)])
    entries *= 2 if x.is_complex() else 1
    return manifold.inner(x, grad, grad, keepdim=True) / entries


def move(
    manifold: Manifold, x: Tensor, u: Tensor, skip: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Retract along `u`; a parameter whose step is zero keeps every bit, as does a refused one.

    Args:
        manifold: where `x` lies.
        x: the stack of points.
        u: their tangent steps.
        skip: a 0-dimensional boolean: refuse the whole stack.

    Returns:
        The new points and `(K,)` booleans: whether each parameter's step was finite and taken.
    """
    length = u.abs().flatten(1).amax(1) if u.numel() else u.new_zeros(len(u), dtype=u.real.dtype)
    accepted = length.isfinite()
    if skip is not None:
        accepted = accepted & ~skip
    moved = _along(accepted & (length > 0), x)
    return torch.where(moved, manifold.retract(x, u), x), accepted

"""One step of each algorithm, as pure functions on a stack of points.

A stack is a tensor `(K, *shape)`: K parameters of one shape, dtype and device on one manifold. The
functions return the tangent step to take, as a direction and a factor, and the new state; `accept`
says which members may take theirs, and `move` takes it. They write nothing and know no manifold by
name. Nothing is read on the host, except where that is free (`linalg.host_readable`).

Letters: `x` points, `g` Euclidean gradients, `m` first moments (tangent at x, or at the previous
point), `v` second moments, `u` a tangent direction, `t` the factor.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from riemopt import linalg
from riemopt.linalg import largest_entries as largest_entries
from riemopt.manifolds import Manifold

Scalar = float | Tensor


def ascent(
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
) -> tuple[Tensor, Scalar, Tensor | None]:
    """Riemannian gradient descent with momentum (Bonnabel 2013; torch's form of momentum).

    m ← proj_x(μ·m + (1-τ)·g), the first m being the Riemannian gradient. The step goes along m;
    with `nesterov` along grad + μ·m; without momentum along grad.

    Returns:
        The direction, the factor -lr, and the new `m` (None without momentum).
    """
    g = ascent(manifold, x, g, weight_decay, maximize)
    if momentum == 0:
        return manifold.egrad2rgrad(x, g), -lr, m
    if m is None:
        m = manifold.egrad2rgrad(x, g)
    else:
        m = manifold.carry(x, m, g, momentum, 1 - dampening)
    u = linalg.add_scaled(manifold.egrad2rgrad(x, g), m, momentum) if nesterov else m
    return u, -lr, m


class AdamState(NamedTuple):
    """Moments of a stack of K points, and how many steps each has taken.

    On return, what is one number for the whole stack may be a Python number.
    """

    step: Any
    """(K,): steps taken, before this one on entry and after it on return."""
    m: Tensor
    v: Any
    """Like the points, or with event dimensions of size 1."""
    v_max: Any


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
) -> tuple[Tensor, Scalar, AdamState]:
    """Adam on a manifold (Kingma & Ba 2015; Bécigneul & Ganea 2019).

    m ← β₁·proj_x(m) + (1-β₁)·grad and v ← β₂·v + (1-β₂)·mean |grad|² over the real entries of each
    point, in the manifold's metric, so that m/√v is tangent and a step is as long as torch's Adam
    makes it at the same `lr`. With `elementwise`, v is torch's, and m/√v is projected again.
    Decoupled weight decay is the gradient of ½‖x‖², projected.

    Returns:
        The direction, the factor of each member, and the new state.
    """
    coupled = 0.0 if decoupled_weight_decay else weight_decay
    g = ascent(manifold, x, g, coupled, maximize)
    square: Any
    if elementwise:
        grad = manifold.egrad2rgrad(x, g)
        # A linear subspace carries vectors as they are, and m was in it before.
        carried = (
            state.m if manifold.allows_elementwise_scaling else manifold.proj_tangent(x, state.m)
        )
        m, square = linalg.average(grad, carried, beta1), squares(grad)
        del grad, carried
    else:
        m, square = manifold.carry_mean(x, state.m, g, beta1)
        square = square / _entries(manifold, x)
    scale = adam_scale(
        state,
        square,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        amsgrad=amsgrad,
        elementwise=elementwise,
    )
    if elementwise:
        u, length = divide(m, scale.denominator), scale.length
        if not manifold.allows_elementwise_scaling:
            u = manifold.proj_tangent(x, u)
    else:
        u, length = m, scale.quotient()
    if decoupled_weight_decay and weight_decay != 0 and not manifold.has_constant_norm:
        u, length = length * u - lr * weight_decay * manifold.proj_tangent(x, x), 1.0
    return u, length, AdamState(scale.step, m, scale.v, scale.v_max)


class AdamScale(NamedTuple):
    """How long Adam's step is, and the state that says so. Tensors, or Python numbers."""

    length: Any
    """-lr/(1 - β₁ᵗ), one for each member or for all."""
    denominator: Any
    """√(v/(1 - β₂ᵗ)) + eps, like v; `divide` may overwrite it."""
    step: Any
    v: Any
    v_max: Any

    def quotient(self) -> Any:
        """length/denominator, NaN for 0/0 of numbers as for tensors."""
        if isinstance(self.denominator, Tensor) or self.denominator:
            return self.length / self.denominator
        return math.nan


def adam_scale(
    state: AdamState,
    square: Tensor,
    *,
    lr: Scalar,
    beta1: Scalar,
    beta2: Scalar,
    eps: float,
    amsgrad: bool,
    elementwise: bool,
) -> AdamScale:
    """Take `square`, the mean or elementwise |grad|², into v, and find the length of the step.

    `square` may be overwritten.
    """
    step, old, v_max = state.step, state.v, state.v_max
    mean: Any = square
    # A dozen operators on single numbers on a CPU cost more than the step of a small point.
    if step.numel() == 1 and _are_read_for_free(step):
        step = step.item()
        if not elementwise and square.numel() == 1 and _are_read_for_free(square, old, v_max):
            mean, old, v_max = (None if n is None else n.item() for n in (square, old, v_max))
    v = linalg.average(mean, old, beta2, overwrite=True)
    if amsgrad and v_max is not None:
        v_max = torch.maximum(v_max, v) if isinstance(v, Tensor) else max(v_max, v)
    step = step + 1
    t = step.to(state.m.real.dtype) if isinstance(step, Tensor) else step
    largest = v_max if amsgrad and v_max is not None else v
    denominator = _root_plus(largest / _along(1 - beta2**t, largest), eps)
    return AdamScale(-lr / _along(1 - beta1**t, state.m), denominator, step, v, v_max)


def _are_read_for_free(*numbers: Tensor | None) -> bool:
    known = [n for n in numbers if n is not None]
    return not torch.is_grad_enabled() and all(map(linalg.host_readable, known))


def _root_plus(a: Any, eps: float) -> Any:
    """√a + eps of a number, or of a tensor that may be overwritten if autograd does not look on."""
    if not isinstance(a, Tensor):
        return (math.sqrt(a) if a >= 0 else math.nan) + eps
    return a.sqrt() + eps if torch.is_grad_enabled() else a.sqrt_().add_(eps)


def _along(values: Scalar, stack: Tensor) -> Any:
    """One value per member of a stack, shaped to broadcast to it; a number is for all."""
    if not isinstance(values, Tensor) or values.ndim == 0:
        return values
    return values.reshape(-1, *[1] * (stack.ndim - 1))


def squares(grad: Tensor) -> Tensor:
    """|g|² of each entry; of complex ones, of the two parts by themselves in a last dimension."""
    return torch.view_as_real(grad).square() if grad.is_complex() else grad.square()


def divide(m: Tensor, denominator: Tensor) -> Tensor:
    """m/denominator, in the memory of the denominator where that can be."""
    if m.is_complex() and denominator.ndim > m.ndim:
        return torch.view_as_complex(torch.view_as_real(m) / denominator)
    if linalg.host_readable(denominator) and not torch.is_grad_enabled():
        return torch.div(m, denominator, out=denominator)
    return m / denominator


def _entries(manifold: Manifold, x: Tensor) -> int:
    """Real numbers in one point."""
    entries = 2 if x.is_complex() else 1
    for d in manifold.event_dims(x.ndim):
        entries *= x.shape[d]
    return entries


class Acceptance(NamedTuple):
    """Which members of a stack take their step, as `(K,)` booleans."""

    accepted: Tensor
    """The step is finite, and no GradScaler objects: the state may change."""
    moved: Tensor
    """And it is not zero: the point may change."""


def accept(u: Tensor, t: Scalar, skip: Tensor | None = None) -> Acceptance | None:
    """Look at the steps t·u of a stack; None where the host knows that all are to be taken.

    Args:
        u: tangent directions `(K, *shape)`.
        t: factor, a number or broadcasting to `u`.
        skip: a 0-dimensional boolean: refuse the whole stack.
    """
    if skip is None and linalg.host_readable(u) and _all_taken(u, t):
        return None
    return judge(largest_entries(u), t, skip)


def judge(largest: Tensor, t: Scalar, skip: Tensor | None, limit: float = math.inf) -> Acceptance:
    """Which steps to take where `largest`, `(K,)`, bounds the entries of each direction.

    Refused is a step that may have an entry of `limit` or more, or one that is not a number.
    """
    if not isinstance(t, Tensor) or t.ndim == 0:
        sizes = (largest * t).abs()
    elif t.numel() == 0:
        sizes = largest
    else:  # one factor for each point
        sizes = (largest.reshape(-1, *[1] * (t.ndim - 1)) * t).abs().flatten(1).amax(1)
    accepted = sizes < limit
    if skip is not None:
        accepted = accepted & ~skip
    return Acceptance(accepted, accepted & (sizes > 0))


def _all_taken(u: Tensor, t: Scalar) -> bool:
    """Whether each member's step is seen to be finite and not zero, read on the host."""
    if u.numel() == 0:
        return False
    if len(u) == 1 and not u.is_complex():
        smallest = largest = max(u.amax().item(), -u.amin().item())
    else:
        sizes = largest_entries(u)
        smallest, largest = sizes.amin().item(), sizes.amax().item()
    if isinstance(t, Tensor):
        low, high = (t.amin().item(), t.amax().item()) if t.numel() > 1 else (t.item(), t.item())
    else:
        low = high = t
    least = low if low > 0 else -high  # where all factors have one sign
    numbers = torch.finfo(u.dtype)
    return smallest * least > numbers.tiny and largest * max(high, -low) < numbers.max


def move(
    manifold: Manifold, x: Tensor, u: Tensor, t: Scalar, acceptance: Acceptance | None
) -> tuple[Tensor, Tensor | None]:
    """Retract along t·u; a member whose step is zero keeps every bit, as does a refused one.

    Returns:
        The points, and how many of a step that was to be taken took only a part of it; None where
        the manifold takes any step whole.
    """
    y, taken = manifold.curve_with_fraction(x, u, t)
    shortened = None if taken is None else taken < 1
    if acceptance is not None:
        y = select(acceptance.moved, y, x)
        if shortened is not None:
            shortened = shortened & _along(acceptance.moved, shortened)
    return y, None if shortened is None else shortened.sum()


def select(chosen: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` for the chosen members of a stack, `old` for the others."""
    return torch.where(_along(chosen, old), new.view_as(old), old)

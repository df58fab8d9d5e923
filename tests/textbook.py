"""The optimizers as the literature writes them: one point, one loop, a formula a line.

Each function is a generator: it is given a starting point `x` and the Euclidean gradients of its
steps, and yields the point after each step. Nothing here is shared with the package except the
geometry (`proj_tangent`, `egrad2rgrad`, `inner`, `retract`): no stacks, no state, no options of
speed. Where the letters are not torch's they are those of the paper.
"""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from riemopt.manifolds import Manifold

Points = Iterator[Tensor]


def riemannian_gradient(
    manifold: Manifold, x: Tensor, g: Tensor, weight_decay: float, maximize: bool
) -> Tensor:
    """Of f + ½·wd·‖x‖², or of -f + ½·wd·‖x‖² to ascend; decay is a gradient like any other."""
    return manifold.egrad2rgrad(x, (-g if maximize else g) + weight_decay * x)


def sgd(
    manifold: Manifold,
    x: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> Points:
    """Bonnabel (2013, eq. 2); momentum as Sutskever et al. (2013) in the form of torch.optim.SGD.

    m₁ = g₁, mₜ = μ·P(mₜ₋₁) + (1-τ)·gₜ, P the projection to the tangent space at xₜ;
    xₜ₊₁ = R(-lr·mₜ), of Nesterov R(-lr·(gₜ + μ·mₜ)).
    """
    m = None
    for g in gradients:
        grad = riemannian_gradient(manifold, x, g, weight_decay, maximize)
        first = m is None or momentum == 0
        m = grad if first else momentum * manifold.proj_tangent(x, m) + (1 - dampening) * grad
        u = grad + momentum * m if nesterov else m
        x = manifold.retract(x, -lr * u)
        yield x


def adam(
    manifold: Manifold,
    x: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
    second_moment: str = "tangent",
) -> Points:
    """Kingma & Ba (2015, algorithm 1); on manifolds Bécigneul & Ganea (2019, algorithm 1).

    mₜ = β₁·mₜ₋₁ + (1-β₁)·gₜ, vₜ = β₂·vₜ₋₁ + (1-β₂)·gₜ², with mₜ₋₁ projected to the tangent space at
    xₜ unless `second_moment` is "tangent"; of "point" gₜ² is the mean ‖gₜ‖²/n over the n entries of
    the point (on a linear manifold each entry's own). "tangent" is "point" where the manifold
    `distorts_lengths`. AMSGrad (Reddi et al. 2018, algorithm 2)
    divides by the largest v so far. u = -lr·m̂/(√v̂ + eps), m̂ = m/(1-β₁ᵗ), v̂ = v/(1-β₂ᵗ); decoupled
    decay (Loshchilov & Hutter 2019, algorithm 2) adds -lr·wd·x. xₜ₊₁ = R(P(u)).
    """
    beta1, beta2 = betas
    coupled = 0.0 if decoupled_weight_decay else weight_decay
    if second_moment == "tangent" and manifold.distorts_lengths:
        second_moment = "point"
    by_point = second_moment == "point" and not manifold.allows_elementwise_scaling
    m = v = largest = torch.zeros_like(x)
    for t, g in enumerate(gradients, start=1):
        grad = riemannian_gradient(manifold, x, g, coupled, maximize)
        if second_moment != "tangent":
            m = manifold.proj_tangent(x, m)
        m = beta1 * m + (1 - beta1) * grad
        square = manifold.inner(x, grad, grad) / x.numel() if by_point else grad * grad
        v = beta2 * v + (1 - beta2) * square
        largest = torch.maximum(largest, v) if amsgrad else v
        m_hat, v_hat = m / (1 - beta1**t), largest / (1 - beta2**t)
        u = -lr * m_hat / (v_hat.sqrt() + eps)
        if decoupled_weight_decay:
            u = u - lr * weight_decay * x
        x = manifold.retract(x, manifold.proj_tangent(x, u))
        yield x


def rmsprop(
    manifold: Manifold,
    x: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    maximize: bool = False,
) -> Points:
    """torch.optim.RMSprop (Hinton 2012, lecture 6e; centered: Graves 2013, eq. 38-45).

    v = α·v + (1-α)·g², ḡ = α·ḡ + (1-α)·g; ṽ = v - ḡ² if centered, else v; b = μ·b + g/(√ṽ + eps);
    xₜ₊₁ = R(P(-lr·b)).
    """
    v, mean, b = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
    for g in gradients:
        grad = riemannian_gradient(manifold, x, g, weight_decay, maximize)
        v = alpha * v + (1 - alpha) * grad**2
        mean = alpha * mean + (1 - alpha) * grad
        variance = v - mean**2 if centered else v
        b = momentum * b + grad / (variance.sqrt() + eps)
        x = manifold.retract(x, manifold.proj_tangent(x, -lr * b))
        yield x


def adagrad(
    manifold: Manifold,
    x: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
    maximize: bool = False,
) -> Points:
    """torch.optim.Adagrad (Duchi, Hazan & Singer 2011, figure 1, diagonal).

    s = s + g²; xₜ₊₁ = R(P(-lr/(1 + (t-1)·η)·g/(√s + eps))).
    """
    s = torch.full_like(x, initial_accumulator_value)
    for t, g in enumerate(gradients, start=1):
        grad = riemannian_gradient(manifold, x, g, weight_decay, maximize)
        s = s + grad**2
        rate = lr / (1 + (t - 1) * lr_decay)
        x = manifold.retract(x, manifold.proj_tangent(x, -rate * grad / (s.sqrt() + eps)))
        yield x


def nadam(
    manifold: Manifold,
    x: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
) -> Points:
    """torch.optim.NAdam (Dozat 2016, algorithm 2, with the decay schedule of its section 3).

    μₜ = β₁·(1 - ½·0.96^(t·ψ)), m = β₁·m + (1-β₁)·g, v = β₂·v + (1-β₂)·g²,
    m̂ = μₜ₊₁·m/(1 - Π₁ᵗ⁺¹μ) + (1-μₜ)·g/(1 - Π₁ᵗμ); xₜ₊₁ = R(P(-lr·m̂/(√v̂ + eps))), with -lr·wd·x
    besides if decay is decoupled.
    """
    beta1, beta2 = betas
    coupled = 0.0 if decoupled_weight_decay else weight_decay
    m, v = torch.zeros_like(x), torch.zeros_like(x)

    def mu(t: int) -> float:
        return beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))

    for t, g in enumerate(gradients, start=1):
        grad = riemannian_gradient(manifold, x, g, coupled, maximize)
        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        so_far = math.prod(mu(i) for i in range(1, t + 1))
        m_hat = mu(t + 1) * m / (1 - so_far * mu(t + 1)) + (1 - mu(t)) * grad / (1 - so_far)
        u = -lr * m_hat / ((v / (1 - beta2**t)).sqrt() + eps)
        if decoupled_weight_decay:
            u = u - lr * weight_decay * x
        x = manifold.retract(x, manifold.proj_tangent(x, u))
        yield x


def sign_momentum(
    manifold: Manifold,
    x: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    beta: float = 0.9,
) -> Points:
    """Signum (Bernstein et al. 2018, algorithm 2).

    m = β·P(m) + (1-β)·g; xₜ₊₁ = R(P(-lr·sign m)).
    """
    m = torch.zeros_like(x)
    for g in gradients:
        grad = riemannian_gradient(manifold, x, g, 0.0, False)
        m = beta * manifold.proj_tangent(x, m) + (1 - beta) * grad
        x = manifold.retract(x, manifold.proj_tangent(x, -lr * m.sign()))
        yield x


def by_point(
    textbook, manifold: Manifold, x: Tensor, gradients: list[Tensor], **options: object
) -> list[Tensor]:
    """The values of a weight after each step, each of its points treated by itself.

    A point is the last `event_ndim` dimensions here.
    """
    event = x.shape[x.ndim - manifold.event_ndim :]
    rows = [a.reshape(-1, *event).unbind() for a in (x, *gradients)]
    paths = [
        list(textbook(manifold, start, grads, **options))
        for start, *grads in zip(*rows, strict=True)
    ]
    return [torch.stack(points).view_as(x) for points in zip(*paths, strict=True)]

"""The metric, the gradient that it makes, and transport."""

import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from riemopt.testing.law import Residual, equality, joined, law, need, rounding
from riemopt.testing.sampling import (
    ambient,
    batch_shape,
    direction,
    event_dims_kept,
    length,
    real_inner,
    size,
    tangent,
)
from riemopt.testing.slopes import Curve, measure


@law(
    "⟨u, v⟩ is real, symmetric, bilinear and positive, one number for each point",
    "Is the sum over the dimensions of one point alone, and its real part taken?",
)
def inner_is_an_inner_product(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """Of tangents."""
    u, v, w = (tangent(manifold, x, gen) for _ in range(3))
    uv = manifold.inner(x, u, v)
    need(tuple(uv.shape) == batch_shape(manifold, x), f"inner has shape {tuple(uv.shape)}")
    need(uv.dtype == x.real.dtype, f"inner has dtype {uv.dtype}")
    uu, vv, wv = (manifold.inner(x, a, b) for a, b in ((u, u), (v, v), (w, v)))
    trivial = length(manifold, u) == 0
    need(bool(((uu > 0) | trivial).all()), "⟨u, u⟩ is not positive")
    scale = uu.sqrt() * vv.sqrt()  # Cauchy–Schwarz
    both = scale + (manifold.inner(x, w, w) * vv).sqrt()
    return joined(
        rounding((uv - manifold.inner(x, v, u)).abs(), scale, x.dtype),
        rounding((manifold.inner(x, u + w, v) - uv - wv).abs(), both, x.dtype),
        rounding((manifold.inner(x, -0.5 * u, v) + 0.5 * uv).abs(), scale, x.dtype),
    )


@law("‖u‖² = ⟨u, u⟩, and keepdim keeps dimensions of size 1", "Is `norm` that of the metric?")
def norm_agrees_with_inner(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """And both broadcast to `x` with `keepdim`."""
    u, v = tangent(manifold, x, gen), tangent(manifold, x, gen)
    norm, squared = manifold.norm(x, u), manifold.inner(x, u, u)
    kept, batch = event_dims_kept(manifold, x), batch_shape(manifold, x)
    need(tuple(norm.shape) == batch, f"norm has shape {tuple(norm.shape)}, needed {batch}")
    pairs = (
        (manifold.norm(x, u, keepdim=True), norm),
        (manifold.inner(x, u, v, keepdim=True), manifold.inner(x, u, v)),
    )
    for wide, flat in pairs:
        need(tuple(wide.shape) == kept, f"keepdim gives {tuple(wide.shape)}, needed {kept}")
        need(torch.equal(wide.flatten(), flat.flatten()), "keepdim changes a value")
    return rounding((norm**2 - squared).abs(), squared, x.dtype)


@law(
    "⟨egrad2rgrad(g), u⟩ = Re⟨g, u⟩ for tangent u",
    "Is the gradient converted to the metric of `inner`? If the metric is the ambient one, it is "
    "`proj_tangent`; if not, the metric's inverse comes in.",
)
def gradient_represents_the_differential(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """And the gradient is tangent."""
    g, u = ambient(x, gen), tangent(manifold, x, gen)
    gradient = manifold.egrad2rgrad(x, g)
    difference = manifold.inner(x, gradient, u) - real_inner(manifold, g, u)
    scale = length(manifold, g) + manifold.norm(x, gradient) * manifold.norm(x, u)
    return joined(
        rounding(difference.abs(), scale, x.dtype),
        equality(manifold, manifold.proj_tangent(x, gradient), gradient, length(manifold, g)),
    )


@law(
    "transport(x, y, v) is tangent at y, linear in v, and v for y = x",
    "Is the vector projected at y, not at x?",
)
def transport_is_tangent(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """To rounding."""
    u, v, w = (tangent(manifold, x, gen) for _ in range(3))
    y = manifold.retract(x, u)
    carried, other = manifold.transport(x, y, v), manifold.transport(x, y, w)
    both = manifold.transport(x, y, v + w)
    long = length(manifold, v)
    return joined(
        equality(manifold, manifold.proj_tangent(y, carried), carried, long),
        equality(manifold, manifold.transport(x, x, v), v, long),
        equality(manifold, both, carried + other, long + length(manifold, w)),
    )


@law(
    "‖transport(x, R(x, tu), v) - v‖ = O(t)",
    "The carried vector does not go to v as t → 0: has it the right sign and length?",
)
def transport_is_continuous(manifold: Manifold, x: Tensor, gen: Generator) -> Curve:
    """Double."""
    u, v = direction(manifold, x, gen), direction(manifold, x, gen)

    def error(t: float) -> float:
        y = manifold.retract(x, t * u)
        return float(torch.linalg.vector_norm(manifold.transport(x, y, v) - v))

    return measure(error, 1, size(v))


@law(
    "carry_mean(x, m, g, β) = β·transport(m) + (1 - β)·grad, and ‖grad‖²",
    "`carry_mean` is overridden: does it carry m to x, and is its second value in the metric?",
)
def carried_mean_is_its_definition(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """The generic formula is the oracle."""
    m = tangent(manifold, manifold.retract(x, tangent(manifold, x, gen, 0.1)), gen)
    g = ambient(x, gen)
    mean, squared = manifold.carry_mean(x, m, g, 0.9)
    expected, norm2 = Manifold.carry_mean(manifold, x, m, g, 0.9)
    need(
        squared.shape == norm2.shape,
        f"‖grad‖² has shape {tuple(squared.shape)}, needed {tuple(norm2.shape)}",
    )
    scale = length(manifold, g) + length(manifold, m) + length(manifold, expected)
    squares = length(manifold, g, keepdim=True) ** 2 + norm2
    return joined(
        equality(manifold, mean, expected, scale),
        rounding((squared - norm2).abs(), squares, x.dtype),
    )


@law(
    "carry(x, m, g, μ, w) = μ·proj_tangent(x, m) + w·egrad2rgrad(x, g)",
    "`carry` is overridden: does it project m at x, and convert the gradient to the metric?",
)
def carried_momentum_is_its_definition(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """The two parts by themselves are the oracle."""
    m = tangent(manifold, manifold.retract(x, tangent(manifold, x, gen, 0.1)), gen)
    g = ambient(x, gen)
    expected = 0.9 * manifold.proj_tangent(x, m) + 0.5 * manifold.egrad2rgrad(x, g)
    scale = length(manifold, g) + length(manifold, m) + length(manifold, expected)
    return equality(manifold, manifold.carry(x, m, g, 0.9, 0.5), expected, scale)


TRANSPORT = (transport_is_tangent, transport_is_continuous)
METRIC = (
    inner_is_an_inner_product,
    norm_agrees_with_inner,
    gradient_represents_the_differential,
)

"""The metric, the gradient that it makes, and transport."""

import torch
from hypothesis import given
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from tests.bounds import assert_close, length, rounding, wide
from tests.laws import ambient, batch_shape, event_dims_kept, tangent
from tests.manifold_cases import first_of_its_metric, generator, over, point, seeds
from tests.slopes import assert_order


def law_inner_is_an_inner_product(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """Real, of the batch's shape, symmetric, bilinear, positive."""
    u, v, w = (tangent(manifold, x, gen) for _ in range(3))
    uv = manifold.inner(x, u, v)
    assert uv.shape == batch_shape(manifold, x)
    assert uv.dtype == x.real.dtype
    bound = rounding(manifold, x)
    assert bool(((uv - manifold.inner(x, v, u)).abs() <= bound).all())
    sum_first = manifold.inner(x, u + w, v)
    assert bool(((sum_first - uv - manifold.inner(x, w, v)).abs() <= 4 * bound).all())
    # Both metrics of the package lie between half the ambient one and the ambient one.
    squared = manifold.inner(x, u, u)
    assert bool((squared >= length(manifold, u) ** 2 * (0.5 - bound)).all())


def law_norm_agrees_with_inner(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """norm² = ⟨u, u⟩, and `keepdim` only reshapes, so that both broadcast to `x`."""
    u, v = tangent(manifold, x, gen), tangent(manifold, x, gen)
    norm, squared = manifold.norm(x, u), manifold.inner(x, u, u)
    assert norm.shape == batch_shape(manifold, x)
    assert bool(((norm**2 - squared).abs() <= rounding(manifold, x)).all())
    kept = event_dims_kept(manifold, x)
    assert manifold.norm(x, u, keepdim=True).shape == kept
    assert torch.equal(manifold.norm(x, u, keepdim=True).flatten(), norm.flatten())
    inner = manifold.inner(x, u, v, keepdim=True)
    assert inner.shape == kept
    assert torch.equal(inner.flatten(), manifold.inner(x, u, v).flatten())


def law_gradient_represents_the_differential(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """⟨egrad2rgrad(g), u⟩ = Re⟨g, u⟩ for tangent u, and the gradient is tangent."""
    g, u = ambient(x, gen), tangent(manifold, x, gen)
    gradient = manifold.egrad2rgrad(x, g)
    assert_close(manifold, manifold.proj_tangent(x, gradient), gradient, length(manifold, g))
    riemannian = manifold.inner(x, gradient, u)
    plain = (wide(g).conj() * wide(u)).real
    dims = manifold.event_dims(x.ndim)
    differential = plain.sum(dims) if dims else plain
    assert bool(
        ((riemannian - differential).abs() <= rounding(manifold, x) * length(manifold, g)).all()
    )


def law_transport_is_tangent(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """transport(x, y, v) is tangent at y, linear in v, and the identity for y = x."""
    u, v, w = (tangent(manifold, x, gen) for _ in range(3))
    y = manifold.retract(x, u)
    carried = manifold.transport(x, y, v)
    assert_close(manifold, manifold.proj_tangent(y, carried), carried, length(manifold, v))
    assert_close(manifold, manifold.transport(x, x, v), v, length(manifold, v))
    both = manifold.transport(x, y, v + w)
    apart = carried + manifold.transport(x, y, w)
    assert_close(manifold, both, apart, length(manifold, v) + length(manifold, w))


def law_transport_is_continuous(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """transport(x, retract(x, tu), v) = v + O(t). Double."""
    u, v = tangent(manifold, x, gen), tangent(manifold, x, gen)
    assert_order(lambda t: manifold.transport(x, manifold.retract(x, t * u), v) - v, 1)


def law_retract_transport_is_both(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """retract_transport agrees with retract and transport."""
    u, v = tangent(manifold, x, gen), tangent(manifold, x, gen)
    y, carried = manifold.retract_transport(x, u, v)
    assert_close(manifold, y, manifold.retract(x, u), length(manifold, x) + 1)
    assert_close(manifold, carried, manifold.transport(x, y, v), length(manifold, v))


# --- over the cases ---


@over(where=first_of_its_metric)
@given(seed=seeds)
def test_inner_is_an_inner_product(case, shape, dtype, seed):
    law_inner_is_an_inner_product(case.manifold, point(case, shape, dtype), generator(seed))


@over(where=first_of_its_metric)
@given(seed=seeds)
def test_norm_agrees_with_inner(case, shape, dtype, seed):
    law_norm_agrees_with_inner(case.manifold, point(case, shape, dtype), generator(seed))


@over(where=first_of_its_metric)
@given(seed=seeds)
def test_gradient_represents_the_differential(case, shape, dtype, seed):
    law_gradient_represents_the_differential(
        case.manifold, point(case, shape, dtype), generator(seed)
    )


@over(where=first_of_its_metric)
@given(seed=seeds)
def test_transport_is_tangent(case, shape, dtype, seed):
    law_transport_is_tangent(case.manifold, point(case, shape, dtype), generator(seed))


@over()
@given(seed=seeds)
def test_retract_transport_is_both(case, shape, dtype, seed):
    law_retract_transport_is_both(case.manifold, point(case, shape, dtype), generator(seed))


@over(dtypes=[torch.float64], kinds="small")
@given(seed=seeds)
def test_transport_is_continuous(case, shape, dtype, seed):
    law_transport_is_continuous(case.manifold, point(case, shape, dtype), generator(seed))

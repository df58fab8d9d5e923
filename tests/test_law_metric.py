"""The metric, the gradient that it makes, and transport."""

import torch
from hypothesis import given
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from tests.bounds import assert_close, length, rounding, wide
from tests.laws import ambient, batch_shape, event_dims_kept, tangent
from tests.manifold_cases import FULL, first_of_its_metric, generator, over, point, seeds
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


def law_average_is_its_definition(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """decay·transport(m) + (1 - decay)·grad and ‖grad‖², to the accuracy of the gradient.

    Also for a gradient that is a thousand times longer than its tangent part, of which a short cut
    through ‖g‖² would keep no digit. The generic formula in float64 is the oracle.
    """
    bound = rounding(manifold, x)
    m = tangent(manifold, manifold.retract(x, tangent(manifold, x, gen, 0.1)), gen)
    a = ambient(x, gen)
    normal = a - manifold.proj_tangent(x, a)
    long = length(manifold, normal, keepdim=True)
    normal = normal / torch.where(long > bound, long, 1).to(x.real.dtype)
    v = tangent(manifold, x, gen)
    for g in (a, v + 1e3 * normal, v, torch.zeros_like(x)):
        mean, squared = manifold.average(x, m, g, 0.9)
        expected, norm2 = Manifold.average(manifold, wide(x), wide(m), wide(g), 0.9)
        assert_close(manifold, mean, expected, length(manifold, g) + length(manifold, m))
        assert squared.shape == norm2.shape == event_dims_kept(manifold, x)
        size = length(manifold, g, keepdim=True)
        close = bound * size * (bound * size + norm2.sqrt())
        # Where the tangent part is seen in ‖g‖², digits in which it is small may be given up.
        allowed = torch.where(norm2 > 1e-3 * size**2, bound * size**2, 4 * close)
        assert bool(((wide(squared) - norm2).abs() <= allowed).all())


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


@over(dtypes=FULL, where=first_of_its_metric)
@given(seed=seeds)
def test_average_is_its_definition(case, shape, dtype, seed):
    law_average_is_its_definition(case.manifold, point(case, shape, dtype), generator(seed))


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

"""The metric, the gradient that it makes, and transport."""

import torch
from torch import Generator, Tensor

from riemopt.manifolds import FixedRankFactors, Lorentz, Manifold
from riemopt.testing.metrics import (
    carried_momentum_is_its_definition,
    gradient_represents_the_differential,
    inner_is_an_inner_product,
    norm_agrees_with_inner,
    transport_is_continuous,
    transport_is_tangent,
)
from tests.bounds import assert_close, length, rounding, wide
from tests.laws import ambient, assert_law, event_dims_kept, tangent
from tests.manifold_cases import FULL, first_of_its_metric, for_seeds, generator, over, point


def law_inner_is_an_inner_product(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """Real, of the batch's shape, symmetric, bilinear, positive."""
    assert_law(inner_is_an_inner_product, manifold, x, gen)
    if manifold.margin or isinstance(manifold, FixedRankFactors):
        return  # of open sets, where metrics are of any size
    # The others of the package are at least half the ambient one, but on the hyperboloid.
    u = tangent(manifold, x, gen)
    least = length(manifold, u) ** 2 * (0.5 - rounding(manifold, x))
    if isinstance(manifold, Lorentz):  # along (sinh r, cosh r·n), whose length is 1
        least = 2 * least / (manifold.c * length(manifold, x) ** 2)
    assert bool((manifold.inner(x, u, u) >= least).all())


def law_carried_mean_is_its_definition(manifold: Manifold, x: Tensor, gen: Generator) -> None:
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
        mean, squared = manifold.carry_mean(x, m, g, 0.9)
        expected, norm2 = Manifold.carry_mean(manifold, wide(x), wide(m), wide(g), 0.9)
        assert_close(manifold, mean, expected, length(manifold, g) + length(manifold, m))
        assert squared.shape == norm2.shape == event_dims_kept(manifold, x)
        size = length(manifold, g, keepdim=True)
        close = bound * size * (bound * size + norm2.sqrt())
        # Where the tangent part is seen in ‖g‖², digits in which it is small may be given up.
        # In a metric of its own ‖grad‖ may be longer than ‖g‖, and is found by a factorisation.
        longest = torch.maximum(size**2, norm2) * (4 if manifold.margin else 1)
        allowed = torch.where(norm2 > 1e-3 * size**2, bound * longest, 4 * close)
        assert bool(((wide(squared) - norm2).abs() <= allowed).all())


# --- over the cases ---


@over(where=first_of_its_metric)
@for_seeds
def test_inner_is_an_inner_product(case, shape, dtype, seed):
    law_inner_is_an_inner_product(case.manifold, point(case, shape, dtype), generator(seed))


@over(where=first_of_its_metric)
@for_seeds
def test_norm_agrees_with_inner(case, shape, dtype, seed):
    assert_law(norm_agrees_with_inner, case.manifold, point(case, shape, dtype), generator(seed))


@over(where=first_of_its_metric)
@for_seeds
def test_gradient_represents_the_differential(case, shape, dtype, seed):
    x = point(case, shape, dtype)
    law = gradient_represents_the_differential
    assert_law(law, case.manifold, x, generator(seed), factor=0.5)  # its scale has two terms


@over(dtypes=FULL, where=first_of_its_metric)
@for_seeds
def test_what_is_carried_is_its_definition(case, shape, dtype, seed):
    x = point(case, shape, dtype)
    assert_law(carried_momentum_is_its_definition, case.manifold, x, generator(seed))
    law_carried_mean_is_its_definition(case.manifold, x, generator(seed))


@over(where=first_of_its_metric)
@for_seeds
def test_transport_is_tangent(case, shape, dtype, seed):
    assert_law(transport_is_tangent, case.manifold, point(case, shape, dtype), generator(seed))


@over(dtypes=[torch.float64], kinds="small")
@for_seeds
def test_transport_is_continuous(case, shape, dtype, seed):
    assert_law(transport_is_continuous, case.manifold, point(case, shape, dtype), generator(seed))

"""Hessians, and vectors carried in parallel."""

import pytest
import torch

from riemopt.manifolds import SPD, Manifold, Sphere, Stiefel
from riemopt.manifolds.factors import Factors
from riemopt.testing.hessians import (
    hessian_is_derivative_of_gradient,
    hessian_is_self_adjoint,
    parallel_transport_keeps_inner_products,
)
from tests.laws import assert_law
from tests.manifold_cases import (
    EXACT,
    FULL,
    first_of_its_metric,
    for_seeds,
    generator,
    has_ambient_metric,
    over,
    point,
)


def has_log(case):
    return "log" in case.closed_forms


def carries_in_parallel(case):
    return has_log(case) and case.manifold != SPD() and not isinstance(case.manifold, Factors)


@over(dtypes=EXACT, kinds="small", where=first_of_its_metric)
@for_seeds
def test_hessian(case, shape, dtype, seed):
    x = point(case, shape, dtype, seed)
    assert_law(hessian_is_self_adjoint, case.manifold, x, generator(seed + 1))
    if "exp" in case.closed_forms or has_ambient_metric(case):
        # Others have a test of their own.
        assert_law(hessian_is_derivative_of_gradient, case.manifold, x, generator(seed + 1))


@over(dtypes=FULL, where=carries_in_parallel)
@for_seeds
def test_parallel_transport(case, shape, dtype, seed):
    x = point(case, shape, dtype)
    assert_law(parallel_transport_keeps_inner_products, case.manifold, x, generator(seed))


@over(dtypes=[torch.float64], kinds="small", where=has_log)
def test_geodesic(case, shape, dtype):
    m, x = case.manifold, point(case, shape, dtype)
    u = m.random_tangent(x, generator=generator(1))
    y = m.exp(x, 0.1 * u)
    middle = m.geodesic(x, y, 0.5)
    torch.testing.assert_close(middle, m.exp(x, 0.05 * u))
    torch.testing.assert_close(m.geodesic(x, y, torch.ones(())), y)


@pytest.mark.parametrize("shape", [(4, 4), (5, 2), (2, 5), (3, 4, 2)])
@pytest.mark.parametrize("manifold", [Sphere(), Sphere(dim=0, radius=2.0), Stiefel()], ids=str)
@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_formulas_against_the_default(manifold, shape, dtype):
    """The general formula, by autograd, is an oracle for those written by hand."""
    x = manifold.random_point(*shape, dtype=dtype, generator=generator(0))
    g, h = (torch.randn(shape, dtype=dtype, generator=generator(i)) for i in (1, 2))
    u = manifold.random_tangent(x, generator=generator(3))
    projected = type(
        "Default", (), {"allows_elementwise_scaling": False, "has_ambient_metric": True}
    )
    projected.egrad2rgrad = Manifold.egrad2rgrad
    projected.proj_tangent = staticmethod(manifold.proj_tangent)
    torch.testing.assert_close(
        manifold.ehess2rhess(x, g, h, u), Manifold.ehess2rhess(projected(), x, g, h, u)
    )


def test_a_metric_without_a_formula_says_so():
    class OtherMetric(Sphere):
        ehess2rhess = Manifold.ehess2rhess

        def egrad2rgrad(self, x, g):
            return 2 * self.proj_tangent(x, g)

    x = torch.eye(3)
    with pytest.raises(NotImplementedError, match="no closed-form ehess2rhess"):
        OtherMetric().ehess2rhess(x, x, x, x)

"""Agreement with geoopt 0.5.1 where geoopt is right, in float64; and what it has wrong.

Right: `EuclideanStiefel` (its `retr` is QR), `CanonicalStiefel.egrad2rgrad` and `inner`, its `retr`
(a Cayley transform) along tangents with XᵀU = 0, `Sphere` but for distances near 0 and π.
"""

import pytest
import torch

from riemopt.manifolds import Sphere, Stiefel
from riemopt.testing.metrics import gradient_represents_the_differential
from riemopt.testing.projections import projection_is_idempotent
from riemopt.testing.retractions import retraction_is_first_order
from tests import test_law_geodesics
from tests.laws import assert_law
from tests.manifold_cases import generator

geoopt = pytest.importorskip("geoopt")

SHAPES = pytest.mark.parametrize("shape", [(5, 2), (4, 4), (3, 6, 2)], ids=str)
close = torch.testing.assert_close


def stiefel(shape):
    gen = generator(0)
    x = Stiefel().random_point(*shape, generator=gen, dtype=torch.float64)
    g = torch.randn(shape, generator=gen, dtype=torch.float64)
    u, v = (Stiefel().random_tangent(x, generator=gen) for _ in range(2))
    return x, g, u, v


@SHAPES
def test_euclidean_stiefel(shape):
    theirs, (x, g, u, v) = geoopt.EuclideanStiefel(), stiefel(shape)
    close(Stiefel().proj_tangent(x, g), theirs.proju(x, g))
    close(Stiefel().egrad2rgrad(x, g), theirs.egrad2rgrad(x, g))
    close(Stiefel().project(g), theirs.projx(g))
    close(Stiefel("qr").retract(x, u), theirs.retr(x, u))
    close(Stiefel().inner(x, u, v), theirs.inner(x, u, v))
    y = Stiefel().retract(x, u)
    close(Stiefel().transport(x, y, v), theirs.transp(x, y, v))


@pytest.mark.parametrize("shape", [(5, 2), (4, 4)], ids=str)
def test_euclidean_stiefel_exp(shape):
    """Of one matrix: on a batch geoopt's `expmap` agrees too, but torch's exponential of one
    matrix, which it uses, is off by up to 1e-10."""
    x, _, u, _ = stiefel(shape)
    close(Stiefel().exp(x, u), geoopt.EuclideanStiefel().expmap(x, u), atol=1e-9, rtol=0)


@SHAPES
def test_canonical_stiefel(shape):
    ours, theirs = Stiefel("cayley", "canonical"), geoopt.CanonicalStiefel()
    x, g, u, v = stiefel(shape)
    close(ours.egrad2rgrad(x, g), theirs.egrad2rgrad(x, g))
    close(ours.inner(x, u, v), theirs.inner(x, u, v))
    normal = u - x @ (x.mT @ u)
    close(ours.retract(x, normal), theirs.retr(x, normal))


@pytest.mark.parametrize("shape", [(5,), (3, 4)], ids=str)
def test_sphere(shape):
    ours, theirs, gen = Sphere(), geoopt.Sphere(), generator(0)
    x, y = (ours.random_point(*shape, generator=gen, dtype=torch.float64) for _ in range(2))
    u = ours.random_tangent(x, generator=gen)
    g = torch.randn(shape, generator=gen, dtype=torch.float64)
    close(ours.proj_tangent(x, g), theirs.proju(x, g))
    close(ours.project(g), theirs.projx(g))
    close(ours.retract(x, u), theirs.retr(x, u))
    close(ours.inner(x, u, g), theirs.inner(x, u, g))
    close(ours.exp(x, u), theirs.expmap(x, u))
    close(ours.log(x, y), theirs.logmap(x, y))
    close(ours.dist(x, y), theirs.dist(x, y))
    close(ours.transport(x, y, u), theirs.transp(x, y, u))


# What geoopt has wrong is rejected by the laws: these tests fail when it is put right.


class Theirs:
    """A geoopt manifold behind the names of the contract, for what a law calls."""

    allows_elementwise_scaling, event_ndim = False, 2

    def __init__(self, theirs, ours):
        self.theirs, self.ours = theirs, ours

    def __getattr__(self, name):
        names = {"proj_tangent": "proju", "retract": "retr"}
        own = getattr(self.theirs, names.get(name, name), None)
        return own if own is not None else getattr(self.ours, name)


def test_canonical_proju_is_no_projection():
    x, *_ = stiefel((5, 2))
    canonical = Theirs(geoopt.CanonicalStiefel(), Stiefel(metric="canonical"))
    with pytest.raises(AssertionError):
        assert_law(projection_is_idempotent, canonical, x, generator(1))


def test_canonical_gradient_is_right():
    x, *_ = stiefel((5, 2))
    canonical = Theirs(geoopt.CanonicalStiefel(), Stiefel(metric="canonical"))
    canonical.proj_tangent = Stiefel().proj_tangent
    assert_law(gradient_represents_the_differential, canonical, x, generator(1))


def test_canonical_retr_doubles_the_rotation():
    """Its W = UXᵀ - XUᵀ has WX = U + XXᵀU."""
    x, *_ = stiefel((5, 2))
    canonical = Theirs(geoopt.CanonicalStiefel(), Stiefel(metric="canonical"))
    canonical.proj_tangent = Stiefel().proj_tangent
    with pytest.raises(AssertionError):
        assert_law(retraction_is_first_order, canonical, x, generator(1))


def test_complex_proju_uses_the_transpose():
    x = Stiefel().random_point(5, 2, generator=generator(0), dtype=torch.complex128)
    euclidean = Theirs(geoopt.EuclideanStiefel(), Stiefel())
    with pytest.raises(AssertionError):
        assert_law(projection_is_idempotent, euclidean, x, generator(1))


def test_distance_by_acos_is_wrong_for_near_points():
    x = Sphere().random_point(5, generator=generator(0), dtype=torch.float32)
    sphere = Theirs(geoopt.Sphere(), Sphere())
    with pytest.raises(AssertionError):
        test_law_geodesics.law_dist_is_accurate_for_near_points(sphere, x, generator(1), 1e-3)

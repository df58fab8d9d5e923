"""geoopt's manifolds, parameters and scripts, in riemopt's optimizers."""

import copy
import io
import subprocess
import sys
import warnings
from functools import partial

import geoopt
import pytest
import torch
from torch import Tensor, nn

import riemopt
from riemopt import constraints, manifold_of, project_
from riemopt.interop import geoopt as bridge
from riemopt.interop.geoopt import GeooptManifold, flaws, from_geoopt
from riemopt.manifolds import (
    SPD,
    Euclidean,
    Flattened,
    Lorentz,
    PoincareBall,
    Product,
    Sphere,
    Stereographic,
    Stiefel,
)
from riemopt.testing import check_manifold
from tests import needs
from tests.manifold_cases import generator

close = torch.testing.assert_close
pytestmark = pytest.mark.filterwarnings("ignore:.*proju|.*egrad2rgrad|.*retr")

# Manifolds of geoopt, a shape of one point, and the laws of the contract that geoopt's own methods
# break: a projection that is not the nearest point, a clamp, eigenvalues read on the host, acos,
# and derivatives through a clamped norm at y = x, or through eigenvectors.
LOG, DIST = "log has its derivative", "squared dist has its derivative"
CLAMPED = "project is stationary"
HOST = "step reads nothing on the host"
ADAPTED = {
    "ball": (geoopt.PoincareBall(c=0.5), (4,), (CLAMPED, LOG)),
    "exact ball": (geoopt.PoincareBallExact(), (4,), (CLAMPED, HOST, LOG)),
    "stereographic": (geoopt.Stereographic(k=-0.3), (4,), (CLAMPED, LOG)),
    "projected sphere": (geoopt.SphereProjection(), (4,), ()),
    "spd": (
        geoopt.SymmetricPositiveDefinite(),
        (3, 3),
        (CLAMPED, "project is nearest", HOST, "exp has its derivative", LOG, DIST),
    ),
    "siegel": (geoopt.UpperHalf(), (3, 3), (CLAMPED, HOST, DIST)),
    "scaled ball": (geoopt.Scaled(geoopt.PoincareBall(), 2.0), (4,), (CLAMPED, LOG)),
    "exact Stiefel": (geoopt.EuclideanStiefelExact(), (4, 2), (HOST,)),
    "lorentz": (
        geoopt.Lorentz(),
        (4,),
        (
            CLAMPED,
            "project is nearest",
            "projection is self adjoint",
            "projection is derivative of project",
            "retraction stays on surface",  # cosh overflows; `curve_with_fraction` keeps the point
            "batch equals loop",
            "dist is length of geodesic",
            LOG,
            DIST,
        ),
    ),
}


def over_adapted(*names):
    return pytest.mark.parametrize("name", names or ADAPTED)


def dtype_of(manifold):
    return torch.complex128 if isinstance(manifold, geoopt.UpperHalf) else torch.float64


def point(manifold, *shape, seed=0):
    adapter = from_geoopt(manifold, native=False)
    return adapter.random_point(*shape, generator=generator(seed), dtype=dtype_of(manifold))


@over_adapted()
def test_adapters_keep_the_contract(name):
    theirs, shape, broken = ADAPTED[name]
    report = check_manifold(
        from_geoopt(theirs), shape, (2, *shape), skip=broken, dtype=dtype_of(theirs), repeats=2
    )
    report.require()


# --- conversion ---


def test_exact_matches_are_those_of_the_catalogue():
    assert from_geoopt(geoopt.Euclidean(1)) == Euclidean()
    assert from_geoopt(geoopt.Sphere()) == Sphere()
    assert from_geoopt(geoopt.EuclideanStiefel()) == Stiefel()
    assert from_geoopt(geoopt.CanonicalStiefel()) == Stiefel(metric="canonical")
    assert from_geoopt(geoopt.Stiefel()) == Stiefel(metric="canonical")  # geoopt's default
    product = geoopt.ProductManifold(
        (geoopt.Sphere(), 3), (geoopt.EuclideanStiefel(), (3, 2)), (geoopt.Euclidean(), ())
    )
    expected = Product([(Sphere(), 3), (Stiefel(), (3, 2)), (Euclidean(), 1)])
    assert from_geoopt(product) == expected
    x = product.random(2, 10)
    close(expected.proj_tangent(x, x + 1), product.proju(x, x + 1).as_subclass(Tensor))


@pytest.mark.parametrize(
    "theirs",
    [
        geoopt.SphereExact(),
        geoopt.EuclideanStiefelExact(),
        geoopt.Sphere(intersection=torch.eye(4)[:, :3]),
        geoopt.Scaled(geoopt.Sphere(), 2.0),
        type("Mine", (geoopt.EuclideanStiefel,), {"retr": geoopt.EuclideanStiefel.expmap})(),
    ],
    ids=lambda m: type(m).__name__,
)
def test_what_only_resembles_the_catalogue_keeps_its_own_operations(theirs):
    assert isinstance(from_geoopt(theirs), GeooptManifold)


@pytest.mark.parametrize("given", [geoopt.Sphere, Sphere(), "sphere", None])
def test_from_geoopt_refuses_what_is_no_manifold_of_geoopt(given):
    with pytest.raises(TypeError, match="takes an instance of a geoopt manifold"):
        from_geoopt(given)


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (geoopt.PoincareBall, lambda: geoopt.PoincareBall(c=2.0)),
        (
            geoopt.UpperHalf,
            lambda: geoopt.UpperHalf(geoopt.manifolds.siegel.siegel.SiegelMetricType.FINSLER_ONE),
        ),
        (lambda: geoopt.Scaled(geoopt.Sphere(), 2.0), lambda: geoopt.Scaled(geoopt.Sphere(), 3.0)),
        (geoopt.BirkhoffPolytope, lambda: geoopt.BirkhoffPolytope(tol=1e-7)),
        (
            lambda: geoopt.Sphere(intersection=torch.eye(4)[:, :3]),
            lambda: geoopt.Sphere(intersection=torch.eye(4)[:, :2]),
        ),
    ],
    ids=["ball", "siegel", "scaled", "birkhoff", "subsphere"],
)
def test_equality_is_by_value(make, other):
    a, b, c = (from_geoopt(m) for m in (make(), make(), other()))
    assert a == b != c
    assert hash(a) == hash(b)
    assert a == copy.deepcopy(a)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (geoopt.PoincareBall(c=0.5), PoincareBall(0.5)),
        (geoopt.Lorentz(k=2.0), Lorentz(0.5)),
        (geoopt.Stereographic(k=-0.25), Stereographic(-0.25)),
    ],
)
def test_hyperbolic_spaces_are_ours(theirs, ours):
    found = from_geoopt(theirs)
    assert type(found) is type(ours)
    option = "k" if isinstance(ours, Stereographic) else "c"
    assert getattr(found, option) == pytest.approx(getattr(ours, option), rel=1e-6)
    x, y = (ours.random_point(5, 4, dtype=torch.float64, generator=generator(i)) for i in (0, 1))
    close(ours.dist(x, y), theirs.dist(x, y), check_dtype=False, rtol=1e-6, atol=1e-6)
    assert isinstance(from_geoopt(theirs, native=False), GeooptManifold)


def test_positive_definite_matrices_are_ours_in_the_metric_that_geoopt_has():
    theirs = geoopt.SymmetricPositiveDefinite()
    ours = from_geoopt(theirs)
    assert ours == SPD("affine")
    x, y = (ours.random_point(5, 3, 3, dtype=torch.float64, generator=generator(i)) for i in (0, 1))
    u = ours.random_tangent(x, generator=generator(2))
    close(ours.inner(x, u, u), theirs.inner(x, u, u))
    close(ours.egrad2rgrad(x, u), theirs.egrad2rgrad(x, u))
    close(ours.dist(x, y), theirs.dist(x, y))
    with pytest.warns(UserWarning, match="not fully implemented"):
        flat = geoopt.SymmetricPositiveDefinite("LEM")
    assert isinstance(from_geoopt(flat), GeooptManifold)
    assert isinstance(from_geoopt(theirs, native=False), GeooptManifold)


def test_one_that_learns_its_curvature_equals_itself_alone():
    theirs = geoopt.PoincareBall(learnable=True)
    assert from_geoopt(theirs) == from_geoopt(theirs)
    assert from_geoopt(theirs) != from_geoopt(geoopt.PoincareBall(learnable=True))
    assert from_geoopt(theirs) != from_geoopt(geoopt.PoincareBall())


def test_shapes_that_geoopt_refuses_are_refused():
    with pytest.raises(ValueError, match=r"what geoopt accepts .*; got a tensor of shape \(2, 3\)"):
        from_geoopt(geoopt.BirkhoffPolytope()).check_shape((2, 3))
    with pytest.raises(ValueError, match="at least one entry"):
        from_geoopt(geoopt.PoincareBall()).check_shape((2, 0))


@pytest.mark.parametrize(
    ("theirs", "shape", "dimension"),
    [
        (geoopt.Lorentz(), (5,), 4),
        (geoopt.SymmetricPositiveDefinite(), (2, 4, 4), 10),
        (geoopt.BirkhoffPolytope(), (4, 4), 9),
        (geoopt.EuclideanStiefelExact(), (5, 2), 7),
        (geoopt.Sphere(complement=torch.eye(5)[:, :1]), (5,), 3),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else None,
)
def test_dim_is_the_rank_of_the_projection(theirs, shape, dimension):
    assert from_geoopt(theirs).dim(shape) == dimension


def test_points_are_real_or_complex_as_geoopt_has_them():
    assert from_geoopt(geoopt.UpperHalf()).dim((3, 3), is_complex=True) == 12
    with pytest.raises(ValueError, match="are complex; got is_complex=False"):
        from_geoopt(geoopt.UpperHalf()).dim((3, 3))
    with pytest.raises(ValueError, match="are real; got dtype"):
        from_geoopt(geoopt.PoincareBallExact()).random_point(3, dtype=torch.complex64)


def test_random_points_follow_the_generator_alone():
    ball = from_geoopt(geoopt.PoincareBall())
    state = torch.get_rng_state()
    a, b, c = (ball.random_point(3, 4, generator=generator(s)) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(state, torch.get_rng_state())


def test_projection_that_fails_says_so():
    with pytest.raises(ValueError, match="projx of Sphere"):
        from_geoopt(geoopt.SphereExact()).project(torch.zeros(3))
    doubly = from_geoopt(geoopt.BirkhoffPolytope())
    a = torch.rand(4, 4, dtype=torch.float64) - 0.1  # Sinkhorn alone stands no negative entry
    assert doubly.violation(doubly.project(a)) < 1e-5


# --- what is not as it is called ---


def complaints_of(theirs, **options):
    flaws._FOUND.pop(type(theirs), None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from_geoopt(theirs, **options)
        from_geoopt(theirs, **options)
    ours = [w for w in caught if w.filename == __file__]
    assert len(ours) <= 1  # once for a class
    return str(ours[0].message) if ours else ""


def test_a_proju_that_is_no_projection_is_reported_once_and_replaced():
    told = complaints_of(geoopt.BirkhoffPolytope())
    assert "BirkhoffPolytope.proju is not a projection" in told
    assert "transport changes a vector over a step of length 0" in told
    adapter, x = from_geoopt(geoopt.BirkhoffPolytope()), point(geoopt.BirkhoffPolytope(), 4, 4)
    once = adapter.proj_tangent(x, torch.randn(4, 4, dtype=torch.float64))
    close(adapter.proj_tangent(x, once), once)
    close(adapter.transport(x, x, once), once)
    assert not torch.allclose(geoopt.BirkhoffPolytope().proju(x, once), once, rtol=0.1)

    told = complaints_of(geoopt.CanonicalStiefel(), native=False)
    assert "CanonicalStiefel.proju is not a projection" in told
    assert "CanonicalStiefel.retr(x, u) is not x + u to first order" in told
    told = complaints_of(geoopt.UpperHalf())
    assert told.startswith("UpperHalf.proju is not a projection")
    assert complaints_of(geoopt.PoincareBall()) == complaints_of(geoopt.Lorentz()) == ""


def subclasses(cls):
    for subclass in cls.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


# Wrappers, a base that cannot be made, and the one that makes an instance of its subclasses.
NOT_AUDITED = {
    "Manifold",
    "ProductManifold",
    "StereographicProductManifold",
    "Scaled",
    "SiegelManifold",
    "Stiefel",
}
OPTIONS = {
    "Euclidean": {"ndim": 1},
    "Sphere": {"intersection": torch.eye(4)[:, :3]},
}
CLASSES = sorted(
    (
        cls
        for cls in set(subclasses(geoopt.manifolds.base.Manifold))
        if cls.__module__.startswith("geoopt.") and cls.__name__ not in NOT_AUDITED
    ),
    key=lambda cls: cls.__name__,
)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_table_of_flaws_is_what_an_audit_finds(cls):
    assert set(flaws.KNOWN) <= set(CLASSES)
    theirs = cls(**OPTIONS.get(cls.__name__, {}))
    found = flaws.audit(theirs)
    assert found == flaws.KNOWN.get(cls, frozenset())
    assert (flaws.projection_of(theirs, found) == theirs.proju) is (
        flaws.Flaw.PROJECTION not in found
    )


def test_a_projection_in_place_of_proju_is_one():
    for theirs, shape in [
        (geoopt.CanonicalStiefel(), (5, 2)),
        (geoopt.BirkhoffPolytope(), (4, 4)),
        (geoopt.UpperHalf(), (3, 3)),
    ]:
        x = point(theirs, *shape)
        project = flaws.projection_of(theirs, flaws.KNOWN[type(theirs)])
        u, v = (torch.randn(x.shape, generator=generator(s), dtype=x.dtype) for s in (1, 2))
        once = project(x, u)
        close(project(x, once), once)
        close((project(x, v).conj() * u).real.sum(), (v.conj() * once).real.sum())


class TwiceTheProjection(geoopt.SphereExact):
    """A user's manifold with a mistake, and with a gradient that does not fit its metric."""

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return 2 * super().proju(x, u)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.proju(x, u)


def test_a_users_mistake_is_reported():
    told = complaints_of(TwiceTheProjection())
    assert "proju is not a projection (twice is not once): momentum will not stay tangent" in told
    assert "egrad2rgrad is not the gradient in the metric of inner" in told
    assert complaints_of(type("Mine", (geoopt.EuclideanStiefel,), {})()) == ""


def test_the_gradient_handed_in_is_not_written_to():
    x = point(geoopt.Lorentz(), 4)
    g = torch.ones_like(x)
    from_geoopt(geoopt.Lorentz()).egrad2rgrad(x, g)
    assert torch.equal(g, torch.ones_like(x))
    geoopt.Lorentz().egrad2rgrad(x, g)
    assert g[0] == -1  # geoopt's does


def test_a_point_whose_step_overflows_stays_where_it_is():
    theirs = geoopt.Lorentz(learnable=True)  # which is adapted
    p = geoopt.ManifoldParameter(point(geoopt.Lorentz(), 2, 4), manifold=theirs)
    before = p.detach().clone()
    optimizer = riemopt.RiemannianSGD([p], lr=1.0)
    p.grad = torch.ones_like(before)
    p.grad[0] *= 1e4  # cosh(1e4) is infinite
    optimizer.step()
    assert torch.equal(p[0], before[0])
    assert not torch.equal(p[1], before[1])
    assert bool(p.isfinite().all())
    assert optimizer.shortened_steps == 1


# --- in riemopt's optimizers ---


@pytest.mark.parametrize("cls", [riemopt.RiemannianSGD, riemopt.RiemannianAdam])
def test_geoopt_parameters_are_taken_as_they_are(cls):
    model = nn.Module()
    model.ball = geoopt.ManifoldParameter(point(geoopt.PoincareBall(), 3, 4), geoopt.PoincareBall())
    model.frame = geoopt.ManifoldParameter(torch.eye(5, 2), geoopt.EuclideanStiefel())
    model.free = geoopt.ManifoldParameter(torch.ones(3))
    optimizer = cls(model.parameters(), lr=0.1)
    assert optimizer._manifolds == [[from_geoopt(geoopt.PoincareBall()), Stiefel(), None]]
    assert manifold_of(model.frame) == Stiefel()
    for _ in range(5):
        optimizer.zero_grad()
        sum((p - 0.1).square().sum() for p in model.parameters()).backward()
        optimizer.step()
    assert type(model.frame) is geoopt.ManifoldParameter
    assert Stiefel().violation(model.frame.detach()) < 1e-6
    assert geoopt.PoincareBall().check_point_on_manifold(model.ball.detach())


def test_equal_manifolds_are_stepped_as_one_stack():
    points = point(geoopt.PoincareBall(), 3, 4)
    params = [geoopt.ManifoldParameter(x.clone(), geoopt.PoincareBall()) for x in points]
    for p in params:
        p.grad = torch.ones(4, dtype=torch.float64)
    optimizer = riemopt.RiemannianAdam(params, lr=0.01)
    optimizer.step()
    assert len(optimizer._plans[0].stacks) == 1


def test_adopted_parameters_survive_reloading_and_are_reported():
    def build():
        model = nn.Sequential(nn.Conv2d(2, 3, (4, 2)), nn.Linear(4, 3))
        kernel = point(geoopt.EuclideanStiefel(), 3, 2, 4, 2)
        model[0].weight = geoopt.ManifoldParameter(kernel, geoopt.EuclideanStiefel())
        model[1].weight = geoopt.ManifoldParameter(
            point(geoopt.PoincareBall(), 3, 4), geoopt.PoincareBall()
        )
        model[1].bias = geoopt.ManifoldParameter(torch.zeros(3), geoopt.Euclidean())
        return model

    model = build()
    kernel = model[0].weight
    report = bridge.adopt(model)
    assert report.done == {
        "0.weight": Flattened(Stiefel(), event_ndim=2),  # slices, as geoopt has them
        "1.weight": from_geoopt(geoopt.PoincareBall()),
    }
    assert not report.left
    assert model[0].weight is kernel
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    assert not isinstance(model[0].weight, geoopt.ManifoldParameter)
    assert manifold_of(model[0].weight) == Flattened(Stiefel(), event_ndim=2)
    with torch.no_grad():
        model[0].weight += 0.1
    assert [c.satisfied for c in constraints(model)] == [False, True]
    project_(model)
    assert all(c.satisfied for c in constraints(model))
    lost = build()
    lost.load_state_dict(copy.deepcopy(lost.state_dict()), assign=True)
    assert manifold_of(lost[0].weight) is None  # geoopt's own way of keeping it


def test_what_geoopts_own_checks_allow_is_no_violation():
    layer = nn.Linear(4, 4, dtype=torch.float64)
    riemopt.constrain(layer, "weight", from_geoopt(geoopt.BirkhoffPolytope()))
    optimizer = riemopt.RiemannianSGD(layer.parameters(), lr=0.1)
    for _ in range(5):
        layer.weight.grad = torch.randn(4, 4, dtype=torch.float64)
        optimizer.step()
    (constraint,) = constraints(layer)
    assert 1e-12 < constraint.violation < 1e-4  # where Sinkhorn stops
    assert constraint.satisfied


def test_adopt_says_what_it_leaves():
    model = nn.Module()
    model.p = geoopt.ManifoldParameter(point(geoopt.Sphere(), 3), geoopt.Sphere())
    model.q = geoopt.ManifoldParameter(torch.full((3,), torch.nan), geoopt.SphereExact())
    bridge.adopt(model)
    report = bridge.adopt(model)
    assert (
        str(report)
        == "p: left, as it is on Sphere() already\nq: left, as its values are not finite"
    )


# --- a script with its imports changed ---

GEOOPT = {"SGD": geoopt.optim.RiemannianSGD, "Adam": geoopt.optim.RiemannianAdam}
OURS = {"SGD": bridge.RiemannianSGD, "Adam": bridge.RiemannianAdam}


class UsersSPD(geoopt.SymmetricPositiveDefinite):
    """A subclass, which is adapted."""


# Those that learn a curvature are adapted, too; others are ours.
SCRIPTS = {
    "sphere": (geoopt.Sphere(), (6,)),
    "Stiefel": (geoopt.EuclideanStiefel(), (6, 2)),
    "ball": (geoopt.PoincareBall(learnable=True), (4, 3)),
    "lorentz": (geoopt.Lorentz(learnable=True), (4, 4)),
    "spd": (UsersSPD(), (3, 3)),
}


def train(cls, manifold, shape, steps=60, primed=False, **options):
    """The path of the weight, and the losses, of a script as users of geoopt write it."""
    gen = generator(3)
    p = geoopt.ManifoldParameter(point(manifold, *shape), manifold=manifold)
    target = 0.3 * torch.randn(shape, generator=gen, dtype=torch.float64)
    mix = 0.5 * torch.randn(shape[-1], shape[-1], generator=gen, dtype=torch.float64)
    optimizer = cls([p], **options)
    if primed:  # geoopt's buffer would start as the raw gradient, which is then added once more
        optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    path, losses = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (p - target).square().sum() + (p @ mix).square().sum()
        loss.backward()
        optimizer.step()
        path.append(p.detach().as_subclass(Tensor).clone())
        losses.append(loss.item())
    return torch.stack(path), losses


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("SGD", {"lr": 1e-2}),
        ("Adam", {"lr": 1e-2}),
        ("Adam", {"lr": 1e-2, "amsgrad": True, "weight_decay": 0.1, "betas": (0.8, 0.9)}),
    ],
    ids=["SGD", "Adam", "AMSGrad"],
)
def test_paths_are_those_of_geoopt(name, kind, options):
    manifold, shape = SCRIPTS[name]
    theirs, their_losses = train(GEOOPT[kind], manifold, shape, **options)
    ours, losses = train(OURS[kind], manifold, shape, **options)
    # On Stiefel the retraction is polar, there QR: they part at second order of the step.
    exact = name != "Stiefel"
    close(ours, theirs, atol=1e-9 if exact else 1e-2, rtol=0)
    close(losses[-1], their_losses[-1], atol=0, rtol=1e-9 if exact else 1e-3)
    assert losses[-1] < losses[0]


def test_the_step_on_positive_definite_matrices_is_that_of_geoopt():
    """What differs is how momentum is carried: by Cholesky factors."""
    run = (geoopt.SymmetricPositiveDefinite(), (3, 3))
    close(train(OURS["SGD"], *run, lr=1e-2)[0], train(GEOOPT["SGD"], *run, lr=1e-2)[0])


@pytest.mark.parametrize("name", ["sphere", "ball", "lorentz", "spd"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_with_momentum_the_first_buffer_alone_differs(name, nesterov):
    """geoopt seeds the buffer with the raw gradient, and adds the Riemannian one to it."""
    options = {"lr": 5e-3, "momentum": 0.9, "nesterov": nesterov}
    manifold, shape = SCRIPTS[name]
    ours, _ = train(OURS["SGD"], manifold, shape, **options)
    raw, _ = train(GEOOPT["SGD"], manifold, shape, steps=1, **options)
    assert not torch.allclose(ours[:1], raw, atol=1e-3)
    primed, _ = train(GEOOPT["SGD"], manifold, shape, primed=True, **options)
    close(ours, primed, atol=1e-9, rtol=0)


def test_each_factor_of_a_product_is_stepped_and_carried_as_by_geoopt():
    ball = geoopt.PoincareBall(learnable=True)
    product = geoopt.ProductManifold((ball, 3), (geoopt.Sphere(), 3))
    options = {"lr": 5e-3, "momentum": 0.9}
    theirs, _ = train(GEOOPT["SGD"], product, (6,), primed=True, **options)
    ours, _ = train(OURS["SGD"], product, (6,), **options)
    close(ours, theirs, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["sphere", "Stiefel", "ball"])
def test_ends_with_momentum_are_as_good(name):
    manifold, shape = SCRIPTS[name]
    options = {"lr": 1e-2, "momentum": 0.9, "steps": 300}
    _, theirs = train(GEOOPT["SGD"], manifold, shape, **options)
    path, ours = train(OURS["SGD"], manifold, shape, **options)
    assert ours[-1] <= theirs[-1] + 1e-6
    assert manifold.check_point_on_manifold(path[-1], atol=1e-10)


def test_riemopts_own_adam_takes_steps_of_torchs_length():
    """√n times geoopt's for a point of n entries, at the same lr."""

    def first_step(cls):
        path, _ = train(cls, geoopt.Sphere(), (6,), steps=1, lr=1e-5)
        return torch.linalg.vector_norm(path[0] - point(geoopt.Sphere(), 6))

    close(first_step(OURS["Adam"]), torch.tensor(1e-5).double(), rtol=1e-3, atol=0)
    close(
        first_step(partial(riemopt.RiemannianAdam, second_moment="point")),
        torch.tensor(6**0.5 * 1e-5).double(),
        rtol=1e-3,
        atol=0,
    )


@needs.adam_with_decoupled_decay
def test_decoupled_decay_is_not_scaled_with_the_step():
    def end(cls, **options):
        ball = geoopt.PoincareBall()
        p = geoopt.ManifoldParameter(point(ball, 4), ball)
        optimizer = cls([p], lr=1e-2, weight_decay=0.5, decoupled_weight_decay=True)
        p.grad = torch.zeros(4, dtype=torch.float64)
        optimizer.step()
        return p.detach()

    close(end(OURS["Adam"]), end(riemopt.RiemannianAdam))


def momentum_norms(cls):
    """Norms of the momentum, in the metric, before and after it is carried by a long step."""
    ball = geoopt.PoincareBall()
    adapter = from_geoopt(ball)
    p = geoopt.ManifoldParameter(torch.tensor([0.1, 0.2, 0.3]).double(), ball)
    optimizer = cls([p], lr=1.0, momentum=0.9)
    p.grad = -torch.tensor([0.5, 1.0, 2.0]).double()
    gradient = adapter.egrad2rgrad(p.detach(), p.grad)
    before = adapter.norm(p.detach(), gradient)
    optimizer.step()
    return before, adapter.norm(p.detach(), optimizer.state[p]["momentum_buffer"])


@pytest.mark.parametrize("cls", [bridge.RiemannianSGD, riemopt.RiemannianSGD])
def test_momentum_is_carried_by_the_manifolds_own_transport(cls):
    before, after = momentum_norms(cls)
    close(after, before)  # parallel transport is an isometry; projection is the identity here


def test_a_refused_step_leaves_momentum_as_it_was():
    spd = geoopt.SymmetricPositiveDefinite()  # whose transport from a point to itself rounds
    p = geoopt.ManifoldParameter(point(spd, 3, 3), spd)
    optimizer = bridge.RiemannianAdam([p], lr=0.1)
    p.grad = torch.randn(3, 3, dtype=torch.float64)
    optimizer.step()
    x, state = p.detach().clone(), copy.deepcopy(optimizer.state[p])
    assert not torch.equal(spd.transp(x, x, state["exp_avg"]), state["exp_avg"])
    p.grad = torch.full_like(x, torch.nan)
    optimizer.step()
    assert torch.equal(p, x)
    assert all(torch.equal(value, optimizer.state[p][key]) for key, value in state.items())


# --- stabilize, copies and checkpoints ---


@pytest.mark.parametrize("copied", [False, True])
def test_stabilize_projects_every_so_many_steps(copied):
    p = geoopt.ManifoldParameter(torch.eye(4, 2).double(), geoopt.EuclideanStiefel())
    optimizer = bridge.RiemannianSGD([p], 0.1, momentum=0.9, stabilize=2)
    p.grad = torch.ones_like(p)
    if copied:
        p, optimizer = copy.deepcopy((p, optimizer))
    violations = []
    for _ in range(4):
        optimizer.zero_grad()
        p.grad = torch.zeros(4, 2, dtype=torch.float64)
        with torch.no_grad():
            p *= 1.1
        optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)  # a step of length 0
        optimizer.step()
        violations.append(Stiefel().violation(p.detach()).item() < 1e-12)
    assert violations == [False, True, False, True]
    with torch.no_grad():
        p *= 1.1
    optimizer.state[p]["momentum_buffer"] = torch.ones(4, 2, dtype=torch.float64)
    optimizer.stabilize()
    assert Stiefel().violation(p.detach()) < 1e-12
    m = optimizer.state[p]["momentum_buffer"]
    close(Stiefel().proj_tangent(p.detach(), m), m)


@pytest.mark.parametrize("stabilize", [0, -1, 2.5])
def test_stabilize_must_be_a_number_of_steps(stabilize):
    for cls in (bridge.RiemannianSGD, bridge.RiemannianAdam):
        with pytest.raises(ValueError, match="positive number of steps"):
            cls([torch.nn.Parameter(torch.ones(1))], lr=0.1, stabilize=stabilize)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("name", ["sphere", "ball"])
def test_a_run_of_geoopt_goes_on_from_its_checkpoint(kind, name):
    manifold, shape = SCRIPTS[name]
    options = {"lr": 1e-2, "momentum": 0.9} if kind == "SGD" else {"lr": 1e-2}

    def go_on(cls, x, state=None, steps=5):
        p = geoopt.ManifoldParameter(x.clone(), manifold)
        optimizer = cls([p], **options)
        if state is not None:
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            optimizer.load_state_dict(torch.load(file, weights_only=True))
        for _ in range(steps):
            optimizer.zero_grad()
            (p - 0.2).square().sum().backward()
            optimizer.step()
        return p.detach().as_subclass(Tensor), optimizer.state_dict()

    start = point(manifold, *shape)
    x, state = go_on(GEOOPT[kind], start)
    x, state = go_on(OURS[kind], x, state)
    close(x, go_on(GEOOPT[kind], start, steps=10)[0], atol=1e-12, rtol=0)
    x, _ = go_on(OURS[kind], x, state)  # and from its own
    close(x, go_on(GEOOPT[kind], start, steps=15)[0], atol=1e-12, rtol=0)


def test_half_precision_is_stepped_in_single():
    ball = geoopt.PoincareBall()
    p = geoopt.ManifoldParameter((point(ball, 3, 4) * 0.2).bfloat16(), ball)
    optimizer = bridge.RiemannianSGD([p], lr=0.1, momentum=0.9, stabilize=1)
    for _ in range(3):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert p.dtype == torch.bfloat16
    assert optimizer.state[p]["momentum_buffer"].dtype == torch.float32
    assert bool(p.isfinite().all())
    assert ball.check_point_on_manifold(p.detach().float())


@pytest.mark.parametrize("cls", OURS.values(), ids=OURS)
@pytest.mark.parametrize("name", ["Stiefel", "ball"])
def test_compiled_steps_stay_on_the_manifold(cls, name):
    """geoopt's do not: under torch.compile its parameters are no ManifoldParameters any more."""
    manifold, shape = SCRIPTS[name]
    ends = []
    for compiled in (False, True):
        p = geoopt.ManifoldParameter(point(manifold, *shape), manifold)
        optimizer = cls([p], lr=torch.tensor(0.05))
        p.grad = torch.ones_like(p)
        optimizer.step()
        (torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step)()
        ends.append(p.detach().as_subclass(Tensor).clone())
    close(*ends)
    torch.compiler.reset()


def test_torchs_options_are_honoured():
    p, q = (geoopt.ManifoldParameter(torch.eye(3, 2), geoopt.EuclideanStiefel()) for _ in range(2))
    for param, maximize in ((p, False), (q, True)):
        param.grad = torch.ones(3, 2)
        bridge.RiemannianAdam([param], lr=0.1, maximize=maximize).step()
    assert not torch.allclose(p, q)
    with pytest.raises(TypeError, match="nonsense"):
        bridge.RiemannianSGD([p], lr=0.1, nonsense=True)


# --- the bridge itself ---


def test_importing_riemopt_imports_neither_geoopt_nor_the_bridge():
    code = "import sys, riemopt; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = {name for name in run.stdout.split() if "geoopt" in name or "interop" in name}
    assert not names


def test_a_manifold_attribute_of_anything_else_is_no_manifold():
    p = nn.Parameter(torch.ones(3))
    p.manifold = "a note of the user"
    assert manifold_of(p) is None

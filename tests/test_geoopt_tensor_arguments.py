"""geoopt's manifolds whose curvature or scale is a tensor of one number, or learnt."""

import pytest
import torch
from torch import Tensor, nn

import riemopt
from tests.manifold_cases import generator, name

geoopt = pytest.importorskip("geoopt")
from riemopt.interop.geoopt import RiemannianAdam, RiemannianSGD, from_geoopt  # noqa: E402

# Copied before use: geoopt writes into some of them.
ARGUMENTS = {
    "shape ()": torch.tensor(1.5),
    "shape (1,)": torch.tensor([1.5]),
    "float64": torch.tensor([1.5], dtype=torch.float64),
}
MANIFOLDS = {
    "Lorentz": lambda k, **o: geoopt.Lorentz(k=k, **o),
    "PoincareBall": lambda c, **o: geoopt.PoincareBall(c=c, **o),
    "PoincareBallExact": lambda c, **o: geoopt.PoincareBallExact(c=c, **o),
    "SphereProjection": lambda k, **o: geoopt.SphereProjection(k=k, **o),
    "Stereographic": lambda k, **o: geoopt.Stereographic(k=-k, **o),
    "Scaled": lambda s, **o: geoopt.Scaled(geoopt.PoincareBall(), s, **o),
    "Scaled Lorentz": lambda k: geoopt.Scaled(geoopt.Lorentz(k=k), 2.0),
    "Product": lambda k: geoopt.ProductManifold(
        (geoopt.Lorentz(k=k), 3), (geoopt.PoincareBall(c=k.clone()), 2)
    ),
}
LEARNABLE = ("Lorentz", "PoincareBall", "SphereProjection", "Stereographic", "Scaled")
over_manifolds = pytest.mark.parametrize("manifold", MANIFOLDS, ids=lambda n: n.replace(" ", "-"))


def with_number(manifold: str, dtype: torch.dtype):
    """The same, of a 0-dimensional curvature."""
    return from_geoopt(MANIFOLDS[manifold](torch.tensor(1.5, dtype=dtype)))


@over_manifolds
@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 4, 5)], ids=str)
def test_a_tensor_does_as_a_number_does(manifold, argument, shape):
    """Also of single points, to which geoopt's formulas add a dimension."""
    here = from_geoopt(MANIFOLDS[manifold](ARGUMENTS[argument].clone()))
    there = with_number(manifold, torch.float32)
    x = there.random_point(*shape, generator=generator(0))
    u = 0.1 * there.proj_tangent(x, torch.randn(shape, generator=generator(1)))
    for function in (
        lambda m: m.project(x),
        lambda m: m.proj_tangent(x, u),
        lambda m: m.egrad2rgrad(x, u),
        lambda m: m.inner(x, u, u),
        lambda m: m.retract(x, u),
        lambda m: m.curve_with_fraction(x, u, 1.0)[0],
        lambda m: m.transport(x, m.retract(x, u), u),
        lambda m: m.violation(x),
    ):
        torch.testing.assert_close(function(here), function(there), rtol=1e-5, atol=1e-6)
    assert here.dim(shape) == there.dim(shape)


@over_manifolds
@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize(
    "optimizer", [riemopt.RiemannianAdam, riemopt.RiemannianSGD, RiemannianAdam]
)
def test_steps_are_those_with_a_number(manifold, argument, optimizer):
    ends = []
    for k in (ARGUMENTS[argument].clone(), torch.tensor(1.5)):
        theirs = MANIFOLDS[manifold](k)
        x = with_number(manifold, torch.float32).random_point(4, 5, generator=generator(0))
        p = geoopt.ManifoldParameter(x, manifold=theirs)
        step = optimizer([p], lr=0.05)
        for _ in range(3):
            step.zero_grad()
            (p - 0.1).square().sum().backward()
            step.step()
        assert p.dtype == torch.float32
        ours = from_geoopt(theirs)
        assert bool((ours.violation(p.detach()) <= ours.tolerance(p.detach())).all())
        ends.append(p.detach().as_subclass(Tensor))
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_a_curvature_for_each_point():
    c = torch.tensor([[1.5], [1.0], [0.5], [2.0]])
    ball = from_geoopt(geoopt.PoincareBall(c=c.clone()))
    x = 0.3 * torch.ones(4, 5)
    p = geoopt.ManifoldParameter(x.clone(), manifold=geoopt.PoincareBall(c=c.clone()))
    p.grad = torch.ones_like(p)
    RiemannianSGD([p], lr=0.1).step()
    for row, point, curvature in zip(p.detach(), x, c, strict=True):
        alone = from_geoopt(geoopt.PoincareBall(c=curvature[0].clone()), native=False)
        moved = alone.curve(point, alone.egrad2rgrad(point, torch.ones(5)), -0.1)
        torch.testing.assert_close(row.as_subclass(Tensor), moved)
    assert ball.dim((4, 5)) == 5


@pytest.mark.parametrize("manifold", LEARNABLE)
@pytest.mark.parametrize("argument", ["shape ()", "shape (1,)"])
def test_a_learnt_constant_is_taken_as_it_is_at_the_step(manifold, argument):
    theirs = MANIFOLDS[manifold](ARGUMENTS[argument].clone(), learnable=True)
    (k,) = (q for q in theirs.parameters() if q.requires_grad)
    x = from_geoopt(theirs).random_point(4, 5, generator=generator(0)).detach()
    p = geoopt.ManifoldParameter(x, manifold=theirs)
    optimizer = RiemannianSGD([p], lr=0.05)
    for value in (k.detach().clone(), 0.7 * k.detach()):
        with torch.no_grad():
            k.copy_(value)
        fresh = from_geoopt(theirs)
        start = p.detach().clone().as_subclass(Tensor)
        p.grad = torch.randn(4, 5, generator=generator(1))
        with torch.no_grad():
            expected = fresh.curve(start, fresh.egrad2rgrad(start, p.grad), -0.05)
        optimizer.step()
        torch.testing.assert_close(p.detach().as_subclass(Tensor), expected)
        assert bool((fresh.violation(p.detach()) <= fresh.tolerance(p.detach())).all())
        assert k.grad is None


def test_points_follow_a_learnt_curvature_with_stabilize():
    """Lorentz with k: the hyperboloid itself moves when the optimizer steps k as well."""
    theirs = geoopt.Lorentz(k=torch.tensor([1.5]), learnable=True)
    ours = from_geoopt(theirs)
    p = geoopt.ManifoldParameter(
        ours.random_point(4, 5, generator=generator(0)).detach(), manifold=theirs
    )
    optimizer = RiemannianAdam([p, theirs.k], lr=0.01, stabilize=1)
    for _ in range(3):
        optimizer.zero_grad()
        ((p - 0.1).square().sum() + (theirs.k - 1).square().sum()).backward()
        optimizer.step()
    assert float(theirs.k.detach()) < 1.48
    assert bool((ours.violation(p.detach()) <= ours.tolerance(p.detach())).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_short_steps_are_not_lost_in_the_rounding_of_a_projection(dtype):
    """Near its end, a descent on positive definite matrices takes steps of a few units of rounding.

    With eigenvalues and back in each step it stops ten times as far from the end.
    """
    manifold = geoopt.SymmetricPositiveDefinite()
    target = torch.tensor([[0.65, 0.34], [0.34, 0.81]], dtype=dtype)
    p = geoopt.ManifoldParameter(target + 0.01 * torch.eye(2, dtype=dtype), manifold=manifold)
    optimizer = RiemannianSGD([p], lr=1e-2)
    for _ in range(4000):
        p.grad = 2 * (p.detach() - target)
        optimizer.step()
    eps = torch.finfo(dtype).eps
    assert float((p.detach() - target).abs().max()) < max(100 * eps, 1e-7)
    ours = from_geoopt(manifold)
    assert bool((ours.violation(p.detach()) <= ours.tolerance(p.detach())).all())


def test_a_layer_on_a_manifold_with_a_tensor():
    """The shape of the report: construction alone failed."""
    layer = nn.Module()
    layer.x = geoopt.ManifoldParameter(
        torch.randn(20, 10, generator=generator(0)), manifold=geoopt.Lorentz(k=torch.Tensor([1.0]))
    )
    for optimizer in (RiemannianAdam, riemopt.RiemannianAdam, riemopt.RiemannianSGD):
        optimizer(layer.parameters(), lr=0.1)

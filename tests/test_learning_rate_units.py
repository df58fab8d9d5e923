"""The table of learning rates in docs/choosing-an-optimizer.md: "their lr → ours", row by row.

One step of theirs and one of ours, with the rate that the table gives, from one point along one
gradient, agree to first order in the rate.
"""

import math

import pytest
import torch
from torch import nn

from riemopt import RiemannianAdam, RiemannianSGD
from riemopt.manifolds import Sphere, Stiefel

LR = 1e-5  # what is of second order is about as large, relative to a step
SHAPES = [(9, 4), (6, 6)]


def start(manifold, *shape):
    x = manifold.random_point(*shape, dtype=torch.float64)
    return x, torch.randn(*shape, dtype=torch.float64)


def moved(optimizer_of, x, g):
    """How far one step moves x."""
    w = nn.Parameter(x.clone())
    w.grad = g.clone()
    optimizer_of(w).step()
    return w.detach() - x


def ours(manifold, x, g, lr, cls=RiemannianSGD, **options):
    def optimizer(w):
        return cls([{"params": [w], "manifold": manifold}], lr=lr, **options)

    return moved(optimizer, x, g)


def assert_agree(theirs, of_ours):
    assert of_ours.norm() > 0
    assert (theirs - of_ours).norm() < 1e-3 * of_ours.norm()


def rms(u):
    return u.square().mean().sqrt().item()


@pytest.fixture(params=[(Stiefel(), (9, 4)), (Stiefel(), (6, 6)), (Sphere(), (3, 8))], ids=str)
def case(request):
    manifold, shape = request.param
    return manifold, *start(manifold, *shape)


# --- torch ---


def test_torch_sgd_the_same(case):
    manifold, x, g = case
    theirs = moved(lambda w: torch.optim.SGD([w], lr=LR), x, g)
    assert_agree(manifold.proj_tangent(x, theirs), ours(manifold, x, g, LR))


def test_torch_adam_the_same(case):
    manifold, x, g = case
    theirs = moved(lambda w: torch.optim.Adam([w], lr=LR), x, g)
    assert rms(theirs) == pytest.approx(LR, rel=1e-3)
    step = ours(manifold, x, g, LR, RiemannianAdam, second_moment="point")
    assert rms(step) == pytest.approx(LR, rel=1e-3)


def test_torch_adam_elementwise_is_what_projection_leaves(case):
    manifold, x, g = case
    grad = manifold.proj_tangent(x, g)
    theirs = moved(lambda w: torch.optim.Adam([w], lr=LR), x, grad)
    step = ours(manifold, x, g, LR, RiemannianAdam, second_moment="carried")
    assert_agree(manifold.proj_tangent(x, theirs), step)
    assert 0.5 * LR < rms(step) < 1.001 * LR


# --- geoopt ---


def geoopt_step(name, theirs, x, g, **options):
    geoopt = pytest.importorskip("geoopt")

    def optimizer(w):
        point = geoopt.ManifoldParameter(w.data, manifold=theirs(geoopt))
        point.grad = w.grad
        return getattr(geoopt.optim, name)([point], lr=LR, **options)

    return moved(optimizer, x, g)


GEOOPT = [
    pytest.param(lambda g: g.EuclideanStiefel(), Stiefel(), (9, 4), id="EuclideanStiefel"),
    pytest.param(lambda g: g.EuclideanStiefel(), Stiefel(), (6, 6), id="EuclideanStiefel, square"),
    pytest.param(lambda g: g.Sphere(), Sphere(), (3, 8), id="Sphere"),
]


@pytest.mark.parametrize(("theirs", "manifold", "shape"), GEOOPT)
def test_geoopt_sgd_the_same(theirs, manifold, shape):
    x, g = start(manifold, *shape)
    assert_agree(geoopt_step("RiemannianSGD", theirs, x, g), ours(manifold, x, g, LR))


@pytest.mark.parametrize(("theirs", "manifold", "shape"), GEOOPT)
def test_geoopt_adam_over_root_of_entries(theirs, manifold, shape):
    x, g = start(manifold, *shape)
    entries = math.prod(shape[d] for d in manifold.event_dims(2))
    step = ours(manifold, x, g, LR / math.sqrt(entries), RiemannianAdam, second_moment="point")
    assert_agree(geoopt_step("RiemannianAdam", theirs, x, g), step)


@pytest.mark.parametrize("shape", SHAPES)
def test_geoopt_canonical_sgd_part_by_part(shape):
    """Its part along the columns' span is twice ours in the canonical metric, 4× the Euclidean."""
    x, g = start(Stiefel(), *shape)
    theirs = geoopt_step("RiemannianSGD", lambda geoopt: geoopt.CanonicalStiefel(), x, g)
    for metric, factor in (("canonical", 2), ("euclidean", 4)):
        step = ours(Stiefel(metric=metric), x, g, LR)
        along = x @ x.mT @ step
        assert_agree(theirs, step + (factor - 1) * along)
    if shape[0] == shape[1]:
        assert_agree(theirs, ours(Stiefel(metric="canonical"), x, g, 2 * LR))
        assert_agree(theirs, ours(Stiefel(), x, g, 4 * LR))


# --- POGO ---


def pogo_step(x, g, base):
    pogo = pytest.importorskip("pogo")
    bases = pytest.importorskip("pogo.base")

    def optimizer(w):
        return pogo.POGO([w], getattr(bases, base)(), lr=LR, rows=False)

    return moved(optimizer, x[None], g[None])[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_pogo_sgd_half_in_the_canonical_metric(shape):
    x, g = start(Stiefel(), *shape)
    assert_agree(pogo_step(x, g, "SGD"), ours(Stiefel(metric="canonical"), x, g, LR / 2))


def test_pogo_sgd_on_square_matrices_the_same():
    x, g = start(Stiefel(), 6, 6)
    assert_agree(pogo_step(x, g, "SGD"), ours(Stiefel(), x, g, LR))


def test_pogo_sgd_on_vectors_half():
    x, g = start(Stiefel(), 9, 1)
    assert_agree(pogo_step(x, g, "SGD"), ours(Stiefel(), x, g, LR / 2))


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_pogo_adam_is_shorter_by_the_tangent_share_of_the_gradient(share):
    x, g = start(Stiefel(), 6, 6)
    tangent = Stiefel().proj_tangent(x, g)
    normal = g - tangent
    wanted = tangent.norm() * math.sqrt(1 / share**2 - 1)
    g = tangent + normal * (wanted / normal.norm())
    lr = LR * share / math.sqrt(x.numel())
    step = ours(Stiefel(), x, g, lr, RiemannianAdam, second_moment="point")
    assert_agree(pogo_step(x, g, "VectorAdam"), step)


# --- geotorch ---


def geotorch_step(constraint, x, g, cls):
    """How the weight of a layer moves when the parameter behind it takes one step."""
    geotorch = pytest.importorskip("geotorch")
    layer = nn.Linear(x.shape[1], x.shape[0], bias=False, dtype=x.dtype)
    getattr(geotorch, constraint)(layer, "weight")
    layer.weight = x
    (layer.weight * g).sum().backward()
    before = layer.weight.detach().clone()
    cls(layer.parameters(), lr=LR).step()
    return layer.weight.detach() - before


def rotation(*shape):
    x, g = start(Stiefel(), *shape)
    if shape[0] == shape[1] and torch.linalg.det(x) < 0:
        x[:, 0] *= -1
    return x, g


@pytest.mark.parametrize("shape", SHAPES)
def test_geotorch_sgd_the_same_in_the_canonical_metric(shape):
    x, g = rotation(*shape)
    theirs = geotorch_step("orthogonal", x, g, torch.optim.SGD)
    assert_agree(theirs, ours(Stiefel(metric="canonical"), x, g, LR))


def test_geotorch_sgd_on_square_matrices_twice():
    x, g = rotation(6, 6)
    theirs = geotorch_step("orthogonal", x, g, torch.optim.SGD)
    assert_agree(theirs, ours(Stiefel(), x, g, 2 * LR))


def test_geotorch_sgd_on_spheres_the_same():
    x, g = start(Sphere(), 3, 8)
    assert_agree(geotorch_step("sphere", x, g, torch.optim.SGD), ours(Sphere(), x, g, LR))


@pytest.mark.parametrize("shape", SHAPES)
def test_geotorch_adam_about_the_same(shape):
    x, g = rotation(*shape)
    n = shape[0]
    theirs = geotorch_step("orthogonal", x, g, torch.optim.Adam)
    assert rms(theirs) == pytest.approx(LR * math.sqrt((n - 1) / n), rel=1e-3)


# --- pymanopt ---


def pymanopt_manifold(name, shape):
    pytest.importorskip("pymanopt")
    manifolds = pytest.importorskip("pymanopt.manifolds")
    return getattr(manifolds, name)(*shape)


PYMANOPT = [
    pytest.param("Stiefel", (9, 4), Stiefel(), id="Stiefel"),
    pytest.param("Stiefel", (6, 6), Stiefel(), id="Stiefel, square"),
    pytest.param("Sphere", (8,), Sphere(), id="Sphere"),
    pytest.param("Oblique", (8, 3), Sphere(dim=0), id="Oblique"),
]


@pytest.mark.parametrize(("name", "shape", "manifold"), PYMANOPT)
def test_pymanopt_step_size_the_same(name, shape, manifold):
    theirs = pymanopt_manifold(name, shape)
    x, g = start(manifold, *shape)
    grad = theirs.euclidean_to_riemannian_gradient(x.numpy(), g.numpy())
    y = torch.as_tensor(theirs.retraction(x.numpy(), -LR * grad))
    assert_agree(y - x, ours(manifold, x, g, LR))


@pytest.mark.parametrize(("name", "shape", "manifold"), PYMANOPT)
def test_pymanopt_first_step_of_a_line_search_is_a_length(name, shape, manifold):
    theirs = pymanopt_manifold(name, shape)
    import pymanopt
    from pymanopt.optimizers import SteepestDescent
    from pymanopt.optimizers.line_search import BackTrackingLineSearcher

    x, g = start(manifold, *shape)

    @pymanopt.function.numpy(theirs)
    def cost(w):
        return (w * g.numpy()).sum()

    @pymanopt.function.numpy(theirs)
    def gradient(w):
        return g.numpy()

    problem = pymanopt.Problem(theirs, cost, euclidean_gradient=gradient)
    search = BackTrackingLineSearcher(initial_step_size=LR)
    found = SteepestDescent(line_searcher=search, max_iterations=1, verbosity=0).run(
        problem, initial_point=x.numpy()
    )
    length = manifold.proj_tangent(x, g).norm().item()
    assert_agree(torch.as_tensor(found.point) - x, ours(manifold, x, g, LR / length))

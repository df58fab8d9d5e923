"""PoincareBall, Lorentz and Stereographic: values from outside, far out in float32, learned κ."""

import copy
import io
import math
import pickle

import mpmath
import pytest
import torch
from torch import nn

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD, manifold_of
from riemopt.manifolds import Lorentz, PoincareBall, Sphere, Stereographic
from riemopt.manifolds import hyperbolic as maps
from tests.manifold_cases import generator

geoopt = pytest.importorskip("geoopt")

F64 = torch.float64
close = torch.testing.assert_close


def randn(*shape, seed=0, dtype=F64):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


# --- geoopt, in float64 -------------------------------------------------------------------------

CONFORMAL = [
    PoincareBall(),
    PoincareBall(0.5),
    *(Stereographic(k) for k in (-2.0, -0.5, 0.0, 0.7)),
    *(Stereographic(torch.tensor(k, dtype=F64)) for k in (-0.5, 0.0, 0.7)),
]


@pytest.mark.parametrize("ours", CONFORMAL, ids=str)
def test_conformal_models_agree_with_geoopt(ours):
    theirs = geoopt.Stereographic(k=torch.as_tensor(ours.curvature, dtype=F64))
    x, y, u, v = (0.2 * randn(6, 4, seed=i) for i in range(4))
    M = randn(3, 4, seed=5)
    pairs = [
        (ours.egrad2rgrad(x, u), theirs.egrad2rgrad(x, u)),
        (ours.inner(x, u, v), theirs.inner(x, u, v, keepdim=True)[..., 0]),
        (ours.exp(x, u), theirs.expmap(x, u)),
        (ours.retract(x, u), theirs.expmap(x, u)),
        (ours.log(x, y), theirs.logmap(x, y)),
        (ours.dist(x, y), theirs.dist(x, y)),
        (ours.geodesic(x, y, 0.3), theirs.geodesic(torch.tensor(0.3, dtype=F64), x, y)),
        (ours.parallel_transport(x, y, v), theirs.transp(x, y, v)),
        (ours.exp0(u), theirs.expmap0(u)),
        (ours.log0(y), theirs.logmap0(y)),
        (ours.mobius_add(x, y), theirs.mobius_add(x, y)),
        (ours.mobius_matvec(M, x), theirs.mobius_matvec(M, x)),
        (
            ours.mobius_scalar_mul(1.7, x),
            theirs.mobius_scalar_mul(torch.tensor(1.7, dtype=F64), x),
        ),
        (ours.gyration(x, y, v), theirs.gyration(x, y, v)),
        (ours.dist_to_hyperplane(x, y, v), theirs.dist2plane(x, y, v)),
        (
            ours.dist_to_hyperplane(x, y, v, signed=True),
            theirs.dist2plane(x, y, v, signed=True),
        ),
    ]
    for mine, other in pairs:
        close(mine, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("c", [0.5, 1.0, 2.0])
def test_lorentz_agrees_with_geoopt(c):
    ours, theirs = Lorentz(c), geoopt.Lorentz(k=torch.tensor(1 / c, dtype=F64))
    x, y = (ours.random_point(6, 5, dtype=F64, generator=generator(i)) for i in (0, 1))
    u, v = (ours.random_tangent(x, generator=generator(i)) for i in (2, 3))
    g, at_origin = randn(6, 5, seed=4), nn.functional.pad(u[:, 1:], (1, 0))
    pairs = [
        (ours.egrad2rgrad(x, g), theirs.egrad2rgrad(x, g.clone())),
        (ours.inner(x, u, v), theirs.inner(x, u, v)),
        (ours.exp(x, u), theirs.expmap(x, u)),
        (ours.retract(x, u), theirs.expmap(x, u)),
        (ours.log(x, y), theirs.logmap(x, y)),
        (ours.dist(x, y), theirs.dist(x, y)),
        (ours.parallel_transport(x, y, v), theirs.transp(x, y, v)),
        (ours.exp0(u[:, 1:]), theirs.expmap0(at_origin)),
        (ours.log0(y), theirs.logmap0(y)[:, 1:]),
    ]
    for mine, other in pairs:
        close(mine, other, rtol=1e-10, atol=1e-12)


def test_the_ball_agrees_with_pymanopt():
    """Hessian included."""
    manifolds = pytest.importorskip("pymanopt").manifolds
    theirs, ours = manifolds.PoincareBall(4), PoincareBall()
    x, y, g, h, u = (0.2 * randn(4, seed=i) for i in range(5))
    a, b, G, H, v = (t.numpy() for t in (x, y, g, h, u))
    pairs = [
        (ours.egrad2rgrad(x, g), theirs.euclidean_to_riemannian_gradient(a, G)),
        (ours.ehess2rhess(x, g, h, u), theirs.euclidean_to_riemannian_hessian(a, G, H, v)),
        (ours.inner(x, g, u), theirs.inner_product(a, G, v)),
        (ours.exp(x, u), theirs.exp(a, v)),
        (ours.log(x, y), theirs.log(a, b)),
        (ours.dist(x, y), theirs.dist(a, b)),
        (ours.mobius_add(x, y), theirs.mobius_addition(a, b)),
    ]
    for mine, other in pairs:
        close(mine, torch.as_tensor(other), rtol=1e-8, atol=1e-10)


# --- one geometry in several models -------------------------------------------------------------


@pytest.mark.parametrize("c", [0.5, 1.0, 3.0])
def test_the_models_are_isometric(c):
    ball, lorentz = PoincareBall(c), Lorentz(c)
    x, y = (ball.random_point(7, 4, dtype=F64, generator=generator(i)) for i in (0, 1))
    u, v = (ball.random_tangent(x, generator=generator(i)) for i in (2, 3))

    def lift(point, vector):
        return torch.func.jvp(lambda a: maps.ball_to_lorentz(a, c), (point,), (vector,))

    (X, U), (Y, _) = lift(x, u), lift(y, u)
    V = lift(x, v)[1]
    assert lorentz.violation(X).max() < 1e-13
    close(lorentz.dist(X, Y), ball.dist(x, y))
    close(lorentz.inner(X, U, V), ball.inner(x, u, v))
    close(lorentz.exp(X, U), maps.ball_to_lorentz(ball.exp(x, u), c))
    close(lorentz.log(X, Y), lift(x, ball.log(x, y))[1])
    close(lorentz.transport(X, Y, V), lift(y, ball.transport(x, y, v))[1])
    close(lorentz.parallel_transport(X, Y, V), lift(y, ball.parallel_transport(x, y, v))[1])
    p, a = Y, lift(y, v)[1]
    for signed in (False, True):
        theirs = ball.dist_to_hyperplane(x, y, v, signed)
        close(lorentz.dist_to_hyperplane(X, p, a, signed), theirs)
    close(maps.lorentz_to_ball(X, c), x)
    close(maps.klein_to_ball(maps.ball_to_klein(x, c), c), x)
    close(maps.lorentz_to_klein(X, c), maps.ball_to_klein(x, c))
    close(maps.klein_to_lorentz(maps.ball_to_klein(x, c), c), X)


def test_positive_curvature_is_that_of_the_sphere():
    """By the stereographic projection of the sphere of radius 1/√k."""
    k = 0.7
    m, sphere = Stereographic(k), Sphere(radius=1 / math.sqrt(k))

    def lift(a):
        square = k * a.square().sum(-1, keepdim=True)
        return torch.cat([2 * a, (1 - square) / math.sqrt(k)], -1) / (1 + square)

    x, y = (m.random_point(7, 3, dtype=F64, generator=generator(i)) for i in (0, 1))
    close(m.dist(x, y), sphere.dist(lift(x), lift(y)))
    u = m.log(x, y)
    close(torch.func.jvp(lift, (x,), (u,))[1], sphere.log(lift(x), lift(y)))


@pytest.mark.parametrize("make", [RiemannianSGD, RiemannianAdam])
def test_an_optimizer_takes_the_same_way_in_both_models(make):
    """Steps and transport are those of the space, not of its coordinates."""
    options = {"momentum": 0.9} if make is RiemannianSGD else {"second_moment": "point"}
    target = PoincareBall().random_point(4, dtype=F64, generator=generator(5))
    x = PoincareBall().random_point(1, 4, dtype=F64, generator=generator(6))
    start = {PoincareBall(): x, Lorentz(): maps.ball_to_lorentz(x)}
    ends = []
    for manifold, point in start.items():
        goal = target if isinstance(manifold, PoincareBall) else maps.ball_to_lorentz(target)
        p = ManifoldParameter(point, manifold)
        # Adam's unit is the root mean square of the entries, of which a point of Lorentz has five.
        scale = math.sqrt(4 / p.shape[-1]) if make is RiemannianAdam else 1.0
        optimizer = make([p], lr=0.05 * scale, **options)
        for _ in range(30):
            optimizer.zero_grad()
            manifold.dist(p, goal).square().sum().backward()
            optimizer.step()
        ends.append(p.detach())
    close(maps.lorentz_to_ball(ends[1]), ends[0], rtol=1e-7, atol=1e-7)


# --- far out, in float32 ------------------------------------------------------------------------


def exact_distance(x, y):
    """Of points of Lorentz(1), by their spatial parts, with fifty digits."""
    with mpmath.workdps(50):
        rows = [[[mpmath.mpf(value) for value in row] for row in a[:, 1:].tolist()] for a in (x, y)]
        found = []
        for a, b in zip(*rows, strict=True):
            heights = [mpmath.sqrt(1 + mpmath.fsum(v * v for v in point)) for point in (a, b)]
            inner = mpmath.fsum(v * w for v, w in zip(a, b, strict=True))
            found.append(float(mpmath.acosh(heights[0] * heights[1] - inner)))
    return torch.tensor(found, dtype=F64)


def pairs_at(radius, distance, count=500, n=3):
    """Points of Lorentz(1) in float64 at `radius`, and others at `distance` in all directions."""
    m = Lorentz()
    x = m.exp0(radius * nn.functional.normalize(randn(count, n), dim=-1))
    u = m.random_tangent(x, generator=generator(1))
    return x, m.exp(x, u * (distance / m.norm(x, u, keepdim=True)))


DISTANCES = (1e-3, 0.1, 1.0, 4.0)


@pytest.mark.parametrize("distance", DISTANCES)
def test_lorentz_distances_at_radius_8_in_float32(distance):
    x, y = (a.float() for a in pairs_at(8.0, distance))
    exact = exact_distance(x, y)
    assert ((Lorentz().dist(x, y).double() - exact).abs() / exact).max() < 1e-6
    u = Lorentz().log(x, y).double()  # its ambient entries are e⁸ times as long
    assert ((Lorentz().norm(x.double(), u) - exact).abs() / exact).max() < 5e-3


@pytest.mark.parametrize("distance", DISTANCES)
def test_ball_distances_at_radius_8_in_float32(distance):
    x, y = pairs_at(8.0, distance)
    inside = Lorentz().dist(y, Lorentz().exp0(torch.zeros(3, dtype=F64))) < 8.6  # the rim is at 8.7
    assert inside.sum() > 5
    x, y = (maps.lorentz_to_ball(a[inside]).float() for a in (x, y))
    exact = PoincareBall().dist(x.double(), y.double())
    lifted = [maps.ball_to_lorentz(a.double()) for a in (x, y)]
    close(exact, exact_distance(*lifted), rtol=1e-7, atol=0)
    assert ((PoincareBall().dist(x, y).double() - exact).abs() / exact).max() < 1e-6
    norm = PoincareBall().norm(x.double(), PoincareBall().log(x, y).double())
    assert ((norm - exact).abs() / exact).max() < 1e-5


@pytest.mark.parametrize("distance", [1e-3, 1.0, 8.0, 20.0])
@pytest.mark.parametrize("radius", [0.0, 1.0, 8.0, 12.0, 16.0])
def test_lorentz_distances_in_float64_at_every_radius(radius, distance):
    x, y = pairs_at(radius, distance, count=20)
    exact = exact_distance(x, y)
    bound = torch.finfo(F64).eps * (1e5 + math.exp(radius + distance) / 10)
    assert ((Lorentz().dist(x, y) - exact).abs() / exact).max() < bound


@pytest.mark.parametrize("manifold", [PoincareBall(), Lorentz()], ids=str)
def test_the_way_back_from_far_out_keeps_its_digits(manifold):
    origin = torch.zeros(20, 5, dtype=F64)
    if isinstance(manifold, Lorentz):
        origin[:, 0] = 1
    u = manifold.random_tangent(origin, generator=generator(0))
    u = u * (8 / manifold.norm(origin, u, keepdim=True))
    x = manifold.exp(origin, u)
    close(manifold.dist(origin, x), torch.full((20,), 8.0, dtype=F64))
    back = manifold.exp(x, manifold.log(x, origin))
    assert manifold.dist(back, origin).max() < 1e-9
    half = manifold.geodesic(x, manifold.exp(origin, -u), 0.5)
    assert manifold.dist(half, origin).max() < 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("manifold", [PoincareBall(), PoincareBall(4.0), Lorentz()], ids=str)
def test_points_stay_within_the_rim(manifold, dtype):
    """Steps outwards without end; then every method is finite, and so is the way back."""
    x = manifold.random_point(3, 4, dtype=dtype, generator=generator(0))
    for _ in range(100):
        origin = manifold.project(torch.zeros_like(x))
        u = -manifold.log(x, origin)
        x = manifold.retract(x, u * (3 / manifold.norm(x, u, keepdim=True)))
        assert (manifold.violation(x) <= manifold.tolerance(x)).all()
    r = manifold.dist(x, origin) * math.sqrt(manifold.c)
    half_the_digits = math.log(2 / math.sqrt(torch.finfo(dtype).eps))
    rim = half_the_digits if isinstance(manifold, PoincareBall) else 2 * half_the_digits
    assert ((r - rim).abs() < 1).all()
    gradient = manifold.egrad2rgrad(x, torch.ones_like(x))
    assert gradient.isfinite().all()
    assert manifold.norm(x, gradient).isfinite().all()
    assert manifold.dist(x, x.flip(0)).isfinite().all()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("manifold", [PoincareBall(), Stereographic(0.5)], ids=str)
def test_the_nearest_point_has_the_direction_of_the_tensor(manifold, scale):
    a = scale * nn.functional.normalize(randn(4, 3, dtype=torch.float32), dim=-1)
    y = manifold.project(a)
    expected = min(scale, 1 - 2**-11.5 if isinstance(manifold, PoincareBall) else 2**12)
    close(y, a * (expected / scale), rtol=1e-6, atol=0)


# --- a curvature that is learned ----------------------------------------------------------------


def test_a_learned_curvature_is_compared_by_identity():
    c, same_value = (nn.Parameter(torch.tensor(1.0)) for _ in range(2))
    ball = PoincareBall(c)
    assert ball == PoincareBall(c)
    assert hash(ball) == hash(PoincareBall(c))
    assert ball != PoincareBall(same_value)
    assert ball != PoincareBall()
    assert ball != Lorentz(c)
    before = hash(ball)
    with torch.no_grad():
        c.fill_(2.0)
    assert hash(ball) == before
    assert repr(ball) == "PoincareBall(c=<learned, 2>)"


class Model(nn.Module):
    def __init__(self, manifold=PoincareBall):
        super().__init__()
        self.c = nn.Parameter(torch.tensor(1.0, dtype=F64))
        m = manifold(self.c)
        x = m.random_point(5, 3, dtype=F64, generator=generator(0))
        self.x = ManifoldParameter(x.detach(), m)


@pytest.mark.parametrize(
    "remake",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: torch_saved(m)],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_a_copied_model_refers_to_its_own_curvature(remake):
    model = remake(Model())
    assert manifold_of(model.x).c is model.c


def torch_saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_a_learned_curvature_can_be_moved_and_loaded():
    model, other = Model(), Model()
    with torch.no_grad():
        other.c.fill_(0.5)
    model.load_state_dict(other.state_dict())
    model.to(torch.float32)
    assert manifold_of(model.x).c is model.c
    assert float(manifold_of(model.x).curvature) == -0.5


METHODS = {
    "exp": lambda m, x, y, u: m.exp(x, u),
    "log": lambda m, x, y, u: m.log(x, y),
    "dist": lambda m, x, y, u: m.dist(x, y),
    "retract": lambda m, x, y, u: m.retract(x, u),
    "inner": lambda m, x, y, u: m.inner(x, u, u),
    "transport": lambda m, x, y, u: m.transport(x, y, u),
    "parallel transport": lambda m, x, y, u: m.parallel_transport(x, y, u),
    "log0": lambda m, x, y, u: m.log0(x),
    "hyperplane": lambda m, x, y, u: m.dist_to_hyperplane(x, y, u, signed=True),
}
MOBIUS = {
    "exp0": lambda m, x, y, u: m.exp0(u),
    "add": lambda m, x, y, u: m.mobius_add(x, y),
    "matvec": lambda m, x, y, u: m.mobius_matvec(u.mT @ u, x),
    "scalar": lambda m, x, y, u: m.mobius_scalar_mul(0.7, x),
    "gyration": lambda m, x, y, u: m.gyration(x, y, u),
}


@pytest.mark.parametrize("method", {**METHODS, **MOBIUS})
@pytest.mark.parametrize("k", [-1.5, -1e-5, 0.0, 1e-5, 0.8])
def test_derivatives_with_respect_to_everything(k, method):
    """Of points, vectors and the curvature, also at curvature 0 and in its neighbourhood."""
    x, y, u = (0.2 * randn(2, 3, seed=i) for i in range(3))
    curvature = torch.tensor(k, dtype=F64)
    call = {**METHODS, **MOBIUS}[method]
    given = [a.requires_grad_() for a in (curvature, x, y, u)]
    assert torch.autograd.gradcheck(lambda k, x, y, u: call(Stereographic(k), x, y, u), given)


@pytest.mark.parametrize("method", METHODS)
def test_derivatives_of_lorentz(method):
    m = Lorentz(1.5)
    x, y = (m.random_point(2, 4, dtype=F64, generator=generator(i)) for i in (0, 1))
    u = m.random_tangent(x, generator=generator(2))
    c = torch.tensor(1.5, dtype=F64)
    given = [a.requires_grad_() for a in (c, x, y, u)]
    assert torch.autograd.gradcheck(lambda c, x, y, u: METHODS[method](Lorentz(c), x, y, u), given)


@pytest.mark.parametrize("where", ["coincident", "zero step", "origin"])
@pytest.mark.parametrize(
    "manifold", [PoincareBall(), Stereographic(0.5), Stereographic(), Lorentz()], ids=str
)
def test_derivatives_where_a_quotient_is_0_over_0(manifold, where):
    n = 3 + isinstance(manifold, Lorentz)
    x = manifold.random_point(2, n, dtype=F64, generator=generator(0))
    if where == "origin":
        x = manifold.project(torch.zeros_like(x))
    y = x.clone() if where == "coincident" else manifold.random_point(2, n, dtype=F64)
    u = manifold.random_tangent(x, generator=generator(1)) * (where != "zero step")
    given = [a.detach().requires_grad_() for a in (x, y, u)]
    for name in ("exp", "log", "retract", "transport", "parallel transport", "log0", "dist"):
        call = METHODS[name]
        if name == "dist" and where == "coincident":  # a cone: 0 is a subgradient
            call(manifold, *given).sum().backward()
            assert torch.equal(given[0].grad, torch.zeros_like(x))
            call = lambda m, x, y, u: m.dist(x, y).square()  # noqa: E731
        assert torch.autograd.gradcheck(lambda *a, f=call: f(manifold, *a), given), name


def test_curvature_is_learned_from_distances():
    """Points of a sphere and of hyperbolic space, from flat space: k finds its sign and value."""
    for truth in (-1.0, 0.5):
        goal = Stereographic(truth)
        x = goal.random_point(12, 3, dtype=F64, generator=generator(0))
        distances = goal.dist(x.unsqueeze(0), x.unsqueeze(1))
        k = nn.Parameter(torch.zeros((), dtype=F64))
        m = Stereographic(k)
        points = ManifoldParameter(x + 0.05 * randn(12, 3, seed=1), m)
        optimizer = RiemannianAdam([points, k], lr=0.02, second_moment="point")
        for _ in range(600):
            optimizer.zero_grad()
            loss = (m.dist(points.unsqueeze(0), points.unsqueeze(1)) - distances).square().sum()
            loss.backward()
            optimizer.step()
        assert loss < 1e-2
        assert abs(k.item() - truth) < 0.1


@pytest.mark.parametrize("manifold", [PoincareBall, Lorentz])
@pytest.mark.parametrize(
    "make", [RiemannianSGD, lambda p, lr: RiemannianAdam(p, lr, second_moment="point")]
)
def test_a_step_after_the_curvature_has_grown(manifold, make):
    """Points that are out of the ball, or off the hyperboloid, are put back by the next step."""
    model = Model(manifold)
    m = manifold_of(model.x)
    optimizer = make([model.x], lr=2e-2)
    with torch.no_grad():
        model.c.fill_(50.0)
    goal = m.random_point(5, 3, dtype=F64, generator=generator(9)).detach()
    far = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = m.dist(model.x, goal).square().sum()
        loss.backward()
        optimizer.step()
        far.append(loss.item())
        assert (m.violation(model.x.detach()) <= m.tolerance(model.x.detach())).all()
    assert far[-1] < far[1] / 2


WRONG = [
    (lambda: PoincareBall(0.0), "positive, finite c"),
    (lambda: PoincareBall(-1.0), "positive, finite c"),
    (lambda: Lorentz(math.inf), "positive, finite c"),
    (lambda: Stereographic(math.nan), "finite k"),
    (lambda: PoincareBall(torch.tensor([1.0])), "no dimensions"),
    (lambda: Lorentz(torch.tensor(1)), "floating-point"),
    (lambda: PoincareBall(torch.tensor(-1.0)), "positive, finite c"),
    (lambda: PoincareBall().check_shape((3, 0)), "at least one entry"),
    (lambda: Lorentz().check_shape((3, 1)), "at least 2 entries"),
    (lambda: PoincareBall().check_shape(()), "vectors"),
]


@pytest.mark.parametrize(("make", "said"), WRONG)
def test_wrong_options_and_shapes_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("manifold", [PoincareBall(), Lorentz(), Stereographic()], ids=str)
def test_points_are_real(manifold):
    with pytest.raises(TypeError, match="real"):
        ManifoldParameter(torch.randn(3, 4, dtype=torch.complex64), manifold)


# --- samples, and training ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "manifold", [PoincareBall(0.5), Lorentz(2.0), Stereographic(0.3), Stereographic()], ids=str
)
def test_wrapped_normal_samples(manifold):
    """In the tangent space at the mean they are normal, with the standard deviation asked for."""
    n = 3 + isinstance(manifold, Lorentz)
    mean = manifold.random_point(n, dtype=F64, generator=generator(0)).expand(20000, n)
    y = manifold.wrapped_normal(mean, 0.3, generator=generator(1))
    assert (manifold.violation(y) <= manifold.tolerance(y)).all()
    v = manifold.log(mean, y)
    close(manifold.inner(mean, v, v).mean() / 3, torch.tensor(0.09, dtype=F64), rtol=0.02, atol=0)
    assert manifold.norm(mean[0], v.mean(0)) < 0.01
    std = torch.tensor([0.0, 0.5, 0.0], dtype=F64)  # along one direction at the origin
    along = manifold.log(mean, manifold.wrapped_normal(mean, std, generator=generator(2)))
    assert torch.linalg.matrix_rank(along, rtol=1e-8) == 1


STARTS = {
    "random": lambda m, n: m.random_point(6, n, generator=generator(1)),
    "far": lambda m, n: m.project(30 * randn(6, n, seed=2, dtype=torch.float32)),
    "zero": lambda m, n: m.project(torch.zeros(6, n)),
}
OPTIMIZERS = {
    "sgd": lambda p: RiemannianSGD(p, lr=0.1, momentum=0.5),
    "adam": lambda p: RiemannianAdam(p, lr=0.1),
    "point": lambda p: RiemannianAdam(p, lr=0.2, second_moment="point"),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("make", "start"),
    [(m, s) for m in OPTIMIZERS for s in STARTS if (m, s) != ("adam", "far")],
)
@pytest.mark.parametrize("manifold", [PoincareBall(2.0), Lorentz(), Stereographic(0.5)], ids=str)
def test_training_finds_a_known_optimum(manifold, make, start):
    """Half the squared distance from a goal, from a random start, from far out and from zero.

    (On the rim gradients are of the size of Adam's eps in coordinates.)
    """
    n = 3 + isinstance(manifold, Lorentz)
    goal = manifold.random_point(6, n, generator=generator(0))
    p = ManifoldParameter(STARTS[start](manifold, n), manifold)
    optimizer = OPTIMIZERS[make]([p])
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    for _ in range(600):
        optimizer.zero_grad()
        (manifold.dist(p, goal).square().sum() / 2).backward()
        optimizer.step()
        scheduler.step()
    assert manifold.dist(p.detach(), goal).max() < 1e-2
    assert optimizer.skipped_steps == 0

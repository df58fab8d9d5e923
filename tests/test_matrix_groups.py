"""GL⁺(n) and SL(n): geodesics, invariance, any start, the boundary, derivatives, training."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD
from riemopt.manifolds import (
    GLPlus,
    LevelSet,
    SpecialLinear,
    SpecialOrthogonal,
    SymplecticStiefel,
)
from tests.manifold_cases import HALF, generator, name

GL, SL = GLPlus(), SpecialLinear()
both = pytest.mark.parametrize("m", [GL, SL], ids=str)
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def point(m, *shape, seed=0, dtype=torch.float64):
    return m.random_point(*shape, generator=generator(seed), dtype=dtype)


# --- geodesics and the metric ------------------------------------------------------------------


@both
def test_exp_solves_the_geodesic_equation(m):
    """Ẋ = XA and Ȧ = AᵀA - AAᵀ (Euler & Arnold's, of a left-invariant metric), by Runge & Kutta."""
    x = point(m, 3, 3)
    u = m.random_tangent(x, generator=generator(1))
    X, A, steps = x, torch.linalg.solve(x, u), 200
    h = 1 / steps

    def rate(X, A):
        return X @ A, A.mT @ A - A @ A.mT

    for _ in range(steps):
        k1 = rate(X, A)
        k2 = rate(X + h / 2 * k1[0], A + h / 2 * k1[1])
        k3 = rate(X + h / 2 * k2[0], A + h / 2 * k2[1])
        k4 = rate(X + h * k3[0], A + h * k3[1])
        X = X + h / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
        A = A + h / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
    torch.testing.assert_close(m.exp(x, u), X, rtol=1e-7, atol=1e-7)


@both
def test_left_translations_change_nothing(m):
    x, y = point(m, 3, 3), point(m, 3, 3, seed=1)
    u, v = (m.random_tangent(x, generator=generator(i)) for i in (2, 3))
    g, h = noise(3, 3, seed=4), noise(3, 3, seed=5)
    G, H = (torch.linalg.solve(y.mT, a) for a in (g, h))  # of f(Y⁻¹·)
    pairs = [
        (m.inner(y @ x, y @ u, y @ v), m.inner(x, u, v)),
        (m.exp(y @ x, y @ u), y @ m.exp(x, u)),
        (m.retract(y @ x, y @ u), y @ m.retract(x, u)),
        (m.egrad2rgrad(y @ x, G), y @ m.egrad2rgrad(x, g)),
        (m.ehess2rhess(y @ x, G, H, y @ u), y @ m.ehess2rhess(x, g, h, u)),
    ]
    for mine, other in pairs:
        torch.testing.assert_close(mine, other, **CLOSE)
    carried = m.transport(x, y, u)
    torch.testing.assert_close(m.inner(y, carried, carried), m.inner(x, u, u), **CLOSE)


def test_known_geodesics():
    """Turns are those of `SpecialOrthogonal`; along a symmetric A it is X·exp(A)."""
    x = SpecialOrthogonal().random_point(4, 4, generator=generator(0), dtype=torch.float64)
    u = SpecialOrthogonal().random_tangent(x, generator=generator(1))
    torch.testing.assert_close(GL.exp(x, u), SpecialOrthogonal().exp(x, u))
    x, a = point(GL, 4, 4), noise(4, 4, seed=2)
    a = a + a.mT
    torch.testing.assert_close(GL.exp(x, x @ a), x @ torch.linalg.matrix_exp(a), **CLOSE)


def test_gl_is_sl_and_a_scale():
    """The product of SL(n) with the numbers c of cX, whose metric is n·dc²/c²."""
    x, c = point(SL, 3, 3), 2.5
    u = SL.random_tangent(x, generator=generator(1))
    torch.testing.assert_close(GL.inner(c * x, c * u, c * u), SL.inner(x, u, u), **CLOSE)
    torch.testing.assert_close(GL.inner(x, x, u), torch.zeros(()).double(), **CLOSE)
    torch.testing.assert_close(GL.exp(x, u + x), torch.e * SL.exp(x, u), **CLOSE)
    g = noise(3, 3, seed=2)
    along = SL.egrad2rgrad(x, g) + x * (x * g).sum() / 3
    torch.testing.assert_close(GL.egrad2rgrad(x, g), along, **CLOSE)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_sl_is_the_level_set_of_the_determinant(n):
    twin = LevelSet(lambda X: torch.linalg.det(X) - 1, event_ndim=2)
    x, a = point(SL, n, n), noise(n, n, seed=1)
    torch.testing.assert_close(SL.proj_tangent(x, a), twin.proj_tangent(x, a), **CLOSE)
    for near in (x + 0.02 * a, x - 0.02 * a):
        torch.testing.assert_close(SL.project(near), twin.project(near), rtol=0, atol=1e-9)


def test_sl_of_order_two_is_symplectic():
    a = 0.1 * noise(50, 2, 2) + torch.eye(2).double()
    sp = SymplecticStiefel()
    torch.testing.assert_close(SL.proj_tangent(SL.project(a), a), sp.proj_tangent(SL.project(a), a))


# --- project -----------------------------------------------------------------------------------


def ill_starts(n):
    reflection = torch.eye(n).double()
    reflection[-1, -1] = -1
    return {
        "zeros": torch.zeros(n, n).double(),
        "rank one": torch.full((n, n), 2.0).double(),
        "reflection": reflection,
        "minus": -torch.eye(n).double(),
        "large reflection": 10 * reflection,
        "large": 10 * torch.eye(n).double(),
        "tiny": 1e-30 * torch.eye(n).double(),
        "huge": 1e30 * noise(n, n),
        "noise": noise(n, n, seed=1),
        "flipped noise": noise(n, n, seed=1).flip(0),
    }


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=name)
@pytest.mark.parametrize("start", ill_starts(2))
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_any_tensor_lands_well_inside(m, n, start, dtype):
    y = m.project(ill_starts(n)[start].to(dtype))
    assert y.dtype == dtype
    assert m.violation(y.double()) <= m.tolerance(y)
    if start not in ("noise", "flipped noise", "huge"):
        assert torch.linalg.cond(y.double()) < 1000


def test_inside_nothing_is_changed():
    x = torch.stack([torch.diag(torch.tensor([1.0, 1e-5])), 1e-20 * torch.eye(2), -torch.eye(2)])
    assert torch.equal(GL.project(x), x)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_nearest_matrix_of_determinant_one(n):
    """X - A is normal, and no point is nearer, for |det A| < 1 of either sign."""
    a = noise(200, n, n)
    a = (
        a
        / torch.linalg.det(a).abs()[:, None, None] ** (1 / n)
        * torch.linspace(0.05, 1, 200)[:, None, None].double()
    )
    y = SL.project(a)
    along = torch.linalg.matrix_norm(SL.proj_tangent(y, a - y))
    assert bool((along <= 1e-9 * (1 + torch.linalg.matrix_norm(y))).all())
    closest = torch.linalg.matrix_norm(a - y)
    for seed in range(30):
        other = SL.exp(y, 3 * torch.rand(()) * SL.random_tangent(y, generator=generator(seed)))
        assert bool((torch.linalg.matrix_norm(a - other) >= closest * (1 - 1e-9)).all())


@pytest.mark.parametrize("m", [GL, SL], ids=str)
def test_negative_determinants_are_seen(m):
    x = point(m, 4, 3, 3)
    x[1] = -x[1]
    assert m.violation(x).isinf().tolist() == [False, True, False, False]


def test_violation_is_nearly_a_distance():
    x = point(SL, 20, 4, 4)
    normal = torch.linalg.inv(x).mT
    normal = normal / torch.linalg.matrix_norm(normal, keepdim=True)
    apart = SL.violation(x + 1e-4 * normal)
    torch.testing.assert_close(apart, torch.full_like(apart, 1e-4), rtol=1e-3, atol=0)


# --- derivatives -------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [(1.0, 1.0, 1.0), (0.8, 0.8, 0.5), (2, 1, 0.4)], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_derivatives_where_singular_values_are_equal(values, sign):
    """Of det X = 1, of smaller and of negative determinants; a reflection needs one least value."""
    if sign < 0:
        values = (*values[:2], -0.3)
    Q, R = (SpecialOrthogonal().random_point(2, 3, 3, dtype=torch.float64)).unbind(0)
    a = ((Q * torch.tensor(values).double()) @ R).requires_grad_()
    assert gradcheck(SL.project, a, check_forward_ad=True)
    assert gradgradcheck(SL.project, a)


def test_derivatives_far_away():
    a = (5 * point(SL, 3, 3)).requires_grad_()
    assert gradcheck(SL.project, a)
    torch.testing.assert_close(torch.linalg.det(SL.project(a)), torch.ones(()).double())


@both
def test_derivatives_of_steps(m):
    x = torch.eye(3).double()
    for u in (torch.zeros(3, 3).double(), m.proj_tangent(x, 0.1 * noise(3, 3)), noise(3, 3)):
        given = [a.clone().requires_grad_() for a in (x, u)]
        assert gradcheck(m.retract, given)
        assert gradcheck(m.proj_tangent, given)
        assert gradcheck(m.norm, given)


# --- steps -------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF], ids=name)
def test_long_steps_are_cut(m, dtype):
    x = point(m, 5, 4, 4, dtype=dtype)
    u = m.random_tangent(x, generator=generator(1))
    for size in (1e-3, 1.0, 1e2, 1e4):
        for sign in (1, -1):
            y, taken = m.curve_with_fraction(x, u, sign * size)
            assert y.dtype == dtype
            assert bool((m.violation(y.double()) <= m.tolerance(y)).all())
            assert bool((taken == 1).all()) == (size < 0.1)
            assert bool((torch.linalg.det(y.double()) > 0).all())


@both
def test_a_step_that_is_not_finite_is_not_taken(m):
    x = point(m, 2, 3, 3)
    u = torch.zeros_like(x)
    u[1, 0, 0] = torch.nan
    y, taken = m.curve_with_fraction(x, u, 1.0)
    torch.testing.assert_close(y, x)
    assert taken.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_steps_end_before_the_boundary(dtype):
    """Straight at it, the smallest singular value goes down until rounding hides its sign."""
    x = torch.eye(3, dtype=dtype)
    singular = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=dtype))
    for _ in range(200):
        x, taken = GL.curve_with_fraction(x, singular - x, 1.0)
        assert torch.linalg.det(x) > 0
        assert GL.violation(x) == 0
    assert taken == 0
    eps = torch.finfo(dtype).eps
    assert eps < torch.linalg.svdvals(x)[-1] < 100 * eps
    away, taken = GL.curve_with_fraction(x, torch.eye(3, dtype=dtype) - x, 1.0)
    assert taken > 0
    assert torch.linalg.svdvals(away)[-1] > torch.linalg.svdvals(x)[-1]


@both
@pytest.mark.parametrize("n", [2, 5])
def test_a_thousand_float32_steps_stay_on_the_surface(m, n):
    x, gen = point(m, 4, n, n, dtype=torch.float32), generator(1)
    for _ in range(1000):
        a = torch.randn(4, n, n, generator=gen)
        x = m.retract(x, m.proj_tangent(x, 0.05 * x @ a))
    assert bool((m.violation(x.double()) <= m.tolerance(x)).all())
    assert bool((torch.linalg.det(x.double()) > 0).all())


@both
@pytest.mark.parametrize("dtype", HALF, ids=name)
@pytest.mark.parametrize("size", [30.0, 100.0])
def test_rounding_keeps_the_sign_of_the_determinant(m, size, dtype):
    Q, R = SpecialOrthogonal().random_point(2, 500, 3, 3, generator=generator(0)).unbind(0)
    x = m.project((Q * torch.tensor([size, size, size**-2])) @ R)
    y = m.round_point(x, dtype)
    assert bool((torch.linalg.det(x.to(dtype).double()) <= 0).any())
    assert bool((torch.linalg.det(y.double()) > 0).all())
    assert bool((m.violation(y.double()) <= m.tolerance(y)).all())
    assert torch.equal(m.round_point(y.float(), dtype), y)


@both
def test_float32_against_float64_of_the_same_points(m):
    """At condition numbers of up to 9."""
    x = point(m, 50, 5, 5, dtype=torch.float32)
    a = noise(50, 5, 5, seed=1, dtype=torch.float32)
    X, A = x.double(), a.double()

    def worst(found, exact):
        error = (found.double() - exact).flatten(1).norm(dim=1)
        return float((error / exact.flatten(1).norm(dim=1)).max())

    u = 0.1 * m.proj_tangent(x, a)
    U = u.double()
    pairs = [
        (m.proj_tangent(x, a), m.proj_tangent(X, A)),
        (m.egrad2rgrad(x, a), m.egrad2rgrad(X, A)),
        (m.ehess2rhess(x, a, a, u), m.ehess2rhess(X, A, A, U)),
        (m.retract(x, u), m.retract(X, U)),
        (m.exp(x, u), m.exp(X, U)),
        (m.norm(x, u)[:, None], m.norm(X, U)[:, None]),
        (m.project(x + u), m.project(X + U)),
    ]
    for found, exact in pairs:
        assert worst(found, exact) < 1e-5


@both
def test_complex_tensors_are_refused(m):
    with pytest.raises(ValueError, match="needs real tensors"):
        m.project(torch.eye(2, dtype=torch.complex64))


@both
@pytest.mark.parametrize("shape", [(3,), (3, 2), (0, 0)], ids=str)
def test_wrong_shapes_are_named(m, shape):
    with pytest.raises(ValueError, match="square matrices"):
        m.check_shape(shape)


# --- training ----------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda p: RiemannianSGD(p, lr=0.02, momentum=0.9),
    "Adam": lambda p: RiemannianAdam(p, lr=0.1, betas=(0.9, 0.99), second_moment="point"),
}
STARTS = ("random", "zeros", "large reflection", "noise")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@both
def test_known_optima(m, optimizer, start):
    """tr XᵀXC is least, n·(det C)^(1/n), at XᵀX = (det C)^(1/n)·C⁻¹ of determinant 1.

    With -2·log det X, the likelihood of independent components, it is n + log det C at XᵀX = C⁻¹.
    """
    C = noise(3, 12, seed=5)
    C = C @ C.mT / 12
    first = {**ill_starts(3), "random": point(m, 3, 3, seed=6)}[start]
    W = ManifoldParameter(first, m)

    def loss(X):
        barrier = -2 * torch.logdet(X) if m == GL else 0
        return ((X @ C) * X).sum() + barrier

    step = OPTIMIZERS[optimizer]([W])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(step, 400)
    for _ in range(400):
        step.zero_grad()
        loss(W).backward()
        step.step()
        schedule.step()
    logdet = torch.logdet(C)
    expected = 3 + logdet if m == GL else 3 * (logdet / 3).exp()
    torch.testing.assert_close(loss(W).detach(), expected, rtol=1e-5, atol=1e-5)
    assert m.violation(W.detach()) <= m.tolerance(W.detach())

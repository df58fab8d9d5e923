"""XᵀJX = J: values from elsewhere, any start, long steps, symplectic eigenvalues, reduction."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD, linalg
from riemopt.linalg import hermitian
from riemopt.manifolds import LevelSet, SymplecticStiefel
from tests.manifold_cases import generator, name

SP = SymplecticStiefel()
SHAPES = [(4, 4), (6, 2), (10, 4)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def points(*shape, seed=0, dtype=torch.float64):
    return SP.random_point(*shape, generator=generator(seed), dtype=dtype)


def form(size):
    """J = [[0, I], [-I, 0]] of that size."""
    n = size // 2
    J = torch.zeros(size, size, dtype=torch.float64)
    J[:n, n:], J[n:, :n] = torch.eye(n), -torch.eye(n)
    return J


# --- values from elsewhere ---------------------------------------------------------------------


@shapes
def test_a_step_is_the_dense_cayley_transform(shape):
    """Gao, Son, Absil & Stykel (SIOPT 2021): (I - SJ/2)⁻¹(I + SJ/2)X, an n×n solve."""
    x = points(*shape)
    u = 0.1 * SP.random_tangent(x, generator=generator(1))
    J, j, eye = form(shape[0]), form(shape[1]), torch.eye(shape[0]).double()
    G = eye - x @ j @ x.mT @ J.mT / 2
    S = G @ u @ (x @ j).mT + x @ j @ (G @ u).mT
    expected = torch.linalg.solve(eye - S @ J / 2, (eye + S @ J / 2) @ x)
    y, taken = SP.curve_with_fraction(x, u, 1.0)
    assert taken == 1
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


@shapes
def test_it_is_the_level_set_of_its_equation(shape):
    """One set, tangent space, Hessian, and nearest point of what is near."""
    J, j = form(shape[0]), form(shape[1])
    twin = LevelSet(lambda X: X.mT @ J.to(X) @ X - j.to(X), event_ndim=2)
    x = points(*shape)
    g, h, a = (noise(*shape, seed=i) for i in (1, 2, 3))
    u = SP.random_tangent(x, generator=generator(4))
    close = {"rtol": 0, "atol": 1e-10}
    torch.testing.assert_close(SP.proj_tangent(x, a), twin.proj_tangent(x, a), **close)
    torch.testing.assert_close(SP.ehess2rhess(x, g, h, u), twin.ehess2rhess(x, g, h, u), **close)
    assert twin.violation(SP.retract(x, u)) < 1e-13
    near = x + 1e-3 * a
    torch.testing.assert_close(SP.project(near), twin.project(near), rtol=0, atol=1e-8)


def test_of_order_two_it_is_the_special_linear_group():
    x = points(50, 2, 2)
    torch.testing.assert_close(torch.linalg.det(x), torch.ones(50).double())
    a = SP.project(noise(50, 2, 2))
    torch.testing.assert_close(torch.linalg.det(a), torch.ones(50).double())


def test_steps_are_the_same_where_nothing_may_be_read(monkeypatch):
    x, a = points(3, 6, 4), noise(3, 6, 4, seed=1)
    found = SP.proj_tangent(x, a)
    monkeypatch.setattr(hermitian, "reads_are_free", lambda *tensors: False)
    torch.testing.assert_close(SP.proj_tangent(x, a), found)


# --- project -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-3, 1.0, 1e3, 1e30])
@shapes
def test_any_tensor_lands_on_the_surface(shape, size, dtype):
    """Well inside, as its columns are orthonormal if it was not near."""
    a = size * noise(20, *shape, dtype=dtype)
    y = SP.project(a)
    assert bool((SP.violation(y.double()) <= SP.tolerance(y)).all())
    assert float(torch.linalg.matrix_norm(y.double(), 2).max()) < 10
    rank_one = SP.project(torch.full(shape, size, dtype=dtype))
    assert bool(SP.violation(rank_one) <= SP.tolerance(rank_one))


@shapes
def test_far_tensors_go_to_the_nearest_with_orthonormal_columns(shape):
    a = 5 * noise(20, *shape)
    y = SP.project(a)
    eye = torch.eye(shape[1]).double().expand(20, -1, -1)
    torch.testing.assert_close(y.mT @ y, eye)
    closest = torch.linalg.matrix_norm(a - y)
    for seed in range(50):
        other = linalg.orthosymplectic(noise(20, *shape, seed=seed))
        assert bool((torch.linalg.matrix_norm(a - other) >= closest).all())


@shapes
@pytest.mark.parametrize("noise_size", [1e-4, 1e-2, 5e-2])
def test_near_tensors_go_to_the_nearest_point(shape, noise_size):
    """The way there is normal, to second order in its length or better."""
    x = points(20, *shape)
    a = x + noise_size * noise(20, *shape, seed=1)
    y = SP.project(a)
    along = torch.linalg.matrix_norm(SP.proj_tangent(y, a - y))
    way = torch.linalg.matrix_norm(a - y)
    assert bool((along <= way.square()).all())


@shapes
def test_points_of_any_norm_are_kept(shape):
    x = points(4, *shape)
    for seed in range(200):
        x = SP.retract(x, 0.5 * SP.random_tangent(x, generator=generator(seed)))
    assert float(torch.linalg.matrix_norm(x).max()) > 5
    torch.testing.assert_close(SP.project(x), x)


# --- steps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=name)
def test_long_steps_are_cut(dtype):
    x = points(5, 6, 4, dtype=dtype)
    u = SP.random_tangent(x, generator=generator(1))
    for size in (1e-3, 1.0, 1e2, 1e6):
        y, taken = SP.curve_with_fraction(x, u, size)
        assert y.dtype == dtype
        assert bool((SP.violation(y.double()) <= SP.tolerance(y)).all())
        assert bool((taken <= 1).all())
        assert bool((taken == 1).all()) == (size < 0.1)
        moved = torch.linalg.matrix_norm((y - x).double())
        assert bool((moved <= 3 * torch.linalg.matrix_norm(x.double())).all())


def test_a_step_that_is_not_finite_is_not_taken():
    x = points(2, 4, 2)
    u = torch.zeros_like(x)
    u[1, 0, 0] = torch.nan
    y, taken = SP.curve_with_fraction(x, u, 1.0)
    torch.testing.assert_close(y, x)
    assert taken.tolist() == [1.0, 0.0]


def test_a_thousand_float32_steps_stay_on_the_surface():
    x, gen = points(4, 10, 4, dtype=torch.float32), generator(1)
    for _ in range(1000):
        x = SP.retract(x, 0.1 * SP.random_tangent(x, generator=gen))
    assert bool((SP.violation(x.double()) <= SP.tolerance(x)).all())


def test_float32_against_float64_of_the_same_points():
    x = points(50, 10, 4, dtype=torch.float32)
    a = noise(50, 10, 4, seed=1, dtype=torch.float32)
    X, A = x.double(), a.double()

    def worst(found, exact):
        error = torch.linalg.matrix_norm(found.double() - exact)
        return float((error / torch.linalg.matrix_norm(exact)).max())

    u = SP.proj_tangent(x, a)
    assert worst(u, SP.proj_tangent(X, A)) < 3e-6
    assert worst(SP.retract(x, u), SP.retract(X, u.double())) < 3e-6
    assert worst(SP.project(x + a / 100), SP.project((x + a / 100).double())) < 3e-6


# --- derivatives -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["orthonormal", "generic"])
def test_derivatives_where_eigenvalues_are_equal(kind):
    """XᵀX = I at orthonormal columns, for which the Lyapunov equation has one eigenvalue."""
    x = {"orthonormal": SP.project(noise(4, 2)), "generic": points(4, 2)}[kind]
    u = 0.1 * SP.random_tangent(x, generator=generator(1))
    given = [a.clone().requires_grad_() for a in (x, u)]
    assert gradcheck(SP.proj_tangent, given)
    assert gradgradcheck(SP.proj_tangent, given)
    assert gradcheck(SP.retract, given)
    assert gradcheck(SP.project, (x + 1e-2 * noise(4, 2, seed=2)).requires_grad_())
    zero = [x.clone().requires_grad_(), torch.zeros_like(u).requires_grad_()]
    assert gradcheck(SP.retract, zero)


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4,), (4, 3), (5, 2), (2, 4), (4, 0)], ids=str)
def test_wrong_shapes_are_named(shape):
    with pytest.raises(ValueError, match="even sizes with 1 ≤ p ≤ n"):
        SP.check_shape(shape)


def test_complex_tensors_are_refused():
    with pytest.raises(ValueError, match="needs real tensors"):
        SP.project(torch.zeros(4, 2, dtype=torch.complex64))


# --- training ----------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda p: RiemannianSGD(p, lr=0.05, momentum=0.9),
    "Adam": lambda p: RiemannianAdam(p, lr=0.05),
}
STARTS = {
    "random": lambda shape: points(*shape, seed=7),
    "zeros": lambda shape: torch.zeros(shape).double(),
    "far": lambda shape: 100 * noise(*shape, seed=8),
}


def minimise(shape, start, optimizer, loss, steps=300):
    W = ManifoldParameter(STARTS[start](shape), SP)
    step = OPTIMIZERS[optimizer]([W])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(step, steps)
    for _ in range(steps):
        step.zero_grad()
        loss(W).backward()
        step.step()
        schedule.step()
    assert bool((SP.violation(W.detach()) <= SP.tolerance(W.detach())).all())
    return W.detach()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("shape", [(10, 4), (4, 4)], ids=str)
def test_symplectic_eigenvalues(shape, optimizer, start):
    """min tr XᵀAX is twice the sum of the p smallest d of Williamson's form (Bhatia & Jain 2015).

    The d are the eigenvalues ±id of JA. If square, the minimum diagonalises A.
    """
    A = noise(shape[0], shape[0], seed=2)
    A = A @ A.mT / shape[0] + 0.2 * torch.eye(shape[0]).double()
    d = torch.linalg.eigvals(form(shape[0]) @ A).imag
    expected = 2 * d[d > 0].sort().values[: shape[1] // 2].sum()
    W = minimise(shape, start, optimizer, lambda X: (X * (A @ X)).sum())
    torch.testing.assert_close((W * (A @ W)).sum(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_reduced_model_finds_the_symplectic_subspace(optimizer):
    """min ‖A - XX*A‖² of snapshots A = X₀C + noise, with X* = JᵀXᵀJ: that of the noise."""
    truth = points(12, 4, seed=3)
    A = truth @ noise(4, 60, seed=4)
    J, j = form(12), form(4)
    W = minimise(
        (12, 4),
        "random",
        optimizer,
        lambda X: (A - X @ (j.mT @ (X.mT @ (J @ A)))).square().mean(),
        steps=600,
    )
    left = A - W @ (j.mT @ W.mT @ J @ A)
    assert float(left.norm() / A.norm()) < 1e-3

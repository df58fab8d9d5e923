"""Rotations: values from elsewhere, half turns, accuracy, derivatives, training, quaternions."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.spatial.transform import Rotation

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD, linalg
from riemopt.linalg import skew, sym
from riemopt.manifolds import SpecialOrthogonal, SpecialUnitary, Stiefel
from tests.manifold_cases import EXACT, generator, name

SO = SpecialOrthogonal()
SIZES = (2, 3, 4, 7)
sizes = pytest.mark.parametrize("n", SIZES)
exact = pytest.mark.parametrize("dtype", EXACT, ids=name)


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def rotation_by(angles, n, seed=0, dtype=torch.float64):
    """A rotation of ℝⁿ that turns planes by these angles, its logarithm, in a random basis."""
    W = torch.zeros(n, n, dtype=torch.float64)
    for k, angle in enumerate(angles):
        W[2 * k + 1, 2 * k], W[2 * k, 2 * k + 1] = angle, -angle
    basis = Stiefel().random_point(n, n, generator=generator(seed), dtype=torch.float64)
    W = basis @ W @ basis.mT
    return linalg.matrix_exp(W).to(dtype), W


# --- values from elsewhere ---------------------------------------------------------------------


@exact
@sizes
def test_exp_and_log_are_scipys(n, dtype):
    x = SO.random_point(5, n, n, dtype=dtype, generator=generator(0))
    u = SO.random_tangent(x, generator=generator(1))
    u = 2 * u / torch.linalg.matrix_norm(u, keepdim=True)
    y = SO.exp(x, u)
    for a, b, v in zip(x, y, u, strict=True):
        expected = a.numpy() @ scipy.linalg.expm((a.mH @ v).numpy())
        np.testing.assert_allclose(b.numpy(), expected, atol=1e-13)
        expected = a.numpy() @ scipy.linalg.logm((a.mH @ b).numpy())
        np.testing.assert_allclose(SO.log(a, b).numpy(), expected, atol=1e-12)


@sizes
def test_pymanopt(n):
    theirs = pytest.importorskip("pymanopt.manifolds").SpecialOrthogonalGroup(n, retraction="polar")
    x, y = (SO.random_point(n, n, dtype=torch.float64, generator=generator(i)) for i in (0, 1))
    u = SO.random_tangent(x, generator=generator(2))
    g, h = noise(n, n, seed=3), noise(n, n, seed=4)
    X, Y, U, G, H = (a.numpy() for a in (x, y, u, g, h))
    Omega = X.T @ U  # their tangent vectors are skew
    close = {"atol": 1e-8, "rtol": 0}
    np.testing.assert_allclose(SO.proj_tangent(x, g), X @ theirs.projection(X, G), **close)
    np.testing.assert_allclose(SO.exp(x, u), theirs.exp(X, Omega), **close)
    np.testing.assert_allclose(SO.dist(x, y), theirs.dist(X, Y), **close)
    np.testing.assert_allclose(SO.log(x, y), X @ theirs.log(X, Y), **close)
    np.testing.assert_allclose(SO.project(x + u), theirs.retraction(X, Omega), **close)
    theirs_hess = X @ theirs.euclidean_to_riemannian_hessian(X, G, H, Omega)
    np.testing.assert_allclose(SO.ehess2rhess(x, g, h, u), theirs_hess, **close)


@exact
@sizes
def test_project_against_many_rotations(n, dtype):
    """Of reflections too, and of matrices whose determinant has any phase."""
    a = noise(20, n, n, dtype=dtype)
    y = SO.project(a)
    assert SO.violation(y).max() < 1e-14
    gap = torch.linalg.matrix_norm(a - y) - 1e-12
    for seed in range(50):
        other = SO.random_point(20, n, n, dtype=dtype, generator=generator(seed))
        assert (torch.linalg.matrix_norm(a - other) >= gap).all()
        near = SO.retract(y, 0.1 * SO.random_tangent(y, generator=generator(seed)))
        assert (torch.linalg.matrix_norm(a - near) >= gap).all()


def test_project_turns_the_weakest_axis():
    a = torch.diag(torch.tensor([3.0, 2.0, -1.0], dtype=torch.float64))
    torch.testing.assert_close(SO.project(a), torch.diag(torch.tensor([1.0, 1.0, 1.0])).double())
    a = torch.diag(torch.tensor([-3.0, 1.0, 2.0], dtype=torch.float64))
    expected = torch.diag(torch.tensor([-1.0, -1.0, 1.0])).double()
    torch.testing.assert_close(SO.project(a), expected)


def test_reflections_are_seen():
    x = SO.random_point(4, 3, 3)
    x[1, :, 0] *= -1
    assert (SO.violation(x) > 1).tolist() == [False, True, False, False]
    u = SpecialUnitary().random_point(3, 3, dtype=torch.complex64) * 1j
    assert SpecialUnitary().violation(u) > 0.5


# --- logarithms --------------------------------------------------------------------------------

NEARLY = (1e-1, 1e-3, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
@pytest.mark.parametrize("off", [0, *NEARLY])
@sizes
def test_planes_that_turn_by_nearly_pi(n, off, dtype):
    """The logarithm of a half turn has digits left, where the trace has none."""
    if n > 3 and off == 0:
        pytest.skip("not unique: see the next test")
    R, W = rotation_by([math.pi - off] + [1.0] * (n > 3), n, dtype=dtype)
    found = linalg.log_rotation(skew(R), sym(R)).double()
    error = min((found - W).abs().max(), (found + W).abs().max() if off < 1e-6 else math.inf)
    assert error < 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        SO.dist(torch.eye(n, dtype=dtype), R).double(),
        torch.linalg.matrix_norm(W),
        rtol=0,
        atol=20 * torch.finfo(dtype).eps,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_half_turns_of_larger_matrices(dtype):
    """There are several shortest ways: no log is returned, and the distance is right."""
    x = torch.eye(5, dtype=dtype)
    y = torch.diag(torch.tensor([-1, -1, 1, 1, 1], dtype=dtype))
    assert SO.log(x, y).isnan().any()
    torch.testing.assert_close(SO.dist(x, y).item(), math.sqrt(2) * math.pi)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_logarithms_of_the_special_unitary_group_are_the_shortest(n):
    """Among all whose eigenvalues differ by full turns, also where an eigenvalue is -1."""
    x = SO.random_point(100, n, n, dtype=torch.complex128, generator=generator(0))
    y = SO.random_point(100, n, n, dtype=torch.complex128, generator=generator(1))
    if n > 2:
        angles = torch.tensor([math.pi, *[-math.pi / (n - 1)] * (n - 1)], dtype=torch.float64)
        y[0] = x[0] @ torch.diag(torch.polar(torch.ones_like(angles), angles))
    u = SO.log(x, y)
    torch.testing.assert_close(SO.exp(x, u), y)
    torch.testing.assert_close(SO.proj_tangent(x, u), u)
    angles = torch.linalg.eigvals(x.mH @ y).angle()
    turns = torch.cartesian_prod(*[torch.arange(-1, 2)] * n).double() * math.tau
    choices = angles.unsqueeze(-2) + turns
    lengths = torch.linalg.vector_norm(choices, dim=-1)
    lengths[choices.sum(-1).abs() > 1e-6] = math.inf
    torch.testing.assert_close(SO.dist(x, y), lengths.amin(-1))


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("angle", [0.0, 1e-4, 0.3, 2.5])
def test_derivatives(n, angle):
    """Right at coincident points, and where two planes turn alike."""
    R, _ = rotation_by([angle] * (n // 2), n)
    x = SO.random_point(n, n, dtype=torch.float64, generator=generator(2))
    u = SO.random_tangent(x, generator=generator(1))
    y = x @ R

    def log(t):
        return SO.log(x, SO.exp(y, t * u)), SO.exp(x, t * u + SO.log(x, y))

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log, t)
    assert torch.autograd.gradgradcheck(log, t)
    if angle:
        assert torch.autograd.gradcheck(lambda t: SO.dist(x, SO.exp(y, t * u)), t)


def test_second_derivative_of_half_the_squared_distance():
    """At y = x the Hessian of ½·dist² is the identity."""
    for n, dtype in ((2, torch.float64), (3, torch.float64), (5, torch.float64), (3, EXACT[1])):
        x = SO.random_point(n, n, dtype=dtype, generator=generator(0))
        u = SO.random_tangent(x, generator=generator(1))

        def half(t, x=x, u=u):
            v = SO.log(x, SO.exp(x, t * u))
            return SO.inner(x, v, v.clone()) / 2

        found = torch.func.hessian(half)(torch.zeros((), dtype=torch.float64))
        torch.testing.assert_close(found, torch.linalg.matrix_norm(u) ** 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=name)
@sizes
def test_single_precision(n, dtype):
    """Within 32 eps of float64 on the same points: logarithms, and distances from 1e-4 to 3."""
    x = SO.random_point(200, n, n, dtype=dtype, generator=generator(0))
    u = SO.random_tangent(x, generator=generator(1))
    u = u / torch.linalg.matrix_norm(u, keepdim=True)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    for size in (1e-4, 1e-2, 1.0, 3.0):
        y = SO.exp(x, size * u)
        close = {"rtol": 0, "atol": 32 * torch.finfo(dtype).eps * size}
        exact = SO.log(x.to(wide), y.to(wide))
        torch.testing.assert_close(SO.log(x, y).to(wide), exact, **close)
        exact = SO.dist(x.to(wide), y.to(wide))
        torch.testing.assert_close(SO.dist(x, y).double(), exact, **close)


# --- quaternions -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_quaternions_there_and_back(dtype):
    q = noise(1000, 4, dtype=dtype)
    q[:3] = torch.eye(4, dtype=dtype)[1:]  # half turns
    q[3:6] = torch.eye(4, dtype=dtype)[0] + 1e-6 * q[3:6]
    q = q / q.norm(dim=-1, keepdim=True)
    R = linalg.rotation_of_quaternion(q)
    eps = torch.finfo(dtype).eps
    assert SO.violation(R).max() < 8 * eps
    expected = Rotation.from_quat(q[:, [1, 2, 3, 0]].double().numpy()).as_matrix()
    np.testing.assert_allclose(R.numpy(), expected, atol=4 * eps)
    back = linalg.quaternion_of_rotation(R)
    assert (back[:, 0] >= 0).all()
    apart = torch.minimum((back - q).norm(dim=-1), (back + q).norm(dim=-1))
    assert apart.max() < 4 * eps
    torch.testing.assert_close(linalg.rotation_of_quaternion(3 * q), R)


def test_products_of_quaternions_are_products_of_rotations():
    a, b = (torch.nn.functional.normalize(noise(4, seed=i), dim=0) for i in (0, 1))
    w, v = a[0] * b[0] - a[1:] @ b[1:], a[0] * b[1:] + b[0] * a[1:]
    ab = torch.cat([w[None], v + torch.linalg.cross(a[1:], b[1:])])
    both = linalg.rotation_of_quaternion(a) @ linalg.rotation_of_quaternion(b)
    torch.testing.assert_close(linalg.rotation_of_quaternion(ab), both)


def test_derivatives_of_quaternions():
    for q in ([1.0, 0, 0, 0], [0.0, 1, 0, 0], [0.5, -0.5, 0.5, 0.5]):
        q = torch.tensor(q, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(linalg.rotation_of_quaternion, q)
    for angle in (0.0, 1.0, 2.0):
        omega = angle * torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)

        def there(omega):
            return linalg.quaternion_of_rotation(linalg.exp_skew(linalg.skew_of(omega)))

        assert torch.autograd.gradcheck(there, omega.requires_grad_())


# --- training ----------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda p: RiemannianSGD([p], lr=0.1, momentum=0.9),
    "adam": lambda p: RiemannianAdam([p], lr=0.1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=name)
@pytest.mark.parametrize("start", ["random", "reflection", "zeros"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_finds_poses(optimizer, start, dtype):
    """The rotation between clouds of points (Wahba's problem): project solves it."""
    points = noise(10, 3, 20, seed=1, dtype=dtype)
    truth = SO.random_point(10, 3, 3, dtype=dtype, generator=generator(2))
    seen = truth @ points + 0.1 * noise(10, 3, 20, seed=3, dtype=dtype)
    best = SO.project(seen @ points.mH)
    first = {
        "random": SO.random_point(10, 3, 3, dtype=dtype, generator=generator(4)),
        "reflection": -torch.eye(3, dtype=dtype).repeat(10, 1, 1),
        "zeros": torch.zeros(10, 3, 3, dtype=dtype),
    }[start]
    R = ManifoldParameter(first, SO)
    assert (SO.violation(R.detach()) <= SO.tolerance(R.detach())).all()
    make = OPTIMIZERS[optimizer](R)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(make, 300)
    for _ in range(300):
        make.zero_grad()
        (R @ points - seen).abs().square().mean((-1, -2)).sum().backward()
        make.step()
        schedule.step()
    assert SO.dist(R.detach(), best).max() < 1e-3
    assert (SO.violation(R.detach()) <= SO.tolerance(R.detach())).all()

"""Positive definite matrices: values from outside, derivatives at ties, float32, training."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD
from riemopt.linalg import hermitian
from riemopt.manifolds import SPD
from tests.manifold_cases import EXACT, generator, name

METRICS = ("bures_wasserstein", "affine", "log_cholesky", "log_euclidean")
over_metrics = pytest.mark.parametrize("metric", METRICS)


def definite(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return SPD().random_point(*shape, generator=generator(seed), dtype=dtype)


def hermitian_noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    a = torch.randn(*shape, generator=generator(seed), dtype=dtype)
    return (a + a.mH) / 2


def scipys(function, a: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(function(a.numpy()))).to(a.dtype)


# --- values from outside -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", EXACT, ids=name)
def test_distances_against_their_definitions(dtype):
    x, y = definite(4, 4, dtype=dtype), definite(4, 4, seed=1, dtype=dtype)
    values = scipy.linalg.eigh(y.numpy(), x.numpy(), eigvals_only=True)
    affine = torch.tensor(np.log(values)).norm()
    logs = scipys(scipy.linalg.logm, y) - scipys(scipy.linalg.logm, x)
    root = scipys(scipy.linalg.sqrtm, x)
    cross = scipys(scipy.linalg.sqrtm, root @ y @ root)
    bures = torch.trace(x + y - 2 * cross).real.sqrt()
    K, L = torch.linalg.cholesky(y), torch.linalg.cholesky(x)
    diagonals = torch.diagonal(K).real.log() - torch.diagonal(L).real.log()
    cholesky = torch.sqrt((K - L).tril(-1).abs().square().sum() + diagonals.square().sum())
    expected = dict(zip(METRICS, (bures, affine, cholesky, logs.norm()), strict=True))
    for metric, value in expected.items():
        torch.testing.assert_close(SPD(metric).dist(x, y), value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", EXACT, ids=name)
def test_exponentials_against_dense_functions(dtype):
    x, u = definite(4, 4, dtype=dtype), 0.1 * hermitian_noise(4, 4, seed=1, dtype=dtype)
    root = scipys(scipy.linalg.sqrtm, x)
    inverse = torch.linalg.inv(root)
    affine = root @ torch.linalg.matrix_exp(inverse @ u @ inverse) @ root
    torch.testing.assert_close(SPD("affine").exp(x, u), affine, rtol=0, atol=1e-12)
    solution = torch.from_numpy(scipy.linalg.solve_sylvester(x.numpy(), x.numpy(), u.numpy()))
    bures = x + u + solution @ x @ solution
    torch.testing.assert_close(SPD("bures_wasserstein").exp(x, u), bures, rtol=0, atol=1e-12)
    slope = scipy.linalg.logm(np.block([[x.numpy(), u.numpy()], [np.zeros((4, 4)), x.numpy()]]))[
        :4, 4:
    ]
    logs = scipys(scipy.linalg.logm, x) + torch.from_numpy(slope)
    log_euclidean = torch.linalg.matrix_exp(logs)
    torch.testing.assert_close(SPD("log_euclidean").exp(x, u), log_euclidean, rtol=0, atol=1e-12)


def test_pymanopt_agrees():
    """Its affine-invariant metric: gradient, Hessian, exp, log, dist, transport, retraction."""
    manifolds = pytest.importorskip("pymanopt.manifolds")
    theirs, ours = manifolds.SymmetricPositiveDefinite(4), SPD("affine")
    x, y = definite(4, 4), definite(4, 4, seed=1)
    g, h, u, v = (hermitian_noise(4, 4, seed=i) for i in (2, 3, 4, 5))
    X, Y, G, H, U, V = (a.numpy() for a in (x, y, g, h, u, v))
    pairs = [
        (ours.egrad2rgrad(x, g), theirs.euclidean_to_riemannian_gradient(X, G)),
        (ours.ehess2rhess(x, g, h, u), theirs.euclidean_to_riemannian_hessian(X, G, H, U)),
        (ours.inner(x, u, v), theirs.inner_product(X, U, V)),
        (ours.exp(x, u), theirs.exp(X, U)),
        (ours.log(x, y), theirs.log(X, Y)),
        (ours.dist(x, y), theirs.dist(X, Y)),
    ]
    for mine, other in pairs:
        torch.testing.assert_close(mine, torch.as_tensor(other), rtol=1e-8, atol=1e-8)
    short = 0.1 * u  # longer steps are cut
    retracted = torch.as_tensor(theirs.retraction(X, short.numpy()))
    torch.testing.assert_close(ours.retract(x, short), retracted, rtol=1e-8, atol=1e-8)


def test_geoopt_agrees():
    """In the three metrics that it has, where it has them."""
    geoopt = pytest.importorskip("geoopt")
    x, y = definite(3, 4, 4), definite(3, 4, 4, seed=1)
    u, v = (hermitian_noise(3, 4, 4, seed=i) for i in (2, 3))
    affine = geoopt.SymmetricPositiveDefinite("AIM")
    ours = SPD("affine")
    torch.testing.assert_close(ours.dist(x, y), affine.dist(x, y))
    torch.testing.assert_close(ours.exp(x, u), affine.expmap(x, u))
    torch.testing.assert_close(ours.log(x, y), affine.logmap(x, y))
    torch.testing.assert_close(ours.inner(x, u, v), affine.inner(x, u, v))
    torch.testing.assert_close(ours.egrad2rgrad(x, u), affine.egrad2rgrad(x, u))
    flat = geoopt.SymmetricPositiveDefinite("LEM")
    torch.testing.assert_close(SPD("log_euclidean").dist(x, y), flat.dist(x, y))


def test_parallel_transport_in_the_affine_metric_is_its_ode():
    """D/dt V = 0 along X(t): V̇ = ½(ẊX⁻¹V + VX⁻¹Ẋ), by Runge and Kutta's method."""
    x, y, v = definite(3, 3), definite(3, 3, seed=1), hermitian_noise(3, 3, seed=2)
    m, steps = SPD("affine"), 40
    u = m.log(x, y)

    def rate(t: float, V: Tensor) -> Tensor:
        X, velocity = torch.func.jvp(
            lambda s: m.exp(x, s * u), (torch.tensor(t).double(),), (torch.ones(()).double(),)
        )
        half = velocity @ torch.linalg.solve(X, V) / 2
        return half + half.mT

    V, d = v, 1 / steps
    for i in range(steps):
        t = i * d
        k1 = rate(t, V)
        k2 = rate(t + d / 2, V + d / 2 * k1)
        k3 = rate(t + d / 2, V + d / 2 * k2)
        V = V + d / 6 * (k1 + 2 * k2 + 2 * k3 + rate(t + d, V + d * k3))
    torch.testing.assert_close(m.parallel_transport(x, y, v), V, rtol=0, atol=1e-6)


@over_metrics
def test_the_affine_invariant_and_the_diagonal_case(metric):
    """Of diagonal matrices all is a formula of numbers; and congruence is an isometry."""
    m = SPD(metric)
    x, y = torch.tensor([0.5, 2.0]).double(), torch.tensor([3.0, 0.1]).double()
    numbers = {
        "log_cholesky": (y.log() - x.log()).norm() / 2,
        "affine": (y.log() - x.log()).norm(),
        "bures_wasserstein": (y.sqrt() - x.sqrt()).norm(),
        "log_euclidean": (y.log() - x.log()).norm(),
    }
    torch.testing.assert_close(m.dist(x.diag(), y.diag()), numbers[metric])
    if metric == "affine":
        a = torch.randn(2, 2, generator=generator(0), dtype=torch.float64)
        moved = [a @ p.diag() @ a.mT for p in (x, y)]
        torch.testing.assert_close(m.dist(*moved), numbers[metric])


# --- derivatives -------------------------------------------------------------------------------


@over_metrics
@pytest.mark.parametrize("point", ["all eigenvalues equal", "two equal", "generic"])
def test_derivatives_where_eigenvalues_are_equal(metric, point):
    m = SPD(metric)
    values = {"all eigenvalues equal": (1, 1, 1), "two equal": (0.5, 2, 2), "generic": (0.5, 1, 3)}
    Q = torch.linalg.qr(torch.randn(3, 3, generator=generator(0), dtype=torch.float64))[0]
    x = (Q * torch.tensor(values[point]).double()) @ Q.mT
    y, u = definite(3, 3, seed=1), 0.1 * hermitian_noise(3, 3, seed=2)

    def symmetric(function):
        return lambda *args: function(*((a + a.mT) / 2 for a in args))

    given = [a.clone().requires_grad_() for a in (x, y)]
    moved = [a.clone().requires_grad_() for a in (x, u)]
    assert torch.autograd.gradcheck(symmetric(m.dist), given)
    assert torch.autograd.gradcheck(symmetric(m.log), given)
    assert torch.autograd.gradcheck(symmetric(m.exp), moved)
    assert torch.autograd.gradcheck(symmetric(m.norm), moved)
    assert torch.autograd.gradcheck(symmetric(m.egrad2rgrad), moved)
    assert torch.autograd.gradcheck(symmetric(m.retract), moved)
    assert torch.autograd.gradgradcheck(symmetric(lambda a, b: m.dist(a, b) ** 2), given)


@over_metrics
def test_gradients_at_coincident_points(metric):
    x = torch.eye(3, dtype=torch.float64).requires_grad_()
    y = torch.eye(3, dtype=torch.float64).requires_grad_()
    SPD(metric).dist(x, y).backward()
    assert torch.equal(x.grad, torch.zeros(3, 3).double())
    assert torch.equal(y.grad, torch.zeros(3, 3).double())


FUNCTIONS = ("EXP", "LOG", "LOG1P", "SQRT")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("values", [(1.0, 1.0, 1.0), (0.5, 2.0, 2.0), (0.5, 1.0, 3.0)], ids=str)
@pytest.mark.parametrize("dtype", EXACT, ids=name)
def test_functions_of_matrices_have_two_derivatives(function, values, dtype):
    f = getattr(hermitian, function)
    Q = torch.linalg.qr(torch.randn(3, 3, generator=generator(0), dtype=dtype))[0]
    a = ((Q * torch.tensor(values).double()) @ Q.mH).requires_grad_()
    u = hermitian_noise(3, 3, seed=1, dtype=dtype).requires_grad_()
    options = {"check_forward_ad": True, "check_batched_grad": True}
    assert torch.autograd.gradcheck(lambda a: hermitian.hermitian_function(a, f), a, **options)
    assert torch.autograd.gradgradcheck(lambda a: hermitian.hermitian_function(a, f), a)
    assert torch.autograd.gradcheck(
        lambda a, u: hermitian.hermitian_derivative(a, u, f), (a, u), **options
    )


def test_a_third_derivative_is_refused():
    def third(a):
        value = hermitian.hermitian_function(a, hermitian.LOG).square().sum()
        for _ in range(3):
            (grad,) = torch.autograd.grad(value, a, create_graph=True)
            value = grad.square().sum()

    with pytest.raises(NotImplementedError, match="third"):
        third(torch.eye(2, dtype=torch.float64).requires_grad_())


# --- Jacobi, where nothing may be read ---------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 8, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, *EXACT], ids=name)
def test_jacobi_is_lapack(n, dtype):
    a = hermitian_noise(4, n, n, dtype=dtype)
    a[0] = torch.eye(n)
    a[1, :, 0] = a[1, 0, :] = 0
    values, vectors = hermitian._jacobi(a)
    bound = 30 * torch.finfo(dtype).eps * math.sqrt(n)
    torch.testing.assert_close(values.sort(-1)[0], torch.linalg.eigvalsh(a), rtol=0, atol=bound * n)
    again = (vectors * values.unsqueeze(-2)) @ vectors.mH
    torch.testing.assert_close(again, a, rtol=0, atol=bound * n)
    unit = torch.eye(n, dtype=dtype).expand_as(a)
    torch.testing.assert_close(vectors.mH @ vectors, unit, rtol=0, atol=bound)


@over_metrics
def test_steps_are_the_same_where_nothing_may_be_read(metric, monkeypatch):
    m, x, g = SPD(metric), definite(3, 5, 5), hermitian_noise(3, 5, 5, seed=1)
    u = m.egrad2rgrad(x, g)
    found = m.retract(x, u), m.inner(x, u, u), m.transport(x, definite(3, 5, 5, seed=2), u)
    monkeypatch.setattr(hermitian, "reads_are_free", lambda *tensors: False)
    again = m.retract(x, u), m.inner(x, u, u), m.transport(x, definite(3, 5, 5, seed=2), u)
    torch.testing.assert_close(m.egrad2rgrad(x, g), u)
    torch.testing.assert_close(again, found)


# --- the set -----------------------------------------------------------------------------------


def test_project_keeps_points_and_moves_the_others_inside():
    m = SPD()
    covariance = torch.diag(torch.tensor([1.0, 1e-5, 3e-6]).double()) * 1e-12  # volts²
    assert torch.equal(m.project(covariance), covariance)
    assert torch.equal(m.project(torch.zeros(2, 3, 3)), torch.eye(3).expand(2, 3, 3))
    for a in (-torch.eye(3), torch.ones(3, 3), torch.randn(3, 3, generator=generator(0))):
        y = m.project(a)
        assert torch.linalg.cond(y) < 200
    bad = torch.full((2, 2), math.nan)
    assert bool(m.violation(bad[None]).isinf())


def test_violation_is_infinite_outside():
    x = torch.stack([torch.eye(2), -torch.eye(2), torch.tensor([[1.0, 0.25], [0.75, 1.0]])])
    assert SPD().violation(x).tolist() == [0.0, math.inf, 0.25]


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"metric must be one of 'affine'.*got 'flat'"):
        SPD("flat")


@over_metrics
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=name)
def test_a_step_of_any_length_stays_inside(metric, dtype):
    m = SPD(metric)
    x = definite(2, 6, 6, dtype=torch.float32).to(dtype)
    for size in (1e-6, 1.0, 1e3, 1e4):
        for sign in (1, -1):
            y = m.retract(x, sign * size * torch.eye(6, dtype=dtype).expand_as(x))
            assert y.dtype == dtype
            assert bool((m.violation(y) == 0).all())


# --- float32 -----------------------------------------------------------------------------------


@over_metrics
@pytest.mark.parametrize("apart", [1e-6, 1e-4, 1e-2, 1.0])
def test_float32_distances_keep_their_digits(metric, apart):
    """Of the same rounded points, to 1e-5 in float32, at condition numbers of about 10."""
    m = SPD(metric)
    x = definite(20, 6, 6, dtype=torch.float32)
    y = m.retract(x, apart * 0.1 * hermitian_noise(20, 6, 6, seed=1, dtype=torch.float32))
    exact = m.dist(x.double(), y.double())
    error = (m.dist(x, y).double() - exact).abs() / exact
    assert error.max() < 1e-5


# --- training ----------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda params: RiemannianSGD(params, lr=0.05, momentum=0.8),
    "Adam": lambda params: RiemannianAdam(params, lr=0.05),
    "point": lambda params: RiemannianAdam(params, lr=0.05, second_moment="point"),
}
TRAINED = [
    *[(metric, optimizer) for metric in METRICS for optimizer in ("SGD", "point")],
    ("bures_wasserstein", "Adam"),
]


def log_likelihood(x: Tensor, data: Tensor) -> Tensor:
    """Negative, of centred Gaussians of covariance X; least at X = the covariance of the data."""
    return (torch.logdet(x) + torch.einsum("bij,bji->b", data, torch.linalg.inv(x))).sum()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("metric", "optimizer"), TRAINED)
@pytest.mark.parametrize("start", ["random", "any tensor"])
def test_a_covariance_is_found(metric, optimizer, start):
    target = definite(2, 4, 4, seed=3)
    starts = {
        "random": definite(2, 4, 4),
        "any tensor": torch.randn(2, 4, 4, generator=generator(1), dtype=torch.float64),
    }
    x = ManifoldParameter(starts[start].clone(), SPD(metric))
    step = OPTIMIZERS[optimizer]([x])
    before = log_likelihood(x.detach(), target)
    for _ in range(400):
        step.zero_grad()
        log_likelihood(x, target).backward()
        step.step()
    least = log_likelihood(target, target)
    assert float(SPD(metric).violation(x.detach()).max()) == 0
    assert log_likelihood(x.detach(), target) - least < 1e-2 * (before - least)
    if start == "random":
        torch.testing.assert_close(x.detach(), target, rtol=0, atol=1e-5)


@over_metrics
def test_a_thousand_float32_steps_stay_inside(metric):
    x = ManifoldParameter(definite(5, 4, 4, dtype=torch.float32), SPD(metric))
    optimizer, gen = RiemannianAdam([x], lr=0.02), generator(1)
    for _ in range(1000):
        x.grad = torch.randn(x.shape, generator=gen)
        optimizer.step()
        assert bool((SPD(metric).violation(x.detach()) == 0).all())

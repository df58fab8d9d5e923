"""Correlation matrices of full rank: values from outside, derivatives, float32, training."""

import math

import pytest
import torch
from torch import Tensor

import riemopt
from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD
from riemopt.linalg import sym
from riemopt.manifolds import Correlation
from tests.manifold_cases import EXACT, generator, name

C = Correlation()
exact = pytest.mark.parametrize("dtype", EXACT, ids=name)


def point(*shape, seed=0, dtype=torch.float64):
    return C.random_point(*shape, generator=generator(seed), dtype=dtype)


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


# --- values from outside -----------------------------------------------------------------------


def gamma_of(x: Tensor) -> Tensor:
    """By torch's own factor and an inverse."""
    L = torch.linalg.cholesky(x)
    return torch.linalg.inv(torch.diag_embed(L.diagonal(dim1=-2, dim2=-1))) @ L


def matrix_of(gamma: Tensor) -> Tensor:
    covariance = gamma @ gamma.mH
    scale = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1).real.rsqrt()).to(gamma.dtype)
    return scale @ covariance @ scale


def derivative(function, x, u):
    """By autograd, which differentiates the factorisation."""
    return torch.func.jvp(function, (x,), (u,))[1]


@exact
def test_it_is_flat_in_the_unit_triangular_factor(dtype):
    """Exp, log, distance, metric and transport are those of Γ, in dense linear algebra."""
    x, y = point(4, 4, dtype=dtype), point(4, 4, seed=1, dtype=dtype)
    u, v = (C.random_tangent(x, generator=generator(i)) for i in (2, 3))
    close = torch.testing.assert_close
    Z, V = derivative(gamma_of, x, u), derivative(gamma_of, x, v)
    close(C.inner(x, u, v), (Z.conj() * V).real.sum())
    close(C.exp(x, u), matrix_of(gamma_of(x) + Z))
    close(C.dist(x, y), torch.linalg.matrix_norm(gamma_of(y) - gamma_of(x)))
    close(derivative(gamma_of, x, C.log(x, y)), gamma_of(y) - gamma_of(x))
    close(derivative(gamma_of, y, C.parallel_transport(x, y, v)), V)
    close(C.geodesic(x, y, 0.3), matrix_of(0.7 * gamma_of(x) + 0.3 * gamma_of(y)))
    short = 0.1 * u  # longer steps are cut
    close(C.retract(x, short), C.exp(x, short))


@exact
def test_gradient_and_hessian_are_those_of_coordinates(dtype):
    """Of f(C) = Re tr(AC²B) at Γ, by autograd."""
    x = point(3, 3, dtype=dtype)
    A, B = noise(3, 3, seed=1, dtype=dtype), noise(3, 3, seed=2, dtype=dtype)
    u = C.random_tangent(x, generator=generator(3))

    def f(x):
        return (A @ x @ x @ B).diagonal().real.sum()

    g = torch.func.grad(f)(x)
    h = derivative(torch.func.grad(f), x, u)
    gamma, Z = gamma_of(x), derivative(gamma_of, x, u)
    slope = torch.func.grad(lambda a: f(matrix_of(a)))
    grad, hess = slope(gamma).tril(-1), derivative(slope, gamma, Z).tril(-1)
    torch.testing.assert_close(derivative(gamma_of, x, C.egrad2rgrad(x, g)), grad)
    torch.testing.assert_close(derivative(gamma_of, x, C.ehess2rhess(x, g, h, u)), hess)


def test_two_variables():
    """C₁₂ = r has Γ₂₁ = r/√(1 - r²): an angle's tangent."""
    r, s = 0.6, -0.8
    x, y = (torch.tensor([[1, a], [a, 1]]).double() for a in (r, s))
    distance = abs(r / math.sqrt(1 - r * r) - s / math.sqrt(1 - s * s))
    torch.testing.assert_close(C.dist(x, y), torch.tensor(distance).double())


def test_the_nearest_correlation_matrix():
    """The example of Higham (2002), which is singular: up to the margin."""
    A = torch.tensor([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]]).double()
    expected = torch.tensor([[1.0, 0.7607, 0.1573], [0.7607, 1, 0.7607], [0.1573, 0.7607, 1]])
    inside = 0.99 * expected.double() + 0.01 * torch.eye(3)
    torch.testing.assert_close(C.project(A), inside, rtol=0, atol=2e-3)
    assert torch.equal(C.project(torch.zeros(2, 3, 3)), torch.eye(3).expand(2, 3, 3))
    covariance = 1e-12 * point(3, 3) + torch.eye(3)
    assert torch.equal(C.project(covariance).tril(-1), covariance.tril(-1))


def test_the_mean_is_that_of_coordinates():
    x = point(5, 3, 3)
    torch.testing.assert_close(riemopt.mean(C, x), matrix_of(gamma_of(x).mean(0)))


# --- the set -----------------------------------------------------------------------------------


def test_violation():
    x = torch.eye(2).expand(4, 2, 2).clone()
    x[1, 0, 1] = 0.5
    x[2, 0, 0] = 1.25
    x[3] = 1.0
    assert C.violation(x).tolist() == [0.0, 0.25, 0.25, math.inf]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=name)
def test_steps_of_any_length_stay_inside(dtype):
    """Again and again towards the boundary."""
    x = point(2, 6, 6, dtype=torch.float32).to(dtype)
    for size in (1e-6, 1.0, 1e3, 1e4):
        for sign in (1, -1):
            y = x
            for _ in range(20):
                u = sign * size * torch.ones(6, 6, dtype=dtype)
                y = C.retract(y, C.proj_tangent(y, u.expand_as(y)))
                assert y.dtype == dtype
                assert bool((C.violation(y) == 0).all())


@pytest.mark.parametrize("apart", [1e-6, 1e-4, 1e-2, 1.0])
def test_float32_distances_keep_their_digits(apart):
    """Of the same rounded points, to 1e-5, at condition numbers of about 10."""
    x = point(20, 6, 6, dtype=torch.float32)
    y = C.retract(x, apart * 0.1 * C.random_tangent(x, generator=generator(1)))
    exact = C.dist(x.double(), y.double())
    assert ((C.dist(x, y).double() - exact).abs() / exact).max() < 1e-5


@pytest.mark.sampled(2)
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@exact
@pytest.mark.parametrize("case", ["generic", "coincident", "identity"])
def test_derivatives(dtype, case):
    """At equal eigenvalues and coincident points too."""
    x = torch.eye(3, dtype=dtype) if case == "identity" else point(3, 3, dtype=dtype)
    y = point(3, 3, seed=1, dtype=dtype) if case == "generic" else x.clone()
    w, u = (C.random_tangent(x, generator=generator(i)) for i in (2, 3))

    def forms(s, t):
        a, b = x + s * w, y + t * u
        log = C.log(a, b)
        return (
            log,
            C.exp(a, t * u),
            C.retract(a, 0.1 * u),
            C.egrad2rgrad(a, b),
            C.inner(a, log, 2 * log),
        )

    at = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(forms, at, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(forms, at)
    if case == "generic":
        assert torch.autograd.gradcheck(lambda s, t: C.dist(x + s * w, y + t * u), at)


# --- training ----------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda params: RiemannianSGD(params, lr=0.05, momentum=0.8),
    "Adam": lambda params: RiemannianAdam(params, lr=0.005),
    "point": lambda params: RiemannianAdam(params, lr=0.2, second_moment="point"),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("start", ["random", "zeros", "ones", "any tensor"])
def test_a_copula_is_found(optimizer, start):
    """The likelihood of Gaussians with correlations C is best at those of the data."""
    target = point(2, 4, 4, seed=3)
    starts = {
        "random": point(2, 4, 4),
        "zeros": torch.zeros(2, 4, 4).double(),
        "ones": torch.ones(2, 4, 4).double(),
        "any tensor": noise(2, 4, 4, seed=1),
    }

    def loss(x):
        inverse = torch.linalg.inv(x)
        return (torch.logdet(x) + torch.einsum("bij,bji->b", target, inverse)).sum()

    x = ManifoldParameter(starts[start], C)
    before, least = loss(x.detach()), loss(target)
    step = OPTIMIZERS[optimizer]([x])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(step, 400)
    for _ in range(400):
        step.zero_grad()
        loss(x).backward()
        step.step()
        schedule.step()
    assert float(C.violation(x.detach()).max()) == 0
    assert loss(x.detach()) - least < 1e-2 * (before - least)
    if optimizer != "Adam":
        torch.testing.assert_close(x.detach(), target, rtol=0, atol=1e-4)


def test_a_thousand_float32_steps_stay_inside():
    x = ManifoldParameter(point(5, 4, 4, dtype=torch.float32), C)
    optimizer, gen = RiemannianAdam([x], lr=0.02), generator(1)
    for _ in range(1000):
        x.grad = sym(torch.randn(x.shape, generator=gen))
        optimizer.step()
        assert bool((C.violation(x.detach()) == 0).all())

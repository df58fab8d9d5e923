"""Matrices of one rank: values from outside, hard points, training, two factors."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD, constrain, linalg
from riemopt.manifolds import FixedRank, FixedRankFactors, Flattened, LevelSet, Manifold
from riemopt.testing.slopes import measure
from tests.manifold_cases import EXACT, chequered, generator, name
from tests.slopes import assert_slope

close = torch.testing.assert_close
exact = pytest.mark.parametrize("dtype", EXACT, ids=name)
RANK = FixedRank(3)


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def point(*shape, manifold=RANK, seed=0, dtype=torch.float64):
    return manifold.random_point(*shape, dtype=dtype, generator=generator(seed))


def with_singular_values(values, n, m, seed=0):
    U, V = (linalg.qr_positive(noise(k, len(values), seed=seed + k)) for k in (n, m))
    return U @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ V.mT


def truncated(a, rank):
    U, s, Vh = np.linalg.svd(a.numpy(), full_matrices=False)
    return torch.from_numpy((U[..., :rank] * s[..., None, :rank]) @ Vh[..., :rank, :])


# --- values from outside ---


@pytest.mark.parametrize("shape", [(8, 6), (6, 8), (5, 5)], ids=str)
def test_pymanopt(shape):
    """Its projection, transport, dimension; its retraction is `project` of the sum."""
    pytest.importorskip("pymanopt")
    from pymanopt.manifolds.fixed_rank import FixedRankEmbedded, _FixedRankPoint

    theirs = FixedRankEmbedded(*shape, 3)
    x, y = point(*shape), point(*shape, seed=1)

    def factors(a):
        U, s, Vh = np.linalg.svd(a.numpy(), full_matrices=False)
        return _FixedRankPoint(U[:, :3], s[:3], Vh[:3])

    def whole(a, u):
        U, S, V = theirs.embedding(a, u)
        return torch.from_numpy(U @ S @ V.T)

    a, b = noise(*shape, seed=2), noise(*shape, seed=3)
    X, Y = factors(x), factors(y)
    U, V = theirs.projection(X, a.numpy()), theirs.projection(X, b.numpy())
    u, v = RANK.proj_tangent(x, a), RANK.proj_tangent(x, b)
    close(u, whole(X, U), rtol=0, atol=1e-10)
    close(RANK.inner(x, u, v).item(), float(theirs.inner_product(X, U, V)))
    close(RANK.transport(x, y, u), whole(Y, theirs.transport(X, Y, U)), rtol=0, atol=1e-10)
    assert RANK.dim(shape) == theirs.dim
    W, s, Zh = theirs.retraction(X, U)
    close(RANK.project(x + u), torch.from_numpy((W * s) @ Zh), rtol=0, atol=1e-8)


@exact
@pytest.mark.parametrize("shape", [(8, 6), (6, 8), (2, 5, 5)], ids=str)
def test_project_is_the_truncated_svd(shape, dtype):
    a = noise(*shape, dtype=dtype)
    close(RANK.project(a), truncated(a, 3))


@exact
@pytest.mark.parametrize("shape", [(8, 6), (6, 8)], ids=str)
def test_a_step_is_the_projector_splitting(shape, dtype):
    """Its three parts one after the other, as Lubich & Oseledets (2014) have them."""
    x = point(*shape, dtype=dtype)
    u = RANK.proj_tangent(x, noise(*shape, seed=1, dtype=dtype))
    X, step = x.numpy(), u.numpy()
    U, s, Vh = np.linalg.svd(X, full_matrices=False)
    U, S, V = U[:, :3], np.diag(s[:3]), Vh[:3].conj().T
    U1, S = np.linalg.qr(U @ S + step @ V)
    S = S - U1.conj().T @ step @ V
    L = V @ S.conj().T + step.conj().T @ U1
    close(RANK.retract(x, u), torch.from_numpy(U1 @ L.conj().T))


def test_a_step_agrees_with_the_nearest_point():
    """To third order, as two retractions of second order do."""
    x = point(8, 6)
    u = RANK.proj_tangent(x, noise(8, 6, seed=1))
    assert_slope(
        measure(lambda t: float((RANK.retract(x, t * u) - truncated(x + t * u, 3)).norm()), 3, 10.0)
    )


def test_singular_matrices():
    """3×3 of rank 2: the level set of the determinant."""
    ours, level = FixedRank(2), LevelSet(torch.linalg.det, event_ndim=2)
    x = point(3, 3, manifold=ours)
    g, h = noise(3, 3, seed=1), noise(3, 3, seed=2)
    u = ours.proj_tangent(x, noise(3, 3, seed=3))
    close(ours.proj_tangent(x, g), level.proj_tangent(x, g))
    close(ours.ehess2rhess(x, g, h, u), level.ehess2rhess(x, g, h, u), rtol=1e-8, atol=1e-8)
    assert ours.dim((3, 3)) == level.dim((3, 3))


@exact
@pytest.mark.parametrize("shape", [(8, 6), (2, 6, 8)], ids=str)
def test_hessian_against_the_derivative_of_the_projection(shape, dtype):
    x = point(*shape, dtype=dtype)
    g, h = (noise(*shape, seed=i, dtype=dtype) for i in (1, 2))
    u = RANK.proj_tangent(x, noise(*shape, seed=3, dtype=dtype))
    close(RANK.ehess2rhess(x, g, h, u), Manifold.ehess2rhess(RANK, x, g, h, u))


# --- hard points ---


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("shape", [(60, 40), (40, 60)], ids=str)
def test_single_precision(shape, condition):
    """Against float64 on the same rounded points: errors of eps, times the condition of X."""
    values = np.logspace(0, -math.log10(condition), 3).tolist()
    x = with_singular_values(values, *shape).float()
    a = noise(*shape, seed=1).float()
    eps = torch.finfo(x.dtype).eps
    u, exact_u = RANK.proj_tangent(x, a), RANK.proj_tangent(x.double(), a.double())
    assert (u.double() - exact_u).norm() <= 2 * eps * condition * a.norm()
    u = 0.1 * u / u.norm()
    for size in (0.0, 1e-3 / condition):
        y, exact_y = RANK.retract(x, size * u), RANK.retract(x.double(), size * u.double())
        assert (y.double() - exact_y).norm() <= 10 * eps * exact_y.norm()


@pytest.mark.parametrize("smallest", [1e-3, 1e-8, 1e-20, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_small_singular_values(smallest, dtype):
    """No error is magnified by 1/σ, and the projection is one."""
    x = with_singular_values([1.0, 0.5, smallest], 20, 12).to(dtype)
    bound = 20 * torch.finfo(dtype).eps
    u = RANK.proj_tangent(x, noise(20, 12, seed=1, dtype=dtype))
    assert (RANK.proj_tangent(x, u) - u).norm() <= bound * u.norm()
    assert (RANK.proj_tangent(x, x) - x).norm() <= bound
    assert (RANK.retract(x, torch.zeros_like(x)) - x).norm() <= bound
    assert RANK.violation(RANK.retract(x, u)) <= RANK.tolerance(x)
    assert torch.linalg.matrix_rank(RANK.retract(x, 0.1 * u)) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_project_keeps_the_rank_of_what_has_less(dtype):
    eps = torch.finfo(dtype).eps
    for a in (torch.ones(20, 12, dtype=dtype), point(20, 12, manifold=FixedRank(2), dtype=dtype)):
        s = torch.linalg.svdvals(RANK.project(a))
        assert 9 * eps <= s[2] / s[0] <= 11 * eps
    zero = RANK.project(torch.zeros(20, 12, dtype=dtype))
    s = torch.linalg.svdvals(zero)
    assert 0.3 * s[0] < s[2] < 1e3 * eps
    assert (zero != 0).all()  # so that no row or column is without a gradient


@pytest.mark.parametrize("rank", [1, 2, 5, 8])
def test_any_rank_up_to_the_smaller_side(rank):
    """With the largest, every direction is tangent, and a step is a sum."""
    manifold = FixedRank(rank)
    x = point(8, 9, manifold=manifold)
    a = noise(8, 9, seed=1)
    u = manifold.proj_tangent(x, a)
    y = manifold.retract(x, u)
    assert torch.linalg.matrix_rank(y) == rank
    assert torch.allclose(u, a) == (rank == 8)
    assert torch.allclose(y, x + a) == (rank == 8)


def test_columns_and_rows_that_are_zero():
    """The range finder is right for every support, whatever the size of the entries."""
    for seed in range(50):
        g = generator(seed)
        x = torch.zeros(30, 20, dtype=torch.float64)
        rows, columns = (torch.randperm(k, generator=g)[:3] for k in (30, 20))
        x[rows[:, None], columns] = torch.randn(3, 3, generator=g, dtype=torch.float64) * 1e30
        U, R, V = linalg.spaces(x, 3)
        close(U @ R @ V.mT, x, rtol=0, atol=1e-13 * float(x.abs().max()))


@pytest.mark.parametrize("smallest", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_a_row_space_that_the_range_finder_does_not_see(smallest, dtype):
    """VᴴΩ is singular: a direction of X is missing from XΩ, and found by the products after it."""
    n, m = 40, 30
    missed = linalg.scattered(m, 3, torch.zeros((), dtype=torch.float64)) @ noise(3, seed=1)
    V = noise(m, 3, seed=2)
    V = linalg.qr_positive(V - missed.outer(missed @ V) / missed.square().sum())
    U = linalg.qr_positive(noise(n, 3, seed=3))
    x = (U @ torch.diag(torch.tensor([1.0, 0.5, smallest]).double()) @ V.mT).to(dtype)
    U, R, V = linalg.spaces(x, 3)
    assert (U @ R @ V.mT - x).norm() <= 10 * n**0.5 * torch.finfo(dtype).eps


def test_the_fixed_matrix_of_the_range_finder():
    """The same in all dtypes, like random numbers, and without two equal rows."""
    wide = linalg.scattered(2000, 8, torch.zeros((), dtype=torch.float64))
    close(linalg.scattered(2000, 8, torch.zeros(())), wide.float(), rtol=0, atol=1e-6)
    assert linalg.scattered(3, 2, torch.zeros((), dtype=torch.complex64)).dtype == torch.complex64
    assert wide.abs().max() <= 1
    gram = wide.mT @ wide / 2000
    close(gram, torch.eye(8, dtype=wide.dtype) / 3, rtol=0, atol=0.03)
    assert len(torch.unique(wide, dim=0)) == 2000


@pytest.mark.parametrize("size", [1e-8, 1e-5, 1e-2])
def test_violation_is_the_distance_to_the_rank(size):
    """In the max-norm, relative to the largest entry."""
    x = point(20, 12)
    x = x + size * noise(20, 12, seed=1)
    expected = (x - truncated(x, 3)).abs().max() / x.abs().max()
    found = RANK.violation(x)
    close(found, expected, rtol=10 * size + 1e-6, atol=0)
    close(RANK.violation(1e5 * x), found)
    U, R, V = linalg.spaces(x, 3)
    distance = (x - U @ R @ V.mT).norm() / (x - truncated(x, 3)).norm()
    assert 1 - 1e-7 <= distance <= 1 + 50 * size**2 + 1e-7


def test_violation_of_what_is_far_off():
    """At most a few times the distance."""
    for seed in range(10):
        x = noise(20, 12, seed=seed)
        expected = (x - truncated(x, 3)).abs().max() / x.abs().max()
        assert 0.5 < RANK.violation(x) / expected < 3


# --- derivatives ---


@exact
@pytest.mark.parametrize("values", [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 1.0, 1.0], [3.0, 1.0, 0.5]])
def test_project_at_equal_singular_values(values, dtype):
    """Of those that are kept, and of those that are dropped."""
    a = with_singular_values(values, 6, 5).to(dtype).requires_grad_()
    assert gradcheck(RANK.project, (a,), check_forward_ad=True, atol=1e-6)


@exact
def test_project_twice_at_distinct_singular_values(dtype):
    a = with_singular_values([4.0, 3.0, 2.0, 1.0], 5, 4).to(dtype).requires_grad_()
    assert gradgradcheck(RANK.project, (a,), atol=1e-5)


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0, 1.0], [1.0], [0.0]])
def test_where_the_nearest_point_is_not_unique_gradients_are_finite(values):
    a = with_singular_values(values, 6, 5).requires_grad_()
    (gradient,) = torch.autograd.grad((RANK.project(a) * noise(6, 5)).sum(), a)
    assert gradient.isfinite().all()
    assert gradient.norm() < 100


def test_retract_and_projection_at_equal_singular_values():
    x = with_singular_values([2.0, 2.0, 2.0], 6, 5).requires_grad_()
    u = RANK.proj_tangent(x, noise(6, 5)).detach().requires_grad_()
    assert gradcheck(RANK.retract, (x, u))
    assert gradcheck(RANK.proj_tangent, (x, u))


# --- training ---

TARGET = with_singular_values([5.0, 4.0, 3.0, 1.0, 0.5], 12, 10, seed=5)
LEAST = (1.0**2 + 0.5**2) / 2  # what rank 3 leaves of ½‖X - TARGET‖²
STARTS = {
    "random": point(12, 10, seed=3),
    "zeros": torch.zeros(12, 10, dtype=torch.float64),
    "ones": torch.ones(12, 10, dtype=torch.float64),
    "the wrong spaces": RANK.project(TARGET - truncated(TARGET, 3)),
}
OPTIMIZERS = {
    "sgd": lambda p: RiemannianSGD(p, lr=0.3),
    "momentum": lambda p: RiemannianSGD(p, lr=0.1, momentum=0.7),
    "adam": lambda p: RiemannianAdam(p, lr=0.1),
    "point": lambda p: RiemannianAdam(p, lr=0.1, second_moment="point"),
}


def train(weight, whole, make, steps, target=TARGET):
    """The excess of ½‖X - target‖² over the least."""
    optimizer = make([weight])
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (whole(weight) - target).square().sum() / 2
        loss.backward()
        optimizer.step()
        decay.step()
    return loss.item() - LEAST


@chequered(("optimizer", "start"), OPTIMIZERS, STARTS)
def test_low_rank_approximation(optimizer, start):
    """The optimum is the truncated SVD (Eckart & Young 1936)."""
    weight = ManifoldParameter(RANK.project(STARTS[start]), RANK)
    excess = train(weight, lambda X: X, OPTIMIZERS[optimizer], 300)
    assert -1e-10 <= excess < 1e-4
    close(weight.detach(), truncated(TARGET, 3), rtol=0, atol=0.02)
    assert RANK.violation(weight.detach()) <= RANK.tolerance(weight)


def test_a_weight_that_is_set_to_zero_is_trained_on():
    weight = ManifoldParameter(point(12, 10), RANK)
    weight.data.zero_()
    assert -1e-10 <= train(weight, lambda X: X, OPTIMIZERS["sgd"], 400) < 1e-4


def test_a_thousand_steps_stay_on_the_surface():
    x = point(30, 20, dtype=torch.float32)
    for seed in range(1000):
        x = RANK.retract(x, RANK.proj_tangent(x, 0.1 * noise(30, 20, seed=seed).float()))
    assert RANK.violation(x) <= RANK.tolerance(x)
    assert torch.linalg.svdvals(x)[2] > 0.1 * torch.linalg.svdvals(x)[0]


def test_convolution_kernels():
    layer = constrain(nn.Conv2d(4, 6, 3), "weight", Flattened(FixedRank(2)))
    optimizer = RiemannianAdam(layer.parameters(), lr=0.01)
    layer(noise(1, 4, 8, 8).float()).square().sum().backward()
    optimizer.step()
    assert torch.linalg.matrix_rank(layer.weight.detach().flatten(1)) == 2


def test_what_is_kept_for_a_point_is_used_for_no_other():
    """Nor are the parts of a tangent, for another or for one that has been written to."""
    x, y = point(8, 6), point(8, 6, seed=1)
    a, b = noise(8, 6, seed=2), noise(8, 6, seed=3)
    here = RANK.linearised_at(x)
    assert here == RANK
    u, v = here.proj_tangent(x, a), here.proj_tangent(x, b)
    assert torch.equal(u, RANK.proj_tangent(x, a))
    assert torch.equal(here.proj_tangent(y, a), RANK.proj_tangent(y, a))
    for start, tangent in ((x, u), (x, v), (y, v)):
        close(here.retract(start, tangent), RANK.retract(start, tangent.clone()))
    v.mul_(2)
    close(here.retract(x, v), RANK.retract(x, v.clone()))
    with torch.inference_mode():
        u = here.proj_tangent(x, a)
        close(here.retract(x, u), RANK.retract(x, u.clone()))


# --- two factors ---

FACTORS = FixedRankFactors(rows=12)


def factors(scale=1.0, seed=0, manifold=FACTORS, dtype=torch.float64):
    x = point(manifold.rows + 10, 3, manifold=manifold, seed=seed, dtype=dtype)
    G, H = manifold.split(x)
    return manifold.join(scale * G, H / scale)


@exact
def test_gradient_of_factors(dtype):
    """∂G(HᴴH + δI)⁻¹ and ∂H(GᴴG + δI)⁻¹, solved densely."""
    manifold = FixedRankFactors(12, damping=0.3)
    x = factors(manifold=manifold, dtype=dtype)
    g = noise(22, 3, seed=1, dtype=dtype)
    (G, H), (dG, dH) = manifold.split(x), manifold.split(g)
    eye = 0.3 * torch.eye(3, dtype=dtype)
    expected = [dG @ torch.linalg.inv(H.mH @ H + eye), dH @ torch.linalg.inv(G.mH @ G + eye)]
    close(manifold.egrad2rgrad(x, g), torch.cat(expected))
    close(manifold.matrix(x), G @ H.mH)


def test_factors_move_their_product_by_its_gradient():
    """With δ → 0 a gradient step changes GHᵀ by P_U·∇ + ∇·P_V, to first order."""
    manifold = FixedRankFactors(12, damping=1e-14)
    x = factors(7.0)
    ambient = noise(12, 10, seed=1)
    G, H = manifold.split(x)
    u = manifold.egrad2rgrad(x, torch.cat([ambient @ H, ambient.mT @ G]))
    moved = torch.func.jvp(manifold.matrix, (x,), (u,))[1]
    PU, PV = (F @ torch.linalg.pinv(F) for F in (G, H))
    close(moved, PU @ ambient + ambient @ PV, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "point"])
def test_steps_do_not_depend_on_the_factors_of_a_product(optimizer):
    """(GA, HA⁻ᵀ) for any A."""
    manifold = FixedRankFactors(12, damping=1e-12)
    x = factors()
    A = noise(3, 3, seed=4) + 3 * torch.eye(3, dtype=torch.float64)
    G, H = manifold.split(x)
    other = manifold.join(5 * G @ A, H @ torch.linalg.inv(5 * A).mT)
    ends = []
    for start in (x, other):
        weight = ManifoldParameter(start.clone(), manifold)
        train(weight, manifold.matrix, OPTIMIZERS[optimizer], 30)
        ends.append(manifold.matrix(weight.detach()))
    close(*ends, rtol=0, atol=1e-8)


@chequered(("optimizer", "start"), OPTIMIZERS, ["random", "zero G"])
def test_low_rank_approximation_by_factors(optimizer, start):
    x = factors()
    if start == "zero G":  # as LoRA starts
        FACTORS.split(x)[0].zero_()
    weight = ManifoldParameter(x, FACTORS)
    assert -1e-10 <= train(weight, FACTORS.matrix, OPTIMIZERS[optimizer], 400) < 1e-3


@exact
def test_hessian_of_factors_along_geodesics(dtype):
    """f'' along a geodesic, which is integrated: its acceleration is that of the Lagrangian."""
    manifold = FixedRankFactors(3, damping=0.1)
    x, u = noise(7, 2, dtype=dtype), 0.3 * noise(7, 2, seed=1, dtype=dtype)
    target = noise(3, 4, seed=2, dtype=dtype)
    grad = torch.func.grad

    def f(x):
        return (manifold.matrix(x) - target).abs().square().square().sum() / 4

    def energy(x, v):
        return manifold.inner(x, v, v) / 2

    def acceleration(x, v):
        momentum = [grad(energy, 1)(x + h * v, v) for h in (1e-5, -1e-5)]
        force = grad(energy)(x, v) - (momentum[0] - momentum[1]) / 2e-5
        return manifold.egrad2rgrad(x, force)

    def geodesic(v, h):
        """One step of the classical Runge-Kutta method."""
        k1 = v, acceleration(x, v)
        k2 = v + h / 2 * k1[1], acceleration(x + h / 2 * k1[0], v + h / 2 * k1[1])
        k3 = v + h / 2 * k2[1], acceleration(x + h / 2 * k2[0], v + h / 2 * k2[1])
        k4 = v + h * k3[1]
        return x + h / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4)

    g = grad(f)(x)
    h = grad(lambda y: (u.conj() * grad(f)(y)).real.sum())(x)
    found = manifold.inner(x, manifold.ehess2rhess(x, g, h, u), u)
    t = 3e-3
    expected = (f(geodesic(u, t)) - 2 * f(x) + f(geodesic(-u, t))) / t**2
    close(found, expected, rtol=1e-4, atol=0)


def test_an_adapter_whose_first_factor_is_zero():
    """As LoRA starts, in float32, beside a frozen weight."""
    frozen, inputs = noise(6, 8).float(), noise(64, 8, seed=1).float()
    change = (noise(6, 2, seed=2) @ noise(2, 8, seed=3)).float()
    manifold = FixedRankFactors(rows=6)
    start = manifold.join(torch.zeros(6, 2), noise(8, 2, seed=4).float())
    weight = ManifoldParameter(start, manifold)

    def output(factors):
        G, H = manifold.split(factors)
        return (inputs @ frozen.mT + (inputs @ H) @ G.mT) / 8

    target = inputs @ (frozen + change).mT / 8
    train(weight, output, lambda p: RiemannianAdam(p, lr=0.05), 400, target)
    close(manifold.matrix(weight.detach()), change, rtol=0, atol=0.05)


# --- what is refused ---

REFUSED = [
    (lambda: FixedRank(0), "rank of 1 or more"),
    (lambda: FixedRank(2.0), "rank of 1 or more"),
    (lambda: FixedRank(3).check_shape((5, 2)), "at most 2"),
    (lambda: FixedRank(3).check_shape((5,)), "matrices"),
    (lambda: FixedRankFactors(0), "rows ≥ 1"),
    (lambda: FixedRankFactors(3, damping=0.0), "damping above 0"),
    (lambda: FixedRankFactors(3).check_shape((3, 2)), "m ≥ 1"),
    (lambda: FixedRankFactors(4).check_shape((7, 5)), "r ≤ 3"),
    (lambda: FixedRankFactors(3).join(torch.ones(3, 2), torch.ones(4, 3)), "joins"),
]


@pytest.mark.parametrize(("call", "rule"), REFUSED)
def test_refused_with_what_is_needed(call, rule):
    with pytest.raises(ValueError, match=rule):
        call()

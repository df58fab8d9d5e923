"""The kernels, against dense formulas and LAPACK in float64."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from riemopt import linalg
from riemopt.linalg import backends, polar_adaptive, polar_fixed, polynomials
from riemopt.linalg.steps import LONGEST_CUBIC
from riemopt.manifolds import Stiefel
from tests.bounds import eps, wide
from tests.manifold_cases import EXACT, FULL, HALF, generator, name

SHAPES = [(1, 1), (4, 4), (6, 3), (3, 6), (2, 5, 3), (0, 4, 2), (40, 12)]
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
over_full = pytest.mark.parametrize("dtype", FULL, ids=name)
over_exact = pytest.mark.parametrize("dtype", EXACT, ids=name)


def randn(shape, dtype, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def stepped(shape, dtype, size, seed=0):
    """X + U with U a tangent of Frobenius norm `size`."""
    x = Stiefel().random_point(*shape, generator=generator(seed), dtype=dtype)
    u = Stiefel().random_tangent(x, generator=generator(seed + 1))
    long = torch.linalg.matrix_norm(u, keepdim=True)
    return x + u * (size / torch.where(long > eps(dtype), long, 1))


def svd_polar(y):
    U, _, Vh = torch.linalg.svd(wide(y), full_matrices=False)
    return U @ Vh


@pytest.fixture(params=["eager", "blind"])
def path(request, monkeypatch):
    """Both ways to choose the number of products: by the data, and fixed."""
    if request.param == "blind":
        monkeypatch.setattr(backends, "reads_are_free", lambda *tensors: False)
    return request.param


def longest_cubic(path):
    """Up to which √‖UᴴU‖ a cubic step is taken whole."""
    return LONGEST_CUBIC if path == "eager" else polar_fixed.LONGEST_CUBIC


# --- symmetric parts, Gram matrices ---


@over_exact
def test_sym_and_skew_are_the_two_parts(dtype):
    a = randn((2, 4, 4), dtype)
    torch.testing.assert_close(linalg.sym(a) + linalg.skew(a), a)
    assert torch.equal(linalg.sym(a), linalg.sym(a).mH)
    assert torch.equal(linalg.skew(a), -linalg.skew(a).mH)


@over_exact
def test_wide_matrices_stand_for_their_transposes(dtype):
    x, y, s = randn((3, 6, 2), dtype), randn((3, 6, 2), dtype, 1), randn((3, 2, 2), dtype, 2)
    torch.testing.assert_close(linalg.gram(x, y), x.mH @ y)
    torch.testing.assert_close(linalg.gram(x.mH, y.mH), linalg.gram(x, y))
    torch.testing.assert_close(linalg.right_multiply(x, s), x @ s)
    torch.testing.assert_close(linalg.right_multiply(x.mH, s), (x @ s).mH)
    torch.testing.assert_close(linalg.gram_defect(x.mH), linalg.gram_defect(x))


# --- polar ---


@over_full
@over_shapes
@pytest.mark.parametrize("size", [0.0, 0.1, 1.0, 10.0])
def test_polar_is_the_svds(path, shape, dtype, size):
    """To rounding, times the condition number of X + U, which is at most √(1 + size²)."""
    y = stepped(shape, dtype, size)
    expected = svd_polar(y)
    error = torch.linalg.matrix_norm(wide(linalg.polar(y)) - expected)
    assert bool((error <= 20 * eps(dtype) * min(shape[-2:]) ** 0.5 * (1 + size)).all())


@pytest.mark.parametrize("length", [0.03, 0.1, 0.2, 0.3, 0.5, 0.9, 2.0])
@pytest.mark.parametrize("blind", [False, True])
def test_polar_is_as_accurate_for_steps_of_medium_length(length, blind, monkeypatch):
    if blind:
        monkeypatch.setattr(backends, "reads_are_free", lambda *tensors: False)
    x = Stiefel().random_point(128, 128, generator=generator(0))
    u = Stiefel().random_tangent(x, generator=generator(1))
    y = linalg.polar(x + u * (length / torch.linalg.matrix_norm(u, 2)))
    # What is left is the error of one Gram matrix, which grows like a random walk of 128 terms.
    assert linalg.gram_defect(y.double()).abs().max() < eps(torch.float32) * 128**0.5


@pytest.mark.parametrize("size", ["float32", "float64"])
def test_polar_of_the_longest_step(path, size):
    """Singular values from 1 to `step_cap` come to 1."""
    dtype = getattr(torch, size)
    y = stepped((20, 6), dtype, linalg.step_cap(dtype))
    defect = linalg.gram_defect(wide(linalg.polar(y))).abs().max()
    assert defect <= 10 * eps(dtype) * 6**0.5


def test_polar_repairs_a_point_that_is_off(path):
    """Singular values down to 0.7, as of a weight loaded from a rounded checkpoint."""
    x = Stiefel().random_point(8, 3, generator=generator(0), dtype=torch.float64)
    y = x @ torch.diag(torch.tensor([0.75, 1.0, 1.2], dtype=torch.float64))
    torch.testing.assert_close(linalg.polar(y), x)


def test_polar_of_a_batch_does_not_suffer_from_one_bad_matrix(path):
    y = stepped((3, 6, 2), torch.float32, 1.0)
    alone = linalg.polar(y)
    y[1] = float("nan")
    torch.testing.assert_close(linalg.polar(y)[::2], alone[::2])


@pytest.mark.parametrize("a", [0.1, 0.5, 0.9, 0.999])
def test_the_cubic_is_the_best_one(a):
    """It equioscillates: the error at both ends and at the interior maximum is ±ε."""
    b = 2 - a
    c1, c3, error = polynomials.flattest_cubic(a, b)
    top = (c1 / (3 * c3)) ** 0.5
    values = torch.tensor([c1 * t - c3 * t**3 for t in (a, top, b)], dtype=torch.float64)
    torch.testing.assert_close(values, torch.tensor([1 - error, 1 + error, 1 - error]).double())


@over_full
@over_shapes
def test_project_polar_is_orthonormal_at_any_rank(shape, dtype):
    for a in (randn(shape, dtype), torch.zeros(shape, dtype=dtype), torch.ones(shape, dtype=dtype)):
        defect = linalg.gram_defect(wide(linalg.project_polar(a))).abs()
        assert bool((defect <= 10 * eps(dtype) * min(shape[-2:]) ** 0.5).all())


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_project_polar_at_any_scale(scale):
    a = randn((6, 3), torch.float32)
    expected = svd_polar(a).float()
    torch.testing.assert_close(linalg.project_polar(a * scale), expected, atol=1e-5, rtol=0)


# --- length of a step ---


def test_cap_norm_shortens_what_is_longer(path):
    u = randn((3, 4, 2), torch.float64)
    u = u / torch.linalg.matrix_norm(u, keepdim=True)
    sizes = torch.tensor([0.0, 0.5, 8.0], dtype=u.dtype)[:, None, None]
    norms = torch.linalg.matrix_norm(linalg.cap_norm(u * sizes, 2.0))
    torch.testing.assert_close(norms, torch.tensor([0.0, 0.5, 2.0], dtype=u.dtype))


# --- QR, Cayley, exponential ---


@over_exact
@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (6, 3), (2, 5, 3)], ids=str)
def test_qr_has_a_positive_diagonal(shape, dtype):
    y = randn(shape, dtype)
    Q = linalg.qr_positive(y)
    R = Q.mH @ y
    diagonal = R.diagonal(dim1=-2, dim2=-1)
    assert bool((diagonal.real > 0).all())
    torch.testing.assert_close(diagonal, diagonal.abs().to(dtype))
    torch.testing.assert_close(R.tril(-1), torch.zeros_like(R))
    torch.testing.assert_close(Q @ R, y)


@over_exact
@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (6, 3), (5, 4), (2, 5, 1)], ids=str)
def test_cayley_is_the_dense_transform(shape, dtype):
    """(I - W/2)⁻¹(I + W/2)X with the n×n matrix W, which satisfies WX = U."""
    x = Stiefel().random_point(*shape, generator=generator(0), dtype=dtype)
    u = Stiefel().random_tangent(x, generator=generator(1))
    eye = torch.eye(shape[-2], dtype=dtype)
    P = eye - x @ x.mH / 2
    W = P @ u @ x.mH
    W = W - W.mH
    torch.testing.assert_close(W @ x, u)
    torch.testing.assert_close(
        linalg.cayley(x, u), torch.linalg.solve(eye - W / 2, (eye + W / 2) @ x)
    )


@pytest.mark.parametrize("norm", [1e-4, 1e-2, 0.04, 0.3, 0.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_exponential_of_one_matrix(dtype, norm):
    """A rotation. (torch's own is off by 1e-5 in float32 at .5, 1e-10 in float64 at .04.)"""
    angle = torch.tensor(norm, dtype=dtype)
    A = angle * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=dtype)
    c, s = angle.double().cos(), angle.double().sin()
    expected = torch.stack([torch.stack([c, -s]), torch.stack([s, c])])
    error = (linalg.matrix_exp(A).double() - expected).abs().max()
    assert error <= 8 * eps(dtype)


def test_exponential_of_a_batch():
    A = randn((3, 2, 4, 4), torch.float64)
    torch.testing.assert_close(linalg.matrix_exp(A), torch.linalg.matrix_exp(A))
    torch.testing.assert_close(linalg.matrix_exp(A[:1, :1]), torch.linalg.matrix_exp(A)[:1, :1])
    assert linalg.matrix_exp(A[:0]).shape == (0, 2, 4, 4)


# --- half precision and the host ---


@pytest.mark.parametrize("dtype", HALF, ids=name)
def test_upcast_computes_in_float32_and_rounds_once(dtype):
    seen = []

    @linalg.upcast
    def third(a, b=None):
        """Divide."""
        seen.append(a.dtype)
        return a / 3

    a = torch.arange(5, dtype=dtype)
    assert torch.equal(third(a), (a.float() / 3).to(dtype))
    assert third(a.float()).dtype == torch.float32
    assert seen == [torch.float32] * 2
    assert (third.__name__, third.__doc__) == ("third", "Divide.")


def test_what_can_be_read_for_free():
    a = torch.zeros(3)
    assert backends.reads_are_free(a)
    assert not backends.reads_are_free(a.to("meta"))
    assert not backends.reads_are_free(torch.nn.Parameter(a))
    seen = []
    torch.func.vmap(lambda row: seen.append(backends.reads_are_free(row)) or row)(a)
    assert seen == [False]


def test_vmap_equals_the_batch():
    y = stepped((4, 6, 2), torch.float64, 2.0)
    torch.testing.assert_close(torch.func.vmap(linalg.polar)(y), linalg.polar(y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_the_polynomials_are_the_inverse_root(dtype):
    found = polynomials.polynomials(dtype)
    assert [len(c) for _, c in found] == [1, *range(2, len(found[-1][1]) + 1, 2)]
    for reach, coefficients in found:
        s = reach * torch.linspace(-1, 1, 101, dtype=torch.float64)
        value = s * sum(c * s**k for k, c in enumerate(coefficients))
        assert (value - torch.expm1(-torch.log1p(s) / 2)).abs().max() <= eps(dtype)
        if len(coefficients) > 1:
            S = torch.diag(s)
            P, scale = polynomials.evaluate(coefficients, S, S @ S)
            torch.testing.assert_close(scale * P.diagonal(), value, rtol=0, atol=1e-16)
    assert found[-1][0] == polynomials.REACH


@pytest.mark.sampled(4)
@pytest.mark.parametrize("rho", [0.01, 0.1, 0.3, 1.0, 1e3])
@pytest.mark.parametrize("shape", [(64, 16), (32, 32)])
def test_a_thousand_steps_end_on_the_surface(path, shape, rho):
    """Random tangents of spectral norm rho in float32: nothing accumulates, nothing diverges."""
    random = generator(0)
    x = Stiefel().random_point(*shape, generator=random)
    for _ in range(1000):
        u = Stiefel().random_tangent(x, generator=random)
        x = linalg.polar_step(x, u * (rho / torch.linalg.matrix_norm(u, 2)))
    assert linalg.gram_defect(x.double()).abs().max() <= 1e-6


# --- cubic ---

SQUARE_SHAPES = [(1, 1), (4, 4), (2, 3, 3), (0, 4, 4), (70, 70)]


def rotation(shape, dtype, rho, seed=0):
    """X, and Ω skew-Hermitian of spectral norm rho."""
    x = Stiefel().random_point(*shape, generator=generator(seed), dtype=dtype)
    omega = linalg.skew(randn(shape, dtype, seed + 1))
    norm = torch.linalg.matrix_norm(omega if omega.numel() else omega.real, 2, keepdim=True)
    return x, omega * (rho / torch.where(norm > 0, norm, 1))


def cubic_in_float64(x, omega):
    double = torch.complex128 if x.is_complex() else torch.float64
    x, omega = x.to(double), omega.to(double)
    eye = torch.eye(x.shape[-1], dtype=double)
    return svd_polar(x @ (eye + omega + omega @ omega / 2 + omega @ omega @ omega / 8))


@over_full
@pytest.mark.parametrize("shape", SQUARE_SHAPES, ids=str)
@pytest.mark.parametrize("rho", [0.0, 1e-3, 0.02, 0.1, 0.3, 1.0, 2.0])
def test_the_cubic_step_is_a_polar_factor(path, shape, dtype, rho):
    """Found by an SVD in float64; the surface to rounding, whatever the length of the step."""
    x, omega = rotation(shape, dtype, rho)
    y, taken = linalg.cubic_step_with_fraction(x, x @ omega)
    if taken is not None:
        omega = omega * taken[..., None, None]
    bound = 20 * eps(dtype) * shape[-1] ** 0.5
    expected = cubic_in_float64(x, omega)
    assert bool((torch.linalg.matrix_norm(y - expected) <= bound * (1 + rho**3)).all())
    defect = linalg.gram_defect(y.to(expected.dtype))
    assert y.numel() == 0 or defect.abs().max() <= bound


@pytest.mark.parametrize("rho", [0.5, 5.0, 20.0, 1e3, 1e10])
def test_long_cubic_steps_end_on_the_surface_and_turn_no_further(path, rho):
    """Blind or not, a step is cut where ‖UᴴU‖ is too long."""
    x, omega = rotation((12, 12), torch.float64, rho)
    norm = torch.linalg.matrix_norm(omega @ omega) ** 0.5
    y = linalg.cubic_step(x.float(), (x @ omega).float())
    assert linalg.gram_defect(y.double()).abs().max() <= 2e-6
    assert torch.det(y.double()).sign() == torch.det(x).sign()
    taken = (longest_cubic(path) / norm).clamp(max=1)
    if path == "blind" and rho > 1e9:  # ‖UᴴU‖ cannot be represented
        taken = 0 * taken
    expected = cubic_in_float64(x, omega * taken)
    error = (y - expected).abs().max()
    # The polar factor is known to eps times the condition, which is norm³/8 at most.
    assert error <= 10 * eps(torch.float32) * (1 + min(rho, 8.0) ** 3)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("rho", [0.01, 0.1, 0.3, 1.0, 1e3])
def test_a_thousand_cubic_steps_end_on_the_surface(path, rho):
    random = generator(0)
    x = Stiefel().random_point(32, 32, generator=random)
    for _ in range(1000):
        u = Stiefel().random_tangent(x, generator=random)
        x = linalg.cubic_step(x, u * (rho / torch.linalg.matrix_norm(u, 2)))
    assert linalg.gram_defect(x.double()).abs().max() <= 1e-6


def test_a_large_cubic_step_takes_two_products():
    """At 600², where the Frobenius norm says nothing of the spectral one."""
    x, omega = rotation((600, 600), torch.float32, 0.06)
    with FlopCounterMode(display=False) as flops:
        y = linalg.cubic_step(x, x @ omega)
    assert linalg.gram_defect(y.double()).abs().max() <= 2e-6
    assert flops.get_total_flops() < 3.1 * 2 * 600**3  # with the one that makes U


@pytest.mark.parametrize("rho", [1.0, 1e5, 1e9, 1e30])
def test_a_large_matrix_takes_steps_of_any_length(rho):
    """Where a square of S, or the square of that, cannot be represented."""
    x, omega = rotation((512, 512), torch.float32, 1.0)
    y = linalg.cubic_step(x, x @ omega, rho)
    assert linalg.gram_defect(y.double()).abs().max() <= 2e-6


@pytest.mark.parametrize("kind", ["random", "spread", "local", "hidden"])
def test_the_bound_of_the_spectral_norm_is_one(kind):
    """Also of a direction that all rows share, that one has, or that noise hides."""
    n = 512
    noise = randn((n, n), torch.float64)
    S = noise @ noise.mT / n
    if kind != "random":
        v = torch.ones(n) if kind != "local" else torch.eye(n)[77]
        v = v.double() / v.norm()
        size = {"spread": 100.0, "local": 100.0, "hidden": 10.0}[kind]
        S = 1e-9 * S if kind != "hidden" else S
        S = S + size * torch.outer(v, v)
    rows = torch.linalg.vector_norm(S, dim=-1)
    norm = torch.linalg.matrix_norm(S, 2).item()
    assert norm <= polar_adaptive.spectral_bound(S[None], rows[None]) <= 4.01 * norm


@pytest.mark.parametrize("scale", [1.05, 2.0, 0.5])
def test_a_cubic_step_from_a_point_that_is_off_does_not_turn_it_round(path, scale):
    """Of 2X the defect is 3I: as a correction it would lead to -X. Of X/2 two steps come back."""
    x, omega = rotation((6, 6), torch.float64, 1e-3)
    y = linalg.cubic_step(scale * x, x @ omega)
    if path == "blind" and scale == 0.5:
        y = linalg.cubic_step(y, torch.zeros_like(y))
    assert (y - x).abs().max() < 3e-3
    assert linalg.gram_defect(y).abs().max() < 1e-9


@pytest.mark.parametrize("n", [3, 64, 300])
def test_a_rounded_point_comes_back_in_one_cubic_step(path, n):
    x, omega = rotation((n, n), torch.float32, 1e-3)
    rounded = x.bfloat16().float()
    assert linalg.gram_defect(rounded).abs().max() > 1e-4
    y = linalg.cubic_step(rounded, rounded @ omega)
    assert linalg.gram_defect(y.double()).abs().max() <= 10 * eps(torch.float32) * n**0.5


def test_a_cubic_step_of_a_batch_does_not_suffer_from_one_bad_matrix(path):
    x, omega = rotation((3, 5, 5), torch.float32, 0.3)
    u = x @ omega
    alone = linalg.cubic_step(x, u)
    u[1] = float("nan")
    torch.testing.assert_close(linalg.cubic_step(x, u)[::2], alone[::2])


def test_cubic_steps_have_derivatives():
    x, omega = rotation((3, 3), torch.float64, 0.01)
    for t in (0.1, 30.0, 1e4):  # short, long, and cut
        direction = (x @ omega).requires_grad_()
        assert torch.autograd.gradcheck(lambda u, t=t: linalg.cubic_step(x, u, t), direction)


@pytest.mark.parametrize("t", [1e-2, 0.5, 3.0, 30.0])
def test_cubic_steps_broadcast_and_vmap(path, t):
    """Under vmap nothing may be read, and long steps are cut as elsewhere without reads."""
    point, _ = rotation((6, 6), torch.float64, 0.0)
    x, u = point.repeat(4, 1, 1), point @ linalg.skew(randn((6, 6), torch.float64, 5))
    expected = torch.stack([linalg.cubic_step(y, u, t) for y in x])
    torch.testing.assert_close(linalg.cubic_step(x, u, t), expected)
    if path == "eager" and t > 0.5:
        return
    mapped = torch.func.vmap(linalg.cubic_step, in_dims=(0, None, None))(x, u, t)
    torch.testing.assert_close(mapped, expected)

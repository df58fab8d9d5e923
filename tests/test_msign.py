"""Matrix signs by products, and steepest tangent steps of unit spectral norm.

The oracle of a step is the dual of its problem, max Re⟨M, Φ⟩ over tangent Φ with ‖Φ‖₂ ≤ 1, which is
min ‖M + XΛ‖_* over Hermitian Λ: no Φ is better than any Λ says, so that equal values show both.
"""

import math

import pytest
import torch
from scipy.optimize import minimize

from riemopt import linalg
from riemopt.linalg.msign import JORDAN, POLAR_EXPRESS, coefficients
from riemopt.manifolds import Grassmann, SpecialOrthogonal, Stiefel
from tests.manifold_cases import FULL, name

CONVERGED = 30
EXACT = [torch.float64, torch.complex128]
# Reduced to 2p×2p; n×n; square; odd and even; wide; a vector.
SHAPES = [(8, 3), (20, 5), (30, 10), (12, 10), (7, 5), (6, 6), (7, 7), (9, 1), (3, 8), (10, 12)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", FULL, ids=name)
exact_dtypes = pytest.mark.parametrize("dtype", EXACT, ids=name)


def noise(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=dtype, generator=generator)


def problem(shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = Stiefel().random_point(*shape, dtype=dtype, generator=generator)
    return x, noise(*shape, dtype=dtype, seed=seed + 1)


def tall(*matrices):
    n, p = matrices[0].shape[-2:]
    return [a.mH if n < p else a for a in matrices]


def gain(m, u):
    return (m.conj() * u).real.sum((-2, -1))


def of_rank(n, p, rank, dtype=torch.float64):
    return noise(n, rank, dtype=dtype, seed=3) @ noise(rank, p, dtype=dtype, seed=4)


def skew_with(values, dtype):
    """A real skew matrix with singular values `values`, each of them twice."""
    n = 2 * len(values)
    K = torch.zeros(n, n, dtype=torch.float64)
    K[range(0, n, 2), range(1, n, 2)] = values.double()
    Q = torch.linalg.qr(noise(n, n))[0]
    return linalg.skew(Q @ (K - K.mT) @ Q.mT).to(dtype)


# --- tables --------------------------------------------------------------------------------------


def test_the_table_brings_singular_values_to_one():
    x = torch.logspace(-3, 0, 2001, dtype=torch.float64)
    errors = []
    for a, b, c in coefficients(10):
        x = a * x + b * x**3 + c * x**5
        errors.append((x - 1).abs().max().item())
    assert errors[5] < 2e-2
    assert errors[6] < 1e-3
    assert errors[9] < 1e-12
    a, b, c = POLAR_EXPRESS[-1]
    assert a + b + c == 1
    assert a + 3 * b + 5 * c == 0 == 6 * b + 20 * c


def test_jordans_quintic_is_that_of_torch():
    muon = pytest.importorskip("torch.optim._muon")
    assert JORDAN == (muon.DEFAULT_A, muon.DEFAULT_B, muon.DEFAULT_C)


# --- msign ---------------------------------------------------------------------------------------


@exact_dtypes
@pytest.mark.parametrize("shape", [(5, 5), (6, 4), (40, 4), (4, 40), (2, 3, 7, 3), (1, 6)], ids=str)
def test_msign_is_the_polar_factor(shape, dtype):
    a = noise(*shape, dtype=dtype)
    torch.testing.assert_close(linalg.msign(a, CONVERGED), linalg.project_polar(a))


@every_dtype
def test_msign_of_matrices_without_full_rank(dtype):
    a = of_rank(9, 6, 2, torch.complex128 if dtype.is_complex else torch.float64)
    U, _, Vh = torch.linalg.svd(a, full_matrices=False)
    expected = U[:, :2] @ Vh[:2]
    # Steps take what rounding has left of the others times 3,000.
    bound = 1e4 * torch.finfo(dtype).eps
    assert (linalg.msign(a.to(dtype), 8) - expected.to(dtype)).abs().max() < bound


@every_dtype
@pytest.mark.parametrize("shape", [(4, 4), (9, 2), (2, 9)], ids=str)
def test_msign_of_zero_is_zero_and_of_nan_nan(shape, dtype):
    zero = torch.zeros(shape, dtype=dtype)
    assert not linalg.msign(zero, 7).any()
    for bad in (torch.nan, torch.inf):
        a = noise(2, *shape, dtype=dtype)
        a[0, 0, 0] = bad
        found = linalg.msign(a, 7)
        assert found[0].isnan().any()
        torch.testing.assert_close(found[1], linalg.msign(a[1], 7))


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e3, 1e15])
def test_msign_does_not_depend_on_the_size_above_eps(scale):
    a = noise(8, 3, dtype=torch.float32)
    expected = linalg.msign(a, 7)
    torch.testing.assert_close(linalg.msign(scale * a, 7, eps=0.0), expected, rtol=0, atol=1e-5)
    short = linalg.msign(1e-12 * a, 7)
    assert torch.linalg.matrix_norm(short, 2) < 0.2


@pytest.mark.parametrize("p", [16, 200, 256])
def test_msign_in_float32_and_where_products_are_rounded(p):
    """Of singular values from 1 to .1; the error is 8·eps of bfloat16, or less."""
    for shape in ((p, p), (p + 30, p), (4 * p, p)):
        U, V = (linalg.project_polar(noise(n, p, seed=n)) for n in shape)
        values = torch.logspace(0, -1, p, dtype=torch.float64)
        found = linalg.msign((U * values @ V.mT).float(), 7).double()
        error = torch.linalg.matrix_norm(found - U @ V.mT, 2)
        assert error < 8 * torch.finfo(torch.bfloat16).eps


# --- skew ----------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_of_skew_matrices_it_is_skew_to_the_last_bit(n, steps, dtype):
    K = linalg.skew(noise(3, n, n, dtype=dtype))
    found = linalg.msign_skew(K, steps)
    assert torch.equal(found, -found.mH)
    torch.testing.assert_close(found, linalg.msign(K, steps), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [40, 256])
def test_of_skew_matrices_in_float32(n):
    """Six steps are within 2e-3 of the gain of all, with products in bfloat16 too."""
    for values in (torch.linspace(0.1, 1, n // 2), torch.logspace(-3, 0, n // 2)):
        K = skew_with(values, torch.float32)
        found = linalg.msign_skew(K, 7).double()
        assert torch.linalg.matrix_norm(found, 2) < 1.02
        assert abs(gain(K.double(), found) / (2 * values.double().sum()) - 1) < 5e-3
        assert torch.equal(found, -found.mT)


# --- steepest steps ------------------------------------------------------------------------------


def dual_bound(x, m):
    """min ‖M + XΛ‖_* over Hermitian Λ, from above, by L-BFGS on a smoothed norm."""
    p = x.shape[-1]

    def hermitian(flat):
        A = torch.from_numpy(flat).view(-1, p, p)
        return linalg.sym(torch.complex(A[0], A[1]) if x.is_complex() else A[0])

    def value(flat, smoothing):
        flat = torch.tensor(flat, requires_grad=True)
        A = flat.view(-1, p, p)
        L = torch.complex(A[0], A[1]) if x.is_complex() else A[0]
        W = m + x @ ((L + L.mH) / 2)
        squares = torch.linalg.eigvalsh(W.mH @ W if W.shape[0] >= p else W @ W.mH)
        smooth = (squares.clamp(min=0) + smoothing**2).sqrt().sum()
        smooth.backward()
        return smooth.item(), flat.grad.numpy()

    flat = torch.zeros((2 if x.is_complex() else 1) * p * p, dtype=torch.float64).numpy()
    for smoothing in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-15, "gtol": 1e-11}
        flat = minimize(value, flat, (smoothing,), "L-BFGS-B", jac=True, options=options).x
    return torch.linalg.matrix_norm(m + x @ hermitian(flat), "nuc").item()


@every_shape
@exact_dtypes
def test_no_tangent_step_of_unit_norm_gains_more(shape, dtype):
    x, m = problem(shape, dtype)
    u = linalg.steepest_along_columns(x, m, CONVERGED)
    X, M, U = tall(x, m, u)
    assert torch.linalg.matrix_norm(U, 2) < 1 + 1e-12
    A = X.mH @ U
    assert (A + A.mH).abs().max() < 1e-14
    bound = dual_bound(X, M)
    assert gain(m, u).item() == pytest.approx(bound, rel=1e-6)


@every_shape
@exact_dtypes
def test_the_forms_by_shape_are_one_formula(shape, dtype):
    """msign(skew(MXᴴ))·X, by an SVD of the n×n matrix."""
    x, m = problem((2, *shape), dtype)
    u = linalg.steepest_along_columns(x, m, CONVERGED)
    X, M, U = tall(x, m, u)
    P, S, Qh = torch.linalg.svd(linalg.skew(M @ X.mH))
    S = (1e-10 * S[..., :1] < S).to(dtype)
    torch.testing.assert_close(U, (P * S.unsqueeze(-2)) @ Qh @ X, rtol=0, atol=1e-9)


@every_dtype
@every_shape
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_step_is_tangent_however_short_the_iteration(shape, steps, dtype):
    x, m = problem(shape, dtype)
    u = linalg.steepest_along_columns(x, m, steps)
    X, U = tall(x, u)
    A = X.mH @ U
    assert (A + A.mH).abs().max() < 10 * max(shape) ** 0.5 * torch.finfo(dtype).eps
    assert gain(m, u) > 0


@pytest.mark.parametrize("shape", [(600, 200), (300, 200), (256, 256)], ids=str)
def test_a_step_is_tangent_where_products_are_rounded(shape):
    x, m = problem(shape, torch.float32)
    u = linalg.steepest_along_columns(x, m, 7)
    A = x.double().mT @ u.double()
    assert (A + A.mT).abs().max() < 10 * max(shape) ** 0.5 * torch.finfo(torch.float32).eps
    assert torch.linalg.matrix_norm(u, 2) < 1.02
    wide = linalg.steepest_along_columns(x.double(), m.double(), CONVERGED)
    assert gain(m, u) > 0.99 * gain(m.double(), wide)


@every_dtype
@pytest.mark.parametrize("kind", ["rank 1", "along X", "normal to the manifold", "zero"])
@pytest.mark.parametrize("shape", [(12, 4), (6, 4), (5, 5)], ids=str)
def test_momenta_that_are_special(shape, kind, dtype):
    """Finite and tangent; where no step gains anything, as short as rounding makes it."""
    x, _ = problem(shape, dtype)
    p = shape[-1]
    m = {
        "rank 1": noise(shape[0], 1, dtype=dtype) @ noise(1, p, dtype=dtype, seed=5),
        "along X": x @ linalg.skew(noise(p, p, dtype=dtype)),
        "normal to the manifold": x @ linalg.sym(noise(p, p, dtype=dtype)),
        "zero": torch.zeros_like(x),
    }[kind]
    u = linalg.steepest_along_columns(x, m, 7)
    A = x.mH @ u
    assert (A + A.mH).abs().max() < 50 * torch.finfo(dtype).eps
    assert u.isfinite().all()
    assert torch.linalg.matrix_norm(u, 2) < 2.1
    if kind == "zero":
        assert not u.any()
    if kind == "normal to the manifold":
        assert torch.linalg.matrix_norm(u, 2) < 0.9
    if kind in ("rank 1", "along X"):
        assert gain(m, u) > 0


# --- other manifolds -----------------------------------------------------------------------------


@exact_dtypes
@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (7, 5)], ids=str)
def test_on_grassmann_the_gain_is_the_nuclear_norm_of_the_gradient(shape, dtype):
    x, m = problem(shape, dtype)
    manifold = Grassmann()
    u = manifold.spectral_direction(x, m, CONVERGED)
    torch.testing.assert_close(manifold.proj_tangent(x, u), u, rtol=0, atol=1e-14)
    assert torch.linalg.matrix_norm(u, 2) < 1 + 1e-12
    best = torch.linalg.matrix_norm(manifold.proj_tangent(x, m), "nuc")
    torch.testing.assert_close(gain(m, u), best)


@pytest.mark.parametrize("n", [4, 5])
def test_rotations_are_square_stiefel(n):
    x, m = problem((n, n), torch.float64)
    x = SpecialOrthogonal().project(x)
    found = SpecialOrthogonal().spectral_direction(x, m, CONVERGED)
    torch.testing.assert_close(found, Stiefel().spectral_direction(x, m, CONVERGED))
    z, w = problem((n, n), torch.complex128)
    z = SpecialOrthogonal().project(z)
    u = SpecialOrthogonal().spectral_direction(z, w, CONVERGED)
    torch.testing.assert_close(SpecialOrthogonal().proj_tangent(z, u), u, rtol=0, atol=1e-14)
    assert gain(w, u) > 0


@every_shape
def test_the_projected_direction_gains_less(shape):
    x, m = problem(shape, torch.float64)
    manifold = Stiefel()
    exact = manifold.spectral_direction(x, m, CONVERGED)
    u = manifold.spectral_direction(x, m, CONVERGED, exact=False)
    torch.testing.assert_close(manifold.proj_tangent(x, u), u, rtol=0, atol=1e-14)
    scaled = u / torch.linalg.matrix_norm(u, 2).clamp(min=1)
    assert 0 < gain(m, scaled) < gain(m, exact) + 1e-9
    if shape[0] == shape[1]:
        torch.testing.assert_close(u, exact)


# --- turns ---------------------------------------------------------------------------------------


@exact_dtypes
@pytest.mark.parametrize("shape", [(8, 3), (6, 6), (3, 10)], ids=str)
@pytest.mark.parametrize("angle", [1e-3, 0.1, -0.7])
def test_where_the_step_is_orthonormal_a_scalar_brings_it_back(shape, angle, dtype):
    x, m = problem(shape, dtype)
    u = linalg.steepest_along_columns(x, m, CONVERGED)
    X, U = tall(x, u)
    eye = torch.eye(X.shape[1], dtype=dtype)
    torch.testing.assert_close(U.mH @ U, eye)
    c, s = math.cos(angle), math.sin(angle)
    on_the_way = (X - angle * U) / (1 + angle**2) ** 0.5
    torch.testing.assert_close(on_the_way.mH @ on_the_way, eye, rtol=0, atol=2e-14)
    torch.testing.assert_close(linalg.turn_with_fraction(x, u, angle)[0], c * x + s * u)
    torch.testing.assert_close(Stiefel().exp(x, angle * u), c * x + s * u)


@every_dtype
@every_shape
@pytest.mark.parametrize("traced", [False, True], ids=["read", "not read"])
def test_a_turn_ends_on_the_manifold_and_on_the_polar_curve(shape, traced, dtype):
    x, m = problem((2, *shape), dtype)
    for steps in (2, 7):
        u = linalg.steepest_along_columns(x, m, steps)
        for angle in (1e-4, -0.02, 0.3, -0.785):
            turn = torch.func.vmap(linalg.turn_with_fraction, (0, 0, None)) if traced else None
            t = torch.tensor(angle, dtype=x.real.dtype)
            y, fraction = turn(x, u, t) if turn else linalg.turn_with_fraction(x, u, angle)
            assert fraction is None or (fraction == 1).all()
            assert (Stiefel().violation(y) <= Stiefel().tolerance(y)).all()
            wide = torch.complex128 if dtype.is_complex else torch.float64
            polar = linalg.project_polar(x.to(wide) + math.tan(angle) * u.to(wide))
            bound = 100 * max(shape) ** 0.5 * torch.finfo(dtype).eps
            torch.testing.assert_close(y.to(wide), polar, rtol=0, atol=bound)


@pytest.mark.parametrize("t", [2.0, -5.0, torch.tensor(2.0), torch.tensor([[[2.0]], [[0.1]]])])
def test_a_turn_of_more_than_an_eighth_is_shortened(t):
    x, m = problem((2, 6, 3), torch.float64)
    u = linalg.steepest_along_columns(x, m, CONVERGED)
    y, fraction = linalg.turn_with_fraction(x, u, t)
    assert fraction.shape == (2,)
    taken = fraction[:, None, None] * t
    torch.testing.assert_close(y, taken.cos() * x + taken.sin() * u, rtol=0, atol=1e-7)
    assert taken.abs().max() == pytest.approx(torch.pi / 4, abs=1e-6)

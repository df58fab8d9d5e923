"""XᴴBX = I: values from elsewhere, the matrix B as a value, accuracy, eigenproblems and CCA."""

import copy
import pickle

import pytest
import scipy.linalg
import torch

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD
from riemopt.manifolds import Flattened, GeneralizedStiefel, LevelSet, Product, Sphere, Stiefel
from riemopt.testing import check_manifold, check_projection
from tests.manifold_cases import EXACT, generator, name, of_mass

exact = pytest.mark.parametrize("dtype", EXACT, ids=name)


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def definite(n, condition, seed=0, dtype=torch.float64):
    """A matrix with eigenvalues from 1/condition to 1, evenly spread in their logarithm."""
    Q = Stiefel().random_point(n, n, generator=generator(seed), dtype=dtype)
    return (Q * torch.logspace(0, -1, n, base=condition, dtype=torch.float64)) @ Q.mH


# --- values from elsewhere ---------------------------------------------------------------------


@exact
def test_whitening_goes_to_stiefel(dtype):
    """All of the geometry is that of `Stiefel` at LᴴX; tr GᴴU stays what it is."""
    B = definite(6, 20.0, dtype=dtype)
    L = torch.linalg.cholesky(B)
    ours, theirs = GeneralizedStiefel(B), Stiefel("polar")
    x = ours.random_point(2, 6, 3, generator=generator(1), dtype=dtype)
    g, h, a = (noise(2, 6, 3, seed=i, dtype=dtype) for i in (2, 3, 4))
    u = ours.random_tangent(x, generator=generator(5))

    def there(b):
        return L.mH @ b

    def back(b):
        return torch.linalg.solve(L.mH, b)

    def dual(b):
        return torch.linalg.solve(L, b)

    X, U = there(x), there(u)
    pairs = [
        (ours.proj_tangent(x, a), back(theirs.proj_tangent(X, there(a)))),
        (ours.project(a), back(theirs.project(there(a)))),
        (ours.retract(x, u), back(theirs.retract(X, U))),
        (ours.exp(x, u), back(theirs.exp(X, U))),
        (ours.egrad2rgrad(x, g), back(theirs.egrad2rgrad(X, dual(g)))),
        (ours.ehess2rhess(x, g, h, u), back(theirs.ehess2rhess(X, dual(g), dual(h), U))),
        (ours.inner(x, u, a), theirs.inner(X, U, there(a))),
        (ours.violation(a), theirs.violation(there(a))),
    ]
    for mine, other in pairs:
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


def test_the_formulas_of_the_literature():
    """As in Manopt: P = Z - X sym(XᵀBZ), grad = B⁻¹G - X sym(XᵀG)."""
    m = of_mass()
    B = torch.tensor(m._B.array)
    x = m.random_point(5, 2, generator=generator(0), dtype=torch.float64)
    z = noise(5, 2, seed=1)
    S = x.mT @ B @ z
    torch.testing.assert_close(m.proj_tangent(x, z), z - x @ (S + S.mT) / 2)
    S = x.mT @ z
    torch.testing.assert_close(m.egrad2rgrad(x, z), torch.linalg.solve(B, z) - x @ (S + S.mT) / 2)


def test_it_is_the_level_set_of_its_equation():
    """One set and one tangent space; the nearest points differ, being so in different norms."""
    m = of_mass()
    B = torch.tensor(m._B.array)
    twin = LevelSet(lambda X: X.mT @ B @ X - torch.eye(X.shape[-1]).to(X), event_ndim=2)
    x = m.random_point(5, 2, generator=generator(0), dtype=torch.float64)
    u = m.random_tangent(x, generator=generator(1))
    torch.testing.assert_close(twin.proj_tangent(x, u), u)
    assert twin.violation(m.retract(x, u)) < 1e-14
    assert twin.violation(m.project(noise(5, 2, seed=2))) < 1e-14
    v = twin.random_tangent(x, generator=generator(2))
    torch.testing.assert_close(m.proj_tangent(x, v), v)


def test_identity_is_stiefel():
    ours, theirs = GeneralizedStiefel(torch.eye(6)), Stiefel()
    x = theirs.random_point(6, 3, generator=generator(0), dtype=torch.float64)
    u = theirs.random_tangent(x, generator=generator(1))
    torch.testing.assert_close(ours.retract(x, u), theirs.retract(x, u))
    torch.testing.assert_close(ours.egrad2rgrad(x, u), theirs.egrad2rgrad(x, u))


# --- the matrix B ------------------------------------------------------------------------------


def test_it_is_a_value():
    B = definite(4, 5.0)
    a, b = GeneralizedStiefel(B), GeneralizedStiefel(B.clone())
    assert a == b
    assert hash(a) == hash(b)
    assert a != GeneralizedStiefel(B + 1e-12 * torch.eye(4))
    assert a != Stiefel()
    for again in (copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
        assert again == a
        x = a.random_point(4, 2, dtype=torch.float64)
        assert torch.equal(again.proj_tangent(x, x), a.proj_tangent(x, x))
    assert len(repr(a)) < 50
    B.zero_()  # values are copied
    assert a == b


def test_it_follows_the_tensor(tmp_path):
    m = of_mass()
    for dtype in (torch.float32, torch.float64, torch.complex64, torch.bfloat16):
        x = m.random_point(5, 2, dtype=dtype, generator=generator(0))
        assert x.dtype == m.retract(x, 0.1 * x).dtype == dtype
    meta = torch.empty(5, 2, device="meta")
    assert m.retract(meta, meta).device.type == "meta"
    W = ManifoldParameter(torch.randn(5, 2), m)
    torch.save(W, tmp_path / "w.pt")
    assert torch.load(tmp_path / "w.pt", weights_only=True).manifold == m


def test_a_hermitian_matrix_needs_complex_points():
    m = GeneralizedStiefel(definite(4, 5.0, dtype=torch.complex128))
    with pytest.raises(TypeError, match="points must be complex"):
        m.project(torch.randn(4, 2))
    check_manifold(m, (4, 2), order=2, dtype=torch.complex128, repeats=2).require()


WRONG = [
    (torch.ones(3, 2), r"a matrix B, a tensor \(n, n\); got \(3, 2\)"),
    (torch.ones(2, 3, 3), r"got \(2, 3, 3\)"),
    (3, "got int"),
    (torch.empty(3, 3, device="meta"), "on 'meta'"),
    (torch.full((2, 2), torch.nan), "finite numbers"),
    (
        torch.tensor([[1.0, 2.0], [0.0, 1.0]]),
        r"symmetric .* differ by 2, .* Give \(B \+ B.mH\) / 2",
    ),
    (torch.diag(torch.tensor([1.0, -0.5])), r"positive definite.*from -0.5 to 1.*multiple of the"),
    (torch.zeros(2, 2), "positive definite"),
    (torch.ones(3, 3), "positive definite"),
    (torch.diag(torch.tensor([1.0, 1e-8])), "positive definite"),  # of float32: not known to be
]


@pytest.mark.parametrize(("B", "message"), WRONG, ids=lambda v: v if isinstance(v, str) else "")
def test_what_is_no_inner_product_is_refused(B, message):
    with pytest.raises(ValueError, match=message):
        GeneralizedStiefel(B)


def test_a_smallest_eigenvalue_that_the_dtype_knows_is_accepted():
    GeneralizedStiefel(torch.diag(torch.tensor([1.0, 1e-8]).double()))
    GeneralizedStiefel(1e-20 * torch.eye(2))
    GeneralizedStiefel(torch.eye(2, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(4, 2), (5, 6), (5, 0), (5,), (2, 3, 5)], ids=str)
def test_wrong_shapes_are_named(shape):
    with pytest.raises(
        ValueError, match=r"<5×5 #.*needs matrices \(\*batch, 5, p\) with 1 ≤ p ≤ 5"
    ):
        of_mass().check_shape(shape)


# --- orthogonal in a metric of its own ---------------------------------------------------------


def test_what_is_made_of_it_has_its_inner_product():
    m = of_mass()
    assert Flattened(m).extends_metric
    both = Product({"modes": (m, (5, 2)), "direction": (Sphere(), 3)})
    assert both.extends_metric
    assert not Product([(Stiefel(), (5, 2)), (Sphere(), 3)]).extends_metric
    check_manifold(both, (2, 13), order=2, repeats=2).require()
    check_projection(Flattened(m), (5, 2, 1, 1)).require()


# --- accuracy ----------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4, 1e6])
def test_a_thousand_float32_steps_stay_on_the_surface(condition):
    m = GeneralizedStiefel(definite(8, condition))
    x = m.random_point(4, 8, 3, generator=generator(1), dtype=torch.float32)
    gen = generator(2)
    for _ in range(1000):
        x = m.retract(x, 0.3 * m.random_tangent(x, generator=gen))
    assert bool((m.violation(x.double()) <= m.tolerance(x)).all())


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_float32_against_float64_of_the_same_points(condition):
    """In the norm of B: points to the root of the condition number, gradients to that number."""
    m = GeneralizedStiefel(definite(8, condition))
    x = m.random_point(20, 8, 3, generator=generator(1), dtype=torch.float32)
    u = m.random_tangent(x, generator=generator(2))
    g = noise(20, 8, 3, seed=3, dtype=torch.float32)
    X, U, G = (a.double() for a in (x, u, g))

    def apart(a, b):
        return float((m.norm(X, a.double() - b) / m.norm(X, b)).max())

    eps = torch.finfo(torch.float32).eps
    assert apart(m.retract(x, u), m.retract(X, U)) < 10 * eps * condition**0.5
    assert apart(m.project(u), m.project(U)) < 100 * eps * condition**0.5
    assert apart(m.egrad2rgrad(x, g), m.egrad2rgrad(X, G)) < 10 * eps * condition**0.5


# --- training ----------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda p: RiemannianSGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: RiemannianAdam(p, lr=0.05),
    "point": lambda p: RiemannianAdam(p, lr=0.05, second_moment="point"),
}
STARTS = {
    "random": lambda m, *shape: m.random_point(*shape, generator=generator(7)),
    "zeros": lambda m, *shape: torch.zeros(shape),
    "far": lambda m, *shape: 100 * torch.randn(shape, generator=generator(8)),
    "equal columns": lambda m, *shape: torch.ones(shape),
}


def minimise(parameters, loss, optimizer, steps=300):
    step = OPTIMIZERS[optimizer](parameters)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(step, steps)
    for _ in range(steps):
        step.zero_grad()
        loss().backward()
        step.step()
        schedule.step()
    with torch.no_grad():
        return float(loss())


@pytest.mark.parametrize(
    ("optimizer", "start"),
    [("SGD", start) for start in STARTS] + [("Adam", "far"), ("point", "random")],
)
def test_the_smallest_generalised_eigenvalues(optimizer, start):
    """min tr XᵀAX over XᵀBX = I is the sum of the p smallest λ of Ax = λBx (Ky Fan)."""
    A, B = definite(8, 10.0, seed=3), definite(8, 30.0, seed=4)
    expected = scipy.linalg.eigh(A.numpy(), B.numpy(), eigvals_only=True)[:3].sum()
    m = GeneralizedStiefel(B)
    W = ManifoldParameter(STARTS[start](m, 8, 3).double(), m)
    found = minimise([W], lambda: (W * (A @ W)).sum(), optimizer)
    assert abs(found / expected - 1) < 1e-3
    assert m.violation(W.detach()) < 1e-13


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_canonical_correlations(optimizer):
    """Two weights; the optimum is the sum of the largest singular values of L₁⁻¹C₁₂L₂⁻ᵀ."""
    shared = noise(500, 2, seed=0)
    X = shared @ noise(2, 6, seed=1) + noise(500, 6, seed=2)
    Y = shared @ noise(2, 4, seed=3) + noise(500, 4, seed=4)
    X, Y = X - X.mean(0), Y - Y.mean(0)
    (Cx, Cy, C) = (a.mT @ b / 500 for a, b in ((X, X), (Y, Y), (X, Y)))
    Lx, Ly = torch.linalg.cholesky(Cx), torch.linalg.cholesky(Cy)
    white = torch.linalg.solve(Lx, C) @ torch.linalg.inv(Ly).mT
    expected = float(torch.linalg.svdvals(white)[:2].sum())
    U = ManifoldParameter(noise(6, 2, seed=5), GeneralizedStiefel(Cx))
    V = ManifoldParameter(noise(4, 2, seed=6), GeneralizedStiefel(Cy))
    found = minimise([U, V], lambda: -torch.trace(U.mT @ C @ V), optimizer)
    assert abs(-found / expected - 1) < 1e-3

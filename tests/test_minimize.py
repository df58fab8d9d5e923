"""`minimize` finds known minima, with few evaluations."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import nn

import riemopt
from riemopt import ManifoldParameter, constrain, minimize
from riemopt.manifolds import (
    SPD,
    Elliptope,
    Euclidean,
    FixedRank,
    Grassmann,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
)
from riemopt.solvers import (
    Backtracking,
    ConjugateGradient,
    GradientNorm,
    MaxIterations,
    MaxTime,
    SmallDecrease,
    StrongWolfe,
    TrustRegion,
    ValueBelow,
)
from tests.manifold_cases import CASES, generator, point

METHODS = ("lbfgs", "trust-region", "cg", "gradient", "arc")
FIRST_ORDER = ("lbfgs", "cg", "gradient")
D = torch.float64


def randn(*shape, seed, dtype=D):
    return torch.randn(*shape, dtype=dtype, generator=generator(seed))


def start(manifold, *shape, seed=9, dtype=D):
    return manifold.random_point(*shape, dtype=dtype, generator=generator(seed))


def symmetric(n, seed, dtype=D):
    A = randn(n, n, seed=seed, dtype=dtype)
    return (A + A.mT) / 2


# --- problems: cost, start, manifold, and the minimum from elsewhere -----------------------------


def rayleigh(dtype=D):
    A = symmetric(40, 1, dtype)
    best = torch.linalg.eigvalsh(A.double())[0]
    return lambda x: x @ A @ x, start(Sphere(), 40, dtype=dtype), Sphere(), best


def subspace(dtype=D):
    A = symmetric(30, 2, dtype)
    best = -torch.linalg.eigvalsh(A.double())[-4:].sum()
    return lambda X: -(X * (A @ X)).sum(), start(Grassmann(), 30, 4, dtype=dtype), Grassmann(), best


def brockett(dtype=D):
    A, N = symmetric(15, 3, dtype), torch.arange(1, 4, dtype=dtype)
    best = (torch.linalg.eigvalsh(A.double())[:3].flip(0) * N.double()).sum()
    return lambda X: (X * (A @ X) * N).sum(), start(Stiefel(), 15, 3, dtype=dtype), Stiefel(), best


def procrustes(dtype=D):
    """Linear, so that the second derivative is 0 and nothing of the cost is in it."""
    Q = randn(6, 3, 3, seed=4, dtype=dtype)
    U, S, Vh = torch.linalg.svd(Q.double())
    sign = torch.det(U @ Vh).sign()
    best = -(S[:, 0] + S[:, 1] + sign * S[:, 2]).sum()
    m = SpecialOrthogonal()
    return lambda R: -(R * Q).sum(), start(m, 6, 3, 3, dtype=dtype), m, best


def karcher(dtype=D):
    """Of matrices that commute: the exponential of the mean logarithm."""
    basis = start(SpecialOrthogonal(), 4, 4, seed=5)
    logs = randn(10, 4, seed=6)
    points = (basis * logs.exp().unsqueeze(-2)) @ basis.mT
    m = SPD("affine")
    best = (logs - logs.mean(0)).square().sum() / 10
    points = points.to(dtype)
    return (
        lambda X: m.dist(X.expand_as(points), points).square().mean(),
        start(m, 4, 4, dtype=dtype),
        m,
        best,
    )


def completion(dtype=D):
    A = randn(20, 2, seed=7, dtype=dtype) @ randn(2, 20, seed=8, dtype=dtype)
    known = torch.rand(20, 20, generator=generator(1)) < 0.7
    m = FixedRank(2)
    best = torch.zeros((), dtype=D)
    return (
        lambda X: ((X - A) * known).square().sum() / 2,
        start(m, 20, 20, dtype=dtype),
        m,
        best,
    )


def thomson(dtype=D):
    """12 charges: the icosahedron. The minimum is as large as the rotations."""
    i, j = torch.triu_indices(12, 12, 1)
    x = start(Sphere(), 12, 3, dtype=dtype)
    best = torch.tensor(49.165253057629, dtype=D)
    return lambda X: (X[i] - X[j]).square().sum(-1).rsqrt().sum(), x, Sphere(), best


def unitary(dtype=D):
    """Complex: the nearest unitary matrix."""
    complex_dtype = torch.complex128 if dtype == D else torch.complex64
    A = randn(5, 5, seed=3, dtype=complex_dtype)
    nuclear = torch.linalg.svdvals(A.to(torch.complex128)).sum()
    x = start(Stiefel(), 5, 5, dtype=complex_dtype)
    best = A.abs().double().square().sum() + 5 - 2 * nuclear
    return lambda X: (X - A).abs().square().sum(), x, Stiefel(), best


def rosenbrock(dtype=D):
    x0 = torch.tensor([-1.2, 1.0, 0.7], dtype=dtype)
    best = torch.zeros((), dtype=D)

    def fun(x):
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    return fun, x0, Euclidean(), best


PROBLEMS = (
    rayleigh,
    subspace,
    brockett,
    procrustes,
    karcher,
    completion,
    thomson,
    unitary,
    rosenbrock,
)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.__name__)
def test_known_minimum(problem, method):
    fun, x0, manifold, best = problem()
    given = x0.clone()
    result = minimize(fun, x0, manifold, method=method)
    assert result.success, result.message
    assert abs(result.fun - best.item()) <= 1e-9 * max(1, abs(best.item()))
    assert (manifold.violation(result.x) <= manifold.tolerance(result.x)).all()
    assert torch.equal(x0, given)
    assert result.fun == pytest.approx(fun(result.x).item(), rel=1e-14, abs=1e-30)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.__name__)
def test_float32_reaches_what_float32_can(problem, method):
    """The value is known to some eps of the sum of its terms, and the gap is a square of tol."""
    fun, x0, manifold, best = problem(torch.float32)
    result = minimize(fun, x0, manifold, method=method)
    assert result.success, result.message
    start_value = abs(fun(x0).item())
    scale = max(1.0, abs(best.item()), start_value)
    assert abs(result.fun - best.item()) <= 100 * torch.finfo(torch.float32).eps * scale


@pytest.mark.parametrize("problem", [rayleigh, brockett, thomson], ids=lambda p: p.__name__)
@pytest.mark.parametrize("method", METHODS)
def test_no_stall_at_the_end(problem, method):
    """Gradients fall far below √eps, where values tell nothing any more."""
    fun, x0, manifold, _ = problem()
    result = minimize(fun, x0, manifold, method=method, tol=1e-10)
    assert result.success, result.message
    assert result.grad_norm <= 1e-9 * max(result.history[0]["grad_norm"], abs(result.fun))


@pytest.mark.parametrize("rule", ["hager-zhang", "hestenes-stiefel", "polak-ribiere"])
@pytest.mark.parametrize("problem", [brockett, karcher, rosenbrock], ids=lambda p: p.__name__)
def test_rules_of_conjugate_gradients(problem, rule):
    fun, x0, manifold, best = problem()
    result = minimize(fun, x0, manifold, method="cg", options={"rule": rule})
    assert result.success, result.message
    assert abs(result.fun - best.item()) <= 1e-9


def test_conjugate_gradients_end_on_a_quadratic():
    """With exact arithmetic and searches after as many steps as there are eigenvalues."""
    values = torch.tensor([1.0, 2.0, 5.0, 10.0], dtype=D).repeat(5)
    search = StrongWolfe(curvature=1e-6, decrease=1e-7)
    for rule in ("hager-zhang", "hestenes-stiefel", "polak-ribiere"):
        result = minimize(
            lambda x: (values * x * x).sum() / 2,
            randn(20, seed=1),
            method="cg",
            tol=1e-8,
            options={"rule": rule, "line_search": search},
        )
        assert result.nit <= 5


@pytest.mark.parametrize("method", ["trust-region", "arc"])
def test_newton_steps_converge_fast(method):
    fun, x0, manifold, _ = brockett()
    result = minimize(fun, x0, manifold, method=method, options={"saddle_checks": 0})
    norms = [row["grad_norm"] for row in result.history]
    assert norms[-1] < 5e-3 * norms[-2]


# --- beside others -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_same_minimum_as_scipy(method):
    fun, x0, _, _ = rosenbrock()

    def value_and_gradient(x):
        leaf = torch.from_numpy(x).requires_grad_()
        f = fun(leaf)
        return f.item(), torch.autograd.grad(f, leaf)[0].numpy()

    theirs = optimize.minimize(value_and_gradient, x0.numpy(), jac=True, tol=1e-10)
    ours = minimize(fun, x0, method=method)
    np.testing.assert_allclose(ours.x.numpy(), theirs.x, atol=1e-6)


def test_few_evaluations_on_rosenbrock():
    fun, x0, _, _ = rosenbrock()

    def value_and_gradient(x):
        leaf = torch.from_numpy(x).requires_grad_()
        f = fun(leaf)
        return f.item(), torch.autograd.grad(f, leaf)[0].numpy()

    theirs = optimize.minimize(
        value_and_gradient,
        x0.numpy(),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": 1e-8, "ftol": 0},
    )
    ours = minimize(fun, x0, tol=0, options={"gtol": 1e-8})
    assert ours.nfev <= 1.2 * theirs.nfev


def _pymanopt_counts(optimizer, manifold, fun, x0):
    """Calls of cost, gradient and Hessian that pymanopt makes down to a gradient of 1e-6."""
    pymanopt = pytest.importorskip("pymanopt")
    problem = pymanopt.Problem(manifold, pymanopt.function.pytorch(manifold)(fun))
    counts = dict.fromkeys(("cost", "gradient", "hessian"), 0)

    def counted(name, function):
        def call(*args):
            counts[name] += 1
            return function(*args)

        return call

    problem._cost = counted("cost", problem.cost)
    problem._riemannian_gradient = counted("gradient", problem.riemannian_gradient)
    if optimizer is pymanopt.optimizers.TrustRegions:
        problem._riemannian_hessian = counted("hessian", problem.riemannian_hessian)
    solver = optimizer(verbosity=0, min_gradient_norm=1e-6, max_iterations=2000, min_step_size=0)
    solver.run(problem, initial_point=x0.numpy().copy())
    return counts


SIDE_BY_SIDE = (
    (rayleigh, "Sphere", (40,)),
    (subspace, "Grassmann", (30, 4)),
    (brockett, "Stiefel", (15, 3)),
    (karcher, "SymmetricPositiveDefinite", (4,)),
)


@pytest.mark.parametrize(("problem", "name", "size"), SIDE_BY_SIDE, ids=lambda p: str(p)[:20])
def test_no_more_evaluations_than_pymanopt(problem, name, size):
    pymanopt = pytest.importorskip("pymanopt")
    fun, x0, manifold, _ = problem()
    theirs = getattr(pymanopt.manifolds, name)(*size)
    cg = _pymanopt_counts(pymanopt.optimizers.ConjugateGradient, theirs, fun, x0)
    options = {"gtol": 1e-6}
    for method in ("lbfgs", "cg"):
        ours = minimize(fun, x0, manifold, method=method, tol=0, options=options)
        assert ours.nfev <= cg["cost"]
        if method == "lbfgs":
            assert ours.njev <= cg["gradient"]
    newton = _pymanopt_counts(pymanopt.optimizers.TrustRegions, theirs, fun, x0)
    ours = minimize(fun, x0, manifold, method="trust-region", tol=0, options=options)
    assert ours.nfev <= newton["cost"] + 2
    assert ours.nhev <= 1.2 * newton["hessian"] + TrustRegion().saddle_checks


# --- every manifold ------------------------------------------------------------------------------


@pytest.mark.sampled(8)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.manifold))
def test_every_manifold(case, method):
    """The squared distance to a point of it, in the ambient space, becomes critical or 0."""
    m = case.manifold
    kind = next(k for k in ("tall", "square", "vector", "batch", "plane") if k in case.shapes)
    shape = case.shapes[kind]
    x0, target = point(case, shape, D, 1), point(case, shape, D, 2)
    image = (lambda x: x) if m.total_space is None else m.invariants
    goal = image(target)
    result = minimize(
        lambda x: (image(x) - goal).abs().square().sum() / 2, x0, m, method=method, tol=1e-7
    )
    assert result.success, result.message
    assert result.fun <= result.history[0]["fun"]
    assert (m.violation(result.x) <= m.tolerance(result.x)).all()


# --- what a point may be -------------------------------------------------------------------------


def _registration():
    """Points moved by a rotation and a translation, and the cost of taking them back."""
    P = randn(20, 3, seed=1)
    R, t = start(SpecialOrthogonal(), 3, 3, seed=2), randn(3, seed=3)
    Q = P @ R.mT + t

    def cost(rotation, translation):
        return (P @ rotation.mT + translation - Q).square().sum()

    return cost, R, t


@pytest.mark.parametrize("method", METHODS)
def test_a_dict_and_a_tuple(method):
    cost, R, t = _registration()
    R0, t0 = start(SpecialOrthogonal(), 3, 3), torch.zeros(3, dtype=D)
    m = SpecialOrthogonal()
    by_name = minimize(
        lambda p: cost(p["R"], p["t"]),
        {"R": R0, "t": t0},
        {"t": Euclidean(), "R": m},
        method=method,
    )
    assert by_name.success
    torch.testing.assert_close(by_name.x, {"R": R, "t": t}, rtol=0, atol=1e-7)
    in_order = minimize(lambda p: cost(*p), (R0, t0), (m, None), method=method)
    assert isinstance(in_order.x, tuple)
    torch.testing.assert_close(in_order.x, (by_name.x["R"], by_name.x["t"]), rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_module(method):
    """Its constrained and its plain parameters, of which a closure is the cost."""
    cost, R, t = _registration()
    pose = nn.Module()
    pose.R = ManifoldParameter(start(SpecialOrthogonal(), 3, 3), SpecialOrthogonal())
    pose.t = nn.Parameter(torch.zeros(3, dtype=D))
    pose.kept = nn.Parameter(torch.ones(2, dtype=D), requires_grad=False)
    rotation = pose.R
    result = minimize(lambda: cost(rotation, pose.t), pose, method=method)
    assert result.success
    assert pose.R is rotation
    assert rotation.grad is None
    torch.testing.assert_close(pose.R.detach(), R, rtol=0, atol=1e-7)
    torch.testing.assert_close(result.x, {"R": R, "t": t}, rtol=0, atol=1e-7)
    R0 = start(SpecialOrthogonal(), 3, 3)
    same = minimize(
        lambda p: cost(*p),
        (R0, torch.zeros(3, dtype=D)),
        (SpecialOrthogonal(), None),
        method=method,
    )
    assert same.nit == result.nit
    assert same.nfev <= result.nfev <= same.nfev + result.nit


@pytest.mark.parametrize("method", METHODS)
def test_a_callback_finds_the_iterate_in_the_module(method):
    """And to look at it changes nothing: second derivatives are of a graph that is kept."""
    rayleigh_of, x0, manifold, _ = rayleigh()
    runs = []

    def cost(x):  # its gradient's derivative depends on x
        return rayleigh_of(x) + x.pow(4).sum()

    for looked in (False, True):
        model = nn.Module()
        model.x = ManifoldParameter(x0.clone(), manifold)

        def callback(iterate, model=model):
            torch.testing.assert_close(iterate.x["x"], model.x.detach(), rtol=0, atol=0)
            assert cost(model.x).item() == iterate.fun

        result = minimize(
            lambda model=model: cost(model.x),
            model,
            method=method,
            options={"maxiter": 30},
            callback=callback if looked else None,
        )
        runs.append([row["fun"] for row in result.history])
    assert len(runs[0]) > 5
    assert runs[0] == runs[1]


def test_a_network():
    """Least squares by a layer with orthonormal columns."""
    X, true = randn(50, 4, seed=1), nn.Linear(4, 3).double()
    constrain(true, "weight", Stiefel())
    model = nn.Linear(4, 3).double()
    constrain(model, "weight", Stiefel())
    goal = true(X).detach()
    result = minimize(lambda: nn.functional.mse_loss(model(X), goal), model)
    assert result.success
    assert result.fun < 1e-16
    assert Stiefel().violation(model.weight.detach()) < 1e-14


def test_a_manifold_parameter_says_where_it_lies():
    A = symmetric(6, 1)
    x0 = ManifoldParameter(start(Sphere(), 6), Sphere())
    result = minimize(lambda x: x @ A @ x, x0)
    assert result.fun == pytest.approx(torch.linalg.eigvalsh(A)[0].item())


def test_real_and_complex_together():
    A = randn(3, 3, seed=1, dtype=torch.complex128)
    x0 = {"U": start(Stiefel(), 3, 3, dtype=torch.complex128), "s": torch.ones(3, dtype=D)}
    result = minimize(
        lambda p: (p["U"] * p["s"] - A).abs().square().sum(), x0, {"U": Stiefel(), "s": None}
    )
    assert result.success
    gram = (A.mH @ A).diagonal().real
    assert result.fun <= ((A - A / gram.sqrt()).abs().square().sum()).item()


# --- saddles, Hessians that autograd has not -----------------------------------------------------


@pytest.mark.parametrize("method", ["trust-region", "arc"])
def test_saddles_are_left(method):
    """From an eigenvector in the middle, where the gradient is 0 to rounding."""
    A = symmetric(10, 1)
    values, vectors = torch.linalg.eigh(A)
    result = minimize(lambda x: x @ A @ x, vectors[:, 4].clone(), Sphere(), method=method)
    assert result.success
    assert result.fun == pytest.approx(values[0].item(), rel=1e-9)
    stays = minimize(
        lambda x: x @ A @ x,
        vectors[:, 4].clone(),
        Sphere(),
        method=method,
        options={"saddle_checks": 0},
    )
    assert stays.nit == 0


class _CubeOnce(torch.autograd.Function):
    """x³, without a second derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


@pytest.mark.parametrize("method", ["trust-region", "arc"])
def test_hessians_by_differences(method):
    """Where the cost has no second derivative; autograd says nothing of that here."""
    a = randn(8, seed=1)

    def exact(x):
        return (x**3).sum() + a @ x

    def once(x):
        return _CubeOnce.apply(x).sum() + a @ x

    x0 = start(Sphere(), 8)
    reference = minimize(exact, x0, Sphere(), method=method)
    result = minimize(once, x0, Sphere(), method=method)
    assert result.success
    assert result.nhev == 0
    assert result.fun == pytest.approx(reference.fun, rel=1e-12)
    assert result.nit <= reference.nit + 2


# --- what is said --------------------------------------------------------------------------------


def test_the_result_and_its_history():
    fun, x0, manifold, _ = rayleigh()
    result = minimize(fun, x0, manifold, method="trust-region")
    assert (result.status, result.method) == (0, "trust-region")
    assert result.message.startswith("Converged: the gradient norm")
    assert [row["nit"] for row in result.history] == list(range(result.nit + 1))
    last = result.history[-1]
    for name in ("fun", "grad_norm", "nfev", "njev"):
        assert last[name] == getattr(result, name)
    assert result.history[0]["fun"] == pytest.approx(fun(x0).item())
    assert {"radius", "rho"} <= set(last)
    assert 0 < last["time"] <= result.time
    pandas = pytest.importorskip("pandas")
    assert len(pandas.DataFrame(result.history)) == result.nit + 1
    for word in ("success", "Converged", "trust-region"):
        assert word in repr(result)


@pytest.mark.parametrize("method", METHODS)
def test_counters_count_calls(method):
    fun, x0, manifold, _ = brockett()
    calls = 0

    def counted(X):
        nonlocal calls
        calls += 1
        return fun(X)

    result = minimize(counted, x0, manifold, method=method)
    assert result.nfev == calls
    assert (result.nhev > 0) == (method in ("trust-region", "arc"))


def test_the_callback():
    fun, x0, manifold, _ = rayleigh()
    seen = []
    result = minimize(fun, x0, manifold, callback=seen.append)
    assert [it.nit for it in seen] == list(range(1, result.nit))
    assert seen[0].fun == fun(seen[0].x)

    def stop(iterate):
        if iterate.nit == 3:
            raise StopIteration

    for callback in (stop, lambda iterate: iterate.nit == 3):
        stopped = minimize(fun, x0, manifold, callback=callback)
        assert (stopped.nit, stopped.status, stopped.success) == (3, 4, False)
        assert "callback" in stopped.message
        assert stopped.fun == seen[2].fun


def test_progress_in_one_line(capsys):
    fun, x0, manifold, _ = rayleigh()
    minimize(fun, x0, manifold, options={"disp": True})
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.count("\r") > 5
    assert "gradient" in shown
    minimize(fun, x0, manifold)
    assert not capsys.readouterr().err


LIMITS = (
    ({"maxiter": 3}, "3 iterations of maxiter"),
    ({"maxfev": 5}, "5 evaluations of maxfev"),
    ({"maxtime": 0.0}, "0 seconds of maxtime"),
)


@pytest.mark.parametrize(("options", "words"), LIMITS)
def test_limits(options, words):
    fun, x0, manifold, _ = rayleigh()
    result = minimize(fun, x0, manifold, options=options)
    assert (result.status, result.success) == (1, False)
    assert words in result.message
    assert "maxiter" not in options or result.nit == 3


def test_rules_to_stop_compose():
    fun, x0, manifold, best = rayleigh()
    near = best.item() + 1e-3
    below = minimize(fun, x0, manifold, options={"stop": ValueBelow(near)})
    assert below.success
    assert "has reached" in below.message
    assert below.fun <= near < below.history[-2]["fun"]
    both = ValueBelow(near) & MaxTime(0.0)
    assert minimize(fun, x0, manifold, options={"stop": both}).nit == below.nit
    either = ValueBelow(near) | MaxIterations(2)
    assert minimize(fun, x0, manifold, options={"stop": either}).nit == 2
    flat = minimize(fun, x0, manifold, options={"stop": SmallDecrease(1e-3)})
    fall = flat.history[-2]["fun"] - flat.history[-1]["fun"]
    assert fall <= 1e-3 * abs(flat.fun)
    assert "fell by" in flat.message


def test_the_tolerance_is_relative_and_per_dtype():
    """The unit of the cost changes nothing; an absolute bound is an option."""
    fun, x0, manifold, _ = brockett()
    nits = {minimize(lambda X, c=c: c * fun(X), x0, manifold).nit for c in (1.0, 2.0**30, 2.0**-30)}
    assert len(nits) == 1
    loose = minimize(fun, x0, manifold, tol=0, options={"gtol": 1e-2})
    assert 1e-4 < loose.grad_norm <= 1e-2
    eps = torch.finfo(torch.float32).eps
    assert GradientNorm().relative is None
    assert eps**0.6 == pytest.approx(7e-5, rel=0.1)
    assert math.isclose(torch.finfo(D).eps ** 0.6, 4e-10, rel_tol=0.1)


def test_a_method_and_a_search_are_values():
    fun, x0, manifold, best = rayleigh()
    method = ConjugateGradient(line_search=StrongWolfe(curvature=0.01))
    assert minimize(fun, x0, manifold, method=method).fun == pytest.approx(best.item())
    exact = minimize(
        fun, x0, manifold, options={"line_search": StrongWolfe(curvature=0.01), "memory": 3}
    )
    assert exact.fun == pytest.approx(best.item())
    coarse = minimize(fun, x0, manifold, options={"line_search": Backtracking()})
    assert coarse.fun == pytest.approx(best.item())


def test_it_is_public():
    assert riemopt.minimize is minimize
    assert "minimize" in riemopt.__all__


def test_autocast_has_no_part_in_the_geometry():
    fun, x0, manifold, _ = karcher(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = minimize(fun, x0, manifold, options={"maxiter": 3})
    assert (manifold.violation(mixed.x) <= manifold.tolerance(mixed.x)).all()
    assert mixed.fun < mixed.history[0]["fun"]


def test_low_rank_factors_of_a_correlation():
    """Nearest correlation of rank 2; both ways to say it agree."""
    C = torch.corrcoef(randn(8, 30, seed=1))
    by_factor = minimize(
        lambda Y: (Y @ Y.mT - C).square().sum(), start(Elliptope(2), 8, 2), Elliptope(2)
    )
    rows = minimize(lambda Y: (Y @ Y.mT - C).square().sum(), start(Elliptope(2), 8, 2), Sphere())
    assert by_factor.fun == pytest.approx(rows.fun, rel=1e-9)

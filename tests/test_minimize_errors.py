"""What `minimize` refuses, in which words; and costs that go wrong on the way."""

import math

import pytest
import torch
from torch import nn

from riemopt import ManifoldParameter, minimize
from riemopt.manifolds import Euclidean, Sphere, Stiefel
from riemopt.solvers import LBFGS, Backtracking, BarzilaiBorwein, StrongWolfe, TrustRegion
from tests.manifold_cases import generator

D = torch.float64
METHODS = ("lbfgs", "trust-region", "cg", "gradient", "arc")


def start(*shape, seed=1, dtype=D):
    return Sphere().random_point(*shape, dtype=dtype, generator=generator(seed))


def first(x):
    return x[..., 0].sum()


# --- the cost ------------------------------------------------------------------------------------

COSTS = (
    (lambda x: x, ValueError, r"must be one number; got the shape \(4,\). Sum or average it"),
    (lambda x: 1.0, TypeError, "must return a tensor.*got float"),
    (lambda x: x.detach().sum(), ValueError, "does not depend on the point by autograd"),
    (lambda x: x.sum() * 1j, ValueError, "must be real; got a tensor of torch.complex128"),
    (lambda x: x.sum() / 0, ValueError, "not finite at the start"),
    (lambda x: (0 * x).sum().sqrt(), ValueError, "not finite at the start"),
    ("cost", TypeError, "fun must be a function.*got 'cost'"),
)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("fun", "error", "words"), COSTS)
def test_costs_that_are_none(fun, error, words, method):
    with pytest.raises(error, match=words):
        minimize(fun, start(4), Sphere(), method=method)


def test_one_number_may_have_dimensions():
    result = minimize(lambda x: x[:1], start(4), Sphere())
    assert result.fun == pytest.approx(-1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("slope", [1.0, 1e-3, 1e5])
def test_unbounded_below(slope, method):
    result = minimize(
        lambda x: slope * x.sum() - x.square().sum(), torch.ones(3, dtype=D), method=method
    )
    assert (result.status, result.success) == (3, False)
    assert "falls without end" in result.message
    assert "to maximise, return the negative" in result.message


@pytest.mark.parametrize("method", METHODS)
def test_it_steps_back_where_the_cost_is_not_a_number(method):
    """A barrier: log is NaN beyond 0, and the first trials lie there."""

    def fun(x):
        return x.sum() * 100 - x.log().sum()

    result = minimize(fun, torch.full((3,), 2.0, dtype=D), Euclidean(), method=method)
    assert result.success, result.message
    torch.testing.assert_close(result.x, torch.full((3,), 0.01, dtype=D))


@pytest.mark.parametrize("method", METHODS)
def test_a_cost_that_is_nan_everywhere_else(method):
    """It stays where it was, and says that no step is left."""
    x0 = start(4)

    def fun(x):
        return x.sum() if torch.equal(x.detach(), x0) else x.sum() * math.nan

    result = minimize(fun, x0, Sphere(), method=method)
    assert (result.status, result.success) == (2, False)
    assert "No step lowers the cost" in result.message
    assert torch.equal(result.x, x0)


def test_a_gradient_that_is_not_that_of_the_cost():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return -g

    result = minimize(lambda x: Wrong.apply(x).square().sum(), torch.ones(3, dtype=D))
    assert result.status == 2
    assert "the gradient is not that of the cost" in result.message


# --- the start -----------------------------------------------------------------------------------

STARTS = (
    (2 * torch.eye(3), Stiefel(), ValueError, "x0 is not a point of Stiefel.*project"),
    (torch.ones(3), Stiefel(), ValueError, "x0: Stiefel.*needs"),
    (torch.ones(3).bfloat16(), None, ValueError, r"float32.*x0.float\(\)"),
    (torch.ones(3).int(), None, ValueError, r"float32.*\.double\(\)"),
    (torch.tensor([1.0, math.nan]), None, ValueError, "not finite"),
    (torch.ones(3), Sphere, TypeError, "manifold instance|needed"),
    ([1.0, 2.0], None, TypeError, r"x0\[0\] must be a tensor; got float"),
    ((), None, ValueError, "a tensor at least"),
    ("x", None, TypeError, "must be a tensor, a tuple or dict"),
    ((torch.ones(2), torch.ones(2)), Sphere(), TypeError, "tuple of the same length"),
    ((torch.ones(2), torch.ones(2)), (Sphere(),), ValueError, "one entry for each of the 2"),
    ({"a": torch.ones(2)}, {"b": Sphere()}, ValueError, r"needs the keys of x0, \['a'\]"),
    ({"a": torch.ones(2)}, Sphere(), TypeError, "dict with the same keys"),
    ({"a": 2 * torch.ones(2)}, {"a": Sphere()}, ValueError, r"x0\['a'\] is not a point of Sphere"),
    (nn.Linear(2, 2), Stiefel(), TypeError, "riemopt.constrain"),
    (nn.ReLU(), None, ValueError, "no parameter that requires a gradient"),
)


@pytest.mark.parametrize(("x0", "manifold", "error", "words"), STARTS)
def test_starts_that_are_none(x0, manifold, error, words):
    with pytest.raises(error, match=words):
        minimize(lambda *x: None, x0, manifold)


def test_a_start_that_was_rounded_is_one():
    x0 = start(50, dtype=torch.float32).double()
    assert minimize(first, x0, Sphere()).fun == pytest.approx(-1, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_after_an_error_a_module_is_as_it_was(method):
    model = nn.Module()
    model.w = ManifoldParameter(start(4), Sphere())
    before, calls = model.w.detach().clone(), 0

    def fun():
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyError("mine")
        return (model.w**3).sum()

    with pytest.raises(KeyError, match="mine"):
        minimize(fun, model, method=method)
    assert torch.equal(model.w.detach(), before)
    assert model.w.grad is None


# --- options -------------------------------------------------------------------------------------

OPTIONS = (
    ("lbgfs", {}, "Unknown method 'lbgfs'; did you mean 'lbfgs'"),
    ("L-BFGS-B", {}, "did you mean 'lbfgs'"),
    ("trust-ncg", {}, "did you mean 'trust-region'"),
    ("zzz", {}, "known are 'lbfgs'"),
    ("lbfgs", {"maxitr": 3}, "no option 'maxitr'; did you mean 'maxiter'"),
    ("lbfgs", {"max_iterations": 3}, "did you mean 'maxiter'"),
    ("lbfgs", {"radius": 1.0}, "'radius' is an option of 'trust-region', not of 'lbfgs'"),
    ("lbfgs", {"memory": 0}, "memory ≥ 1"),
    ("trust-region", {"radius": -1.0}, "radius > 0"),
    ("trust-region", {"kappa": 2.0}, "kappa"),
    ("cg", {"rule": "fletcher-reeves"}, "has the rules"),
    ("gradient", {"mean": 1.0}, "0 ≤ mean < 1"),
    ("arc", {"sigma": 0.0}, "sigma > 0"),
    ("arc", {"theta": 0.0}, "theta > 0"),
    ("lbfgs", {"maxiter": -1}, "maxiter"),
    ("lbfgs", {"gtol": -1.0}, "gtol"),
)


@pytest.mark.parametrize(("method", "options", "words"), OPTIONS)
def test_options_that_are_none(method, options, words):
    with pytest.raises(ValueError, match=words):
        minimize(first, start(4), Sphere(), method=method, options=options)


def test_tol_is_a_number_that_is_not_negative():
    for tol in (-1e-3, math.nan):
        with pytest.raises(ValueError, match="tol"):
            minimize(first, start(4), Sphere(), tol=tol)


def test_values_refuse_too():
    for make in (
        lambda: StrongWolfe(decrease=0.6),
        lambda: StrongWolfe(decrease=0.3, curvature=0.2),
        lambda: StrongWolfe(max_trials=0),
        lambda: Backtracking(decrease=1.0),
        lambda: TrustRegion(theta=-1.0),
        lambda: BarzilaiBorwein(mean=-0.1),
    ):
        with pytest.raises(ValueError, match="need"):
            make()
    with pytest.raises(ValueError, match=r"its own.*'memory'"):
        minimize(first, start(4), Sphere(), method=LBFGS(), options={"memory": 3})
    with pytest.raises(TypeError, match="method must be a name or a method"):
        minimize(first, start(4), Sphere(), method=3)


# --- batches -------------------------------------------------------------------------------------


def test_batches_that_are_none():
    x0 = start(5, 4)
    with pytest.raises(ValueError, match=r"one number for each problem, of shape \(5,\)"):
        minimize(lambda x: x.sum(), x0, Sphere(), batch_ndim=1)
    with pytest.raises(ValueError, match="say batch_ndim=1"):
        minimize(lambda x: x.sum(-1), x0, Sphere())
    with pytest.raises(ValueError, match=r"x0\[1\] needs the batch_ndim=1 leading dimensions"):
        minimize(lambda x: x[0].sum(-1), (x0, start(4, 4)), (Sphere(), Sphere()), batch_ndim=1)
    with pytest.raises(ValueError, match="batch_ndim must be 0"):
        minimize(lambda x: x.sum(-1), x0, Sphere(), batch_ndim=-1)
    with pytest.raises(ValueError, match="a module is one problem"):
        minimize(lambda: None, nn.Linear(2, 2), batch_ndim=1)
    scale = torch.tensor([1.0, 1, math.inf, 1, 1], dtype=D)
    with pytest.raises(ValueError, match=r"of problems \[2\].*not finite at the start"):
        minimize(lambda x: scale * x.sum(-1), x0, Sphere(), batch_ndim=1)

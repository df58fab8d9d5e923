"""`riemopt.testing`: every manifold passes, and what is given to a check is looked at.

The laws themselves are those of `test_law_*.py`. Here they are run as users run them.
"""

from dataclasses import dataclass, field

import pytest
import torch

from riemopt.manifolds import Manifold, Sphere, Stiefel
from riemopt.testing import (
    check_gradient,
    check_manifold,
    check_projection,
    check_retraction,
    check_transport,
)
from tests import test_planted_mistakes as planted
from tests.manifold_cases import over_cases
from tests.test_testing_gradients import quadratic
from tests.test_testing_mistakes import HOST, DoubledStep, Raises

C128 = torch.complex128


def a_shape(case):
    kinds = [k for k in ("batch", "tall", "square", "vector") if k in case.shapes]
    if case.twin is not None:  # level sets take their time
        kinds.reverse()
    return case.shapes[kinds[0] if kinds else next(iter(case.shapes))]


def claimed_order(case):
    own = "canonical" if "canonical" in repr(case.manifold) else "ambient"
    return 2 if case.second_order in (own, "own") else 1


# --- every manifold of the catalogue passes ---


@pytest.mark.sampled(3)
@over_cases()
def test_every_manifold_passes(case):
    order = claimed_order(case)
    repeats = 2 if case.twin is None else 1
    report = check_manifold(case.manifold, a_shape(case), order=order, repeats=repeats).require()
    assert report["projection has rank dim"].verdict == "holds"
    assert report["retraction is first order"].slope > 1.8
    skipped = {row.law for row in report.rows if row.verdict == "skipped"}
    assert ("log inverts exp" in skipped) == (not {"exp", "log"} <= set(case.closed_forms))


@pytest.mark.sampled(4)
@over_cases(lambda case: case.twin is None and not case.is_real)
def test_every_manifold_passes_on_complex_tensors(case):
    check_manifold(case.manifold, a_shape(case), dtype=C128, repeats=2, skip=[HOST]).require()


@pytest.mark.parametrize("radius", [1e-6, 1e6])
def test_manifolds_of_any_size_pass(radius):
    check_manifold(Sphere(radius=radius), (4,), order=2).require()


# --- retractions ---


@pytest.mark.parametrize("retraction", ["polar", "qr", "cayley"])
def test_the_order_of_a_retraction_is_its_slope(retraction):
    report = check_retraction(Stiefel(retraction), (5, 2), order=2)
    assert report["retraction is first order"].slope == pytest.approx(2, abs=0.05)
    order = 3 if retraction == "polar" else 2
    assert report["retraction is second order"].slope == pytest.approx(order, abs=0.1)
    assert report["retraction agrees with exp"].slope == pytest.approx(order, abs=0.1)
    assert report.passed == (retraction == "polar")
    assert report.passed or "retraction of first order" in str(report)


def test_the_slope_says_what_is_wrong():
    report = check_retraction(DoubledStep(), (5,))
    assert report["retraction is first order"].slope == pytest.approx(1, abs=0.05)
    assert "An error of first order" in str(report)
    report = check_retraction(planted.UnsignedQR(), (5, 2))
    assert report["retraction is first order"].slope == pytest.approx(0, abs=0.05)
    assert "signs of a QR factor" in str(report)


def test_a_retraction_that_is_no_method():
    sphere = Sphere()
    assert check_retraction(sphere, (5,), order=2, retraction=sphere.exp)
    assert check_retraction(sphere, (5,), retraction=lambda x, u: x + u)  # the surface is not asked
    assert not check_retraction(sphere, (5,), retraction=lambda x, u: x + u + 1e-3)
    tilted = planted.FirstOrderRetraction().retract
    assert check_retraction(sphere, (5,), retraction=tilted)
    assert not check_retraction(sphere, (5,), retraction=tilted, order=2)


def test_second_order_in_another_metric_is_read_off_beside_exp():
    assert check_retraction(Stiefel("cayley", "canonical"), (5, 2), order=2)
    assert not check_retraction(Stiefel("polar", "canonical"), (5, 2), order=2)

    class NoExp(Stiefel):
        exp = Manifold.exp

    report = check_retraction(NoExp("cayley", "canonical"), (5, 2), order=2)
    assert not report
    assert "read off beside `exp`, which this manifold lacks" in str(report)
    assert check_retraction(NoExp("cayley", "canonical"), (5, 2))


class Refusing(Sphere):
    """Takes no step of more than `LONGEST`, and says so."""

    LONGEST = 3e-3

    def curve_with_fraction(self, x, u, t):
        taken = (torch.linalg.vector_norm(t * u, dim=-1) <= self.LONGEST).to(x.dtype)
        return Sphere().retract(x, taken.unsqueeze(-1) * t * u), taken

    def curve(self, x, u, t):
        return self.curve_with_fraction(x, u, t)[0]

    def retract(self, x, u):
        return self.curve_with_fraction(x, u, 1.0)[0]

    def with_dims_from_end(self, ndim):
        return self


def test_steps_may_be_refused():
    check_manifold(Refusing(), (5,), (2, 3), order=2, repeats=2, skip=[HOST]).require()


def test_a_manifold_that_refuses_all_steps_fails():
    manifold = Refusing()
    object.__setattr__(manifold, "LONGEST", 1e-9)
    report = check_retraction(manifold, (5,))
    assert "no step is taken whole" in report["retraction is first order"].found


@dataclass(frozen=True, repr=False)
class Loose(Sphere):
    """On the surface to what it says, and no more."""

    error: float = field(default=1e-9)
    allowed: float = field(default=2e-9)

    def __init__(self, error, allowed):
        super().__init__()
        object.__setattr__(self, "error", error)
        object.__setattr__(self, "allowed", allowed)

    def project(self, a):
        return super().project(a) * (1 + self.error)

    def tolerance(self, x):
        return torch.full_like(self.violation(x), self.allowed)


def test_the_manifold_says_what_rounding_is():
    assert check_manifold(Loose(1e-9, 2e-9), (5,))["project lands on surface"].verdict == "holds"
    assert check_manifold(Loose(2e-9, 1e-9), (5,))["project lands on surface"].verdict == "fails"


# --- determinism ---


def test_all_follows_from_the_seed():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    options = {"repeats": 2, "skip": [HOST]}
    first = check_manifold(Stiefel(), (4, 2), **options)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert check_manifold(Stiefel(), (4, 2), **options) == first
    other = check_manifold(Stiefel(), (4, 2), seed=2, **options)
    assert [row.found for row in other.rows] != [row.found for row in first.rows]


def test_a_failure_says_where():
    """The second of two shapes alone is wrong there."""

    class WideIsWrong(Stiefel):
        def proj_tangent(self, x, u):
            return super().proj_tangent(x, u) * (2 if x.shape[-1] > x.shape[-2] else 1)

    found = check_projection(WideIsWrong(), (4, 2), (2, 4))["projection is idempotent"].found
    assert "at shape (2, 4), seed" in found


# --- what is given ---


def test_points_are_checked_where_they_are_given():
    seen = []

    def function(x):
        seen.append(x.detach())
        return quadratic(x)

    x = Stiefel().random_point(3, 4, 2, dtype=torch.float64)
    report = check_manifold(Stiefel(), x, order=2, repeats=2, skip=[HOST]).require()
    assert "on (3, 4, 2)" in str(report)
    check_gradient(function, Stiefel(), x).require()
    assert torch.equal(seen[0], x)


REFUSED = [
    (lambda: check_manifold(Sphere), TypeError, r"write Sphere\(\)"),
    (lambda: check_manifold(Sphere()), ValueError, "Say where"),
    (lambda: check_manifold(Sphere(), 5), TypeError, "A shape such as"),
    (lambda: check_manifold(Sphere(), (0, 3)), ValueError, "at least one point"),
    (lambda: check_manifold(Stiefel(), (3,)), ValueError, "matrices"),
    (lambda: check_manifold(Sphere(), (3,), dtype=torch.float32), ValueError, "float64"),
    (lambda: check_manifold(Sphere(), torch.ones(1)), ValueError, "float64"),
    (lambda: check_manifold(Sphere(), torch.ones(3).double()), ValueError, "off Sphere"),
    (lambda: check_manifold(Sphere(), (3,), order=3), ValueError, "order must be 1 or 2"),
    (lambda: check_manifold(Sphere(), (3,), skip=["all"]), ValueError, r"skip names \['all'\]"),
    (lambda: check_manifold(Sphere(), (3,), repeats=0), ValueError, "repeats must be 1"),
    (lambda: check_gradient(lambda x: x, Sphere(), (3,)), ValueError, "one real number"),
    (lambda: check_gradient(lambda x: x.float().sum(), Sphere(), (3,)), ValueError, "in float64"),
    (lambda: check_gradient(lambda x: 1.0, Sphere(), (3,)), ValueError, "got 1.0"),
    (
        lambda: check_gradient(lambda x: torch.ones(()).double(), Sphere(), (3,)),
        ValueError,
        "does not depend",
    ),
    (
        lambda: check_gradient(
            quadratic, Sphere(), (4, 2), euclidean_gradient=lambda x: x, riemannian_gradient=len
        ),
        ValueError,
        "not both",
    ),
    (
        lambda: check_gradient(quadratic, Sphere(), (4, 2), euclidean_gradient=torch.sum),
        ValueError,
        "The gradient must be like the point",
    ),
]


@pytest.mark.parametrize(("call", "error", "text"), REFUSED)
def test_what_cannot_be_checked_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_errors_of_the_users_function_are_raised_as_they_are():
    def broken(x):
        raise ArithmeticError("mine")

    with pytest.raises(ArithmeticError, match="mine"):
        check_gradient(broken, Sphere(), (3,))


def test_errors_of_the_manifold_are_rows():
    row = check_transport(Raises(), (3,))["transport is tangent"]
    assert row.found == "raises ArithmeticError: no way, at shape (3,), seed 0"


def test_laws_are_left_out_by_name():
    manifold, rank = planted.WrongDim(), "projection has rank dim"
    assert not check_manifold(manifold, (4, 2), repeats=1, skip=[HOST])
    report = check_manifold(manifold, (4, 2), repeats=1, skip=[HOST, rank])
    assert report
    assert report[rank].found == "by request"


def test_large_points_are_checked_but_for_their_rank():
    report = check_projection(Sphere(), (1000,), repeats=1).require()
    assert report["projection has rank dim"].verdict == "skipped"
    assert "more than 256" in report["projection has rank dim"].found

"""`riemopt.testing`: every manifold passes, every mistake is named; what a report says and draws.

The laws themselves are those of `test_law_*.py`. Here they are run as users run them.
"""

import importlib
import math
import sys
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from riemopt.manifolds import Manifold, Sphere, Stiefel, Symmetric
from riemopt.testing import (
    check_gradient,
    check_manifold,
    check_projection,
    check_retraction,
    check_transport,
)
from riemopt.testing.fits import FLOOR, LEAST, STEPS, fit, measure, theil_sen
from tests import test_planted_mistakes as planted
from tests.manifold_cases import EXACT, name, over_cases

C128 = torch.complex128
# The slowest law, on the meta device; it is run once for each case and where it is broken.
HOST = "step reads nothing on the host"


def a_shape(case):
    kinds = [k for k in ("batch", "tall", "square", "vector") if k in case.shapes]
    if case.twin is not None:  # level sets take their time
        kinds.reverse()
    return case.shapes[kinds[0] if kinds else next(iter(case.shapes))]


def claimed_order(case):
    own = "ambient" if case.manifold.has_ambient_metric else "canonical"
    return 2 if case.second_order == own else 1


# --- every manifold of the catalogue passes ---


@over_cases()
def test_every_manifold_passes(case):
    order = claimed_order(case)
    repeats = 2 if case.twin is None else 1
    report = check_manifold(case.manifold, a_shape(case), order=order, repeats=repeats).require()
    assert report["projection has rank dim"].verdict == "holds"
    assert report["retraction is first order"].slope > 1.8
    skipped = {row.law for row in report.rows if row.verdict == "skipped"}
    assert ("log inverts exp" in skipped) == (not {"exp", "log"} <= set(case.closed_forms))


@over_cases(lambda case: case.twin is None)
def test_every_manifold_passes_on_complex_tensors(case):
    check_manifold(case.manifold, a_shape(case), dtype=C128, repeats=2, skip=[HOST]).require()


@pytest.mark.parametrize("radius", [1e-6, 1e6])
def test_manifolds_of_any_size_pass(radius):
    check_manifold(Sphere(radius=radius), (4,), order=2).require()


# --- planted mistakes ---


class Still(Sphere):
    """Takes no step."""

    def retract(self, x, u):
        return x.clone()


class DoubledStep(Sphere):
    """Goes twice as far."""

    def retract(self, x, u):
        return super().retract(x, 2 * u)


class Farthest(Sphere):
    """The point on the other side, where the distance is stationary too."""

    def project(self, a):
        return -super().project(a)


class ClaimsAmbient(Stiefel):
    """The canonical metric, called the ambient one."""

    has_ambient_metric = True


class ClaimsConstantNorm(Symmetric):
    """Leaves weight decay out."""

    has_constant_norm = True


class ClaimsLinear(Sphere):
    """Takes Adam's elementwise quotient for a tangent."""

    is_linear = True


class ClaimsNothing(Sphere):
    """Is stepped as in Euclidean space."""

    is_constraint = False


class AcceptsAnything(Sphere):
    """Every shape is right."""

    def check_shape(self, shape):
        pass


class ByIdentity(Sphere):
    """Equal to itself alone, so that an optimizer steps each weight by itself."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Changeable(Sphere):
    """Not frozen."""

    __setattr__ = object.__setattr__


class OwnAttempt(Sphere):
    """Another point than that of the curve."""

    def attempt(self, x, u, t):
        return self.retract(x, 2 * t * u), None


class StaleMemory(Stiefel):
    """Keeps the Gram matrix of the first point for all that follow."""

    def at(self, x):
        outer = self

        class Here(Stiefel):
            def proj_tangent(self, y, u):
                return outer.proj_tangent(x, u)

        return Here()


class Raises(Sphere):
    """Cannot do it."""

    def transport(self, x, y, v):
        raise ArithmeticError("no way")


class WrongDist(Sphere):
    """Half of it."""

    def dist(self, x, y):
        return super().dist(x, y) / 2


def plant(wrong, law, *, shape=(5, 2), order=1, dtype=torch.float64, **options):
    return pytest.param(wrong(**options), law, shape, order, dtype, id=f"{wrong.__name__}-{law}")


CANONICAL = {"metric": "canonical"}
# fmt: off
PLANTS = [
    plant(planted.DoubledProjector, "projection is idempotent"),
    plant(planted.DoubledProjector, "projection is derivative of project"),
    plant(planted.CanonicalProjector, "projection is idempotent"),
    plant(planted.GrassmannProjector, "projection has rank dim"),
    plant(planted.ObliqueProjector, "projection is self adjoint"),
    plant(planted.NormalizedProjector, "projection is linear"),
    plant(planted.TransposeForConjugate, "projection is idempotent", dtype=C128),
    plant(planted.WrongDim, "projection has rank dim"),
    plant(planted.WrongComplexDim, "projection has rank dim", dtype=C128),
    plant(planted.UncarriedAverage, "average is its definition"),
    plant(planted.UnscaledCurve, "curve is its definition"),
    plant(planted.UnsignedQR, "retraction fixes zero"),
    plant(planted.UnsignedQR, "retraction is first order"),
    plant(planted.NoRetraction, "retraction stays on surface"),
    plant(planted.OneNewtonStep, "retraction stays on surface"),
    plant(planted.DriftingRetraction, "retraction stays on surface"),
    plant(planted.SlowRetraction, "retraction is first order"),
    plant(DoubledStep, "retraction is first order"),
    plant(Still, "retraction is first order"),
    plant(planted.FirstOrderRetraction, "retraction is second order", order=2),
    plant(planted.FirstOrderRetraction, "retraction agrees with exp", order=2),
    plant(planted.InPlace, "arguments are left alone"),
    plant(planted.InPlaceProjection, "arguments are left alone"),
    plant(planted.SharedMemory, "arguments are left alone"),
    plant(planted.MixedBatch, "batch equals loop", shape=(2, 5, 2)),
    plant(planted.NotContiguous, "results keep the layout"),
    plant(planted.Upcasting, "results keep the layout"),
    plant(planted.HalfPrecisionInside, "single precision is kept"),
    plant(planted.WrongStep, "step is its definition"),
    plant(OwnAttempt, "attempt is the curve"),
    plant(StaleMemory, "manifold at a point is the same"),
    plant(planted.NearNotNearest, "project is stationary"),
    plant(planted.NearNotNearest, "project is nearest"),
    plant(Farthest, "project is nearest"),
    plant(planted.DividesByZero, "project stands zero"),
    plant(planted.FallsShort, "project lands on surface"),
    plant(planted.FallsShort, "project fixes points"),
    plant(planted.UnsignedQRSampler, "random points are points"),
    plant(planted.IgnoresGenerator, "random points are points"),
    plant(planted.AmbientNoise, "random tangents are tangent"),
    plant(planted.NoTransport, "transport is tangent"),
    plant(planted.TransportToTheOldPoint, "transport is tangent"),
    plant(planted.FlippedTransport, "transport is continuous"),
    plant(planted.OtherTransport, "retract transport is both"),
    plant(planted.EuclideanGradient, "gradient represents the differential", **CANONICAL),
    plant(planted.AmbientGradient, "gradient represents the differential"),
    plant(planted.ComplexInner, "inner is an inner product", dtype=C128),
    plant(planted.InnerOfTheBatch, "inner is an inner product"),
    plant(planted.AmbientNorm, "norm agrees with inner", **CANONICAL),
    plant(ClaimsAmbient, "metric is ambient as claimed", **CANONICAL),
    plant(ClaimsConstantNorm, "norm is constant as claimed", shape=(3, 3)),
    plant(ClaimsLinear, "linearity is as claimed"),
    plant(ClaimsNothing, "absence of a constraint is as claimed"),
    plant(planted.AcosDistance, "dist is length of geodesic"),
    plant(planted.ChordDistance, "dist is length of geodesic"),
    plant(WrongDist, "dist agrees with norm"),
    plant(planted.RetractionAsExp, "exp is a flow"),
    plant(planted.LeavesByTheTangent, "exp stays on surface"),
    plant(planted.ExpOfTheHalf, "exp is first order"),
    plant(planted.CanonicalExp, "exp has normal acceleration"),
    plant(planted.NanAtZero, "gradients at zero are finite"),
    plant(planted.LogOfTheChord, "log inverts exp"),
    plant(planted.BlindViolation, "violation sees normal displacements"),
    plant(planted.SquaredViolation, "violation sees normal displacements", shape=(3, 3)),
    plant(planted.BatchViolation, "violation is small at points", shape=(2, 5, 2)),
    plant(planted.ReadsOnTheHost, HOST),
    plant(planted.SingularValues, HOST),
    plant(AcceptsAnything, "shapes are checked"),
    plant(ByIdentity, "description is a value"),
    plant(Changeable, "description is a value"),
    plant(Raises, "transport is tangent"),
]
# fmt: on


@pytest.mark.parametrize(("manifold", "law", "shape", "order", "dtype"), PLANTS)
def test_a_mistake_is_named(manifold, law, shape, order, dtype):
    skip = [] if law == HOST else [HOST]
    report = check_manifold(manifold, shape, order=order, dtype=dtype, skip=skip, repeats=3)
    row = report[law]
    assert row.verdict == "fails"
    assert row.advice
    assert f"FAILS  {law}" in str(report)
    with pytest.raises(AssertionError, match=law):
        report.require()


def test_every_law_can_fail():
    tried = {parameter.values[1] for parameter in PLANTS}
    laws = {row.law for row in check_manifold(Sphere(), (2,), order=2, repeats=1).rows}
    assert laws - tried == set()


def test_the_small_checks_name_mistakes_too():
    assert check_projection(Stiefel(), (5, 2), (4, 4))
    assert not check_projection(planted.DoubledProjector(), (5, 2))
    assert check_transport(Sphere(), (5,))
    assert not check_transport(planted.FlippedTransport(), (5,))
    assert check_retraction(Sphere(), (5,), order=2)
    assert not check_retraction(planted.UnsignedQR(), (5, 2))


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

    def attempt(self, x, u, t):
        taken = (torch.linalg.vector_norm(t * u, dim=-1) <= self.LONGEST).to(x.dtype)
        return Sphere().retract(x, taken.unsqueeze(-1) * t * u), taken

    def curve(self, x, u, t):
        return self.attempt(x, u, t)[0]

    def retract(self, x, u):
        return self.attempt(x, u, 1.0)[0]

    def anchored(self, ndim):
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


# --- gradients ---

B = torch.randn(4, 4, dtype=C128, generator=torch.Generator().manual_seed(0))


def quadratic(x: Tensor) -> Tensor:
    """½ Re⟨x, Ax⟩ and a cubic, of all matrices of a batch."""
    A = B.to(x.dtype) if x.is_complex() else B.real
    return ((x.conj() * (A @ x)).real).sum() / 2 + (x.abs() ** 4).sum()


def quadratic_gradient(x: Tensor) -> Tensor:
    A = B.to(x.dtype) if x.is_complex() else B.real
    return (A + A.mH) @ x / 2 + 4 * x.abs().square() * x


@pytest.mark.parametrize("dtype", EXACT, ids=name)
@pytest.mark.parametrize(
    "manifold", [Stiefel(), Stiefel(metric="canonical"), Sphere(dim=(-2, -1))], ids=str
)
def test_a_right_gradient_is_accepted(manifold, dtype):
    def riemannian(x):
        return manifold.egrad2rgrad(x, quadratic_gradient(x))

    for given in (
        {},
        {"euclidean_gradient": quadratic_gradient},
        {"riemannian_gradient": riemannian},
    ):
        report = check_gradient(quadratic, manifold, (4, 2), (2, 4, 3), dtype=dtype, **given)
        report.require()
        assert report["gradient is the differential"].slope == pytest.approx(2, abs=0.1)


def test_a_gradient_that_is_wrong_by_a_thousandth_is_rejected():
    """Over forty seeds; the right one is accepted as often."""
    gen = torch.Generator().manual_seed(10**6)  # not that of a point
    noise = torch.randn(4, 2, dtype=torch.float64, generator=gen)

    def wrong(x):
        g = quadratic_gradient(x)
        return g + 1e-3 * torch.linalg.vector_norm(g) / torch.linalg.vector_norm(noise) * noise

    for seed in range(40):
        options = {"seed": seed, "repeats": 1}
        right = check_gradient(
            quadratic, Stiefel(), (4, 2), euclidean_gradient=quadratic_gradient, **options
        )
        assert right, str(right)
        assert not check_gradient(quadratic, Stiefel(), (4, 2), euclidean_gradient=wrong, **options)


WRONG = {
    "factor": {"euclidean_gradient": lambda x: 2 * quadratic_gradient(x)},
    "sign": {"euclidean_gradient": lambda x: -quadratic_gradient(x)},
    "a term left out": {"euclidean_gradient": lambda x: (B.real + B.real.mT) @ x / 2},
    "not tangent": {"riemannian_gradient": quadratic_gradient},
    "another metric": {
        "riemannian_gradient": lambda x: Stiefel().egrad2rgrad(x, quadratic_gradient(x))
    },
}


@pytest.mark.parametrize("given", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_gradient_is_rejected(given):
    report = check_gradient(quadratic, Stiefel(metric="canonical"), (4, 2), **given)
    assert not report
    if "not tangent" not in str(report):
        assert "perhaps" in str(report)


def test_a_gradient_that_is_not_tangent_is_named():
    report = check_gradient(quadratic, Stiefel(), (4, 2), riemannian_gradient=quadratic_gradient)
    assert [row.law for row in report.failed] == ["gradient is tangent"]


class Cube(torch.autograd.Function):
    """x³ with the derivative of x²."""

    @staticmethod
    def forward(ctx, x, power):
        ctx.save_for_backward(x)
        ctx.power = power
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * x**ctx.power, None


def test_a_custom_backward_is_checked():
    assert check_gradient(lambda x: Cube.apply(x, 2).sum(), Sphere(), (5,))
    report = check_gradient(lambda x: Cube.apply(x, 1).sum(), Sphere(), (5,))
    assert report["gradient is the differential"].slope == pytest.approx(1, abs=0.1)
    assert "a custom backward" in str(report)


def test_a_manifold_whose_conversion_is_wrong_is_told_from_a_wrong_gradient():
    manifold = planted.EuclideanGradient(metric="canonical")
    report = check_gradient(quadratic, manifold, (4, 2))
    assert [row.law for row in report.failed] == ["Riemannian gradient represents it"]


def test_a_random_function_is_named():
    report = check_gradient(lambda x: (x * torch.rand_like(x)).sum(), Sphere(), (5,))
    assert "is the function random" in str(report)


def test_functions_of_any_size_and_linear_ones():
    for size in (1e-12, 1e12):
        check_gradient(lambda x, s=size: s * x.square().square().sum(), Sphere(), (5,)).require()
    check_gradient(lambda x: 3 * x.sum(), Symmetric(), (3, 3)).require()  # exact
    check_gradient(lambda x: x.square().sum(), Sphere(), (5,)).require()  # constant


def test_a_function_that_takes_a_gradient_inside():
    def penalty(x):
        (g,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
        return g.square().sum()

    check_gradient(penalty, Sphere(), (5,)).require()


# --- the fit ---


def test_theil_sen_is_scipys():
    gen = np.random.default_rng(0)
    for n in (5, 30):
        x, y = gen.standard_normal(n), gen.standard_normal(n)
        assert theil_sen(x, y) == pytest.approx(stats.theilslopes(y, x).slope)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_slope_of_a_power_with_a_floor(order):
    gen = np.random.default_rng(0)

    def error(t):
        return 3 * t**order * (1 + t) + 1e-15 * gen.random()

    curve = measure(error, order, 1.0)
    assert curve.slope == pytest.approx(order, abs=0.05)
    assert curve.passed
    assert not replace(curve, order=order + 1).passed


def test_what_is_left_by_an_iteration_is_no_slope():
    """Noise far above rounding raises the floor; an error that stays is not taken for noise."""
    gen = np.random.default_rng(0)
    curve = measure(lambda t: t**2 + 1e-10 * gen.random(), 2, 1.0)
    assert curve.passed
    assert curve.floor > 1e-10
    assert measure(lambda t: 0.1 + t**2, 2, 1.0).slope == pytest.approx(0, abs=0.05)


def test_no_error_at_all_passes():
    curve = measure(lambda t: 1e-16, 2, 1.0)
    assert curve.passed
    assert curve.slope == math.inf
    assert "no error but rounding" in str(curve)


def test_where_no_line_can_be_put_through_nothing_passes():
    curve = measure(lambda t: math.nan, 2, 1.0)
    assert not curve.passed
    assert str(curve) == "the error is not finite"
    few = np.full(len(STEPS), 1e-20)
    few[-LEAST + 1 :] = 1.0
    slope, problem = fit(STEPS, few, FLOOR * 1e-16)
    assert math.isnan(slope)
    assert problem == "only 4 of 37 errors stand clear of rounding"


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


# --- reports ---


def test_a_report_is_true_and_reads_as_a_table():
    report = check_projection(Sphere(), (5,))
    assert report
    assert report.passed
    assert report.failed == ()
    assert report.require() is report
    lines = str(report).splitlines()
    assert lines[0] == "check_projection: Sphere() on (5,); float64, seeds 0 to 4"
    assert lines[1] == "5 hold"
    assert all(line.startswith("ok     ") for line in lines[3:])
    assert "slope 2.00, needed 2" in lines[-1]
    with pytest.raises(KeyError, match="no law 'nothing'"):
        report["nothing"]
    assert report["projection is linear"].slope is None


def test_a_plot_has_a_panel_for_each_slope(tmp_path):
    report = check_retraction(Sphere(), (5,), order=2)
    figure = report.plot(tmp_path / "slopes.svg")
    assert (tmp_path / "slopes.svg").read_text().startswith("<?xml")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title.split(":")[0] for title in titles] == [
        "retraction is first order",
        "retraction is second order",
        "retraction agrees with exp",
    ]
    assert all(len(axes.lines) == 2 * 5 + 2 for axes in figure.axes)  # clear, faint; references


def test_a_plot_on_axes_of_ones_own():
    figure = Figure()
    axes = figure.subplots()
    assert check_retraction(planted.SlowRetraction(), (5,)).plot(axes) is figure
    assert "slope 1.0" in axes.get_title(loc="left")
    with pytest.raises(ValueError, match="One Axes takes one slope"):
        check_retraction(Sphere(), (5,), order=2).plot(axes)


def test_a_report_without_slopes_has_no_plot():
    report = check_projection(Sphere(), (5,))
    equalities = replace(report, rows=report.rows[:3])
    with pytest.raises(ValueError, match="no slope to plot"):
        equalities.plot()
    report.plot()


def test_matplotlib_is_needed_for_plots_alone(monkeypatch):
    for module in [m for m in sys.modules if m.startswith(("matplotlib", "riemopt.testing"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    fresh = importlib.import_module("riemopt.testing")
    report = fresh.check_retraction(Sphere(), (5,))
    assert report
    with pytest.raises(ImportError, match=r"pip install 'riemopt\[bench\]'"):
        report.plot()

"""Each law of `riemopt.testing` names a mistake that is planted for it."""

import pytest
import torch

from riemopt.linalg import gram, right_multiply, skew, sym
from riemopt.manifolds import SPD, Grassmann, Sphere, Stiefel, Symmetric
from riemopt.testing import check_manifold, check_projection, check_retraction, check_transport
from tests import test_planted_mistakes as planted

C128 = torch.complex128
# The slowest law, on the meta device; it is run once for each case and where it is broken.
HOST = "step reads nothing on the host"


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


class FarInside(SPD):
    """Goes inside by as much as 10, where `margin` allows a hundredth."""

    def project(self, a):
        y = super().project(a)
        return y + 10 * torch.eye(y.shape[-1], dtype=y.dtype)


class ClaimsConstantNorm(Symmetric):
    """Leaves weight decay out."""

    has_constant_norm = True


class ClaimsAmbientMetric(SPD):
    """Converts gradients by a projection."""

    has_ambient_metric = True


class ClaimsDistortion(Sphere):
    """Gives up Adam's moments of entries."""

    distorts_lengths = True


class ClaimsLinear(Sphere):
    """Takes Adam's elementwise quotient for a tangent."""

    allows_elementwise_scaling = True


class ClaimsNothing(Sphere):
    """Is stepped as in Euclidean space."""

    is_constraint = False


class ClaimsToKeep(Sphere):
    """Is let off the laws that what it keeps would break."""

    keeps_entries = True


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


class OwnFraction(Sphere):
    """Another point than that of the curve."""

    def curve_with_fraction(self, x, u, t):
        return self.retract(x, 2 * t * u), None


class StaleMemory(Stiefel):
    """Keeps the Gram matrix of the first point for all that follow."""

    def linearised_at(self, x):
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


class FlatHessian(Sphere):
    """Leaves out how the tangent space turns."""

    def ehess2rhess(self, x, g, h, u):
        return self.proj_tangent(x, h)


class UnprojectedHessian(Sphere):
    """The derivative of the gradient in the ambient space."""

    def ehess2rhess(self, x, g, h, u):
        return super().ehess2rhess(x, g, h, u) + x


class HessianAsGradient(Stiefel):
    """Converts it as a gradient, without the acceleration of the geodesics."""

    def ehess2rhess(self, x, g, h, u):
        return self.egrad2rgrad(x, h)


class ProjectionAsParallel(Sphere):
    """Shortens what it carries."""

    def parallel_transport(self, x, y, v):
        return self.proj_tangent(y, v)


class NormalForHorizontal(Grassmann):
    """X sym(XᵀU): normal to the total space."""

    def proj_tangent(self, x, u):
        return right_multiply(x, sym(gram(x, u)))


class VerticalForHorizontal(Grassmann):
    """X skew(XᵀU): what turns the basis, and leaves the subspace."""

    def proj_tangent(self, x, u):
        return right_multiply(x, skew(gram(x, u)))


class BasisForInvariants(Grassmann):
    """Other bases of the subspace give something else."""

    def invariants(self, x):
        return x


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
    plant(planted.UncarriedMomentum, "carried momentum is its definition"),
    plant(planted.UncarriedMean, "carried mean is its definition"),
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
    plant(FlatHessian, "hessian is derivative of gradient"),
    plant(UnprojectedHessian, "hessian is self adjoint"),
    plant(HessianAsGradient, "hessian is derivative of gradient", **CANONICAL),
    plant(ProjectionAsParallel, "parallel transport keeps inner products"),
    plant(NormalForHorizontal, "tangents are horizontal"),
    plant(VerticalForHorizontal, "vertical vectors leave the point"),
    plant(BasisForInvariants, "vertical vectors leave the point"),
    plant(planted.InPlace, "arguments are left alone"),
    plant(planted.InPlaceProjection, "arguments are left alone"),
    plant(planted.SharedMemory, "arguments are left alone"),
    plant(planted.MixedBatch, "batch equals loop", shape=(2, 5, 2)),
    plant(planted.NotContiguous, "results keep the layout"),
    plant(planted.Upcasting, "results keep the layout"),
    plant(planted.HalfPrecisionInside, "single precision is kept"),
    plant(OwnFraction, "fraction belongs to the curve"),
    plant(StaleMemory, "manifold at a point is the same"),
    plant(planted.NearNotNearest, "project is stationary"),
    plant(planted.NearNotNearest, "project is nearest"),
    plant(Farthest, "project is nearest"),
    plant(FarInside, "project is nearest", shape=(3, 3)),
    plant(planted.DividesByZero, "project stands zero"),
    plant(planted.FallsShort, "project lands on surface"),
    plant(planted.FallsShort, "project fixes points"),
    plant(planted.UnsignedQRSampler, "random points are points"),
    plant(planted.IgnoresGenerator, "random points are points"),
    plant(planted.AmbientNoise, "random tangents are tangent"),
    plant(planted.NoTransport, "transport is tangent"),
    plant(planted.TransportToTheOldPoint, "transport is tangent"),
    plant(planted.FlippedTransport, "transport is continuous"),
    plant(planted.EuclideanGradient, "gradient represents the differential", **CANONICAL),
    plant(planted.AmbientGradient, "gradient represents the differential"),
    plant(planted.ComplexInner, "inner is an inner product", dtype=C128),
    plant(planted.InnerOfTheBatch, "inner is an inner product"),
    plant(planted.AmbientNorm, "norm agrees with inner", **CANONICAL),
    plant(ClaimsConstantNorm, "norm is constant as claimed", shape=(3, 3)),
    plant(ClaimsAmbientMetric, "metric is as claimed", shape=(3, 3)),
    plant(ClaimsDistortion, "lengths differ as claimed"),
    plant(ClaimsLinear, "linearity is as claimed"),
    plant(ClaimsNothing, "absence of a constraint is as claimed"),
    plant(ClaimsToKeep, "entries are kept as claimed"),
    plant(planted.AcosDistance, "dist is length of geodesic"),
    plant(planted.ChordDistance, "dist is length of geodesic"),
    plant(WrongDist, "dist agrees with norm"),
    plant(planted.RetractionAsExp, "exp is a flow"),
    plant(planted.LeavesByTheTangent, "exp stays on surface"),
    plant(planted.ExpOfTheHalf, "exp is first order"),
    plant(planted.CanonicalExp, "exp has normal acceleration"),
    plant(planted.NanAtZero, "gradients at zero are finite"),
    plant(planted.LogOfTheChord, "log inverts exp"),
    plant(planted.BySingularVectors, "project has its derivative"),
    plant(planted.ConstantLength, "project has its derivative"),
    plant(planted.DetachedExp, "exp has its derivative"),
    plant(planted.QuotientLog, "log has its derivative"),
    plant(planted.DistByAcos, "squared dist has its derivative"),
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

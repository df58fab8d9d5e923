"""A check of the checks: a manifold with one mistake in it is rejected by the law it breaks.

Each entry of `MISTAKES` is a class with the mistake, the law that must reject it, and the right
manifold, which the same law must accept at the same point.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from riemopt.linalg import gram, right_multiply, sym
from riemopt.manifolds import Manifold, Sphere, Stiefel, Symmetric
from riemopt.testing.law import Law
from tests import test_law_cost as cost
from tests import test_law_derivatives as derivatives
from tests import test_law_geodesics as geodesics
from tests import test_law_half_precision as half_precision
from tests import test_law_hessian as hessian
from tests import test_law_metric as metric
from tests import test_law_nearest_point as nearest
from tests import test_law_projection as projection
from tests import test_law_random as random
from tests import test_law_retraction as retraction
from tests import test_law_violation as violation
from tests.laws import assert_law
from tests.manifold_cases import generator, of_mass

F64, F32, BF16, C128 = torch.float64, torch.float32, torch.bfloat16, torch.complex128

# --- the mistakes ---


class DoubledProjector(Stiefel):
    """U - X(XᴴU + UᴴX): twice the normal part is taken away."""

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return u - 2 * right_multiply(x, sym(gram(x, u)))


class CanonicalProjector(Stiefel):
    """U - XUᴴX, the canonical gradient, taken for the projection."""

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return u - right_multiply(x, gram(u, x))


class GrassmannProjector(Stiefel):
    """U - XXᴴU: a projection, but on a smaller space."""

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return u - right_multiply(x, gram(x, u))


class ObliqueProjector(Sphere):
    """u - 1·⟨x, u⟩/⟨x, 1⟩: on the tangent space, but not orthogonal."""

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        ones = torch.ones_like(x)
        return u - ones * self.inner(x, x, u, keepdim=True) / self.inner(x, x, ones, keepdim=True)


class TransposeForConjugate(Stiefel):
    """XᵀU for XᴴU."""

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        S = x.mT @ u
        return u - x @ (S + S.mT) / 2


class ForgottenMetric(Stiefel):
    """Orthogonal in tr UᴴBV, as in `GeneralizedStiefel`, without saying so."""

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return of_mass().proj_tangent(x, u)

    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        return of_mass().inner(x, u, v, keepdim=keepdim)


class ForeignMetric(ForgottenMetric):
    """Says so, and projects in the Euclidean one."""

    extends_metric = True

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return Stiefel().proj_tangent(x, u)


class NormalizedProjector(Sphere):
    """Projects and clips to length 1, so that it is not linear."""

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        u = super().proj_tangent(x, u)
        return u / self.norm(x, u, keepdim=True).clamp(min=1)


class ShortCutMean(Stiefel):
    """‖G‖² - ‖sym XᴴG‖² for ‖grad‖², whatever cancels."""

    def carry_mean(self, x, m, g, decay):
        mean, _ = super().carry_mean(x, m, g, decay)
        S = sym(gram(x, g))
        return mean, (self.inner(x, g, g, keepdim=True) - self.inner(x, S, S, keepdim=True))


class UncarriedMomentum(Sphere):
    """m taken as it was at the last point."""

    def carry(self, x, m, g, decay, weight):
        return decay * m + weight * self.egrad2rgrad(x, g)


class UncarriedMean(Sphere):
    """m taken as it was at the last point."""

    def carry_mean(self, x, m, g, decay):
        grad = self.egrad2rgrad(x, g)
        return decay * m + (1 - decay) * grad, self.inner(x, grad, grad, keepdim=True)


class UnscaledCurve(Sphere):
    """Every step is as long as `u`."""

    def curve(self, x, u, t):
        return super().curve(x, u, 1.0)


class WrongDim(Stiefel):
    """np - p(p-1)/2."""

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        p, n = sorted(shape[-2:])
        return n * p - p * (p - 1) // 2


class WrongComplexDim(Stiefel):
    """The real dimension, doubled."""

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        return (1 + is_complex) * super().dim(shape)


class UnsignedQR(Stiefel):
    """The Q factor with whatever signs LAPACK gives it."""

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        return torch.linalg.qr(x + u)[0].contiguous()


class NoRetraction(Sphere):
    """x + u: on the surface to first order only."""

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        return x + u


class OneNewtonStep(Stiefel):
    """A cubic Newton-Schulz step, as POGO and landing methods take: right for small u alone."""

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        y = x + u
        return y - right_multiply(y, gram(y, y) - torch.eye(y.shape[-1], dtype=y.dtype)) / 2


class SlowRetraction(Sphere):
    """Goes half as far."""

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        return super().retract(x, u / 2)


class FirstOrderRetraction(Sphere):
    """Right to first order; its path accelerates along the surface."""

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        e = self.proj_tangent(x, torch.ones_like(x))
        return super().retract(x, u + self.inner(x, u, u, keepdim=True) * e)


class DriftingRetraction(Stiefel):
    """X(I + …) without the defect of X itself: keeps what X is off by."""

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        return super().retract(x, u) * (1 + 1e-6)


class InPlace(Sphere):
    """Adds the step to its argument."""

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        return super().retract(x.add_(u), torch.zeros_like(u))


class InPlaceProjection(Sphere):
    """Scales the vector that it was given."""

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return super().proj_tangent(x, u.mul_(1.0).add_(0.5))


class SharedMemory(Stiefel):
    """Returns its argument where there is nothing to do."""

    def project(self, a: Tensor) -> Tensor:
        return a.copy_(super().project(a))


class MixedBatch(Stiefel):
    """Takes the norm of the step over the whole batch."""

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        return super().retract(x, u / torch.linalg.vector_norm(u).clamp(min=1))


class NotContiguous(Stiefel):
    """Returns a transposed view."""

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        return super().retract(x, u).mT.contiguous().mT


class Upcasting(Sphere):
    """Returns float32 for bfloat16."""

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        return super().retract(x.float(), u.float())


class HalfPrecisionInside(Stiefel):
    """Computes in bfloat16 what float32 is needed for: one step of the iteration at a time."""

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        y = x + u
        for _ in range(3):
            y = y - right_multiply(y, gram(y, y) - torch.eye(y.shape[-1], dtype=y.dtype)) / 2
        return y


class NearNotNearest(Stiefel):
    """Takes the Q factor for the nearest point."""

    def project(self, a: Tensor) -> Tensor:
        return torch.linalg.qr(a)[0].contiguous()


class DividesByZero(Sphere):
    """a/‖a‖."""

    def project(self, a: Tensor) -> Tensor:
        dims = self.event_dims(a.ndim)
        return self.radius * a / torch.linalg.vector_norm(a, dim=dims, keepdim=True)


class FallsShort(Sphere):
    """Goes almost all of the way to the surface."""

    def project(self, a: Tensor) -> Tensor:
        return a + (super().project(a) - a) * (1 - 1e-6)


class FirstQuadrant(Sphere):
    """Points of positive coordinates."""

    def random_point(self, *shape: int, **options: Any) -> Tensor:
        return super().random_point(*shape, **options).abs()


class CubeSampler(Sphere):
    """Normalises a point of the cube, so that the corners are preferred."""

    def random_point(self, *shape: int, generator: Any = None, **options: Any) -> Tensor:
        options.pop("device", None)
        return self.project(torch.rand(*shape, generator=generator, **options) - 0.5)


class UnsignedQRSampler(Stiefel):
    """The Q factor of a normal matrix, without the signs that make it uniform."""

    def random_point(self, *shape: int, generator: Any = None, **options: Any) -> Tensor:
        return torch.linalg.qr(torch.randn(*shape, generator=generator, **options))[0]


class IgnoresGenerator(Sphere):
    """Draws from the global state."""

    def random_point(self, *shape: int, generator: Any = None, **options: Any) -> Tensor:
        return super().random_point(*shape, **options)


class AmbientNoise(Sphere):
    """A random vector that is not tangent."""

    def random_tangent(self, x: Tensor, *, generator: Any = None) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)


class NoTransport(Sphere):
    """Leaves the vector as it is."""

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return v


class TransportToTheOldPoint(Stiefel):
    """Projects at x for y."""

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self.proj_tangent(x, v)


class FlippedTransport(Sphere):
    """Tangent, and of the wrong sign."""

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return -super().transport(x, y, v)


class EuclideanGradient(Stiefel):
    """The canonical metric with the Euclidean gradient."""

    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        return self.proj_tangent(x, g)


class AmbientGradient(Sphere):
    """The gradient is not projected."""

    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        return g


class ComplexInner(Stiefel):
    """Σ conj(u)·v, of which the real part was not taken."""

    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        return (u.conj() * v).sum((-2, -1), keepdim=keepdim)


class InnerOfTheBatch(Sphere):
    """Sums over all dimensions."""

    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        return (u * v).sum()


class AmbientNorm(Stiefel):
    """The canonical metric with the Euclidean norm."""

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        return torch.linalg.vector_norm(u, dim=(-2, -1), keepdim=keepdim)


class AcosDistance(Sphere):
    """acos⟨x, y⟩."""

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.acos(self.inner(x, x, y).clamp(-1, 1))


class ChordDistance(Sphere):
    """‖x - y‖."""

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x - y, dim=-1)


class RetractionAsExp(Sphere):
    """A retraction taken for the exponential: its speed is not constant."""

    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        return self.retract(x, u)


class CanonicalExp(Stiefel):
    """The geodesic of another metric."""

    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        return Stiefel(metric="canonical").exp(x, u)


class LeavesByTheTangent(Sphere):
    """x + u."""

    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        return x + u


class ExpOfTheHalf(Sphere):
    """Arrives at half time."""

    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        return super().exp(x, u / 2)


class NanAtZero(Sphere):
    """sin(‖u‖)/‖u‖ by a quotient."""

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        return self.inner(x, u, u, keepdim=keepdim).sqrt()


class LogOfTheChord(Sphere):
    """P(y - x), without its length."""

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self.proj_tangent(x, y - x)


class BlindViolation(Stiefel):
    """Looks at the norms of the columns only."""

    def violation(self, x: Tensor) -> Tensor:
        return (torch.linalg.vector_norm(x, dim=-2) - 1).abs().amax(-1)


class SquaredViolation(Symmetric):
    """Its square, which is blind to small defects."""

    def violation(self, x: Tensor) -> Tensor:
        return super().violation(x) ** 2


class BatchViolation(Stiefel):
    """One number for all."""

    def violation(self, x: Tensor) -> Tensor:
        return super().violation(x).amax()


class ReadsOnTheHost(Sphere):
    """Asks whether there is anything to do."""

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        return x if not bool(u.any()) else super().retract(x, u)


class SingularValues(Stiefel):
    """A retraction by an SVD, which synchronises."""

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        return self.project(x + u)


class LargeMatrix(Stiefel):
    """(I - XXᴴ/2) as a matrix."""

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return u - (x @ x.mT) @ u / 2 - x @ (u.mT @ x) / 2


class BySingularVectors(Stiefel):
    """UVᴴ, through the singular vectors of equal singular values."""

    def project(self, a: Tensor) -> Tensor:
        U, _, Vh = torch.linalg.svd(a, full_matrices=False)
        return U @ Vh


class ConstantLength(Sphere):
    """a/‖a‖ with ‖a‖ taken for a constant."""

    def project(self, a: Tensor) -> Tensor:
        return a / torch.linalg.vector_norm(a.detach(), dim=-1, keepdim=True)


class DetachedExp(Sphere):
    """cos and sinc of a number that autograd does not know."""

    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        angle = self.norm(x, u.detach(), keepdim=True)
        return torch.cos(angle) * x + torch.sinc(angle / torch.pi) * u


class QuotientLog(Sphere):
    """θ/sin θ by a quotient, with the right value at y = x."""

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        angle = self.dist(x, y).unsqueeze(-1)
        quotient = torch.where(angle == 0, 1, angle / torch.sin(angle))
        return quotient * self.proj_tangent(x, y - x)


class DistByAcos(Sphere):
    """acos⟨x, y⟩, whose derivative is infinite at y = x."""

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.acos((x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1)))


class ProjectedHessian(Stiefel):
    """P h: the gradient's normal part, which turns with the tangent space, is left out."""

    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        return self.proj_tangent(x, h)


class TurnedHessian(Stiefel):
    """The turn of the tangent space with a Gram matrix that was not made symmetric."""

    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        return self.proj_tangent(x, h - right_multiply(u, gram(x, g)))


class ProjectionAsParallelTransport(Sphere):
    """A projection: vectors grow shorter."""

    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self.proj_tangent(y, v)


# --- and the laws that must reject them ---


class Mistake(NamedTuple):
    wrong: Manifold
    right: Manifold
    law: Law | Callable[..., None]
    shape: tuple[int, ...] = (5, 2)
    dtype: torch.dtype = F64
    options: tuple[Any, ...] = ()
    takes: str = "point and generator"


def name_of(law: Law | Callable[..., None]) -> str:
    return law.function.__name__ if isinstance(law, Law) else law.__name__.removeprefix("law_")


def planted(wrong: type, law: Law | Callable[..., None], *options: Any, **more: Any) -> Any:
    base = next(c for c in (Sphere, Stiefel, Symmetric) if issubclass(wrong, c))
    arguments = more.pop("arguments", {})
    return pytest.param(
        Mistake(wrong(**arguments), base(**arguments), law, options=options, **more),
        id=f"{wrong.__name__}-{name_of(law)}",
    )


METRIC = {"metric": "canonical"}
POINT, SHAPE, TENSOR = "point", "shape", "tensor"

# fmt: off
MISTAKES = [
    planted(DoubledProjector, projection.projection_is_idempotent),
    planted(DoubledProjector, projection.projection_is_derivative_of_project),
    planted(CanonicalProjector, projection.projection_is_idempotent),
    planted(GrassmannProjector, projection.projection_has_rank_dim),
    planted(GrassmannProjector, projection.projection_is_derivative_of_project),
    planted(ObliqueProjector, projection.projection_is_self_adjoint),
    planted(ForgottenMetric, projection.projection_is_self_adjoint),
    planted(ForeignMetric, projection.projection_is_self_adjoint),
    planted(TransposeForConjugate, projection.projection_is_idempotent, dtype=C128),
    planted(NormalizedProjector, projection.projection_is_linear),
    planted(WrongDim, projection.projection_has_rank_dim),
    planted(WrongComplexDim, projection.projection_has_rank_dim, dtype=C128),
    planted(ShortCutMean, metric.law_carried_mean_is_its_definition),
    planted(UncarriedMomentum, metric.carried_momentum_is_its_definition),
    planted(UncarriedMean, metric.law_carried_mean_is_its_definition),
    planted(UnscaledCurve, retraction.curve_is_its_definition),
    planted(UnsignedQR, retraction.retraction_is_first_order),
    planted(UnsignedQR, retraction.retraction_fixes_zero),
    planted(NoRetraction, retraction.law_retract_stays_on_surface, 1.0),
    planted(OneNewtonStep, retraction.law_retract_stays_on_surface, 1e3, dtype=F32),
    planted(SlowRetraction, retraction.retraction_is_first_order),
    planted(FirstOrderRetraction, retraction.retraction_is_second_order),
    planted(FirstOrderRetraction, retraction.retraction_agrees_with_exp),
    planted(DriftingRetraction, retraction.law_retract_stays_on_surface, 0.0),
    planted(InPlace, retraction.arguments_are_left_alone),
    planted(InPlaceProjection, retraction.arguments_are_left_alone),
    planted(SharedMemory, retraction.arguments_are_left_alone),
    planted(MixedBatch, retraction.law_batch_equals_loop),
    planted(NotContiguous, retraction.results_keep_the_layout),
    planted(Upcasting, retraction.results_keep_the_layout, dtype=BF16),
    planted(HalfPrecisionInside, half_precision.law_half_precision_is_rounded_double, dtype=BF16),
    planted(NearNotNearest, nearest.law_project_is_nearest, takes=TENSOR),
    planted(DividesByZero, nearest.law_project_lands_on_surface, takes="zeros"),
    planted(FallsShort, nearest.law_project_is_idempotent, takes="tensor alone"),
    planted(FirstQuadrant, random.law_random_point_is_uniform, takes=SHAPE, shape=(5,)),
    planted(CubeSampler, random.law_random_point_is_uniform, takes=SHAPE, shape=(5,)),
    planted(UnsignedQRSampler, random.law_random_point_is_uniform, takes=SHAPE),
    planted(IgnoresGenerator, random.law_random_point_is_on_surface, takes=SHAPE),
    planted(AmbientNoise, random.law_random_tangent_is_tangent, takes=POINT),
    planted(NoTransport, metric.transport_is_tangent),
    planted(TransportToTheOldPoint, metric.transport_is_tangent),
    planted(FlippedTransport, metric.transport_is_continuous),
    planted(EuclideanGradient, metric.gradient_represents_the_differential, arguments=METRIC),
    planted(AmbientGradient, metric.gradient_represents_the_differential),
    planted(ComplexInner, metric.law_inner_is_an_inner_product, dtype=C128),
    planted(InnerOfTheBatch, metric.law_inner_is_an_inner_product),
    planted(AmbientNorm, metric.norm_agrees_with_inner, arguments=METRIC),
    planted(AcosDistance, geodesics.law_dist_is_accurate_for_near_points, 1e-6, dtype=F32),
    planted(ChordDistance, geodesics.law_dist_is_length_of_geodesic, 1.0),
    planted(RetractionAsExp, geodesics.law_exp_is_a_flow),
    planted(LeavesByTheTangent, geodesics.law_exp_stays_on_surface),
    planted(ExpOfTheHalf, geodesics.exp_is_first_order),
    planted(CanonicalExp, geodesics.exp_has_normal_acceleration),
    planted(NanAtZero, geodesics.law_gradients_at_zero_are_finite, ("exp",), takes=POINT),
    planted(LogOfTheChord, geodesics.law_log_inverts_exp, 1.0),
    planted(BlindViolation, violation.law_violation_sees_each_pair_of_columns, takes=POINT),
    planted(SquaredViolation, violation.law_violation_sees_normal_displacements, shape=(3, 3)),
    planted(BatchViolation, violation.law_violation_has_batch_shape, takes=POINT, shape=(2, 5, 2)),
    planted(ReadsOnTheHost, cost.law_step_never_synchronises, takes="meta"),
    planted(SingularValues, cost.law_step_never_synchronises, takes="meta"),
    planted(BySingularVectors, derivatives.project_has_its_derivative),
    planted(BySingularVectors, derivatives.project_has_its_derivative, dtype=C128),
    planted(ConstantLength, derivatives.project_has_its_derivative),
    planted(DetachedExp, derivatives.exp_has_its_derivative),
    planted(QuotientLog, derivatives.log_has_its_derivative),
    planted(DistByAcos, derivatives.squared_dist_has_its_derivative),
    planted(ProjectedHessian, hessian.hessian_is_derivative_of_gradient),
    planted(TurnedHessian, hessian.hessian_is_self_adjoint),
    planted(ProjectionAsParallelTransport, hessian.parallel_transport_keeps_inner_products),
    planted(LargeMatrix, cost.law_makes_nothing_large, takes=POINT, shape=(cost.LONG, 2)),
]
# fmt: on


def check(manifold: Manifold, mistake: Mistake, seed: int) -> None:
    """Run the law on the manifold, at a point that does not depend on it."""
    gen = generator(seed)
    x = mistake.right.random_point(*mistake.shape, generator=gen, dtype=mistake.dtype)
    a = torch.randn(mistake.shape, generator=gen, dtype=mistake.dtype)
    arguments = {
        "point and generator": (x, gen),
        "point": (x,),
        "tensor": (a, gen),
        "tensor alone": (a,),
        "zeros": (torch.zeros_like(a),),
        "meta": (x.to("meta"),),
        "shape": (mistake.shape, mistake.dtype),
    }[mistake.takes]
    if isinstance(mistake.law, Law):
        assert_law(mistake.law, manifold, *arguments)
    else:
        mistake.law(manifold, *arguments, *mistake.options)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_right_manifold_is_accepted(mistake):
    for seed in range(5):
        check(mistake.right, mistake, seed)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_mistake_is_rejected(mistake):
    """By the law, with one of five seeds at least: the suite tries more, on every shape.

    (Reading a `meta` tensor raises by itself.)
    """
    rejected = 0
    for seed in range(5):
        try:
            check(mistake.wrong, mistake, seed)
        except AssertionError:
            rejected += 1
        except RuntimeError as error:
            rejected += "meta" in str(error)
    assert rejected


def test_every_law_can_fail():
    """Every law of the suite has a mistake here that it rejects."""
    modules = (
        cost,
        derivatives,
        geodesics,
        half_precision,
        hessian,
        metric,
        nearest,
        projection,
        random,
        retraction,
    )
    laws = {
        name_of(law)
        for module in (*modules, violation)
        for law in vars(module).values()
        if isinstance(law, Law) or getattr(law, "__name__", "").startswith("law_")
    }
    assert laws - {name_of(parameter.values[0].law) for parameter in MISTAKES} == set()

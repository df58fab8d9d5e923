"""The checks that users call: which laws, at which points, and the table that comes out."""

import dataclasses
from collections.abc import Collection, Sequence

import torch

from riemopt.linalg import outside_autocast
from riemopt.manifolds import Manifold
from riemopt.testing import (
    behaviour,
    derivatives,
    flags,
    geodesics,
    hessians,
    metrics,
    projections,
    quotients,
    retractions,
    surfaces,
)
from riemopt.testing.gradients import Function, Objective, laws_of_gradient
from riemopt.testing.law import Evidence, Law, NotApplicableError, Residual
from riemopt.testing.reports import Report, Row, Verdict, worst
from riemopt.testing.sampling import Sample, Where, samples
from riemopt.testing.second_derivatives import Operator, SecondOrder, laws_of_hessian
from riemopt.testing.slopes import Curve
from riemopt.testing.synchronisation import step_reads_nothing_on_the_host

REPEATS = 5


@outside_autocast
def check_manifold(
    manifold: Manifold,
    *where: Where,
    order: int = 1,
    skip: Collection[str] = (),
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    repeats: int = REPEATS,
) -> Report:
    """Check every promise of the contract that applies to `manifold`.

    Args:
        manifold: the manifold; `riemopt.manifolds.Manifold` is the contract.
        *where: shapes, of which random points are drawn, or points in float64 or complex128.
        order: what the retraction claims, 1 or 2.
        skip: names of laws to leave out, as they stand in the table.
        dtype: of random points: float64 or complex128.
        seed: of the first repeat; the others count up. All randomness follows from it.
        repeats: how many points of each shape, and vectors at each point.

    Returns:
        A `Report`: true if all hold; its text is a table.

    Raises:
        TypeError: `manifold` is no manifold instance, or a place is neither shape nor tensor.
        ValueError: nowhere to check, a shape that the manifold refuses, a point that is off the
            surface, another dtype, an order other than 1 and 2, or an unknown name in `skip`.

    Examples:
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.testing import check_manifold
        >>> report = check_manifold(Sphere(), (5,), order=2, repeats=2)
        >>> report.passed
        True
        >>> _ = report.require()  # in a test: raises AssertionError with the table
    """
    laws = (
        *behaviour.DESCRIPTION,
        *surfaces.LAWS,
        *projections.LAWS,
        *quotients.LAWS,
        *_retraction_laws(None, order),
        retractions.retraction_stays_on_surface,
        retractions.curve_is_its_definition,
        retractions.fraction_belongs_to_the_curve,
        retractions.manifold_at_a_point_is_the_same,
        *metrics.METRIC,
        *metrics.TRANSPORT,
        metrics.carried_momentum_is_its_definition,
        metrics.carried_mean_is_its_definition,
        *flags.LAWS,
        *geodesics.LAWS,
        *hessians.LAWS,
        *derivatives.LAWS,
        *behaviour.BEHAVIOUR,
        step_reads_nothing_on_the_host,
    )
    return _report("check_manifold", laws, manifold, where, skip, dtype, seed, repeats)


@outside_autocast
def check_projection(
    manifold: Manifold,
    *where: Where,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    repeats: int = REPEATS,
) -> Report:
    """Check that `proj_tangent` is the orthogonal projection on the tangent space of the surface.

    Linear, idempotent, self-adjoint, of rank `dim`, and the derivative of `project`. Arguments,
    result and errors as in `check_manifold`.

    Examples:
        >>> from riemopt.manifolds import Stiefel
        >>> from riemopt.testing import check_projection
        >>> check_projection(Stiefel(), (5, 2), repeats=2).passed
        True
    """
    laws = projections.LAWS
    return _report("check_projection", laws, manifold, where, (), dtype, seed, repeats)


@outside_autocast
def check_retraction(
    manifold: Manifold,
    *where: Where,
    order: int = 1,
    retraction: retractions.Retraction | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    repeats: int = REPEATS,
) -> Report:
    """Check the order of a retraction R by slopes, as Manopt's `checkretraction` does.

    First order: ‖R(x, tv) - x - tv‖ = O(t²). Second order in the ambient metric:
    ‖P(R(x, tv) - x) - tv‖ = O(t³); in another one, ‖R(x, tv) - exp(x, tv)‖ = O(t³).

    Args:
        order: 1 or 2, what is claimed.
        retraction: R(x, u), if it is not `manifold.retract`.

    The other arguments, the result and errors as in `check_manifold`.

    Examples:
        >>> from riemopt.manifolds import Stiefel
        >>> from riemopt.testing import check_retraction
        >>> check_retraction(Stiefel("polar"), (5, 2), order=2, repeats=2).passed
        True
        >>> check_retraction(Stiefel("qr"), (5, 2), order=2, repeats=2).passed  # of first order
        False
    """
    laws = _retraction_laws(retraction, order)
    return _report("check_retraction", laws, manifold, where, (), dtype, seed, repeats)


@outside_autocast
def check_transport(
    manifold: Manifold,
    *where: Where,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    repeats: int = REPEATS,
) -> Report:
    """Check that `transport` is tangent, linear and continuous.

    Arguments, result and errors as in `check_manifold`.

    Examples:
        >>> from riemopt.manifolds import Stiefel
        >>> from riemopt.testing import check_transport
        >>> check_transport(Stiefel(), (5, 2), repeats=2).passed
        True
    """
    laws = metrics.TRANSPORT
    return _report("check_transport", laws, manifold, where, (), dtype, seed, repeats)


@outside_autocast
def check_gradient(
    function: Function,
    manifold: Manifold,
    *where: Where,
    euclidean_gradient: Function | None = None,
    riemannian_gradient: Function | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    repeats: int = REPEATS,
) -> Report:
    """Check a gradient on a manifold: |f(R(x, tv)) - f(x) - t⟨grad f(x), v⟩| = O(t²), and tangent.

    Args:
        function: takes a tensor of a shape in `where`, gives one real number in float64.
        euclidean_gradient: of `function`, in the ambient space.
        riemannian_gradient: of `function`, in the metric of `manifold`. If neither is given,
            autograd's gradient is checked, and with it the backward of custom functions.

    The other arguments, the result and errors as in `check_manifold`; `ValueError` also for two
    gradients, or a function or gradient with a result of another kind.

    Examples:
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.testing import check_gradient
        >>> f = lambda x: x.pow(3).sum()
        >>> right, wrong = lambda x: 3 * x**2, lambda x: 2 * x**2
        >>> check_gradient(f, Sphere(), (5,), euclidean_gradient=right, repeats=2).passed
        True
        >>> check_gradient(f, Sphere(), (5,), euclidean_gradient=wrong, repeats=2).passed
        False
    """
    objective = Objective(function, euclidean_gradient, riemannian_gradient)
    with torch.random.fork_rng(devices=[]):
        for sample in samples(manifold, where, dtype, _seeds(seed, min(repeats, 1))):
            objective.value(sample.x)  # errors of the user's functions are raised from here
            objective.gradient(sample.x)
    laws = laws_of_gradient(objective)
    return _report("check_gradient", laws, manifold, where, (), dtype, seed, repeats)


@outside_autocast
def check_hessian(
    function: Function,
    manifold: Manifold,
    *where: Where,
    euclidean_gradient: Function | None = None,
    riemannian_gradient: Function | None = None,
    euclidean_hessian: Operator | None = None,
    riemannian_hessian: Operator | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    repeats: int = REPEATS,
) -> Report:
    """Check a Hessian: tangent, linear, self-adjoint, and the second derivative along geodesics.

    |f(c(t)) - f(x) - t⟨grad f(x), v⟩ - ½t²⟨Hess f(x)[v], v⟩| = O(t³) along c(t) = exp(x, tv), or
    R(x, tv) with a retraction of second order, as in Manopt's `checkhessian` (Boumal 2023, §6.8);
    in the ambient metric also ‖P(grad f(R(x, tv)) - grad f(x)) - t·Hess f(x)[v]‖ = O(t²).

    Args:
        function: takes a tensor of a shape in `where`, gives one real number in float64.
        euclidean_gradient: of `function`; autograd's, if no gradient is given.
        riemannian_gradient: in the metric of `manifold`; only with `riemannian_hessian`.
        euclidean_hessian: (x, u) ↦ the derivative of the Euclidean gradient along u.
        riemannian_hessian: (x, u) ↦ the covariant derivative of the Riemannian gradient. If
            neither is given, autograd's is checked, converted by `manifold.ehess2rhess`.

    The other arguments, the result and errors as in `check_manifold`; `ValueError` also for two
    gradients or two Hessians, a function, gradient or Hessian with a result of another kind, or a
    manifold without `ehess2rhess` if `riemannian_hessian` is not given.

    Examples:
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.testing import check_hessian
        >>> f, hessian = lambda x: x.pow(3).sum(), lambda x, u: 6 * x * u
        >>> check_hessian(f, Sphere(), (5,), euclidean_hessian=hessian, repeats=2).passed
        True
    """
    objective = Objective(function, euclidean_gradient, riemannian_gradient)
    second = SecondOrder(objective, euclidean_hessian, riemannian_hessian)
    with torch.random.fork_rng(devices=[]):
        for sample in samples(manifold, where, dtype, _seeds(seed, min(repeats, 1))):
            objective.value(sample.x)  # errors of the user's functions are raised from here
            objective.gradient(sample.x)
            second.riemannian_hessian(manifold, sample.x, torch.zeros_like(sample.x))
    laws = laws_of_hessian(second)
    return _report("check_hessian", laws, manifold, where, (), dtype, seed, repeats)


# --- running them ---


def _retraction_laws(retraction: retractions.Retraction | None, order: int) -> tuple[Law, ...]:
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2; got {order!r}.")
    laws = retractions.laws_of(lambda manifold: retraction or manifold.retract)
    return laws if order == 2 else laws[:2]


def _seeds(seed: int, repeats: int) -> range:
    if repeats < 1:
        raise ValueError(f"repeats must be 1 or more; got {repeats!r}.")
    return range(seed, seed + repeats)


def _report(
    check: str,
    laws: Sequence[Law],
    manifold: Manifold,
    where: Sequence[Where],
    skip: Collection[str],
    dtype: torch.dtype,
    seed: int,
    repeats: int,
) -> Report:
    unknown = set(skip) - {law.name for law in laws}
    if unknown:
        raise ValueError(
            f"skip names {sorted(unknown)}; the laws are {[law.name for law in laws]}."
        )
    # Whatever a method draws from the global state is drawn alike each time.
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = list(samples(manifold, where, dtype, _seeds(seed, repeats)))
        rows = [
            Row(law.name, law.formula, "skipped", "by request")
            if law.name in skip
            else _row(law, manifold, found)
            for law in laws
        ]
    shapes = ", ".join(dict.fromkeys(str(tuple(sample.point.shape)) for sample in found))
    names = (str(sample.point.dtype).removeprefix("torch.") for sample in found)
    dtypes = ", ".join(dict.fromkeys(names))
    seeds = f"seeds {seed} to {seed + repeats - 1}" if repeats > 1 else f"seed {seed}"
    return Report(f"{check}: {manifold!r} on {shapes}; {dtypes}, {seeds}", tuple(rows))


def _row(law: Law, manifold: Manifold, found: Sequence[Sample]) -> Row:
    """Run the law on all samples; the first exception, or the worst evidence, decides."""
    evidence: list[tuple[str, Evidence]] = []
    reason = ""
    one_each = {tuple(sample.point.shape): sample for sample in found}.values()
    for sample in one_each if law.by_shape else found:
        try:
            evidence.append((sample.label, law(manifold, sample.x, sample.generator())))
        except NotApplicableError as error:
            reason = str(error)
        except AssertionError as error:
            return _failure(law, None, f"{error}, at {sample.label}")
        except Exception as error:  # a user's method may raise anything
            text = f"raises {type(error).__name__}: {error}, at {sample.label}"
            return _failure(law, None, text)
    if not evidence:
        return Row(law.name, law.formula, "skipped", reason)
    residuals = [(label, e) for label, e in evidence if isinstance(e, Residual)]
    if residuals:
        return _row_of_residuals(law, residuals)
    curves = [dataclasses.replace(e, label=label) for label, e in evidence if isinstance(e, Curve)]
    return _row_of_curves(law, curves) if curves else Row(law.name, law.formula, "holds")


def _failure(law: Law, evidence: Evidence, found: str, curves: Sequence[Curve] = ()) -> Row:
    advice = law.advice_for(evidence)
    return Row(law.name, law.formula, "fails", found, advice, tuple(curves))


def _row_of_residuals(law: Law, residuals: Sequence[tuple[str, Residual]]) -> Row:
    label, residual = max(residuals, key=lambda pair: pair[1].excess())
    error, allowed = residual.worst()
    found = f"error {error:.1e}, allowed {allowed:.1e}"
    if residual.excess() > 1:
        return _failure(law, residual, f"{found}, at {label}")
    return Row(law.name, law.formula, "holds", found)


def _row_of_curves(law: Law, curves: Sequence[Curve]) -> Row:
    curve = worst(curves)
    verdict: Verdict = "holds" if curve.passed else "fails"
    if verdict == "fails":
        return _failure(law, curve, f"{curve}, at {curve.label}", curves)
    return Row(law.name, law.formula, verdict, str(curve), curves=tuple(curves))

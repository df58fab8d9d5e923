"""`exp`, `log` and `dist`, where there is a closed form."""

import pytest
import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from riemopt.testing.geodesics import exp_has_normal_acceleration, exp_is_first_order
from tests.bounds import assert_close, eps, length, rounding, wide
from tests.laws import assert_law, batch_shape, tangent
from tests.manifold_cases import (
    ALL_FORMS,
    EXACT,
    FULL,
    first_of_its_metric,
    for_seeds,
    generator,
    has_ambient_metric,
    over,
    over_cases,
    point,
)


def step(manifold: Manifold, x: Tensor, gen: Generator, size: float) -> Tensor:
    """A tangent of length `size` in the manifold's metric, or 0 where the tangent space is 0."""
    u = tangent(manifold, x, gen)
    norm = manifold.norm(x, u, keepdim=True)
    return u * (size / torch.where(norm > 0, norm, 1))


def law_exp_stays_on_surface(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """exp(x, u) is on the surface, to a rounding error for each unit of length."""
    for size in (0.0, 1e-8, 1.0, 3.0):
        y = manifold.exp(x, step(manifold, x, gen, size))
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        violation = manifold.violation(wide(y))
        bound = rounding(manifold, x) * (1 + size) * getattr(manifold, "radius", 1.0)
        if manifold.allows_elementwise_scaling:
            bound = eps(x.dtype) * float(wide(y).abs().max()) if y.numel() else 0.0
        assert bool((violation <= bound).all())


def law_exp_is_a_flow(manifold: Manifold, x: Tensor, gen: Generator, size: float = 1.0) -> None:
    """Constant speed, and going on from exp(x, su) leads to exp(x, (s+t)u). Double."""
    u = step(manifold, x, gen, size)
    s, t = 0.7, 0.4
    y, velocity = torch.func.jvp(
        lambda time: manifold.exp(x, time * u),
        (torch.tensor(s, dtype=torch.float64),),
        (torch.ones((), dtype=torch.float64),),
    )
    speed, start = manifold.norm(y, velocity), manifold.norm(x, u)
    assert bool(((speed - start).abs() <= 4 * rounding(manifold, x)).all())
    further = manifold.exp(y, t * velocity)
    scale = 4 * (1 + length(manifold, x))
    assert_close(manifold, further, manifold.exp(x, (s + t) * u), scale)


def law_log_inverts_exp(manifold: Manifold, x: Tensor, gen: Generator, size: float) -> None:
    """log(x, exp(x, u)) = u and exp(x, log(x, y)) = y within the injectivity radius."""
    u = step(manifold, x, gen, size)
    y = manifold.exp(x, u)
    v = manifold.log(x, y)
    # Points carry a rounding error of eps·‖x‖, of which log makes a tangent of that size.
    scale = length(manifold, x) + length(manifold, y)
    assert_close(manifold, v, u, scale)
    assert_close(manifold, manifold.exp(x, v), y, scale)
    assert_close(manifold, manifold.proj_tangent(x, v), v, scale)


def law_dist_is_length_of_geodesic(
    manifold: Manifold, x: Tensor, gen: Generator, size: float
) -> None:
    """dist(x, exp(x, u)) = ‖u‖ within the injectivity radius; symmetric; of the batch's shape."""
    u = step(manifold, x, gen, size)
    y = manifold.exp(x, u)
    dist = manifold.dist(x, y)
    assert dist.shape == batch_shape(manifold, x)
    bound = rounding(manifold, x) * (length(manifold, x) + length(manifold, y))
    assert bool(((dist - manifold.norm(x, u)).abs() <= bound).all())
    assert bool(((dist - manifold.dist(y, x)).abs() <= bound).all())


def law_dist_is_accurate_for_near_points(
    manifold: Manifold, x: Tensor, gen: Generator, size: float
) -> None:
    """dist(x, x) = 0 exactly, and the distance of near points keeps its relative accuracy.

    Compared with the same two points in float64; a formula by acos loses everything here. Rounding
    may move y off the surface by more than along it: the error is one of ‖x - y‖ too.
    """
    assert bool((manifold.dist(x, x) == 0).all())
    y = manifold.retract(x, step(manifold, x, gen, size))
    exact = manifold.dist(wide(x), wide(y))
    error = (wide(manifold.dist(x, y)) - exact).abs()
    apart = torch.maximum(exact, length(manifold, wide(y) - wide(x)))
    assert bool((error <= rounding(manifold, x) * apart).all())


def law_gradients_at_zero_are_finite(manifold: Manifold, x: Tensor, forms: tuple[str, ...]) -> None:
    """Norm, exp, log and dist have gradients without NaN where the step is zero."""
    functions = {
        "norm": lambda u: manifold.norm(x, u),
        "exp": lambda u: manifold.exp(x, u),
        "log": lambda u: manifold.log(x, x + u),
        "dist": lambda u: manifold.dist(x, x + u),
    }
    for name in ("norm", *forms):
        u = torch.zeros_like(x, requires_grad=True)
        functions[name](u).real.sum().backward()
        assert u.grad is not None
        assert bool(u.grad.isfinite().all()), name


# --- over the cases ---

# Well within the injectivity radius of the smallest sphere, π/2, near which log loses digits.
GEODESICS = (1e-6, 1e-3, 0.1, 1.0)


def lengths(case):
    return [size for size in GEODESICS if size <= case.reach]


def has(form):
    return lambda case: form in case.closed_forms and first_of_its_metric(case)


@over(dtypes=FULL, where=has("exp"))
@for_seeds
def test_exp_stays_on_surface(case, shape, dtype, seed):
    law_exp_stays_on_surface(case.manifold, point(case, shape, dtype), generator(seed))


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@over(dtypes=EXACT, kinds="small", where=has("exp"))
@for_seeds
def test_exp_is_a_geodesic(case, shape, dtype, seed):
    x = point(case, shape, dtype, seed)
    assert_law(exp_is_first_order, case.manifold, x, generator(seed + 1))
    law_exp_is_a_flow(case.manifold, x, generator(seed + 1), case.reach)


@over(dtypes=EXACT, kinds="small", where=lambda case: has("exp")(case) and has_ambient_metric(case))
@for_seeds
def test_exp_has_normal_acceleration(case, shape, dtype, seed):
    x = point(case, shape, dtype, seed)
    assert_law(exp_has_normal_acceleration, case.manifold, x, generator(seed + 1))


@over(dtypes=FULL, where=has("log"))
@for_seeds
def test_log(case, shape, dtype, seed):
    for size in lengths(case):
        law_log_inverts_exp(case.manifold, point(case, shape, dtype), generator(seed), size)


@over(dtypes=FULL, where=has("dist"))
@for_seeds
def test_dist(case, shape, dtype, seed):
    for size in lengths(case):
        x = point(case, shape, dtype)
        law_dist_is_length_of_geodesic(case.manifold, x, generator(seed), size)


@over(dtypes=FULL, where=has("dist"))
@for_seeds
def test_dist_of_near_points(case, shape, dtype, seed):
    x = point(case, shape, dtype)
    for size in (0.0, 1e-6, 1e-3, 1.0):
        law_dist_is_accurate_for_near_points(case.manifold, x, generator(seed), size)


@over(dtypes=FULL, where=first_of_its_metric)
def test_gradients_at_zero(case, shape, dtype):
    law_gradients_at_zero_are_finite(case.manifold, point(case, shape, dtype), case.closed_forms)


@pytest.mark.parametrize("form", ALL_FORMS)
@over_cases()
def test_what_has_no_closed_form_names_an_alternative(case, form):
    x = point(case, next(iter(case.shapes.values())), torch.float64)
    if form in case.closed_forms:
        getattr(case.manifold, form)(x, x)
    else:
        alternatives = {"exp": "`retract`", "log": "`proj_tangent", "dist": "ambient distance"}
        with pytest.raises(NotImplementedError, match=f"no closed-form {form}") as raised:
            getattr(case.manifold, form)(x, x)
        assert alternatives[form] in str(raised.value)
        assert repr(getattr(case.manifold, "base", case.manifold)) in str(raised.value)

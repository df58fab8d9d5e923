"""The surface: where random points and `project` lie, and how `violation` measures it."""

import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from riemopt.testing.law import (
    NotApplicableError,
    Residual,
    equality,
    joined,
    law,
    need,
    rounding,
)
from riemopt.testing.retractions import on_surface
from riemopt.testing.sampling import (
    ambient,
    ambient_norm,
    length,
    points,
    real_rows,
    stored,
    tangent,
)

# Sizes of tensors far from the surface, as weights are when they are put on it.
FAR = (1e-3, 1.0, 1e3)
# No more normal directions of a point are tried.
DIRECTIONS = 32


@law(
    "random_point is on the surface, and decided by the generator alone",
    "Is `generator` handed on? Does `project` end on the surface?",
)
def random_points_are_points(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """Of the shape and dtype asked for; contiguous."""

    def draw(seed: int) -> Tensor:
        generator = torch.Generator(x.device).manual_seed(seed)
        return manifold.random_point(*x.shape, generator=generator, dtype=x.dtype, device=x.device)

    y, same = draw(gen.initial_seed()), draw(gen.initial_seed())
    need_like("random_point", y, x)
    need(torch.equal(y, same), "one seed gave two points")
    return on_surface(manifold, y)


@law(
    "random_tangent is tangent, and decided by the generator alone",
    "Is the noise projected, and `generator` handed on?",
)
def random_tangents_are_tangent(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """Of the shape and dtype of `x`."""

    def draw(seed: int) -> Tensor:
        generator = torch.Generator(x.device).manual_seed(seed)
        return manifold.random_tangent(x, generator=generator)

    u, same = draw(gen.initial_seed()), draw(gen.initial_seed())
    need(u.shape == x.shape and u.dtype == x.dtype, f"got {tuple(u.shape)}, {u.dtype}")
    need(torch.equal(u, same), "one seed gave two tangents")
    scale = length(manifold, u) + length(manifold, torch.ones_like(x))
    return equality(manifold, manifold.proj_tangent(x, u), u, scale)


def need_like(method: str, y: Tensor, x: Tensor) -> None:
    """Raise `AssertionError` unless `y` has the shape and dtype of `x` and is contiguous."""
    need(y.shape == x.shape, f"{method} gives shape {tuple(y.shape)} for {tuple(x.shape)}")
    need(y.dtype == x.dtype, f"{method} gives dtype {y.dtype} for {x.dtype}")
    need(y.is_contiguous(), f"the result of {method} is not contiguous; end it by .contiguous()")


@law(
    "project(a) is a point, for any a",
    "Does `project` end with an exact map on the surface? Has it stopped short of it?",
)
def project_lands_on_surface(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """Near the surface and far from it."""
    residuals = []
    for size in FAR:
        y = manifold.project(size * ambient(x, gen))
        need_like("project", y, x)
        need(bool(y.isfinite().all()), f"project is not finite for entries of size {size:g}")
        residuals.append(on_surface(manifold, y))
    return joined(*residuals)


@law(
    "project(0) is a point, or an error that says why it is none",
    "Where all points are equally near, take any of them: a weight that is initialised with zeros "
    "turns to NaN otherwise.",
)
def project_stands_zero(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """And the nearest points to it need not be unique."""
    try:
        y = manifold.project(torch.zeros_like(x))
    except ValueError as error:
        raise NotApplicableError(f"refused: {error}") from None
    need(bool(y.isfinite().all()), "project(0) is not finite")
    return on_surface(manifold, y)


@law("project(x) = x for points x", "Is `project` an exact map on the surface?")
def project_fixes_points(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """To rounding."""
    return equality(manifold, manifold.project(x), x, length(manifold, x))


@law(
    "P(a - project(a)) = 0 at project(a): the way there is normal",
    "`project` is on the surface, but it is not the nearest point. (A Q factor is not, for one.)",
)
def project_is_stationary(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """a - y ⟂ T_y, the first-order condition of the nearest point."""
    if manifold.margin:
        raise NotApplicableError("margin: it may be farther than the nearest point")
    if _codimension(manifold, x) == 0:
        raise NotApplicableError("an open set has points as near as you like to what is outside")
    a = ambient(x, gen)
    y = manifold.project(a)
    along = manifold.proj_tangent(y, a - y)
    return rounding(length(manifold, along), length(manifold, a) + length(manifold, y), x.dtype)


@law(
    "‖a - project(a)‖ ≤ ‖a - y‖ for points y",
    "`project` is not the nearest point: is a sign the wrong way round? (Of an open set it may be "
    "farther by `margin`·(1 + ‖a‖).)",
)
def project_is_nearest(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """For `y` = x, and for points near the projection; up to `margin` for an open set."""
    a = ambient(x, gen)
    y = manifold.project(a)
    others = [x] + [
        manifold.retract(y, tangent(manifold, y, gen, size)) for size in (0.01, 0.1, 1.0)
    ]
    closest = ambient_norm(manifold, a - y) - manifold.margin * (1 + length(manifold, a))
    nearer = [closest - ambient_norm(manifold, a - other) for other in others]
    scale = ambient_norm(manifold, a) + ambient_norm(manifold, y)
    return joined(*(rounding(n.clamp(min=0), scale, x.dtype) for n in nearer))


@law(
    "violation is one real number for each point, and rounding at points",
    "Is the largest residual taken over one point alone, not over the batch?",
)
def violation_is_small_at_points(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """Of the batch's shape."""
    violation = manifold.violation(x)
    need(violation.dtype == x.real.dtype, f"dtype {violation.dtype}, needed {x.real.dtype}")
    return on_surface(manifold, x)


@law(
    "violation(x + tn) is proportional to a small t, for every normal n",
    "Is the residual squared? Is there a part of the constraint that `violation` does not look at? "
    "Or is the surface another one than that of `proj_tangent`?",
)
def violation_sees_normal_displacements(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """A hundred times as far is a hundred times the violation, within a twentieth. Double.

    Each direction is normal to the gradients of the violation so far: had it no part in a direction
    that is left, the violation would be blind to it.
    """
    seen: list[Tensor] = []
    residuals = []
    codimension = _codimension(manifold, x)
    if codimension == 0:
        raise NotApplicableError("an open set has no normal directions")
    if manifold.keeps_entries:
        raise NotApplicableError("keeps_entries: what no step changes may have any value")
    for _ in range(min(codimension, DIRECTIONS)):
        n = _normal(manifold, x, ambient(x, gen), seen)
        small, large = (manifold.violation(x + t * n) for t in (1e-6, 1e-4))
        need(bool((small > 0).all()), "violation is 0 off the surface")
        ratio = (large / small).double()
        residuals.append(Residual((ratio - 100).abs(), torch.full_like(ratio, 100.0), 0.05))
        with torch.enable_grad():
            y = (x + 1e-4 * n).requires_grad_()
            total = manifold.violation(y).sum()
        if not total.requires_grad:
            break
        (gradient,) = torch.autograd.grad(total, y)
        seen.append(real_rows(manifold, _normal(manifold, x, gradient, seen)))
    return joined(*residuals)


def _codimension(manifold: Manifold, x: Tensor) -> int:
    surface = stored(manifold)  # whose points may be parts of one, as rows of a matrix
    entries = real_rows(surface, x).shape[-1]
    parts = real_rows(manifold, x).shape[-1] // entries
    return parts * (entries - surface.dim(x.shape, is_complex=x.is_complex()))


def _normal(manifold: Manifold, x: Tensor, a: Tensor, seen: list[Tensor]) -> Tensor:
    """The part of `a` that is normal to the surface and to what has been seen, of length 1."""
    n = a - stored(manifold).proj_tangent(x, a)
    for direction in seen:
        along = (real_rows(manifold, n) * direction).sum(-1, keepdim=True)
        n = n - points(manifold, along * direction, x)
    long = length(manifold, n, keepdim=True)
    return n / torch.where(long > 0, long, 1)


LAWS = (
    random_points_are_points,
    random_tangents_are_tangent,
    project_lands_on_surface,
    project_stands_zero,
    project_fixes_points,
    project_is_stationary,
    project_is_nearest,
    violation_is_small_at_points,
    violation_sees_normal_displacements,
)

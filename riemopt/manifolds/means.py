"""Averages of points: the mean and the median of a manifold.

    riemopt.mean(SpecialOrthogonal(), rotations)                # (N, 3, 3) -> (3, 3)
    riemopt.mean(Sphere(), points, weights=w)                   # (N, *batch, n) -> (*batch, n)

The mean makes Σ w·dist² smallest, the median Σ w·dist, on which a few points that lie far off have
little effect. Both read values on the host in each iteration.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from riemopt.linalg import outside_autocast, upcast
from riemopt.manifolds.base import Manifold

Direction = Callable[[Manifold, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of x, the logs of the points there, their lengths, and weights: a step, and what it makes less.

All numbers have event dimensions of size 1.
"""

_ROUNDING = 8
"""Steps shorter than so many eps times the length of a stored point are rounding."""


@outside_autocast
def mean(
    manifold: Manifold,
    points: Tensor,
    weights: Tensor | None = None,
    *,
    start: Tensor | None = None,
    tolerance: float | None = None,
    max_iterations: int = 200,
) -> Tensor:
    """The Karcher mean: the point x that makes Σ wᵢ·dist(x, pᵢ)² smallest, nearby.

    From x along Σ wᵢ·log(x, pᵢ), by half of that where it would not come nearer (Pennec 2006).
    Unique for points within a ball that is small enough to be convex: any where the
    curvature is nowhere positive; on a sphere less than a quarter of a great circle in radius.
    Where a manifold has no `log` (`Stiefel`) it is the projected arithmetic mean, which agrees with
    it to first order in the spread. Differentiable, through all iterations.

    Args:
        manifold: on which the points lie.
        points: `(N, *shape)`: N tensors of `shape`, whose points are averaged one by one.
        weights: `(N,)`, or `(N, *batch)` for each point of a batch; not negative. They are divided
            by their sum. None for equal ones.
        start: where to begin, of `shape`; None for the projected arithmetic mean, or, on a
            quotient, for the first point.
        tolerance: the length of the last step, as a part of the spread (Σ w·dist²)^½; None for 64
            eps. Steps that rounding explains are short enough.
        max_iterations: with a `RuntimeWarning` that says how far it got.

    Returns:
        A tensor of `shape`.

    Raises:
        ValueError: no points, a wrong shape, weights that are negative, all zero or not finite, or
            points between which there is no shortest way.
        NotImplementedError: a quotient without `log`.

    Examples:
        >>> import torch, riemopt
        >>> points = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> riemopt.mean(riemopt.manifolds.Sphere(), points)
        tensor([0.7071, 0.7071])
        >>> riemopt.mean(riemopt.manifolds.Sphere(), points, weights=torch.tensor([1.0, 0.0]))
        tensor([1., 0.])
    """
    try:
        return _descend(_towards_mean, manifold, points, weights, start, tolerance, max_iterations)
    except NotImplementedError:
        if manifold.total_space is not None:
            raise
    manifold, w = _checked(manifold, points, weights)
    return _projected_mean(manifold, points, w)


@outside_autocast
def median(
    manifold: Manifold,
    points: Tensor,
    weights: Tensor | None = None,
    *,
    start: Tensor | None = None,
    tolerance: float | None = None,
    max_iterations: int = 1000,
) -> Tensor:
    """The geometric median: the point x that makes Σ wᵢ·dist(x, pᵢ) smallest, nearby.

    By Weiszfeld's iteration (Fletcher, Venkatasubramanian & Joshi 2009), with the correction of
    Vardi & Zhang (2000) at an x that is one of the points. It takes more iterations than `mean`
    where it lies at, or close to, one of the points. Arguments, result and errors as in `mean`; a
    manifold without `log` has no median.

    Raises:
        NotImplementedError: the manifold has no `log`.

    Examples:
        >>> import torch, riemopt
        >>> points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # the last is an outlier
        >>> x = riemopt.median(riemopt.manifolds.Sphere(), points)
        >>> torch.allclose(x, points[0], atol=1e-3)
        True
    """
    return _descend(_towards_median, manifold, points, weights, start, tolerance, max_iterations)


# --- directions --------------------------------------------------------------------------------


def _towards_mean(
    manifold: Manifold, x: Tensor, logs: Tensor, lengths: Tensor, w: Tensor
) -> tuple[Tensor, Tensor]:
    """Σ w·log, minus half the gradient of Σ w·dist²."""
    return (w * logs).sum(0), (w * lengths.square()).sum(0)


def _towards_median(
    manifold: Manifold, x: Tensor, logs: Tensor, lengths: Tensor, w: Tensor
) -> tuple[Tensor, Tensor]:
    """Weiszfeld's step; points at x itself hold it back by their weight."""
    here = lengths <= _rounding(manifold, x)
    inverse = torch.where(here, 0, w / torch.where(here, 1, lengths))
    pull, total = (inverse * logs).sum(0), inverse.sum(0)
    strength = manifold.norm(x, pull, keepdim=True)
    held = (here * w).sum(0) / torch.where(strength > 0, strength, 1)
    step = pull / torch.where(total > 0, total, 1) * (1 - held).clamp(min=0)
    return step, (w * lengths).sum(0)


# --- descent -----------------------------------------------------------------------------------


@upcast
def _descend(
    direction: Direction,
    manifold: Manifold,
    points: Tensor,
    weights: Tensor | None,
    start: Tensor | None,
    tolerance: float | None,
    max_iterations: int,
) -> Tensor:
    """Follow `direction` until it is short; where it leads up, go half as far."""
    manifold, w = _checked(manifold, points, weights)
    if start is not None and start.shape != points.shape[1:]:
        needed = tuple(points.shape[1:])
        raise ValueError(
            f"start needs the shape of one of the points, {needed}; got {tuple(start.shape)}."
        )
    eps = torch.finfo(points.dtype).eps
    tolerance = 64 * eps if tolerance is None else tolerance

    def at(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        here = x.expand_as(points)
        logs = manifold.log(here, points)
        lengths = manifold.norm(here, logs, keepdim=True)
        step, value = direction(manifold, x, logs, lengths, w)
        spread = (w * lengths.square()).sum(0).sqrt()
        short = manifold.norm(x, step, keepdim=True) <= tolerance * spread + _rounding(manifold, x)
        return step, value, short

    if start is not None:
        x = start.to(points.dtype)
    elif manifold.total_space is not None:
        x = points[0]
    else:
        x = _projected_mean(manifold, points, w)
    step, value, done = at(x)
    if not bool(step.isfinite().all()):
        raise ValueError(
            f"{manifold!r} has no shortest way from where the iteration starts to one of the "
            "points, or a point is not finite; give another start, such as one of the points."
        )
    part = torch.ones_like(value)
    for _ in range(max_iterations):
        if bool(done.all()):
            return x
        y = manifold.retract(x, part * step)
        found = at(y)
        # Close to the end the values are equal to rounding, and lengths of steps still tell.
        shorter = manifold.norm(y, found[0], keepdim=True) <= manifold.norm(x, step, keepdim=True)
        rise = (found[1] - value) / value.clamp(min=torch.finfo(value.dtype).tiny)
        nearer = ((rise <= 8 * eps) | (shorter & (rise <= eps**0.5))) & ~done
        part = torch.where(nearer | done, part, part / 2)
        x = torch.where(nearer, y, x)
        step, value, done = (
            torch.where(nearer, b, a) for a, b in zip((step, value, done), found, strict=True)
        )
    left = int((~done).sum())
    if left:
        size = float(manifold.norm(x, step, keepdim=True)[~done].max())
        warnings.warn(
            f"After max_iterations={max_iterations} a step is still {size:.1e} long at {left} of "
            f"{done.numel()} points; allow more iterations, or a larger tolerance than "
            f"{tolerance:.1e}.",
            RuntimeWarning,
            stacklevel=5,
        )
    return x


def _checked(manifold: Manifold, points: Tensor, weights: Tensor | None) -> tuple[Manifold, Tensor]:
    """The manifold for one of the points, and weights that sum to 1 and broadcast to `points`."""
    if points.ndim < 1 or len(points) == 0:
        raise ValueError(
            f"One point at least is needed, (N, *shape) with N ≥ 1; got {tuple(points.shape)}."
        )
    shape = points.shape[1:]
    manifold.check_shape(shape)
    manifold = manifold.with_dims_from_end(len(shape))
    events = [d % points.ndim for d in manifold.event_dims(len(shape))]
    batch = [n for d, n in enumerate(points.shape) if d not in events]
    if weights is None:
        weights = points.new_ones(len(points), dtype=points.real.dtype)
    if list(weights.shape) == [len(points)]:
        w = weights.reshape(-1, *[1] * len(shape))
    elif list(weights.shape) == batch:
        w = weights
        for d in sorted(events):
            w = w.unsqueeze(d)
    else:
        raise ValueError(
            f"weights need the shape ({len(points)},) or {tuple(batch)}; got "
            f"{tuple(weights.shape)}."
        )
    total = w.sum(0, keepdim=True)
    if not bool(((w >= 0) & w.isfinite()).all() & (total > 0).all()):
        raise ValueError("weights need to be finite, not negative, and not all zero.")
    return manifold, (w / total).to(points.real.dtype)


def _projected_mean(manifold: Manifold, points: Tensor, w: Tensor) -> Tensor:
    return manifold.project((w * points).sum(0))


def _rounding(manifold: Manifold, x: Tensor) -> Tensor:
    """A length that is rounding at x."""
    dims = manifold.event_dims(x.ndim)
    size = torch.linalg.vector_norm(x, dim=dims, keepdim=True) if dims else x.abs()
    return _ROUNDING * torch.finfo(x.dtype).eps * size

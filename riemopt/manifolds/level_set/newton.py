"""Back to {c = 0}: Newton's iteration in the normal space, with J refreshed when it pays.

    y, taken = land(c, here, x, u, t, linearise)    # from x along the tangent t·u, back
    y, found = descend(c, a, linearise)             # from anywhere to {c = 0}

A step with J at y itself (Gauss-Newton) costs a derivative and squares the error; one with J of an
earlier point (a *chord*) costs an evaluation of c and gains a factor of about the distance from
that point over the radius of curvature. Both move along normal spaces, so that the retraction is of
second order (Absil & Malick 2012, §4); from x + t·u they lead to it over its norm on a sphere, and
to its polar factor on a Stiefel manifold. How far the iteration is from its end is judged by the
lengths of its steps, as in Deuflhard (2011), §2.1: they are distances in x, so that neither the
scale of c nor its redundancy matters.

There are two algorithms, and `land` chooses one. Where values are read for free, as on eager CPU
tensors, a step is tried whole, the iteration ends when all points have arrived, and what fails is
tried again with less of the step. Elsewhere a step is cut to one radius of curvature first, the
length of the iteration is fixed, and a point that has not arrived then stays where it was.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from riemopt.linalg import adaptive, add_scaled, known_all
from riemopt.manifolds.level_set.normal_space import NormalSpace, Residual, lengths

Linearise = Callable[[Tensor], NormalSpace]
# Corrects y from the normal space there until it stays; see `_until_arrived`.
Iteration = Callable[
    [Residual, NormalSpace, Tensor, Tensor, Linearise], tuple[Tensor, Tensor, Tensor]
]

# Adaptive: corrections at most; and how often a step is tried again with less of it, first with one
# radius of curvature, then with an eighth of that, and so on.
_AT_MOST, _ATTEMPTS = 30, 4
# Adaptive: corrections of all points at one pace, before any is looked at by itself.
_QUICK = 4
# A step of which so much is taken back has not come back to where it was sent from: on a sphere,
# one of 100 radii.
_UNDONE = 0.99
# Fixed: a step is at most so many radii of curvature long. From there so many steps of Gauss-Newton
# and a last chord arrive.
_RADII = 1.0
_FIXED = {torch.float32: 3, torch.float64: 5}


def land(
    c: Residual,
    here: Callable[[], NormalSpace],
    x: Tensor,
    u: Tensor,
    t: float | Tensor,
    linearise: Linearise,
) -> tuple[Tensor, Tensor]:
    """From the points x along the tangents t·u, back on {c = 0}.

    Args:
        c: `(B, n)` → `(B, m)`.
        here: makes the normal space at x, which most steps do without.
        x, u: `(B, n)`.
        t: a number, or `(B, 1)`.
        linearise: the normal space at other points.

    Returns:
        y `(B, n)`, and `(B, 1)` what part of t·u was taken: 1, less where the surface bends too
        much for it, 0 where no part of it came back; such a point stays at x.
    """
    length = lengths(u) * (t.abs() if isinstance(t, Tensor) else abs(t))
    algorithm = _land_adaptive if adaptive(length) else _land_fixed
    return algorithm(c, here, x, u, t, length, linearise)


def _land_adaptive(
    c: Residual,
    here: Callable[[], NormalSpace],
    x: Tensor,
    u: Tensor,
    t: float | Tensor,
    length: Tensor,
    linearise: Linearise,
) -> tuple[Tensor, Tensor]:
    part = torch.ones_like(length)
    quick = _quick(c, add_scaled(x, u, t), length, linearise)
    if quick is not None:
        return quick, part
    space, v = here(), t * u
    y, found = _attempt(c, space, x, v, length, linearise, _until_arrived)
    for k in range(_ATTEMPTS):
        if bool(found.all()):
            return y, part
        less = _limit(c, space, x, v, length).clamp(max=1 / 8) if k == 0 else part / 8
        part = torch.where(found, part, less)
        y, found = _attempt(c, space, x, part * v, part * length, linearise, _until_arrived)
    return torch.where(found, y, x), torch.where(found, part, 0)


def _land_fixed(
    c: Residual,
    here: Callable[[], NormalSpace],
    x: Tensor,
    u: Tensor,
    t: float | Tensor,
    length: Tensor,
    linearise: Linearise,
) -> tuple[Tensor, Tensor]:
    space, v = here(), t * u
    part = _limit(c, space, x, v, length)
    y, found = _attempt(c, space, x, part * v, part * length, linearise, _so_many_times)
    return torch.where(found, y, x), torch.where(found, part, 0)


def _quick(c: Residual, y: Tensor, length: Tensor, linearise: Linearise) -> Tensor | None:
    """A few corrections, judged by the slowest point alone: enough for nearly all steps.

    Returns None where they are not, for a closer look.
    """
    tolerance, shortest = _tolerance(y).amin().item(), length.amin().item()
    last, way = length.amax().item(), 0.0
    space = linearise(y)
    r = space.value
    for _ in range(_QUICK):
        left = space.guess(r).amax().item() if way else last
        if way and left <= tolerance:
            return y if way <= max(_UNDONE * shortest, tolerance) else None
        if way and not left < last / 2:
            return None
        if way and left * (left / last) ** 2 > tolerance:
            space = linearise(y)
            r = space.value
        y, new = space.nudge(y, r)
        last = new.amax().item()
        way += last
        r = c(y)
    return None


def _limit(c: Residual, space: NormalSpace, x: Tensor, v: Tensor, length: Tensor) -> Tensor:
    """What part of v is one radius of curvature long, `(B, 1)`; 1 at most."""
    # c(x + v) - c(x) is half the second derivative along v, and as a distance |v|²/2 radii.
    sagitta = space.distance(c(x + v) - space.value)
    bends = 2 * sagitta > _RADII * length
    # Nothing is divided by 0, as the derivative of what is not chosen would be NaN.
    part = torch.where(bends, _RADII * length / torch.where(bends, 2 * sagitta, 1), 1)
    return torch.where(sagitta.isfinite(), part, 1 / 8)


def _attempt(
    c: Residual,
    space: NormalSpace,
    x: Tensor,
    v: Tensor,
    length: Tensor,
    linearise: Linearise,
    iteration: Iteration,
) -> tuple[Tensor, Tensor]:
    """Try a step v of this length: the point, and whether it came back."""
    start = x + v
    there = linearise(start)
    y, found, way = iteration(c, there, start, length, linearise)
    allowed = _UNDONE * length + _tolerance(x)
    undone = way > allowed
    if not known_all(~undone):
        # The defect that x itself had is corrected, too.
        found = found & (way <= allowed + 2 * there.guess(space.value))
    return y, found


def descend(c: Residual, a: Tensor, linearise: Linearise) -> tuple[Tensor, Tensor]:
    """Newton from a: the points reached, `(B, n)`, and `(B, 1)` whether they are on {c = 0}.

    Reads on the host, also where that has to wait for an accelerator.
    """
    unknown = torch.full_like(a[:, :1], torch.inf)
    y, found, _ = _until_arrived(c, linearise(a), a, unknown, linearise)
    return y, found


def _until_arrived(
    c: Residual, space: NormalSpace, y: Tensor, length: Tensor, linearise: Linearise
) -> tuple[Tensor, Tensor, Tensor]:
    """Correct y until it stays; J is refreshed where a chord would not arrive.

    Args:
        c: `(B, n)` → `(B, m)`.
        space: the normal space at y.
        y: `(B, n)`.
        length: `(B, 1)`, of the step that led to y.
        linearise: the normal space at other points.

    Returns:
        y, and, `(B, 1)`, whether it arrived and the length of its way.
    """
    at = _start(y, length)
    residual, tolerance = space.value, _tolerance(y)
    for k in range(_AT_MOST):
        if k > 0 and bool((at.length * at.contraction.square() <= tolerance).all()):
            residual = c(at.y)
        elif k > 0:
            space, tolerance = linearise(at.y), _tolerance(at.y)
            residual = space.value
        at = _advance(at, *space.correct(at.y, residual), tolerance, space.accuracy, first=k == 0)
        if bool((at.arrived | (at.length == torch.inf)).all()):
            break
    return at.y, _has_arrived(at, tolerance), at.way


def _so_many_times(
    c: Residual, space: NormalSpace, y: Tensor, length: Tensor, linearise: Linearise
) -> tuple[Tensor, Tensor, Tensor]:
    """`_until_arrived` with a fixed number of corrections: Gauss-Newton, then one chord."""
    at = _start(y, length)
    tolerance = _tolerance(y)
    steps = _FIXED.get(y.dtype, 5)
    for k in range(steps):
        if k > 0:
            space, tolerance = linearise(at.y), _tolerance(at.y)
        at = _advance(at, *space.nudge(at.y, space.value), tolerance, space.accuracy, first=k == 0)
    chord = space.nudge if space.is_direct else space.correct
    at = _advance(at, *chord(at.y, c(at.y)), tolerance, space.accuracy, first=False)
    return at.y, _has_arrived(at, tolerance), at.way


class _State(NamedTuple):
    """Where an iteration is; all but y are `(B, 1)`."""

    y: Tensor
    length: Tensor
    """Of the last correction; infinite where J was of no use."""
    contraction: Tensor
    """Its length over that of the one before."""
    way: Tensor
    """The length of all corrections."""
    arrived: Tensor


def _start(y: Tensor, length: Tensor) -> _State:
    one = torch.ones_like(length)
    return _State(y, length, one, torch.zeros_like(length), one > 1)


def _advance(
    at: _State, corrected: Tensor, new: Tensor, tolerance: Tensor, accuracy: float, *, first: bool
) -> _State:
    """Take a correction of length `new`, where that is finite."""
    sound = new < torch.inf
    y = corrected if known_all(sound) else torch.where(sound, corrected, at.y)
    way = at.way + torch.where(new > tolerance, new, 0)
    ratio = new / torch.where(at.length == 0, 1, at.length)
    contraction = torch.where(at.length == torch.inf, 1, ratio).clamp(min=accuracy)
    arrived = new <= tolerance
    if not first:
        # A chord's error falls as much once more, Gauss-Newton's by more.
        arrived = arrived | ((contraction < 0.5) & (new * contraction <= tolerance))
    return _State(y, torch.where(sound, new, torch.inf), contraction, way, arrived & sound)


def _has_arrived(at: _State, tolerance: Tensor) -> Tensor:
    """Whether y has arrived, or as nearly as rounding errors of c let Newton come."""
    stagnant = torch.finfo(at.y.dtype).eps ** (-1 / 4) * tolerance
    return at.arrived | ((at.length <= stagnant) & (at.length < torch.inf))


def _tolerance(y: Tensor) -> Tensor:
    """The distance in which rounding the entries of y leaves it: 2·eps·‖y‖; 0 if that overflows."""
    distance = 2 * torch.finfo(y.dtype).eps * lengths(y)
    return torch.where(distance < torch.inf, distance, 0)

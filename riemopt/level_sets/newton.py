"""Back to {c = 0}: Newton's iteration in the normal space, with J refreshed when it pays.

    y, taken = land(c, space, x, v, linearise)      # from x along the tangent v, back on {c = 0}
    y, found = descend(c, a, linearise)             # from anywhere

A step with J of an earlier point (a *chord*) costs one evaluation of c and gains a factor of about
the distance from that point over the radius of curvature; a step with J at y itself (Gauss-Newton)
costs a derivative and squares the error. Both move along normal spaces, so that the retraction is
of second order (Absil & Malick 2012, §4). How far Newton is from its end is judged by the lengths
of its steps, as in Deuflhard (2011), §2.1: they are distances in x, so that neither the scale of c
nor its redundancy matters.

Where values can be read on the host the iteration ends when all points have arrived; elsewhere its
length is fixed, and what has not arrived then is refused.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from riemopt.level_sets.normal_space import NormalSpace, Residual
from riemopt.linalg import host_readable

Linearise = Callable[[Tensor], NormalSpace]

# How long a first correction may be, as a part of the step: half the length of the step over the
# radius of curvature. A longer one is no good start for Newton, which then begins at x + v itself;
# and where it is longer than the second figure, the step is shortened to that. Steps longer than
# ten radii, or than one radius where the number of corrections is fixed, are not taken whole.
_GOOD_START, _BEND, _BEND_BLIND = 0.5, 5.0, 0.5
# Corrections at most where the host sees them. Each failure divides the step by 8, so often.
_VISIBLE, _ATTEMPTS = 30, 4


def _blind(dtype: torch.dtype) -> int:
    """Corrections where the host does not see them: enough for a step of one radius."""
    return 6 if dtype == torch.float64 else 4


def land(
    c: Residual, space: NormalSpace, x: Tensor, v: Tensor, linearise: Linearise
) -> tuple[Tensor, Tensor]:
    """From the points x along the tangents v, back on {c = 0}.

    Args:
        c: `(B, n)` → `(B, m)`.
        space: the normal space at x.
        x, v: `(B, n)`.
        linearise: the normal space at other points.

    Returns:
        y `(B, n)`, and `(B, 1)` what part of v was taken: 1, less where the surface bends too much
        for it, 0 where Newton did not come back; such a point stays at x.
    """
    length = _norm(v)
    part = torch.ones_like(length)
    y, part, found = _attempt(c, space, x, v, length, part, linearise)
    if not host_readable(found):
        return torch.where(found, y, x), torch.where(found, part, 0)
    for _ in range(_ATTEMPTS):
        if bool(found.all()):
            return y, part
        part = torch.where(found, part, part / 8)
        y, part, found = _attempt(c, space, x, part * v, part * length, part, linearise)
    return torch.where(found, y, x), torch.where(found, part, 0)


def _attempt(
    c: Residual,
    space: NormalSpace,
    x: Tensor,
    v: Tensor,
    length: Tensor,
    part: Tensor,
    linearise: Linearise,
) -> tuple[Tensor, Tensor, Tensor]:
    """Try a step v of this length, `part` of the one wanted.

    Returns the point, the part taken in the end, and whether it arrived.
    """
    start = x + v
    y, first = space.correct(start, c(start))
    unit = torch.where(length == 0, 1, length)
    long = ~(first <= _GOOD_START * unit)
    seen = host_readable(long)
    if not seen or bool(long.any()):
        # What is off the surface at x already is not the step's; less is rounding.
        bend = (first - space.distance(space.value)) / unit
        long = ~((bend <= _GOOD_START) | (first <= _tolerance(x)))
        # The bend grows like the step where c is nearly quadratic along it.
        ratio = ((_BEND if seen else _BEND_BLIND) / bend).clamp(max=1)
        ratio = torch.where(long, torch.where(bend < torch.inf, ratio, 1 / 8), 1)
        start = torch.addcmul(x, v, ratio)
        part, unit, first = part * ratio, unit * ratio, first * ratio.square()
        y = torch.where(long, start if seen else space.correct(start, c(start))[0], y)
    y, found = _iterate(c, space, y, first, 2 * first / unit, linearise)
    return y, part, found


def descend(
    c: Residual, a: Tensor, linearise: Linearise, *, steps: int = _VISIBLE
) -> tuple[Tensor, Tensor]:
    """Newton from a: the points reached, `(B, n)`, and `(B, 1)` whether they are on {c = 0}."""
    space = linearise(a)
    y, first = space.correct(a, space.value)
    return _iterate(c, space, y, first, torch.ones_like(first), linearise, steps)


def _iterate(
    c: Residual,
    space: NormalSpace,
    y: Tensor,
    length: Tensor,
    contraction: Tensor,
    linearise: Linearise,
    steps: int = _VISIBLE,
) -> tuple[Tensor, Tensor]:
    """Correct y until it stays; where y is now the last correction had this length.

    `contraction` is a guess of what a chord gains. Returns y and, `(B, 1)`, whether it arrived.
    """
    tolerance = _tolerance(y)
    seen = host_readable(y)
    arrived = torch.zeros_like(length, dtype=torch.bool)
    for k in range(steps if seen else _blind(y.dtype)):
        if seen:
            refresh = not bool((length * contraction.square() <= tolerance).all())
        else:
            refresh = k % 2 == 0
        if refresh:
            space = linearise(y)
        corrected, new = space.correct(y, space.value if refresh else c(y))
        sound = new < torch.inf
        y = corrected if seen and bool(sound.all()) else torch.where(sound, corrected, y)
        contraction = new / torch.where((length == 0) | (length == torch.inf), new, length)
        # A chord's error falls as much once more, Gauss-Newton's by more.
        arrived = (new <= tolerance) | ((contraction < 0.5) & (new * contraction <= tolerance))
        arrived = arrived & sound
        length = torch.where(sound, new, torch.inf)
        if seen and bool((arrived | ~sound).all()):
            break
    # Rounding in c itself can keep Newton from gaining any more before it comes so far.
    stagnant = torch.finfo(y.dtype).eps ** (-1 / 3) * tolerance
    return y, arrived | ((length <= stagnant) & (length < torch.inf))


def _tolerance(y: Tensor) -> Tensor:
    """The distance in which rounding the entries of y leaves it: 2·eps·‖y‖; 0 if that overflows."""
    distance = 2 * torch.finfo(y.dtype).eps * _norm(y)
    return torch.where(distance < torch.inf, distance, 0)


def _norm(a: Tensor) -> Tensor:
    return torch.linalg.vector_norm(a, dim=-1, keepdim=True)

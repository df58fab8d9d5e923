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

Where values can be read on the host the iteration ends when all points have arrived; elsewhere its
length is fixed, and what has not arrived then is refused.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from riemopt.linalg import add_scaled, host_readable
from riemopt.manifolds.level_set.normal_space import NormalSpace, Residual, lengths

Linearise = Callable[[Tensor], NormalSpace]

# Corrections at most where the host sees them, the step then being tried whole; and how often it is
# tried again with less of it: first a radius of curvature, then an eighth of that, and so on.
_VISIBLE, _ATTEMPTS = 30, 4
# Corrections of all points at one pace, before any is looked at by itself.
_QUICK = 4
# A step of which so much is taken back has not come back to where it was sent from: on a sphere,
# one of 100 radii.
_UNDONE = 0.99
# Where the host does not see them, a step is at most so many radii of curvature long: from there so
# many steps of Gauss-Newton and a last chord arrive.
_RADII = 1.0
_BLIND = {torch.float32: 3, torch.float64: 5}


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
    seen = host_readable(length)
    part = torch.ones_like(length)
    if seen:
        quick = _quick(c, add_scaled(x, u, t), length, linearise)
        if quick is not None:
            return quick, part
    space, v = here(), t * u
    if not seen:
        part = _limit(c, space, x, v, length)
        y, found = _attempt(c, space, x, part * v, part * length, linearise)
        return torch.where(found, y, x), torch.where(found, part, 0)
    y, found = _attempt(c, space, x, v, length, linearise)
    for k in range(_ATTEMPTS):
        if bool(found.all()):
            return y, part
        less = _limit(c, space, x, v, length).clamp(max=1 / 8) if k == 0 else part / 8
        part = torch.where(found, part, less)
        y, found = _attempt(c, space, x, part * v, part * length, linearise)
    return torch.where(found, y, x), torch.where(found, part, 0)


def _quick(c: Residual, y: Tensor, length: Tensor, linearise: Linearise) -> Tensor | None:
    """The way of nearly all steps: few corrections, all points looked at as one.

    Returns None where it leads nowhere, for a closer look.
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
    part = _RADII * length / (2 * sagitta)
    return torch.where(part < 1, part, torch.where(sagitta.isfinite(), 1, 1 / 8))


def _attempt(
    c: Residual,
    space: NormalSpace,
    x: Tensor,
    v: Tensor,
    length: Tensor,
    linearise: Linearise,
) -> tuple[Tensor, Tensor]:
    """Try a step v of this length: the point, and whether it came back."""
    start = x + v
    y, found, way = _iterate(c, linearise(start), start, length, linearise)
    allowed = _UNDONE * length + _tolerance(x)
    undone = way > allowed
    if not host_readable(undone) or bool(undone.any()):
        # What is off the surface at x already has to go, too.
        found = found & (way <= allowed + 2 * space.distance(space.value))
    return y, found


def descend(c: Residual, a: Tensor, linearise: Linearise) -> tuple[Tensor, Tensor]:
    """Newton from a: the points reached, `(B, n)`, and `(B, 1)` whether they are on {c = 0}."""
    unknown = torch.full_like(a[:, :1], torch.inf)
    y, found, _ = _iterate(c, linearise(a), a, unknown, linearise)
    return y, found


def _iterate(
    c: Residual,
    space: NormalSpace,
    y: Tensor,
    length: Tensor,
    linearise: Linearise,
) -> tuple[Tensor, Tensor, Tensor]:
    """Correct y until it stays.

    Args:
        space: the normal space at y.
        length: `(B, 1)`, of the step that led to y.

    Returns:
        y, and, `(B, 1)`, whether it arrived and the length of its way.
    """
    tolerance = _tolerance(y)
    seen = host_readable(y)
    blind = _BLIND.get(y.dtype, 5)
    way, residual = torch.zeros_like(length), space.value
    contraction = torch.ones_like(length)
    for k in range(_VISIBLE if seen else blind + 1):
        if k > 0:
            if seen:
                refresh = not bool((length * contraction.square() <= tolerance).all())
            else:
                refresh = k < blind
            if refresh:
                space, tolerance = linearise(y), _tolerance(y)
            residual = space.value if refresh else c(y)
        towards = space.correct if seen or k == blind else space.nudge
        corrected, new = towards(y, residual)
        sound = new < torch.inf
        y = corrected if seen and bool(sound.all()) else torch.where(sound, corrected, y)
        way = way + torch.where(new > tolerance, new, 0)
        contraction = torch.where(length == torch.inf, 1, new / torch.where(length == 0, 1, length))
        contraction = contraction.clamp(min=space.accuracy)
        # A chord's error falls as much once more, Gauss-Newton's by more.
        arrived = (new <= tolerance) | (
            (k > 0) & (contraction < 0.5) & (new * contraction <= tolerance)
        )
        arrived = arrived & sound
        length = torch.where(sound, new, torch.inf)
        if seen and bool((arrived | ~sound).all()):
            break
    # Rounding in c itself can keep Newton from gaining any more before it comes so far.
    stagnant = torch.finfo(y.dtype).eps ** (-1 / 4) * tolerance
    return y, arrived | ((length <= stagnant) & (length < torch.inf)), way


def _tolerance(y: Tensor) -> Tensor:
    """The distance in which rounding the entries of y leaves it: 2·eps·‖y‖; 0 if that overflows."""
    distance = 2 * torch.finfo(y.dtype).eps * lengths(y)
    return torch.where(distance < torch.inf, distance, 0)

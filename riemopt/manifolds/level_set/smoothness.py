"""Whether c is smooth where it is zero, and its set a manifold there: asked when a weight comes in.

    reason = reason_against(c, y, found, linearise)     # None where all is well

What is seen is how an error falls with the length h of a step. The error of Jhd for
c(y + hd) - c(y), over h, falls as h where c is smooth; it stays where c has a kink, or where
autograd has another derivative. From y + hd, Newton's second step over its first falls as h too,
but stays where J loses rank on the set, as that of a square. What rounding makes of either grows as
1/h. So no scale has to be known, of c or of y, and what h is small is seen.

Some dozen evaluations of c. Reads on the host throughout; float64 sees most.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from riemopt.manifolds.level_set.derivative import derivative
from riemopt.manifolds.level_set.newton import Linearise, descend
from riemopt.manifolds.level_set.normal_space import Residual, lengths

# The lengths of steps are these powers of eps, in units of the size of y.
_POWERS = (0.2, 0.4, 0.6)
# Errors over h that fall as h have the order 1, kinks 0, roots -1/2, rounding errors -1.
_LOWEST, _HIGHEST = -0.75, 0.5
# From these parts on, of a change of c and of a first step, an error counts. The latter is above
# the accuracy of conjugate gradients.
_RELATIVE, _CREEPING = 0.02, 5e-3
_DIRECTIONS = 2
# With more equations J is not formed.
_FEW = 32
# Of the size of y: how far another point of the set is looked for, and how near this very point.
_AWAY, _NEAR = 0.3, 1e-2

IN_TORCH = (
    "Write it in torch's own operators from x to the result, without .detach(), .item(), float(), "
    "NumPy or torch.no_grad()."
)
ADVICE = (
    "Give equations that are differentiable where they are zero: what is inside of a norm, a root "
    "or an absolute value (X - Xᵀ, not its norm), and minors or a factorisation instead of "
    "singular values or repeated eigenvalues."
)


def reason_against(c: Residual, y: Tensor, found: Tensor, linearise: Linearise) -> str | None:
    """What is wrong with c and what to do about it, or None.

    Args:
        c: `(B, n)` → `(B, m)`, each row by itself.
        y: `(B, n)`.
        found: `(B,)`, which of them are on the set, as nearly as their precision can tell.
        linearise: the normal space at given points.
    """
    if not bool(found.any()):
        # The fault may be why. By chance, no kink is met.
        return _fault(c, y + _AWAY * _noise(y))
    y = y[found]
    reached, _ = descend(c, y, linearise)
    y = torch.where(lengths(reached - y) < _NEAR * lengths(y), reached, y)
    return _fault(c, y) or _singularity(c, y, linearise)


def _fault(c: Residual, y: Tensor) -> str | None:
    """What is wrong with c or its derivative near the points y."""
    at = derivative(c, y)
    value = at.value
    rows = at.rows() if value.shape[1] <= _FEW else None
    changes, errors, bends = [], [], []  # over h, by h
    sizes = _sizes(y)
    for h in sizes:
        change, error, bend = (torch.zeros_like(value) for _ in range(3))
        for d in _directions(y):
            slope = at.apply(d) if rows is None else (rows @ d.unsqueeze(-1)).squeeze(-1)
            if not bool((slope.isfinite() & value.isfinite()).all()):
                return f"c or its derivative is not finite near a point of its set. {ADVICE}"
            there, back = c(y + h * d) - value, c(y - h * d) - value
            for step in (there - h * slope, back + h * slope):
                error = torch.maximum(error, step.abs() / h)
            for step in (there, back, h * slope):
                change = torch.maximum(change, step.abs() / h)
            bend = torch.maximum(bend, (there + back).abs() / h)
        changes.append(change)
        errors.append(error)
        bends.append(bend)
    if not bool(torch.stack(changes).any()):
        return (
            "c does not change with x near a point, and so is no equation. A constant constrains "
            "nothing; an inequality (relu, clamp, max(0, ·)) is no level set; a count, a sign or a "
            "rounded number has no derivative."
        )
    counts = _relevant(changes[0], sizes[0])
    for change, error in zip(changes, errors, strict=True):
        counts &= error > _RELATIVE * change
    wrong = counts & _stays(errors, sizes)
    if not bool(wrong.any()):
        return None
    if bool((wrong & (bends[-1] > _RELATIVE * changes[-1])).any()):
        return f"c has a kink at a point of its set, and no derivative. {ADVICE}"
    return (
        "the derivative of c by autograd is not that of its values: a part is cut off from x. "
        + IN_TORCH
    )


def _singularity(c: Residual, y: Tensor, linearise: Linearise) -> str | None:
    """Why Newton does not lead back to the set of a smooth c around y.

    A single point at which J has lost rank, as the tip of a cone, is no fault.
    """
    singular = _creeps(c, y, linearise)
    if not bool(singular.any()):
        return None
    y = y[singular]
    nearby, found = descend(c, y + _AWAY * _noise(y), linearise)
    if bool((found.squeeze(1) & ~_creeps(c, nearby, linearise)).all()):
        return None
    return (
        "the derivative of c loses rank on its set, and does not give the tangent space there. "
        "Where it vanishes it is of no use (write ‖x‖² - 1, not its square); nor is it next to a "
        f"kink. {ADVICE}"
    )


def _creeps(c: Residual, y: Tensor, linearise: Linearise) -> Tensor:
    """Whether Newton's steps from next to y get shorter at a constant rate only, `(B,)`.

    So they do towards zeros of squares and other powers. By rounding in c alone, they stop.
    """
    sizes, rates = _sizes(y)[:2], []
    for h in sizes:
        space = linearise(y + h * _noise(y))
        z, first = space.correct(y + h * _noise(y), space.value)
        space = linearise(z)
        rates.append(space.correct(z, space.value)[1] / first)
    slow = torch.stack(rates).amin(0) > _CREEPING
    return (slow & _stays(rates, sizes)).squeeze(1)


def _noise(y: Tensor) -> Tensor:
    return next(_directions(y))


def _sizes(y: Tensor) -> list[float]:
    return [torch.finfo(y.dtype).eps ** power for power in _POWERS]


def _directions(y: Tensor) -> Iterator[Tensor]:
    """Random vectors of the size of y, the same in each call."""
    size = y.square().mean(1, keepdim=True).sqrt()
    size = torch.where(size > 0, size, 1)
    generator = torch.Generator("cpu").manual_seed(0)
    for _ in range(_DIRECTIONS):
        noise = torch.randn(y.shape, generator=generator, dtype=y.dtype, device="cpu")
        yield size * noise.to(y.device)


def _relevant(change: Tensor, h: float) -> Tensor:
    """Which equations change by more than rounding of the largest one explains."""
    noise = 64 * torch.finfo(change.dtype).eps / h
    return change > noise * change.amax(1, keepdim=True)


def _stays(errors: list[Tensor], sizes: list[float]) -> Tensor:
    """Whether errors over h neither fall with h, nor grow as those of rounding."""
    stays = torch.ones_like(errors[0], dtype=torch.bool)
    for i in range(len(errors) - 1):
        ratio = sizes[i] / sizes[i + 1]
        quotient = errors[i] / errors[i + 1]
        stays &= (quotient < ratio**_HIGHEST) & (quotient > ratio**_LOWEST)
    return stays

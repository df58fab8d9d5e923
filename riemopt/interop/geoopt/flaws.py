"""Manifolds of geoopt whose methods are not what their names say, and what replaces them.

The optimizers here rely on `proju` being a projection, on a transport that does nothing over a step
of length 0, on a retraction that moves along its argument, and on `egrad2rgrad` being the gradient
in the metric of `inner`. `KNOWN` says which classes of geoopt 0.5.1 break this; a test holds it
true. A class that is not geoopt's, such as a user's subclass, is audited when it is first met.
"""

import copy
import weakref
from collections.abc import Callable
from enum import Enum
from typing import Any

import geoopt
import torch
from geoopt.manifolds.siegel.bounded_domain import BoundedDomain
from geoopt.manifolds.siegel.siegel import SiegelManifold
from torch import Tensor

from riemopt.manifolds import Stiefel

Projection = Callable[[Tensor, Tensor], Tensor]


class Flaw(Enum):
    """What does not hold of a class, and what follows from it."""

    PROJECTION = "{name}.proju is not a projection (twice is not once): {instead}"
    TRANSPORT = (
        "{name}'s transport changes a vector over a step of length 0: "
        "riemopt carries momentum by projection"
    )
    RETRACTION = (
        "{name}.retr(x, u) is not x + u to first order: its steps are not along u, "
        "and will be of another size"
    )
    GRADIENT = (
        "{name}.egrad2rgrad is not the gradient in the metric of inner: `lr` has another unit there"
    )


Flaws = frozenset[Flaw]

KNOWN: dict[type, Flaws] = {
    geoopt.CanonicalStiefel: frozenset({Flaw.PROJECTION, Flaw.RETRACTION}),
    geoopt.BirkhoffPolytope: frozenset({Flaw.PROJECTION, Flaw.TRANSPORT, Flaw.GRADIENT}),
    geoopt.UpperHalf: frozenset({Flaw.PROJECTION}),
    BoundedDomain: frozenset({Flaw.PROJECTION, Flaw.GRADIENT}),
}


def _zero_sums(x: Tensor, u: Tensor) -> Tensor:
    """Rows and columns less their means, so of sum zero (Douik & Hassibi 2019, eq. 7)."""
    rows = u - u.mean(-1, keepdim=True)
    return rows - rows.mean(-2, keepdim=True)


def _symmetric_part(x: Tensor, u: Tensor) -> Tensor:
    """(u + uᵀ)/2, with the plain transpose: points are complex symmetric, not Hermitian."""
    return (u + u.mT) / 2


PROJECTIONS: dict[type, Projection] = {
    geoopt.Stiefel: Stiefel().proj_tangent,
    geoopt.BirkhoffPolytope: _zero_sums,
    SiegelManifold: _symmetric_part,
}
"""Orthogonal projections on the tangent space, for these classes and their subclasses."""


_FOUND: "weakref.WeakKeyDictionary[type, Flaws]" = weakref.WeakKeyDictionary()


def flaws_of(core: Any) -> tuple[Flaws, bool]:
    """The flaws of the class of `core`, and whether it is met for the first time.

    `core` is none of geoopt's wrappers, `Scaled` or `ProductManifold`.
    """
    cls = type(core)
    new = cls not in _FOUND
    if new:
        from_geoopt = cls.__module__.partition(".")[0] == "geoopt"
        _FOUND[cls] = KNOWN.get(cls, frozenset()) if from_geoopt else audit(core)
    return _FOUND[cls], new


def projection_of(core: Any, flaws: Flaws) -> Projection | None:
    """`proju`, or the projection in its place; None where none is known."""
    if Flaw.PROJECTION not in flaws:
        return core.proju
    return next((PROJECTIONS[cls] for cls in type(core).__mro__ if cls in PROJECTIONS), None)


def warning(core: Any, flaws: Flaws) -> str:
    """One sentence for each flaw."""
    instead = (
        "riemopt uses the orthogonal projection of that tangent space"
        if projection_of(core, flaws)
        else "momentum will not stay tangent"
    )
    name = type(core).__name__
    return "; ".join(f.value.format(name=name, instead=instead) for f in Flaw if f in flaws) + "."


# --- the audit ---

# Identities are to hold to rounding. A retraction is compared over a short step, with room for its
# second order and for what Sinkhorn's stopping rule (1e-5) leaves.
_ROUNDING, _STEP, _FIRST_ORDER = 1e-6, 1e-3, 0.05


@torch.no_grad()
def audit(core: Any) -> Flaws:
    """The flaws of `core`, found by calling its methods at a random point."""
    core = in_double(core)
    x = sample(core, (1, *_small_shape(core)), seed=0)
    generator = torch.Generator().manual_seed(1)
    g, noise = (torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(2))
    once = core.proju(x, noise)
    flaws = set() if _close(core.proju(x, once), once) else {Flaw.PROJECTION}
    u = (projection_of(core, frozenset(flaws)) or core.proju)(x, noise)
    try:
        carries = _close(core.retr_transp(x, torch.zeros_like(u), u)[1], u)
    except NotImplementedError:
        carries = False
    short = _STEP * u / torch.linalg.vector_norm(u)
    # A copy, as geoopt's Lorentz writes into its argument.
    gradient = core.egrad2rgrad(x, g.clone())
    differential = (g.conj() * u).real.sum()
    product = core.inner(x, gradient, u, keepdim=True).real.sum()
    if not carries:
        flaws.add(Flaw.TRANSPORT)
    if not _close(core.retr(x, short) - x, short, _FIRST_ORDER):
        flaws.add(Flaw.RETRACTION)
    if not (product - differential).abs() < _ROUNDING * (g * u).abs().sum():
        flaws.add(Flaw.GRADIENT)
    return frozenset(flaws)


def _close(a: Tensor, b: Tensor, tolerance: float = _ROUNDING) -> bool:
    error = torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b)
    return bool(error < tolerance)


def _small_shape(core: Any) -> tuple[int, ...]:
    """A shape that `core` accepts: constants such as a subspace's projector may fix the size."""
    sizes = [3, *(b.shape[-1] for b in core.buffers() if b.ndim)]
    shapes = [(n,) * core.ndim for n in sizes] + [(4, 2)] * (core.ndim == 2)
    for shape in shapes:
        if core.check_point(torch.empty(shape, device="meta")):
            return shape
    raise ValueError(f"{core!r} accepts points of none of the shapes {shapes}.")


# --- random points, and what may be projected ---


def admissible(core: Any, a: Tensor) -> Tensor:
    """`a`, moved to where `projx` is made for: Sinkhorn needs positive entries."""
    return a.clamp(min=core.eps) if isinstance(core, geoopt.BirkhoffPolytope) else a


def in_double(core: Any) -> Any:
    """A copy with double constants: the projector of a subspace takes its own dtype alone."""
    return copy.deepcopy(core).double()


def sample(core: Any, shape: tuple[int, ...], seed: int) -> Tensor:
    """A random point of a `core` in double precision; torch's random state is left as it was."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        try:
            x = core.random(*shape)
        except NotImplementedError:  # Lorentz, say
            x = core.projx(torch.rand(shape))
    x = x.detach().as_subclass(Tensor).cpu()
    return core.projx(x.to(torch.complex128 if x.is_complex() else torch.float64))

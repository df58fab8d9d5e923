"""Is a geoopt manifold what its method names say? Looked at numerically, once for each class.

The optimizers here rely on `proju` being a projection, on a transport that does nothing over a step
of length 0, on a retraction that moves along its argument, and on `egrad2rgrad` being the gradient
in the metric of `inner`. Of the manifolds in geoopt 0.5.1 CanonicalStiefel, BirkhoffPolytope,
UpperHalf and BoundedDomain break at least one of these.
"""

import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import geoopt
import torch
from geoopt.manifolds.siegel.siegel import SiegelManifold
from torch import Tensor

from riemopt.manifolds import Stiefel

Projection = Callable[[Tensor, Tensor], Tensor]

# Identities are to hold to rounding. A retraction is compared over a short step, with room for its
# second order and for what Sinkhorn's stopping rule (1e-5) leaves.
_ROUNDING, _STEP, _FIRST_ORDER = 1e-6, 1e-3, 0.05


@dataclass(frozen=True)
class Findings:
    """What holds of a class of geoopt manifolds."""

    projects: bool
    """`proju` twice is `proju` once."""
    carries: bool
    """`retr_transp` along 0 leaves a tangent as it is."""
    follows: bool
    """`retr(x, u)` is x + u to first order."""
    represents: bool
    """⟨egrad2rgrad(g), u⟩ in `inner` is the differential Re⟨g, u⟩ for tangent u."""

    def complaints(self, name: str, *, has_projection: bool) -> list[str]:
        """One sentence for each that does not hold."""
        instead = (
            "riemopt uses the orthogonal projection of that tangent space"
            if has_projection
            else "momentum will not stay tangent"
        )
        said = {
            f"{name}.proju is not a projection (twice is not once): {instead}": self.projects,
            f"{name}'s transport changes a vector over a step of length 0: "
            "riemopt carries momentum by projection": self.carries,
            f"{name}.retr(x, u) is not x + u to first order: its steps are not along u, "
            "and will be of another size": self.follows,
            f"{name}.egrad2rgrad is not the gradient in the metric of inner: "
            "`lr` has another unit there": self.represents,
        }
        return [sentence for sentence, holds in said.items() if not holds]


def own_projection(core: Any) -> Projection | None:
    """The orthogonal projection on the tangent space, where geoopt's `proju` is known not to be."""
    if isinstance(core, geoopt.Stiefel):
        return Stiefel().proj_tangent
    if isinstance(core, geoopt.BirkhoffPolytope):
        return _zero_sums
    if isinstance(core, SiegelManifold):
        return _symmetric_part
    return None


def _zero_sums(x: Tensor, u: Tensor) -> Tensor:
    """U less the means of its rows and columns: zero sums (Douik & Hassibi 2019, eq. 7)."""
    rows = u - u.mean(-1, keepdim=True)
    return rows - rows.mean(-2, keepdim=True)


def _symmetric_part(x: Tensor, u: Tensor) -> Tensor:
    """(U + Uᵀ)/2, with the plain transpose: points are complex symmetric, not Hermitian."""
    return (u + u.mT) / 2


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


_FOUND: "weakref.WeakKeyDictionary[type, Findings]" = weakref.WeakKeyDictionary()


def examine(core: Any) -> tuple[Findings, bool]:
    """What holds of the class of `core`, and whether it is the first of its class to be looked at.

    `core` is none of geoopt's wrappers, `Scaled` or `ProductManifold`.
    """
    cls = type(core)
    new = cls not in _FOUND
    if new:
        _FOUND[cls] = _look(core)
    return _FOUND[cls], new


@torch.no_grad()
def _look(core: Any) -> Findings:
    core = in_double(core)
    x = sample(core, _small_shape(core), seed=0)
    generator = torch.Generator().manual_seed(1)
    g, noise = (torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(2))
    once = core.proju(x, noise)
    projects = _close(core.proju(x, once), once)
    project = core.proju if projects else own_projection(core) or core.proju
    u = project(x, noise)
    try:
        carries = _close(core.retr_transp(x, torch.zeros_like(u), u)[1], u)
    except NotImplementedError:
        carries = False
    short = _STEP * u / torch.linalg.vector_norm(u)
    # A copy, as geoopt's Lorentz writes into its argument.
    gradient = core.egrad2rgrad(x, g.clone())
    differential = (g.conj() * u).real.sum()
    product = core.inner(x, gradient, u, keepdim=True).real.sum()
    return Findings(
        projects=projects,
        carries=carries,
        follows=_close(core.retr(x, short) - x, short, _FIRST_ORDER),
        represents=bool((product - differential).abs() < _ROUNDING * (g * u).abs().sum()),
    )


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

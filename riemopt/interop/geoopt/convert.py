"""geoopt's manifolds as ours, and its parameters in the tables of their modules."""

from typing import Any

import geoopt
from torch import Tensor, nn

from riemopt.interop.common import Report, as_read, enter
from riemopt.interop.geoopt.adapter import GeooptManifold
from riemopt.manifolds import (
    SPD,
    Euclidean,
    Lorentz,
    Manifold,
    PoincareBall,
    Product,
    Sphere,
    Stereographic,
    Stiefel,
)
from riemopt.nn import table
from riemopt.nn.admission import require_module


def from_geoopt(manifold: Any, *, native: bool = True) -> Manifold:
    """`manifold`, of geoopt, as a manifold of riemopt.

    With `native`, those that the catalogue has are mapped to it. Points and metric are the same,
    and the step is riemopt's:

    ================  ===========================  =================================================
    geoopt            riemopt                      what differs
    ================  ===========================  =================================================
    Euclidean         Euclidean()                  nothing
    Sphere            Sphere()                     nothing (one with a subspace is adapted)
    EuclideanStiefel  Stiefel()                    the retraction: polar for QR; a wide matrix is
                                                   accepted, and has orthonormal rows
    CanonicalStiefel  Stiefel(metric="canonical")  the retraction: theirs doubles the part along X,
                                                   and their `proju` is not a projection
    PoincareBall      PoincareBall(c)              the step is the geodesic, for their x + u that is
                                                   cut off; momentum is carried by way of the origin
    Lorentz           Lorentz(1/k)                 how momentum is carried; stable far out
    Stereographic     Stereographic(k)             as PoincareBall
    SymmetricPositi…  SPD("affine")                steps longer than 1 are cut to that length; a
                                                   matrix from outside goes to the nearest point,
                                                   for their absolute eigenvalues
    ProductManifold   Product([…])                 Adam has one second moment for the whole point
    ================  ===========================  =================================================

    All others, those named "Exact" included, a user's subclass, and those that learn a curvature,
    become a `GeooptManifold`.

    Args:
        manifold: an instance.
        native: False keeps geoopt's own operations for each factor.

    Raises:
        TypeError: it is not an instance of `geoopt.manifolds.base.Manifold`.

    Examples:
        >>> import geoopt
        >>> from riemopt.interop.geoopt import from_geoopt
        >>> from_geoopt(geoopt.PoincareBall(c=1.0)), from_geoopt(geoopt.CanonicalStiefel())
        (PoincareBall(), Stiefel(metric='canonical'))
    """
    if not isinstance(manifold, geoopt.manifolds.base.Manifold):
        hint = ""
        if isinstance(manifold, type):
            hint = f"; write {manifold.__name__}()"
        elif isinstance(manifold, Manifold):
            hint = ", which is one of riemopt already"
        elif isinstance(manifold, Tensor):
            kind = type(manifold).__name__
            raise TypeError(f"from_geoopt takes a manifold; got {kind}. Give it its .manifold.")
        raise TypeError(
            f"from_geoopt takes an instance of a geoopt manifold; got {manifold!r}{hint}."
        )
    if isinstance(manifold, geoopt.ProductManifold):
        pairs = zip(manifold.manifolds, manifold.shapes, strict=True)
        return Product([(from_geoopt(m, native=native), shape or (1,)) for m, shape in pairs])
    ours = _native(manifold) if native else None
    return GeooptManifold(manifold) if ours is None else ours


def _native(manifold: Any) -> Manifold | None:
    cls = type(manifold)  # a subclass may have another retraction
    if cls is geoopt.Euclidean:
        return Euclidean()
    if cls is geoopt.Sphere and manifold.projector is None:
        return Sphere()
    if cls is geoopt.EuclideanStiefel:
        return Stiefel()
    if cls is geoopt.CanonicalStiefel:
        return Stiefel(metric="canonical")
    if cls is geoopt.SymmetricPositiveDefinite and manifold.default_metric.value == "AIM":
        return SPD("affine")
    constants = [*manifold.parameters(), *manifold.buffers()]
    if any(c.requires_grad or c.numel() != 1 for c in constants):
        return None  # learned, or one for each point
    if cls is geoopt.PoincareBall:
        return PoincareBall(float(manifold.c))
    if cls is geoopt.Lorentz:
        return Lorentz(1 / float(manifold.k))
    if cls is geoopt.Stereographic:
        return Stereographic(float(manifold.k))
    return None


def adopt(model: nn.Module, *, native: bool = True) -> Report:
    """Write the manifold of each `geoopt.ManifoldParameter` of `model` in its module's table.

    The parameters stay the objects that they are, for code that uses their methods; a value that is
    off its manifold is moved to the nearest point. From then on `riemopt.constraints` reports them,
    `project_` puts them back, and the constraint survives what makes new Parameter objects, such as
    `load_state_dict(assign=True)`.

    Args:
        model: searched with its submodules.
        native: as in `from_geoopt`.

    Returns:
        The manifold of each parameter that was adopted; those that were constrained before, or
        whose values are not finite, are left.

    Examples:
        >>> import geoopt, torch
        >>> from riemopt import manifold_of
        >>> from riemopt.interop.geoopt import adopt
        >>> layer = torch.nn.Linear(3, 8)
        >>> layer.weight = geoopt.ManifoldParameter(torch.eye(8, 3), geoopt.EuclideanStiefel())
        >>> print(adopt(layer))
        weight: Stiefel()
        >>> manifold_of(layer.weight)
        Stiefel()
    """
    require_module(model)
    done: dict[str, Any] = {}
    left: dict[str, str] = {}
    for prefix, module in model.named_modules():
        for name, param in list(module._parameters.items()):
            if not isinstance(param, geoopt.ManifoldParameter):
                continue
            full = prefix + "." * bool(prefix) + name
            entries = table.table_of(module)
            if entries is not None and name in entries:
                left[full] = f"it is on {entries[name].manifold} already"
                continue
            try:
                manifold = from_geoopt(param.manifold, native=native)
                manifold = as_read(module, name, param, manifold)
            except ValueError as error:
                left[full] = str(error)
                continue
            if not bool(param.isfinite().all()):
                left[full] = "its values are not finite"
                continue
            if manifold.is_constraint:
                enter(module, name, param, manifold)
                done[full] = manifold
    return Report(done, left)


table.register_converter("geoopt", from_geoopt)

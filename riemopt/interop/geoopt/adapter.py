"""A geoopt manifold behind the contract of `riemopt.manifolds.Manifold`."""

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, final

import geoopt
import torch
from torch import Tensor
from typing_extensions import override

from riemopt.interop.geoopt.constants import same_geometry
from riemopt.interop.geoopt.flaws import (
    Flaw,
    Projection,
    admissible,
    flaws_of,
    in_double,
    projection_of,
    sample,
    warning,
)
from riemopt.linalg import project_polar, upcast
from riemopt.manifolds import Manifold


def _as_given(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorator: a batch for geoopt, and the shape and precision of the point for the caller.

    A curvature of shape (1,) adds a dimension to what geoopt makes of a single point, and one in
    double precision makes all of it double.
    """

    @wraps(method)
    def wrapper(self: "GeooptManifold", x: Tensor, *given: Any, **options: Any) -> Tensor:
        single = x.ndim == self.event_ndim
        if single:
            x, *rest = (a.unsqueeze(0) if isinstance(a, Tensor) else a for a in (x, *given))
            result = method(self, x, *rest, **options).squeeze(0)
        else:
            result = method(self, x, *given, **options)
        return result.to(x.dtype if result.is_complex() else x.real.dtype)

    return wrapper


@final
@dataclass(frozen=True, init=False, eq=False, repr=False)
class GeooptManifold(Manifold):
    """A manifold of geoopt; made by `from_geoopt`.

    Its metric is taken not to be the ambient one: gradients come from geoopt's `egrad2rgrad` and
    norms from its `inner`. A step is geoopt's `retr`, followed by `projx` where that does more than
    rounding, so that it ends on the manifold; a point for which that is not finite stays where it
    is, and is counted in the optimizer's `shortened_steps`. A vector is carried by geoopt's
    `transp`. Where `proju` or the transport is not what its name says (see `flaws`), the orthogonal
    projection on the tangent space takes its place, and a warning says so at the first conversion
    of the class.

    `Scaled(base, s)` is the base with the metric s²⟨·, ·⟩; points and tangent vectors are those of
    the base, and so the gradient is 1/s² of the base's.

    Two are equal if geoopt's manifolds are of one class with equal constants; one that learns its
    curvature or scale equals itself alone. A step takes its value of that moment. Where the set
    depends on it, as on Lorentz, points are off the set once the curvature has been stepped too,
    until the next step; `stabilize=1` of the optimizers here moves them at once.

    What synchronises with the host in geoopt (eigenvalues of SymmetricPositiveDefinite, Sinkhorn's
    stopping rule) does so here. `proj_tangent` is geoopt's `proju`, orthogonal in the manifold's
    own metric: on Lorentz that is not the ambient inner product, and `tangent_grad=True` then gives
    another gradient.

    Args:
        theirs: a geoopt manifold that is no ProductManifold; `Scaled` ones are.

    Examples:
        >>> import geoopt
        >>> from riemopt.interop.geoopt import from_geoopt
        >>> from_geoopt(geoopt.EuclideanStiefelExact())  # none of riemopt's own
        from_geoopt(Stiefel(euclidean)(exact) manifold)
    """

    theirs: Any
    _core: Any
    _wrappers: tuple[Any, ...]
    _carries: bool
    _projection: Projection

    def __init__(self, theirs: Any) -> None:
        core, wrappers = theirs, []
        while isinstance(core, geoopt.Scaled):
            wrappers.append(core)
            core = core.base
        flaws, new = flaws_of(core)
        if new and flaws:
            warnings.warn(warning(core, flaws), stacklevel=3)  # where from_geoopt is called
        object.__setattr__(self, "theirs", theirs)
        object.__setattr__(self, "_core", core)
        object.__setattr__(self, "_wrappers", tuple(wrappers))
        object.__setattr__(self, "_carries", Flaw.TRANSPORT not in flaws)
        object.__setattr__(self, "_projection", projection_of(core, flaws) or core.proju)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GeooptManifold) and same_geometry(self.theirs, other.theirs)

    def __hash__(self) -> int:
        return hash((type(self.theirs), type(self._core)))

    def __repr__(self) -> str:
        return f"from_geoopt({self.theirs!r})"

    @property
    @override
    def event_ndim(self) -> int:
        return int(self._core.ndim)

    def _squared_scale(self) -> Any:
        squared: Any = 1.0
        for wrapper in self._wrappers:
            squared = squared * wrapper.scale**2
        return squared

    # --- geometry ---

    @_as_given
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """geoopt's `proju`, or the orthogonal projection where that is none."""
        return self._projection(x, u)

    @_as_given
    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        """geoopt's `egrad2rgrad`; `g` is not written to."""
        gradient = self._core.egrad2rgrad(x, g.clone())
        return gradient / self._squared_scale() if self._wrappers else gradient

    @_as_given
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        """geoopt's `inner`, real."""
        # Its Stereographic.inner broadcasts a batch against itself with keepdim=False.
        product = self._core.inner(x, u, v, keepdim=True)
        product = product.real if product.is_complex() else product
        product = product * self._squared_scale() if self._wrappers else product
        batch = x.shape[: x.ndim - self.event_ndim]
        return product.reshape((*batch, *[1] * self.event_ndim) if keepdim else batch)

    @_as_given
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """The point retr(x, u), moved by projx where it is off the manifold."""
        return self._settled(self._core.retr(x, u).to(x.dtype)).contiguous()

    def _settled(self, y: Tensor) -> Tensor:
        """`projx` of points that it moves by more than rounding, and the others as they are.

        Eigenvalues and back add a rounding error, and short steps get lost in it.
        """
        projected = self._core.projx(y)
        apart = (y - projected).abs()
        dims = tuple(range(-self.event_ndim, 0))
        apart = apart.amax(dims, keepdim=True) if dims else apart
        explained = super().tolerance(projected)
        return torch.where(apart <= explained.reshape(apart.shape), y, projected)

    def curve_with_fraction(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The retraction, and 0 for points that stay as the result is not finite, else 1."""
        if x.ndim == self.event_ndim:
            y, part = self.curve_with_fraction(x.unsqueeze(0), u.unsqueeze(0), t)
            return y.squeeze(0), None if part is None else part.squeeze(0)
        # geoopt's eigenvalues and inverses raise where an entry of any point is not finite.
        step = t * u
        y = self._core.retr(x, torch.where(self._finite(step), step, 0)).to(x.dtype)
        kept = self._finite(y)
        y = self._settled(torch.where(kept, y, x)).to(x.dtype)
        batch = x.shape[: x.ndim - self.event_ndim]
        return torch.where(kept, y, x).contiguous(), kept.reshape(batch).to(x.real.dtype)

    def _finite(self, a: Tensor) -> Tensor:
        """Whether all entries of a point are; event dimensions have size 1."""
        finite = a.isfinite()
        return finite.all(self.event_dims(a.ndim), keepdim=True) if self.event_ndim else finite

    def after_move(self, x: Tensor, y: Tensor, m: Tensor) -> Tensor:
        """The transport: in a metric that changes, projection does not keep lengths."""
        return self.transport(x, y, m)

    @_as_given
    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """geoopt's `transp`; the projection where it has none, or none that is a transport."""
        if self._carries:
            try:
                return self._core.transp(x, y, v)
            except NotImplementedError:  # CanonicalStiefel knows `retr_transp` alone
                pass
        return self.proj_tangent(y, v)

    @upcast
    @_as_given
    def project(self, a: Tensor) -> Tensor:
        """geoopt's `projx`: a point near `a`, the nearest for some manifolds only.

        Raises:
            ValueError: geoopt finds no finite point, as for 0 on its Sphere.
        """
        if isinstance(self._core, geoopt.Stiefel):  # theirs has no derivative at orthonormal a
            return project_polar(a)
        y = self._core.projx(admissible(self._core, a)).contiguous()
        if not y.is_meta and not bool(y.isfinite().all()):
            raise ValueError(f"projx of {self.theirs!r} is not finite for a given tensor.")
        return y

    @upcast
    @_as_given
    def violation(self, x: Tensor) -> Tensor:
        """max |x - projx(x)| of each point."""
        apart = (x - self._core.projx(x)).abs()
        return apart.amax(self.event_dims(x.ndim)) if self.event_ndim else apart

    def tolerance(self, x: Tensor) -> Tensor:
        """What rounding explains, and at least what geoopt's check of this class allows.

        That is 1e-5, and 1e-4 on the Birkhoff polytope, where Sinkhorn's iteration stops early.
        """
        check = inspect.signature(self._core._check_point_on_manifold)
        return super().tolerance(x).clamp(min=check.parameters["atol"].default)

    # --- layout and numbers ---

    def check_shape(self, shape: Sequence[int]) -> None:
        """What geoopt's `check_point` accepts, with no empty point."""
        ok, reason = self.theirs.check_point(torch.empty(shape, device="meta"), explain=True)
        if not ok:
            self._reject(shape, f"what geoopt accepts ({reason})")
        if 0 in shape[len(shape) - self.event_ndim :]:
            self._reject(shape, "at least one entry in each dimension of a point")

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """The trace of the projection at a random point; n applications of it for n entries.

        At one point for each curvature where there are several.

        Raises:
            ValueError: `is_complex` is not what geoopt's points are.
        """
        self.check_shape(shape)
        twin = GeooptManifold(in_double(self._core))
        event = tuple(shape[len(shape) - self.event_ndim :])
        x = sample(twin.theirs, (1, *event), seed=0)
        if x.is_complex() != is_complex:
            kind = "complex" if x.is_complex() else "real"
            raise ValueError(f"Points of {self!r} are {kind}; got is_complex={is_complex}.")
        x = x.reshape(-1, *event)
        units = torch.eye(x[0].numel(), dtype=x.dtype, device="cpu").reshape(-1, 1, *event)
        units = torch.cat([units, 1j * units]) if is_complex else units
        units = units.expand(-1, *x.shape)
        images = twin.proj_tangent(x.expand_as(units), units)
        return round((units.conj() * images).real.sum().item() / len(x))

    @override
    def is_discrete(self, shape: Sequence[int], *, is_complex: bool = False) -> bool:
        """Of points of one entry, such as a 1×1 doubly stochastic matrix; geoopt refuses others."""
        one = math.prod(shape[len(shape) - self.event_ndim :]) == 1
        return one and self.dim(shape, is_complex=is_complex) == 0

    def random_point(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """geoopt's `random`, seeded by `generator`; complex points need a complex `dtype`."""
        self.check_shape(shape)
        seed = int(torch.randint(2**62, (), generator=generator, dtype=torch.int64))
        x = sample(in_double(self._core), shape, seed)
        if dtype is None:
            dtype = torch.get_default_dtype()
            dtype = dtype.to_complex() if x.is_complex() else dtype
        if x.is_complex() != dtype.is_complex:
            kind = "complex" if x.is_complex() else "real"
            raise ValueError(f"Points of {self!r} are {kind}; got dtype={dtype}.")
        return self.project(x.to(dtype=dtype, device=device))

    # --- closed forms ---

    @override
    @_as_given
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        try:
            return self._core.expmap(x, u)
        except NotImplementedError:
            return super().exp(x, u)

    @override
    @_as_given
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        try:
            return self._core.logmap(x, y)
        except NotImplementedError:
            return super().log(x, y)

    @override
    @_as_given
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        try:
            return self.theirs.dist(x, y)
        except NotImplementedError:
            return super().dist(x, y)

"""A point that is made of several tensors, as one vector of real numbers.

A solver is linear algebra in one tangent space after another. Here every point and every tangent
vector is one real tensor `(*batch, N)`, in which the tensors of the user lie one after the other;
`batch` is `()` for one problem and `(B,)` for B independent ones. `Points` knows what lies where
and on which manifold, and offers the geometry of the product of them all:

    points = Points([W, b], [Stiefel(), Euclidean()])
    x = points.pack([W, b])                       # (N,)
    y = points.retract(x, u)                      # (N,), moved along u
    W, b = points.unpack(y)

A single real tensor is packed and unpacked without a copy. Vectors may have dimensions before the
batch, `(K, *batch, N)`: K vectors at one point, which are transported in one call.

Scalars of an algorithm (values, step lengths, products) are NumPy arrays of the shape `batch` in
float64 on the host, where a solver decides; `host` brings them there, in one transfer, and `times`
multiplies vectors by them.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riemopt.manifolds import Manifold

Numbers = NDArray[np.float64]
"""A number for each problem, on the host: of the shape `batch`."""
Mask = NDArray[np.bool_]
"""A truth value for each problem, of the shape `batch`."""

_T = TypeVar("_T")


def host(*scalars: Tensor) -> list[Numbers]:
    """The values of tensors of one shape, as float64 on the host; one transfer for all."""
    stacked = torch.stack([s.detach() for s in scalars])
    return list(stacked.to("cpu", torch.float64).numpy())


def times(factor: Numbers | float, u: Tensor) -> Tensor:
    """factor·u of vectors `(…, *batch, N)` and a number for each problem, or one for all."""
    if np.ndim(factor) == 0:
        return u * float(factor)
    return u * torch.from_numpy(np.asarray(factor)).to(u.device, u.dtype).unsqueeze(-1)


def where(mask: Mask, a: Tensor, b: Tensor) -> Tensor:
    """Of each problem the vector of `a` where the mask holds, else that of `b`."""
    if mask.all():
        return a
    if not mask.any():
        return b
    return torch.where(torch.from_numpy(np.asarray(mask)).to(a.device).unsqueeze(-1), a, b)


class Points:
    """The product of the manifolds on which several tensors lie.

    Args:
        tensors: a point, `(*batch, *shape)` each. All leading dimensions of `shape` that are no
            part of a point of its manifold count as factors of the product.
        manifolds: one for each tensor.
        batch_ndim: how many leading dimensions number independent problems.

    Letters: `x, y` points, `u, v` tangent vectors, `g, h` ambient vectors.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Euclidean, SpecialOrthogonal
        >>> from riemopt.solvers import Points
        >>> R, t = torch.eye(3), torch.zeros(3)
        >>> points = Points([R, t], [SpecialOrthogonal(), Euclidean()])
        >>> x = points.pack([R, t])
        >>> x.shape, [part.shape for part in points.unpack(x)]
        (torch.Size([12]), [torch.Size([3, 3]), torch.Size([3])])
    """

    def __init__(
        self, tensors: Sequence[Tensor], manifolds: Sequence[Manifold], batch_ndim: int = 0
    ) -> None:
        self.batch: tuple[int, ...] = tuple(tensors[0].shape[:batch_ndim])
        self.shapes = [tuple(t.shape[batch_ndim:]) for t in tensors]
        self.manifolds = [
            m.with_dims_from_end(len(shape))
            for m, shape in zip(manifolds, self.shapes, strict=True)
        ]
        self.dtypes = [t.dtype for t in tensors]
        reals = [t.real.dtype if t.is_complex() else t.dtype for t in tensors]
        self.dtype = max(reals, key=lambda d: torch.finfo(d).bits)
        self.eps = max(float(torch.finfo(d).eps) for d in reals)
        """Of the least exact dtype among the tensors."""
        self.device = tensors[0].device
        self._sizes = [
            math.prod(shape) * (2 if t.is_complex() else 1)
            for shape, t in zip(self.shapes, tensors, strict=True)
        ]
        self.size = sum(self._sizes)
        """N, the number of real entries of a point."""
        self._is_one_view = len(tensors) == 1 and not tensors[0].is_complex()
        self.is_ambient = all(m.has_ambient_metric and not m.extends_metric for m in self.manifolds)
        """Whether ⟨u, v⟩ = Σ u·v at every point."""
        self.is_flat = all(not m.is_constraint for m in self.manifolds)
        """Whether every vector is a point, and retractions are straight lines."""

    # --- layout ---

    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        """One vector `(…, N)` of tensors `(…, *shape)`."""
        if self._is_one_view:
            (t,), (shape,) = tensors, self.shapes
            return t.reshape(*t.shape[: t.ndim - len(shape)], self.size)
        flat = []
        for t, shape, size in zip(tensors, self.shapes, self._sizes, strict=True):
            real = torch.view_as_real(t.resolve_conj()) if t.is_complex() else t
            lead = t.shape[: t.ndim - len(shape)]
            flat.append(real.reshape(*lead, size).to(self.dtype))
        return flat[0] if len(flat) == 1 else torch.cat(flat, -1)

    def unpack(self, x: Tensor) -> list[Tensor]:
        """The tensors `(…, *shape)` that `x`, `(…, N)`, is made of; views where possible."""
        lead = x.shape[:-1]
        if self._is_one_view:
            return [x.reshape(*lead, *self.shapes[0])]
        parts = x.split(self._sizes, -1)
        tensors = []
        for part, shape, dtype in zip(parts, self.shapes, self.dtypes, strict=True):
            if dtype.is_complex:
                pairs = part.reshape(*lead, *shape, 2).contiguous()
                tensors.append(torch.view_as_complex(pairs).to(dtype))
            else:
                tensors.append(part.reshape(*lead, *shape).to(dtype))
        return tensors

    def _each(self, method: Callable[..., _T], *vectors: Tensor) -> list[_T]:
        """What `method(manifold, part, part, …)` returns for each tensor."""
        unpacked = [self.unpack(v) for v in vectors]
        return [method(m, *own) for m, *own in zip(self.manifolds, *unpacked, strict=True)]

    def map(self, method: Callable[..., Tensor], *vectors: Tensor) -> Tensor:
        """The vector of what `method(manifold, part, part, …)` returns for each tensor."""
        return self.pack(self._each(method, *vectors))

    def _at(self, x: Tensor, v: Tensor) -> Tensor:
        """The point once for each of the vectors `(…, *batch, N)`."""
        return x if x.ndim == v.ndim else x.expand(v.shape)

    # --- geometry ---

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """Move from x along u."""
        return self.map(lambda m, x, u: m.retract(x, u), x, u)

    def curve(self, x: Tensor, u: Tensor, t: Numbers) -> tuple[Tensor, Tensor]:
        """The point c(t) = R(x, t·u), and a vector for the velocity c'(t) of that curve.

        Its tangent part is the velocity, by a difference, to about √eps. (The transported u would
        be wrong where a retraction saturates: on the sphere by the factor √(1 + t²‖u‖²), so that a
        cost that levels off would seem to fall for ever.) For steps of less than 1e-3 of the
        length of x it is u itself, which then is as good.
        """
        if self.is_flat:
            return x + times(t, u), u
        uu, xx = host(torch.linalg.vecdot(u, u), torch.linalg.vecdot(x, x))
        if (t * t * uu <= 1e-6 * xx).all():
            return self.retract(x, times(t, u)), u
        h = self.eps**0.5 * (t + np.sqrt(xx / np.where(uu > 0, uu, 1)))
        both = torch.stack([times(t, u), times(t + h, u)])
        y, further = self.retract(self._at(x, both), both).unbind()
        return y, times(1 / np.where(h > 0, h, 1), further - y)

    def project(self, a: Tensor) -> Tensor:
        """The nearest point to the ambient `a`."""
        return self.map(lambda m, a: m.project(a), a)

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The orthogonal projection of `u` on the tangent space at x."""
        return self.map(lambda m, x, u: m.proj_tangent(x, u), self._at(x, u), u)

    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        """The Riemannian gradient of the Euclidean one."""
        return self.map(lambda m, x, g: m.egrad2rgrad(x, g), x, g)

    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """The Riemannian Hessian times u; `NotImplementedError` where a manifold has no formula."""
        return self.map(lambda m, *own: m.ehess2rhess(*own), x, g, h, u)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Vectors at x, `(…, *batch, N)`, carried to y."""
        there = self._at(y, v)
        if self.is_ambient:  # the default, which does not look at x
            return self.map(lambda m, y, v: m.proj_tangent(y, v), there, v)
        return self.map(lambda m, x, y, v: m.transport(x, y, v), self._at(x, v), there, v)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """⟨u, v⟩ at x, of the shape `(…, *batch)`."""
        if self.is_ambient:
            return torch.linalg.vecdot(u, v)
        ndim = max(u.ndim, v.ndim) - 1
        products = self._each(
            lambda m, x, u, v: m.inner(x, u, v).to(self.dtype), self._at(x, u), u, v
        )
        sums = [p.flatten(ndim).sum(-1) if p.ndim > ndim else p for p in products]
        return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)

    def lower(self, x: Tensor, v: Tensor) -> Tensor:
        """The covector of v at x: the vector w with Σ w·u = ⟨v, u⟩ for all tangent u.

        It makes all products of K vectors one matrix product. `v` may be `(K, *batch, N)`.
        """
        if self.is_ambient:
            return v
        with torch.enable_grad():
            u = torch.zeros_like(v).requires_grad_()
            (covector,) = torch.autograd.grad(self.inner(x, u, v).sum(), u)
        return covector

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A standard normal tangent vector."""
        return self.map(lambda m, x: m.random_tangent(x, generator=generator), x)

    def dim(self) -> int:
        """Degrees of freedom of one problem."""
        total = 0
        for m, shape, dtype in zip(self.manifolds, self.shapes, self.dtypes, strict=True):
            entries = math.prod(shape[d] for d in m.event_dims(len(shape)))
            count = math.prod(shape) // entries if entries else 0
            total += count * m.dim(shape, is_complex=dtype.is_complex)
        return total

    def off_manifold(self, x: Tensor) -> list[tuple[int, float, float]]:
        """The tensors that are off their manifolds: number, violation, and what is allowed.

        Allowed is the square root of what rounding explains, as in points that were read from a
        file or rounded to a shorter dtype.
        """
        found = []
        for i, (m, part) in enumerate(zip(self.manifolds, self.unpack(x), strict=True)):
            if not part.numel():
                continue
            violation, tolerance = m.violation(part), m.tolerance(part)
            scale = (tolerance / (10 * self.eps)).clamp(min=1)  # of the size of the entries
            allowed = scale * self.eps**0.5
            excess = (violation / allowed).max()
            if not bool(excess <= 1):  # or NaN
                found.append((i, float(violation.max()), float(allowed.max())))
        return found

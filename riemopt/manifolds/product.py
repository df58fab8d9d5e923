"""Several manifolds in one tensor."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt.manifolds.base import Manifold
from riemopt.manifolds.cut import Cut
from riemopt.manifolds.elsewhere import hint_for

Factor = tuple[Manifold, int | Sequence[int]]
Parts = dict[str, Tensor] | tuple[Tensor, ...]


@final
@dataclass(frozen=True, init=False, repr=False)
class Product(Manifold):
    """M₁ × M₂ × …: a tensor that is cut along one dimension into points of several manifolds.

        poses = Product({"rotation": (Stiefel(), (3, 3)), "translation": (Euclidean(), 3)})
        x = poses.random_point(100, 12)                      # (100, 9 + 3): a pose in each row
        poses.split(x)["rotation"]                           # (100, 3, 3), a view
        Product({"quaternion": (Sphere(), 4), "translation": (Euclidean(), 3)})
        Product([(Frozen(), 1), (Sphere(), -1)], dim=-2)     # a first row that no step changes

    Args:
        factors: by name, or in sequence: each a manifold and a shape. The dimension `dim` is cut
            into slices of prod(shape) entries, and that of each slice is unflattened to the shape:
            a factor has tensors `(*batch, *shape, *trailing)`. Where that is more than one of its
            points, all of them belong to one point of the product. One number of all shapes may
            be -1, for what is left. For equal blocks of rows see `RowBlocks`.
        dim: the dimension that is cut, from the end: a point is that one and all after it.

    Dimension: the sum of the factors'.

    Metric: the sum of the factors', and so is the squared distance; the violation is their largest.
    An `lr` means in each factor what it means there. With `second_moment="point"` Adam has one for
    the whole point.

    Step: that of each factor.

    Cost: that of the factors, and a copy.

    For: points of several parts that the rest of a program needs in one tensor.

    Not for: factors whose gradients differ much in size, or tensors that need not be one: give each
    factor a parameter of its own, as `riemopt.constrain(module, {"rotation": Stiefel(), …})` does.

    Raises:
        ValueError: no factor, a shape that its manifold does not accept, or `dim` not negative.
        TypeError: a factor is not a manifold and a shape.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Euclidean, Product, SpecialOrthogonal
        >>> poses = Product({"R": (SpecialOrthogonal(), (3, 3)), "t": (Euclidean(), 3)})
        >>> x = poses.random_point(100, 12)
        >>> {name: part.shape for name, part in poses.split(x).items()}
        {'R': torch.Size([100, 3, 3]), 't': torch.Size([100, 3])}
    """

    dims_are_explicit = True

    names: tuple[str, ...] | None
    manifolds: tuple[Manifold, ...]
    cut: Cut

    def __init__(self, factors: Mapping[str, Factor] | Sequence[Factor], dim: int = -1) -> None:
        if isinstance(factors, Manifold) or not isinstance(dim, int):
            given = f"Product({factors!r}, {dim!r})"
            raise TypeError(
                "Product takes a dict or a list of factors, each a manifold and a shape, such as "
                f"[(Stiefel(), (3, 3)), (Sphere(), 4)], and a dimension; got {given}."
            )
        if not dim < 0:
            raise ValueError(f"Product counts dim from the end: it must be negative; got {dim!r}.")
        by_name = isinstance(factors, Mapping)
        pairs = list(factors.values()) if isinstance(factors, Mapping) else list(factors)
        if not pairs:
            raise ValueError(f"Product needs at least one factor; got {factors!r}.")
        manifolds, shapes = zip(*map(_factor, pairs), strict=True)
        object.__setattr__(self, "names", tuple(factors) if by_name else None)
        object.__setattr__(self, "cut", Cut(shapes, dim))
        ndims = [len(shape) - dim - 1 for shape in shapes]
        from_end = [m.with_dims_from_end(n) for m, n in zip(manifolds, ndims, strict=True)]
        object.__setattr__(self, "manifolds", tuple(from_end))
        if sum(n < 0 for shape in shapes for n in shape) > 1:
            raise ValueError(f"Only one number of the shapes of Product can be -1; got {pairs!r}.")
        if dim == -1:
            self.check_shape((sum(map(abs, self.cut.sizes)),))

    def __repr__(self) -> str:
        pairs = list(zip(self.manifolds, self.cut.shapes, strict=True))
        factors = pairs if self.names is None else dict(zip(self.names, pairs, strict=True))
        return f"Product({factors!r}{f', dim={self.cut.dim}' * (self.cut.dim != -1)})"

    # --- layout ---

    @property
    @override
    def event_ndim(self) -> int:
        return -self.cut.dim

    def split(self, x: Tensor) -> Parts:
        """The factors' points, `(*batch, *shape, *trailing)`: views of `x`, by name or in order.

        Raises:
            ValueError: as `check_shape`.
        """
        self.check_shape(x.shape)
        parts = self.cut.split(x)
        return tuple(parts) if self.names is None else dict(zip(self.names, parts, strict=True))

    def join(self, parts: Mapping[str, Tensor] | Sequence[Tensor]) -> Tensor:
        """The tensor of which these are the parts; a copy.

        Raises:
            ValueError: names, number or shapes are not those of the factors.
        """
        keys: Any = self.names or range(len(self.manifolds))
        given: Any = parts if isinstance(parts, Mapping) else range(len(parts))
        if set(given) != set(keys):
            raise ValueError(f"{self!r} joins a part for each of {[*keys]}; got {[*given]}.")
        tensors: list[Tensor] = [parts[key] for key in keys]
        self.cut.check_parts(tensors)
        joined = self.cut.join(tensors)
        return joined.clone() if len(tensors) == 1 else joined

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        if len(shape) < self.event_ndim or self.cut.sizes_in(shape[self.cut.dim]) is None:
            need = f"{self._needed_size()} along dimension {self.cut.dim}"
            self._reject(shape, need, self._hint(shape) if len(shape) >= self.event_ndim else "")
        for i, own in enumerate(self.cut.point_shapes(shape)):
            try:
                self.manifolds[i].check_shape(own)
            except ValueError as error:
                name = i if self.names is None else repr(self.names[i])
                raise ValueError(f"Factor {name} of {self!r}: {error}") from None

    def _needed_size(self) -> str:
        sizes = self.cut.sizes
        terms = [str(size) if size > 0 else f"a multiple of {-size}" for size in sizes]
        total = f" = {sum(sizes)}" if len(sizes) > 1 and min(sizes) > 0 else ""
        return f"size {' + '.join(terms)}{total}"

    def _hint(self, shape: Sequence[int]) -> str:
        """What to write where shapes of factors repeat the dimensions after the one that is cut."""
        size, trailing = shape[self.cut.dim], tuple(shape[len(shape) + self.cut.dim + 1 :])
        n = len(trailing)
        shorter = [own[:-n] if n and own[-n:] == trailing else own for own in self.cut.shapes]
        if not all(shorter) or shorter == list(self.cut.shapes):
            return ""
        rule = (
            f" The shape of a factor divides dimension {self.cut.dim} alone; what comes after it, "
            f"{trailing}, stays."
        )
        if sum(map(math.prod, shorter)) == size:
            return f"{rule} Write {', '.join(map(str, shorter))} for the shapes."
        blocks, rest = divmod(size, math.prod(shorter[0]))
        if len(shorter) > 1 or rest:
            return ""
        base = self.manifolds[0]
        dim = f", dim={self.cut.dim}" * (self.cut.dim != -2)
        return (
            f"{rule} For {blocks} blocks of shape {self.cut.shapes[0]} write "
            f"({base!r}, {(blocks, *shorter[0])}), or RowBlocks({base!r}, {blocks}{dim})."
        )

    @override
    def constant_norm(self, shape: Sequence[int]) -> float:
        squares = 0.0
        for m, own in zip(self.manifolds, self.cut.point_shapes(shape), strict=True):
            entries = math.prod(own[d] for d in m.event_dims(len(own)))
            squares += math.prod(own) // entries * m.constant_norm(own) ** 2
        return math.sqrt(squares)

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        total = 0
        for m, own in zip(self.manifolds, self.cut.point_shapes(shape), strict=True):
            entries = math.prod(own[d] for d in m.event_dims(len(own)))
            points = math.prod(own) // entries
            total += points * m.dim(own, is_complex=is_complex) if points else 0
        return total

    @override
    def fitted_to(self, x: Tensor) -> Manifold:
        self.check_shape(x.shape)
        fitted = self._each(lambda m, x: m.fitted_to(x), x)
        if all(a is b for a, b in zip(fitted, self.manifolds, strict=True)):
            return self
        pairs = list(zip(fitted, self.cut.shapes, strict=True))
        by_name = None if self.names is None else dict(zip(self.names, pairs, strict=True))
        return Product(pairs if by_name is None else by_name, self.cut.dim)

    @override
    def prepare(self, x: Tensor) -> None:
        for m in self.manifolds:
            m.prepare(x)

    # --- factor by factor ---

    def _each(self, method: Callable[..., Any], *tensors: Tensor) -> list[Any]:
        """What `method(manifold, part, part, …)` returns for each factor."""
        parts = zip(*map(self.cut.split, tensors), strict=True)
        return [method(m, *own) for m, own in zip(self.manifolds, parts, strict=True)]

    def _map(self, method: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        return self.cut.join(self._each(method, *tensors))

    def _numbers(self, method: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """`(*batch, k)`: one number for each of the k factor points in a point of the product."""
        return self._side_by_side(self._each(method, *tensors), tensors[0])

    def _side_by_side(self, numbers: Sequence[Tensor], x: Tensor) -> Tensor:
        batch_ndim = x.ndim - self.event_ndim
        return torch.cat([n.unsqueeze(-1).flatten(batch_ndim) for n in numbers], -1)

    def _keepdim(self, numbers: Tensor) -> Tensor:
        return numbers.reshape(*numbers.shape, *[1] * self.event_ndim)

    # --- what holds of all factors ---

    @property
    @override
    def is_constraint(self) -> bool:
        return any(m.is_constraint for m in self.manifolds)

    @property
    @override
    def allows_elementwise_scaling(self) -> bool:
        return all(m.allows_elementwise_scaling for m in self.manifolds)

    @property
    @override
    def has_ambient_metric(self) -> bool:
        return all(m.has_ambient_metric for m in self.manifolds)

    @property
    @override
    def distorts_lengths(self) -> bool:
        return any(m.distorts_lengths for m in self.manifolds)

    @property
    @override
    def has_constant_norm(self) -> bool:
        return all(m.has_constant_norm for m in self.manifolds)

    @property
    @override
    def keeps_entries(self) -> bool:
        return any(m.keeps_entries for m in self.manifolds)

    @property
    @override
    def extends_metric(self) -> bool:
        return any(m.extends_metric for m in self.manifolds)

    @property
    @override
    def total_space(self) -> Manifold | None:
        if all(m.total_space is None for m in self.manifolds):
            return None
        totals = [m.total_space or m for m in self.manifolds]
        return Product(list(zip(totals, self.cut.shapes, strict=True)), dim=self.cut.dim)

    @override
    def invariants(self, x: Tensor) -> Tensor:
        """Those of all factors, `(*batch, k)`."""
        return self._side_by_side(self._each(lambda m, x: m.invariants(x), x), x)

    @property
    @override
    def margin(self) -> float:
        return sum(m.margin for m in self.manifolds)

    # --- geometry ---

    @override
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return self._map(lambda m, x, u: m.proj_tangent(x, u), x, u)

    @override
    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        return self._map(lambda m, x, g: m.egrad2rgrad(x, g), x, g)

    @override
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        return self.cut.join(self._closed_form("ehess2rhess", x, g, h, u))

    @override
    def carry(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor, weight: float | Tensor
    ) -> Tensor:
        return self._map(lambda f, x, m, g: f.carry(x, m, g, decay, weight), x, m, g)

    @override
    def after_move(self, x: Tensor, y: Tensor, m: Tensor) -> Tensor:
        given = self.cut.split(m)
        points = zip(self.manifolds, self.cut.split(x), self.cut.split(y), given, strict=True)
        kept = [f.after_move(*own) for f, *own in points]
        same = all(a is b for a, b in zip(kept, given, strict=True))
        return m if same else self.cut.join(kept)

    def carry_mean(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """The factors' means, and the sum of their ‖grad‖²."""
        results = self._each(lambda f, x, m, g: f.carry_mean(x, m, g, decay), x, m, g)
        squares = self._side_by_side([squared for _, squared in results], x)
        return self.cut.join([mean for mean, _ in results]), self._keepdim(squares.sum(-1))

    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        """The sum of the factors' inner products."""
        if u is v:  # for which factors have a faster way
            products = self._numbers(lambda m, x, u: m.inner(x, u, u), x, u)
        else:
            products = self._numbers(lambda m, x, u, v: m.inner(x, u, v), x, u, v)
        total = products.sum(-1)
        return self._keepdim(total) if keepdim else total

    @override
    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._map(lambda m, x, y, v: m.transport(x, y, v), x, y, v)

    @override
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self.cut.join(self._closed_form("parallel_transport", x, y, v))

    @override
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        return self._map(lambda m, x, u: m.retract(x, u), x, u)

    @override
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        return self.curve_with_fraction(x, u, t)[0]

    def curve_with_fraction(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The curve of each factor; the fraction is the least of theirs at each point."""
        return self._curves("curve_with_fraction", x, u, t)

    def _curves(
        self, method: str, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        numbers = self.cut.split_numbers(t, x.ndim)
        parts = zip(self.manifolds, self.cut.split(x), self.cut.split(u), numbers, strict=True)
        results = [getattr(m, method)(x, u, t) for m, x, u, t in parts]
        taken = [part for _, part in results if part is not None]
        least = self._side_by_side(taken, x).amin(-1) if taken else None
        return self.cut.join([y for y, _ in results]), least

    @override
    def spectral_shape(self, shape: Sequence[int]) -> tuple[int, int] | None:
        """That of the factors, if they have the same."""
        shapes = zip(self.manifolds, self.cut.point_shapes(shape), strict=True)
        found = {factor.spectral_shape(own) for factor, own in shapes}
        return found.pop() if len(found) == 1 else None

    @override
    def spectral_direction(
        self, x: Tensor, m: Tensor, steps: int = 6, *, eps: float = 1e-7, exact: bool = True
    ) -> Tensor:
        """That of each factor."""

        def direction(factor: Manifold, x: Tensor, m: Tensor) -> Tensor:
            return factor.spectral_direction(x, m, steps, eps=eps, exact=exact)

        return self._map(direction, x, m)

    def spectral_curve(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """That of each factor; the fraction is the least of theirs at each point."""
        return self._curves("spectral_curve", x, u, t)

    @override
    def project(self, a: Tensor) -> Tensor:
        return self._map(lambda m, a: m.project(a), a)

    @override
    def round_point(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return self._map(lambda m, x: m.round_point(x, dtype), x)

    def violation(self, x: Tensor) -> Tensor:
        """The largest of the factors' violations."""
        return self._numbers(lambda m, x: m.violation(x), x).amax(-1)

    def tolerance(self, x: Tensor) -> Tensor:
        """A bound that `violation` exceeds where a factor's exceeds its own, and only there."""
        violation = self._numbers(lambda m, x: m.violation(x), x)
        tolerance = self._numbers(lambda m, x: m.tolerance(x), x)
        worst = (violation / tolerance).amax(-1)
        known = (worst > 0) & worst.isfinite()  # an open set's violation may be infinite
        return torch.where(known, violation.amax(-1) / worst, tolerance.amin(-1))

    @override
    def random_point(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        self.check_shape(shape)
        batch = shape[: len(shape) - self.event_ndim]
        parts = [
            m.random_point(*batch, *own, generator=generator, dtype=dtype, device=device)
            for m, own in zip(self.manifolds, self.cut.point_shapes(shape), strict=True)
        ]
        return self.cut.join(parts)

    @override
    def random_tangent(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return self._map(lambda m, x: m.random_tangent(x, generator=generator), x)

    @override
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        return self.cut.join(self._closed_form("exp", x, u))

    @override
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self.cut.join(self._closed_form("log", x, y))

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """√Σ dist² over the factors; `NotImplementedError` where one has none."""
        distances = self._side_by_side(self._closed_form("dist", x, y), x)
        return torch.linalg.vector_norm(distances, dim=-1)

    def _closed_form(self, name: str, *tensors: Tensor) -> list[Tensor]:
        try:
            return self._each(lambda m, *parts: getattr(m, name)(*parts), *tensors)
        except NotImplementedError as error:
            raise NotImplementedError(f"{self!r} has no closed-form {name}: {error}") from None


def _factor(pair: Any) -> tuple[Manifold, tuple[int, ...]]:
    """The manifold and the shape, an int being one dimension; `TypeError` if it is no such pair."""
    manifold, shape = pair if isinstance(pair, tuple) and len(pair) == 2 else (pair, None)
    shape = (shape,) if isinstance(shape, int) else shape
    sized = isinstance(shape, Sequence) and all(isinstance(n, int) for n in shape)
    if not isinstance(manifold, Manifold) or not sized:
        hint = "" if isinstance(manifold, Manifold) or not sized else hint_for(manifold)
        raise TypeError(
            "A factor of Product is a manifold and a shape, (Stiefel(), (3, 3)); got "
            f"{pair!r}{hint}."
        )
    if not shape or any(n < 1 and n != -1 for n in shape):
        raise ValueError(
            f"A factor of Product needs a shape of positive numbers, or -1; got {pair!r}."
        )
    return manifold, tuple(shape)

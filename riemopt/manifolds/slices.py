"""Points that are slices of a tensor along named dimensions, instead of the last ones."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from riemopt.manifolds.base import Manifold


class Slices(Manifold):
    """A manifold with the option `dim`: one dimension or several that make a point, None for all.

    `dim` is also the name of a method of the contract, so the option is kept as `slice_dims`.
    """

    slice_dims: tuple[int, ...] | None

    @property
    @override
    def dims_are_explicit(self) -> bool:
        """False for the default, `dim=-1`, by which nobody has said anything."""
        return self.slice_dims != (-1,)

    @abstractmethod
    def along(self, dims: Sequence[int]) -> Manifold:
        """The same manifold with other dimensions of a point."""

    @override
    def with_dims_from_end(self, ndim: int) -> Manifold:
        return self.along(self.event_dims(ndim))

    def _set_dims(self, dim: int | Sequence[int] | None) -> None:
        dims = (dim,) if isinstance(dim, int) else None if dim is None else tuple(dim)
        if dims is not None and (not dims or len(set(dims)) != len(dims)):
            name = type(self).__name__
            raise ValueError(f"{name} needs one or more distinct dimensions; got dim={dim!r}.")
        object.__setattr__(self, "slice_dims", dims)

    def _describe(self, *options: str) -> str:
        """The constructor call, of `dim` unless it is the last one and other options."""
        dims: Any = self.slice_dims
        if dims is not None and len(dims) == 1:
            dims = dims[0]
        return f"{type(self).__name__}({', '.join([f'dim={dims}'] * (dims != -1) + [*options])})"

    @property
    def event_ndim(self) -> int:
        """Number of dimensions of one point; `AttributeError` for `dim=None`, which takes all."""
        if self.slice_dims is None:
            name = type(self).__name__
            raise AttributeError(
                f"{name}(dim=None) takes all dimensions of the tensor it is given."
            )
        return len(self.slice_dims)

    @override
    def event_dims(self, ndim: int) -> tuple[int, ...]:
        if self.slice_dims is None:
            return tuple(range(-ndim, 0))
        return tuple(sorted(d if d < 0 else d - ndim for d in self.slice_dims))

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        ndim = len(shape)
        dims = self.slice_dims if self.slice_dims is not None else tuple(range(ndim))
        if not dims:
            self._reject(shape, "a tensor with at least one dimension")
        if any(not -ndim <= d < ndim for d in dims):
            advice = " (dim says which dimensions make a point; sizes are those of the tensor.)"
            self._reject(shape, f"a tensor that has {_named(dims)}", advice)
        if len({d % ndim for d in dims}) != len(dims):
            self._reject(shape, "distinct dimensions")
        if any(shape[d] == 0 for d in dims):
            self._reject(shape, "at least one entry along each dimension of a point")


def _named(dims: Sequence[int]) -> str:
    return f"dimension{'s' * (len(dims) > 1)} {', '.join(map(str, dims))}"

"""A tensor with more than two dimensions seen as a matrix: convolution kernels."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, TypeVar, cast, final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt.manifolds.base import Manifold
from riemopt.manifolds.elsewhere import hint_for

_Method = TypeVar("_Method", bound=Callable[..., Any])
# What a method returns: a tensor of the shape of a point, one number for each point, or neither.
Kind = Literal["point", "number", "other"]


def lifted(method: _Method, *results: Kind, tensors: float = math.inf) -> _Method:
    """`method` of a contract, for a class whose `base` has it for the flattened points.

    The arguments are flattened, `base` is called, and its results take the shape of the points.

    Args:
        method: of the contract; its name, signature and docstring are kept.
        results: of what kind the result is; if that is a tuple, each of its elements.
        tensors: only so many arguments, the first ones, are flattened.
    """

    @wraps(method, updated=())  # `__dict__` says that the method is abstract
    def call(self: Any, *args: Any, **options: Any) -> Any:
        given = [*args, *options.values()]
        flat = [
            flatten(a, self.event_ndim) if isinstance(a, Tensor) and i < tensors else a
            for i, a in enumerate(given)
        ]
        named = dict(zip(options, flat[len(args) :], strict=True))
        found = getattr(self.base, method.__name__)(*flat[: len(args)], **named)
        if len(results) == 1:
            return _unflatten(found, results[0], self.event_ndim, given, flat)
        pairs = zip(found, results, strict=True)
        return tuple(_unflatten(r, kind, self.event_ndim, given, flat) for r, kind in pairs)

    return cast(_Method, call)


def flatten(a: Tensor, event_ndim: int) -> Tensor:
    """Points as matrices; or numbers that broadcast to points, to broadcast to matrices."""
    if event_ndim == 2:
        return a
    return a.flatten(1 - event_ndim) if a.ndim >= event_ndim else a.reshape(())


def _unflatten(
    result: Any, kind: Kind, event_ndim: int, given: Sequence[Any], flat: Sequence[Any]
) -> Any:
    """The result for `given` of a call for `flat`."""
    if not isinstance(result, Tensor) or kind == "other":
        return result
    for a, b in zip(given, flat, strict=True):
        if result is b:  # so that who gave it sees that nothing has changed
            return a
    shape = next(a.shape for a in given if isinstance(a, Tensor))
    if kind == "point":
        return result.reshape(shape)
    points = shape[: len(shape) - event_ndim]
    keepdim = result.ndim > len(points)
    return result.reshape(*points, *[1] * event_ndim) if keepdim else result


@final
@dataclass(frozen=True, repr=False)
class Flattened(Manifold):
    """Points `(*batch, d₀, d₁, …, dₖ)` that are points of `base` as the matrices (d₀, d₁⋯dₖ).

        constrain(conv, "weight", Flattened(Stiefel()))    # (out, in, kh, kw) as (out, in·kh·kw)

    Args:
        base: a manifold of matrices.
        event_ndim: dimensions of one point: 4 for a 2-d convolution, 3 for 1-d, 5 for 3-d.

    The first dimension is against all others: of a transposed convolution, which torch stores as
    (in, out, kh, kw), this is the matrix (in, out·kh·kw). Dimension, metric, step and cost are
    those of the base.

    For: kernels of convolutions, and any tensor whose first dimension is one side of a map.

    Not for: orthogonality of a convolution as a map, which that of the matrix is not; the groups of
    a grouped convolution, which are not told apart.

    Examples:
        >>> import torch, riemopt
        >>> from riemopt.manifolds import Flattened, Stiefel
        >>> conv = riemopt.constrain(torch.nn.Conv2d(3, 16, 3), "weight", Flattened(Stiefel()))
        >>> W = conv.weight.detach().flatten(1)  # (16, 27)
        >>> torch.allclose(W @ W.mT, torch.eye(16), atol=1e-5)
        True
    """

    dims_are_explicit = True

    base: Manifold
    event_ndim: int = 4

    def __post_init__(self) -> None:
        if not isinstance(self.base, Manifold) or self.base.event_dims(3) != (-2, -1):
            hint = "" if isinstance(self.base, Manifold) else hint_for(self.base)
            raise ValueError(f"Flattened needs a manifold of matrices; got {self.base!r}{hint}.")
        if self.event_ndim < 2:
            raise ValueError(f"Flattened needs event_ndim ≥ 2; got {self.event_ndim!r}.")

    @property
    @override
    def is_constraint(self) -> bool:
        return self.base.is_constraint

    @property
    @override
    def allows_elementwise_scaling(self) -> bool:
        return self.base.allows_elementwise_scaling

    @property
    @override
    def has_ambient_metric(self) -> bool:
        return self.base.has_ambient_metric

    @property
    @override
    def distorts_lengths(self) -> bool:
        return self.base.distorts_lengths

    @property
    @override
    def has_constant_norm(self) -> bool:
        return self.base.has_constant_norm

    @property
    @override
    def extends_metric(self) -> bool:
        return self.base.extends_metric

    @property
    @override
    def tangents_may_be_inexact(self) -> bool:
        return self.base.tangents_may_be_inexact

    @property
    @override
    def total_space(self) -> Manifold | None:
        total = self.base.total_space
        return None if total is None else Flattened(total, self.event_ndim)

    @property
    @override
    def margin(self) -> float:
        return self.base.margin

    proj_tangent = lifted(Manifold.proj_tangent, "point")
    egrad2rgrad = lifted(Manifold.egrad2rgrad, "point")
    ehess2rhess = lifted(Manifold.ehess2rhess, "point")
    inner = lifted(Manifold.inner, "number")
    transport = lifted(Manifold.transport, "point")
    parallel_transport = lifted(Manifold.parallel_transport, "point")
    retract = lifted(Manifold.retract, "point")
    curve = lifted(Manifold.curve, "point")
    curve_with_fraction = lifted(Manifold.curve_with_fraction, "point", "number")
    spectral_direction = lifted(Manifold.spectral_direction, "point")
    spectral_curve = lifted(Manifold.spectral_curve, "point", "number")
    carry = lifted(Manifold.carry, "point")
    carry_mean = lifted(Manifold.carry_mean, "point", "number")
    after_move = lifted(Manifold.after_move, "point")
    project = lifted(Manifold.project, "point")
    round_point = lifted(Manifold.round_point, "point")
    violation = lifted(Manifold.violation, "number")
    tolerance = lifted(Manifold.tolerance, "number")
    exp = lifted(Manifold.exp, "point")
    log = lifted(Manifold.log, "point")
    dist = lifted(Manifold.dist, "number")
    invariants = lifted(Manifold.invariants, "other")

    @override
    def fitted_to(self, x: Tensor) -> Manifold:
        base = self.base.fitted_to(flatten(x, self.event_ndim))
        return self if base is self.base else Flattened(base, self.event_ndim)

    @override
    def prepare(self, x: Tensor) -> None:
        # A DTensor cannot be flattened along a dimension that is cut; its device is enough.
        self.base.prepare(x if hasattr(x, "placements") else flatten(x, self.event_ndim))

    @override
    def constant_norm(self, shape: Sequence[int]) -> float:
        return self.base.constant_norm(self.flat_shape(shape))

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        if len(shape) < self.event_ndim:
            self._reject(
                shape, f"at least event_ndim={self.event_ndim} dimensions (3 for a 1-d convolution)"
            )
        try:
            self.base.check_shape(self.flat_shape(shape))
        except ValueError as error:
            seen = f"{self!r} flattens a tensor of shape {tuple(shape)}"
            raise ValueError(f"{seen}: {error}") from None

    @override
    def spectral_shape(self, shape: Sequence[int]) -> tuple[int, int] | None:
        return self.base.spectral_shape(self.flat_shape(shape))

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        return self.base.dim(self.flat_shape(shape), is_complex=is_complex)

    def flat_shape(self, shape: Sequence[int]) -> Sequence[int]:
        """The shape of a tensor of `shape`, with its points as matrices."""
        return flatten(torch.empty(tuple(shape), device="meta"), self.event_ndim).shape

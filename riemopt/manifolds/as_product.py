"""Manifolds that are a `Product` under a name of their own: blocks of rows, rows that stay."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar, cast, final

from torch import Tensor
from typing_extensions import override

from riemopt.manifolds.base import Manifold, require_manifold
from riemopt.manifolds.frozen import Frozen
from riemopt.manifolds.product import Factor, Product

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _of_product(method: _Method) -> _Method:
    """`method` of the contract, called on `self.product`; its signature and docstring are kept."""

    @wraps(method, updated=())  # `__dict__` says that the method is abstract
    def call(self: "AsProduct", *args: Any, **options: Any) -> Any:
        return getattr(self.product, method.__name__)(*args, **options)

    return cast(_Method, call)


class AsProduct(Manifold):
    """The contract by that of `product`. An implementation sets it, and has fields of its own."""

    dims_are_explicit = True

    if TYPE_CHECKING:  # no field, as it follows from the others
        product: Product

    @property
    @override
    def event_ndim(self) -> int:
        return self.product.event_ndim

    @property
    @override
    def is_constraint(self) -> bool:
        return self.product.is_constraint

    @property
    @override
    def allows_elementwise_scaling(self) -> bool:
        return self.product.allows_elementwise_scaling

    @property
    @override
    def has_ambient_metric(self) -> bool:
        return self.product.has_ambient_metric

    @property
    @override
    def distorts_lengths(self) -> bool:
        return self.product.distorts_lengths

    @property
    @override
    def has_constant_norm(self) -> bool:
        return self.product.has_constant_norm

    @property
    @override
    def keeps_entries(self) -> bool:
        return self.product.keeps_entries

    @property
    @override
    def extends_metric(self) -> bool:
        return self.product.extends_metric

    @property
    @override
    def total_space(self) -> Manifold | None:
        return self.product.total_space

    invariants = _of_product(Manifold.invariants)
    proj_tangent = _of_product(Manifold.proj_tangent)
    egrad2rgrad = _of_product(Manifold.egrad2rgrad)
    ehess2rhess = _of_product(Manifold.ehess2rhess)
    inner = _of_product(Manifold.inner)
    transport = _of_product(Manifold.transport)
    parallel_transport = _of_product(Manifold.parallel_transport)
    retract = _of_product(Manifold.retract)
    curve = _of_product(Manifold.curve)
    curve_with_fraction = _of_product(Manifold.curve_with_fraction)
    spectral_shape = _of_product(Manifold.spectral_shape)
    spectral_direction = _of_product(Manifold.spectral_direction)
    spectral_curve = _of_product(Manifold.spectral_curve)
    carry = _of_product(Manifold.carry)
    carry_mean = _of_product(Manifold.carry_mean)
    after_move = _of_product(Manifold.after_move)
    project = _of_product(Manifold.project)
    violation = _of_product(Manifold.violation)
    tolerance = _of_product(Manifold.tolerance)
    random_point = _of_product(Manifold.random_point)
    random_tangent = _of_product(Manifold.random_tangent)
    exp = _of_product(Manifold.exp)
    log = _of_product(Manifold.log)
    dist = _of_product(Manifold.dist)
    prepare = _of_product(Manifold.prepare)
    dim = _of_product(Manifold.dim)
    constant_norm = _of_product(Manifold.constant_norm)

    @abstractmethod
    def _need(self) -> str:
        """What sizes `check_shape` asks for."""

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        cut = self.product.cut
        if len(shape) < self.event_ndim or cut.sizes_in(shape[cut.dim]) in (None, [0]):
            self._reject(shape, self._need())
        try:
            self.product.check_shape(shape)
        except ValueError as error:
            raise ValueError(f"{self!r} on a tensor of shape {tuple(shape)}: {error}") from None


@final
@dataclass(frozen=True, init=False, repr=False)
class RowBlocks(AsProduct):
    """Equal blocks of rows, each on `base`: the heads of attention, the gates of an LSTM.

        constrain(attention, "in_proj_weight", RowBlocks(Stiefel(), 3))         # Wq, Wk and Wv
        constrain(attention, "in_proj_weight", RowBlocks(Stiefel(), 3 * heads)) # each head of each
        constrain(lstm, "weight_hh_l0", RowBlocks(Stiefel(), 4))                # (4H, H): four H×H

    A tensor `(*batch, blocks·n, p)` is seen as `(*batch, blocks, n, p)`, a view. All blocks make
    one point, as in `Product`: the metric is the sum, the violation the largest,
    `second_moment="point"` one for all. Step and cost are those of the base.

    For: stacked weights, as torch stores those of attention and of recurrent layers.

    Not for: blocks of different sizes or manifolds (`Product`).

    Args:
        base: where each block lies.
        blocks: how many; the size along `dim` is a multiple of it.
        dim: the dimension that is cut, from the end, -2 or less. What comes after belongs to each
            block.

    Raises:
        TypeError: `base` is not a manifold, or `blocks` is not an integer.
        ValueError: `blocks` is not positive, or `dim` is greater than -2.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import RowBlocks, Stiefel
        >>> qkv = RowBlocks(Stiefel(), 3).random_point(12, 4)
        >>> key = qkv.split(4)[1]
        >>> torch.allclose(key.mT @ key, torch.eye(4), atol=1e-5)
        True
    """

    base: Manifold
    blocks: int
    dim_of_rows: int

    def __init__(self, base: Manifold, blocks: int, dim: int = -2) -> None:
        require_manifold(base, "RowBlocks: a manifold")
        if not isinstance(blocks, int) or blocks < 1:
            error = ValueError if isinstance(blocks, int) else TypeError
            raise error(f"RowBlocks needs a number of blocks, 1 or more; got {blocks!r}.")
        if dim > -2:
            raise ValueError(
                f"RowBlocks cuts a dimension before the last one, dim=-2 or less; got dim={dim!r}."
            )
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "blocks", blocks)
        object.__setattr__(self, "dim_of_rows", dim)
        object.__setattr__(self, "product", Product([(base, (blocks, -1))], dim))

    def __repr__(self) -> str:
        dim = f", dim={self.dim_of_rows}" * (self.dim_of_rows != -2)
        return f"RowBlocks({self.base!r}, {self.blocks}{dim})"

    @override
    def fitted_to(self, x: Tensor) -> Manifold:
        self.check_shape(x.shape)
        base = self.product.manifolds[0]
        fitted = base.fitted_to(x.unflatten(self.dim_of_rows, (self.blocks, -1)))
        return self if fitted is base else RowBlocks(fitted, self.blocks, self.dim_of_rows)

    @override
    def _need(self) -> str:
        return f"{self.blocks} equal blocks along dimension {self.dim_of_rows}"


@final
@dataclass(frozen=True, init=False, repr=False)
class ExceptRows(AsProduct):
    """Tables `(*batch, n, p)` whose rows are points of `base`, but for some that no step changes.

        ExceptRows(Sphere(), rows=0)        # row 0 has any value, and no step changes it

    `constrain` puts it around the manifold of an `nn.Embedding` with a `padding_idx`. What is
    written into such a row stays, bit for bit, through steps, `project` and weight decay; it is not
    reported as a violation. All rows make one point, as in `Product`: the metric is the sum, the
    violation the largest, `second_moment="point"` one for all. Step and cost are those of the base.

    For: padding rows, special tokens, anchors that are given.

    Not for: a whole weight that is given: `requires_grad_(False)`.

    Args:
        base: a manifold whose points are rows: `Sphere()`, `FixedSum()`.
        rows: the number of a row, or several; negative ones count from the last row.

    Raises:
        TypeError: `base` is not a manifold, or `rows` are not integers.
        ValueError: points of `base` are not rows, or there is no row.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import ExceptRows, Sphere
        >>> ExceptRows(Sphere(), rows=0).project(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[0.0000, 0.0000],
                [0.6000, 0.8000]])
    """

    base: Manifold
    rows: tuple[int, ...]

    def __init__(self, base: Manifold, rows: int | Sequence[int]) -> None:
        given = (rows,) if isinstance(rows, int) else tuple(rows)
        if not given or not all(isinstance(row, int) for row in given):
            error = TypeError if given else ValueError
            raise error(f"ExceptRows needs the numbers of one or more rows; got {rows!r}.")
        if not points_are_rows(require_manifold(base, "ExceptRows: a manifold")):
            raise ValueError(f"ExceptRows needs a manifold whose points are rows; got {base!r}.")
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "rows", tuple(sorted(set(given), key=lambda r: (r < 0, r))))
        object.__setattr__(self, "product", Product(_runs(base, self.rows), dim=-2))

    def __repr__(self) -> str:
        rows = self.rows[0] if len(self.rows) == 1 else self.rows
        return f"ExceptRows({self.base!r}, rows={rows})"

    @override
    def fitted_to(self, x: Tensor) -> Manifold:
        self.check_shape(x.shape)
        left = {row % x.shape[-2] for row in self.rows}
        base = self.base.with_dims_from_end(2)
        fitted = base.fitted_to(x[..., [i for i in range(x.shape[-2]) if i not in left], :])
        return self if fitted is base else ExceptRows(fitted, self.rows)

    @override
    def of_single_rows(self) -> tuple[Manifold, tuple[int, ...]]:
        return self.base, self.rows

    @override
    def _need(self) -> str:
        least = max([r + 1 for r in self.rows if r >= 0] or [0]) - min(0, *self.rows)
        return f"a table (*batch, n, p) of n ≥ {least} rows"


def points_are_rows(manifold: Manifold) -> bool:
    """Whether each row of a matrix is a point by itself."""
    return manifold.event_dims(2) in ((), (-1,))


def _runs(base: Manifold, rows: Sequence[int]) -> list[Factor]:
    """The table from top to bottom: runs of rows of `base`, and between them those that stay.

    Between rows that count from the first and from the last is what is left.
    """
    factors: list[Factor] = []
    count = 0
    for row in [r for r in rows if r >= 0]:
        factors += [(base, row - count)] if row > count else []
        factors.append((Frozen(), 1))
        count = row + 1
    factors.append((base, -1))
    for row, following in pairwise([*[r for r in rows if r < 0], 0]):
        factors.append((Frozen(), 1))
        factors += [(base, following - row - 1)] if following - row > 1 else []
    return factors

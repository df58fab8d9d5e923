"""The contract of a geometry of parts.

A weight whose rows lie on several processes is one point, of which each process holds a part. What
a process must know of the other parts is small: sums such as the Gram matrix XᴴV, to which each
adds that of its own rows. So what a manifold does in one method is done in two here: `…_summand`
gives what this process adds, and the other one takes the sum. All are pure functions of the own
part, and none of them communicates.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import singledispatch
from typing import NoReturn

from torch import Tensor

from riemopt.distributed.dtensor import Groups, cut_dims, groups_over
from riemopt.distributed.summands import Summand
from riemopt.manifolds import Manifold

_KEEP_WHOLE = (
    "keep the weight whole on each process, by DistributedDataParallel or by `replicate(layer)` of "
    "torch.distributed._composable.replicate_with_fsdp before fully_shard."
)


class ShardedGeometry(ABC):
    """What a step needs of a manifold whose points are cut into parts.

    Letters as in `Manifold`; `x, u, v, g` are the local parts of a stack of points, of shape
    `(K, *local)`. A part may be empty. Summands are sums over entries, so that those of all parts
    add up to what the whole point would give.

    Raises:
        TypeError: weight decay would have an effect on the manifold; a step here has none.
    """

    needs_finish: bool
    """Whether a step ends with `finish`, which costs one more sum."""

    def __init__(self, manifold: Manifold, shape: Sequence[int]) -> None:
        if not manifold.has_constant_norm:
            raise TypeError(
                f"{type(self).__name__} needs a manifold on which weight decay has no effect "
                f"(has_constant_norm); got {manifold!r}."
            )
        self.entries = math.prod(shape[d] for d in manifold.event_dims(len(shape)))
        """Numbers in one whole point."""

    @abstractmethod
    def gradient_summand(self, x: Tensor, g: Tensor) -> Summand:
        """What is summed for `gradient`."""

    @abstractmethod
    def gradient(self, x: Tensor, g: Tensor, XG: Tensor) -> Tensor:
        """The local part of `egrad2rgrad(x, g)`; `XG` is the sum."""

    @abstractmethod
    def squared_summand(self, x: Tensor, grad: Tensor, XG: Tensor) -> Tensor:
        """The local summand of ‖grad‖² in the metric, with event dimensions of size 1.

        `grad` is the Riemannian gradient that was found with the sum `XG`.
        """

    @abstractmethod
    def projection_summand(self, x: Tensor, v: Tensor) -> Summand:
        """What is summed for `project`."""

    @abstractmethod
    def project(self, x: Tensor, v: Tensor, XV: Tensor) -> Tensor:
        """The local part of `proj_tangent(x, v)`; `XV` is the sum."""

    @abstractmethod
    def curve_summands(self, x: Tensor, u: Tensor) -> tuple[Summand, Summand, Summand]:
        """What is summed for `curve`: products of x with itself, of x with u, of u with itself."""

    @abstractmethod
    def curve(
        self, x: Tensor, u: Tensor, t: float | Tensor, XX: Tensor, XU: Tensor, UU: Tensor
    ) -> Tensor:
        """The local part of `curve(x, u, t)`, up to what `finish` does; of the sums XX, XU, UU."""

    def finish_summand(self, y: Tensor) -> Summand:
        """What is summed for `finish`."""
        raise NotImplementedError(f"{type(self).__name__} needs no finish.")

    def finish(self, y: Tensor, YY: Tensor) -> Tensor:
        """The local part of the point for which `y` nearly is one; `YY` is the sum."""
        raise NotImplementedError(f"{type(self).__name__} needs no finish.")


@singledispatch
def sharded_geometry(
    manifold: Manifold, cut: frozenset[int], shape: Sequence[int]
) -> ShardedGeometry:
    """The geometry of `manifold` for points that are cut along the dimensions `cut`.

    A manifold of your own is added with `@sharded_geometry.register`.

    Args:
        manifold: with dimensions counted from the end, where the points lie.
        cut: dimensions of a point, counted from the end, along which it lies on several processes.
        shape: of the whole weight.

    Raises:
        NotImplementedError: points of this manifold cannot be stepped so; says what to do.
    """
    refuse(manifold, cut, shape, "a step needs whole points")


def refuse(
    manifold: Manifold, cut: frozenset[int], shape: Sequence[int], reason: str, advice: str = ""
) -> NoReturn:
    """Raise the `NotImplementedError` of points that cannot be stepped where they are cut so."""
    dims = ", ".join(str(d + len(shape)) for d in sorted(cut))
    what_to_do = f"{advice}, or {_KEEP_WHOLE}" if advice else _KEEP_WHOLE
    raise NotImplementedError(
        f"A weight of shape {tuple(shape)} on {manifold} is spread over processes along dimension "
        f"{dims}, which cuts its points, and {reason}. {what_to_do[0].upper()}{what_to_do[1:]}"
    )


def parts_of(param: Tensor, manifold: Manifold) -> tuple[ShardedGeometry | None, Groups]:
    """How a weight is stepped whose points are cut, and which processes add their sums.

    None and no group where each process holds whole points.

    Raises:
        NotImplementedError: points of this manifold cannot be stepped where they are cut so.
    """
    cut = cut_dims(param) & set(manifold.event_dims(param.ndim))
    if not cut:
        return None, ()
    return sharded_geometry(manifold, cut, param.shape), groups_over(param, cut)

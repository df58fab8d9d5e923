"""What the bridges have in common: their report, kernels as slices, entering a weight."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from riemopt.manifolds import Flattened, Manifold
from riemopt.manifolds.slices import Slices
from riemopt.nn import table
from riemopt.nn.admission import check_moves, placed
from riemopt.nn.registration import adopt


@dataclass(frozen=True)
class Report:
    """What became of each weight that was looked at, by qualified name. `print` it.

    Attributes:
        done: what it was turned into, or how.
        left: why it was left as it was.

    Examples:
        >>> from torch import nn
        >>> from torch.nn.utils.parametrizations import orthogonal
        >>> from riemopt.interop.parametrize import from_parametrized
        >>> report = from_parametrized(nn.Sequential(orthogonal(nn.Linear(4, 6))))
        >>> report.done, report.left
        ({'0.weight': Stiefel()}, {})
    """

    done: dict[str, Any]
    left: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{name}: {what}" for name, what in self.done.items()]
        lines += [f"{name}: left, as {reason}" for name, reason in self.left.items()]
        return "\n".join(lines) or "nothing to do"


def as_read(module: nn.Module, name: str, param: Tensor, manifold: Manifold) -> Manifold:
    """`manifold` as torch's parametrizations, geotorch and geoopt read it for this weight.

    They take the last dimensions for a point: each kh×kw slice of a convolution kernel, or each row
    of one. `riemopt.constrain` refuses that unless it is said. The padding row of a table stays.

    Raises:
        ValueError: no step could move the points, or the layer moves them itself.
    """
    if isinstance(module, nn.modules.conv._ConvNd) and param.ndim > 2 and manifold.is_constraint:
        if manifold.event_dims(param.ndim) == (-2, -1):
            manifold = Flattened(manifold, event_ndim=2)
        elif isinstance(manifold, Slices) and not manifold.dims_are_explicit:
            manifold = manifold.along([param.ndim - 1])
    else:
        manifold = placed(module, name, param, manifold)
    check_moves(param, manifold)
    return manifold


def satisfies(manifold: Manifold, x: Tensor) -> bool:
    """Whether all points of `x` are on the manifold to rounding."""
    return bool((manifold.violation(x) <= manifold.tolerance(x)).all())


@torch.no_grad()
def enter(module: nn.Module, name: str, param: Tensor, manifold: Manifold) -> None:
    """As `riemopt.constrain`, but a value that satisfies the constraint keeps every bit.

    A manifold that `param` carries itself, as geoopt's parameters do, does not contradict.
    """
    x = param.detach()
    if not x.is_meta and not satisfies(manifold, x):
        param.copy_(manifold.project(x))
    adopt(module, name, table.Entry(manifold), param)
    table.announce(param, manifold)

"""What the bridges have in common: their report, kernels as slices, entering a weight."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from riemopt.manifolds import Flattened, Manifold
from riemopt.nn import table
from riemopt.nn.registration import adopt


@dataclass(frozen=True)
class Report:
    """What became of each weight that was looked at, by qualified name. `print` it.

    Attributes:
        done: what it was turned into, or how.
        left: why it was left as it was.
    """

    done: dict[str, Any]
    left: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{name}: {what}" for name, what in self.done.items()]
        lines += [f"{name}: left, as {reason}" for name, reason in self.left.items()]
        return "\n".join(lines) or "nothing to do"


def by_slices(module: nn.Module, manifold: Manifold, ndim: int) -> Manifold:
    """`manifold`, applied to each kh×kw slice of a convolution kernel.

    That is how torch's parametrizations, geotorch and geoopt read a kernel. `riemopt.constrain`
    refuses it unless `Flattened(…, event_ndim=2)` says so.
    """
    kernel = isinstance(module, nn.modules.conv._ConvNd) and ndim > 2
    matrices = manifold.is_constraint and manifold.event_dims(ndim) == (-2, -1)
    return Flattened(manifold, event_ndim=2) if kernel and matrices else manifold


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

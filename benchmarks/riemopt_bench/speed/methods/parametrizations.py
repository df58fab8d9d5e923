"""Weights computed in every forward pass: `torch.nn.utils.parametrize` and geotorch.

Timed as a training step's share: compute the weight, run backward, step `original` with torch's
Adam. A kernel is parametrized as its matrix. (Adam in its foreach form: the fused one of torch 2.13
mixes up the entries of geotorch's `original`, which is not contiguous, with those of its gradient.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from riemopt_bench.speed.interface import Attached, Method, Start
from riemopt_bench.speed.methods._common import ADAM_LR, only, state_tensors
from riemopt_bench.speed.methods._share import share

MAPS = ("householder", "matrix_exp", "cayley")


class Holder(nn.Module):
    """A module with one weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


def attach(starts: Sequence[Start], *, register: Callable[[Holder, Tensor], object]) -> Attached:
    """One module per weight, and Adam on all parameters."""
    modules: list[Holder] = []
    for start in starts:
        matrix = start.point.flatten(1) if start.point.ndim == 4 else start.point
        holder = Holder(matrix.clone())
        register(holder, matrix)
        modules.append(holder)
    params = [param for holder in modules for param in holder.parameters()]
    buffers = [buffer for holder in modules for buffer in holder.buffers()]
    optimizer = torch.optim.Adam(params, lr=ADAM_LR, foreach=True)
    return share(
        starts,
        weights=lambda: [holder.weight for holder in modules],
        moved=params,
        optimizer=optimizer,
        held=lambda: [*params, *buffers, *state_tensors(optimizer)],
        # At its start, `original` is zero, and the exponential of zero costs less than others.
        drifts=True,
    )


def _torch_map(holder: Holder, start: Tensor, *, orthogonal_map: str) -> None:
    from torch.nn.utils.parametrizations import orthogonal

    orthogonal(holder, "weight", orthogonal_map=orthogonal_map)


def _geotorch(holder: Holder, start: Tensor) -> None:
    import geotorch

    geotorch.orthogonal(holder, "weight")
    holder.weight = start  # type: ignore[assignment]


def _method(name: str, title: str, family: str, register: Callable[..., object]) -> Method:
    return Method(
        name,
        title,
        family,
        f"{title}: weight, backward and torch's Adam on `original`.",
        functools.partial(attach, register=register),
        only("stiefel"),
        ("riemopt-adam-share",),
        heavy=True,
    )


METHODS = (
    *(
        _method(
            f"parametrize-{m.replace('_', '-')}",
            f"parametrize {m}",
            "parametrize",
            functools.partial(_torch_map, orthogonal_map=m),
        )
        for m in MAPS
    ),
    _method("geotorch", "geotorch expm", "geotorch", _geotorch),
)

"""Adam's second moments: one number for each point, or at full size, as in torch's checkpoints."""

import math

import torch
from torch import Tensor

from riemopt.distributed.dtensor import (
    all_reduce,
    cut_dims,
    groups_over,
    layout,
    local_part,
    zeros_per_point,
)
from riemopt.manifolds import Manifold


def zero_moment(param: Tensor, manifold: Manifold) -> Tensor:
    """A second moment for each point before the first step; event dimensions have size 1.

    Real, and at least float32: in bfloat16 a decay of .999 rounds to 1 and v stands still.
    """
    double = param.dtype in (torch.float64, torch.complex128)
    dtype = torch.float64 if double else torch.float32
    return zeros_per_point(param, manifold.event_dims(param.ndim), dtype)


def expand_moment(value: Tensor, param: Tensor) -> Tensor:
    """Torch's layout of a second moment: full size; complex, of real and imaginary parts."""
    same_shape = value.shape == param.shape and value.is_complex() == param.is_complex()
    if same_shape and layout(value) == layout(param):
        return value
    full = torch.empty_like(
        param,
        dtype=value.dtype.to_complex() if param.is_complex() else value.dtype,
        memory_format=torch.contiguous_format,
    )
    v, target = local_part(value), local_part(full)
    target.copy_((torch.complex(v, v) if param.is_complex() else v).expand(target.shape))
    return full


def reduce_moment(value: Tensor, param: Tensor, manifold: Manifold) -> Tensor:
    """The mean over each point, exact where all entries are equal, as after `expand_moment`.

    Sums over the processes that hold parts of a point; all of them must call it.
    """
    moment = zero_moment(param, manifold)
    point = local_part(moment)
    v = local_part(value)
    v = (torch.view_as_real(v).mean(-1) if v.is_complex() else v).to(point.dtype)
    dims = manifold.event_dims(v.ndim)
    total = v.sum(dims, keepdim=True)
    if v.numel():
        high, minus_low = v.amax(dims, keepdim=True), -v.amin(dims, keepdim=True)
    else:  # an empty part
        high = minus_low = torch.full_like(point, -torch.inf)
    groups = groups_over(param, cut_dims(param) & set(dims))
    if groups:
        high, minus_low = all_reduce([high, minus_low], groups, maximum=True)
        (total,) = all_reduce([total], groups)
    mean = total / math.prod(param.shape[d] for d in dims)
    point.copy_(torch.where(high == -minus_low, high, mean))
    return moment

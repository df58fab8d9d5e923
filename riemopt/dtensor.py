"""The part of a distributed tensor that this process holds."""

from typing import Any

import torch
from torch import Tensor


def is_dtensor(tensor: Tensor) -> bool:
    """Whether `tensor` is a DTensor; imports nothing where torch.distributed is not in use."""
    return type(tensor) not in (Tensor, torch.nn.Parameter) and hasattr(tensor, "placements")


def local_view(tensor: Tensor) -> Tensor:
    """`tensor` itself, or the local memory of a DTensor that this process holds whole.

    Raises:
        NotImplementedError: the DTensor is spread over several processes.
    """
    if not is_dtensor(tensor):
        return tensor
    sharded: Any = tensor
    if sharded.device_mesh.size() > 1 and not all(p.is_replicate() for p in sharded.placements):
        raise NotImplementedError(
            f"A constrained weight of shape {tuple(tensor.shape)} is spread over "
            f"{sharded.device_mesh.size()} processes as {sharded.placements}. Keep it whole: pass "
            "it in `ignored_params` of fully_shard, or use DistributedDataParallel."
        )
    return sharded.to_local()

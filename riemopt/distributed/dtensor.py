"""Weights that torch.distributed spreads over processes: the local part, and sums over the parts.

A DTensor lies on a mesh of processes with one *placement* for each dimension of the mesh: the
tensor is cut there along one of its dimensions (`Shard`), or is the same on all (`Replicate`).
Nothing here imports torch.distributed where no DTensor is met.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Groups = tuple["ProcessGroup", ...]


def is_dtensor(tensor: Tensor) -> bool:
    """Whether `tensor` is a DTensor; imports nothing where torch.distributed is not in use."""
    return type(tensor) not in (Tensor, torch.nn.Parameter) and hasattr(tensor, "placements")


def layout(tensor: Tensor) -> Hashable:
    """What two tensors of one shape share if their parts are equal in shape and owners."""
    if not is_dtensor(tensor):
        return None
    sharded: Any = tensor
    return sharded.device_mesh, sharded.placements


def local_part(tensor: Tensor) -> Tensor:
    """`tensor` itself, or the memory that this process holds of a DTensor."""
    if not is_dtensor(tensor):
        return tensor
    sharded: Any = tensor
    return sharded.to_local()


def whole(tensor: Tensor) -> Tensor:
    """`tensor` itself, or all of a DTensor: the local memory if it is whole there, or gathered."""
    sharded: Any = tensor
    return sharded.full_tensor() if _cuts(tensor) and not tensor.is_meta else local_part(tensor)


def assign_whole_(tensor: Tensor, value: Tensor) -> None:
    """Write `value`, the same on all processes, of which each keeps its local part."""
    if _cuts(tensor):
        from torch.distributed.tensor import distribute_tensor

        sharded: Any = tensor
        mesh, placements = sharded.device_mesh, sharded.placements
        value = distribute_tensor(value, mesh, placements, src_data_rank=None).to_local()
    local_part(tensor).copy_(value)


def local_gradient(grad: Tensor, param: Tensor) -> Tensor:
    """The part of `grad` that belongs to the local part of `param`.

    Communicates if the two lie differently on the mesh.

    Raises:
        ValueError: only one of them is a DTensor.
    """
    if layout(grad) == layout(param):
        return local_part(grad)
    if not (is_dtensor(grad) and is_dtensor(param)):
        kinds = ["a DTensor" if is_dtensor(t) else "a plain tensor" for t in (param, grad)]
        raise ValueError(
            f"A weight of shape {tuple(param.shape)} is {kinds[0]} and its gradient {kinds[1]}: "
            "both must be DTensors, or none."
        )
    sharded: Any = grad
    other: Any = param
    return local_part(sharded.redistribute(other.device_mesh, other.placements))


def cut_dims(tensor: Tensor) -> frozenset[int]:
    """The dimensions, counted from the end, along which `tensor` lies on several processes.

    Raises:
        NotImplementedError: each process holds a summand of it instead of a part (`Partial`).
    """
    return frozenset(d for d, _ in _cuts(tensor))


def groups_over(tensor: Tensor, dims: Iterable[int]) -> Groups:
    """The groups of processes that hold its parts along `dims`; sum over each of them in turn."""
    sharded: Any = tensor
    cut = set(dims)
    return tuple(sharded.device_mesh.get_group(i) for d, i in _cuts(tensor) if d in cut)


def part_count(tensor: Tensor) -> int:
    """Into how many parts it is cut."""
    sharded: Any = tensor
    parts = 1
    for _, i in _cuts(tensor):
        parts *= sharded.device_mesh.size(i)
    return parts


def _cuts(tensor: Tensor) -> list[tuple[int, int]]:
    """Pairs of a dimension from the end and the mesh dimension over which it is spread."""
    if not is_dtensor(tensor):
        return []
    sharded: Any = tensor
    mesh, placements = sharded.device_mesh, sharded.placements
    cuts = []
    for i, placement in enumerate(placements):
        if mesh.size(i) == 1 or placement.is_replicate():
            continue
        dim = getattr(placement, "dim", None)
        if dim is None:
            raise NotImplementedError(
                f"A weight of shape {tuple(tensor.shape)} is placed as {placements}: a sum that "
                "has not been taken. Redistribute it to Shard or Replicate."
            )
        cuts.append((dim - tensor.ndim if dim >= 0 else dim, i))
    return cuts


def zeros_per_point(tensor: Tensor, event_dims: Iterable[int], dtype: torch.dtype) -> Tensor:
    """Zeros with event dimensions of size 1: one number for each point of `tensor`.

    Of a DTensor, a DTensor: points that are cut have their number on each of their processes.
    """
    local, dims = local_part(tensor), set(event_dims)
    zeros = torch.zeros(_reduced(local.shape, dims), dtype=dtype, device=local.device)
    if not is_dtensor(tensor):
        return zeros
    from torch.distributed.tensor import DTensor, Replicate

    sharded: Any = tensor
    events = {d % tensor.ndim for d in dims}
    placements = [
        Replicate() if getattr(p, "dim", None) in events else p for p in sharded.placements
    ]
    shape = torch.Size(_reduced(tensor.shape, dims))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        zeros, sharded.device_mesh, placements, run_check=False, shape=shape, stride=stride
    )


def _reduced(shape: Sequence[int], dims: set[int]) -> list[int]:
    return [1 if d - len(shape) in dims else n for d, n in enumerate(shape)]


def all_reduce(tensors: Sequence[Tensor], groups: Groups, *, maximum: bool = False) -> list[Tensor]:
    """The sums (or maxima) of real tensors over the processes: one all-reduce for each group.

    Tensors of one dtype travel in one buffer. The result is the same, bit for bit, on each process.
    """
    import torch.distributed as dist

    op = dist.ReduceOp.MAX if maximum else dist.ReduceOp.SUM
    results = [*tensors]
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        members = [i for i, t in enumerate(tensors) if t.dtype == dtype]
        buffer = torch.cat([tensors[i].reshape(-1) for i in members])
        for group in groups:
            dist.all_reduce(buffer, op, group=group)
        sizes = [tensors[i].numel() for i in members]
        for i, part in zip(members, buffer.split(sizes), strict=True):
            results[i] = part.view(tensors[i].shape)
    return results


def like_parameter(local: Tensor, param: Tensor) -> Tensor:
    """A DTensor that lies on the processes as `param` does, of which `local` is the own part."""
    from torch.distributed.tensor import DTensor

    sharded: Any = param
    return DTensor.from_local(
        local,
        sharded.device_mesh,
        sharded.placements,
        run_check=False,
        shape=param.shape,
        stride=torch.empty(param.shape, device="meta").stride(),
    )

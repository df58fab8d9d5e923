"""What an optimizer remembers of a parameter: its layout here, and in torch's checkpoints.

A class says which of its state is one number for each point (`per_point_state`) and which is
tangent (`tangent_state`). All other state is laid out as the torch optimizer makes it. A checkpoint
is checked before it is loaded: torch takes any state whose groups are as long as the optimizer's,
and a step fails later, or not at all, if it was another model's, another algorithm's, or
incomplete.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from riemopt import linalg
from riemopt.distributed.dtensor import (
    all_reduce,
    cut_dims,
    groups_over,
    is_dtensor,
    layout,
    local_part,
    zeros_per_point,
)
from riemopt.linalg import HALF
from riemopt.manifolds import Manifold

if TYPE_CHECKING:
    from riemopt.optim.optimizer import RiemannianOptimizer


def exact(param: Tensor) -> torch.dtype:
    """The dtype of a parameter's moments: float32 for half precision, in which they stand still."""
    return torch.float32 if param.dtype in HALF else param.dtype


def conform(
    optimizer: RiemannianOptimizer,
    group: dict[str, Any],
    param: Tensor,
    manifold: Manifold | None,
    saved: dict[str, Any] | None = None,
) -> None:
    """Bring a parameter's state, loaded or from before it was constrained, to its layout here.

    Args:
        optimizer, group, param: whose state it is.
        manifold: where the parameter lies now.
        saved: the state in a checkpoint, of which torch has rounded tensors to the parameter's
            dtype; in half precision, moments are kept in float32.
    """
    state = optimizer.state.get(param)
    if not state:
        return
    per_point = manifold is not None and optimizer._is_per_point(manifold)
    for key, value in list(state.items()):
        if not isinstance(value, Tensor):
            continue
        unrounded = (saved or {}).get(key, value)
        exact_value = unrounded if isinstance(unrounded, Tensor) else value
        if value.ndim == 0:
            state[key] = exact_value.to(counter_device(group, param), copy=True)
        elif param.dtype in HALF and per_point and key in optimizer.per_point_state:
            state[key] = exact_value.to(param.device, copy=True)
        elif param.dtype in HALF:
            dtype = param.dtype if manifold is None else exact(param)
            state[key] = exact_value.to(param.device, dtype, copy=True)
    lay_out(optimizer, param, manifold, state)
    if manifold is not None and manifold.allows_elementwise_scaling:
        # Its moments stay in the subspace by themselves; those of another optimizer need not.
        for key in set(optimizer.tangent_state) & set(state):
            m, x = local_part(state[key]), local_part(param).detach()
            m.copy_(manifold.proj_tangent(x.to(m.dtype), m))


def counter_device(group: dict[str, Any], param: Tensor) -> torch.device:
    """Where a counter of steps is: on the host, as in torch, unless a graph is to count.

    On the host it costs no kernel. On the device a step that is refused does not count.
    """
    on_device = group.get("capturable") or group.get("fused")
    return param.device if on_device else linalg.host_beside(param)


def lay_out(
    optimizer: RiemannianOptimizer,
    param: Tensor,
    manifold: Manifold | None,
    state: dict[str, Any],
) -> None:
    """Bring state in torch's layout, which anybody may put in the place of ours, to ours."""
    for key, value in list(state.items()):
        if not isinstance(value, Tensor) or value.ndim == 0:
            continue
        if key in optimizer.per_point_state:
            if manifold is not None and optimizer._is_per_point(manifold):
                if value.shape == param.shape:
                    state[key] = reduce_moment(value, param, manifold)
                continue
            state[key] = value = expand_moment(value, param)
        if manifold is not None and value.dtype in HALF:
            state[key] = value.float()


def layout_key(per_point: Sequence[str], param: Tensor, state: dict[str, Any]) -> list[Any]:
    """What says whether `lay_out` has something to do; equal for equal layouts.

    Asked in each step, but only of half-precision parameters and where a class has state that is
    one number for each point (`per_point`).
    """
    key: list[Any] = [state[name].shape for name in per_point if name in state]
    if param.dtype in HALF:
        key += [value.dtype for value in state.values() if isinstance(value, Tensor)]
    return key


# --- checkpoints ---


class WrittenOut(NamedTuple):
    """A second moment, one number for each point, that is in the state at full size for a while."""

    param: Tensor
    key: str
    number: Tensor
    full: Tensor
    versions: tuple[int, int]

    @property
    def is_as_written(self) -> bool:
        """Whether nobody has changed it since."""
        return self.versions == _versions(self.full)


def _versions(tensor: Tensor) -> tuple[int, int]:
    return tensor._version, local_part(tensor)._version


def write_out(optimizer: RiemannianOptimizer) -> None:
    """Put what is one number for each point in the state at full size, until the next step.

    So the dicts and tensors of `state_dict()` are the live state, as in torch, and may be edited.
    """
    settle(optimizer)
    for param, state in optimizer.state.items():
        for key in set(optimizer.per_point_state) & set(state):
            number = state[key]
            with torch.inference_mode(False):
                full = expand_moment(number, param)
            if full is not number:
                state[key] = full
                kept = WrittenOut(param, key, number, full, _versions(full))
                optimizer._written_out.append(kept)


def settle(optimizer: RiemannianOptimizer) -> None:
    """Undo `write_out`. What was edited or replaced stays, to be laid out by the next step."""
    for kept in optimizer._written_out:
        state = optimizer.state.get(kept.param, {})
        if state.get(kept.key) is kept.full and kept.is_as_written:
            state[kept.key] = kept.number
    optimizer._written_out.clear()


def load(
    optimizer: RiemannianOptimizer,
    load_as_torch: Callable[[dict[str, Any]], None],
    state_dict: dict[str, Any],
) -> None:
    """Load a checkpoint; on any error nothing has changed.

    Args:
        optimizer: that is to load it.
        load_as_torch: `load_state_dict` of the torch optimizer.
        state_dict: of this optimizer, or of the torch optimizer.

    Raises:
        ValueError: as torch's; options or state are missing, or the state does not fit the
            parameters; the state of a DTensor is of whole tensors, or the reverse.
    """
    before = optimizer.state, optimizer.param_groups
    final = state_dict

    def look(_: Optimizer, seen: dict[str, Any]) -> None:  # what users' hooks made of it
        nonlocal final
        final = seen
        _check(optimizer, seen)

    last = optimizer.register_load_state_dict_pre_hook(look)
    try:
        load_as_torch(state_dict)
        _check_options(optimizer, before[1])
        for saved, (group, manifolds) in zip(
            final["param_groups"], optimizer._groups(), strict=True
        ):
            for index, p, manifold in zip(saved["params"], group["params"], manifolds, strict=True):
                if manifold is not None and index in final["state"]:
                    conform(optimizer, group, p, manifold, final["state"][index])
    except BaseException:
        optimizer.state, optimizer.param_groups = before
        raise
    finally:
        last.remove()


def _check_options(optimizer: RiemannianOptimizer, before: list[dict[str, Any]]) -> None:
    for i, (group, old) in enumerate(zip(optimizer.param_groups, before, strict=True)):
        # torch has filled in the options that came later than the checkpoint.
        absent = sorted((optimizer.defaults.keys() & old.keys()) - group.keys())
        if absent:
            raise ValueError(
                f"Group {i} of the checkpoint has no {absent}: it is incomplete, or of another "
                "optimizer. Load it into one of the class that saved it."
            )


def _check(optimizer: RiemannianOptimizer, saved: dict[str, Any]) -> None:
    """Raise `ValueError` where `saved` is incomplete or does not fit these parameters.

    Other numbers of groups and of parameters in them are left to torch, which refuses them.
    """
    missing = [key for key in ("state", "param_groups") if key not in saved]
    if missing:
        found = [str(key) for key in saved]
        shown = ", ".join(found[:6]) + ", …" * (len(found) > 6)
        raise ValueError(
            f"An optimizer's state_dict() has 'state' and 'param_groups'; this lacks {missing}, "
            f"and has [{shown}]. If it is a file of several parts, load the optimizer's part."
        )
    number = 0
    for saved_group, (group, manifolds) in zip(
        saved["param_groups"], optimizer._groups(), strict=False
    ):
        needed = optimizer._needed_state(saved_group)
        for index, p, manifold in zip(
            saved_group["params"], group["params"], manifolds, strict=False
        ):
            state = saved["state"].get(index, {})
            missing = [key for key in needed if key not in state]
            if state and missing:  # without any, it had no step yet
                raise ValueError(
                    f"The saved state of parameter {number} has {sorted(state)} but no {missing}: "
                    "the checkpoint is incomplete, or of another optimizer."
                )
            if not is_lazy(p):
                _check_tensors(optimizer, f"parameter {number}", p, manifold, state)
            number += 1


def _check_tensors(
    optimizer: RiemannianOptimizer,
    name: str,
    param: Tensor,
    manifold: Manifold | None,
    state: dict[str, Any],
) -> None:
    for key, value in state.items():
        if not isinstance(value, Tensor):
            continue
        if value.shape == param.shape:
            if param.ndim and is_dtensor(value) != is_dtensor(param):
                kinds = ["a DTensor" if is_dtensor(t) else "a whole tensor" for t in (value, param)]
                raise ValueError(
                    f"The saved {key!r} of a parameter of shape {tuple(param.shape)} is "
                    f"{kinds[0]}, and the parameter is {kinds[1]}. Load it with "
                    "torch.distributed.checkpoint.state_dict.set_optimizer_state_dict."
                )
        elif not _may_have_shape(optimizer, key, value, param, manifold):
            raise ValueError(
                f"The saved {key!r} of {name} has shape {tuple(value.shape)}, and the parameter "
                f"{tuple(param.shape)}: the checkpoint is of another model, or its parameters are "
                "in another order."
            )


def _may_have_shape(
    optimizer: RiemannianOptimizer,
    key: str,
    value: Tensor,
    param: Tensor,
    manifold: Manifold | None,
) -> bool:
    """Whether state may have a shape that is not the parameter's."""
    if value.ndim == 0:
        return True
    if key in optimizer.per_point_state:
        sizes = zip(value.shape, param.shape, strict=False)
        fits = value.ndim == param.ndim and all(n in (1, m) for n, m in sizes)
        return manifold is not None and fits
    return not optimizer.acts_by_entry


# --- one number for each point ---


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
    if not dims:  # each entry is a point; torch takes no dimensions for all
        point.copy_(v)
        return moment
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

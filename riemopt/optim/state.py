"""What a saved state must be like for an optimizer to load it; checked before anything changes.

torch takes any state whose groups are as long as the optimizer's, and a step fails later, or not at
all, if it was another model's, another algorithm's, or incomplete.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from riemopt.distributed.dtensor import is_dtensor
from riemopt.manifolds import Manifold

# State by the shape that it must have: that of the parameter, or for second moments one number for
# each point, with event dimensions of size 1.
_FULL_SIZE = ("momentum_buffer", "exp_avg")
_PER_POINT = ("exp_avg_sq", "max_exp_avg_sq")


def check(
    saved: dict[str, Any],
    param_groups: Sequence[dict[str, Any]],
    manifolds: Sequence[Sequence[Manifold | None]],
    options: Iterable[str],
    needed_state: Callable[[dict[str, Any]], tuple[str, ...]],
) -> None:
    """Raise `ValueError` where `saved` is incomplete or does not fit these parameters.

    Other numbers of groups and of parameters in them are left to torch, which refuses them.

    Args:
        saved: a `state_dict()` of an optimizer.
        param_groups: of the optimizer that is to load it.
        manifolds: for each parameter of each group where it lies.
        options: which must be in every saved group.
        needed_state: the keys of a parameter's state, from the saved group that it is in.
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
    for i, (saved_group, group, theirs) in enumerate(
        zip(saved["param_groups"], param_groups, manifolds, strict=False)
    ):
        absent = [key for key in options if key not in saved_group]
        if absent:
            raise ValueError(
                f"Group {i} of the checkpoint has no {absent}: it is incomplete, or of another "
                "optimizer. Load it into one of the class that saved it."
            )
        needed = needed_state(saved_group)
        for index, param, manifold in zip(
            saved_group["params"], group["params"], theirs, strict=False
        ):
            state = saved["state"].get(index, {})
            _check_state(f"parameter {number}", param, manifold, state, needed)
            number += 1


def _check_state(
    name: str,
    param: Tensor,
    manifold: Manifold | None,
    state: dict[str, Any],
    needed: Iterable[str],
) -> None:
    missing = [key for key in needed if key not in state]
    if state and missing:  # without any, it had no step yet
        raise ValueError(
            f"The saved state of {name} has {sorted(state)} but no {missing}: the checkpoint is "
            "incomplete, or of another optimizer."
        )
    if is_lazy(param):
        return
    for key, value in state.items():
        if isinstance(value, Tensor):
            _check_layout(key, value, param)
            _check_shape(name, key, value, param, manifold)


def _check_shape(
    name: str, key: str, value: Tensor, param: Tensor, manifold: Manifold | None
) -> None:
    if key not in _FULL_SIZE + _PER_POINT or value.shape == param.shape:
        return
    is_per_point = manifold is not None and key in _PER_POINT and value.ndim == param.ndim
    if is_per_point and all(n in (1, m) for n, m in zip(value.shape, param.shape, strict=True)):
        return
    raise ValueError(
        f"The saved {key!r} of {name} has shape {tuple(value.shape)}, and the parameter "
        f"{tuple(param.shape)}: the checkpoint is of another model, or its parameters are in "
        "another order."
    )


def _check_layout(key: str, value: Tensor, param: Tensor) -> None:
    if value.shape != param.shape or not param.ndim or is_dtensor(value) == is_dtensor(param):
        return
    raise ValueError(
        f"The saved {key!r} of a parameter of shape {tuple(param.shape)} is "
        f"{'a DTensor' if is_dtensor(value) else 'a whole tensor'}, and the parameter is "
        f"{'a DTensor' if is_dtensor(param) else 'not'}. Load it with "
        "torch.distributed.checkpoint.state_dict.set_optimizer_state_dict."
    )

"""Checkpoints of one layout in the other: `parametrizations.weight.original` ↔ `weight`."""

import copy
from typing import Any, Literal

from torch import nn

from riemopt.interop.parametrize.from_maps import from_parametrized
from riemopt.interop.parametrize.hooks import hooked_weights
from riemopt.interop.parametrize.to_maps import to_parametrized


def convert_state_dict(
    state_dict: dict[str, Any],
    model: nn.Module,
    *,
    to: Literal["constrained", "parametrized"],
    **options: Any,
) -> dict[str, Any]:
    """A checkpoint of `model` as one of the same model after conversion.

        old = orthogonal(nn.Linear(4, 6))                       # as when the checkpoint was saved
        new = constrain(nn.Linear(4, 6), "weight", Stiefel())
        new.load_state_dict(convert_state_dict(torch.load(path), old, to="constrained"))

    Works on a copy of `model`, which is left as it is. All other entries are passed on.

    Args:
        state_dict: of a model like `model`: that is the layout it has now.
        model: parametrized for "constrained", constrained for "parametrized".
        to: the layout of the result.
        options: of `from_parametrized` or `to_parametrized`.

    Raises:
        ValueError: `to` is neither, or nothing in `model` can be converted so.
        RuntimeError: as `load_state_dict`: `state_dict` is not one of a model like `model`.

    Examples:
        >>> from torch import nn
        >>> from torch.nn.utils.parametrizations import orthogonal
        >>> from riemopt import constrain
        >>> from riemopt.interop.parametrize import convert_state_dict
        >>> from riemopt.manifolds import Stiefel
        >>> old, new = orthogonal(nn.Linear(4, 6)), constrain(nn.Linear(4, 6), "weight", Stiefel())
        >>> new.load_state_dict(convert_state_dict(old.state_dict(), old, to="constrained"))
        <All keys matched successfully>
    """
    if to not in ("constrained", "parametrized"):
        raise ValueError(f"to must be 'constrained' or 'parametrized'; got {to!r}.")
    convert = from_parametrized if to == "constrained" else to_parametrized
    # What a hook has computed has a graph, of which torch makes no deep copy.
    computed = [getattr(weight.module, weight.tensor_name) for weight in hooked_weights(model)]
    twin = copy.deepcopy(model, {id(value): value.detach().clone() for value in computed})
    twin.load_state_dict(state_dict)
    report = convert(twin, **options)
    if not report.done:
        raise ValueError(
            f"No weight of the {type(model).__name__} can be turned into a {to} one: {report}."
        )
    return twin.state_dict()

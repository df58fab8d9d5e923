"""What may be put on a manifold: the checks before anything changes.

`check_value` looks at a tensor alone, `placed` at the module that owns it: what its layer does with
the weight decides which points are meant.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from riemopt.manifolds import ExceptRows, Manifold, RowBlocks
from riemopt.manifolds.as_product import points_are_rows
from riemopt.manifolds.base import require_manifold
from riemopt.manifolds.slices import Slices

_Held = TypeVar("_Held")

_DTYPES = (
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.complex64,
    torch.complex128,
)
# How many submodules an error names.
_NAMED = 5


def check_value(data: Tensor, manifold: Manifold, name: str = "the value") -> None:
    """Raise `TypeError` or `ValueError` unless `data` has a nearest point on `manifold`."""
    if isinstance(data, Manifold):
        raise TypeError(
            f"ManifoldParameter takes the value first, then the manifold: write "
            f"ManifoldParameter(tensor, {data})."
        )
    require_manifold(manifold)
    if not isinstance(data, Tensor):
        raise TypeError(
            f"A tensor is needed, to be put on {manifold}; got {type(data).__name__}. Write "
            "torch.as_tensor(…) of it, of a floating-point dtype."
        )
    if nn.parameter.is_lazy(data):
        raise ValueError("A lazy parameter has no shape yet; run the module once, then constrain.")
    if data.layout != torch.strided or data.is_nested:
        kind = "a nested tensor" if data.is_nested else f"layout {data.layout}"
        raise ValueError(
            f"{manifold} needs a dense tensor; got {kind}. Write .to_dense()"
            f"{' or .to_padded_tensor(0)' * data.is_nested}; for zeros that stay see Sparsity."
        )
    if not (data.is_floating_point() or data.is_complex()):
        raise ValueError(
            f"{manifold} needs a floating-point or complex tensor; got {data.dtype}. "
            "Write .float()."
        )
    if data.dtype not in _DTYPES:
        raise ValueError(
            f"{manifold} needs one of {', '.join(map(str, _DTYPES))}; got {data.dtype}, which is "
            "for storage. Write .to(torch.bfloat16)."
        )
    manifold.check_shape(data.shape)
    concrete = type(data) is Tensor or issubclass(type(data), nn.Parameter)
    if concrete and not data.is_meta and not bool(data.isfinite().all()):
        raise ValueError(f"{name} has entries that are not finite; no point is nearest to it.")


def check_moves(data: Tensor, manifold: Manifold) -> None:
    """Raise `ValueError` if no step could ever move points of the shape of `data`."""
    shape = tuple(data.shape)
    if not manifold.is_constraint or not data.numel():
        return
    if not manifold.is_discrete(shape, is_complex=data.is_complex()):
        return
    raise ValueError(
        f"{manifold} has dimension 0 for a tensor of shape {shape}: its points are isolated, and "
        f"no step can move the weight. {_instead(manifold, shape)}"
    )


def _instead(manifold: Manifold, shape: tuple[int, ...]) -> str:
    """What to do with a weight whose points cannot move."""
    keep = "use requires_grad_(False) to keep a value"
    if isinstance(manifold, Slices):
        long = [d - len(shape) for d, n in enumerate(shape) if n > 1]
        if long:
            return (
                f"Each point is one entry; {manifold.along(long[-1:])} has points of "
                f"{shape[long[-1]]} entries. Or {keep}."
            )
    return f"Leave it unconstrained, or {keep}."


def placed(module: nn.Module, name: str, param: Tensor, manifold: Manifold) -> Manifold:
    """`manifold` as it holds of the weight `name` of `module`: the padding row of a table stays.

    Raises:
        ValueError: the layer would take other points than are meant, or would move them itself.
    """
    if not manifold.is_constraint:
        return manifold
    if isinstance(module, nn.modules.conv._ConvNd | nn.Bilinear) and param.ndim > 2:
        _refuse_slices(module, param, manifold)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and name == "weight":
        return _for_table(module, manifold)
    return manifold


def _for_table(module: nn.Embedding | nn.EmbeddingBag, manifold: Manifold) -> Manifold:
    kind = type(module).__name__
    if module.max_norm is not None:
        raise ValueError(
            f"This {kind} has max_norm={module.max_norm}: each forward pass scales rows of its "
            f"weight, which takes them off {manifold}. Make it with max_norm=None."
        )
    row = module.padding_idx
    if row is None:
        return manifold
    last = row == module.num_embeddings - 1
    base, rows = manifold, {-1 if last else row}  # no rows come after the last one
    if isinstance(manifold, ExceptRows):
        if {row, row - module.num_embeddings} & {*manifold.rows}:
            return manifold
        base, rows = manifold.base, {*rows, *manifold.rows}
    if not points_are_rows(base):
        raise ValueError(
            f"The row padding_idx={row} of this {kind} is not to change, but is a part of the "
            f"points of {manifold}. Take a manifold whose points are rows, such as Sphere(), or "
            f"make the {kind} without padding_idx."
        )
    return ExceptRows(base, sorted(rows))


def check_registered(module: nn.Module, name: str, param: Tensor, manifold: Manifold) -> None:
    """Raise `ValueError` unless a parameter that lies on `manifold` can be given to `module`."""
    needed = placed(module, name, param, manifold)
    if needed != manifold:
        raise ValueError(
            f"The padding row of this {type(module).__name__} would be moved to {manifold}. Write "
            f"ManifoldParameter(…, {needed}), or constrain(module, {name!r}, {manifold})."
        )


def _refuse_slices(module: nn.Module, param: Tensor, manifold: Manifold) -> None:
    """Raise `ValueError` where parts of a kernel would be taken for points without being asked."""
    ndim, shape = param.ndim, tuple(param.shape)
    points = manifold.event_dims(ndim)
    if manifold.dims_are_explicit:
        return
    seen = (
        f"{manifold} on the weight of a {type(module).__name__}, of shape {shape}, would constrain"
    )
    if points == (-2, -1) and not isinstance(module, nn.Bilinear):
        transposed = getattr(module, "transposed", False)
        raise ValueError(
            f"{seen} each slice of its last two dimensions. For the matrix "
            f"{'(in, out·k)' if transposed else '(out, in·k)'} use Flattened({manifold}, "
            f"event_ndim={ndim}); if slices are meant, Flattened({manifold}, event_ndim=2)."
        )
    whole = _dims_of_output(module, ndim)
    if points != (-1,) or all(shape[d] == 1 for d in set(whole) - {-1}):
        return
    if not isinstance(manifold, Slices):
        raise ValueError(
            f"{seen} each row of its last dimension. If that is meant, write "
            f"Product([({manifold}, {shape[-1]})]); if each point is to be all weights of an "
            "output, keep a parameter of two dimensions and reshape it in forward."
        )
    wanted: Any = manifold.along(whole)
    groups = getattr(module, "groups", 1)
    if getattr(module, "transposed", False) and groups > 1:
        wanted = RowBlocks(wanted, groups, dim=-ndim)
    raise ValueError(
        f"{seen} each row of its last dimension. For all weights of an output use {wanted}; if "
        f"rows are meant, {manifold.along([ndim - 1])}."
    )


def _dims_of_output(module: nn.Module, ndim: int) -> tuple[int, ...]:
    """The dimensions of a weight, from the end, that belong to one output channel (of a group)."""
    if getattr(module, "transposed", False):  # (in, out, *k)
        return (-ndim, *range(2 - ndim, 0))
    return tuple(range(1 - ndim, 0))


def entry_of(entries: Mapping[str, _Held], name: str) -> _Held | None:
    """`entries.get(name)`; the dicts of a TorchScript module have no `get`."""
    return entries[name] if name in entries else None  # noqa: SIM401


def require_module(given: Any) -> None:
    """Raise `TypeError` that says what to write unless `given` is a module."""
    if isinstance(given, nn.Module):
        return
    hint = ""
    if isinstance(given, Tensor):
        hint = " Of a tensor by itself write manifold.project(x), manifold.violation(x)."
    elif isinstance(given, list | tuple | dict):
        hint = " Call it for each, or put them into an nn.ModuleList."
    raise TypeError(f"A module is needed; got {type(given).__name__}.{hint}")


def parameter_of(module: nn.Module, name: str) -> Tensor:
    """The parameter `name` of `module` itself.

    Raises:
        TypeError: not a module and a name.
        AttributeError: there is none; says where to look.
    """
    if not isinstance(module, nn.Module) or not isinstance(name, str):
        hint = ""
        if isinstance(module, Tensor):
            hint = " A tensor by itself is put on one by ManifoldParameter(tensor, manifold)."
        raise TypeError(
            "constrain takes a module, the name of its parameter and a manifold; got "
            f"{type(module).__name__} and {name!r} for the first two.{hint}"
        )
    param = entry_of(module._parameters, name)
    if param is not None:
        return param
    raise AttributeError(_why_not(module, name))


def _why_not(module: nn.Module, name: str) -> str:
    """Why `module` has no parameter of this name, and what to do."""
    kind = type(module).__name__
    if nn.utils.parametrize.is_parametrized(module, name):
        return (
            f"{name!r} of {kind} is computed by a parametrization. "
            "riemopt.interop.parametrize.from_parametrized turns it into a constraint; or take it "
            "away with torch.nn.utils.parametrize.remove_parametrizations, then constrain it."
        )
    for hook in module._forward_pre_hooks.values():
        computed = getattr(hook, "name", getattr(hook, "_tensor_name", None))
        if computed == name and type(hook).__module__.startswith("torch.nn.utils."):
            return (
                f"{name!r} of {kind} is computed in each forward pass by {type(hook).__name__} of "
                f"{type(hook).__module__}. riemopt.interop.parametrize.from_parametrized converts "
                "what it can; or remove it, then constrain the parameter."
            )
    if name in module._parameters:
        return f"{name!r} of {kind} is None: the module was made without it."
    if name in module._buffers:
        return f"{name!r} of {kind} is a buffer, which no optimizer steps; make it an nn.Parameter."
    known = [n for n, p in module._parameters.items() if p is not None]
    missing = f"{kind} has no parameter {name!r}; it has {known}."
    owner, _, last = name.rpartition(".")
    if owner:
        return f"{missing} Call constrain(model.get_submodule({owner!r}), {last!r}, …)."
    inner = entry_of(module._modules, name)
    if inner is not None:
        own = [n for n, p in inner._parameters.items() if p is not None]
        first = repr(own[0]) if own else "…"
        return f"{missing} {name!r} is a module: call constrain(model.{name}, {first}, …)."
    places = [
        path for path, sub in module.named_modules() if entry_of(sub._parameters, name) is not None
    ]
    if not places:
        return missing
    listed = ", ".join(map(repr, places[:_NAMED])) + ", …" * (len(places) > _NAMED)
    return (
        f"{missing} Submodules that have one: {listed}. Call "
        f"constrain(model.get_submodule({places[0]!r}), {name!r}, …) for each that you mean."
    )

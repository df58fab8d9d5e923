"""A Parameter that knows its manifold: the way in which new constrained weights are written.

self.w = ManifoldParameter(torch.randn(256, 64), Stiefel())     # the nearest point
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from riemopt.manifolds import Manifold
from riemopt.nn import table
from riemopt.nn.tangent_grad import ensure_tangent_grad, keep_tangent_grads


class ManifoldParameter(nn.Parameter):
    """A Parameter whose stored value is the point of `manifold` nearest to `data`.

    Assigned to a module, it is entered in that module's table, which then holds the constraint
    whatever becomes of this object (see `riemopt.nn.table`). A loose one carries it itself, through
    `copy.deepcopy`, `pickle` and `torch.save`/`torch.load(weights_only=True)`.

    Args:
        data: floating-point or complex tensor of a shape that `manifold` accepts.
        manifold: an instance, such as `Stiefel()`.
        requires_grad: as in `torch.nn.Parameter`.
        tangent_grad: make `.grad` tangent as soon as backward has accumulated it, so that clipping,
            logging and torch's own optimizers see the Riemannian gradient (of the ambient metric).

    Raises:
        TypeError: `manifold` is not an instance of `Manifold`.
        ValueError: the shape is wrong, the dtype is an integer, or `data` is not finite.
    """

    manifold: Manifold
    tangent_grad: bool

    def __new__(
        cls,
        data: Tensor,
        manifold: Manifold,
        requires_grad: bool = True,
        *,
        tangent_grad: bool = False,
    ) -> "ManifoldParameter":
        """Project `data` and wrap it."""
        check_value(data, manifold)
        value = data.detach()
        value = value.clone() if value.is_meta else manifold.project(value)
        state = {"manifold": manifold, "tangent_grad": tangent_grad}
        return _rebuild_manifold_parameter(value, requires_grad, state)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Everything is done in `__new__`, as in `torch.nn.Parameter`."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "ManifoldParameter":
        if id(self) not in memo:
            state = copy.deepcopy(dict(self.__dict__), memo)
            memo[id(self)] = _rebuild_manifold_parameter(
                self.data.clone(), self.requires_grad, state
            )
        copied: ManifoldParameter = memo[id(self)]
        return copied

    def __reduce_ex__(self, proto: Any) -> Any:
        return _rebuild_manifold_parameter, (self.data, self.requires_grad, dict(self.__dict__))

    def __repr__(self) -> str:  # type: ignore[override]
        manifold = getattr(self, "manifold", "no manifold any more")
        return f"ManifoldParameter on {manifold} containing:\n{self.data!r}"


def _rebuild_manifold_parameter(
    data: Tensor, requires_grad: bool, state: dict[str, Any]
) -> ManifoldParameter:
    """Wrap `data` as it is: copies and loaded values keep every bit."""
    if type(data) in (Tensor, nn.Parameter):
        param: Any = Tensor._make_subclass(ManifoldParameter, data, requires_grad)
    else:  # a FakeTensor, say: as torch.nn.Parameter does, mark the tensor instead of wrapping it
        param = nn.Parameter(data, requires_grad)
    param.__dict__.update(state)
    if state.get("tangent_grad") and requires_grad:
        ensure_tangent_grad(param, state["manifold"])
    return param


def check_value(data: Tensor, manifold: Manifold, name: str = "the value") -> None:
    """Raise `TypeError` or `ValueError` unless `data` has a nearest point on `manifold`."""
    if not isinstance(manifold, Manifold):
        hint = f"; write {manifold.__name__}()" if isinstance(manifold, type) else ""
        raise TypeError(
            f"A manifold instance is needed, such as Stiefel(); got {manifold!r}{hint}."
        )
    if nn.parameter.is_lazy(data):
        raise ValueError("A lazy parameter has no shape yet; run the module once, then constrain.")
    if not (data.is_floating_point() or data.is_complex()):
        raise ValueError(f"{manifold} needs a floating-point or complex tensor; got {data.dtype}.")
    manifold.check_shape(data.shape)
    concrete = type(data) in (Tensor, nn.Parameter, ManifoldParameter) and not data.is_meta
    if concrete and not bool(data.isfinite().all()):
        raise ValueError(f"{name} has entries that are not finite; no point is nearest to it.")


def refuse_kernel_as_batch(module: nn.Module, manifold: Manifold) -> None:
    """Raise `ValueError` where a convolution kernel would be taken for a batch of matrices."""
    if not isinstance(module, nn.modules.conv._ConvNd) or not manifold.is_constraint:
        return
    ndim = module.weight.ndim
    matrices = manifold.event_dims(ndim) == (-2, -1) and not manifold.dims_are_explicit
    if matrices and ndim > 2:
        raise ValueError(
            f"{manifold} on the kernel of a {type(module).__name__}, of shape "
            f"{tuple(module.weight.shape)}, would constrain each slice of its last two dimensions. "
            f"For the matrix (out, in·k) use Flattened({manifold}, event_ndim={ndim}); if slices "
            f"are meant, Flattened({manifold}, event_ndim=2)."
        )


def adopt(module: nn.Module, name: str, entry: table.Entry, param: Tensor) -> None:
    """Write `name`, under which `param` is stored, into the module's table.

    With `tangent_grad`, hook the gradient too.
    """
    entries = table.table_of(module, create=True)
    assert entries is not None
    entries.set(name, entry)
    if entry.tangent_grad:
        ensure_tangent_grad(param, entry.manifold)
        keep_tangent_grads(module)


def _on_registration(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
    """Called by torch for every parameter that any module registers."""
    manifold = getattr(param, "manifold", None)
    if isinstance(manifold, Manifold):
        assert param is not None
        refuse_kernel_as_batch(module, manifold)
        tangent_grad = bool(getattr(param, "tangent_grad", False))
        adopt(module, name, table.Entry(manifold, tangent_grad), param)


register_module_parameter_registration_hook(_on_registration)
torch.serialization.add_safe_globals([_rebuild_manifold_parameter])

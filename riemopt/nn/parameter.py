"""A Parameter that knows its manifold: the way in which new constrained weights are written.

self.w = ManifoldParameter(torch.randn(256, 64), Stiefel())     # the nearest point
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from riemopt._torch_workarounds import is_made_a_parameter
from riemopt.manifolds import Manifold
from riemopt.nn.admission import check_moves, check_value
from riemopt.nn.tangent_grad import ensure_tangent_grad, remove_tangent_grad


class ManifoldParameter(nn.Parameter):
    """A Parameter whose stored value is the point of `manifold` nearest to `data`.

    It carries the constraint to whatever module it is assigned to, and through `copy.deepcopy`,
    `pickle` and `torch.save`/`torch.load(weights_only=True)`. The table of that module holds the
    constraint too, whatever becomes of this object (see `riemopt.nn.table`). A Parameter that
    `riemopt.constrain` is given becomes one, without being copied.

    Args:
        data: floating-point or complex tensor of a shape that `manifold` accepts.
        manifold: an instance, such as `Stiefel()`.
        requires_grad: as in `torch.nn.Parameter`.
        tangent_grad: make `.grad` tangent as soon as backward has accumulated it, so that clipping,
            logging and torch's own optimizers see the Riemannian gradient (of the ambient metric).

    Raises:
        TypeError: `data` is not a tensor, or `manifold` not an instance of `Manifold`.
        ValueError: the shape is wrong, or of isolated points; the dtype is an integer; `data` is
            sparse, or not finite.

    Examples:
        >>> import torch
        >>> from riemopt import ManifoldParameter
        >>> from riemopt.manifolds import Stiefel
        >>> W = ManifoldParameter(torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), Stiefel())
        >>> W.data
        tensor([[1., 0.],
                [0., 1.],
                [0., 0.]])
        >>> W.manifold
        Stiefel()
    """

    manifold: Manifold
    tangent_grad: bool

    def __new__(
        cls,
        data: Tensor,
        manifold: Manifold = None,  # type: ignore[assignment] # only loaders leave it out
        requires_grad: bool | None = None,
        *,
        tangent_grad: bool = False,
    ) -> "ManifoldParameter":
        """Project `data` and wrap it."""
        if manifold is None and requires_grad is not None:
            # They make a parameter anew as `type(p)(data, requires_grad=…)`, and write it into the
            # module, whose table knows the manifold.
            return nn.Parameter(data, requires_grad)
        check_value(data, manifold)
        check_moves(data, manifold)
        value = data.detach()
        manifold = manifold.fitted_to(value)
        value = value.clone() if value.is_meta else manifold.project(value)
        state = {"manifold": manifold, "tangent_grad": tangent_grad}
        return _rebuild_manifold_parameter(value, requires_grad is not False, state)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Everything is done in `__new__`, as in `torch.nn.Parameter`."""

    def detach(self) -> Tensor:
        """As `torch.Tensor.detach`; `torch.nn.Parameter(self)` has the same manifold.

        workaround: parameter_of_parameter
        """
        value = super().detach()
        if is_made_a_parameter() and carried_by(self) is not None:
            state = {key: self.__dict__[key] for key in ("manifold", "tangent_grad")}
            return _rebuild_manifold_parameter(value, False, state)
        return value

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


def carried_by(param: Tensor) -> Manifold | None:
    """The manifold that the Parameter object carries itself, if it is one of ours."""
    manifold = getattr(param, "manifold", None)
    return manifold if isinstance(manifold, Manifold) else None


def mark(param: Tensor, manifold: Manifold, tangent_grad: bool = False) -> None:
    """Let the Parameter object carry its manifold, through copies and pickles too.

    It stays the same object; a plain Parameter becomes a `ManifoldParameter`, as torch changes the
    class of a lazy one. Another package's `manifold` on it is left, since its code relies on it.
    """
    if tangent_grad:
        ensure_tangent_grad(param, manifold)
    if carried_by(param) is None and getattr(param, "manifold", None) is not None:
        return
    if type(param) is nn.Parameter:
        param.__class__ = ManifoldParameter
    # Nothing else: accelerate makes a new one as `type(p)(data, requires_grad=…, **p.__dict__)`.
    param.__dict__.update(manifold=manifold, tangent_grad=tangent_grad)


def unmark(param: Tensor) -> None:
    """Undo `mark`: a `ManifoldParameter` becomes a plain Parameter."""
    remove_tangent_grad(param)
    param.__dict__.pop("manifold", None)
    param.__dict__.pop("tangent_grad", None)
    if type(param) is ManifoldParameter:
        param.__class__ = nn.Parameter  # type: ignore[assignment]


torch.serialization.add_safe_globals([_rebuild_manifold_parameter])

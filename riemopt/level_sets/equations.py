"""The user's functions of one point as one function of a batch of vectors.

    equations = Equations((lambda x: x.square().sum() - 1, torch.sum), event=(3,))
    equations(torch.randn(8, 3))        # (8, 3) -> (8, 2): two equations at each of 8 points

Points are flattened to `(B, n)` and residuals to `(B, m)`, both real: a complex entry counts as two
numbers. What is done with them is linear algebra on batches of vectors.
"""

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Constraint = Callable[[Tensor], Tensor]


class Equations:
    """c: `(B, n)` → `(B, m)`, for the points of one tensor.

    Args:
        constraints: functions of one point, each of any result shape; what tensors they hold is
            on the points' device and in their precision (`follow`).
        event: the shape of a point.
        is_complex: whether its entries are complex.
    """

    def __init__(
        self, constraints: Sequence[Constraint], event: Sequence[int], *, is_complex: bool = False
    ) -> None:
        self._constraints = constraints
        self._event = tuple(event)
        self._is_complex = is_complex

    def flatten(self, a: Tensor) -> Tensor:
        """`(*batch, *event)` as real vectors `(B, n)`."""
        if self._is_complex:
            a = torch.view_as_real(a.resolve_conj())
        points = a.shape[: a.ndim - len(self._event) - self._is_complex]
        return a.reshape(points.numel(), -1)

    def unflatten(self, a: Tensor, like: Tensor) -> Tensor:
        """`(B, n)` in the shape and kind of `like`; contiguous if `a` is."""
        if self._is_complex:
            return torch.view_as_complex(a.reshape(*like.shape, 2))
        return a.reshape(like.shape)

    def __call__(self, vectors: Tensor) -> Tensor:
        """c at `(B, n)` points, `(B, m)`."""
        if len(vectors) == 1:  # vmap costs tens of microseconds
            return self._residual(vectors[0]).unsqueeze(0)
        residuals: Tensor = torch.vmap(self._residual)(vectors)
        return residuals

    def _residual(self, vector: Tensor) -> Tensor:
        if self._is_complex:
            point = torch.view_as_complex(vector.reshape(*self._event, 2))
        else:
            point = vector.reshape(self._event)
        parts = [self._real_vector(c(point), c) for c in self._constraints]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @staticmethod
    def _real_vector(value: Any, constraint: Constraint) -> Tensor:
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            got = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else repr(type(value))
            raise TypeError(
                f"The constraint {name_of(constraint)} must return a floating-point tensor, the "
                f"residual c(x) of one point; it returned {got}."
            )
        return (torch.view_as_real(value) if value.is_complex() else value).reshape(-1)


def name_of(constraint: Constraint) -> str:
    """How a message calls the function."""
    if isinstance(constraint, functools.partial):
        return name_of(constraint.func)
    if isinstance(constraint, types.FunctionType):
        return constraint.__qualname__
    return getattr(constraint, "__name__", type(constraint).__qualname__)


# --- tensors that a function closes over ---


def follow(constraint: Constraint, device: torch.device, dtype: torch.dtype) -> Constraint:
    """The function with the tensors that it holds on `device`, floating ones in `dtype`.

    Looked for in closures, global variables, defaults, `functools.partial` arguments, modules, and
    functions of the same file that it calls; not in attributes of other objects. The function
    itself where all fit already.
    """
    return _moved(constraint, device, dtype, set())


def _moved(held: Any, device: torch.device, dtype: torch.dtype, seen: set[int]) -> Any:
    """`held`, or a copy of it with its tensors moved; `seen` ends what refers to itself."""

    def moved(inner: Any) -> Any:
        return _moved(inner, device, dtype, seen)

    if isinstance(held, Tensor):
        if held.is_complex():
            kind = torch.complex128 if dtype == torch.float64 else torch.complex64
        else:
            kind = dtype if held.is_floating_point() else held.dtype
        fits = held.dtype == kind and held.device == device
        return held if fits else held.detach().to(device, kind)
    if id(held) in seen:
        return held
    seen.add(id(held))
    if isinstance(held, nn.Module):
        return _moved_module(held, moved)
    if isinstance(held, functools.partial):
        parts = held.func, held.args, held.keywords
        func, args, keywords = new = tuple(moved(part) for part in parts)
        return held if _same(new, parts) else functools.partial(func, *args, **keywords)
    if isinstance(held, types.FunctionType):
        return _moved_function(held, moved)
    if type(held) in (tuple, list):
        items = [moved(item) for item in held]
        return held if _same(items, held) else type(held)(items)
    if type(held) is dict:
        values = [moved(value) for value in held.values()]
        return held if _same(values, held.values()) else dict(zip(held, values, strict=True))
    return held


def _same(new: Any, old: Any) -> bool:
    return all(a is b for a, b in zip(new, old, strict=True))


def _moved_function(function: types.FunctionType, moved: Callable[[Any], Any]) -> Any:
    cells = function.__closure__ or ()
    if any(map(_is_empty, cells)):  # of a function that is being defined
        return function
    contents = [cell.cell_contents for cell in cells]
    variables = _global_variables(function)
    old = [*contents, *variables.values(), function.__defaults__, function.__kwdefaults__]
    new = [moved(held) for held in old]
    if _same(new, old):
        return function
    *held, defaults, keywords = new
    copy = types.FunctionType(
        function.__code__,
        {**function.__globals__, **dict(zip(variables, held[len(cells) :], strict=True))},
        function.__name__,
        defaults,
        tuple(types.CellType(content) for content in held[: len(cells)]),
    )
    copy.__kwdefaults__, copy.__qualname__ = keywords, function.__qualname__
    return copy


def _global_variables(function: types.FunctionType) -> dict[str, Any]:
    """The tensors, modules, and functions of its own file that a function names as globals."""
    names: set[str] = set()
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    values = {n: function.__globals__[n] for n in sorted(names) if n in function.__globals__}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, Tensor | nn.Module)
        or (isinstance(value, types.FunctionType) and value.__globals__ is function.__globals__)
    }


def _is_empty(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


def _moved_module(module: nn.Module, moved: Callable[[Any], Any]) -> Any:
    """The module called with other tensors; it is not touched itself."""
    old = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    new = {name: moved(tensor) for name, tensor in old.items()}
    if _same(new.values(), old.values()):
        return module
    return lambda x: torch.func.functional_call(module, new, (x,))

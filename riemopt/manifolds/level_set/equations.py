"""The user's functions of one point as one function of a batch of vectors.

    equations = Equations((lambda x: x.square().sum() - 1, torch.sum), event=(3,))
    equations(torch.randn(8, 3))        # (8, 3) -> (8, 2): two equations at each of 8 points

Points are flattened to `(B, n)` and residuals to `(B, m)`, both real: a complex entry counts as two
numbers. What is done with them is linear algebra on batches of vectors.
"""

import functools
import types
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any, cast

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
        parts = [self._real_vector(c(point), c, vector) for c in self._constraints]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @staticmethod
    def _real_vector(value: Any, constraint: Constraint, like: Tensor) -> Tensor:
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            got = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else repr(type(value))
            raise TypeError(
                f"The constraint {name_of(constraint)} must return a floating-point tensor, the "
                f"residual c(x) of one point; it returned {got}."
            )
        if value.numel() == 0:
            raise ValueError(
                f"The constraint {name_of(constraint)} returned no number: a tensor of shape "
                f"{tuple(value.shape)} for one point."
            )
        # A constant that it makes itself may be of another precision.
        return (torch.view_as_real(value) if value.is_complex() else value).reshape(-1).to(like)


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
    functions of the same file that it calls; not in attributes of other objects. They are taken as
    constants: what needs a gradient is detached. The function itself where all fit already.
    """
    return _Follower(device, dtype).moved(constraint)


class _Follower:
    """Copies what holds tensors that have to move, each thing once; leaves the rest as it is."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._dtype = dtype
        self._copies: dict[int, tuple[Any, Any]] = {}

    def moved(self, held: Any) -> Any:
        """`held`, or a copy of it that fits."""
        if id(held) in self._copies:
            return self._copies[id(held)][1]
        if self._fits(held, set()):
            return held
        if isinstance(held, types.FunctionType):
            return self._function(held)
        new: Any
        if isinstance(held, Tensor):
            new = held.detach().to(self._device, self._kind(held))
        elif isinstance(held, nn.Module):
            new = self._module(held)
        elif isinstance(held, functools.partial):
            args, keywords = self.moved(held.args), self.moved(held.keywords)
            new = functools.partial(self.moved(held.func), *args, **keywords)
        elif isinstance(held, dict):
            new = {key: self.moved(value) for key, value in held.items()}
        else:
            new = type(held)(map(self.moved, held))
        # With the original, so that its id is not given to another.
        self._copies[id(held)] = held, new
        return new

    def _kind(self, tensor: Tensor) -> torch.dtype:
        if tensor.is_complex():
            return torch.complex128 if self._dtype == torch.float64 else torch.complex64
        return self._dtype if tensor.is_floating_point() else tensor.dtype

    def _fits(self, held: Any, seen: set[int]) -> bool:
        """Whether no tensor that `held` leads to has to move; `seen` ends what leads to itself."""
        if isinstance(held, Tensor):
            here = held.device == self._device and held.dtype == self._kind(held)
            return here and not held.requires_grad
        if id(held) in seen:
            return True
        seen.add(id(held))
        return all(self._fits(inner, seen) for inner in _contents(held))

    def _function(self, function: types.FunctionType) -> Any:
        # Without the name of its file, by which torch.compile would look its variables up there.
        variables = {k: v for k, v in function.__globals__.items() if k != "__name__"}
        cells = function.__closure__ or ()
        copy = types.FunctionType(
            function.__code__, variables, function.__name__, None, tuple(map(_empty_cell, cells))
        )
        # Known before its contents are, as it may call itself.
        self._copies[id(function)] = function, copy
        variables.update({k: self.moved(v) for k, v in _global_variables(function).items()})
        for cell, new in zip(cells, copy.__closure__ or (), strict=True):
            if not _is_empty(cell):
                new.cell_contents = self.moved(cell.cell_contents)
        copy.__defaults__ = self.moved(function.__defaults__)
        copy.__kwdefaults__ = self.moved(function.__kwdefaults__)
        copy.__qualname__ = function.__qualname__
        return copy

    def _module(self, module: nn.Module) -> nn.Module:
        new = deepcopy(module).requires_grad_(False)
        for part in new.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    values = parameter.detach().to(self._device, self._kind(parameter))
                    part._parameters[name] = nn.Parameter(values, requires_grad=False)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = buffer.detach().to(self._device, self._kind(buffer))
        return new


def _contents(held: Any) -> Iterable[Any]:
    """What an object that is looked into holds."""
    if isinstance(held, nn.Module):
        return [*held.parameters(), *held.buffers()]
    if isinstance(held, functools.partial):
        return held.func, held.args, held.keywords
    if isinstance(held, types.FunctionType):
        cells = [cell.cell_contents for cell in held.__closure__ or () if not _is_empty(cell)]
        return *cells, *_global_variables(held).values(), held.__defaults__, held.__kwdefaults__
    if type(held) in (tuple, list):
        return cast(Iterable[Any], held)
    return held.values() if type(held) is dict else ()


def _empty_cell(cell: types.CellType) -> types.CellType:
    return types.CellType()


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

"""The user's functions of one point as one function of a batch of vectors.

    equations = Equations((lambda x: x.square().sum() - 1, torch.sum), event=(3,))
    equations(torch.randn(8, 3))        # (8, 3) -> (8, 2): two equations at each of 8 points

Points are flattened to `(B, n)` and residuals to `(B, m)`, both real: a complex entry counts as two
numbers. What is done with them is linear algebra on batches of vectors.
"""

import dis
import functools
import types
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from riemopt.linalg import internal_graph

PointFunction = Callable[[Tensor], Tensor]


class Equations:
    """c: `(B, n)` → `(B, m)`, for the points of one tensor.

    Args:
        constraints: functions of one point, each of any result shape; what tensors they hold is
            on the points' device and in their precision (`follow`).
        event: the shape of a point.
        is_complex: whether its entries are complex.
    """

    def __init__(
        self,
        constraints: Sequence[PointFunction],
        event: Sequence[int],
        *,
        is_complex: bool = False,
    ) -> None:
        self._constraints = constraints
        self._event = tuple(event)
        self._is_complex = is_complex

    @property
    def kind(self) -> tuple[tuple[int, ...], bool]:
        """The shape of a point, and whether it is complex: what is asked about once."""
        return self._event, self._is_complex

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
        point = self._point(vector)
        parts = [self._real_vector(c(point), c, vector) for c in self._constraints]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def unrecorded(self, vector: Tensor) -> list[PointFunction]:
        """The functions whose results autograd does not connect with the point.

        Args:
            vector: `(n,)`, one point.

        Raises:
            ValueError: a function cannot be called where autograd records.
        """
        with internal_graph():
            leaf = vector.detach().clone().requires_grad_()
            point = self._point(leaf)
        found = []
        for c in self._constraints:
            self._real_vector(c(point.detach()), c, vector)  # another error is raised as it is
            try:
                with internal_graph():
                    if not self._real_vector(c(point), c, vector).requires_grad:
                        found.append(c)
            except RuntimeError as error:
                raise ValueError(
                    f"The constraint {name_of(c)} cannot be differentiated: {error}"
                ) from error
        return found

    def _point(self, vector: Tensor) -> Tensor:
        if self._is_complex:
            return torch.view_as_complex(vector.reshape(*self._event, 2))
        return vector.reshape(self._event)

    @staticmethod
    def _real_vector(value: Any, constraint: PointFunction, like: Tensor) -> Tensor:
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
        if value.is_complex():  # not view_as_real, whose derivative fails for expanded gradients
            value = torch.stack([value.real, value.imag], -1)
        return value.reshape(-1).to(like)


def name_of(constraint: PointFunction) -> str:
    """How a message calls the function."""
    if isinstance(constraint, functools.partial):
        return name_of(constraint.func)
    if isinstance(constraint, types.FunctionType):
        return constraint.__qualname__
    return getattr(constraint, "__name__", type(constraint).__qualname__)


# --- tensors that a function holds ---


def follow(constraint: PointFunction, device: torch.device, dtype: torch.dtype) -> PointFunction:
    """The function with the tensors that it holds on `device`, floating ones in `dtype`.

    Looked for in closures, defaults, `functools.partial` arguments and modules; not in attributes
    of other objects. They are taken as constants: what needs a gradient is detached. The function
    itself where all fit already, otherwise a copy.

    Raises:
        ValueError: a tensor that does not fit is a global variable, which a copy would share.
    """
    held: dict[tuple[int, bool], tuple[Any, str]] = {}
    _collect(constraint, held)
    copies = {id(thing): _copy(thing, device, dtype) for thing, _ in held.values()}
    misfits = [
        (thing, name)
        for thing, name in held.values()
        if isinstance(thing, Tensor) and copies[id(thing)] is not thing
    ]
    for tensor, name in misfits:
        if name:
            raise ValueError(
                f"The constraint {name_of(constraint)} uses the global variable {name!r}, which "
                f"holds a tensor of {tensor.dtype} on {tensor.device}"
                f"{' that needs a gradient' * tensor.requires_grad}; the points are of {dtype} on "
                f"{device}. A global variable cannot follow the points: make it a default argument "
                f"(`def c(x, {name}={name})`), define the constraint in a function that takes it "
                "as an argument, or make the constraint an nn.Module with a buffer."
            )
    if not misfits:
        return constraint
    memo = {key: copy for key, copy in copies.items() if copy is not None}
    for thing, _ in held.values():
        if isinstance(thing, types.FunctionType):
            for i, contents in _filled_cells(thing):
                memo[id(thing)].__closure__[i].cell_contents = deepcopy(contents, memo)
            memo[id(thing)].__defaults__ = deepcopy(thing.__defaults__, memo)
            memo[id(thing)].__kwdefaults__ = deepcopy(thing.__kwdefaults__, memo)
    return deepcopy(constraint, memo)


def _collect(thing: Any, held: dict[tuple[int, bool], tuple[Any, str]], name: str = "") -> None:
    """Everything that `thing` leads to, and the global variable through which, if any."""
    key = id(thing), bool(name)
    if key not in held:
        held[key] = thing, name
        for inner in _contents(thing):
            _collect(inner, held, name)
        if isinstance(thing, types.FunctionType):
            for variable, value in _global_variables(thing).items():
                _collect(value, held, variable)


def _copy(thing: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """What `deepcopy` is told to take for it: functions are still without what they hold.

    None leaves it to `deepcopy`: containers, and modules, of whose tensors it takes the copies.
    """
    if isinstance(thing, Tensor):
        if thing.is_complex():
            dtype = dtype.to_complex()
        elif not thing.is_floating_point():
            dtype = thing.dtype
        if thing.device == device and thing.dtype == dtype and not thing.requires_grad:
            return thing
        new = thing.detach().to(device, dtype)
        return nn.Parameter(new, requires_grad=False) if type(thing) is nn.Parameter else new
    if isinstance(thing, types.FunctionType):
        cells = tuple(types.CellType() for _ in thing.__closure__ or ())
        code, variables = thing.__code__, thing.__globals__
        copy = types.FunctionType(code, variables, thing.__name__, None, cells)
        copy.__qualname__ = thing.__qualname__
        return copy
    looked_into = type(thing) in (tuple, list, dict)
    looked_into = looked_into or isinstance(thing, nn.Module | functools.partial)
    return None if looked_into else thing


def _contents(thing: Any) -> Iterable[Any]:
    """What an object that is looked into holds."""
    if isinstance(thing, nn.Module):
        return [*thing.parameters(), *thing.buffers()]
    if isinstance(thing, functools.partial):
        return thing.func, thing.args, thing.keywords
    if isinstance(thing, types.FunctionType):
        cells = [contents for _, contents in _filled_cells(thing)]
        return *cells, thing.__defaults__, thing.__kwdefaults__
    if type(thing) in (tuple, list):
        return cast(Iterable[Any], thing)
    return thing.values() if type(thing) is dict else ()


def _filled_cells(function: types.FunctionType) -> list[tuple[int, Any]]:
    filled = []
    for i, cell in enumerate(function.__closure__ or ()):
        with suppress(ValueError):  # nothing has been assigned to that variable yet
            filled.append((i, cell.cell_contents))
    return filled


def _global_variables(function: types.FunctionType) -> dict[str, Any]:
    """The tensors, modules, and functions of its own file that a function uses as globals."""
    found, codes = {}, [function.__code__]
    for code in codes:
        codes += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
        for step in dis.get_instructions(code):
            value = function.__globals__.get(step.argval) if step.opname == "LOAD_GLOBAL" else None
            own = getattr(value, "__globals__", None) is function.__globals__
            if own or isinstance(value, Tensor | nn.Module):
                found[step.argval] = value
    return found

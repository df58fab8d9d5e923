"""What the user calls a point: a tensor, a tuple or dict of tensors, or a module.

    structure_of(fun, x0, manifold)        # checks them, and says which tensors are meant

A `Structure` gives the tensors of the start with their manifolds, calls the cost on other tensors
in their place, and puts the tensors of a result back into the form that `x0` had.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from riemopt.manifolds import Euclidean, Manifold
from riemopt.manifolds.base import require_manifold
from riemopt.nn.table import manifold_of, resolve

_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


class Structure(ABC):
    """The tensors that make a point, and the cost as a function of them."""

    names: list[str]
    """What errors call each tensor."""
    tensors: list[Tensor]
    """The start."""
    manifolds: list[Manifold]
    overwrites = False
    """Whether `leaves` changes those that it has given before, and so breaks their graphs."""

    @abstractmethod
    def cost(self, leaves: list[Tensor]) -> Tensor:
        """What `fun` returns for the leaves."""

    @abstractmethod
    def result(self, tensors: list[Tensor]) -> Any:
        """The tensors in the form of `x0`."""

    def leaves(self, tensors: list[Tensor]) -> list[Tensor]:
        """Leaves of autograd with these values, of which `cost` is a function."""
        return [t.detach().requires_grad_() for t in tensors]

    def restore(self) -> None:  # noqa: B027
        """After an error: what the cost reads holds the start again."""


class _Tensors(Structure):
    """A tensor, a tuple or a dict, which the cost takes as its one argument."""

    def __init__(self, fun: Callable[[Any], Tensor], x0: Any, manifold: Any) -> None:
        self._fun = fun
        self._keys = list(x0) if isinstance(x0, Mapping) else None
        self._single = isinstance(x0, Tensor)
        self._type = type(x0)
        tensors = [x0] if self._single else list(x0.values()) if self._keys else list(x0)
        keys = self._keys or range(len(tensors))
        self.names = ["x0"] if self._single else [f"x0[{key!r}]" for key in keys]
        if not tensors:
            raise ValueError("x0 needs a tensor at least; got none.")
        given = self._matching(manifold, tensors)
        for name, t in zip(self.names, tensors, strict=True):
            if not isinstance(t, Tensor):
                raise TypeError(
                    f"{name} must be a tensor; got {type(t).__name__}. Write torch.as_tensor(…)."
                )
        self.tensors = [t.detach().clone() for t in tensors]
        self.manifolds = [
            require_manifold(m if m is not None else manifold_of(t) or Euclidean(), f"For {name}")
            for name, m, t in zip(self.names, given, tensors, strict=True)
        ]

    def _matching(self, manifold: Any, tensors: list[Any]) -> list[Any]:
        """The manifolds in the order of the tensors."""
        if manifold is None:
            return [None] * len(tensors)
        if self._single:
            return [manifold]
        if self._keys is not None and isinstance(manifold, Mapping):
            if set(manifold) == set(self._keys):
                return [manifold[key] for key in self._keys]
            raise ValueError(
                f"manifold needs the keys of x0, {self._keys}; got {list(manifold)}. "
                "Euclidean() is for those that are free."
            )
        if self._keys is None and isinstance(manifold, Sequence):
            if len(manifold) == len(tensors):
                return list(manifold)
            raise ValueError(
                f"manifold needs one entry for each of the {len(tensors)} tensors of x0; got "
                f"{len(manifold)}. Euclidean() is for those that are free."
            )
        kind = "dict with the same keys" if self._keys is not None else "tuple of the same length"
        raise TypeError(
            f"x0 is a {self._type.__name__}, so manifold must be a {kind}; got {manifold!r}."
        )

    @override
    def cost(self, leaves: list[Tensor]) -> Tensor:
        return self._fun(self.result(leaves))

    @override
    def result(self, tensors: list[Tensor]) -> Any:
        if self._single:
            return tensors[0]
        if self._keys is not None:
            return dict(zip(self._keys, tensors, strict=True))
        return list(tensors) if self._type is list else tuple(tensors)


class _Module(Structure):
    """The parameters of a module that require gradients; the cost is a closure over it.

    Values are written into the parameters themselves, so that a closure may reach them by any way.
    """

    overwrites = True

    def __init__(self, fun: Callable[[], Tensor], module: nn.Module) -> None:
        self._fun = fun
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        if not named:
            raise ValueError(
                f"x0, a {type(module).__name__}, has no parameter that requires a gradient."
            )
        self.names = [name for name, _ in named]
        self._params = [p for _, p in named]
        self.tensors = [p.detach().clone() for p in self._params]
        self.manifolds = [m or Euclidean() for m in resolve(self._params)]

    @override
    def leaves(self, tensors: list[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            for p, t in zip(self._params, tensors, strict=True):
                p.copy_(t)
        return list(self._params)

    @override
    def cost(self, leaves: list[Tensor]) -> Tensor:
        return self._fun()

    @override
    def result(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        """Values by the parameters' names; the parameters have them too.

        Nothing is written where they do already: it would break a graph that is kept of them.
        """
        if not all(map(torch.equal, self._params, tensors)):
            self.leaves(tensors)
        return dict(zip(self.names, tensors, strict=True))

    @override
    def restore(self) -> None:
        self.leaves(self.tensors)


def structure_of(
    fun: Callable[..., Tensor], x0: Any, manifold: Any, batch_ndim: int = 0
) -> Structure:
    """What `minimize` was given, checked.

    Raises:
        TypeError: `x0` is nothing of this kind, or `manifold` does not match it.
        ValueError: a shape, dtype or value that the manifold does not have.
    """
    if not callable(fun):
        raise TypeError(f"fun must be a function that returns the cost; got {fun!r}.")
    if isinstance(x0, nn.Module):
        if manifold is not None:
            raise TypeError(
                "The parameters of a module say themselves where they lie: call "
                f"riemopt.constrain(module, name, manifold), and leave out manifold={manifold!r}."
            )
        if batch_ndim:
            raise ValueError("Batches of problems are tensors; a module is one problem.")
        structure: Structure = _Module(fun, x0)
    elif isinstance(x0, Tensor | tuple | list | Mapping):
        structure = _Tensors(fun, x0, manifold)
    else:
        raise TypeError(
            "x0 must be a tensor, a tuple or dict of tensors, or a torch.nn.Module; got "
            f"{type(x0).__name__}."
        )
    _check(structure, batch_ndim)
    return structure


def _check(structure: Structure, batch_ndim: int) -> None:
    """Raise ValueError that names the tensor which cannot be a start; fits manifolds to the start.

    Leading dimensions must agree, for one problem has an entry of each.
    """
    if not isinstance(batch_ndim, int) or batch_ndim < 0:
        raise ValueError(
            f"batch_ndim must be 0, or how many dimensions number the problems; got {batch_ndim!r}."
        )
    first = structure.tensors[0]
    batch = first.shape[:batch_ndim]
    named = zip(structure.names, structure.tensors, structure.manifolds, strict=True)
    for i, (name, t, m) in enumerate(named):
        if t.dtype not in _DTYPES:
            hint = (
                "Minimise in float32, x0.float(), and round the result"
                if t.is_floating_point()
                else "Write .double()"
            )
            raise ValueError(
                f"{name} must be of float32, float64 or complex; got {t.dtype}. {hint}."
            )
        if t.device != first.device:
            raise ValueError(
                f"{name} is on {t.device} and {structure.names[0]} on {first.device}; a point must "
                "be on one device."
            )
        if t.ndim < batch_ndim or t.shape[:batch_ndim] != batch:
            raise ValueError(
                f"{name} needs the batch_ndim={batch_ndim} leading dimensions {tuple(batch)}; got "
                f"the shape {tuple(t.shape)}."
            )
        if not bool(t.isfinite().all()):
            raise ValueError(f"{name} has entries that are not finite.")
        try:
            m.check_shape(t.shape[batch_ndim:])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        structure.manifolds[i] = m.fitted_to(t)
        m.prepare(t)

"""What a geoopt manifold's geometry depends on, as a value that can be compared.

geoopt compares manifolds by identity, so that equal ones are not stepped together. They are modules
with a handful of numbers; equal numbers in equal classes make equal manifolds.
"""

from collections.abc import Hashable, Mapping
from enum import Enum
from types import MethodType
from typing import Any

from torch import Tensor, nn

_HELD = {"_parameters", "_buffers", "_modules"}
_BOOKKEEPING = set(vars(nn.Module())) - _HELD


def same_geometry(a: Any, b: Any) -> bool:
    """Whether two geoopt manifolds are of one class with equal constants.

    One that learns a constant (its curvature, its scale) equals itself alone.
    """
    if a is b:
        return True
    if type(a) is not type(b) or _learns(a) or _learns(b):
        return False
    return _value(a) == _value(b)


def _learns(manifold: nn.Module) -> bool:
    return any(p.requires_grad for p in manifold.parameters())


def _value(thing: Any) -> Hashable:
    """`thing` by value: numbers, tensors and objects made of them; anything else by identity."""
    if isinstance(thing, Tensor):
        return tuple(thing.shape), tuple(thing.detach().flatten().tolist())
    if isinstance(thing, nn.Module):
        # Scaled keeps rescaled methods of its base among its attributes; they follow from the rest.
        state = {
            name: attribute
            for name, attribute in vars(thing).items()
            if name not in _BOOKKEEPING and not isinstance(attribute, MethodType)
        }
        return type(thing), _value(state)
    if isinstance(thing, Mapping):
        return tuple(sorted((str(key), _value(value)) for key, value in thing.items()))
    if isinstance(thing, (tuple, list)):
        return tuple(map(_value, thing))
    if thing is None or isinstance(thing, (bool, int, float, complex, str, Enum)):
        return thing
    if hasattr(thing, "__dict__") and not callable(thing):  # a Siegel metric, say
        return type(thing), _value(vars(thing))
    return id(thing)

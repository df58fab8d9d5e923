"""Nothing of this package computes in a caller's autocast.

`torch.autocast` rounds the inputs of matrix products to half precision. That is meant for a model's
forward pass; a point that such products bring back to its surface is off it by 1e-3.

    @outside_autocast
    def project(self, a): ...           # in the dtype of `a`, in whatever block it is called
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from riemopt._torch_versions import current_accelerator

_P = ParamSpec("_P")
_T = TypeVar("_T")

_ACCELERATOR = current_accelerator()
_DEVICE_TYPES = ("cpu",) if _ACCELERATOR is None else ("cpu", _ACCELERATOR.type)


def outside_autocast(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorator: autocast is off while `function` runs, on every device of this machine."""

    @wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        for device_type in _DEVICE_TYPES:
            if torch.is_autocast_enabled(device_type):
                with torch.autocast(device_type, enabled=False):
                    return wrapper(*args, **kwargs)  # which looks at the next device
        return function(*args, **kwargs)

    return wrapper

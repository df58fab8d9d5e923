"""Copies of one array where tensors are: one for each device and dtype, made when first needed."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from riemopt.linalg.backends import is_traced, is_wrapped


class Copies:
    """Tensors with the values of `array`, kept."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self._copies: dict[Any, Tensor] = {}

    @property
    def devices(self) -> list[torch.device]:
        """Where copies are, one entry for each."""
        return [device for device, *_ in self._copies]

    def on(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The array in `dtype` on the device of `x`."""
        if is_traced():
            found = self._copies.get((x.device, dtype, None))
            return torch.as_tensor(self._array).to(x.device, dtype) if found is None else found
        # Fake tensors stand for data that is nowhere, and do not mix with real ones.
        key = (x.device, dtype, getattr(x, "fake_mode", None))
        found = self._copies.get(key)
        if found is None:
            with torch.inference_mode(False):
                found = torch.tensor(self._array, device=x.device, dtype=dtype)
            if not is_wrapped(found):  # inside `torch.func.grad` it belongs to that call
                self._copies[key] = found
        return found

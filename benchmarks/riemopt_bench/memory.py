"""Live tensor bytes.

The memory of a process cannot tell these methods apart: allocator caches and libraries drown it.
So the tensors themselves are counted, in a pass of its own that nobody times.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Peak bytes of all storages alive at the same time, of `known` tensors and of those made here.

    Every operation's results are noted; a storage counts until nothing refers to it, autograd's
    saved tensors included. Scratch space inside a kernel is invisible.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self.alive = 0
        """Bytes of the storages that are alive now."""
        self._sizes: dict[int, tuple[weakref.ref[UntypedStorage], int]] = {}
        for tensor in known:
            self._note(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage._cdata, storage.nbytes()
        known, before = self._sizes.get(place, (None, 0))
        if known is None or before != size:  # new, or resized
            self.alive += size - before
            # torch keeps the object in Python until the memory itself is let go of.
            reference = known or weakref.ref(storage, lambda _: self._forget(place))
            self._sizes[place] = reference, size
        self.peak = max(self.peak, self.alive)

    def _forget(self, place: int) -> None:
        _, size = self._sizes.pop(place)
        self.alive -= size


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages behind `tensors`."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())

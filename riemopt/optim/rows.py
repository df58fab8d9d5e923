"""A weight of which a step touches some rows only: those that its sparse gradient has.

    embedding = riemopt.constrain(nn.Embedding(82115, 5, sparse=True), "weight", Sphere())

The rows are gathered to one tensor `(1, nnz, *dense)`, stepped as any stack is, and written back.
Nothing of the size of the weight is made, but the state at the first step. Rows that are not
touched keep every bit, of the weight and of dense state; momentum of SGD is sparse, as in torch,
and moves all rows that it has. A step that is not finite in one row is refused in all, as that of a
whole weight is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.optim.stack import Stack
from riemopt.optim.step import select

if TYPE_CHECKING:
    from riemopt.linalg import Rows
    from riemopt.manifolds import Manifold


class RowStack(Stack):
    """A `Stack` of one parameter, seen through the rows of its gradient.

    The rows are those of the present gradient from `points` to `store_points`.
    """

    has_sparse_gradient = True
    _stay: Sequence[int]
    """Numbers of rows that no step changes."""
    _rows: Rows
    _gradient: Tensor
    _sparse: dict[str, Tensor]
    """Values of sparse state at the rows."""

    def __init__(self, manifold: Manifold, *args: Any, **options: Any) -> None:
        single, self._stay = manifold.of_single_rows()
        super().__init__(single, *args, **options)

    @override
    def points(self) -> Tensor:
        self._begin()
        (param,), (state,) = self.params, self.states
        assert param.grad is not None
        sparse = {k: v for k, v in state.items() if isinstance(v, Tensor) and v.is_sparse}
        self._rows, (self._gradient, *values) = linalg.rows_of(
            param.grad, *sparse.values(), without=self._stay
        )
        self._sparse = dict(zip(sparse, values, strict=True))
        return self._full(self._rows.of(param)).unsqueeze(0)

    @override
    def gradients(self, grad_scale: Tensor | None) -> Tensor:
        g = self._full(self._gradient).unsqueeze(0)
        return g if grad_scale is None else g / grad_scale.to(g.device)

    @override
    def load(self, key: str) -> Tensor:
        if key in self._sparse:
            return self._full(self._sparse[key]).unsqueeze(0)
        return self._full(self.part(self.states[0][key])).unsqueeze(0)

    @override
    def store(self, key: str, value: Tensor | float, accepted: Tensor | None) -> None:
        there = self.states[0].get(key)
        if not isinstance(value, Tensor) or (there is not None and there.ndim == 0):
            super().store(key, value, accepted)
        elif there is None or there.is_sparse:
            self._store_sparse(key, value, accepted)
        else:
            if accepted is not None:
                value = select(accepted, value, self.load(key))
            self._rows.write_(there, value.squeeze(0))

    def _store_sparse(self, key: str, value: Tensor, accepted: Tensor | None) -> None:
        if accepted is not None:
            old = self.load(key) if key in self._sparse else torch.zeros_like(value)
            value = select(accepted, value, old)
        self._sparse[key] = value.squeeze(0)
        new, there = self._rows.sparse(self._sparse[key]), self.states[0].get(key)
        if there is None or there.dtype != new.dtype:
            self.states[0][key] = new
        else:
            there.copy_(new)

    @override
    def is_live(self, loaded: Tensor, stored: Tensor) -> bool:
        return False

    @override
    def store_points(self, x: Tensor) -> None:
        self._rows.write_(self.params[0], x.squeeze(0))
        del self._gradient, self._sparse

    @override
    def part(self, value: Any) -> Any:
        is_whole = isinstance(value, Tensor) and value.shape == self.params[0].shape
        return self._rows.of(value) if is_whole else value

    @override
    def give_back(self, index: int, key: str, value: Any) -> None:
        (param,), (state,) = self.params, self.states
        rows = (self._rows.indices.shape[1], *param.shape[len(self._rows.indices) :])
        if not isinstance(value, Tensor) or value.shape != rows:
            state[key] = value
            return
        if key not in state:  # torch's optimizers start from zero
            state[key] = torch.zeros_like(param, dtype=value.dtype)
        self._rows.write_(state[key], value)

    @override
    def as_torch_takes_it(self, gradient: Tensor) -> Tensor:
        """Sparse, with all rows of the stand-in."""
        indices = torch.arange(len(gradient), device=gradient.device)
        return linalg.coalesced(indices.expand(1, -1), gradient, gradient.shape)


def is_stepped_by_rows(param: Tensor, state: dict[str, Any], *, own_rule: bool) -> bool:
    """Whether the rows alone of a sparse gradient are stepped.

    They are not where a momentum of all entries decays in each step: that of an optimizer with its
    own rule that had a dense gradient before, as in torch.
    """
    assert param.grad is not None
    return param.grad.is_sparse and not (
        own_rule
        and any(
            isinstance(value, Tensor) and value.shape == param.shape and not value.is_sparse
            for value in state.values()
        )
    )

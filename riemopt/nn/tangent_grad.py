"""Gradients that are made tangent as soon as backward has accumulated them: `tangent_grad=True`.

A hook on the parameter projects its gradient. It is lost whenever torch makes a new object for the
same weight, so the module restores it before each forward pass (`riemopt.nn.registration`).

Of a sparse gradient (`nn.Embedding(sparse=True)`) the rows that it has are projected.
"""

import torch
from torch import Tensor

from riemopt import linalg
from riemopt.manifolds import Manifold


class TangentGrad:
    """Hook on a parameter: its accumulated gradient is made tangent as soon as it is complete.

    The projection is the orthogonal one in every metric: it is idempotent, so gradients may be
    accumulated over several backward passes, and the Riemannian gradient of what it returns is that
    of the raw gradient.
    """

    def __init__(self, manifold: Manifold) -> None:
        self.manifold = manifold

    def __call__(self, param: Tensor) -> None:  # noqa: D102
        grad = param.grad
        assert grad is not None
        if grad.is_sparse:
            param.grad = self._of_rows(param, grad)
        elif grad.requires_grad:  # backward(create_graph=True): keep the graph
            param.grad = self.manifold.proj_tangent(param, grad)
        else:
            with torch.no_grad():
                grad.copy_(self.manifold.proj_tangent(param.detach(), grad))

    def _of_rows(self, param: Tensor, grad: Tensor) -> Tensor:
        refuse_rows_that_are_no_points(grad, self.manifold)
        with torch.no_grad():
            manifold, stay = self.manifold.of_single_rows()
            rows, (values,) = linalg.rows_of(grad, without=stay)
            tangent = manifold.proj_tangent(rows.of(param).to(values.dtype), values)
            return rows.sparse(tangent.to(grad.dtype))


def refuse_rows_that_are_no_points(grad: Tensor, manifold: Manifold) -> None:
    """Raise `RuntimeError` where a Riemannian gradient has other rows than the sparse `grad`."""
    points = manifold.of_single_rows()[0].event_dims(grad.ndim)
    if points and min(points) < -grad.dense_dim():
        raise RuntimeError(
            f"A parameter of shape {tuple(grad.shape)} on {manifold} has a sparse gradient, whose "
            f"rows are no points: it has indices along the first {grad.sparse_dim()} of "
            f"{grad.ndim} dimensions, and a point has the dimensions {points}, so that the "
            "Riemannian gradient is dense. Use sparse=False in the layer that makes it."
        )


def ensure_tangent_grad(param: Tensor, manifold: Manifold) -> None:
    """Give `param` the hook if it does not have it."""
    hooks = getattr(param, "_post_accumulate_grad_hooks", None) or {}
    if param.requires_grad and not any(isinstance(h, TangentGrad) for h in hooks.values()):
        param.register_post_accumulate_grad_hook(TangentGrad(manifold))


def remove_tangent_grad(param: Tensor) -> None:
    """Take the hook away."""
    hooks = getattr(param, "_post_accumulate_grad_hooks", None) or {}
    for key in [k for k, h in hooks.items() if isinstance(h, TangentGrad)]:
        del hooks[key]

"""What an optimizer asks of a parameter: where it lies, and whether it can be stepped there."""

from typing import Any

from torch import Tensor

from riemopt.manifolds import Manifold
from riemopt.nn import table as registry
from riemopt.optim.stack import split_points


def find_manifolds(params: list[Tensor], named: Manifold | None) -> list[Manifold | None]:
    """Where the parameters of a group lie, as the step uses it; None for unconstrained ones.

    Args:
        params: the group's parameters.
        named: the manifold that the group names, which holds for all of them.

    Raises:
        ValueError: `named` contradicts what a parameter is constrained to, or a shape is wrong.
        LostManifoldError: see `riemopt.nn.table.resolve`.
        NotImplementedError: it is spread over processes so that it cannot be stepped.
    """
    found = registry.resolve(params)
    for p, manifold in zip(params, found, strict=True):
        if named is not None and manifold is not None and manifold != named:
            raise ValueError(
                f"The group says {named}, but a parameter of shape {tuple(p.shape)} in it is "
                f"constrained to {manifold}."
            )
    theirs = [
        effective(p, m if named is None else named) for p, m in zip(params, found, strict=True)
    ]
    for p, manifold in zip(params, theirs, strict=True):
        if manifold is not None:
            split_points(p, manifold)  # refused now, if it cannot be stepped as it is spread
    return theirs


def effective(param: Tensor, manifold: Manifold | None) -> Manifold | None:
    """The manifold as the step uses it: None for a Euclidean one; dims counted from the end."""
    if manifold is None or not manifold.is_constraint:
        return None
    manifold.check_shape(param.shape)
    manifold.prepare(param)
    return manifold.with_dims_from_end(param.ndim)


def check_step(param: Tensor, manifold: Manifold, group: dict[str, Any]) -> None:
    """Refuse what cannot be stepped, before anything has changed."""
    assert param.grad is not None
    if param.grad.is_sparse:
        raise RuntimeError(
            f"A parameter on {manifold} has a sparse gradient, which is not supported: its "
            "Riemannian gradient is dense. Use sparse=False in the layer that makes it."
        )
    parts, _ = split_points(param, manifold)
    if parts is not None and group["differentiable"]:
        raise NotImplementedError(
            f"differentiable=True is not supported for a parameter on {manifold} whose points are "
            "spread over processes: autograd does not record their sums. Use differentiable=False."
        )

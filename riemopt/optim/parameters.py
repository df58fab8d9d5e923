"""What an optimizer asks of a parameter: where it lies, and whether it can be stepped there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from riemopt.distributed.dtensor import is_dtensor
from riemopt.distributed.geometry import parts_of
from riemopt.manifolds import Manifold
from riemopt.nn import table
from riemopt.nn.admission import check_moves
from riemopt.nn.tangent_grad import refuse_rows_that_are_no_points
from riemopt.optim.off_manifold import warn_of_unknown

if TYPE_CHECKING:
    from riemopt.optim.optimizer import RiemannianOptimizer


class Positions:
    """Where parameters stand in an optimizer's groups: found without going through them each time.

    Trainers exchange tensors in groups without a word, so what is known is checked when it is used.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int]] = {}

    def add(self, g: int, group: dict[str, Any]) -> None:
        """Note the parameters of group number `g`; one that is there twice is searched for."""
        for i, p in enumerate(group["params"]):
            twice = id(p) in self._known
            self._known[id(p)] = (g, len(group["params"]) if twice else i)

    def of(self, param: Tensor, groups: list[dict[str, Any]]) -> list[tuple[int, int]]:
        """Group and index of `param`; none if it is not there."""
        g, i = self._known.get(id(param), (0, 0))
        if g < len(groups) and i < len(groups[g]["params"]) and groups[g]["params"][i] is param:
            return [(g, i)]
        return [
            (g, i)
            for g, group in enumerate(groups)
            for i, p in enumerate(group["params"])
            if p is param
        ]


def manifolds_of_group(
    params: list[Tensor], named: Manifold | None, places: table.Places | None, unknown: set[type]
) -> list[Manifold | None]:
    """Where the parameters of a group lie, as the step uses it; None for unconstrained ones.

    Args:
        params: the group's parameters.
        named: the manifold that the group names, which holds for all of them.
        places: where parameters stand in the tables, if that has been looked up just now.
        unknown: types of foreign manifolds that the optimizer has warned of; warns of new ones.

    Raises:
        ValueError: `named` contradicts what a parameter is constrained to, or a shape is wrong.
        LostManifoldError: see `riemopt.nn.table.resolve`.
        NotImplementedError: it is spread over processes so that it cannot be stepped.
    """
    found = table.resolve(params, places)
    if named is None:
        warn_of_unknown(params, found, unknown)
    for p, manifold in zip(params, found, strict=True):
        if named is not None and manifold is not None and manifold != named:
            raise ValueError(
                f"The group says {named}, but a parameter of shape {tuple(p.shape)} in it is "
                f"constrained to {manifold}."
            )
    theirs = [
        as_stepped(p, m if named is None else named) for p, m in zip(params, found, strict=True)
    ]
    for p, manifold in zip(params, theirs, strict=True):
        if manifold is not None:
            parts_of(p, manifold)  # refused now, if it cannot be stepped as it is spread
    return theirs


def follow(
    groups: list[dict[str, Any]],
    seen: list[list[int] | None],
    manifolds: list[list[Manifold | None]],
) -> list[list[Manifold | None]]:
    """Where parameters lie after some were exchanged in their groups by hand.

    A parameter that has moved to another place keeps its manifold. A new one has the manifold that
    its module or itself says; without, that of the parameter whose place it has taken.

    Args:
        groups: as they are now, of as many parameters each as before.
        seen: the identity of each parameter before.
        manifolds: of each parameter before.

    Raises:
        ValueError: a new parameter does not fit the manifold of its place.
        LostManifoldError: see `riemopt.nn.table.resolve`.
    """
    known: dict[int, Manifold | None] = {}
    for identities, theirs in zip(seen, manifolds, strict=True):
        known.update(zip(identities or [], theirs, strict=True))
    here = {id(p) for group in groups for p in group["params"]}

    def now(p: Tensor, identity: int, manifold: Manifold | None) -> Manifold | None:
        if id(p) == identity:
            return manifold
        if known.get(id(p)) is not None:
            return known[id(p)]
        own = table.resolve([p])[0]
        if own is None and identity in here:  # the manifold has moved with its parameter
            return None
        try:
            return as_stepped(p, manifold if own is None else own)
        except ValueError as error:
            error.args = (f"A parameter was put in the place of one on {manifold}: {error}",)
            raise

    return [
        [now(*place) for place in zip(group["params"], identities or [], theirs, strict=True)]
        for group, identities, theirs in zip(groups, seen, manifolds, strict=True)
    ]


def as_stepped(param: Tensor, manifold: Manifold | None) -> Manifold | None:
    """The manifold as the step uses it: None for a Euclidean one; dims counted from the end."""
    if manifold is None or not manifold.is_constraint:
        return None
    manifold.check_shape(param.shape)
    check_moves(param, manifold)
    manifold.prepare(param)
    return manifold.with_dims_from_end(param.ndim)


def decay_is_decoupled(optimizer: RiemannianOptimizer, group: dict[str, Any]) -> bool | None:
    """Whether weight decay shrinks the weight (True) or changes the gradient; None: not known.

    The group says so in torch, and in the package pytorch_optimizer under another key.
    """
    for key in ("decoupled_weight_decay", "weight_decouple"):
        if key in group:
            return bool(group[key])
    return optimizer.decay_is_decoupled


def check_step(
    optimizer: RiemannianOptimizer, param: Tensor, manifold: Manifold, group: dict[str, Any]
) -> None:
    """Refuse what cannot be stepped, before anything has changed.

    Raises:
        RuntimeError: the gradient is sparse, and the optimizer, an option or the manifold needs a
            dense one; or the reverse.
        NotImplementedError: an option or the optimizer cannot be had for a weight that is spread
            over processes.
        ValueError: it is not known what weight decay is to do.
    """
    assert param.grad is not None
    if param.grad.layout != torch.strided:
        _check_sparse(optimizer, param, manifold, group)
    elif optimizer.sparse_gradients == "needed":
        raise RuntimeError(
            f"{type(optimizer).__name__} does not support dense gradients, and a parameter on "
            f"{manifold} has one; please consider RiemannianAdam instead."
        )
    parts, _ = parts_of(param, manifold)
    if parts is not None and group.get("differentiable"):
        raise NotImplementedError(
            f"differentiable=True is not supported for a parameter on {manifold} whose points are "
            "spread over processes: autograd does not record their sums. Use differentiable=False."
        )
    if optimizer._has_own_rule(manifold):
        optimizer._check_own(param, manifold)
        return
    name = optimizer.base.__name__
    if is_dtensor(param) and not optimizer.acts_by_entry:
        raise NotImplementedError(
            f"{name} looks at the whole of a weight, and of a parameter on {manifold} each process "
            "has a part only. Keep it whole on each process, or use an optimizer that steps each "
            "entry by itself, such as RiemannianAdam."
        )
    if (
        group.get("weight_decay", 0) != 0
        and not manifold.has_constant_norm
        and decay_is_decoupled(optimizer, group) is None
    ):
        raise ValueError(
            f"weight_decay={group['weight_decay']} of {name} on {manifold}: is it added to the "
            f"gradient, or does it shrink the weight? Say which by riemannian({name}, "
            "decay_is_decoupled=False) or =True, or set weight_decay=0 for this group."
        )


_NOT_OF_SPARSE = {
    "weight_decay": "it acts on all rows",
    "fused": "torch's fused kernels take dense gradients only",
    "differentiable": "autograd does not record a step of rows",
}


def _check_sparse(
    optimizer: RiemannianOptimizer, param: Tensor, manifold: Manifold, group: dict[str, Any]
) -> None:
    """Raise `RuntimeError` unless the rows alone of a sparse gradient can be stepped."""
    assert param.grad is not None
    name, dense = type(optimizer).__name__, "Use sparse=False in the layer that makes it."
    seen = f"A parameter of shape {tuple(param.shape)} on {manifold} has a sparse gradient"
    if optimizer.sparse_gradients == "refused":
        raise RuntimeError(
            f"{seen}. {name} does not support sparse gradients, please consider "
            f"RiemannianSparseAdam or RiemannianSGD instead. {dense}"
        )
    if not param.grad.is_sparse or is_dtensor(param):
        raise RuntimeError(f"{seen}, of {param.grad.layout}: only torch.sparse_coo is supported.")
    refuse_rows_that_are_no_points(param.grad, manifold)
    for option, reason in _NOT_OF_SPARSE.items():
        if group.get(option):
            raise RuntimeError(
                f"{seen}, with which {option}={group[option]} of {name} is not supported: {reason}."
                f" Leave the option out, or: {dense}"
            )
    for key, value in optimizer.state.get(param, {}).items():
        is_sparse = isinstance(value, Tensor) and value.is_sparse
        if is_sparse and value.sparse_dim() != param.grad.sparse_dim():
            raise RuntimeError(
                f"{seen}, with indices along {param.grad.sparse_dim()} dimensions, and its {key!r} "
                f"along {value.sparse_dim()}. Let all gradients have the same."
            )

"""The Riemannian class of any torch optimizer.

    RiemannianLion = riemannian(Lion)
    optimizer = RiemannianLion(model.parameters(), lr=1e-4)      # every option of Lion

The rule is the optimizer's own step on the Riemannian gradient (`riemopt.optim.torch_rule`); its
direction is projected to the tangent space and the weight moves there by retraction.
"""

import copyreg
from typing import Any, TypeVar, cast

import torch
from torch.optim import Optimizer

from riemopt.optim.adam import RiemannianAdam, RiemannianAdamW
from riemopt.optim.lbfgs import RiemannianLBFGS
from riemopt.optim.muon import RiemannianMuon
from riemopt.optim.optimizer import RiemannianOptimizer
from riemopt.optim.sgd import RiemannianSGD

_T = TypeVar("_T", bound=Optimizer)


class RiemannianRMSprop(RiemannianOptimizer, torch.optim.RMSprop):
    """`torch.optim.RMSprop` whose constrained parameters stay on their manifolds.

    Torch's own step on the Riemannian gradient; arguments and state are torch's. `lr` is about the
    size of the entries of a step.

    Examples:
        >>> import torch, riemopt
        >>> layer = riemopt.constrain(torch.nn.Linear(8, 16), "weight", riemopt.manifolds.Stiefel())
        >>> optimizer = riemopt.RiemannianRMSprop(layer.parameters(), lr=1e-2, momentum=0.9)
        >>> layer(torch.ones(4, 8)).square().sum().backward()
        >>> optimizer.step()
        >>> riemopt.constraints(layer)[0].satisfied
        True
    """

    decay_is_decoupled = False
    acts_by_entry = True


class RiemannianAdagrad(RiemannianOptimizer, torch.optim.Adagrad):
    """`torch.optim.Adagrad` whose constrained parameters stay on their manifolds.

    Torch's own step on the Riemannian gradient; arguments and state are torch's. `lr` is the size
    of the entries of the first step. Of a sparse gradient the rows alone are stepped, as in torch.

    Examples:
        >>> import torch, riemopt
        >>> layer = riemopt.constrain(torch.nn.Linear(8, 16), "weight", riemopt.manifolds.Stiefel())
        >>> optimizer = riemopt.RiemannianAdagrad(layer.parameters(), lr=1e-2)
        >>> layer(torch.ones(4, 8)).square().sum().backward()
        >>> optimizer.step()
        >>> riemopt.constraints(layer)[0].satisfied
        True
    """

    decay_is_decoupled = False
    acts_by_entry = True
    sparse_gradients = "taken"


class RiemannianNAdam(RiemannianOptimizer, torch.optim.NAdam):
    """`torch.optim.NAdam` whose constrained parameters stay on their manifolds.

    Torch's own step on the Riemannian gradient; arguments and state are torch's. `lr` is about the
    root mean square of the entries of a step.

    Examples:
        >>> import torch, riemopt
        >>> layer = riemopt.constrain(torch.nn.Linear(8, 16), "weight", riemopt.manifolds.Stiefel())
        >>> optimizer = riemopt.RiemannianNAdam(layer.parameters(), lr=2e-3)
        >>> layer(torch.ones(4, 8)).square().sum().backward()
        >>> optimizer.step()
        >>> riemopt.constraints(layer)[0].satisfied
        True
    """

    decay_is_decoupled = False
    acts_by_entry = True


class RiemannianSparseAdam(RiemannianOptimizer, torch.optim.SparseAdam):
    """`torch.optim.SparseAdam` whose constrained parameters stay on their manifolds.

    For sparse gradients whose rows are points, such as those of `nn.Embedding(sparse=True)` on
    `Sphere()`. Rows that have a gradient are stepped, and their moments decay; all others keep
    every bit. Torch's own step on the Riemannian gradient; arguments and state are torch's. `lr` is
    about the root mean square of the entries of a step. The time of a step is that of the rows.

    Examples:
        >>> import torch, riemopt
        >>> words = torch.nn.Embedding(10_000, 8, sparse=True)
        >>> _ = riemopt.constrain(words, "weight", riemopt.manifolds.Sphere())
        >>> optimizer = riemopt.RiemannianSparseAdam(words.parameters())
        >>> before = words.weight.clone()
        >>> words(torch.tensor([3, 17, 17])).sum().backward()
        >>> optimizer.step()
        >>> (words.weight != before).any(1).nonzero().flatten()
        tensor([ 3, 17])
    """

    decay_is_decoupled = False
    acts_by_entry = True
    sparse_gradients = "needed"


_NAMED = {
    cls.base: cls
    for cls in (
        RiemannianAdagrad,
        RiemannianAdam,
        RiemannianAdamW,
        RiemannianLBFGS,
        RiemannianMuon,
        RiemannianNAdam,
        RiemannianRMSprop,
        RiemannianSGD,
        RiemannianSparseAdam,
    )
}
_BY_ENTRY = ("ASGD", "Adadelta", "Adamax", "RAdam", "Rprop")
_DECOUPLED = {name: name == "Adafactor" for name in (*_BY_ENTRY, "Adafactor")}
_MADE: dict[Any, type[RiemannianOptimizer]] = {}
_METACLASSES: dict[Any, Any] = {}
_REFUSED = {
    torch.optim.LBFGS: "subclasses of LBFGS move all parameters along one line, and evaluate the "
    "closure on it. Use RiemannianLBFGS",
}


def riemannian(
    cls: type[_T], *, decay_is_decoupled: bool | None = None, acts_by_entry: bool | None = None
) -> type[_T]:
    """The class of optimizers that is `cls` with constrained parameters kept on their manifolds.

    A subclass of `cls` with its arguments, state and hooks, and its numbers on unconstrained
    parameters; a constrained one is stepped by the step of `cls` on its Riemannian gradient, of
    which the tangent part is taken. The same `cls` gives the same class every time.

    Args:
        cls: a class of `torch.optim`, or one written in its style: the state of each parameter in
            `self.state[p]`, options in `self.param_groups`, and a `step` that reads `p.grad` and
            changes `p`, without a closure.
        decay_is_decoupled: whether `weight_decay` shrinks the weight (True) or is added to the
            gradient (False). Known of torch's classes and of those that have
            `decoupled_weight_decay` in their groups; needed only where weight decay has an effect,
            so not on spheres and Stiefel manifolds.
        acts_by_entry: whether each entry is stepped by itself, as by Adam and not by Adafactor,
            which divides by norms of rows. Known of torch's classes. True makes many small weights
            faster and allows weights that are spread over processes.

    Raises:
        TypeError: `cls` is not an optimizer class, or is Riemannian already.
        ValueError: what is said of a torch optimizer is not so.
        NotImplementedError: `cls` does not step parameters one by one; says why.

    Examples:
        >>> import torch, riemopt
        >>> layer = riemopt.constrain(torch.nn.Linear(8, 16), "weight", riemopt.manifolds.Stiefel())
        >>> optimizer = riemopt.riemannian(torch.optim.RAdam)(layer.parameters(), lr=1e-2)
        >>> layer(torch.ones(4, 8)).square().sum().backward()
        >>> optimizer.step()
        >>> riemopt.constraints(layer)[0].satisfied, isinstance(optimizer, torch.optim.RAdam)
        (True, True)
    """
    if not (isinstance(cls, type) and issubclass(cls, Optimizer)):
        raise TypeError(
            f"riemannian takes a class of optimizers, such as torch.optim.RMSprop; got {cls!r}."
        )
    if issubclass(cls, RiemannianOptimizer):
        raise TypeError(f"{cls.__name__} is Riemannian already.")
    if cls in _NAMED:
        return cast(type[_T], _named(_NAMED[cls], decay_is_decoupled, acts_by_entry))
    for refused, reason in _REFUSED.items():
        if issubclass(cls, refused):
            raise NotImplementedError(f"riemannian({cls.__name__}) cannot be made: {reason}.")
    if cls.step is Optimizer.step:
        raise TypeError(f"riemannian takes a class of optimizers that has a step; got {cls!r}.")
    known = cls.__module__.startswith("torch.optim")
    if decay_is_decoupled is None and known:
        decay_is_decoupled = _DECOUPLED.get(cls.__name__)
    if acts_by_entry is None:
        acts_by_entry = known and cls.__name__ in _BY_ENTRY
    return cast(type[_T], _make(cls, decay_is_decoupled, acts_by_entry))


def riemannian_name(cls: type[Optimizer]) -> str | None:
    """How the Riemannian class of `cls` is written; None where there is none."""
    if cls in _NAMED:
        return f"riemopt.{_NAMED[cls].__name__}"
    return None if issubclass(cls, tuple(_REFUSED)) else f"riemopt.riemannian({cls.__name__})"


def _named(
    named: type[RiemannianOptimizer], decay_is_decoupled: bool | None, acts_by_entry: bool | None
) -> type[RiemannianOptimizer]:
    said = {"decay_is_decoupled": decay_is_decoupled, "acts_by_entry": acts_by_entry}
    for option, value in said.items():
        if value is not None and value != getattr(named, option):
            raise ValueError(f"{option}={value} is not so of {named.base.__name__}.")
    return named


def _make(
    cls: Any, decay_is_decoupled: bool | None, acts_by_entry: bool
) -> type[RiemannianOptimizer]:
    key = cls, decay_is_decoupled, acts_by_entry
    if key in _MADE:
        return _MADE[key]
    body = {
        "__module__": __name__,
        "__doc__": f"`{cls.__module__}.{cls.__name__}` whose constrained parameters stay on their "
        f"manifolds.\n\nMade by `riemannian({cls.__name__})`.",
        "decay_is_decoupled": decay_is_decoupled,
        "acts_by_entry": acts_by_entry,
        "_made_by": key,
    }
    metaclass = _picklable(type(cls))
    made: Any = metaclass(f"Riemannian{cls.__name__}", (RiemannianOptimizer, cls), body)
    return _MADE.setdefault(key, made)


def _picklable(metaclass: Any) -> Any:
    """A metaclass whose classes pickle though no module holds them: by how they were made."""
    if metaclass not in _METACLASSES:
        _METACLASSES[metaclass] = type(f"_Made{metaclass.__name__}", (metaclass,), {})
        copyreg.pickle(_METACLASSES[metaclass], _reduced)
    return _METACLASSES[metaclass]


def _reduced(cls: Any) -> Any:
    if "_made_by" in cls.__dict__:
        return _make, cls._made_by
    return cls.__qualname__  # a subclass, which a module does hold

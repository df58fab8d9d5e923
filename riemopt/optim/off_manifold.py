"""A warning where a weight is about to leave its manifold, and nothing else would say so."""

import warnings
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from riemopt.manifolds import Manifold


class OffManifoldWarning(UserWarning):
    """A weight that has a manifold is stepped as if it had none.

    Given once by each optimizer: one that is not Riemannian, at its first step of a constrained
    weight; a Riemannian one, when it takes a parameter whose `manifold` it cannot use. To silence
    it:

        warnings.filterwarnings("ignore", category=riemopt.OffManifoldWarning)

    Examples:
        >>> import torch, riemopt, warnings
        >>> layer = riemopt.constrain(torch.nn.Linear(4, 8), "weight", riemopt.manifolds.Stiefel())
        >>> layer(torch.ones(2, 4)).sum().backward()
        >>> with warnings.catch_warnings(record=True) as given:
        ...     warnings.simplefilter("always")
        ...     torch.optim.SGD(layer.parameters(), lr=0.1).step()  # torch's, by mistake
        >>> given[0].category is riemopt.OffManifoldWarning
        True
    """


SILENCE = 'To silence this: warnings.filterwarnings("ignore", category=riemopt.OffManifoldWarning).'


def is_euclidean(manifold: Any) -> bool:
    """Whether a manifold, of any package, constrains nothing: by its name, if it is not ours."""
    if isinstance(manifold, Manifold):
        return not manifold.is_constraint
    return manifold is None or type(manifold).__name__ == "Euclidean"


def warn_of_unknown(
    params: Iterable[Tensor], manifolds: Iterable[Manifold | None], seen: set[type]
) -> None:
    """Warn of parameters that carry a `manifold` of a package that is not converted.

    Args:
        params: of a group.
        manifolds: where they lie, as far as that is known.
        seen: types of manifolds that this optimizer has warned of, to which the new ones are added.
    """
    new: dict[type, tuple[int, ...]] = {}
    for p, manifold in zip(params, manifolds, strict=True):
        theirs = getattr(p, "manifold", None) if manifold is None else None
        if not is_euclidean(theirs) and type(theirs) not in seen:
            new.setdefault(type(theirs), tuple(p.shape))
    seen.update(new)
    for cls, shape in new.items():
        warnings.warn(
            f"A parameter of shape {shape} has a `manifold` of type {cls.__module__}."
            f"{cls.__qualname__}, which riemopt does not know: it is stepped as unconstrained. Say "
            "where it lies by riemopt.constrain(module, name, manifold), or by the group's key "
            f"'manifold'. {SILENCE}",
            OffManifoldWarning,
            stacklevel=2,
        )

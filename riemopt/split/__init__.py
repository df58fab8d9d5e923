"""Points of which each process holds a part: what a step needs, as local maps and small sums.

    >>> parts = split(Stiefel(), frozenset({-2}), (4096, 64))     # rows on several processes
    >>> XG = total(parts.gradient_share(x, g))                    # sym(XᴴG): all parts', p×p
    >>> grad = parts.gradient(x, g, XG)                           # the own rows of grad

The geometry is in `base` (the contract), `stiefel`, `sphere` and `flattened`, and knows nothing of
processes. `riemopt.optim.rounds` writes the optimizers with it and says when something is summed.
"""

from riemopt.split.base import SplitGeometry, split
from riemopt.split.flattened import SplitFlattened
from riemopt.split.shares import Hermitian, Share
from riemopt.split.sphere import SplitSphere
from riemopt.split.stiefel import SplitStiefel

__all__ = [
    "Hermitian",
    "Share",
    "SplitFlattened",
    "SplitGeometry",
    "SplitSphere",
    "SplitStiefel",
    "split",
]

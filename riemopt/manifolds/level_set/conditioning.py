"""How many iterations of conjugate gradients are enough on a whole set: asked once, of a weight.

    count = iterations_enough(c, y, linearise)      # 1 on spheres and Stiefel manifolds

Steps that may read nothing take a fixed number, and cannot see that fewer would do. Where JJᵀ has
k distinct eigenvalues on its range, k iterations are exact. On many sets k is small at every point,
by the form of the equations: so it is looked at, at a weight and at points away from it.
"""

from functools import partial

import torch
from torch import Tensor

from riemopt.manifolds.level_set.derivative import derivative
from riemopt.manifolds.level_set.newton import Linearise, descend, land
from riemopt.manifolds.level_set.normal_space import FIXED, ManyEquations, Residual, lengths

_POINTS = 2
# How far from the given points others are looked at, of the size of a point; at so many places.
_AWAY, _PLACES = 0.3, 2


def iterations_enough(c: Residual, y: Tensor, linearise: Linearise) -> int | None:
    """The number that leaves rounding only, everywhere; None if it is `FIXED` or more.

    Args:
        c: `(B, n)` → `(B, m)`, each row by itself.
        y: `(B, n)` points of the set, as nearly as their precision can tell.
        linearise: the normal space at given points.
    """
    generator = torch.Generator("cpu").manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        drawn = torch.randn(like.shape, generator=generator, dtype=like.dtype, device="cpu")
        return drawn.to(like.device)

    y, _ = descend(c, y[:_POINTS], linearise)
    most = 1
    for _ in range(1 + _PLACES):
        count = _iterations_at(c, y, noise(y))
        if count is None:
            return None
        most = max(most, count)
        u = linearise(y).tangent(_AWAY * lengths(y) / y.shape[1] ** 0.5 * noise(y))
        y, _ = land(c, partial(linearise, y), y, u, 1.0, linearise)
    return most


def _iterations_at(c: Residual, y: Tensor, z: Tensor) -> int | None:
    jacobian = derivative(c, y)
    b = jacobian.apply(z)
    rounding = torch.finfo(y.dtype).eps ** 0.75 * lengths(b)
    for count in range(1, FIXED):
        if bool((ManyEquations(jacobian, count).unsolved(b) <= rounding).all()):
            return count
    return None

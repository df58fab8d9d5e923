"""Electrons on a sphere, as far apart as they can be."""

import torch

from full_batch_problems.interface import FullBatch, as_columns, off_sphere
from riemopt.manifolds import Sphere

MINIMA = {12: 49.165253058, 32: 412.261274651, 50: 1055.182314726}
"""Energies of Wales & Ulker (2006), to the nine decimals that are printed there."""


def thomson(n: int) -> FullBatch:
    """Σ 1/‖xᵢ - xⱼ‖ over pairs of n unit vectors. There are local minima for n = 32 and 50."""
    first, second = torch.triu_indices(n, n, offset=1)

    def cost(x: torch.Tensor) -> torch.Tensor:
        apart = x.index_select(-2, first) - x.index_select(-2, second)
        return torch.rsqrt(apart.square().sum(-1)).sum(-1)

    def theirs():
        from pymanopt.manifolds import Oblique

        return as_columns(Oblique(3, n), cost)

    def geoopt():
        import geoopt

        return geoopt.Sphere()

    return FullBatch(
        f"thomson_{n}",
        f"Thomson problem, {n} points",
        Sphere(),
        (n, 3),
        cost,
        MINIMA[n],
        theirs,
        geoopt,
        off_sphere,
    )

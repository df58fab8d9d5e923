"""Spaces of constant curvature of either sign, in coordinates that are smooth at curvature 0."""

from dataclasses import dataclass
from typing import ClassVar, final

from typing_extensions import override

from riemopt.linalg import Curvature
from riemopt.manifolds.conformal import Conformal


@final
@dataclass(frozen=True, init=False, eq=False, repr=False)
class Stereographic(Conformal):
    """{x : 1 + k‖x‖² > 0}, `(*batch, n)`, with ⟨u, v⟩ = λ²Σuᵢvᵢ and λ = 2/(1 + k‖x‖²).

    Curvature k: for k < 0 the Poincaré ball with c = -k; for k > 0 the sphere of radius 1/√k
    without one point, in stereographic projection; for k = 0 flat space with lengths doubled. All
    methods are smooth in k, also at 0.

    Dimension: n.

    Args:
        k: the curvature: a number, or a tensor of one number, such as a Parameter that is learned
            with the rest. What is said of a learned c of `PoincareBall` holds of k.

    Metric: of constant curvature; the unit of `lr` as of `PoincareBall`.

    Step: the geodesic, with the rim of `PoincareBall` for k < 0. For k > 0 points are kept at
    √k‖x‖ ≤ eps^(-1/2), next to the missing point; distances and logarithms lose digits between
    opposite points.

    Cost: that of `PoincareBall`; a k that is a tensor costs both signs.

    For: data that are to decide how curved their space is (Bachmann, Bécigneul & Ganea 2020);
    products of such spaces (Gu et al. 2019).

    Not for: a curvature of known sign: take `PoincareBall`, `Lorentz` or `Sphere`, which has no
    missing point.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Stereographic
        >>> x, y = torch.zeros(2), torch.tensor([0.5, 0.0])
        >>> [round(Stereographic(k).dist(x, y).item(), 3) for k in (-1.0, 0.0, 1.0)]
        [1.099, 1.0, 0.927]
    """

    k: Curvature = 0.0
    _option: ClassVar[str] = "k"

    def __init__(self, k: Curvature = 0.0) -> None:
        self._set_curvature(k, positive=False)

    @property
    @override
    def curvature(self) -> Curvature:
        return self.k

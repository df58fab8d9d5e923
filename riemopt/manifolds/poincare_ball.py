"""The Poincaré ball: hyperbolic space in a ball of flat space."""

from dataclasses import dataclass
from typing import final

from typing_extensions import override

from riemopt.linalg import Curvature
from riemopt.manifolds.conformal import Conformal


@final
@dataclass(frozen=True, init=False, eq=False, repr=False)
class PoincareBall(Conformal):
    """{x : ‖x‖ < 1/√c}, `(*batch, n)`, with ⟨u, v⟩ = λ²Σuᵢvᵢ and λ = 2/(1 - c‖x‖²).

    Hyperbolic space of curvature -c, in which trees fit better than in flat space (Nickel & Kiela
    2017).

    Dimension: n.

    Args:
        c: minus the curvature, positive: a number, or a tensor of one number, such as a Parameter
            that is learned with the rest.

    Metric: that of hyperbolic space. An `lr` times a Riemannian gradient of norm 1 moves by `lr`
    units of hyperbolic length with `RiemannianSGD`, and so does `RiemannianAdam` with
    `second_moment="point"`, which suits this metric best: moments by entry do not know that a unit
    of coordinates is λ units of length, which is thousands near the boundary.

    Step: the geodesic. Points are kept at √c‖x‖ ≤ 1 - √eps (eps of float32 for half precision):
    beyond it 1 - c‖x‖² has less than half of the digits. That is at the radius 8.7/√c in float32
    and 18.7/√c in float64; `docs/hyperbolic.md` has what is lost before. A tensor from outside is
    moved to that rim, from where gradients need many steps to bring it back: start from
    `random_point`, or from values that are small.

    Cost: about forty passes over the points for a step of Adam; nothing waits for the device.

    For: hyperbolic networks (Ganea, Bécigneul & Hofmann 2018), graph networks, hierarchies of
    words, images or goods.

    Not for: points further out (`Lorentz`), or a curvature whose sign is learned (`Stereographic`).

    **A learned c** belongs to the description by identity: two balls are equal, and are stepped
    together, if they refer to one tensor. Every method uses the value that it has when called, and
    gradients flow to it from all but steps. If it has grown, so that points are out of the ball,
    they are moved to its rim at the next step. Keep c positive: clamp it after a step, or learn its
    logarithm and copy. `copy.deepcopy` and pickles of a whole model keep the reference; what makes
    a new Parameter, such as `load_state_dict(assign=True)`, leaves the ball with the old one.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import PoincareBall
        >>> ball, origin = PoincareBall(), torch.zeros(2)
        >>> ball.dist(origin, torch.tensor([0.5, 0.0]))  # log 3
        tensor(1.0986)
        >>> ball.exp(origin, torch.tensor([0.5, 0.0]))
        tensor([0.4621, 0.0000])
    """

    c: Curvature = 1.0

    def __init__(self, c: Curvature = 1.0) -> None:
        self._set_curvature(c, positive=True)

    @property
    @override
    def curvature(self) -> Curvature:
        return -self.c

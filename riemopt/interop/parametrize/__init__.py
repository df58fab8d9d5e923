"""`torch.nn.utils.parametrize` and constraints of riemopt: one turned into the other.

    from riemopt.interop.parametrize import from_parametrized

    print(from_parametrized(model))         # orthogonal → Stiefel, and so on; same function
    optimizer = RiemannianAdam(model.parameters())

    to_parametrized(model)                  # the way back
    convert_state_dict(checkpoint, model, to="constrained")     # and for what was saved

For those who stay with parametrize, `reimpose_` puts the stored originals back on the constraint
without a change of the function that the network computes; `reimpose_every` does so from time to
time.
"""

from riemopt.interop.common import Report
from riemopt.interop.parametrize.checkpoints import convert_state_dict
from riemopt.interop.parametrize.from_maps import from_parametrized
from riemopt.interop.parametrize.maps import (
    Normalize,
    ScaledDirection,
    SkewSymmetrize,
    Symmetrize,
)
from riemopt.interop.parametrize.reimpose import reimpose_, reimpose_every
from riemopt.interop.parametrize.to_maps import to_parametrized

__all__ = [
    "Normalize",
    "Report",
    "ScaledDirection",
    "SkewSymmetrize",
    "Symmetrize",
    "convert_state_dict",
    "from_parametrized",
    "reimpose_",
    "reimpose_every",
    "to_parametrized",
]

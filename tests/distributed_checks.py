"""The checks that several processes run together, by name; see `tests.distributed_run`.

`TWO` names those that are made for 2 processes, and `FOUR` those for 4.
"""

from functools import partial

import torch

from tests import distributed_checkpoints as checkpoints
from tests import distributed_models as models
from tests import distributed_weights as weights
from tests import distributed_wrappers as wrappers
from tests import needs

# Before torch 2.9 gloo gathers no complex numbers.
COMPLEX = () if needs.VERSION < "2.9" else (torch.complex64, torch.complex128)
CASE_CHECKS = {f"{name}: as one process": partial(weights.equal, name) for name in weights.CASES}
for _case in ("tall, uneven", "cut columns"):
    for _dtype in (torch.float32, *COMPLEX, torch.bfloat16):
        _check = partial(weights.equal_in_dtype, _case, _dtype)
        CASE_CHECKS[f"{_case}: in {_dtype}"] = _check


def _named(*checks):
    return {check.__name__.replace("_", " "): check for check in checks}


# In this order: `resume` reads what `saved` writes.
OTHER_CHECKS = _named(
    weights.long_steps,
    weights.rounds,
    weights.whole_points_are_stepped_without_communication,
    weights.refused_alike,
    weights.own_points_are_refused_alone,
    weights.no_step_changes_no_bit,
    weights.a_gradient_placed_otherwise,
    weights.refusals,
    models.fsdp,
    models.tangent_gradients,
    models.scaled_gradients,
    models.optimizer_built_before,
    models.ddp,
    *([models.whole_weights_beside_sharded_ones] if needs.VERSION >= "2.9" else []),
    models.report_and_repair,
    models.placement,
    models.tensor_parallel,
    checkpoints.saved,
    checkpoints.resume,
    checkpoints.torch_checkpoints,
    checkpoints.whole_checkpoints,
)
FOUR_CHECKS = _named(
    weights.cut_twice,
    weights.compiled,
    models.hsdp,
    models.fsdp_of_tensor_parallel_layers,
    checkpoints.resume,
)
CHECKS = {**CASE_CHECKS, **OTHER_CHECKS, **FOUR_CHECKS, **wrappers.CHECKS}
TWO, FOUR = [*CASE_CHECKS, *OTHER_CHECKS], [*FOUR_CHECKS]

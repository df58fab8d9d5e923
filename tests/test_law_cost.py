"""What a step may cost: no n×n matrix for an n×p point, no host read, nothing that needs one."""

import pytest
import torch
from torch import Tensor

from riemopt.manifolds import Flattened, Manifold, Stiefel
from riemopt.testing.synchronisation import SYNCHRONISING, step_operators
from tests.manifold_cases import over, over_cases, point

LONG, SHORT = 500, 3


def law_makes_nothing_large(manifold: Manifold, x: Tensor) -> None:
    """No operator's output has two long dimensions."""
    for op, shapes in step_operators(manifold, x):
        for shape in shapes:
            assert sum(n >= LONG for n in shape) < 2, f"{op} made {shape}"


def law_step_never_synchronises(manifold: Manifold, x: Tensor) -> None:
    """No operator that needs the host. On `meta`, where reading a value raises as well."""
    names = {op for op, _ in step_operators(manifold, x)}
    assert not names & set(SYNCHRONISING)


TALL_AND_WIDE = [(LONG, SHORT), (SHORT, LONG)]


@over_cases(lambda case: case.uniform)  # the others are of square matrices
def test_no_large_matrix(case):
    trailing = (1,) * (case.manifold.event_ndim - 2 if isinstance(case.manifold, Flattened) else 0)
    for shape in TALL_AND_WIDE:
        law_makes_nothing_large(case.manifold, point(case, (*shape, *trailing), torch.float32))


@pytest.mark.sampled(4)
@over(dtypes=[torch.float32, torch.complex64, torch.bfloat16])
def test_step_on_meta(case, shape, dtype):
    law_step_never_synchronises(case.manifold, torch.empty(shape, dtype=dtype, device="meta"))


@pytest.mark.parametrize("retraction", ["polar", "cubic", "qr", "cayley"])
def test_cost_does_not_depend_on_the_batch(retraction):
    """Two matrices and a thousand take the same operators: nothing loops over a batch."""
    shape = (5, 5) if retraction == "cubic" else (5, 2)
    one, many = (
        step_operators(Stiefel(retraction), torch.empty(k, *shape, device="meta"))
        for k in (2, 1000)
    )
    assert [op for op, _ in one] == [op for op, _ in many]

"""What a step may cost: no n×n matrix for an n×p point, no host read, nothing that needs one."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from riemopt.manifolds import Flattened, Manifold
from tests.manifold_cases import CASES, over, over_cases, point

LONG, SHORT = 500, 3
# Operators that read a value on the host, or whose kernels on an accelerator do.
SYNCHRONISING = (
    "_local_scalar_dense",
    "nonzero",
    "_linalg_svd",
    "_linalg_eigh",
    "linalg_eig",
    "linalg_matrix_exp",
    "linalg_cholesky",
    "linalg_inv",
    "_linalg_check_errors",
)


class Recorder(TorchDispatchMode):
    """Records each operator and the tensors that it makes."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        shapes = [tuple(a.shape) for a in tree_leaves(out) if isinstance(a, Tensor)]
        self.calls.append((func.__name__.split(".")[0], shapes))
        return out


def step_methods(manifold: Manifold, x: Tensor) -> list[tuple[str, list]]:
    """Call everything that a step may use on `x`; what was recorded."""
    u = torch.ones_like(x)
    with Recorder() as recorder:
        manifold.proj_tangent(x, u)
        manifold.egrad2rgrad(x, u)
        manifold.inner(x, u, u)
        manifold.norm(x, u, keepdim=True)
        manifold.transport(x, x, u)
        manifold.retract(x, u)
        manifold.retract_transport(x, u, u)
        manifold.step(x, u, 0.1)
        manifold.violation(x)
    return recorder.calls


def law_makes_nothing_large(manifold: Manifold, x: Tensor) -> None:
    """No operator's output has two long dimensions."""
    for op, shapes in step_methods(manifold, x):
        for shape in shapes:
            assert sum(n >= LONG for n in shape) < 2, f"{op} made {shape}"


def law_step_never_synchronises(manifold: Manifold, x: Tensor) -> None:
    """No operator that needs the host. On `meta`, where reading a value raises as well."""
    names = {op for op, _ in step_methods(manifold, x)}
    assert not names & set(SYNCHRONISING)


TALL_AND_WIDE = [(LONG, SHORT), (SHORT, LONG)]


@over_cases(lambda case: case.uniform)  # the others are of square matrices
def test_no_large_matrix(case):
    trailing = (1,) * (case.manifold.event_ndim - 2 if isinstance(case.manifold, Flattened) else 0)
    for shape in TALL_AND_WIDE:
        law_makes_nothing_large(case.manifold, point(case, (*shape, *trailing), torch.float32))


@over(dtypes=[torch.float32, torch.complex64, torch.bfloat16])
def test_step_on_meta(case, shape, dtype):
    law_step_never_synchronises(case.manifold, torch.empty(shape, dtype=dtype, device="meta"))


@pytest.mark.parametrize("retraction", ["polar", "qr", "cayley"])
def test_cost_does_not_depend_on_the_batch(retraction):
    """Two matrices and a thousand take the same operators: nothing loops over a batch."""
    case = next(c for c in CASES if getattr(c.manifold, "retraction", "") == retraction)
    one, many = (
        step_methods(case.manifold, torch.empty(k, 5, 2, device="meta")) for k in (2, 1000)
    )
    assert [op for op, _ in one] == [op for op, _ in many]

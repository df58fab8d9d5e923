"""Large batches of tiny matrices: in pieces, entry by entry, with the same results."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import riemopt
from riemopt import linalg
from riemopt.linalg import polar_adaptive, tiny
from riemopt.manifolds import Stiefel
from tests.bounds import eps
from tests.manifold_cases import FULL, generator, name

SHAPES = [(1, 1), (2, 2), (3, 3), (4, 4), (3, 2), (4, 2), (2, 4), (1, 3)]
K = 5_003


@pytest.fixture(autouse=True)
def several_pieces(monkeypatch):
    """The last of them short."""
    monkeypatch.setattr(tiny, "_ENTRIES", 1 << 12)


over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
over_dtypes = pytest.mark.parametrize("dtype", FULL, ids=name)


class Operations(TorchDispatchMode):
    """The names of the operations that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def points_and_steps(shape, dtype, batch=(K,)):
    gen = generator(0)
    x = Stiefel().random_point(*batch, *shape, generator=gen, dtype=dtype)
    return x, torch.randn(*batch, *shape, generator=gen, dtype=dtype)


def whole(function, *arguments):
    """The same kernel on the batch as it is."""
    return function.__wrapped__(*arguments)


@over_shapes
@over_dtypes
@torch.no_grad()
def test_the_kernels_give_the_same(shape, dtype):
    x, g = points_and_steps(shape, dtype)
    u = linalg.tangent_to_columns(x, g)
    torch.testing.assert_close(u, whole(linalg.tangent_to_columns, x, g))
    assert u.is_contiguous()
    steps = [polar_adaptive.polar_step] + [polar_adaptive.cubic_step] * (shape[0] == shape[1])
    lengths = torch.rand(K, 1, 1, generator=generator(1), dtype=x.real.dtype)
    for step in steps:
        for t in (0.0, 1e-3, 30.0, torch.tensor(0.1, dtype=x.real.dtype), lengths):
            y = step(x, u, t)
            assert y.is_contiguous()
            assert linalg.gram_defect(y).abs().max() <= 30 * eps(dtype)
            expected = whole(step, x, u, t)
            tolerance = 100 * eps(dtype) * (30 if t is not lengths and float(t) > 2 else 1)
            torch.testing.assert_close(y, expected, rtol=0, atol=tolerance)


@torch.no_grad()
def test_any_batch_and_any_strides():
    x, g = points_and_steps((2, 3), torch.float64, (2, 3001))
    expected = whole(linalg.tangent_to_columns, x, g)
    torch.testing.assert_close(linalg.tangent_to_columns(x, g), expected)
    strided = g.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(linalg.tangent_to_columns(x, strided), expected)
    lengths = torch.rand(3001, 1, 1, generator=generator(1), dtype=torch.float64)
    y = linalg.polar_step(x, expected, lengths)
    torch.testing.assert_close(y, whole(polar_adaptive.polar_step, x, expected, lengths))


@torch.no_grad()
def test_a_matrix_that_is_not_finite_spoils_no_other():
    x, g = points_and_steps((2, 2), torch.float32)
    u = linalg.tangent_to_columns(x, g)
    right = linalg.cubic_step(x, u, 0.1)
    u[5] = torch.nan
    y = linalg.cubic_step(x, u, 0.1)
    others = torch.arange(K) != 5
    torch.testing.assert_close(y[others], right[others])


def test_what_is_recorded_is_not_cut():
    x, g = points_and_steps((2, 2), torch.float64)
    u = g.requires_grad_()
    (found,) = torch.autograd.grad(Stiefel().proj_tangent(x, u)[0].sum(), u)
    assert bool(found[0].any())
    assert not bool(found[1:].any())
    vmapped = torch.func.vmap(Stiefel().proj_tangent)(x[:2], g[:2].detach())
    torch.testing.assert_close(vmapped, Stiefel().proj_tangent(x[:2], g[:2]))


def test_products_of_rows():
    a, b, c = (torch.randn(3, 4, 7, generator=generator(k)).permute(2, 0, 1) for k in range(3))
    assert tiny.has_entries_first(a)
    torch.testing.assert_close(tiny.multiply_add(None, a.mT, b), torch.bmm(a.mT, b))
    expected = torch.baddbmm(c.mT @ c, a.mT, b, alpha=-0.5)
    torch.testing.assert_close(tiny.multiply_add(c.mT @ c, a.mT, b, -0.5), expected)


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (4, 4), (3, 2), (2, 4)], ids=str)
@pytest.mark.parametrize(
    "make", [riemopt.RiemannianAdam, riemopt.RiemannianSGD], ids=lambda cls: cls.__name__
)
def test_a_step_multiplies_no_matrix_by_itself(shape, make):
    """No `bmm`, which makes a call for each matrix; and the points are those of a small batch."""
    x, g = points_and_steps(shape, torch.float32)
    many, few = nn.Parameter(x.clone()), nn.Parameter(x[:8].clone())
    optimizers = [make([{"params": [p], "manifold": Stiefel()}], lr=0.01) for p in (many, few)]
    for k in range(3):
        many.grad, few.grad = (1 + k) * g, (1 + k) * g[:8]
        with Operations() as mode:
            optimizers[0].step()
        assert not mode.names & {"bmm", "baddbmm", "baddbmm_", "mm"}
        optimizers[1].step()
    torch.testing.assert_close(many[:8], few, rtol=0, atol=1e-5)
    assert Stiefel().violation(many).max() <= 1e-6

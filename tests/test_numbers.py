"""Questions that the host asks of values, and arithmetic on what it has read."""

import math

import pytest
import torch

from riemopt import linalg
from riemopt.linalg import backends, hyperboloid, numbers, products
from riemopt.manifolds import Lorentz, PoincareBall, Stiefel

ONE = torch.tensor([[2.0]])


@torch.no_grad()
def test_a_single_number_is_read_where_that_is_free():
    assert numbers.if_free(ONE) == 2.0
    for kept in (torch.ones(2), torch.ones(1, device="meta"), torch.ones(1, dtype=torch.cfloat)):
        assert numbers.if_free(kept) is kept
    assert numbers.if_free(None) is None
    assert numbers.if_free(0.5) == 0.5
    with torch.enable_grad():
        assert numbers.if_free(ONE) is ONE


@torch.no_grad()
def test_a_formula_gives_the_same_of_numbers_and_of_tensors():
    def formula(a, b):
        return numbers.less_square(a * a, b, 0.25)

    a, b = torch.tensor([3.0, 5.0]), torch.tensor([2.0, 4.0])
    expected = torch.tensor([8.0, 21.0])
    torch.testing.assert_close(numbers.by_numbers(formula, a, b), expected)
    single = numbers.by_numbers(formula, a[:1].clone(), b[:1])
    torch.testing.assert_close(single, expected[:1])


@torch.no_grad()
@pytest.mark.parametrize("given", [torch.tensor(0.0), 0.0])
def test_a_division_by_zero_is_done_with_tensors(given):
    reciprocal = numbers.on_host_numbers(lambda a, b: b / a)
    assert torch.as_tensor(reciprocal(given, torch.tensor(1.0))) == math.inf


def test_a_comparison_is_known_only_if_all_entries_are():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 1.5])
    assert backends.known_to_exceed(a, b, 1.0)
    assert not backends.known_to_exceed(a, b, 2.0)
    assert backends.known_to_exceed(a[1:], b[1:], 1.0)
    assert not backends.known_to_exceed(a[1:], b[1:], 2.0)
    assert backends.known_to_exceed(a[:0], b[:0], 1.0)
    assert backends.known_to_be_below(a, 2.5)
    assert not backends.known_to_be_below(a, 2.0)
    assert backends.known_to_be_below(a[:0], 0.0)
    for bad in (torch.tensor([1.0, math.nan]), torch.tensor([math.nan])):
        assert not backends.known_to_exceed(bad, torch.zeros_like(bad), 1.0)
        assert not backends.known_to_be_below(bad, 2.0)
    meta = torch.ones(2, device="meta")
    assert not backends.known_to_exceed(meta, meta, 0.5)
    assert not backends.known_to_be_below(meta, 2.0)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize(
    ("size", "t", "counts"),
    [
        (1.0, -1e-3, True),
        (1e25, 1e-10, True),  # its square is infinite in float32
        (1e-25, 1e10, True),  # and here 0
        (1e30, 1e10, False),
        (1e-30, 1e-30, False),
        (0.0, 1.0, False),
        (1.0, 0.0, False),
        (math.nan, 1.0, False),
        (math.inf, 1.0, False),
    ],
)
def test_a_step_counts_if_it_is_finite_and_not_zero(size, t, counts, dtype, members):
    u = torch.ones(members, 4, 3, dtype=dtype)
    u[-1] = size
    assert linalg.steps_are_known_to_count(u, t) == counts
    factors = torch.full((members, 4, 1), t)
    assert linalg.steps_are_known_to_count(u, factors) == counts
    one_is_zero = torch.tensor([0.0, 1.0, 1.0, 1.0]).view(1, 4, 1).expand(members, 4, 1)
    assert not linalg.steps_are_known_to_count(torch.ones(members, 4, 3), one_is_zero)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize("shape", [(1, 9, 4), (3, 4, 9), (2, 5, 5), (1, 300, 270)])
def test_the_defect_is_that_of_the_gram_matrix(shape, dtype):
    x = Stiefel().random_point(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    x = 1.01 * x.requires_grad_()
    wide = shape[-2] < shape[-1]
    a = x.mH if wide else x
    expected = a.mH @ a - torch.eye(min(shape[-2:]), dtype=dtype)
    tolerance = 4 * torch.finfo(dtype).eps
    found = products.host_gram_defect(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    gradients = [torch.autograd.grad(s.abs().square().sum(), x)[0] for s in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=100 * tolerance)


@pytest.mark.parametrize("learned", [False, True])
def test_derivatives_at_the_origin_of_hyperbolic_space_are_finite(learned):
    c = torch.tensor(0.7, dtype=torch.float64) if learned else 0.7
    zero = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    for point in (Lorentz(c).exp0(zero), hyperboloid.lift(zero, c), PoincareBall(c).exp0(zero)):
        (first,) = torch.autograd.grad(point.square().sum() + point.sum(), zero, create_graph=True)
        assert first.isfinite().all()
        assert torch.autograd.grad(first.sum(), zero)[0].isfinite().all()
    y = torch.full((2, 3), 0.1, dtype=torch.float64)
    sum = PoincareBall(c).mobius_add(zero, y)
    torch.testing.assert_close(sum, y)
    assert torch.autograd.grad(sum.sum(), zero)[0].isfinite().all()


@pytest.mark.parametrize("c", [0.5, 2.0])
@pytest.mark.parametrize("length", [1e-12, 1e-3, 1.0, 10.0])
def test_a_hyperbolic_step_is_the_textbooks(length, c):
    """cosh(√c‖u‖)x + sinh(√c‖u‖)u/(√c‖u‖), whichever tensor is multiplied by t."""
    gen = torch.Generator().manual_seed(0)
    m = Lorentz(c)
    x = m.random_point(5, 4, generator=gen, dtype=torch.float64)
    u = m.random_tangent(x, generator=gen)
    u = u / m.norm(x, u).unsqueeze(-1)
    angle = c**0.5 * length
    expected = math.cosh(angle) * x + math.sinh(angle) / angle * length * u
    for t in (length, torch.full((5, 1), length, dtype=torch.float64)):
        torch.testing.assert_close(m.curve(x, u, t), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(m.retract(x, length * u), expected, rtol=1e-12, atol=1e-12)


def test_a_step_beyond_the_rim_ends_there():
    for manifold in (PoincareBall(2.0), Lorentz(2.0)):
        x = manifold.random_point(4, 3)
        u = 1e6 * manifold.random_tangent(x)
        y = manifold.retract(x, u)
        assert y.isfinite().all()
        if isinstance(manifold, PoincareBall):
            radius = (2**0.5 * torch.linalg.vector_norm(y, dim=-1)).double()
            rim = 1 - torch.finfo(torch.float32).eps ** 0.5
            torch.testing.assert_close(radius, torch.full_like(radius, rim), rtol=3e-7, atol=0)
        else:
            assert (manifold.violation(y) <= 1e-6 * y[..., 0]).all()

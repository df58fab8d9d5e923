"""Errors of torch that `riemopt._torch_workarounds` goes round: each test fails while one lives.

One that passes breaks the suite (`xfail_strict`), and says: delete the workaround, and the test.
"""

import pathlib
import re
import shutil

import pytest
import torch

import riemopt
from riemopt import _torch_workarounds

PACKAGE = pathlib.Path(riemopt.__file__).parent
needs_a_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs one")


def test_each_site_names_one_that_is_described():
    described = set(re.findall(r"^(\w+)$", _torch_workarounds.__doc__, re.MULTILINE))
    used = set()
    for path in PACKAGE.rglob("*.py"):
        used |= set(re.findall(r"workaround: (\w+)", path.read_text()))
    assert used == described


@pytest.mark.xfail(reason="fused_adam_strides")
@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.Adam])
def test_fused_steps_of_other_strides(cls):
    g = torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])
    p = torch.nn.Parameter(torch.zeros(3, 2).mT)
    p.grad = g
    cls([p], lr=1.0, fused=True).step()
    assert torch.equal(p.detach().sign(), -g)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.xfail(reason="matrix_exp_of_one_matrix: pytorch #196592")
def test_matrix_exp_of_one_matrix(dtype):
    angle = torch.tensor(0.5 if dtype == torch.float32 else 0.04, dtype=dtype)
    A = angle * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=dtype)
    c, s = angle.double().cos(), angle.double().sin()
    expected = torch.stack([torch.stack([c, -s]), torch.stack([s, c])])
    error = (torch.linalg.matrix_exp(A).double() - expected).abs().max()
    assert error <= 8 * torch.finfo(dtype).eps


@pytest.mark.xfail(reason="parameter_of_parameter")
def test_a_parameter_of_a_subclass_is_made_a_parameter():
    class Own(torch.nn.Parameter):
        pass

    torch.nn.Parameter(torch.Tensor._make_subclass(Own, torch.ones(2), True))


@pytest.mark.slow
@needs_a_compiler
@pytest.mark.xfail(reason="inductor_copy_keyerror: pytorch #196570")
def test_inductor_fuses_two_loops_that_write_into_arguments():
    def step(p, m, g):
        v = m + g
        y = p - v * (p * v).sum(-1, keepdim=True)
        m.copy_(v)
        p.copy_(y)

    torch._dynamo.reset()
    p, m, g = (torch.randn(600, 256, generator=torch.Generator().manual_seed(i)) for i in range(3))
    expected = m + g
    torch.compile(step, fullgraph=True)(p, m, g)
    torch.testing.assert_close(m, expected)


@pytest.mark.slow
@needs_a_compiler
@pytest.mark.xfail(reason="inductor_stale_alpha: torch 2.13")
def test_inductor_sees_that_alpha_has_changed():
    def step(p, g, x, d, lr):
        p.add_(g, alpha=-lr)
        return x + (-lr) * d  # another use of the number

    torch._dynamo.reset()
    compiled = torch.compile(step)
    g, x, d = (torch.randn(5, generator=torch.Generator().manual_seed(i)) for i in range(3))
    for lr in (0.1, 0.05, 0.025):
        p = torch.zeros(5)
        compiled(p, g, x, d, lr)
        torch.testing.assert_close(p, -lr * g)

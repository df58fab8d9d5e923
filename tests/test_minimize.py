"""`minimize` finds known minima, with few evaluations."""

import pytest
import torch

import riemopt
from riemopt.manifolds import Sphere
from tests.manifold_cases import generator

METHODS = ("lbfgs",)


@pytest.mark.parametrize("method", METHODS)
def test_smallest_eigenvalue(method):
    A = torch.randn(50, 50, dtype=torch.float64, generator=generator(1))
    A = A + A.mT
    x0 = Sphere().random_point(50, dtype=torch.float64, generator=generator(2))
    result = riemopt.minimize(lambda x: x @ A @ x, x0, Sphere(), method=method)
    assert result.success
    assert result.fun == pytest.approx(torch.linalg.eigvalsh(A)[0].item(), rel=1e-9)

"""`check_gradient`: right gradients are accepted, wrong ones rejected and told apart."""

import pytest
import torch
from torch import Tensor

from riemopt.manifolds import Sphere, Stiefel, Symmetric
from riemopt.testing import check_gradient
from tests import test_planted_mistakes as planted
from tests.manifold_cases import EXACT, name

B = torch.randn(4, 4, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))


def quadratic(x: Tensor) -> Tensor:
    """½ Re⟨x, Ax⟩ and a cubic, of all matrices of a batch."""
    A = B.to(x.dtype) if x.is_complex() else B.real
    return ((x.conj() * (A @ x)).real).sum() / 2 + (x.abs() ** 4).sum()


def quadratic_gradient(x: Tensor) -> Tensor:
    A = B.to(x.dtype) if x.is_complex() else B.real
    return (A + A.mH) @ x / 2 + 4 * x.abs().square() * x


@pytest.mark.parametrize("dtype", EXACT, ids=name)
@pytest.mark.parametrize(
    "manifold", [Stiefel(), Stiefel(metric="canonical"), Sphere(dim=(-2, -1))], ids=str
)
def test_a_right_gradient_is_accepted(manifold, dtype):
    def riemannian(x):
        return manifold.egrad2rgrad(x, quadratic_gradient(x))

    for given in (
        {},
        {"euclidean_gradient": quadratic_gradient},
        {"riemannian_gradient": riemannian},
    ):
        report = check_gradient(quadratic, manifold, (4, 2), (2, 4, 3), dtype=dtype, **given)
        report.require()
        assert report["gradient is the differential"].slope == pytest.approx(2, abs=0.1)


def test_a_gradient_that_is_wrong_by_a_thousandth_is_rejected():
    """Over forty seeds; the right one is accepted as often."""
    gen = torch.Generator().manual_seed(10**6)  # not that of a point
    noise = torch.randn(4, 2, dtype=torch.float64, generator=gen)

    def wrong(x):
        g = quadratic_gradient(x)
        return g + 1e-3 * torch.linalg.vector_norm(g) / torch.linalg.vector_norm(noise) * noise

    for seed in range(40):
        options = {"seed": seed, "repeats": 1}
        right = check_gradient(
            quadratic, Stiefel(), (4, 2), euclidean_gradient=quadratic_gradient, **options
        )
        assert right, str(right)
        assert not check_gradient(quadratic, Stiefel(), (4, 2), euclidean_gradient=wrong, **options)


WRONG = {
    "factor": {"euclidean_gradient": lambda x: 2 * quadratic_gradient(x)},
    "sign": {"euclidean_gradient": lambda x: -quadratic_gradient(x)},
    "a term left out": {"euclidean_gradient": lambda x: (B.real + B.real.mT) @ x / 2},
    "not tangent": {"riemannian_gradient": quadratic_gradient},
    "another metric": {
        "riemannian_gradient": lambda x: Stiefel().egrad2rgrad(x, quadratic_gradient(x))
    },
}


@pytest.mark.parametrize("given", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_gradient_is_rejected(given):
    report = check_gradient(quadratic, Stiefel(metric="canonical"), (4, 2), **given)
    assert not report
    if "not tangent" not in str(report):
        assert "perhaps" in str(report)


def test_a_gradient_that_is_not_tangent_is_named():
    report = check_gradient(quadratic, Stiefel(), (4, 2), riemannian_gradient=quadratic_gradient)
    assert [row.law for row in report.failed] == ["gradient is tangent"]


class Cube(torch.autograd.Function):
    """x³ with the derivative of x²."""

    @staticmethod
    def forward(ctx, x, power):
        ctx.save_for_backward(x)
        ctx.power = power
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * x**ctx.power, None


def test_a_custom_backward_is_checked():
    assert check_gradient(lambda x: Cube.apply(x, 2).sum(), Sphere(), (5,))
    report = check_gradient(lambda x: Cube.apply(x, 1).sum(), Sphere(), (5,))
    assert report["gradient is the differential"].slope == pytest.approx(1, abs=0.1)
    assert "a custom backward" in str(report)


def test_a_manifold_whose_conversion_is_wrong_is_told_from_a_wrong_gradient():
    manifold = planted.EuclideanGradient(metric="canonical")
    report = check_gradient(quadratic, manifold, (4, 2))
    assert [row.law for row in report.failed] == ["Riemannian gradient represents it"]


def test_a_random_function_is_named():
    report = check_gradient(lambda x: (x * torch.rand_like(x)).sum(), Sphere(), (5,))
    assert "is the function random" in str(report)


def test_functions_of_any_size_and_linear_ones():
    for size in (1e-12, 1e12):
        check_gradient(lambda x, s=size: s * x.square().square().sum(), Sphere(), (5,)).require()
    check_gradient(lambda x: 3 * x.sum(), Symmetric(), (3, 3)).require()  # exact
    check_gradient(lambda x: x.square().sum(), Sphere(), (5,)).require()  # constant


def test_a_function_that_takes_a_gradient_inside():
    def penalty(x):
        (g,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
        return g.square().sum()

    check_gradient(penalty, Sphere(), (5,)).require()

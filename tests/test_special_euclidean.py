"""Rigid motions: the group against dense matrix functions, the metric, a pose graph."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD
from riemopt.manifolds import Euclidean, Product, SpecialEuclidean, SpecialOrthogonal
from tests.manifold_cases import EXACT, generator, name

SE, SO = SpecialEuclidean(), SpecialOrthogonal()
sizes = pytest.mark.parametrize("n", [1, 2, 3, 5])
exact = pytest.mark.parametrize("dtype", EXACT, ids=name)
close = torch.testing.assert_close


def algebra(n, angle, dtype=torch.float64, seed=0, batch=()):
    """[[W, ρ], [0, 0]] with ‖W‖ = √2·angle and ρ of size 1."""
    a = torch.randn(*batch, n + 1, n + 1, generator=generator(seed), dtype=dtype)
    eye = torch.eye(n + 1, dtype=dtype).expand_as(a)
    W = SE.proj_tangent(eye, a)
    rotation = W[..., :n, :n].clone()
    long = torch.linalg.matrix_norm(rotation, keepdim=True)
    W[..., :n, :n] = rotation * (math.sqrt(2) * angle / torch.where(long > 0, long, 1))
    return W


@exact
@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.5, 3.0, math.pi])
@sizes
def test_group_exp_and_log_are_the_matrix_functions(n, angle, dtype):
    if angle == math.pi and (n > 3 or dtype.is_complex):
        pytest.skip("there is no shortest rotation")
    a = algebra(n, angle, dtype)
    x = SE.group_exp(a)
    np.testing.assert_allclose(x.numpy(), scipy.linalg.expm(a.numpy()), atol=1e-13)
    assert SE.violation(x) < 1e-14
    back = SE.group_log(x)
    if angle < math.pi:
        close(back, a, rtol=0, atol=1e-12)
    close(SE.group_exp(back), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("angle", [1e-6, 1e-3, 0.3, 3.0, math.pi - 1e-3])
def test_single_precision(n, angle):
    """Within 16 eps of float64, on the same rounded arguments."""
    a = algebra(n, angle, torch.float32, batch=(100,))
    eps = torch.finfo(torch.float32).eps
    x = SE.group_exp(a)
    close(x.double(), SE.group_exp(a.double()), rtol=0, atol=16 * eps)
    close(SE.group_log(x).double(), SE.group_log(x.double()), rtol=0, atol=16 * eps)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("angle", [0.0, 1e-3, 1.0, 2.5])
def test_derivatives(n, angle):
    a = algebra(n, angle).requires_grad_()

    def screw(a):
        rotation = a[..., :n, :n] - a[..., :n, :n].mT
        top = torch.cat([rotation / 2, a[..., :n, n:]], -1)
        return SE.group_exp(torch.nn.functional.pad(top, (0, 0, 0, 1)))

    assert torch.autograd.gradcheck(screw, a)
    assert torch.autograd.gradgradcheck(lambda a: screw(a), a)
    assert torch.autograd.gradcheck(lambda a: SE.group_log(screw(a)), a)


def test_screws_are_one_parameter_groups():
    a = algebra(3, 1.0)
    both = SE.group_exp(0.3 * a) @ SE.group_exp(0.4 * a)
    close(both, SE.group_exp(0.7 * a))


@exact
@sizes
def test_it_is_the_product_of_rotations_and_translations(n, dtype):
    product = Product([(SO, (n, n)), (Euclidean(), n)])
    x, y = (SE.random_point(4, n + 1, n + 1, dtype=dtype, generator=generator(i)) for i in (0, 1))
    u = SE.random_tangent(x, generator=generator(2))

    def flat(a):
        return torch.cat([a[..., :n, :n].flatten(-2), a[..., :n, n]], -1)

    for method, arguments in {
        "retract": (x, u),
        "exp": (x, u),
        "log": (x, y),
        "parallel_transport": (x, y, u),
        "ehess2rhess": (x, u, y, u),
    }.items():
        ours = getattr(SE, method)(*arguments)
        close(flat(ours), getattr(product, method)(*map(flat, arguments)), rtol=0, atol=1e-13)
    close(SE.dist(x, y), product.dist(flat(x), flat(y)))


def test_the_metric_is_the_same_from_wherever_motions_are_looked_at():
    x, y, a = (SE.random_point(4, 4, dtype=torch.float64, generator=generator(i)) for i in range(3))
    u = SE.random_tangent(x, generator=generator(3))
    close(SE.dist(a @ x, a @ y), SE.dist(x, y))
    close(SE.norm(a @ x, a @ u), SE.norm(x, u))
    close(SE.proj_tangent(a @ x, a @ u), a @ u)


def test_a_last_row_that_is_off_is_seen():
    x = SE.random_point(3, 4, 4)
    x[1, 3, 0] = 0.5
    assert (SE.violation(x) == torch.tensor([0, 0.5, 0])).tolist()[1]
    assert (SE.violation(x) <= SE.tolerance(x)).tolist() == [True, False, True]
    assert SE.violation(SE.project(x)).max() < 1e-6


OPTIMIZERS = {
    "sgd": lambda p: RiemannianSGD([p], lr=0.05, momentum=0.9),
    "adam": lambda p: RiemannianAdam([p], lr=0.05),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("start", ["random", "zeros", "far"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_closes_a_pose_graph(optimizer, start):
    """Ten poses along a loop, from what each sees of the next three: the first is held."""
    truth = SE.random_point(10, 4, 4, generator=generator(1))
    i = torch.arange(10).repeat(3)
    j = (i + torch.arange(1, 4).repeat_interleave(10)) % 10
    seen = torch.linalg.inv(truth[i]) @ truth[j]
    first = {
        "random": SE.random_point(10, 4, 4, generator=generator(2)),
        "zeros": torch.zeros(10, 4, 4),
        "far": 100 * torch.randn(10, 4, 4, generator=generator(3)),
    }[start]
    if start == "far":
        first[..., :3, 3] /= 30
    x = ManifoldParameter(first, SE)
    make = OPTIMIZERS[optimizer](x)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(make, 1500)
    for _ in range(1500):
        make.zero_grad()
        (x[i] @ seen - x[j]).square().sum((-2, -1)).mean().mul(10).backward()
        make.step()
        schedule.step()
    found = x.detach()
    found = truth[:1] @ torch.linalg.inv(found[:1]) @ found
    assert SE.dist(found, truth).max() < 1e-3
    assert (SE.violation(x.detach()) <= SE.tolerance(x.detach())).all()

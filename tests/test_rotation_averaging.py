"""Ten weights on SO(3), found from the rotations between them: every random start ends at the best.

`test_special_euclidean` does the same with translations.
"""

import math

import pytest
import torch

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD
from riemopt.manifolds import SpecialOrthogonal
from tests.manifold_cases import generator

SO = SpecialOrthogonal()
N = 10
STARTS = 8
OPTIMIZERS = {
    "SGD": lambda R: RiemannianSGD(R, lr=0.5, momentum=0.9),
    "Adam": lambda R: RiemannianAdam(R, lr=0.1),
    "point": lambda R: RiemannianAdam(R, lr=0.1, second_moment="point"),
}


def problem(degrees):
    """The truth, pairs i and j, and Rⱼ·Rᵢᵀ with an error of so many degrees."""
    truth = SO.random_point(N, 3, 3, generator=generator(0), dtype=torch.float64)
    i, j = torch.combinations(torch.arange(N)).T[:, ::2]
    seen = truth[j] @ truth[i].mT
    tilt = SO.random_tangent(seen, generator=generator(1))
    tilt = tilt / SO.norm(seen, tilt, keepdim=True) * 2**0.5
    return truth, i, j, SO.exp(seen, math.radians(degrees) * tilt)


def solve(optimizer, i, j, seen, weights):
    """R `(starts, 10, 3, 3)`, by one weight for all or one for each camera."""
    first = SO.random_point(STARTS, N, 3, 3, generator=generator(2), dtype=torch.float64)
    given = [first] if weights == "one" else first.unbind(1)
    params = [ManifoldParameter(R.clone(), SO) for R in given]
    step = OPTIMIZERS[optimizer](params)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(step, 400)

    def rotations():
        return params[0] if weights == "one" else torch.stack(list(params), 1)

    for _ in range(400):
        step.zero_grad()
        R = rotations()
        (R[:, j] - seen @ R[:, i]).square().sum((-2, -1)).mean(1).sum().backward()
        step.step()
        schedule.step()
    return rotations().detach()


@pytest.mark.parametrize("weights", ["one", "ten"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_truth_is_found_from_random_starts(optimizer, weights):
    truth, i, j, seen = problem(0)
    R = solve(optimizer, i, j, seen, weights)
    common = R[:, :1].mT @ truth[:1]
    assert SO.dist(R @ common, truth.expand_as(R)).max() < 1e-6
    assert SO.violation(R).max() < 1e-14


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_what_is_found_is_the_best(optimizer):
    """Of rotations that are off by 5°. No other is better, since Λ - A is positive semidefinite.

    A has the blocks Rⱼᵢ, and Λ the blocks Σᵢ Rⱼᵢ·Rᵢ·Rⱼᵀ (Eriksson, Olsson, Kahl & Chin 2018).
    """
    truth, i, j, seen = problem(5)
    R = solve(optimizer, i, j, seen, "one")
    A = torch.zeros(N, N, 3, 3).double()
    A[j, i], A[i, j] = seen, seen.mT
    blocks = torch.einsum("jiab,sibc,sjdc->sjad", A, R, R)
    torch.testing.assert_close(blocks, blocks.mT, rtol=0, atol=1e-5)
    Lambda = torch.stack([torch.block_diag(*of_start) for of_start in blocks])
    certificate = (Lambda + Lambda.mT) / 2 - A.transpose(1, 2).reshape(3 * N, 3 * N)
    assert torch.linalg.eigvalsh(certificate).min() > -1e-5
    common = SO.project((R.mT @ truth).sum(1, keepdim=True))
    off = SO.dist(R @ common, truth.expand_as(R)) / 2**0.5
    assert off.square().mean(1).sqrt().max() < math.radians(5)  # ten rotations share 23 errors

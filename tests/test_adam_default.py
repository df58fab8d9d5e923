"""Adam's default where entries say nothing of lengths: one second moment for each point.

Close to the boundary of the ball, or of the positive definite matrices, an entry of 1e-3 can be a
long way. So "tangent" is "point" there.
"""

import copy

import pytest
import torch
from torch import nn

import riemopt
from riemopt.manifolds import (
    SPD,
    Correlation,
    Flattened,
    GLPlus,
    Interval,
    Lorentz,
    Manifold,
    PoincareBall,
    Positive,
    SpecialLinear,
    Sphere,
    Stereographic,
    Stiefel,
    Symmetric,
)

DISTORTING: list[tuple[Manifold, tuple[int, ...]]] = [
    (PoincareBall(), (6, 3)),
    (Lorentz(), (6, 4)),
    (SPD("affine"), (4, 4)),
    (SPD("log_cholesky"), (4, 4)),
    (SPD("log_euclidean"), (4, 4)),
    (Correlation(), (4, 4)),
    (GLPlus(), (3, 3)),
    (SpecialLinear(), (3, 3)),
    (Positive(), (5,)),
    (Interval(-1, 2), (3, 4)),
    (Stereographic(0.5), (3, 4)),
    (Flattened(SPD("affine")), (4, 2, 2, 1)),
]
over_distorting = pytest.mark.parametrize(
    ("manifold", "shape"), DISTORTING, ids=lambda value: str(value)
)


def _weight(manifold: Manifold, shape: tuple[int, ...], seed: int = 0) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(manifold.random_point(*shape, generator=generator, dtype=torch.float64))


def _optimizer(p: nn.Parameter, manifold: Manifold, **options):
    return riemopt.RiemannianAdam([{"params": [p], "manifold": manifold}], **options)


def _steps(p: nn.Parameter, optimizer, count: int = 4) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.dtype)
        optimizer.step()


@over_distorting
def test_the_default_is_point(manifold, shape):
    p, q = _weight(manifold, shape), _weight(manifold, shape)
    _steps(p, _optimizer(p, manifold, lr=0.05))
    _steps(q, _optimizer(q, manifold, lr=0.05, second_moment="point"))
    assert torch.equal(p, q)


@pytest.mark.parametrize(
    "manifold",
    [Sphere(), Stiefel(), Stiefel(metric="canonical"), Symmetric(), SPD("bures_wasserstein")],
    ids=repr,
)
def test_elsewhere_the_default_has_a_moment_for_each_entry(manifold):
    p = _weight(manifold, (4, 4))
    optimizer = _optimizer(p, manifold)
    _steps(p, optimizer)
    assert optimizer.state[p]["exp_avg_sq"].shape == p.shape


@over_distorting
def test_the_default_goes_downhill(manifold, shape):
    """A quadratic loss falls by the first steps, also from points close to a boundary."""
    for seed in range(5):
        p = _weight(manifold, shape, seed)
        target = _weight(manifold, shape, seed + 100).detach()
        optimizer = _optimizer(p, manifold, lr=1e-3)
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = (p - target).square().sum()
            loss.backward()
            losses.append(loss.item())
            optimizer.step()
        assert losses[-1] < losses[0], seed


@over_distorting
def test_a_checkpoint_is_in_torchs_layout_and_resumes(manifold, shape):
    p = _weight(manifold, shape)
    optimizer = _optimizer(p, manifold, lr=0.05)
    _steps(p, optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved["state"][0]["exp_avg_sq"].shape == p.shape
    q = nn.Parameter(p.detach().clone())
    resumed = _optimizer(q, manifold, lr=0.05)
    resumed.load_state_dict(saved)
    _steps(p, optimizer, 2)
    _steps(q, resumed, 2)
    assert torch.equal(p, q)


def test_the_mean_of_positive_definite_matrices_at_a_large_learning_rate():
    """With moments of entries the steps left float64 at this learning rate."""
    manifold = SPD("affine")
    samples = torch.stack([_weight(manifold, (5, 5), seed).detach() for seed in range(10)])
    for seed in range(5):
        p = _weight(manifold, (5, 5), 50 + seed)
        optimizer = _optimizer(p, manifold, lr=0.3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
        for _ in range(300):
            optimizer.zero_grad()
            (manifold.dist(p.expand(10, 5, 5), samples) ** 2).mean().backward()
            optimizer.step()
            schedule.step()
        assert manifold.dist(p.detach(), riemopt.mean(manifold, samples)) < 1e-5


@pytest.mark.parametrize("second_moment", ["tangent", "point", "carried"])
def test_a_half_weight_that_is_released_has_torchs_state(second_moment):
    """The moments of an unconstrained weight are of its own dtype, as torch's Adam makes them."""
    p = nn.Parameter(Stiefel().random_point(6, 3).bfloat16())
    optimizer = riemopt.RiemannianAdam(
        [{"params": [p], "manifold": Stiefel()}], second_moment=second_moment
    )
    p.grad = torch.ones_like(p)
    optimizer.step()
    saved = optimizer.state_dict()
    free = nn.Parameter(p.detach().clone())
    other = riemopt.RiemannianAdam([free], second_moment=second_moment)
    other.load_state_dict(saved)
    dtypes = {key: value.dtype for key, value in other.state[free].items() if value.ndim}
    assert set(dtypes.values()) == {torch.bfloat16}

"""Every problem with every method: the same start, constraints kept, honest about what is off."""

import dataclasses

import pytest
import torch
from riemopt_bench import registry
from riemopt_bench.interface import Budget
from riemopt_bench.memory import LiveBytes, bytes_of
from riemopt_bench.surfaces import (
    LowRank,
    PoincareBall,
    PositiveDefinite,
    Rotation,
    Sphere,
    Stiefel,
    Subspace,
    Symmetric,
)
from riemopt_bench.train import measure
from riemopt_bench.train.suites import SUITES

PROBLEMS = {name: p for name, p in registry.problems().items() if name != "mnist5k"}
PAIRS = [
    (p, m) for p in PROBLEMS.values() for m in registry.methods().values() if m.skip(p) is None
]


@pytest.mark.parametrize(("problem", "method"), PAIRS, ids=lambda v: v.name)
def test_a_few_steps(problem, method):
    task, attached = measure.fresh(problem, method, lr=1e-3, seed=1)
    trace = measure.train(task, attached, Budget(4))
    assert trace.step == [0, 1, 2, 3, 4]
    assert len(trace.optimizer) == len(trace.forward_backward) == 4
    assert trace.loss[-1] != trace.loss[0]
    assert set(trace.used_violation) == set(trace.stored_violation) == set(task.surfaces)
    used = max(max(values) for values in trace.used_violation.values())
    stored = max(max(values) for values in trace.stored_violation.values())
    if method.constrained:
        assert used < 1e-4
    assert (stored > 1e-4) == (method.family in ("parametrize", "unconstrained"))
    assert bool(trace.original_norm) == (method.family == "parametrize")


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=lambda p: p.name)
def test_the_task_comes_from_the_seed_alone(problem):
    torch.manual_seed(0)
    one = problem.build(3)
    torch.manual_seed(7)
    two = problem.build(3)
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert one.loss(one.model, one.batch(5)).item() == two.loss(two.model, two.batch(5)).item()
    assert problem.surfaces == set(one.surfaces.values())


def test_left_out_methods_say_why():
    skips = [m.skip(p) for p in PROBLEMS.values() for m in registry.methods().values()]
    assert all(s is None or s.reason for s in skips)
    assert any(s is not None and s.same_as in registry.methods() for s in skips)


def test_every_method_has_as_many_trials():
    assert len({len(m.grid) for m in registry.methods().values()}) == 1
    assert all(list(m.grid) == sorted(m.grid) for m in registry.methods().values())


def test_suites_name_known_problems():
    assert all(set(s.budgets or {}) <= set(registry.problems()) for s in SUITES.values())


def test_a_method_that_moves_the_start_is_refused():
    surfaces = {"w": Sphere()}
    start = {"w": torch.tensor([1.0, 0.0])}
    measure.assert_same_start(start, start, surfaces)
    with pytest.raises(measure.UnequalStartError, match="w: the method starts"):
        measure.assert_same_start(start, {"w": torch.tensor([0.0, 1.0])}, surfaces)
    off = {"w": torch.tensor([2.0, 0.0])}
    with pytest.raises(measure.UnequalStartError, match="from its surface"):
        measure.assert_same_start(off, off, surfaces)


def test_a_loss_that_is_not_finite_ends_the_run():
    problem = PROBLEMS["circle"]
    build = problem.build

    def broken(seed):
        task = build(seed)
        loss = task.loss
        return dataclasses.replace(task, loss=lambda model, batch: loss(model, batch) / 0)

    problem = dataclasses.replace(problem, build=broken)
    task, attached = measure.fresh(problem, registry.methods()["geoopt-adam"], 0.1, 0)
    with pytest.raises(measure.NotFiniteError, match="step 1 of 3"):
        measure.train(task, attached, Budget(3))


@pytest.mark.parametrize(
    ("surface", "shape"),
    [
        (Stiefel(), (7, 7)),
        (Stiefel(), (7, 3)),
        (Stiefel(), (2, 3, 7)),
        (Stiefel(kernel=True), (4, 3, 2, 2)),
        (Symmetric(), (2, 7, 7)),
        (Sphere(), (7, 7)),
        (Sphere(dim=0), (7, 3)),
        (Subspace(), (7, 3)),
        (Rotation(), (2, 4, 4)),
        (PositiveDefinite(), (2, 4, 4)),
        (LowRank(2), (6, 5)),
    ],
    ids=str,
)
def test_violation_nearest_and_start(surface, shape):
    a = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert surface.violation(a) > 0.1
    nearest, start = surface.nearest(a), surface.start(a)
    assert nearest.shape == start.shape == a.shape
    assert surface.violation(nearest) < 1e-5
    assert surface.violation(start) < 1e-6
    assert start.is_contiguous()
    further = surface.nearest(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    assert (nearest - a).norm() < min((start - a).norm() + 1e-5, (further - a).norm())
    start.view(-1)[1] += 0.1
    assert surface.violation(start) > 1e-3


def test_violation_of_known_matrices():
    assert Stiefel().violation(2 * torch.eye(3)) == 3
    assert Symmetric().violation(torch.tensor([[0.0, 1.0], [3.0, 0.0]])) == 2
    assert Sphere(dim=0).violation(torch.tensor([[3.0, 0.0], [4.0, 1.0]])) == 4
    assert Rotation().violation(torch.diag(torch.tensor([1.0, 1.0, -1.0]))) == 2
    assert PositiveDefinite().violation(torch.diag(torch.tensor([1.0, -3.0]))) == 3
    assert LowRank(1).violation(torch.diag(torch.tensor([5.0, 2.0, 1.0]))) == 2


def test_the_ball_leaves_its_points_where_they_are():
    ball, inside, outside = PoincareBall(), torch.tensor([0.6, 0.7]), torch.tensor([3.0, 4.0])
    assert torch.equal(ball.nearest(inside), inside)
    assert ball.violation(inside) == 0 < ball.violation(outside) == 4
    torch.testing.assert_close(ball.nearest(outside), torch.tensor([0.6, 0.8]), rtol=2e-5, atol=0)


def test_records_hold_both_ends_and_the_first_step():
    assert Budget(3).shares == [0, 1 / 3, 2 / 3, 1]
    for budget in (Budget(1000), Budget(seconds=2.0), Budget(1000, seconds=2.0)):
        shares = budget.shares
        assert (shares[0], shares[-1]) == (0, 1)
        assert 38 <= len(shares) <= 42
        assert shares == sorted(set(shares))
    assert Budget(1000).shares[1] == 1 / 1000


def test_live_bytes_sees_temporaries_and_forgets_them():
    x = torch.zeros(1000)
    with LiveBytes([x]) as live:
        for _ in range(5):
            y = x + 1
            del y
        z = (x * 2).sum()
    assert live.peak == 4000 + 4000 + z.nbytes
    assert bytes_of([x, x[:10], x.view(10, 100)]) == 4000

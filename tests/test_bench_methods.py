"""Every problem with every method: the same start, constraints kept, honest about what is off."""

import dataclasses
import importlib.metadata
import importlib.util
import math

import pytest
import torch
from riemopt_bench import registry
from riemopt_bench.interface import ADAM_GRID, Budget, Evaluation, Problem, Task
from riemopt_bench.libraries import cdopt, landing, parametrize, penalty
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

from tests import needs

PROBLEMS = {name: p for name, p in registry.problems().items() if name != "mnist5k"}
PAIRS = [
    (p, m) for p in PROBLEMS.values() for m in registry.methods().values() if m.skip(p) is None
]


REPARAMETRIZED = ("parametrize", "geotorch", "cdopt")
OFF_THE_SURFACE = ("landing", "penalty", "unconstrained")


def looked_at(task, method, trace):
    """What a method promises of its weights, used and stored."""
    assert set(trace.used_violation) == set(trace.stored_violation) == set(task.surfaces)
    used = max(max(values) for values in trace.used_violation.values())
    stored = max(max(values) for values in trace.stored_violation.values())
    assert all(map(math.isfinite, [*trace.loss, *trace.metric, used, stored]))
    if method.constrained:
        assert used < 1e-4
    if method.family not in (*REPARAMETRIZED, *OFF_THE_SURFACE):
        assert stored == used
    assert bool(trace.original_norm) == (method.family in REPARAMETRIZED)
    return used, stored


@pytest.mark.sampled(16)
@pytest.mark.parametrize(("problem", "method"), PAIRS, ids=lambda v: v.name)
def test_a_few_steps(problem, method):
    task, attached = measure.fresh(problem, method, lr=1e-3, seed=1)
    trace = measure.train(task, attached, Budget(4))
    assert trace.step == [0, 1, 2, 3, 4]
    assert len(trace.optimizer) == len(trace.forward_backward) >= 4
    if attached.solve is None:  # a solver may refuse its first trial
        assert trace.loss[-1] != trace.loss[0]
    looked_at(task, method, trace)


def test_left_out_methods_say_why():
    skips = [m.skip(p) for p in PROBLEMS.values() for m in registry.methods().values()]
    assert all(s is None or s.reason for s in skips)
    assert any(s is not None and s.same_as in registry.methods() for s in skips)


def test_every_method_has_as_many_trials():
    """But for those that have no learning rate: they solve what is one function."""
    grids = {m.name: m.grid for m in registry.methods().values() if m.grid != (1.0,)}
    assert set(grids.values()) == {ADAM_GRID}
    assert list(ADAM_GRID) == sorted(set(ADAM_GRID))
    without = [m for m in registry.methods().values() if m.grid == (1.0,)]
    online = registry.problems()["online-pca"]
    assert not online.full_batch
    assert all("no one function" in m.skip(online).reason for m in without)


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


# --- every surface with every method ---

SURFACES = {
    "tall": (Stiefel(), (8, 3)),
    "wide": (Stiefel(), (3, 8)),
    "batch": (Stiefel(), (2, 7, 3)),
    "kernel": (Stiefel(kernel=True), (4, 3, 2, 2)),
    "subspace": (Subspace(), (8, 3)),
    "rotations": (Rotation(), (2, 3, 3)),
    "symmetric": (Symmetric(), (2, 4, 4)),
    "vector": (Sphere(), (5,)),
    "rows": (Sphere(), (4, 5)),
    "columns": (Sphere(dim=0), (5, 4)),
    "definite": (PositiveDefinite(), (2, 3, 3)),
    "rank": (LowRank(2), (6, 5)),
    "ball": (PoincareBall(), (6, 2)),
}


class Weights(torch.nn.Module):
    """A constrained weight and a plain one."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)
        self.bias = torch.nn.Parameter(torch.zeros(3, dtype=weight.dtype))


def distance_problem(surface, shape, dtype=torch.float32):
    """½‖W - B‖² + ½‖b - 1‖², whose minimum is at the point nearest to B."""

    def loss(model, goal):
        off = (model.weight - goal).square().sum() + (model.bias - 1).square().sum()
        return 0.5 * off

    def build(seed):
        generator = torch.Generator().manual_seed(seed)
        noise, goal = torch.randn(2, *shape, dtype=dtype, generator=generator)
        if isinstance(surface, PositiveDefinite):
            start = noise @ noise.mT / shape[-1] + torch.eye(shape[-1], dtype=dtype)
        elif isinstance(surface, PoincareBall):
            start = 0.3 * noise / (1 + noise.norm(dim=-1, keepdim=True))
        else:
            start = surface.start(noise)

        def evaluate(model):
            value = loss(model, goal).item()
            return Evaluation(value, value)

        return Task(Weights(start), {"weight": surface}, lambda step: goal, loss, evaluate)

    text = "distance"
    return Problem(text, text, text, text, False, 0.0, frozenset({surface}), build, full_batch=True)


DISTANCES = {name: distance_problem(*case) for name, case in SURFACES.items()}
ON_SURFACES = [
    pytest.param(DISTANCES[case], method, id=f"{case}-{method.name}")
    for case in DISTANCES
    for method in registry.methods().values()
    if method.skip(DISTANCES[case]) is None
]


@pytest.mark.sampled(8)
@pytest.mark.parametrize(("problem", "method"), ON_SURFACES)
def test_every_surface(problem, method):
    """The start is asserted by `fresh`; then the loss falls, and promises are kept."""
    task, attached = measure.fresh(problem, method, lr=1e-2, seed=0)
    trace = measure.train(task, attached, Budget(5))
    if method.name != "parametrize-decayed":  # whose weight goes to 0, see below
        assert task.loss(task.model, task.batch(0)).item() < trace.loss[0]
    assert task.model.bias.detach().abs().min() > 0
    looked_at(task, method, trace)


@pytest.mark.parametrize("case", SURFACES)
def test_what_every_surface_has(case):
    """riemopt has all of them; what others lack, they say."""
    skips = {m.name: m.skip(DISTANCES[case]) for m in registry.methods().values()}
    lacking = {name for name, skip in skips.items() if skip is not None and skip.same_as is None}
    assert {name for name in lacking if name.startswith("riemopt")} <= {
        "riemopt-muon",
        "riemopt-level-set",
    }
    assert not any(name.startswith(("parametrize", "project", "penalty")) for name in lacking)
    orthogonal = isinstance(SURFACES[case][0], Stiefel)
    assert ({"landing", "pogo-adam"} <= lacking) == (not orthogonal)
    for skip in skips.values():
        if skip is not None and skip.same_as is not None:
            assert skips[skip.same_as] is None


@needs.pogo
def test_packages_are_named_as_they_are_installed(monkeypatch):
    methods = registry.methods().values()
    for package in {package for m in methods for package in m.packages}:
        assert package == "riemopt" or importlib.metadata.version(package)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: find(n) if n == "torch" else None)
    missing = {m.name for m in methods if "not installed" in getattr(m.skip(PCA), "reason", "")}
    theirs = {m.name for m in methods if set(m.packages) - {"torch", "riemopt"}}
    assert missing == theirs
    assert {"geoopt-adam", "geotorch", "pogo-adam", "pymanopt-cg", "cdopt"} <= theirs


PCA = registry.problems()["pca"]


# --- loops of a method's own ---

SOLVERS = [m for m in registry.methods().values() if m.grid == (1.0,)]


class Watched(measure.Watch):
    """Keeps what is told, and the loss in the model each time that it is asked for more."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.told, self.seen, self.over = [], [], False

    def tell(self, loss, seconds=0.0):
        assert not self.over
        self.told.append(loss.item())
        super().tell(loss, seconds)

    def __call__(self):
        assert not self.over
        with torch.no_grad():
            self.seen.append((self.task.loss(self.task.model, self.batch).item(), len(self.told)))
        more = super().__call__()
        self.over = not more
        return more


def watched(method, problem, budget):
    task, attached = measure.fresh(problem, method, 1.0, 0)
    watch = Watched(task, attached, budget)
    attached.solve(watch)
    return task, watch


@pytest.mark.parametrize("method", SOLVERS, ids=lambda m: m.name)
@pytest.mark.parametrize("steps", [1, 12])
def test_own_loops_stop_at_the_budget(method, steps):
    """The iteration that is under way when it is spent is the last, and nothing comes after it."""
    _, watch = watched(method, registry.problems()["brockett"], Budget(steps))
    assert watch.over
    assert len(watch.told) >= steps
    assert watch.seen[-2][1] < steps


@pytest.mark.parametrize("method", SOLVERS, ids=lambda m: m.name)
def test_own_loops_show_their_point(method):
    """What the runner finds in the model is the iterate: of losses that never grow."""
    _, watch = watched(method, registry.problems()["ica"], Budget(60))
    losses = [loss for loss, _ in watch.seen]
    assert len(losses) > 4
    assert losses == sorted(losses, reverse=True)
    if method.name != "riemopt-lbfgs":  # which evaluates for the runner, also at trial points
        for loss, told in watch.seen[1:]:
            assert watch.told[told - 1] == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("method", SOLVERS, ids=lambda m: m.name)
@pytest.mark.parametrize(
    "case", ["tall", "wide", "kernel", "batch", "symmetric", "rows", "columns"]
)
def test_solvers_find_the_nearest_point(case, method):
    surface, shape = SURFACES[case]
    problem = distance_problem(surface, shape, torch.float64)
    task, watch = watched(method, problem, Budget(400))
    nearest = surface.nearest(task.batch(0))
    torch.testing.assert_close(task.model.weight.detach(), nearest, rtol=0, atol=1e-5)
    bias = task.model.bias.detach()
    torch.testing.assert_close(bias, torch.ones_like(bias), rtol=0, atol=1e-5)
    assert watch.seen[-1][0] == pytest.approx(task.loss(task.model, task.batch(0)).item())


# --- against formulas ---


def stepped(name, problem, lr, steps=1):
    """The weight and its gradient at the start, the weight and the task after some steps."""
    task, attached = measure.fresh(problem, registry.methods()[name], lr, 0)
    X = task.weight("weight").detach().clone()
    G = X - task.batch(0)
    for _ in range(steps):
        attached.optimizer.zero_grad()
        task.loss(task.model, task.batch(0)).backward()
        attached.step()
    return X, G, task, attached


TALL = distance_problem(*SURFACES["tall"], torch.float64)


def test_a_level_set_is_stepped_as_the_manifold_of_the_same_equations():
    for case in ("tall", "rows", "symmetric"):
        problem = distance_problem(*SURFACES[case], torch.float64)
        _, _, one, _ = stepped("riemopt-level-set", problem, 0.03, steps=20)
        _, _, other, _ = stepped("riemopt-adam", problem, 0.03, steps=20)
        torch.testing.assert_close(one.model.weight, other.model.weight, rtol=0, atol=1e-10)


@needs.pogo
def test_a_step_of_pogo():
    X, G, task, _ = stepped("pogo-adam", TALL, 1e-3)
    X, G = X.mT, G.mT / G.norm()  # rows; VectorAdam's first step has norm one
    n, p = SURFACES["tall"][1]
    # By lr for an entry of a random gradient: it moves by half of the canonical one.
    length = 1e-3 * math.sqrt(n * p) / (math.sqrt(1 - p / n + 2 * p / n) / 2)
    M = X - length * (X @ X.mT @ G - X @ G.mT @ X) / 2
    expected = 1.5 * M - 0.5 * M @ M.mT @ M
    torch.testing.assert_close(task.model.weight.detach().mT, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(task.model.bias.detach(), torch.full((3,), 1e-3).double())


def test_a_step_of_landing():
    X, G, task, _ = stepped("landing", TALL, 1e-2)
    A = (G @ X.mT - X @ G.mT) / 2
    torch.testing.assert_close(task.model.weight.detach(), X - 1e-2 * A @ X)
    torch.testing.assert_close(task.model.bias.detach(), torch.full((3,), 1e-2).double())


@pytest.mark.parametrize("strength", [0.1, 1.0, 5.0])
def test_landing_stays_within_its_distance(strength):
    """Whatever the gradient, and from any point within: the safe step keeps it there."""
    generator = torch.Generator().manual_seed(0)
    shortened = 0
    for trial in range(200):
        X = Stiefel().start(torch.randn(7, 3, dtype=torch.float64, generator=generator))
        noise = torch.randn(3, 3, dtype=torch.float64, generator=generator)
        X = X @ torch.linalg.matrix_exp(0.3 * torch.rand((), generator=generator) * noise)
        if (X.mT @ X - torch.eye(3)).norm() > landing.DISTANCE:
            continue
        M = 10 ** (trial % 4 - 1) * torch.randn(7, 3, dtype=torch.float64, generator=generator)
        field, D = landing.direction(X, M, strength)
        turn = landing.direction(X, M, 0.0)[0]
        assert abs((turn * (X @ D)).sum()) < 1e-10 * turn.norm()
        eta = landing.safe_step(D, field, strength)
        X = X - eta * field
        distance = (X.mT @ X - torch.eye(3)).norm().item()
        assert distance <= landing.DISTANCE * (1 + 1e-12)
        shortened += bool(eta < 1 / (2 * strength))
    assert shortened > 20


def test_landing_stays_within_its_distance_in_training():
    _, _, task, _ = stepped("landing", DISTANCES["tall"], 0.3, steps=30)
    X = task.model.weight.detach().double()
    assert 1e-6 < (X.mT @ X - torch.eye(3)).norm() < landing.DISTANCE


@pytest.mark.parametrize("strength", penalty.WEIGHTS)
def test_the_gradient_of_the_penalty(strength):
    task = TALL.build(0)
    X = task.model.weight
    with torch.no_grad():
        X.mul_(1.3)
    task.loss(task.model, task.batch(0)).backward()
    penalty.add_gradient(task, strength)
    D = X.mT @ X - torch.eye(3)
    expected = X - task.batch(0) + 4 * strength * X @ D
    torch.testing.assert_close(X.grad, expected.detach())


def test_a_step_of_cdopt():
    problem = TALL
    task, attached = measure.fresh(problem, registry.methods()["cdopt"], 0.1, 0)
    (X,) = attached.stored().values()
    with torch.no_grad():
        X.mul_(1.1)
    gram = X.mT @ X
    D = gram - torch.eye(3)
    torch.testing.assert_close(task.weight("weight"), X @ (3 * torch.eye(3) - gram) / 2)
    attached.optimizer.step = lambda: None  # to see the gradient alone
    attached.step()
    torch.testing.assert_close(X.grad, (2 * cdopt.BETA * X @ D).detach())


@needs.pogo
def test_two_optimizers_as_one():
    """A schedule reaches both, and both states are counted."""
    for name in ("pogo-adam", "landing"):
        _, _, task, attached = stepped(name, TALL, 1e-3)
        assert len(attached.optimizer.state) == 2
        before = [p.detach().clone() for p in task.model.parameters()]
        for group in attached.optimizer.param_groups:
            group["lr"] = 0.0
        attached.step()
        after = list(task.model.parameters())
        assert torch.equal(after[1], before[1])
        torch.testing.assert_close(after[0].detach(), before[0], rtol=0, atol=1e-5)


# --- parametrize ---


def test_a_static_parametrization_has_no_base():
    for name, expected in (("parametrize-householder-static", 0), ("parametrize-householder", 1)):
        _, _, task, _ = stepped(name, TALL, 0.1)
        assert len(list(task.model.buffers())) == expected


@pytest.mark.parametrize("case", ["tall", "rows", "kernel"])
def test_imposing_moves_the_original_and_not_the_weight(case):
    problem, every = distance_problem(*SURFACES[case], torch.float64), parametrize.IMPOSE_EVERY
    weights, originals = [], []
    for name in ("parametrize-matrix-exp", "parametrize-imposed"):
        method = registry.methods()[name]
        if (skip := method.skip(problem)) is not None:
            method = registry.methods()[skip.same_as]
        torch.manual_seed(0)  # torch completes a tall matrix at random
        _, _, task, attached = stepped(method.name, problem, 0.01, steps=every)
        weights.append(task.weight("weight").detach())
        originals.append(attached.stored()["weight"].detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-10)
    assert (originals[0] - originals[1]).norm() > 0.1
    if case == "rows":
        torch.testing.assert_close(originals[1], weights[1], rtol=0, atol=1e-12)
    else:  # that of the base point itself
        assert originals[1].unique().tolist() == [-1, 0]


def test_decay_as_it_comes_takes_an_orthogonal_weight_to_zero():
    for case, factor in (("tall", 0.0), ("rows", 1.0)):
        _, _, task, _ = stepped("parametrize-decayed", DISTANCES[case], 0.01)
        norms = task.weight("weight").norm(dim=0 if case == "tall" else -1)
        torch.testing.assert_close(norms, torch.full_like(norms, factor))


@pytest.mark.parametrize("case", ["definite", "rank", "ball"])
def test_inverses_of_parametrizations(case):
    task = distance_problem(*SURFACES[case], torch.float64).build(0)
    weight = task.model.weight.detach().clone()
    parametrize.registration(SURFACES[case][0])(task.model, "weight")
    torch.testing.assert_close(task.model.weight.detach(), weight, rtol=0, atol=1e-13)
    torch.nn.init.normal_(task.model.parametrizations.weight.original)
    assert SURFACES[case][0].violation(task.model.weight) < 1e-14

"""Every problem of the benchmark: repeatable, on its surfaces, its minimum true."""

import math

import numpy as np
import pytest
import torch
from riemopt_bench import registry
from riemopt_bench.interface import Budget
from riemopt_bench.libraries import riemopt as riemopt_adapter
from riemopt_bench.problems import (
    _minima,
    dominant_subspace,
    karcher_mean,
    max_cut,
    nearest_correlation,
    online_pca,
    symmetric,
)
from riemopt_bench.problems._known_minimum import Point
from riemopt_bench.surfaces import Sphere, Stiefel
from riemopt_bench.train import measure
from torch.utils._pytree import tree_leaves

import riemopt

ALL = [
    pytest.param(p, id=p.name, marks=[pytest.mark.slow] if p.name == "mnist5k" else [])
    for p in registry.problems().values()
]
KNOWN = [
    pytest.param(p, id=p.name)
    for p in registry.problems().values()
    if p.full_batch and isinstance(p.build(0).model, Point)
]
STARTS = 4
"""Local minima of Thomson's problem are left behind by one of so many starts."""


def equal(one, two):
    """Whether two batches, or lists of tensors, are the same."""
    pairs = list(zip(tree_leaves(one), tree_leaves(two), strict=True))
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("problem", ALL)
def test_a_task_follows_from_its_seed_alone(problem):
    torch.manual_seed(0)
    np.random.seed(0)
    one = problem.build(3)
    torch.manual_seed(7)
    np.random.seed(7)
    again, other = problem.build(3), problem.build(4)
    assert equal(list(one.model.state_dict().values()), list(again.model.state_dict().values()))
    assert equal(one.batch(5), again.batch(5))
    assert one.loss(one.model, one.batch(5)).item() == again.loss(again.model, one.batch(5)).item()
    assert not (
        equal(list(one.model.parameters()), list(other.model.parameters()))
        and equal(one.batch(5), other.batch(5))
    )


@pytest.mark.parametrize("problem", ALL)
def test_weights_start_on_the_surfaces_that_are_declared(problem):
    task = problem.build(1)
    assert set(task.surfaces.values()) == problem.surfaces
    for name, surface in task.surfaces.items():
        weight = task.model.get_parameter(name).detach()
        largest = max(1.0, weight.abs().max().item())
        rounding = 10 * math.sqrt(weight.numel()) * torch.finfo(weight.dtype).eps
        assert surface.violation(weight) <= rounding * largest


@pytest.mark.parametrize("problem", ALL)
def test_a_batch_follows_from_its_step_alone(problem):
    task = problem.build(2)
    later = task.batch(9)
    first = task.batch(1)
    task.loss(task.model, first).backward()
    assert equal(task.batch(9), later)
    assert equal(first, later) == problem.full_batch


@pytest.mark.parametrize("problem", ALL)
def test_an_evaluation_is_finite_and_changes_nothing(problem):
    task = problem.build(2)
    task.model.eval()
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    with torch.no_grad():
        one, two = task.evaluate(task.model), task.evaluate(task.model)
    assert one == two
    assert math.isfinite(one.metric)
    assert math.isfinite(one.selection)
    assert all(equal(before[name], tensor) for name, tensor in task.model.state_dict().items())


@pytest.mark.parametrize("problem", ALL)
def test_the_loss_falls_in_a_few_steps(problem):
    """Over the same three batches."""
    method = registry.methods()["riemopt-adam"]
    task, attached = measure.fresh(problem, method, lr=3e-3, seed=1)

    @torch.no_grad()
    def loss():
        return sum(task.loss(task.model, task.batch(step)).item() for step in (1, 2, 3))

    before = loss()
    measure.train(task, attached, Budget(15, schedule="constant"), record=False)
    assert loss() < before


@pytest.mark.parametrize("problem", KNOWN)
def test_a_solver_gets_to_the_minimum_and_not_below(problem):
    metrics = []
    for seed in range(STARTS):
        task = problem.build(seed)
        (surface,) = problem.surfaces
        data, start = task.batch(0), task.weight("weight").detach()
        result = riemopt.minimize(
            lambda x, cost=task.model.cost, data=data: cost(x, data),
            start,
            riemopt_adapter.manifold(surface),
            tol=0.0,
            options={"gtol": 1e-9 if start.dtype == torch.float64 else 1e-5, "maxiter": 2000},
        )
        with torch.no_grad():
            task.model.weight.copy_(result.x)
        metrics.append(task.evaluate(task.model).metric)
    assert min(metrics) >= -problem.resolution
    assert min(metrics) <= max(1e-9, problem.resolution)


@pytest.mark.parametrize("problem", KNOWN)
def test_a_weight_beside_its_surface_is_judged_by_the_nearest_point(problem):
    task = problem.build(0)
    on = task.evaluate(task.model).metric
    (surface,) = problem.surfaces
    if isinstance(surface, Stiefel | Sphere):  # the nearest point of c·x is that of x
        with torch.no_grad():
            task.model.weight.mul_(3)
        assert task.evaluate(task.model).metric == pytest.approx(on, rel=1e-6)
    else:
        noise = torch.randn(task.model.weight.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            task.model.weight.add_(noise)
        beside = task.evaluate(task.model).metric
        with torch.no_grad():
            task.model.weight.copy_(surface.nearest(task.model.weight))
        assert task.evaluate(task.model).metric == pytest.approx(beside, rel=1e-6)


def test_minima_without_a_closed_form_are_those_of_other_algorithms():
    cut = _minima.semidefinite_minimum(max_cut.graph(max_cut.SIZE).numpy())
    assert cut == pytest.approx(max_cut.MINIMUM, rel=1e-12)
    matrix = nearest_correlation.matrix(nearest_correlation.SIZE).numpy()
    least = _minima.nearest_correlation_minimum(matrix)
    assert least == pytest.approx(nearest_correlation.MINIMUM, rel=1e-12)
    size = karcher_mean.COUNT, karcher_mean.SIDE
    mean = _minima.mean_by_fixed_point(karcher_mean.matrices(*size).numpy())
    least = karcher_mean.cost(torch.from_numpy(mean), karcher_mean.factors(*size))
    assert least.item() == pytest.approx(karcher_mean.MINIMUM, rel=1e-13)


def test_a_subspace_has_one_cost_in_all_its_bases():
    task = registry.problems()["dominant-subspace"].build(0)
    X, p = task.weight("weight").detach(), dominant_subspace.DIMENSION
    Q = Stiefel().start(torch.randn(p, p, dtype=X.dtype))
    torch.testing.assert_close(
        task.model.cost(X @ Q, task.batch(0)), task.model.cost(X, task.batch(0))
    )


def test_online_pca_is_judged_by_the_covariance_of_its_samples():
    """The leading directions of 1,000 batches come near the minimum, which they cannot pass."""
    task = registry.problems()["online-pca"].build(5)
    samples = torch.cat([task.batch(step) for step in range(1000)]).double()
    start = task.evaluate(task.model).metric
    top = torch.linalg.svd(samples, full_matrices=False).Vh[: online_pca.DIRECTIONS].mT
    with torch.no_grad():
        task.model.weight.copy_(top)
    assert 0 < task.evaluate(task.model).metric < 1e-3 < start
    # E f(X) = f* + gap·|f*|, and the relative error of a mean of n squares is √(2/n).
    expected = -(online_pca.deviations()[: online_pca.DIRECTIONS].square().sum().item())
    found = task.loss(task.model, samples.float()).item()
    assert found == pytest.approx(expected, rel=3 * math.sqrt(2 / len(samples)))


def test_the_symmetric_layer_is_judged_by_its_expected_loss():
    task = registry.problems()["symmetric"].build(5)
    layer, size = task.model, symmetric.SIDE

    def expected_loss():
        with torch.no_grad():
            losses = [task.loss(layer, task.batch(step)).item() for step in range(300)]
        return np.mean(losses)

    def state(weight, bias):
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        return task.evaluate(layer).metric, expected_loss() - symmetric.NOISE**2

    metric, excess = state(layer.weight.clone(), layer.bias.clone())
    at_zero, whole = state(torch.zeros(size, size), torch.zeros(size))
    assert at_zero == pytest.approx(1)
    assert metric == pytest.approx(excess / whole, rel=0.02)
    # Least squares on 19,200 samples: an unconstrained fit is near the layer that is sought.
    inputs, outputs = map(torch.cat, zip(*map(task.batch, range(300)), strict=True))
    ones = torch.ones(len(inputs), 1)
    fit = torch.linalg.lstsq(torch.cat([inputs, ones], 1).double(), outputs.double()).solution
    metric, _ = state(fit[:-1].mT, fit[-1])
    assert 0 < metric < 1e-3

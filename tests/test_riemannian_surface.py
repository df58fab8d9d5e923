"""Constrained weights stepped by any optimizer: they stay on their manifolds."""

import copy
import inspect
import math

import pytest
import torch

from riemopt.manifolds import Sphere
from riemopt.optim import riemannian
from tests.riemannian_cases import (
    BASES,
    DTYPES,
    LOOKS_AT_ALL,
    OPTIONS,
    POINTS,
    TORCH,
    assert_equal_entries,
    assert_on_the_surface,
    every_class,
    every_point,
    fill,
    make,
    noise,
    plain_weights,
    run,
    weight,
)


@pytest.mark.sampled(3)
@every_class
def test_a_thousand_steps_in_float32(name):
    params = [weight(point) for point in POINTS]
    starts = [p.detach().clone() for p in params]
    optimizer = make(name, params)
    gradients = [[noise(p.shape, 50 * i + j) for j, p in enumerate(params)] for i in range(37)]
    for step in range(1000):
        for p, g in zip(params, gradients[step % 37], strict=True):
            p.grad = g.clone()
        optimizer.step()
        if step in (0, 10, 999):
            for p, x in zip(params, starts, strict=True):
                assert_on_the_surface(p)
                assert not torch.equal(p, x)
    assert optimizer.skipped_steps == 0


@every_class
@every_point
def test_a_gradient_is_never_written(name, point):
    for options in ({}, {"maximize": True}):
        if not options.keys() <= inspect.signature(BASES[name]).parameters.keys():
            continue
        p = weight(point)
        optimizer = make(name, [p], **options)
        for step in range(3):
            fill([p], step)
            optimizer.step()
            assert torch.equal(p.grad, noise(p.shape, 100 * step))
        assert p.grad_fn is None
        assert p.requires_grad


@every_class
@every_point
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gradient_that_is_not_finite_changes_nothing(name, point, dtype):
    params = [weight(point, seed, dtype) for seed in range(3)]
    optimizer = make(name, params)
    run(optimizer, params, 2)
    for number, bad in enumerate((math.nan, math.inf, -math.inf)):
        before = copy.deepcopy([p.detach() for p in params])
        kept = copy.deepcopy(optimizer.state[params[1]])
        fill(params, 5 + number)
        params[1].grad.view(-1)[number] = bad
        optimizer.step()
        assert torch.equal(params[1], before[1])
        assert_equal_entries(optimizer.state[params[1]], kept)
        assert not torch.equal(params[0], before[0])
        assert not torch.equal(params[2], before[2])
        assert optimizer.skipped_steps == number + 1
    run(optimizer, params, 2, start=9)
    assert not torch.equal(params[1], before[1])
    for p in params:
        assert p.isfinite().all()
        assert_on_the_surface(p)
    assert optimizer.skipped_steps == 3


@every_class
def test_a_first_gradient_that_is_not_finite(name):
    params = [weight("tall", seed) for seed in range(2)]
    optimizer = make(name, params)
    before = params[0].detach().clone()
    fill(params, 0)
    params[0].grad.fill_(math.nan)
    optimizer.step()
    assert torch.equal(params[0], before)
    assert optimizer.skipped_steps == 1
    run(optimizer, params, 2, start=1)
    for p in params:
        assert p.isfinite().all()
        assert_on_the_surface(p)


@every_class
@every_point
def test_a_zero_gradient_changes_no_bit(name, point):
    p = weight(point)
    before = p.detach().clone()
    options = {"weight_decay": 0.0, "lambd": 0.0, "adamw": {"weight_decay": 0.0}}
    known = inspect.signature(riemannian(BASES[name])).parameters.keys()
    optimizer = make(name, [p], **{k: v for k, v in options.items() if k in known})
    for _ in range(3):
        p.grad = torch.zeros_like(p)
        optimizer.step()
    assert torch.equal(p, before)


@pytest.mark.parametrize("point", ["sphere", "tall", "square"])
def test_decay_towards_zero_that_has_no_name_is_dropped_too(point):
    """ASGD shrinks weights by `lambd`, of which a sphere has no tangent part."""
    p = weight(point)
    before = p.detach().clone()
    optimizer = make("ASGD", [p], lambd=0.1)
    for _ in range(3):
        p.grad = torch.zeros_like(p)
        optimizer.step()
    torch.testing.assert_close(p.detach(), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TORCH)
def test_differentiable_steps_on_a_sphere(name):
    if "differentiable" not in inspect.signature(BASES[name]).parameters:
        pytest.skip("it has no such option")

    def end(g):
        p = weight("sphere", dtype=torch.float64).detach().requires_grad_().clone()
        group = {"params": [p], "manifold": Sphere()}
        optimizer = make(name, [group], differentiable=True)
        p.grad = g
        optimizer.step()
        return p

    g = noise((4, 6), 2, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(end, (g,))


@every_class
def test_one_by_one_equals_stacked(name):
    if "foreach" not in inspect.signature(BASES[name]).parameters:
        pytest.skip("it has no such option")
    points = ["tall", "tall", "sphere", "tall", "symmetric"]
    ours, alone = ([weight(s, i, torch.float64) for i, s in enumerate(points)] for _ in range(2))
    stacked, single = make(name, ours), make(name, alone, foreach=False)
    for step in range(4):
        for params, optimizer in ((ours, stacked), (alone, single)):
            fill(params, step)
            if step == 1:
                params[1].grad = None  # its counter is another from here on
            optimizer.step()
    for p, q in zip(ours, alone, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-11)
        assert stacked.state[p].keys() == single.state[q].keys()
        for key, value in stacked.state[p].items():
            torch.testing.assert_close(value, single.state[q][key], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", [n for n in BASES if n not in LOOKS_AT_ALL])
def test_mixed_groups_equal_separate_optimizers(name):
    def weights():
        return [weight("tall"), *plain_weights(), weight("sphere", 3), weight("tall", 4)]

    mixed, apart = weights(), weights()
    groups = [{"params": mixed[:3]}, {"params": mixed[3:], "lr": 0.03}]
    together = make(name, groups)
    optimizers = [make(name, [p], lr=OPTIONS[name]["lr"]) for p in apart[:3]]
    optimizers += [make(name, [p], lr=0.03) for p in apart[3:]]
    for step in range(4):
        fill(mixed, step)
        fill(apart, step)
        if step == 1:
            mixed[5].grad = apart[5].grad = None
        together.step()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(mixed, apart, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-6, atol=1e-6)


# --- half precision ----------------------------------------------------------------------------


@every_class
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_half_weight_is_stepped_in_float32_and_rounded(name, dtype):
    """By a float32 optimizer that is put back to the rounded weight after each step."""
    half, full = ([weight("tall", s, d) for s in range(2)] for d in (dtype, torch.float32))
    ours, exact = make(name, half), make(name, full)
    for step in range(5):
        with torch.no_grad():
            for p, q in zip(half, full, strict=True):
                q.copy_(p)
        fill(half, step)
        for p, q in zip(half, full, strict=True):
            q.grad = p.grad.float()
        ours.step()
        exact.step()
        for p, q in zip(half, full, strict=True):
            assert torch.equal(p, q.detach().to(dtype))
            assert_equal_entries(ours.state[p], exact.state[q])


@every_class
def test_small_steps_of_a_half_weight_leave_their_trace_in_the_state(name):
    """The state is in float32, and knows of gradients that bfloat16 would lose beside others."""
    p = weight("tall", dtype=torch.bfloat16)
    optimizer = make(name, [p])
    run(optimizer, [p], 2)
    tensors = {k: v for k, v in optimizer.state[p].items() if isinstance(v, torch.Tensor)}
    assert all(v.dtype == torch.float32 for v in tensors.values() if v.ndim)
    before = copy.deepcopy(tensors)
    p.grad = 1e-5 * noise(p.shape, 3, p.dtype)
    optimizer.step()
    assert not tensors or any(
        not torch.equal(optimizer.state[p][key], value) for key, value in before.items()
    )

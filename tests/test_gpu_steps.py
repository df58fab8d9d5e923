"""Steps of optimizers on a GPU: nothing waits, graphs replay, and training is as on a CPU."""

import copy
import io

import pytest
import torch
from torch import nn

import riemopt
from riemopt import ManifoldParameter, RiemannianAdam, constrain, constraints
from riemopt.manifolds import Sphere, Stiefel, Symmetric
from tests.devices import (
    as_accelerator,
    every_device,
    no_waiting,
    on_devices,
    peak_bytes,
    replayed,
    side_stream,
)
from tests.laws import assert_on_surface
from tests.manifold_cases import generator, name
from tests.test_no_host_sync import MANIFOLDS, OPTIMIZERS

ADAMS = ("adam", "adamw", "point", "carried")
STEPS = [(make, case) for make in OPTIMIZERS for case in MANIFOLDS]
STEPS_HERE = [("point", "stiefel"), ("adam", "stiefel-square"), ("momentum", "level-set-two")]
HALF = [torch.bfloat16, torch.float16]


def randn(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def parameters(case, device, dtype=torch.float32, count=3):
    """Of one manifold, and one that is free."""
    manifold, shape = MANIFOLDS[case]
    points = [manifold.project(randn(shape, i, torch.float64)) for i in range(count)]
    return [nn.Parameter(x.to(device, dtype)) for x in (*points, randn((5,), count))]


def optimizer_of(make, case, params, **options):
    groups = [{"params": params[:-1], "manifold": MANIFOLDS[case][0]}, {"params": params[-1:]}]
    return OPTIMIZERS[make](groups, **options)


def fill(params, step):
    """Gradients, where a graph expects them."""
    for i, p in enumerate(params):
        g = randn(p.shape, 100 * step + i, torch.float64).to(p.device, p.dtype)
        p.grad = g if p.grad is None else p.grad.copy_(g)


def take(step, params, numbers):
    for number in numbers:
        fill(params, number)
        step()


def for_a_graph(make, device):
    """Options with which a step can be part of a CUDA graph."""
    return {"capturable": True} if make in ADAMS and device == "cuda" else {}


# --- the host waits for nothing ------------------------------------------------------------------


@on_devices("make,case", STEPS, STEPS_HERE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name)
def test_a_step_waits_for_nothing(device, make, case, dtype):
    """In half precision, too, and the weights are where they belong."""
    params = parameters(case, device, dtype)
    optimizer = optimizer_of(make, case, params)
    with as_accelerator(device):
        take(optimizer.step, params, range(2))
        fill(params, 2)
        with no_waiting(device):
            optimizer.step()
            optimizer.step()
    for p in params[:-1]:
        assert bool(p.isfinite().all())
        manifold = MANIFOLDS[case][0]
        if not manifold.allows_elementwise_scaling:
            full = p.detach().double()
            assert bool((manifold.violation(full) <= manifold.tolerance(p.detach())).all())
    assert optimizer.skipped_steps == 0


@every_device()
def test_the_debug_mode_sees_what_waits(device):
    """A check of the check."""
    a = torch.ones(3, device=device)
    if device == "cpu":
        pytest.skip("of CUDA alone")
    with pytest.raises(RuntimeError, match="synchroniz"), no_waiting(device):
        a.sum().item()
    assert a.sum().item() == 3  # no debug mode any more


# --- graphs --------------------------------------------------------------------------------------


@on_devices("make,case", STEPS, STEPS_HERE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_a_graph_replays_the_step(device, make, case, dtype):
    """Three steps and three replays are six steps."""
    results = []
    for graph in (False, True):
        params = parameters(case, device, dtype)
        optimizer = optimizer_of(make, case, params, **for_a_graph(make, device))
        with as_accelerator(device):
            with side_stream(device):
                take(optimizer.step, params, range(3))
            step = replayed(optimizer.step, device) if graph else optimizer.step
            take(step, params, range(3, 6))
        results.append(params)
        assert optimizer.skipped_steps == 0
    # In float32 the products may be other kernels', which take TF32 inputs.
    close = {"rtol": 2e-3, "atol": 2e-3} if dtype is torch.float32 else {"rtol": 1e-8, "atol": 1e-8}
    for p, q in zip(*results, strict=True):
        torch.testing.assert_close(q, p, **close)


@on_devices("make,case", STEPS[: 2 * len(MANIFOLDS)], STEPS_HERE[:1])
def test_a_graph_refuses_what_is_not_finite(device, make, case):
    """And counts it at each replay."""
    params = parameters(case, device)
    optimizer = optimizer_of(make, case, params, **for_a_graph(make, device))
    with as_accelerator(device):
        with side_stream(device):
            take(optimizer.step, params, range(2))
        step = replayed(optimizer.step, device)
        params[0].grad.fill_(torch.nan)
        before = [p.detach().clone() for p in params]
        step()
        step()
    assert torch.equal(params[0], before[0])
    assert all(not torch.equal(p, q) for p, q in zip(params[1:], before[1:], strict=True))
    assert optimizer.skipped_steps == 2


@every_device()
def test_a_whole_iteration_is_one_graph(device):
    """Forward, backward and step, as torch's manual has it, with a learning rate that changes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8)).to(device)
    constrain(model[0], "weight", Stiefel())
    constrain(model[2], "weight", Sphere())
    lr = torch.tensor(0.02, device=device)
    options = for_a_graph("adam", device)
    optimizer = RiemannianAdam(model.parameters(), lr=lr, **options)
    data = randn((64, 8), 0).to(device)
    losses = torch.zeros(60, device=device)

    def iteration():
        optimizer.zero_grad(set_to_none=False)
        loss = (model(data) - data.flip(1)).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    with as_accelerator(device):
        with side_stream(device):
            for _ in range(3):
                iteration()
        loss = torch.zeros((), device=device)
        step = replayed(lambda: loss.copy_(iteration().detach()), device)
        for i in range(len(losses)):
            step()
            losses[i] = loss
            lr.mul_(0.98)
    assert losses[-1] < 0.6 * losses[0]
    assert all(c.satisfied for c in constraints(model))


# --- mixed precision -----------------------------------------------------------------------------


def small_model(device, dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Linear(32, 8))
    for i, manifold in ((0, Stiefel()), (2, Stiefel()), (3, Sphere())):
        constrain(model[i], "weight", manifold)
    return model.to(device, dtype)


@on_devices("fused", [None, True], [None, True])
def test_a_grad_scaler_leaves_out_what_overflows(device, fused):
    """With `fused` the optimizer unscales, on the device."""
    model = small_model(device)
    optimizer = RiemannianAdam(model.parameters(), lr=0.02, fused=fused)
    scaler = torch.amp.GradScaler(device, init_scale=1024.0)
    data = randn((64, 8), 0).to(device)
    for step in range(4):
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        loss = (model(data) - data).square().mean()
        with as_accelerator(device):
            scaler.scale(loss).backward()
            if step == 2:
                model[0].weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
        for p, old in zip(model.parameters(), before, strict=True):
            assert torch.equal(p, old) == (step == 2)
        assert scaler.get_scale() == (1024 if step < 2 else 512)
    assert optimizer.skipped_steps == 0  # it is the scaler's own count
    assert all(c.satisfied for c in constraints(model))


@on_devices("make", OPTIMIZERS, ["adam"])
def test_training_in_autocast(device, make):
    """The loss falls, and a step in the block is the step outside."""
    ends = []
    for inside in (False, True):
        model = small_model(device)
        optimizer = OPTIMIZERS[make](model.parameters())
        data = randn((64, 8), 0).to(device)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16):
                loss = (model(data).float() - data).square().mean()
                loss.backward()
                if inside:
                    optimizer.step()
            if not inside:
                optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]
        assert all(c.satisfied for c in constraints(model))
        ends.append(list(model.parameters()))
    for p, q in zip(*ends, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-5)


@on_devices("make,dtype", [(m, d) for m in OPTIMIZERS for d in HALF], [("adam", HALF[1])], ids=name)
def test_half_weights_train(device, make, dtype):
    model = small_model(device, dtype)
    # Adam's eps is 0 in float16, and torch steps biases in their own precision.
    safe = {"eps": 1e-4} if make in ADAMS else {}
    optimizer = OPTIMIZERS[make](model.parameters(), **safe)
    data = randn((64, 8), 0).to(device, dtype)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (model(data) - data).square().mean()
        loss.backward()
        with as_accelerator(device):
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(p.dtype is dtype for p in model.parameters())
    for layer in (model[0], model[2]):
        assert_on_surface(Stiefel(), layer.weight.detach())


# --- memory --------------------------------------------------------------------------------------

WEIGHTS = {  # and the most that a step allocates, in bytes of the weights
    "tall": (Stiefel(), (8192, 64), 1, 4),
    "wide": (Stiefel(), (64, 8192), 1, 4),
    "square": (Stiefel(), (1024, 1024), 1, 7),  # the exponential's matrices are of that size
    "sphere": (Sphere(), (2048, 1024), 1, 3),
    "symmetric": (Symmetric(), (1024, 1024), 1, 4),
    "separate": (Stiefel(), (64, 64), 256, 8),
}
BY_TORCH = 6
"""What torch's own step of Adam makes besides."""


@on_devices(
    "make,case",
    [(make, case) for make in ("momentum", "adam", "point") for case in WEIGHTS],
    [("point", "tall"), ("point", "square"), ("adam", "separate"), ("momentum", "sphere")],
)
def test_peak_memory_of_a_step(device, make, case):
    manifold, shape, count, most = WEIGHTS[case]
    if device == "cpu":
        shape, count = tuple(n // 8 for n in shape), min(count, 32)
    params = [nn.Parameter(manifold.random_point(*shape).to(device)) for _ in range(count)]
    fill(params, 0)
    optimizer = OPTIMIZERS[make]([{"params": params, "manifold": manifold}])
    with as_accelerator(device):
        optimizer.step()
        optimizer.step()
        state = [v for s in optimizer.state.values() for v in s.values()]
        kept = [*params, *(p.grad for p in params), *state]
        peak = peak_bytes(optimizer.step, kept, device)
    allowed = (most + BY_TORCH * (make == "adam") + 0.1) * sum(p.nbytes for p in params)
    # What is rounded up by an allocator, and scratch memory of the libraries, comes on top.
    allowed += (1 << 21) if device == "cuda" else 0
    assert peak <= allowed, peak / sum(p.nbytes for p in params)


# --- checkpoints ---------------------------------------------------------------------------------


@on_devices(
    "make,case",
    [(make, case) for make in OPTIMIZERS for case in ("stiefel", "sphere", "spd", "level-set")],
    STEPS_HERE[:2],
)
def test_training_goes_on_where_it_was_on_another_device(device, make, case):
    """Saved on one and loaded on the other, both ways, as torch does it with `map_location`."""
    for first, second in ((device, "cpu"), ("cpu", device)):
        alone = parameters(case, "cpu", torch.float64)
        take(optimizer_of(make, case, alone).step, alone, range(6))
        params = parameters(case, first, torch.float64)
        optimizer = optimizer_of(make, case, params)
        take(optimizer.step, params, range(3))
        file = io.BytesIO()
        torch.save({"optimizer": optimizer.state_dict(), "params": params}, file)
        file.seek(0)
        loaded = torch.load(file, map_location=second)
        params = [nn.Parameter(p.detach()) for p in loaded["params"]]
        optimizer = optimizer_of(make, case, params)
        optimizer.load_state_dict(loaded["optimizer"])
        take(optimizer.step, params, range(3, 6))
        for p, q in zip(params, alone, strict=True):
            assert p.device.type == second
            torch.testing.assert_close(p.cpu(), q, rtol=1e-7, atol=1e-9)


@every_device()
def test_a_model_moves_with_its_constraints(device):
    """`.to(device)` before and after the optimizer is made, and copies."""
    model = small_model("cpu")
    early = RiemannianAdam(model.parameters(), lr=0.1)
    model.to(device)  # as in torch, the parameters are the same objects
    late = RiemannianAdam(model.parameters(), lr=0.1)
    copied = copy.deepcopy(model)
    for optimizer, which in (
        (early, model),
        (late, model),
        (RiemannianAdam(copied.parameters()), copied),
    ):
        fill(list(which.parameters()), 0)
        with as_accelerator(device):
            optimizer.step()
        assert all(c.satisfied for c in constraints(which))
        assert all(p.device.type == device for p in which.parameters())
    weight = ManifoldParameter(torch.randn(6, 3, device=device), Stiefel())
    assert weight.device.type == device
    assert riemopt.manifold_of(weight) == Stiefel()

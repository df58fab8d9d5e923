"""The pieces of a usual training loop: scalers, schedulers, clipping, hooks, checkpoints."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import riemopt
from riemopt import constrain, constraints
from riemopt.manifolds import SkewSymmetric, Sphere, Stiefel, Symmetric


class Net(nn.Module):
    """One constrained layer of each kind."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.tall = nn.Linear(6, 8)
        self.square = nn.Linear(8, 8)
        self.skew = nn.Linear(8, 8)
        self.rows = nn.Linear(8, 4)
        self.head = nn.Linear(4, 2)
        constrain(self.tall, "weight", Stiefel())
        constrain(self.square, "weight", Symmetric())
        constrain(self.skew, "weight", SkewSymmetric())
        constrain(self.rows, "weight", Sphere())

    def forward(self, x):
        x = torch.tanh(self.tall(x))
        return self.head(torch.tanh(self.rows(self.skew(self.square(x)))))


def _batch(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 6, generator=generator)
    return x, x[:, :2].sin()


def _loss(model, step):
    x, y = _batch(step)
    return (model(x) - y).square().mean()


def _train(model, optimizer, steps, start=0, after=lambda: None):
    losses = []
    for step in range(start, start + steps):
        optimizer.zero_grad()
        loss = _loss(model, step)
        loss.backward()
        optimizer.step()
        after()
        losses.append(loss.item())
    return losses


def _adam(model, **options):
    return riemopt.RiemannianAdam(model.parameters(), **{"lr": 0.01, **options})


def _sgd(model, **options):
    return riemopt.RiemannianSGD(model.parameters(), **{"lr": 0.01, "momentum": 0.9, **options})


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=40),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[3]
    ),
}


@pytest.mark.parametrize("make", [_sgd, _adam])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(make, name):
    model = Net()
    optimizer = make(model)
    scheduler = SCHEDULERS[name](optimizer)
    losses = _train(model, optimizer, 8, after=scheduler.step)
    assert all(map(math.isfinite, losses))
    assert all(c.satisfied for c in constraints(model))


@pytest.mark.parametrize("make", [_sgd, _adam])
@pytest.mark.parametrize("implementation", [{}, {"foreach": True}, {"fused": True}])
def test_grad_scaler_changes_nothing_but_skips_infinities(make, implementation):
    plain, scaled = Net(), Net()
    reference = make(plain, **implementation)
    optimizer = make(scaled, **implementation)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    for step in range(6):
        if step != 3:
            reference.zero_grad()
            _loss(plain, step).backward()
            reference.step()
        optimizer.zero_grad()
        scaler.scale(_loss(scaled, step) * (math.inf if step == 3 else 1)).backward()
        before = copy.deepcopy(scaled.state_dict())
        scaler.step(optimizer)
        scaler.update()
        if step == 3:
            assert all(torch.equal(v, before[k]) for k, v in scaled.state_dict().items())
    for p, q in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    assert scaler.get_scale() == 512.0
    assert optimizer.skipped_steps == 0
    assert all(c.satisfied for c in constraints(scaled))


@pytest.mark.parametrize("make", [_sgd, _adam])
def test_autocast_one_cycle_checkpoint_and_resume_give_the_same_curve(make, tmp_path):
    def parts():
        model = Net()
        optimizer = make(model)
        scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=30)
        return model, optimizer, scheduler, torch.amp.GradScaler("cpu", init_scale=256.0)

    def run(model, optimizer, scheduler, scaler, start, stop):
        losses = []
        for step in range(start, stop):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = _loss(model, step)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            losses.append(loss.item())
        return losses

    whole = run(*parts(), 0, 20)
    first = parts()
    start = run(*first, 0, 10)
    torch.save([part.state_dict() for part in first], tmp_path / "checkpoint.pt")
    second = parts()
    for part, state in zip(second, torch.load(tmp_path / "checkpoint.pt"), strict=True):
        part.load_state_dict(state)
    assert start + run(*second, 10, 20) == whole
    assert whole[-1] < whole[0]
    assert all(c.satisfied for c in constraints(second[0]))


@pytest.mark.parametrize("make", [_sgd, _adam])
def test_stepping_inside_backward(make):
    joint, hooked = Net(), Net()
    _train(joint, make(joint), 3)
    cls = type(make(joint))
    options = {k: v for k, v in (("lr", 0.01), ("momentum", 0.9)) if k == "lr" or make is _sgd}
    optimizers = {p: cls([p], **options) for p in hooked.parameters()}

    def step(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in hooked.parameters():
        p.register_post_accumulate_grad_hook(step)
    for i in range(3):
        _loss(hooked, i).backward()
    for p, q in zip(joint.parameters(), hooked.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("make", [_sgd, _adam])
def test_hooks_fire_once(make):
    model = Net()
    torch.optim.SGD(model.parameters())  # torch's classes patch their own `step` when first made
    torch.optim.Adam(model.parameters())
    optimizer, calls = make(model), []
    optimizer.register_step_pre_hook(lambda *a: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *a: calls.append("post"))
    _train(model, optimizer, 1)
    assert calls == ["pre", "post"]


@pytest.mark.parametrize("make", [_sgd, _adam])
def test_a_parameter_group_added_later(make):
    model = Net()
    optimizer = type(make(model))([model.head.bias], lr=0.01)
    optimizer.add_param_group(
        {"params": [p for p in model.parameters() if p is not model.head.bias]}
    )
    assert "1 on Stiefel" in repr(optimizer)
    _train(model, optimizer, 3)
    assert all(c.satisfied for c in constraints(model))


def test_the_distributed_checkpoint_protocol_creates_state_without_moving_a_weight():
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    model, twin = Net(), Net()
    optimizer, resumed = _adam(model), _adam(twin)
    _train(model, optimizer, 3)
    state = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    before = copy.deepcopy(twin.state_dict())
    get_optimizer_state_dict(twin, resumed)
    for key, value in twin.state_dict().items():
        assert torch.equal(value, before[key])
    twin.load_state_dict(model.state_dict())
    set_optimizer_state_dict(twin, resumed, state)
    assert _train(model, optimizer, 3, start=3) == _train(twin, resumed, 3, start=3)

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
from tests import needs


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


SCHEDULERS = {  # every one of torch's
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 4),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 6, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=40),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], optimizer=o
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.05, anneal_epochs=4),
}


def test_no_scheduler_of_torch_is_left_out():
    assert {*lr_scheduler.__all__, "SWALR"} - {"LRScheduler"} == SCHEDULERS.keys()


@pytest.mark.filterwarnings("ignore::UserWarning:torch.optim.lr_scheduler")
@pytest.mark.parametrize("lr", [0.01, torch.tensor(0.01)], ids=["float", "tensor"])
@pytest.mark.parametrize("make", [_sgd, _adam])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_set_what_they_set_in_torch(make, name, lr):
    """Rates and momenta, hence an unconstrained weight, are those of torch's optimizer."""
    model, plain, twin = Net(), nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    ours = make(model, lr=copy.deepcopy(lr))
    ours.add_param_group({"params": [plain]})
    theirs = (torch.optim.SGD if make is _sgd else torch.optim.Adam)(
        [{"params": list(Net().parameters())}, {"params": [twin]}], lr=copy.deepcopy(lr)
    )
    if make is _sgd:
        for group in theirs.param_groups:
            group["momentum"] = 0.9
        theirs.defaults["momentum"] = 0.9
    schedulers = [SCHEDULERS[name](ours), SCHEDULERS[name](theirs)]
    seen = set()
    for step in range(8):
        ours.zero_grad()
        loss = _loss(model, step)
        loss.backward()
        plain.grad, twin.grad = torch.full((3,), 1.0 - step), torch.full((3,), 1.0 - step)
        for optimizer, scheduler in zip((ours, theirs), schedulers, strict=True):
            optimizer.step()
            scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
        for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
            for key in ("lr", "momentum", "betas"):
                assert a.get(key) == b.get(key), key
            seen.add((float(a["lr"]), a.get("momentum"), a.get("betas")))
        assert torch.equal(plain, twin)
    assert len(seen) > 1
    assert loss.isfinite()
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


@pytest.mark.parametrize("make", [_sgd, _adam])
def test_accumulated_gradients_are_those_of_the_whole_batch(make):
    whole, parts = Net(), Net()
    a, b = make(whole), make(parts)
    for step in range(4):
        x, y = _batch(step)
        a.zero_grad()
        b.zero_grad()
        (whole(x) - y).square().mean().backward()
        for rows in (slice(0, 8), slice(8, 16)):
            ((parts(x[rows]) - y[rows]).square().mean() / 2).backward()
        a.step()
        b.step()
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert all(c.satisfied for c in constraints(parts))


@pytest.mark.parametrize("make", [_sgd, _adam])
@pytest.mark.parametrize("clip", [nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_])
def test_clipped_gradients_are_what_the_step_takes(make, clip):
    model, twin = Net(), Net()
    a, b = make(model), make(twin)
    for step in range(3):
        a.zero_grad()
        _loss(model, step).backward()
        clip(model.parameters(), 1e-3)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            q.grad = p.grad.clone()
        clip(model.parameters(), 1e-3)  # changes nothing: it is clipped, and the step reads it
        a.step()
        b.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


@needs.compiled_steps
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("make", [_sgd, _adam])
def test_compiled_model_and_compiled_step_train_as_eager_ones(make):
    torch._dynamo.reset()
    eager, compiled = Net(), Net()
    optimizers = [make(eager, lr=torch.tensor(0.01)), make(compiled, lr=torch.tensor(0.01))]
    schedulers = [lr_scheduler.ExponentialLR(o, 0.9) for o in optimizers]
    model = torch.compile(compiled, backend="eager", fullgraph=True)
    step = torch.compile(type(optimizers[1]).step, backend="eager", fullgraph=True)
    for i in range(4):
        for net, optimizer in zip((eager, model), optimizers, strict=True):
            optimizer.zero_grad()
            _loss(net, i).backward()
        optimizers[0].step()
        step(optimizers[1])
        for scheduler in schedulers:
            scheduler.step()
    for p, q in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert all(c.satisfied for c in constraints(compiled))


@pytest.mark.parametrize("make", [_sgd, _adam])
@pytest.mark.parametrize("kind", ["swa", "ema"])
def test_averaged_models_in_a_loop_and_over_a_checkpoint(make, kind):
    from torch.optim.swa_utils import AveragedModel

    from riemopt.swa_utils import get_ema_avg_fn, get_swa_avg_fn

    average = get_swa_avg_fn() if kind == "swa" else get_ema_avg_fn(0.8)

    def parts(seed):
        model = Net(seed)
        return model, make(model), AveragedModel(model, avg_fn=average)

    model, optimizer, averaged = parts(0)
    _train(model, optimizer, 4, after=lambda: averaged.update_parameters(model))
    second = parts(1)
    for part, saved in zip(second, (model, optimizer, averaged), strict=True):
        part.load_state_dict(copy.deepcopy(saved.state_dict()))
    for m, o, a in ((model, optimizer, averaged), second):
        _train(m, o, 4, start=4, after=lambda a=a, m=m: a.update_parameters(m))
    for p, q in zip(averaged.parameters(), second[2].parameters(), strict=True):
        assert torch.equal(p, q)
    assert len(constraints(averaged)) == 4
    assert all(c.satisfied for c in constraints(averaged))
    assert not torch.equal(averaged.module.tall.weight, model.tall.weight)


@pytest.mark.parametrize("make", [_sgd, _adam])
def test_state_dict_hooks_see_the_state_as_it_is_saved(make):
    model = Net()
    optimizer = make(model)
    _train(model, optimizer, 2)
    seen = []
    optimizer.register_state_dict_post_hook(lambda o, state: seen.append(len(state["state"])))
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(len(o.state)))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert seen == [len(list(model.parameters()))] * 2


@pytest.mark.parametrize("make", [_sgd, _adam])
@pytest.mark.parametrize("direction", ["torch to riemopt", "riemopt to torch"])
def test_a_run_continues_with_the_other_packages_optimizer(make, direction):
    """The state of a whole model moves, the unconstrained weights go on as if nothing happened."""
    model = Net()
    theirs = torch.optim.SGD if make is _sgd else torch.optim.Adam
    options = {"lr": 0.01, **({"momentum": 0.9} if make is _sgd else {})}
    first, second = (
        (theirs, type(make(model))) if direction[0] == "t" else (type(make(model)), theirs)
    )
    before = first(model.parameters(), **options)
    _train(model, before, 5)
    after = second(model.parameters(), **options)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    twin = copy.deepcopy(model)
    reference = first(twin.parameters(), **options)
    reference.load_state_dict(copy.deepcopy(before.state_dict()))
    losses = _train(model, after, 1, start=5)
    assert losses == _train(twin, reference, 1, start=5)
    for name in ("head.weight", "head.bias", "tall.bias"):
        assert torch.equal(model.get_parameter(name), twin.get_parameter(name)), name
    _train(model, after, 5, start=6)
    assert all(map(math.isfinite, losses))
    if direction == "torch to riemopt":
        assert all(c.satisfied for c in constraints(model))

"""`riemannian(cls)`: every class of torch.optim, and two optimizers of another package.

The class itself, and the numbers of `cls` on unconstrained weights, bit for bit. What becomes of
constrained weights is in `test_riemannian_surface`, `_state` and `_decay`.
"""

import copy
import inspect
import pickle
import re

import pytest
import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer

from riemopt import ManifoldParameter
from riemopt.manifolds import Symmetric
from riemopt.optim import RiemannianOptimizer, riemannian
from tests.riemannian_cases import (
    BASES,
    LOOKS_AT_ALL,
    OPTIONS,
    OUTSIDE,
    REFUSED,
    TORCH,
    Clipped,
    assert_equal_entries,
    assert_on_the_surface,
    assert_same_state,
    every_class,
    fill,
    make,
    noise,
    plain_weights,
    run,
    weight,
)

# Options of Riemannian optimizers alone.
OURS = ("second_moment", "direction", "msign_steps", "adamw")

# --- the class ---------------------------------------------------------------------------------


@every_class
def test_the_class(name):
    base, cls = BASES[name], riemannian(BASES[name])
    assert riemannian(base) is cls
    assert cls.base is base
    assert issubclass(cls, base)
    assert issubclass(cls, RiemannianOptimizer)
    assert cls.__name__ == cls.__qualname__ == f"Riemannian{name}"
    assert cls.__doc__
    assert name in cls.__doc__
    assert "manifold" in cls.__doc__
    assert pickle.loads(pickle.dumps(cls)) is cls
    assert copy.deepcopy(cls) is cls
    expected = [*inspect.signature(base).parameters.values()]
    found = [*inspect.signature(cls).parameters.values()]
    # The second is torch's own from 2.7 on, and an error before.
    ours = {*OURS, "decoupled_weight_decay"} - {p.name for p in expected}
    found = [p for p in found if p.name not in ours]
    assert [p.name for p in found] == [p.name for p in expected]
    assert [p.default for p in found] == [p.default for p in expected]
    if name not in ("Adam", "AdamW", "SGD", "Muon"):
        assert inspect.signature(cls) == inspect.signature(base)


@every_class
def test_repr_says_the_name_and_what_is_constrained(name):
    text = repr(make(name, [weight("tall"), *plain_weights()]))
    assert text.startswith(f"Riemannian{name} (")
    assert "1 on Stiefel(), 3 unconstrained" in text


def test_all_classes_of_torch_are_looked_at():
    assert len(TORCH) >= 12  # and Muon from torch 2.9 on
    for name in (*TORCH, *REFUSED):
        assert hasattr(torch.optim, name)
    assert OPTIONS.keys() >= TORCH.keys()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_made_says_why(name):
    base = getattr(torch.optim, name)
    own = type("Own", (base,), {})
    with pytest.raises(NotImplementedError, match=rf"riemannian\(Own\).*{REFUSED[name]}"):
        riemannian(own)


NONSENSE = [
    3,
    None,
    nn.Linear,
    "Adam",
    torch.optim.SGD([torch.ones(1, requires_grad=True)]),
    torch.optim.lr_scheduler.StepLR,
    torch.optim.Optimizer,
]


@pytest.mark.parametrize("given", NONSENSE, ids=lambda a: str(a)[:30])
def test_nonsense_is_refused(given):
    with pytest.raises(TypeError, match=re.escape(repr(given)) if given != "Adam" else "'Adam'"):
        riemannian(given)


@pytest.mark.parametrize("base", [torch.optim.RMSprop, torch.optim.Adam, torch.optim.Adafactor])
def test_a_riemannian_class_is_not_made_twice(base):
    cls = riemannian(base)
    with pytest.raises(TypeError, match=f"{cls.__name__} is Riemannian already"):
        riemannian(cls)


@pytest.mark.parametrize("name", TORCH)
def test_saying_what_is_known_changes_nothing(name):
    """The options are of classes that are not known."""
    cls = riemannian(TORCH[name])
    known = {"decay_is_decoupled": cls.decay_is_decoupled, "acts_by_entry": cls.acts_by_entry}
    for options in ({key: value} for key, value in known.items()):
        other = riemannian(TORCH[name], **options)
        for key, value in known.items():
            assert getattr(other, key) == value, options
        p, q = weight("tall"), weight("tall")
        run(make(name, [p]), [p])
        run(other([q], **OPTIONS[name]), [q])
        assert torch.equal(p, q)


@pytest.mark.parametrize("name", BASES)
def test_errors_of_the_base_are_raised_in_its_words(name):
    messages = []
    for cls in (riemannian(BASES[name]), BASES[name]):
        with pytest.raises(Exception, match=r"(?i)learning rate") as caught:
            cls(plain_weights(), lr=-1.0)
        with pytest.raises(TypeError) as unknown:
            cls(3)
        messages.append((caught.type, str(caught.value), str(unknown.value)))
    assert messages[0] == messages[1]


# --- unconstrained weights: the numbers of the base -------------------------------------------


def configurations(name, device="cpu"):
    """What torch's own suite tries: options with foreach, fused, capturable, differentiable."""
    if name == "Lion":
        more = [{"weight_decouple": False}, {"fixed_decay": True}, {"use_gc": True}]
        return [
            {"weight_decay": 0.1, "maximize": maximize, "foreach": foreach, **own}
            for own in ({}, *more)
            for maximize in (False, True)
            for foreach in (None, False)
        ]
    if name == "Prodigy":
        more = [{"bias_correction": True}, {"safeguard_warmup": True}, {"weight_decouple": False}]
        return [
            {**OPTIONS[name], "weight_decay": 0.1, "foreach": foreach, **own}
            for own in ({}, *more, {"eps": None}, {"maximize": True})
            for foreach in (None, True)
        ]
    common = pytest.importorskip("torch.testing._internal.common_optimizers")
    (info,) = (info for info in common.optim_db if info.name == name)
    inputs = common._get_optim_inputs_including_global_cliquey_kwargs(device, torch.float32, info)
    assert inputs
    return [case.kwargs for case in inputs]


@every_class
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a constrained one"])
def test_every_configuration_on_unconstrained_weights(name, beside):
    if beside and name in LOOKS_AT_ALL:
        pytest.skip("it compares all parameters with each other")
    for options in configurations(name):
        if options.get("differentiable"):
            continue  # below
        options = {"lr": OPTIONS[name].get("lr", 1.0), **options}
        if beside and options.get("decoupled_weight_decay", riemannian(BASES[name])) is None:
            options["weight_decay"] = 0.0
        p, q = plain_weights(), plain_weights()
        more = [weight("sphere")] if beside else []
        ours = riemannian(BASES[name])([*p, *more], **copy.deepcopy(options))
        theirs = BASES[name](q, **copy.deepcopy(options))
        for step in range(4):
            fill([*p, *more], step)
            fill(q, step)
            if not options.get("fused"):  # torch's fused SGD cannot take a late first gradient
                p[1].grad = q[1].grad = None if step < 2 else q[1].grad
                p[1].grad = copy.deepcopy(q[1].grad)
            ours.step()
            theirs.step()
            for a, b in zip(p, q, strict=True):
                assert torch.equal(a, b), (options, step)
        for a, b in zip(p, q, strict=True):
            assert_equal_entries(ours.state[a], theirs.state[b])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", TORCH)
def test_every_configuration_on_cuda(name):
    """With capturable too, which torch has on no CPU."""
    for options in configurations(name, device="cuda"):
        if options.get("differentiable"):
            continue
        p = [nn.Parameter(a.detach().cuda()) for a in plain_weights()]
        q = [nn.Parameter(a.detach().cuda()) for a in plain_weights()]
        ours = riemannian(BASES[name])(p, **copy.deepcopy(options))
        theirs = BASES[name](q, **copy.deepcopy(options))
        for step in range(4):
            for a, b in zip(p, q, strict=True):
                a.grad = noise(a.shape, step).cuda()
                b.grad = a.grad.clone()
            ours.step()
            theirs.step()
        assert all(map(torch.equal, p, q)), options


@every_class
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_every_dtype_on_unconstrained_weights(name, dtype):
    p, q = plain_weights(dtype), plain_weights(dtype)
    if name == "Prodigy" and dtype != torch.float64:
        pytest.skip("its sums are in float32, and torch does not add half precision to them")
    ours, theirs = make(name, p), BASES[name](q, **OPTIONS[name])
    run(ours, p)
    run(theirs, q)
    assert_same_state(ours, theirs)


@pytest.mark.parametrize("name", TORCH)
def test_differentiable_steps_on_unconstrained_weights(name):
    def end(cls, options):
        x = noise((4, 5), 1, torch.float64).requires_grad_()
        g = noise((4, 5), 2, torch.float64).requires_grad_()
        p = x.clone()
        optimizer = cls([p], **copy.deepcopy(options))
        p.grad = g
        optimizer.step()  # one: in torch the second overwrites what backward needs of the first
        return p, *torch.autograd.grad(p.square().sum(), (x, g), allow_unused=True)

    chosen = [o for o in configurations(name) if o.get("differentiable")]
    assert chosen or "differentiable" not in inspect.signature(BASES[name]).parameters
    for options in chosen:
        for a, b in zip(
            end(riemannian(BASES[name]), options), end(BASES[name], options), strict=True
        ):
            assert (a is None and b is None) or torch.equal(a, b), options


@every_class
def test_hooks_are_called_once_and_a_closure_too(name):
    calls = []

    def note(what):
        def hook(optimizer, args, kwargs):
            calls.append(what)

        return hook

    params = [weight("tall"), *plain_weights()]
    optimizer = make(name, params)
    optimizer.register_step_pre_hook(note("before"))
    optimizer.register_step_post_hook(note("after"))
    handles = [
        torch_optimizer.register_optimizer_step_pre_hook(note("before all")),
        torch_optimizer.register_optimizer_step_post_hook(note("after all")),
    ]

    def closure():
        assert torch.is_grad_enabled()
        calls.append("closure")
        optimizer.zero_grad()
        loss = sum((p * noise(p.shape, 5)).sum() for p in params)
        loss.backward()
        return loss

    try:
        before = [p.detach().clone() for p in params]
        with torch.no_grad():
            loss = optimizer.step(closure)
    finally:
        for handle in handles:
            handle.remove()
    assert sorted(calls) == ["after", "after all", "before", "before all", "closure"]
    assert loss == sum((x * noise(x.shape, 5)).sum() for x in before)
    assert not any(torch.equal(p, x) for p, x in zip(params, before, strict=True))


@every_class
def test_schedules_of_the_rate(name):
    p, q = plain_weights(), plain_weights()
    ours, theirs = make(name, p), BASES[name](q, **OPTIONS[name])
    schedules = [
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5) for optimizer in (ours, theirs)
    ]
    for step in range(4):
        fill(p, step)
        fill(q, step)
        for optimizer, schedule in zip((ours, theirs), schedules, strict=True):
            optimizer.step()
            schedule.step()
    assert_same_state(ours, theirs)


def test_a_class_whose_step_calls_its_base():
    p, q = plain_weights(), plain_weights()
    constrained = weight("sphere")
    ours, theirs = riemannian(Clipped)([*p, constrained]), Clipped(q)
    run(ours, [*p, constrained])
    run(theirs, q)
    for a, b in zip(p, q, strict=True):
        assert torch.equal(a, b)
    assert_on_the_surface(constrained)


# --- optimizers that look at all parameters ------------------------------------------------------


@pytest.mark.skipif("Prodigy" not in OUTSIDE, reason="needs pytorch_optimizer")
@pytest.mark.parametrize("late", [None, 0, 1], ids=["", "first group late", "second group late"])
def test_prodigy_sees_all_groups_in_one_call(late):
    """On symmetric matrices the step is the base's, and so is what it learns from all of them."""

    def symmetric(shape, seed):
        a = noise(shape, seed)
        return a + a.mT

    starts = [
        symmetric((4, 4), 1),
        symmetric((4, 4), 2),
        symmetric((3, 3), 3),
        symmetric((5, 5), 4),
    ]
    ours = [ManifoldParameter(x, Symmetric()) for x in starts[:3]] + [nn.Parameter(starts[3])]
    theirs = [nn.Parameter(x.clone()) for x in starts]

    def groups(params):
        return [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.0}]

    a = make("Prodigy", groups(ours))
    b = BASES["Prodigy"](groups(theirs), **OPTIONS["Prodigy"])
    for step in range(6):
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            absent = step in (0, 3) and late is not None and (i < 2) == (late == 0)
            p.grad = None if absent else symmetric(p.shape, 10 * step + i)
            q.grad = None if absent else p.grad.clone()
        a.step()
        b.step()
        for mine, other in zip(a.param_groups, b.param_groups, strict=True):
            for key in ("d", "d_max", "step"):
                assert mine[key] == pytest.approx(other[key], rel=1e-4), (key, step)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-4, atol=1e-4)


class Counted(torch.optim.SGD):
    """Counts steps in its groups."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
        return super().step(closure)


def test_numbers_in_a_group_are_kept_whether_it_has_gradients_or_not():
    free, constrained = plain_weights()[0], weight("sphere")
    optimizer = riemannian(Counted)(
        [{"params": [constrained]}, {"params": [free, weight("tall")]}, {"params": []}], lr=0.1
    )
    for step in range(3):
        fill([free], step)
        optimizer.step()
    fill([free, constrained], 3)
    optimizer.step()
    assert [group["count"] for group in optimizer.param_groups] == [4, 4, 4]

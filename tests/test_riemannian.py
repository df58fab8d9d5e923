"""`riemannian(cls)`: every class of torch.optim, and two optimizers of another package.

What is promised of all: the numbers of `cls` on unconstrained weights, bit for bit, and a
constrained weight that stays on its manifold, whatever `cls` makes of its tangent gradient.
"""

import copy
import functools
import inspect
import math
import pickle
import re

import pytest
import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer

from riemopt import ManifoldParameter
from riemopt.manifolds import AffineSubspace, FixedSum, LevelSet, Sphere, Stiefel, Symmetric
from riemopt.optim import RiemannianOptimizer, riemannian
from tests.bounds import on_surface, wide

try:
    import pytorch_optimizer
except ImportError:  # an optional dependency of the tests
    OUTSIDE = {}
else:
    OUTSIDE = {"Lion": pytorch_optimizer.Lion, "Prodigy": pytorch_optimizer.Prodigy}

REFUSED = {"LBFGS": r"moves all parameters along one line", "SparseAdam": r"takes sparse gradients"}
TORCH = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type)
    and issubclass(cls, torch.optim.Optimizer)
    and cls is not torch.optim.Optimizer
    and name not in REFUSED
}
BASES = {**TORCH, **OUTSIDE}
# With which they move a weight of unit size visibly in a few steps.
OPTIONS = {
    "ASGD": {"lr": 0.05},
    "Adadelta": {"lr": 1.0, "eps": 1e-3},
    "Adafactor": {"lr": 0.1},
    "Adagrad": {"lr": 0.05},
    "Adam": {"lr": 0.05, "amsgrad": True},
    "AdamW": {"lr": 0.05},
    "Adamax": {"lr": 0.05},
    "Lion": {"lr": 0.02},
    "Muon": {"lr": 0.05},
    "NAdam": {"lr": 0.05},
    "Prodigy": {"d0": 0.02, "growth_rate": 1.02},
    "RAdam": {"lr": 0.05},
    "RMSprop": {"lr": 0.02, "momentum": 0.5},
    "Rprop": {"lr": 0.02},
    "SGD": {"lr": 0.05, "momentum": 0.9},
}
# These compare all parameters with each other, or keep what they need of the others in a group.
LOOKS_AT_ALL = ("Prodigy",)
BY_ENTRY = [n for n in BASES if n not in ("Adafactor", "Muon", "Lion", "Prodigy")]
POINTS = {
    "sphere": (Sphere(), (4, 6)),
    "tall": (Stiefel(), (6, 3)),
    "wide": (Stiefel(), (3, 6)),
    "square": (Stiefel(), (4, 4)),
    "symmetric": (Symmetric(), (4, 4)),
}
PLAIN = [(3, 2), (4, 5), (1, 6)]  # matrices, since Muon takes no others
DTYPES = [torch.float64, torch.float32, torch.bfloat16]

every_class = pytest.mark.parametrize("name", BASES)
every_point = pytest.mark.parametrize("point", POINTS)


def make(name, params, **changed):
    return riemannian(BASES[name])(params, **{**OPTIONS[name], **changed})


def noise(shape, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(10**6 + seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


def weight(point, seed=0, dtype=torch.float32):
    manifold, shape = POINTS[point]
    return ManifoldParameter(noise(shape, -seed - 1, dtype), manifold)


def plain_weights(dtype=torch.float32):
    return [nn.Parameter(noise(s, -90 - i, dtype)) for i, s in enumerate(PLAIN)]


def fill(params, step):
    for i, p in enumerate(params):
        p.grad = noise(p.shape, 100 * step + i, p.dtype)


def run(optimizer, params, steps=3, start=0):
    for step in range(start, start + steps):
        fill(params, step)
        optimizer.step()


def assert_same_state(ours, theirs):
    """The same values, options and state; parameters are matched by their place."""
    for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - {"params"}:
            assert a[key] == b[key], key
        for p, q in zip(a["params"], b["params"], strict=True):
            torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=0, equal_nan=True)
            assert_equal_entries(ours.state[p], theirs.state[q])


def assert_equal_entries(mine, other):
    assert mine.keys() == other.keys()
    for key, value in mine.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other[key], rtol=0, atol=0)
        else:
            assert value == other[key], key


def assert_on_the_surface(p):
    x = p.detach()
    size = float(x.abs().max()) if isinstance(p.manifold, Symmetric) else 1.0
    violation = p.manifold.violation(wide(x) if x.dtype != torch.bfloat16 else x).max()
    assert violation <= on_surface(p.manifold, x) * max(1.0, size)


# --- unconstrained weights: the numbers of the base -------------------------------------------


def configurations(name, dtype=torch.float32):
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
    inputs = common._get_optim_inputs_including_global_cliquey_kwargs("cpu", dtype, info)
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


class Clipped(torch.optim.SGD):
    """A class whose step is that of its base and something besides, as many are written."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            nn.utils.clip_grad_value_(group["params"], group["clip"])
        return super().step(closure)

    def __init__(self, params, lr=0.1, clip=0.5):
        super().__init__(params, lr, momentum=0.9)
        for group in self.param_groups:
            group["clip"] = clip


def test_a_class_whose_step_calls_its_base():
    p, q = plain_weights(), plain_weights()
    constrained = weight("sphere")
    ours, theirs = riemannian(Clipped)([*p, constrained]), Clipped(q)
    run(ours, [*p, constrained])
    run(theirs, q)
    for a, b in zip(p, q, strict=True):
        assert torch.equal(a, b)
    assert_on_the_surface(constrained)


# --- constrained weights: the surface ----------------------------------------------------------


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
    if name == "Prodigy":
        params = [*params[:2], weight(point, 2, dtype)]
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
    options = {"weight_decay": 0.0, "lambd": 0.0}
    known = inspect.signature(BASES[name]).parameters.keys()
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


# --- state -------------------------------------------------------------------------------------


def _several(dtype=torch.float32):
    alone = [weight(point, dtype=dtype) for point in ("sphere", "wide", "symmetric")]
    return [weight("tall", 1, dtype), weight("tall", 2, dtype), *alone, *plain_weights(dtype)]


def _continues_as(optimizer, params, other, others):
    """Both take the same steps, bit for bit."""
    run(optimizer, params, 3, start=20)
    run(other, others, 3, start=20)
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)


@every_class
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_resume_is_bit_for_bit(name, dtype, tmp_path):
    params = _several(dtype)
    if name == "Prodigy" and dtype == torch.bfloat16:
        params = params[:-3]  # it cannot add half precision to its sums
    optimizer = make(name, params)
    run(optimizer, params)
    weights = [p.detach() for p in params]
    torch.save({"weights": weights, "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    others = _several(dtype)[: len(params)]
    with torch.no_grad():
        for q, x in zip(others, saved["weights"], strict=True):
            q.copy_(x)
    resumed = make(name, others)
    resumed.load_state_dict(saved["optimizer"])
    _continues_as(optimizer, params, resumed, others)
    assert_same_state(optimizer, resumed)


@every_class
def test_checkpoints_of_the_base_and_back(name):
    params = _several()
    ours = make(name, params)
    run(ours, params)
    plain = [nn.Parameter(p.detach().clone()) for p in params]
    theirs = BASES[name](plain, **OPTIONS[name])
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    assert_same_state(ours, theirs)
    run(theirs, plain)
    back = make(name, _several())
    back.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for group, saved in zip(back.param_groups, theirs.param_groups, strict=True):
        for p, q in zip(group["params"], saved["params"], strict=True):
            assert_equal_entries(back.state[p], theirs.state[q])
    again = back.param_groups[0]["params"]
    run(back, again)
    for p in again[:5]:
        assert_on_the_surface(p)


@every_class
@pytest.mark.parametrize("copier", ["deepcopy", "pickle"])
def test_a_copied_optimizer_goes_on(name, copier):
    params = _several()
    optimizer = make(name, params)
    run(optimizer, params)
    if name in OUTSIDE:  # their own attributes are not in torch's `__getstate__`, nor restored
        theirs = copy.deepcopy(BASES[name](plain_weights(), **OPTIONS[name]))
        assert not hasattr(theirs, "maximize")
    twin = copy.deepcopy(optimizer) if copier == "deepcopy" else pickled(optimizer)
    assert type(twin) is type(optimizer)
    assert repr(twin) == repr(optimizer)
    if name in OUTSIDE:
        twin.maximize = False
    _continues_as(optimizer, params, twin, twin.param_groups[0]["params"])


def pickled(a):
    return pickle.loads(pickle.dumps(a))


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
    assert pickled(cls) is cls
    assert copy.deepcopy(cls) is cls
    expected = [*inspect.signature(base).parameters.values()]
    found = [*inspect.signature(cls).parameters.values()]
    assert [p.name for p in found if p.name != "second_moment"] == [p.name for p in expected]
    assert [p.default for p in found if p.name != "second_moment"] == [p.default for p in expected]
    if name not in ("Adam", "AdamW", "SGD"):
        assert inspect.signature(cls) == inspect.signature(base)


@every_class
def test_repr_says_the_name_and_what_is_constrained(name):
    text = repr(make(name, [weight("tall"), *plain_weights()]))
    assert text.startswith(f"Riemannian{name} (")
    assert "1 on Stiefel(), 3 unconstrained" in text


def test_all_classes_of_torch_are_looked_at():
    assert len(TORCH) >= 13
    for name in (*TORCH, *REFUSED):
        assert hasattr(torch.optim, name)
    assert OPTIONS.keys() >= TORCH.keys()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_made_says_why(name):
    base = getattr(torch.optim, name)
    for cls in (base, type("Own", (base,), {})):
        with pytest.raises(
            NotImplementedError, match=rf"riemannian\({cls.__name__}\).*{REFUSED[name]}"
        ):
            riemannian(cls)


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


@pytest.mark.parametrize("base", [torch.optim.RMSprop, torch.optim.Adam, torch.optim.Muon])
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
        with pytest.raises((ValueError, TypeError, AssertionError)) as caught:
            cls(plain_weights(), lr=-1.0)
        with pytest.raises(TypeError) as unknown:
            cls(3)
        messages.append((caught.type, str(caught.value), str(unknown.value)))
    assert messages[0] == messages[1]


# --- weight decay ------------------------------------------------------------------------------


def with_decay(name, weight_decay, **flags):
    return functools.partial(
        riemannian(BASES[name], **flags), **{**OPTIONS[name], "weight_decay": weight_decay}
    )


DECAYING = [n for n in BASES if "weight_decay" in inspect.signature(BASES[n]).parameters]


@pytest.mark.parametrize("name", DECAYING)
@pytest.mark.parametrize("point", ["sphere", "tall", "wide", "square"])
def test_no_weight_decay_where_the_norm_is_constant(name, point):
    p, q = weight(point), weight(point)
    run(with_decay(name, 0.5)([p]), [p])
    run(with_decay(name, 0.0)([q]), [q])
    assert torch.equal(p, q)


def on_a_sphere(x):
    return x.square().sum() - 1


NORMALS = {  # where x itself has a part that is normal, and one that is not
    "fixed sum": (FixedSum(total=1.0), (2, 5)),
    "affine": (AffineSubspace(torch.tensor([[1.0, 2, 0, 1, -1]]), torch.tensor([1.0])), (2, 5)),
    "level set": (LevelSet(on_a_sphere, event_ndim=1), (5,)),
}
COUPLED = [n for n in DECAYING if riemannian(BASES[n]).decay_is_decoupled is False]
DECOUPLED = [n for n in DECAYING if riemannian(BASES[n]).decay_is_decoupled]


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("point", NORMALS)
@pytest.mark.parametrize("maximize", [False, True])
def test_coupled_decay_is_part_of_the_gradient_that_is_made_tangent(name, point, maximize):
    """A second optimizer is given the gradient with decay, and no decay of its own."""
    if maximize and "maximize" not in inspect.signature(BASES[name]).parameters:
        pytest.skip("it has no such option")
    manifold, shape = NORMALS[point]
    p, q = (ManifoldParameter(noise(shape, 1, torch.float64), manifold) for _ in range(2))
    options = {"maximize": True} if maximize else {}
    a, b = with_decay(name, 0.3)([p], **options), with_decay(name, 0.0)([q], **options)
    for step in range(4):
        p.grad = noise(shape, step, torch.float64)
        q.grad = p.grad + (-0.3 if maximize else 0.3) * q.detach()
        a.step()
        b.step()
    torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-12)
    for key, value in a.state[p].items():
        torch.testing.assert_close(value, b.state[q][key], rtol=0, atol=1e-12)
        if key in ("exp_avg", "momentum_buffer", "grad_avg"):
            assert_close_to_tangent(manifold, p.detach(), value, by_rounding=point != "level set")


def assert_close_to_tangent(manifold, x, m, by_rounding):
    normal = m - manifold.proj_tangent(x, m)
    if by_rounding:  # a flat manifold has one tangent space
        torch.testing.assert_close(normal, torch.zeros_like(m), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DECOUPLED)
@pytest.mark.parametrize("point", NORMALS)
def test_decoupled_decay_is_the_tangent_part_of_the_weight(name, point):
    """The first step without a gradient to speak of goes along -lr·wd·x, projected."""
    if name == "Adafactor":
        pytest.skip("its rate is relative")
    manifold, shape = NORMALS[point]
    p = ManifoldParameter(
        noise(shape if name != "Muon" else (1, *shape[-1:]), 1, torch.float64), manifold
    )
    x = p.detach().clone()
    optimizer = with_decay(name, 0.3)([p])
    p.grad = torch.zeros_like(p)
    optimizer.step()
    u = manifold.proj_tangent(x, -OPTIONS[name]["lr"] * 0.3 * x)
    torch.testing.assert_close(p.detach(), manifold.retract(x, u), rtol=0, atol=1e-12)


def test_decay_of_the_unknown_kind_is_refused_with_the_option_that_says_it():
    for base, kind in ((Clipped, "Clipped"), *((b, n) for n, b in OUTSIDE.items())):
        p, plain = ManifoldParameter(noise((2, 5), 1), FixedSum(total=1.0)), plain_weights()[0]
        optimizer = riemannian(base)([{"params": [plain]}, {"params": [p]}])
        optimizer.param_groups[1]["weight_decay"] = 0.1
        fill([p, plain], 0)
        before = [p.detach().clone(), plain.detach().clone()]
        message = rf"weight_decay=0.1 of {kind} on FixedSum.*decay_is_decoupled=False\) or =True"
        with pytest.raises(ValueError, match=message):
            optimizer.step()
        assert torch.equal(p, before[0])
        assert torch.equal(plain, before[1])
        assert not optimizer.state[plain]
        optimizer.param_groups[1]["weight_decay"] = 0.0
        optimizer.step()
        assert not torch.equal(p, before[0])


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
def test_lion_is_told_which_kind_its_decay_is(decoupled, maximize):
    if "Lion" not in OUTSIDE:
        pytest.skip("needs pytorch_optimizer")
    cls = riemannian(OUTSIDE["Lion"], decay_is_decoupled=decoupled)
    manifold = FixedSum(total=1.0)
    options = {"lr": 0.02, "maximize": maximize, "weight_decouple": decoupled}
    p, q = (ManifoldParameter(noise((2, 5), 1, torch.float64), manifold) for _ in range(2))
    a, b = cls([p], weight_decay=0.3, **options), cls([q], weight_decay=0.0, **options)
    for step in range(4):
        p.grad = noise((2, 5), step, torch.float64)
        q.grad = p.grad.clone()
        x = q.detach().clone()
        if not decoupled:
            q.grad += (-0.3 if maximize else 0.3) * x
        a.step()
        b.step()
        if decoupled:
            with torch.no_grad():
                q.add_(manifold.proj_tangent(x, x), alpha=-0.02 * 0.3)
    torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-12)


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

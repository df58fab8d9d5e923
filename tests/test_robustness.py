"""What may go wrong in a long run: odd gradients, edits, interrupts, checkpoints that do not fit.

python -m tests.test_robustness 20000     prints the violation after so many steps
"""

import copy
import math
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianAdamW, RiemannianSGD
from riemopt._torch_versions import ALL_PRODUCTS
from riemopt.manifolds import Flattened, Sphere, Stiefel, Symmetric
from tests.bounds import eps, smaller_side, wide
from tests.laws import assert_on_surface
from tests.manifold_cases import PACKED, POSE, chequered, generator, two_equations

OPTIMIZERS = {
    "sgd": lambda params, **o: RiemannianSGD(params, **{"lr": 0.1, **o}),
    "momentum": lambda params, **o: RiemannianSGD(params, **{"lr": 0.1, "momentum": 0.9, **o}),
    "adam": lambda params, **o: RiemannianAdam(params, **{"lr": 0.1, "amsgrad": True, **o}),
    "adamw": lambda params, **o: RiemannianAdamW(params, **{"lr": 0.1, **o}),
    "elementwise": lambda params, **o: RiemannianAdam(
        params, **{"lr": 0.1, "second_moment": "carried", **o}
    ),
}
POINTS = {
    "sphere": (Sphere(), (4, 6)),
    "stiefel": (Stiefel(), (6, 3)),
    "wide": (Stiefel(), (3, 6)),
    "square": (Stiefel(), (4, 4)),
    "qr": (Stiefel("qr"), (6, 3)),
    "cayley": (Stiefel("cayley", "canonical"), (6, 3)),
    "kernel": (Flattened(Stiefel()), (6, 2, 3, 3)),
    "canonical-kernel": (Flattened(Stiefel(metric="canonical")), (6, 2, 2, 1)),
    "canonical-product": (PACKED, (2, 18)),
    "symmetric": (Symmetric(), (4, 4)),
    "affine": (two_equations(), (3, 5)),
    "product": (POSE, (3, 12)),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS)
every_point = pytest.mark.parametrize("point", POINTS)


def _parameter(point, seed=0, dtype=torch.float32):
    manifold, shape = POINTS[point]
    return ManifoldParameter(torch.randn(shape, generator=generator(seed), dtype=dtype), manifold)


def _several():
    """Two that are stacked, one of each other kind, and two unconstrained ones."""
    alone = [_parameter(point) for point in ("sphere", "wide", "symmetric")]
    plain = [nn.Parameter(torch.randn(n, generator=generator(n))) for n in (3, 5)]
    return [_parameter("stiefel", 1), _parameter("stiefel", 2), *alone, *plain]


def _fill(params, step):
    for i, p in enumerate(params):
        p.grad = torch.randn(p.shape, generator=generator(1000 + 100 * step + i), dtype=p.dtype)


def _run(optimizer, params, steps=2, start=0):
    for step in range(start, start + steps):
        _fill(params, step)
        optimizer.step()


def _assert_healthy(params):
    for p in params:
        assert p.isfinite().all()
        if isinstance(p, ManifoldParameter):
            assert_on_surface(p.manifold, p.detach())


# --- gradients -------------------------------------------------------------------------------


def _rank_one(p):
    return p.detach().new_ones(p.shape)


def _in_the_normal_space(p):
    return p.detach() - p.manifold.proj_tangent(p.detach(), p.detach())


def _one_entry(p):
    g = torch.zeros_like(p)
    g.view(-1)[0] = 1.0
    return g


GRADIENTS = {
    "of rank one": _rank_one,
    "of one entry": _one_entry,
    "normal to the surface": _in_the_normal_space,
    "huge": lambda p: 1e15 * torch.randn(p.shape, generator=generator(9)),
    "tiny": lambda p: 1e-15 * torch.randn(p.shape, generator=generator(9)),
    "subnormal": lambda p: torch.full_like(p, 1e-42),
}


@every_optimizer
@every_point
@pytest.mark.parametrize("kind", GRADIENTS)
def test_degenerate_gradients_end_on_the_surface(make, point, kind):
    p = _parameter(point)
    optimizer = OPTIMIZERS[make]([p], weight_decay=0.0)
    for _ in range(4):
        p.grad = GRADIENTS[kind](p)
        optimizer.step()
    if p.manifold.allows_elementwise_scaling or point in ("affine", "product", "canonical-product"):
        assert p.isfinite().all()  # entries of any size: rounding is relative to them
    else:
        _assert_healthy([p])


@every_optimizer
def test_steps_that_are_not_finite_are_counted_and_change_nothing(make):
    params = _several()
    constrained = params[:-2]
    optimizer = OPTIMIZERS[make](params)
    _run(optimizer, params)
    before = copy.deepcopy([(p.detach(), dict(optimizer.state[p])) for p in constrained])
    for lr, value in ((0.1, math.nan), (0.1, math.inf), (math.nan, 1.0), (math.inf, 1.0)):
        optimizer.param_groups[0]["lr"] = lr
        for p in constrained:
            p.grad = torch.full_like(p, value) * p.detach().sign()
        for p in params[-2:]:
            p.grad = None
        optimizer.step()
    for p, (value, state) in zip(constrained, before, strict=True):
        assert torch.equal(p, value)
        for key, kept in state.items():
            assert torch.equal(optimizer.state[p][key], kept), key
    assert optimizer.skipped_steps == 4 * len(constrained)
    optimizer.param_groups[0]["lr"] = 0.1
    _run(optimizer, params, start=5)
    _assert_healthy(params)
    assert optimizer.skipped_steps == 4 * len(constrained)


# --- weights that somebody else wrote ---------------------------------------------------------

EDITS = {
    "noise": lambda p: p.add_(0.1 * torch.randn(p.shape, generator=generator(3))),
    "scaled up": lambda p: p.mul_(100.0),
    "scaled down": lambda p: p.mul_(0.01),
    "another matrix": lambda p: p.copy_(torch.randn(p.shape, generator=generator(3))),
    "other memory": lambda p: setattr(p, "data", torch.randn(p.shape, generator=generator(3))),
}
MISPLACED = [  # a scaled symmetric matrix is symmetric
    (point, edit)
    for point, (manifold, _) in POINTS.items()
    for edit in EDITS
    if not (manifold.allows_elementwise_scaling and edit.startswith("scaled"))
]


@chequered("place, make", MISPLACED, OPTIMIZERS)
@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_weight_that_was_edited_is_pulled_back_by_the_next_step(place, make, steps_before):
    point, edit = place
    p = _parameter(point)
    optimizer = OPTIMIZERS[make]([p], lr=0.01)
    _run(optimizer, [p], steps_before)
    with torch.no_grad():
        EDITS[edit](p)
    assert p.manifold.violation(p.detach()).max() > 0.01
    _run(optimizer, [p], 1, start=7)
    _assert_healthy([p])


@every_optimizer
def test_a_weight_that_was_set_to_nan_stays_alone_with_it(make):
    params = _several()
    optimizer = OPTIMIZERS[make](params)
    _run(optimizer, params)
    with torch.no_grad():
        params[0].fill_(math.nan)
    _run(optimizer, params, start=2)
    assert params[0].isnan().all()
    _assert_healthy(params[1:])
    assert optimizer.skipped_steps == 2
    with torch.no_grad():
        params[0].copy_(_parameter("stiefel", 8))
    _run(optimizer, params, start=4)
    _assert_healthy(params)


# --- interrupts ------------------------------------------------------------------------------


class InterruptAt(TorchDispatchMode):
    """Ctrl-C at the operator of this number, before it runs."""

    def __init__(self, number):
        super().__init__()
        self.left = number

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return func(*args, **(kwargs or {}))


def _interrupted(action, number):
    """Whether `action` was interrupted; else it ended before."""
    try:
        with InterruptAt(number):
            action()
    except KeyboardInterrupt:
        return True
    return False


def _settings():
    return (torch.is_grad_enabled(), *(setting.fp32_precision for setting in ALL_PRODUCTS))


@pytest.mark.sampled(3)
@every_optimizer
@pytest.mark.parametrize("steps_before", [0, 1])
def test_an_interrupt_at_any_operator_of_a_step(make, steps_before):
    def start():
        params = _several()
        optimizer = OPTIMIZERS[make](params)
        _run(optimizer, params, steps_before)
        _fill(params, steps_before)
        return params, optimizer

    old, _ = start()
    new, optimizer = start()
    optimizer.step()
    settings, number = _settings(), 0
    while True:
        params, optimizer = start()
        if not _interrupted(optimizer.step, number):
            break
        assert _settings() == settings
        # Each constrained weight has made its step whole, or not at all.
        for p, a, b in zip(params[:-2], old, new, strict=False):
            assert torch.equal(p, a) or torch.equal(p, b)
        other = OPTIMIZERS[make](_several())
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        optimizer.step()
        _assert_healthy(params)
        number += 1
    assert number > 20  # the mode does see the step's operators


# --- checkpoints -----------------------------------------------------------------------------


def _snapshot(optimizer):
    return copy.deepcopy((dict(optimizer.state), optimizer.param_groups))


def _assert_untouched(optimizer, kept, objects):
    state, groups = kept
    assert (optimizer.state, optimizer.param_groups) == objects
    assert optimizer.state is objects[0]
    assert optimizer.param_groups is objects[1]
    for entry, old in zip(optimizer.state.values(), state.values(), strict=True):
        assert entry.keys() == old.keys()
        assert all(torch.equal(entry[key], old[key]) for key in entry)
    for group, old in zip(optimizer.param_groups, groups, strict=True):
        options = {k: v for k, v in group.items() if k != "params"}
        assert options == {k: v for k, v in old.items() if k != "params"}


def _other_shapes(saved):
    for entry in saved["state"].values():
        for key, value in entry.items():
            entry[key] = value.new_zeros(*value.shape, 2) if value.ndim else value


def _as_a_models(saved):
    saved.clear()
    saved.update({f"w{i}": torch.ones(1) for i in range(9)})


def _drop(*path):
    def edit(saved):
        for key in path[:-1]:
            saved = saved[key]
        del saved[path[-1]]

    return edit


BROKEN = {  # edits of a checkpoint, and what the error says
    "no state": (_drop("state"), r"lacks \['state'\], and has \[param_groups\]"),
    "no groups": (_drop("param_groups"), r"lacks \['param_groups'\]"),
    "a model": (_as_a_models, r"has \[w0, w1, w2, w3, w4, w5, …\]"),
    "group without lr": (_drop("param_groups", 0, "lr"), r"Group 0 .* no \['lr'\]"),
    "one group": (lambda s: s["param_groups"].pop(), "different number of parameter groups"),
    "fewer parameters": (lambda s: s["param_groups"][0]["params"].pop(), "doesn't match the size"),
    "other shapes": (_other_shapes, "shape .*another model"),
}
ADAM_ONLY = {
    "no step": (_drop("state", 0, "step"), r"parameter 0 has .* no \['step'\]"),
    "no moment": (_drop("state", 6, "exp_avg_sq"), r"parameter 6 has .* no \['exp_avg_sq'\]"),
    "no maximum": (_drop("state", 2, "max_exp_avg_sq"), r"no \['max_exp_avg_sq'\]"),
    "no betas": (_drop("param_groups", 1, "betas"), r"Group 1 .* no \['betas'\]"),
}


def _two_groups(make):
    params = _several()
    optimizer = OPTIMIZERS[make]([{"params": params[:3]}, {"params": params[3:], "lr": 0.02}])
    _run(optimizer, params)
    return params, optimizer


@pytest.mark.parametrize(
    ("make", "broken"),
    [(m, b) for m in ("momentum", "adam") for b in BROKEN] + [("adam", b) for b in ADAM_ONLY],
)
def test_a_broken_checkpoint_is_refused_and_changes_nothing(make, broken):
    edit, message = {**BROKEN, **ADAM_ONLY}[broken]
    params, optimizer = _two_groups(make)
    saved = copy.deepcopy(optimizer.state_dict())
    edit(saved)
    _run(optimizer, params, start=2)  # away from what the checkpoint says
    optimizer.param_groups[0]["lr"] = 0.05
    kept, objects = _snapshot(optimizer), (optimizer.state, optimizer.param_groups)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    _assert_untouched(optimizer, kept, objects)
    _run(optimizer, params, start=4)
    _assert_healthy(params)


@pytest.mark.parametrize(("saver", "loader"), [("momentum", "adam"), ("adam", "momentum")])
def test_a_checkpoint_of_another_optimizer_is_refused(saver, loader):
    _, other = _two_groups(saver)
    _, optimizer = _two_groups(loader)
    kept, objects = _snapshot(optimizer), (optimizer.state, optimizer.param_groups)
    with pytest.raises(ValueError, match="of another optimizer"):
        optimizer.load_state_dict(other.state_dict())
    _assert_untouched(optimizer, kept, objects)


def test_a_checkpoint_with_the_parameters_in_another_order_is_refused():
    params = [_parameter("stiefel"), nn.Parameter(torch.randn(5))]
    optimizer, swapped = RiemannianAdam(params), RiemannianAdam(params[::-1])
    _run(swapped, params)
    with pytest.raises(ValueError, match=r"'exp_avg' of parameter 0 has shape \(5,\).*\(6, 3\)"):
        optimizer.load_state_dict(swapped.state_dict())
    assert not optimizer.state


@pytest.mark.parametrize("kept_bytes", [0, 100, 0.5, 0.99])
def test_a_truncated_file_does_not_load(kept_bytes, tmp_path):
    path = tmp_path / "checkpoint.pt"
    _, optimizer = _two_groups("adam")
    torch.save(optimizer.state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(
        whole[: kept_bytes if isinstance(kept_bytes, int) else int(kept_bytes * len(whole))]
    )
    kept, objects = _snapshot(optimizer), (optimizer.state, optimizer.param_groups)
    with pytest.raises((RuntimeError, EOFError, OSError)):
        optimizer.load_state_dict(torch.load(path, weights_only=True))
    _assert_untouched(optimizer, kept, objects)


@pytest.mark.parametrize("make", ["adam", "elementwise"])  # SGD's state is taken as it is
def test_an_interrupt_at_any_operator_of_loading_changes_nothing(make):
    _, other = _two_groups(make)
    saved = other.state_dict()
    number = 0
    while True:
        _, optimizer = _two_groups(make)
        kept, objects = _snapshot(optimizer), (optimizer.state, optimizer.param_groups)
        checkpoint = copy.deepcopy(saved)
        if not _interrupted(lambda: optimizer.load_state_dict(checkpoint), number):  # noqa: B023
            break
        _assert_untouched(optimizer, kept, objects)
        assert not optimizer._optimizer_load_state_dict_pre_hooks
        number += 1
    assert number > 0


def test_a_hook_that_fails_changes_nothing():
    _, optimizer = _two_groups("adam")
    saved = copy.deepcopy(optimizer.state_dict())
    kept, objects = _snapshot(optimizer), (optimizer.state, optimizer.param_groups)

    def fail(optimizer):
        raise OSError("disk")

    handle = optimizer.register_load_state_dict_post_hook(fail)
    with pytest.raises(OSError, match="disk"):
        optimizer.load_state_dict(saved)
    _assert_untouched(optimizer, kept, objects)
    handle.remove()
    optimizer.load_state_dict(saved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_hook_may_reorder_the_parameters_of_a_checkpoint(dtype):
    """As torch's documentation of `load_state_dict` proposes, by names."""
    p, q = _parameter("stiefel", dtype=dtype), nn.Parameter(torch.randn(5, dtype=dtype))
    saver = RiemannianAdam([("q", q), ("p", p)])
    _run(saver, [p, q])
    loader = RiemannianAdam([("p", p), ("q", q)])

    def by_name(optimizer, saved):
        group = saved["param_groups"][0]
        places = dict(zip(group["param_names"], group["params"], strict=True))
        names = optimizer.param_groups[0]["param_names"]
        ordered = {**group, "params": [places[name] for name in names], "param_names": names}
        return {"state": saved["state"], "param_groups": [ordered]}

    loader.register_load_state_dict_pre_hook(by_name)
    loader.load_state_dict(copy.deepcopy(saver.state_dict()))
    for param in (p, q):
        for key, value in saver.state[param].items():
            assert torch.equal(loader.state[param][key], value), key
            assert loader.state[param][key].dtype == value.dtype, key


# --- a million steps -------------------------------------------------------------------------

MILLION = 10**6
LIMIT = 4.0
LONG = {
    "Sphere": (Sphere(), (8, 5)),
    "Stiefel": (Stiefel(), (8, 5, 3)),
}
LONG_OPTIMIZERS = {
    "SGD": lambda params: RiemannianSGD(params, lr=0.05, momentum=0.9),
    "Adam": lambda params: RiemannianAdam(params, lr=0.05),
}


def violation_after(steps, manifold, shape, make):
    """Largest violation of the points of one stack, in units of eps·√p."""
    p = ManifoldParameter(torch.randn(shape, generator=generator(0)), manifold)
    gradients = torch.randn(997, *shape, generator=generator(1)).unbind()
    optimizer = make([p])
    for i in range(steps):
        p.grad = gradients[i % 997]
        optimizer.step()
    assert optimizer.skipped_steps == 0
    unit = eps(p.dtype) * math.sqrt(smaller_side(manifold, p))
    return float(manifold.violation(wide(p.detach())).max()) / unit


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("make", LONG_OPTIMIZERS)
def test_a_million_steps_in_float32(name, make):
    assert violation_after(MILLION, *LONG[name], LONG_OPTIMIZERS[make]) <= LIMIT


if __name__ == "__main__":
    torch.set_num_threads(1)
    for long_name, (its_manifold, its_shape) in LONG.items():
        for optimizer_name, its_make in LONG_OPTIMIZERS.items():
            figure = violation_after(int(sys.argv[1]), its_manifold, its_shape, its_make)
            print(f"{long_name:8} {optimizer_name:5} {figure:.2f} eps·√p", flush=True)

"""Edits of an optimizer's state between steps do what they do in torch.

Trainers zero rows of a moment, append rows for new weights and remove those of pruned ones
(Gaussian splatting), put tensors or dicts of their own in the state, or swap parameters of a group.
The twin of each optimizer is torch's own on the same values: on `Free`, a manifold that constrains
nothing, both take the same steps.
"""

import copy
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import riemopt
from riemopt import (
    LostManifoldError,
    ManifoldParameter,
    RiemannianAdam,
    RiemannianAdamW,
    RiemannianSGD,
)
from riemopt.manifolds import Manifold, Sphere, Stiefel
from tests.riemannian_cases import OPTIONS, TORCH, make, noise

SHAPES = [(4, 3), (4, 3), (4, 3), (5, 3)]  # three that are stacked, and one alone
PLAIN = (4, 2)


@dataclass(frozen=True)
class Free(Manifold):
    """Every matrix is a point. Optimizers take their whole way through carry, rule and move."""

    event_ndim = 2

    def proj_tangent(self, x, u):
        return u

    def retract(self, x, u):
        return x + u

    def project(self, a):
        return a.clone()

    def violation(self, x):
        return x.new_zeros(x.shape[:-2])

    def check_shape(self, shape):
        if len(shape) < 2:
            self._reject(shape, "matrices")

    def dim(self, shape, *, is_complex=False):
        return shape[-1] * shape[-2]


def _short(shape, seed, dtype):
    """Noise that is the same in each dtype."""
    return noise(shape, seed).bfloat16().to(dtype)


def _weights(dtype=torch.float64):
    return [
        *(ManifoldParameter(_short(s, i, dtype), Free()) for i, s in enumerate(SHAPES)),
        nn.Parameter(_short(PLAIN, 9, dtype)),
    ]


def _twins(name, **options):
    """Ours and torch's, on equal values."""
    params = _weights()
    plain = [nn.Parameter(p.detach().clone()) for p in params]
    ours = make(name, params, **options)
    return ours, TORCH[name](plain, **{**OPTIONS[name], **options})


def _step(optimizer, seed, without=()):
    for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        p.grad = None if i in without else _short(p.shape, 50 * seed + i, p.dtype)
    optimizer.step()


def _params(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def _moments(state):
    return [k for k, v in state.items() if isinstance(v, torch.Tensor) and v.ndim]


# --- the edits -------------------------------------------------------------------------------


def zero_rows_of_state_dict(optimizer):
    for state in optimizer.state_dict()["state"].values():
        for key in _moments(state):
            state[key][1:3].zero_()


def zero_rows_of_live_state(optimizer):
    for p in _params(optimizer):
        for key in _moments(optimizer.state[p]):
            optimizer.state[p][key][0] = 0


def zero_one_member(optimizer):
    state = optimizer.state[_params(optimizer)[1]]
    for key in _moments(state):
        state[key].zero_()


def zero_tensors_held_since_the_first_step(optimizer):
    for tensor in optimizer.held:
        tensor.zero_()


def scale_in_place(optimizer):
    for state in optimizer.state_dict()["state"].values():
        for key in _moments(state):
            state[key].mul_(0.5)


def put_in_the_saved_dict(optimizer):
    for state in optimizer.state_dict()["state"].values():
        for key in _moments(state):
            state[key] = torch.full_like(state[key], 0.25)


def other_tensors(optimizer):
    for p in _params(optimizer):
        state = optimizer.state[p]
        for key in _moments(state):
            state[key] = state[key].flip(0).contiguous()


def data_of_state(optimizer):
    for p in _params(optimizer):
        for key in _moments(optimizer.state[p]):
            optimizer.state[p][key].data = torch.full(p.shape, 0.1, dtype=p.dtype)


def other_dicts(optimizer):
    for p in _params(optimizer)[:2]:
        optimizer.state[p] = copy.deepcopy(dict(optimizer.state[p]))
        for key in _moments(optimizer.state[p]):
            optimizer.state[p][key][2] = 0


def delete_one(optimizer):
    del optimizer.state[_params(optimizer)[1]]


def empty_one(optimizer):
    optimizer.state[_params(optimizer)[0]].clear()


def clear(optimizer):
    optimizer.state.clear()


def restart_steps(optimizer):
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"].fill_(0)


def restart_one(optimizer):
    state = optimizer.state[_params(optimizer)[2]]
    if "step" in state:
        state["step"] = torch.zeros_like(state["step"])


def edit_weights(optimizer):
    with torch.no_grad():
        for p in _params(optimizer):
            p[1] = 0.5
            p.data[2] = -0.5
            p.data = p.data.flip(1).contiguous()


def load_edited(optimizer):
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        for key in _moments(state):
            state[key][0] = 0.125
    optimizer.load_state_dict(saved)


def _exchange(optimizer, index, change):
    """As Gaussian splatting does: a new Parameter, with the old state changed likewise."""
    group = optimizer.param_groups[0]
    old = group["params"][index]
    new = nn.Parameter(change(old.detach()))
    state = optimizer.state.pop(old)
    for key in _moments(state):
        state[key] = change(state[key], torch.zeros)
    group["params"][index] = new
    optimizer.state[new] = state


def _grown(a, more=torch.ones):
    return torch.cat((a, more((2, *a.shape[1:]), dtype=a.dtype)))


def grow(optimizer):
    for i in range(5):
        _exchange(optimizer, i, _grown)


def grow_one(optimizer):
    _exchange(optimizer, 1, _grown)


def prune(optimizer):
    for i in (0, 1, 3, 4):
        _exchange(optimizer, i, lambda a, more=None: a[torch.arange(len(a)) != 1])


def new_lists(optimizer):
    for group in optimizer.param_groups:
        group["params"] = list(group["params"])


def other_order(optimizer):
    group = optimizer.param_groups[0]
    group["params"] = [group["params"][i] for i in (4, 2, 0, 1, 3)]


def schedule(optimizer):
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 0.5 ** (i + 1))
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (0.5, 0.9)
    optimizer._scheduler = scheduler


EDITS = [
    zero_rows_of_state_dict,
    zero_rows_of_live_state,
    zero_one_member,
    zero_tensors_held_since_the_first_step,
    scale_in_place,
    put_in_the_saved_dict,
    other_tensors,
    data_of_state,
    other_dicts,
    delete_one,
    empty_one,
    clear,
    restart_steps,
    restart_one,
    edit_weights,
    load_edited,
    grow,
    grow_one,
    prune,
    new_lists,
    other_order,
    schedule,
]
CLASSES = [
    *((name, {}) for name in TORCH if name != "Muon"),  # AdamW steps what is no matrix to it
    ("SGD", {"momentum": 0.9, "nesterov": True, "dampening": 0.0}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("Adam", {"second_moment": "carried"}),
    ("Adam", {"foreach": False}),
    ("AdamW", {"fused": True}),
]
each_class = pytest.mark.parametrize(
    ("name", "options"),
    CASES := CLASSES,
    ids=[f"{n}{'-' * bool(o)}{','.join(o)}" for n, o in CASES],
)
each_edit = pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)


def _trained(optimizer, edit):
    """Steps with an edit between them, twice; after the second of them all is as it was before."""
    _step(optimizer, 0)
    optimizer.held = [
        optimizer.state[p][key] for p in _params(optimizer) for key in _moments(optimizer.state[p])
    ]
    _step(optimizer, 1, without=(2,))  # the others make a stack of their own
    for i in range(2):
        edit(optimizer)
        for j in range(2):
            _step(optimizer, 2 + 2 * i + j)
            if hasattr(optimizer, "_scheduler"):
                optimizer._scheduler.step()


def _outcome(optimizer, edit):
    try:
        _trained(optimizer, edit)
    except Exception as error:
        return type(error)
    return None


@each_edit
@each_class
def test_an_edit_does_what_it_does_in_torch(name, options, edit):
    ours, theirs = _twins(name, **{k: v for k, v in options.items() if k != "second_moment"})
    if "second_moment" in options:
        ours = RiemannianAdam(_weights(), **OPTIONS[name], **options)
    outcome = _outcome(theirs, edit)
    assert _outcome(ours, edit) is outcome  # of Adagrad, which makes its state once
    if outcome is not None:
        return
    for p, q in zip(_params(ours), _params(theirs), strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-7, atol=1e-7)
        mine, other = ours.state[p], theirs.state[q]
        assert mine.keys() == other.keys()
        for key in _moments(other):
            torch.testing.assert_close(mine[key], other[key], rtol=1e-7, atol=1e-7)


# --- half precision, whose moments are float32 ------------------------------------------------


@pytest.mark.parametrize(
    "edit", [zero_rows_of_state_dict, zero_one_member, grow, prune, other_dicts]
)
@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
def test_edits_of_float32_moments_of_half_weights(name, edit):
    half = make(name, _weights(torch.bfloat16))
    single = make(name, _weights(torch.float32))
    _trained(half, edit)
    _trained(single, edit)
    for p, q in zip(_params(half)[:4], _params(single)[:4], strict=True):
        torch.testing.assert_close(p.detach().float(), q.detach(), rtol=0.02, atol=0.02)
        assert all(half.state[p][key].dtype == torch.float32 for key in _moments(half.state[p]))


def test_half_moments_that_somebody_put_there_become_float32():
    for options in ({}, {"second_moment": "carried"}):
        p, q = (ManifoldParameter(noise((4, 3), i, torch.bfloat16), Sphere()) for i in range(2))
        optimizer = RiemannianAdam([p, q], lr=0.1, **options)
        _step(optimizer, 0)
        optimizer.state[p]["exp_avg_sq"] = optimizer.state[p]["exp_avg_sq"].bfloat16()
        _step(optimizer, 1)
        assert optimizer.state[p]["exp_avg_sq"].dtype == torch.float32


# --- on a manifold that constrains -----------------------------------------------------------


def _reference(x, m, v, t, g, lr=0.05, beta1=0.9, beta2=0.999, eps=1e-8):
    """A step of `RiemannianAdam` on rows of norm 1, by hand; m and v change in place."""

    def tangent(u):
        return u - x * (x * u).sum(-1, keepdim=True)

    g = tangent(g)
    m.lerp_(g, 1 - beta1)
    v.lerp_(g * g, 1 - beta2)
    u = tangent(m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + eps))
    y = x - lr * u
    return y / y.norm(dim=-1, keepdim=True)


def test_rows_zeroed_appended_and_pruned_on_a_sphere_against_a_reference_by_hand():
    p = ManifoldParameter(noise((6, 4), 1, torch.float64), Sphere())
    optimizer = RiemannianAdam([p], lr=0.05)
    x, m, v = p.detach().clone(), torch.zeros(6, 4).double(), torch.zeros(6, 4).double()

    def step(t):
        nonlocal x
        (q,) = _params(optimizer)
        q.grad = noise(q.shape, t, torch.float64)
        x = _reference(x, m, v, t, q.grad)
        optimizer.step()
        torch.testing.assert_close(q.detach(), x, rtol=0, atol=1e-8)  # float32 counters

    step(1)
    optimizer.state_dict()["state"][0]["exp_avg"][2:4].zero_()
    m[2:4] = 0
    step(2)
    more = Sphere().project(noise((2, 4), 5, torch.float64))
    _exchange(optimizer, 0, lambda a, new=None: torch.cat((a, more if new is None else 0 * more)))
    x, m, v = torch.cat((x, more)), *(torch.cat((a, 0 * more)) for a in (m, v))
    step(3)
    _exchange(optimizer, 0, lambda a, new=None: a[1:])
    x, m, v = x[1:], m[1:], v[1:]
    step(4)


@pytest.mark.parametrize(
    "make_one",
    [RiemannianSGD, RiemannianAdam, RiemannianAdamW, riemopt.RiemannianRMSprop],
)
def test_a_new_parameter_in_the_place_of_a_constrained_one_is_constrained(make_one):
    layer = riemopt.constrain(nn.Embedding(5, 4), "weight", Sphere())
    loose = ManifoldParameter(torch.randn(5, 4), Sphere(radius=2.0))
    named = nn.Parameter(Sphere(radius=3.0).random_point(5, 4))
    free = nn.Parameter(torch.randn(5, 4))
    optimizer = make_one(
        [{"params": [layer.weight, free, loose]}, {"params": [named], "manifold": Sphere(-1, 3.0)}],
        lr=0.1,
    )
    _step(optimizer, 0)
    for group in optimizer.param_groups:
        for i, old in enumerate(group["params"]):
            new = nn.Parameter(torch.cat((old.detach(), old.detach()[:2])))
            optimizer.state[new] = {
                key: torch.cat((value, 0 * value[:2])) if value.ndim else value
                for key, value in optimizer.state.pop(old, {}).items()
            }
            group["params"][i] = new
    _step(optimizer, 1)
    first, second, third, fourth = (p.detach().norm(dim=1) for p in _params(optimizer))
    torch.testing.assert_close(first, torch.ones(7))
    torch.testing.assert_close(third, torch.full((7,), 2.0))
    torch.testing.assert_close(fourth, torch.full((7,), 3.0))
    assert (second - 1).abs().max() > 0.1
    assert "2 unconstrained" not in repr(optimizer)


def test_a_new_parameter_that_says_where_it_lies_is_believed():
    a, b = ManifoldParameter(torch.randn(4, 3), Sphere()), nn.Parameter(torch.randn(4, 3))
    optimizer = RiemannianAdam([a, b], lr=0.1)
    _step(optimizer, 0)
    optimizer.param_groups[0]["params"] = [
        ManifoldParameter(torch.randn(4, 3), Stiefel()),
        ManifoldParameter(torch.randn(4, 3), Sphere()),
    ]
    _step(optimizer, 1)
    x, y = (p.detach() for p in _params(optimizer))
    assert Stiefel().violation(x) < 1e-5
    assert Sphere().violation(y).max() < 1e-6


def test_parameters_that_change_places_keep_their_manifolds():
    shape = (4, 3)
    points = [m.random_point(*shape) for m in (Sphere(radius=2.0), Stiefel())]
    a, b = map(nn.Parameter, points)
    free = nn.Parameter(torch.randn(shape))
    optimizer = RiemannianSGD(
        [
            {"params": [a], "manifold": Sphere(radius=2.0)},
            {"params": [free]},
            {"params": [b], "manifold": Stiefel()},
        ],
        lr=0.1,
    )
    _step(optimizer, 0)
    optimizer.param_groups.reverse()
    (group, _, other) = optimizer.param_groups
    group["params"], other["params"] = [free], [b]
    optimizer.param_groups[1]["params"] = [a]
    for i in range(2):
        _step(optimizer, 1 + i)
    assert Sphere(radius=2.0).violation(a.detach()).max() < 1e-6
    assert Stiefel().violation(b.detach()) < 1e-5
    assert (free.detach().norm(dim=1) - 2).abs().max() > 0.01


def test_a_new_parameter_that_does_not_fit_its_place_is_refused_before_anything_moves():
    a, b = (ManifoldParameter(torch.randn(4, 3), Stiefel()) for _ in range(2))
    optimizer = RiemannianAdam([a, b], lr=0.1)
    _step(optimizer, 0)
    optimizer.param_groups[0]["params"][1] = nn.Parameter(torch.randn(4))
    before = a.detach().clone()
    with pytest.raises(ValueError, match=r"in the place of one on Stiefel\(\).*\(4,\)"):
        _step(optimizer, 1)
    assert torch.equal(a, before)


@pytest.mark.parametrize("change", ["fewer", "more"])
def test_a_list_that_is_longer_or_shorter_is_said_to_be_lost(change):
    a, b = (ManifoldParameter(torch.randn(4, 3), Stiefel()) for _ in range(2))
    optimizer = RiemannianAdam([a, b], lr=0.1)
    new = [a] if change == "fewer" else [a, b, nn.Parameter(torch.randn(4, 3))]
    optimizer.param_groups[0]["params"] = new
    with pytest.raises(LostManifoldError, match="add_param_group"):
        _step(optimizer, 1)


def test_gaussians_grow_in_a_training_loop():
    """Rotations that are unit quaternions, positions beside them; the state grows with both."""

    class Gaussians(nn.Module):
        def __init__(self):
            super().__init__()
            self.xyz = nn.Parameter(torch.randn(20, 3))
            self.rotation = nn.Parameter(torch.randn(20, 4))

    model = riemopt.constrain(Gaussians(), "rotation", Sphere())
    optimizer = RiemannianAdam(
        [{"params": [p], "lr": 0.05, "name": name} for name, p in model.named_parameters()],
        eps=1e-15,
    )
    before = 0.0
    for i in range(12):
        loss = ((model.xyz - 1) ** 2).mean() + ((model.rotation - 0.5) ** 2).mean()
        before = loss.item() if i == 0 else before
        loss.backward()
        if i % 4 == 3:
            for group in optimizer.param_groups:
                old = group["params"][0]
                state = optimizer.state.get(old)
                extension = old.detach()[:5]
                for key in ("exp_avg", "exp_avg_sq"):
                    state[key] = torch.cat((state[key], torch.zeros_like(extension)))
                del optimizer.state[old]
                group["params"][0] = nn.Parameter(torch.cat((old.detach(), extension)))
                optimizer.state[group["params"][0]] = state
                setattr(model, group["name"], group["params"][0])
        optimizer.step()
        optimizer.zero_grad()
    assert model.rotation.shape == (35, 4)
    assert all(c.satisfied for c in riemopt.constraints(model))
    assert loss < before - 0.5


# --- one number for each point, written out at full size in `state_dict()` ---------------------


def _point_adam(count=3, shape=(4, 3), manifold=None, **options):
    manifold = manifold or Sphere()
    params = [ManifoldParameter(noise(shape, i, torch.float64), manifold) for i in range(count)]
    optimizer = RiemannianAdam(params, lr=0.1, second_moment="point", **options)
    for i in range(2):
        _step(optimizer, i)
    return optimizer, params


def _same_step(one, other, seed=7):
    _step(one, seed)
    _step(other, seed)
    for p, q in zip(_params(one), _params(other), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_rows_of_a_written_out_moment_are_the_live_state(amsgrad, count, held):
    optimizer, _ = _point_adam(count, amsgrad=amsgrad)
    other, others = _point_adam(count, amsgrad=amsgrad)
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        assert state["exp_avg_sq"].shape == (4, 3)
        state["exp_avg_sq"][1:3] = 0
        state["exp_avg"][1:3] = 0
    if not held:
        del saved, state
    for q in others:
        other.state[q]["exp_avg_sq"][1:3] = 0
        other.state[q]["exp_avg"][1:3] = 0
    _same_step(optimizer, other)
    _same_step(optimizer, other, 8)
    assert optimizer.state[_params(optimizer)[0]]["exp_avg_sq"].shape == (4, 1)


def test_a_tensor_put_in_the_written_out_dict_is_the_live_state():
    optimizer, _ = _point_adam()
    other, others = _point_adam()
    for state in optimizer.state_dict()["state"].values():
        state["exp_avg_sq"] = torch.full_like(state["exp_avg_sq"], 0.25)
    for q in others:
        other.state[q]["exp_avg_sq"].fill_(0.25)
    _same_step(optimizer, other)


def test_an_edit_of_a_part_of_a_point_changes_its_mean():
    optimizer, params = _point_adam(1)
    optimizer.state_dict()["state"][0]["exp_avg_sq"][0] = torch.tensor([1.0, 2.0, 6.0])
    params[0].grad = None
    q = nn.Parameter(torch.ones(1))
    optimizer.add_param_group({"params": [q]})
    params[0].grad = torch.zeros_like(params[0])
    optimizer.param_groups[0]["betas"] = (0.9, 1.0)
    optimizer.step()
    assert optimizer.state[params[0]]["exp_avg_sq"][0].item() == 3.0


def test_reading_a_state_dict_changes_no_bit_and_keeps_no_memory():
    optimizer, params = _point_adam()
    other, _ = _point_adam()
    numbers = [optimizer.state[p]["exp_avg_sq"] for p in params]
    first = optimizer.state_dict()["state"][0]["exp_avg_sq"]
    assert torch.equal(first, optimizer.state_dict()["state"][0]["exp_avg_sq"])
    with torch.inference_mode():
        optimizer.state_dict()
    _same_step(optimizer, other)
    for p, number in zip(params, numbers, strict=True):
        assert optimizer.state[p]["exp_avg_sq"] is number
    assert not optimizer._written_out


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copies_between_a_state_dict_and_a_step(copier):
    optimizer, _ = _point_adam()
    edited = optimizer.state_dict()["state"][1]["exp_avg_sq"]
    edited[0] = 0.5
    _same_step(optimizer, copier(optimizer))


@pytest.mark.parametrize("manifold", [Sphere(), Sphere(dim=0), Stiefel()], ids=str)
def test_state_at_full_size_that_is_put_in_place_is_taken_in(manifold):
    """As by `ZeroRedundancyOptimizer`, which loads so, and by code that grows weights."""
    optimizer, params = _point_adam(3, (4, 3), manifold)
    other, _ = _point_adam(3, (4, 3), manifold)
    saved = copy.deepcopy(optimizer.state_dict())["state"]
    for i, p in enumerate(params):
        optimizer.state[p] = saved[i]
    _same_step(optimizer, other)
    optimizer.state[params[0]]["exp_avg_sq"] = torch.full((4, 3), 0.25, dtype=torch.float64)
    q = _params(other)[0]
    other.state[q]["exp_avg_sq"].fill_(0.25)
    _same_step(optimizer, other)


def test_points_of_an_optimizer_with_one_number_a_point_grow():
    optimizer, params = _point_adam(1)
    state = optimizer.state_dict()["state"][0]
    old = optimizer.param_groups[0]["params"][0]
    new = nn.Parameter(torch.cat((old.detach(), old.detach()[:2])))
    for key in ("exp_avg", "exp_avg_sq"):
        state[key] = torch.cat((state[key], torch.zeros(2, 3, dtype=torch.float64)))
    optimizer.state[new] = optimizer.state.pop(old)
    optimizer.param_groups[0]["params"][0] = new
    _step(optimizer, 5)
    assert optimizer.state[new]["exp_avg_sq"].shape == (6, 1)
    assert Sphere().violation(new.detach()).max() < 1e-14
    assert params

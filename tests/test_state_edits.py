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


def _weights(dtype=torch.float64):
    return [
        *(ManifoldParameter(noise(s, i, dtype), Free()) for i, s in enumerate(SHAPES)),
        nn.Parameter(noise(PLAIN, 9, dtype)),
    ]


def _twins(name, **options):
    """Ours and torch's, on equal values."""
    params = _weights()
    plain = [nn.Parameter(p.detach().clone()) for p in params]
    ours = make(name, params, **options)
    return ours, TORCH[name](plain, **{**OPTIONS[name], **options})


def _step(optimizer, seed, without=()):
    for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        p.grad = None if i in without else noise(p.shape, 50 * seed + i, p.dtype)
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
    *((name, {}) for name in TORCH),
    ("SGD", {"momentum": 0.9, "nesterov": True, "dampening": 0.0}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("Adam", {"second_moment": "carried"}),
    ("Adam", {"foreach": False}),
    ("AdamW", {"fused": True}),
]
each_class = pytest.mark.parametrize(
    ("name", "options"), CASES := CLASSES, ids=[f"{n}{'-' * bool(o)}{','.join(o)}" for n, o in CASES]
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

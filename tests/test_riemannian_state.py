"""The state of any optimizer made Riemannian: saved, loaded by the base and back, copied."""

import copy
import pickle

import pytest
import torch
from torch import nn

from riemopt.manifolds import Symmetric
from tests.riemannian_cases import (
    BASES,
    DTYPES,
    OPTIONS,
    OUTSIDE,
    assert_equal_entries,
    assert_on_the_surface,
    assert_same_state,
    counterparts,
    every_class,
    make,
    plain_weights,
    run,
    weight,
)


def _constrained(dtype=torch.float32):
    """Two that are stacked, and one of each other kind."""
    alone = [weight(point, dtype=dtype) for point in ("sphere", "wide", "symmetric")]
    return [weight("tall", 1, dtype), weight("tall", 2, dtype), *alone]


def _several():
    return [*_constrained(), *plain_weights()]


def _several_of_one_rule(name):
    """Without what is stepped by AdamW beside Muon, and has AdamW's state."""
    params = _several()
    return [p for p in params if name != "Muon" or getattr(p, "manifold", None) != Symmetric()]


def _continues_as(optimizer, params, other, others):
    """Both take the same steps, bit for bit."""
    run(optimizer, params, 3, start=20)
    run(other, others, 3, start=20)
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)


@every_class
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_resume_is_bit_for_bit(name, dtype, tmp_path):
    params = _constrained(dtype)
    optimizer = make(name, params)
    run(optimizer, params)
    weights = [p.detach() for p in params]
    torch.save({"weights": weights, "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    others = _constrained(dtype)
    with torch.no_grad():
        for q, x in zip(others, saved["weights"], strict=True):
            q.copy_(x)
    resumed = make(name, others)
    resumed.load_state_dict(saved["optimizer"])
    _continues_as(optimizer, params, resumed, others)
    assert_same_state(optimizer, resumed)


@every_class
def test_checkpoints_of_the_base_and_back(name):
    params = _several_of_one_rule(name)
    ours = make(name, params)
    run(ours, params)
    plain = [nn.Parameter(p.detach().clone()) for p in params]
    theirs = BASES[name](plain, **OPTIONS[name])
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    assert_same_state(ours, theirs)
    run(theirs, plain)
    back = make(name, _several_of_one_rule(name))
    back.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for group, saved in zip(back.param_groups, theirs.param_groups, strict=True):
        for p, q in zip(group["params"], saved["params"], strict=True):
            mine, other = dict(back.state[p]), dict(theirs.state[q])
            if getattr(p, "manifold", None) == Symmetric():
                for key in back.tangent_state:  # is made tangent
                    value = other.pop(key)
                    assert torch.equal(mine.pop(key), (value + value.mT) / 2)
            assert_equal_entries(mine, other)
    again = back.param_groups[0]["params"]
    run(back, again)
    for p in [p for p in again if hasattr(p, "manifold")]:
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
    _continues_as(optimizer, params, twin, counterparts(optimizer, params, twin))


def pickled(a):
    return pickle.loads(pickle.dumps(a))

"""On unconstrained parameters the numbers, the state and the errors are torch's, bit for bit."""

import copy
import itertools

import pytest
import torch
from torch import nn

import riemopt

PAIRS = {
    "SGD": (riemopt.RiemannianSGD, torch.optim.SGD),
    "Adam": (riemopt.RiemannianAdam, torch.optim.Adam),
    "AdamW": (riemopt.RiemannianAdamW, torch.optim.AdamW),
}
IMPLEMENTATIONS = [{}, {"foreach": False}, {"foreach": True}, {"fused": True}]


def _grid(**options):
    return [
        dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())
    ]


SGD_OPTIONS = [
    o
    for o in _grid(
        momentum=[0, 0.9],
        dampening=[0, 0.3],
        nesterov=[False, True],
        weight_decay=[0, 0.1],
        maximize=[False, True],
        lr=[0.1, torch.tensor(0.1)],
    )
    if not o["nesterov"] or (o["momentum"] and not o["dampening"])
]
ADAM_OPTIONS = _grid(
    betas=[(0.9, 0.999), (0.5, 0.7)],
    eps=[1e-8, 1e-2],
    weight_decay=[0, 0.1],
    amsgrad=[False, True],
    maximize=[False, True],
    lr=[0.1, torch.tensor(0.1)],
)
CASES = [
    (name, {**options, **implementation})
    for name, grid in (("SGD", SGD_OPTIONS), ("Adam", ADAM_OPTIONS), ("AdamW", ADAM_OPTIONS))
    for options in grid
    for implementation in IMPLEMENTATIONS
    if not (implementation.get("foreach") and name != "SGD" and torch.is_tensor(options["lr"]))
]


def _parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = [(), (3,), (4, 5), (2, 3, 4), (0, 3)]
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in shapes]


def _train(optimizer, params, steps=4, seed=1):
    fused = optimizer.defaults["fused"]  # torch's fused SGD cannot take a late first gradient
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for i, p in enumerate(params):
            late = (
                i == 1 and step < 2 and not fused
            )  # one parameter gets its first gradient in the third step
            p.grad = None if late else torch.randn(p.shape, generator=generator, dtype=p.dtype)
        optimizer.step()


def _assert_same(ours, theirs):
    for a, b in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert {k: v for k, v in a.items() if k != "params"} == {
            k: v for k, v in b.items() if k != "params"
        }
        for p, q in zip(a["params"], b["params"], strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=0)
            assert ours.state[p].keys() == theirs.state[q].keys()
            for key, value in ours.state[p].items():
                torch.testing.assert_close(value, theirs.state[q][key], rtol=0, atol=0)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_combination_of_options(name, options):
    ours, theirs = PAIRS[name]
    p, q = _parameters(), _parameters()
    a = ours(p, **copy.deepcopy(options))
    b = theirs(q, **copy.deepcopy(options))
    _train(a, p)
    _train(b, q)
    _assert_same(a, b)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float16, torch.complex64], ids=str
)
def test_every_dtype(name, dtype):
    ours, theirs = PAIRS[name]
    p, q = _parameters(dtype), _parameters(dtype)
    a, b = ours(p, lr=0.1, weight_decay=0.1), theirs(q, lr=0.1, weight_decay=0.1)
    _train(a, p)
    _train(b, q)
    _assert_same(a, b)


def _database():
    common = pytest.importorskip("torch.testing._internal.common_optimizers")
    return {info.name: info for info in common.optim_db if info.name in PAIRS}, common


@pytest.mark.parametrize("name", PAIRS)
def test_every_configuration_of_torchs_own_suite(name):
    database, common = _database()
    info = database[name]
    ours, theirs = PAIRS[name]
    inputs = common._get_optim_inputs_including_global_cliquey_kwargs(
        "cpu", torch.float32, info, skip=("differentiable",)
    )
    assert inputs
    for case in inputs:
        if case.kwargs.get("capturable"):
            continue  # needs an accelerator, in torch too
        p, q = _parameters(), _parameters()
        a, b = ours(p, **copy.deepcopy(case.kwargs)), theirs(q, **copy.deepcopy(case.kwargs))
        _train(a, p)
        _train(b, q)
        _assert_same(a, b)


@pytest.mark.parametrize("name", PAIRS)
def test_errors_are_torchs(name):
    database, _ = _database()
    info = database[name]
    errors = info.optim_error_inputs_func(device="cpu", dtype=torch.float32)
    assert errors
    for case in errors:
        optim_input = case.optimizer_error_input
        warns = issubclass(case.error_type, Warning)
        with pytest.warns(case.error_type) if warns else pytest.raises(case.error_type):
            PAIRS[name][0](optim_input.params, **optim_input.kwargs)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_checkpoints_cross_over_both_ways(name):
    ours, theirs = PAIRS[name]
    options = {"lr": 0.1, "momentum": 0.9} if name == "SGD" else {"lr": 0.1, "amsgrad": True}
    p = _parameters()
    reference = theirs(p, **options)
    _train(reference, p)
    q = [nn.Parameter(t.detach().clone()) for t in p]
    moved = ours(q, **options)
    moved.load_state_dict(copy.deepcopy(reference.state_dict()))
    r = [nn.Parameter(t.detach().clone()) for t in p]
    back = theirs(r, **options)
    back.load_state_dict(copy.deepcopy(moved.state_dict()))
    for optimizer, params in ((reference, p), (moved, q), (back, r)):
        _train(optimizer, params, seed=2)
    _assert_same(moved, reference)
    _assert_same(back, reference)


def test_sparse_gradients_are_treated_as_torch_treats_them():
    embedding = nn.Embedding(5, 3, sparse=True)
    twin = copy.deepcopy(embedding)
    for module, cls in ((embedding, riemopt.RiemannianSGD), (twin, torch.optim.SGD)):
        optimizer = cls(module.parameters(), lr=0.1)
        module(torch.tensor([1, 3, 1])).sum().backward()
        optimizer.step()
    torch.testing.assert_close(embedding.weight, twin.weight, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="sparse"):
        riemopt.RiemannianAdam(embedding.parameters()).step()


def test_a_euclidean_manifold_is_the_same_as_none():
    p, q = _parameters()[2], _parameters()[2]
    a = riemopt.RiemannianAdam([{"params": [p], "manifold": riemopt.manifolds.Euclidean()}])
    b = torch.optim.Adam([q])
    _train(a, [p])
    _train(b, [q])
    _assert_same(a, b)

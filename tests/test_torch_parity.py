"""On unconstrained parameters the numbers, the state and the errors are torch's, bit for bit."""

import copy
import functools
import itertools
import re
import warnings

import pytest
import torch
from torch import nn

import riemopt
from tests import needs

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
            # torch's own Adam divides 0 by 0 in float16, in some releases
            torch.testing.assert_close(p, q, rtol=0, atol=0, equal_nan=True)
            assert ours.state[p].keys() == theirs.state[q].keys()
            for key, value in ours.state[p].items():
                torch.testing.assert_close(
                    value, theirs.state[q][key], rtol=0, atol=0, equal_nan=True
                )


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


def _configurations(name, device="cpu", dtype=torch.float32):
    database, common = _database()
    inputs = common._get_optim_inputs_including_global_cliquey_kwargs(device, dtype, database[name])
    assert inputs
    return [case.kwargs for case in inputs]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_every_configuration_of_torchs_own_suite(name, dtype):
    ours, theirs = PAIRS[name]
    for options in _configurations(name, dtype=dtype):
        if options.get("differentiable"):
            continue  # below
        if dtype == torch.float16 and options.get("fused") and options.get("momentum"):
            continue  # torch 2.13's fused SGD differs from itself here, in one process of three
        p, q = _parameters(dtype), _parameters(dtype)
        a, b = ours(p, **copy.deepcopy(options)), theirs(q, **copy.deepcopy(options))
        _train(a, p)
        _train(b, q)
        _assert_same(a, b)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", PAIRS)
def test_every_configuration_of_torchs_own_suite_on_cuda(name):
    ours, theirs = PAIRS[name]
    for options in _configurations(name, "cuda"):
        if options.get("differentiable"):
            continue
        p = [nn.Parameter(t.detach().cuda()) for t in _parameters()]
        q = [nn.Parameter(t.detach().cuda()) for t in _parameters()]
        a, b = ours(p, **copy.deepcopy(options)), theirs(q, **copy.deepcopy(options))
        for step in range(4):
            for x, y in zip(p, q, strict=True):
                x.grad = torch.full_like(x, 0.5 - 0.3 * step)
                y.grad = x.grad.clone()
            a.step()
            b.step()
        _assert_same(a, b)


@needs.differentiable_steps
@pytest.mark.parametrize("name", PAIRS)
def test_differentiable_steps_have_torchs_values_and_derivatives(name):
    def end(cls, options, x, g, lr):
        p = x.clone()
        optimizer = cls([p], **copy.deepcopy(options))
        optimizer.param_groups[0]["lr"] = lr
        p.grad = g
        optimizer.step()  # one: in torch the second overwrites what backward needs of the first
        return p

    chosen = [o for o in _configurations(name) if o.get("differentiable")]
    assert chosen
    for options in chosen:
        results = []
        for cls in PAIRS[name]:
            x = _parameters(torch.float64)[2].detach().requires_grad_()
            g = torch.linspace(-1, 1, 20, dtype=torch.float64).view(4, 5).requires_grad_()
            lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
            out = end(cls, options, x, g, lr)
            results.append(
                (out, *torch.autograd.grad(out.square().sum(), (x, g, lr), allow_unused=True))
            )
        for a, b in zip(*results, strict=True):
            assert (a is None and b is None) or torch.equal(a, b), options


def _build(cls, params, options):
    return cls(params, **copy.deepcopy(options))


def _outcomes(name, action):
    """The type and message of what `action(cls)` raises or warns; of our class and of torch's."""
    found = []
    for cls in PAIRS[name]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                action(cls)
            except Exception as error:
                outcome = type(error), str(error)
            else:
                outcome = (caught[0].category, str(caught[0].message)) if caught else (None, "")
        found.append((outcome[0], re.sub(r"\w+\.__init__", "__init__", outcome[1])))
    return found


@pytest.mark.parametrize("name", PAIRS)
def test_errors_are_torchs(name):
    database, _ = _database()
    errors = database[name].optim_error_inputs_func(device="cpu", dtype=torch.float32)
    assert errors
    for case in errors:
        given = case.optimizer_error_input
        params = _parameters() if given.params is None else given.params
        make = functools.partial(_build, params=params, options=given.kwargs)
        ours, theirs = _outcomes(name, make)
        assert issubclass(ours[0], case.error_type), given.desc
        assert re.search(case.error_regex, ours[1]), given.desc
        assert ours == theirs, given.desc


BAD_OPTIONS = [
    {"lr": -1.0},
    {"lr": torch.tensor([0.1, 0.2])},
    {"weight_decay": -0.1},
    {"fused": True, "foreach": True},
    {"fused": True, "differentiable": True},
    {"no_such_option": 1},
]
BAD_SGD_OPTIONS = [
    {"momentum": -0.5},
    {"nesterov": True},
    {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
]
BAD_ADAM_OPTIONS = [
    {"betas": (1.0, 0.9)},
    {"betas": (0.9, -0.1)},
    {"betas": (torch.tensor(0.9), 0.9)},
    {"eps": -1e-8},
    {"fused": True, "lr": torch.tensor([[0.1, 0.2]])},
    {"foreach": True, "lr": torch.tensor(0.1)},
]


@pytest.mark.parametrize("name", PAIRS)
def test_what_torch_refuses_when_it_is_built_is_refused_in_the_same_words(name):
    for options in BAD_OPTIONS + (BAD_SGD_OPTIONS if name == "SGD" else BAD_ADAM_OPTIONS):
        make = functools.partial(_build, params=_parameters(), options=options)
        ours, theirs = _outcomes(name, make)
        assert ours == theirs, options
        assert theirs[0] is not None, options


BAD_STEPS = {  # options, parameters, their gradients
    "capturable on a CPU": ({"capturable": True}, _parameters, torch.randn_like),
    "tensor lr made later": ({"foreach": True}, _parameters, torch.randn_like),
    "sparse gradient": ({}, lambda: _parameters()[2:3], lambda p: torch.randn_like(p).to_sparse()),
    "fused integer": ({"fused": True}, lambda: [torch.ones(3, dtype=torch.int64)], torch.ones_like),
}


@pytest.mark.parametrize(
    ("name", "case"),
    [("SGD", "fused integer"), *itertools.product(("Adam", "AdamW"), BAD_STEPS)],
)
def test_what_torch_refuses_in_a_step_is_refused_in_the_same_words(name, case):
    options, make, grad = BAD_STEPS[case]

    def action(cls):
        params = make()
        optimizer = cls(params, **options)
        if case == "tensor lr made later":
            optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
        for p in params:
            p.grad = grad(p)
        optimizer.step()

    ours, theirs = _outcomes(name, action)
    assert ours == theirs
    assert theirs[0] is not None


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS[:3], ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_dtypes_mixed_in_one_group(name, implementation):
    def params():
        dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.float16)
        return [p for dtype in dtypes for p in _parameters(dtype)]

    ours, theirs = PAIRS[name]
    p, q = params(), params()
    a, b = ours(p, lr=0.1, **implementation), theirs(q, lr=0.1, **implementation)
    _train(a, p)
    _train(b, q)
    _assert_same(a, b)


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


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sparse_gradients_are_treated_as_torch_treats_them(foreach, maximize, momentum):
    embedding = nn.Embedding(5, 3, sparse=True)
    twin = copy.deepcopy(embedding)
    options = {"lr": 0.1, "momentum": momentum, "foreach": foreach, "maximize": maximize}
    for module, cls in zip((embedding, twin), PAIRS["SGD"], strict=True):
        optimizer = cls(module.parameters(), **options)
        for words in ([1, 3, 1], [0, 3], [4, 4]):
            optimizer.zero_grad()
            module(torch.tensor(words)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(embedding.weight, twin.weight, rtol=0, atol=0)


def test_a_euclidean_manifold_is_the_same_as_none():
    p, q = _parameters()[2], _parameters()[2]
    a = riemopt.RiemannianAdam([{"params": [p], "manifold": riemopt.manifolds.Euclidean()}])
    b = torch.optim.Adam([q])
    _train(a, [p])
    _train(b, [q])
    _assert_same(a, b)


# --- state, hooks and closures ----------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_the_state_dict_has_torchs_keys_order_types_and_values(name, named, tmp_path):
    saved = []
    for cls in PAIRS[name]:
        params = _parameters()
        given = [(f"layer{i}", p) for i, p in enumerate(params)] if named else params
        optimizer = cls([{"params": given[:2]}, {"params": given[2:], "lr": 0.5}])
        _train(optimizer, params)
        saved.append(optimizer.state_dict())
    ours, theirs = saved
    assert list(ours) == list(theirs)
    assert ours["param_groups"] == theirs["param_groups"]
    assert [list(g) for g in ours["param_groups"]] == [list(g) for g in theirs["param_groups"]]
    assert list(ours["state"]) == list(theirs["state"])
    for a, b in zip(ours["state"].values(), theirs["state"].values(), strict=True):
        assert list(a) == list(b)
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=0, atol=0)
            assert a[key].device == b[key].device
    torch.save(ours, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True).keys() == theirs.keys()


@pytest.mark.parametrize("name", PAIRS)
def test_checkpoints_of_older_torch_load(name):
    """Without the options that came later; with a `step` that is a number."""
    for cls in PAIRS[name]:
        params = _parameters()
        optimizer = cls(params, lr=0.1)
        _train(optimizer, params)
        saved = copy.deepcopy(optimizer.state_dict())
        for key in ("foreach", "fused", "maximize", "capturable", "differentiable", "amsgrad"):
            saved["param_groups"][0].pop(key, None)
        for state in saved["state"].values():
            if "step" in state:
                state["step"] = int(state["step"])
        again = cls(params, lr=0.2)
        again.load_state_dict(saved)
        assert again.param_groups[0]["foreach"] is None
        _train(again, params, steps=1)
        if name != "SGD":
            assert again.state[params[0]]["step"] == 5


@pytest.mark.parametrize("saved_named", [False, True])
@pytest.mark.parametrize("loaded_named", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_named_and_unnamed_checkpoints_load_into_each_other(name, saved_named, loaded_named):
    results = []
    for cls in PAIRS[name]:
        params = _parameters()
        names = [(f"p{i}", p) for i, p in enumerate(params)]
        saver = cls(names if saved_named else params)
        _train(saver, params)
        loader = cls(names if loaded_named else params)
        loader.load_state_dict(copy.deepcopy(saver.state_dict()))
        results.append(loader.state_dict()["param_groups"])
    assert results[0] == results[1]


@pytest.mark.parametrize("name", PAIRS)
def test_copies_and_prints_as_torchs(name):
    ours, theirs = PAIRS[name]
    p, q = _parameters(), _parameters()
    a, b = ours(p), theirs(q)
    _train(a, p)
    _train(b, q)
    assert repr(b).partition("(")[2][:-2] in repr(a)
    for copied in (copy.deepcopy(a), copy.copy(a)):
        public = {k for k in vars(a) if not k.startswith("_")}
        assert public == {k for k in vars(copied) if not k.startswith("_")}
    assert {k for k in vars(b) if not k.startswith("_")} <= set(vars(a))
    a.zero_grad(set_to_none=False)
    assert all(x.grad is not None and not x.grad.any() for x in p)
    a.zero_grad()
    assert all(x.grad is None for x in p)
    before = copy.deepcopy(a.state_dict()["state"])
    a.step()  # no gradients: nothing happens
    after = a.state_dict()["state"]
    assert all(torch.equal(before[i][k], after[i][k]) for i in before for k in before[i])


@pytest.mark.parametrize("name", PAIRS)
def test_all_hooks_fire_in_torchs_order(name):
    from torch.optim.optimizer import (
        register_optimizer_step_post_hook,
        register_optimizer_step_pre_hook,
    )

    orders = []
    for cls in PAIRS[name]:
        calls = []

        def note(event, calls=calls):
            return lambda *arguments: calls.append((event, len(arguments)))

        params = _parameters()
        optimizer = cls(params)
        handles = [
            register_optimizer_step_pre_hook(note("global pre")),
            register_optimizer_step_post_hook(note("global post")),
            optimizer.register_step_pre_hook(note("pre")),
            optimizer.register_step_post_hook(note("post")),
            optimizer.register_state_dict_pre_hook(note("state pre")),
            optimizer.register_state_dict_post_hook(note("state post")),
            optimizer.register_load_state_dict_pre_hook(note("load pre")),
            optimizer.register_load_state_dict_post_hook(note("load post")),
            optimizer.register_load_state_dict_pre_hook(note("load first"), prepend=True),
        ]
        _train(optimizer, params, steps=2)
        optimizer.load_state_dict(optimizer.state_dict())
        for handle in handles:
            handle.remove()
        _train(optimizer, params, steps=1)
        orders.append(calls)
    assert orders[0] == orders[1]
    assert len(orders[0]) == 2 * 4 + 5


@pytest.mark.parametrize("name", PAIRS)
def test_a_state_dict_hook_decides_what_is_saved(name):
    saved = []
    for cls in PAIRS[name]:
        params = _parameters()
        optimizer = cls(params)
        _train(optimizer, params)
        optimizer.register_state_dict_post_hook(lambda _, state: {**state, "run": 7})
        saved.append(optimizer.state_dict())
    assert saved[0].keys() == saved[1].keys() >= {"run"}


@pytest.mark.parametrize("name", PAIRS)
def test_a_closure_is_called_once_with_gradients(name):
    results = []
    for cls in PAIRS[name]:
        p, calls = nn.Parameter(torch.ones(3)), []
        optimizer = cls([p], lr=0.1)

        def closure(optimizer=optimizer, p=p, calls=calls):
            calls.append(torch.is_grad_enabled())
            optimizer.zero_grad()
            loss = p.square().sum()
            loss.backward()
            return loss

        with torch.no_grad():
            losses = [optimizer.step(closure).item() for _ in range(3)]
        results.append((losses, calls))
    assert results[0] == results[1]
    assert results[0][1] == [True] * 3

"""The constraint survives whatever torch does to a module, and the optimizer steps on the surface.

Each case of `test_survives` remakes a trained model in one way; the optimizer built from what comes
back must find every manifold, and three steps with it must end on the surface.
"""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import riemopt
from riemopt import LostManifoldError, ManifoldParameter, constrain, constraints, manifold_of
from riemopt.manifolds import Sphere, Stiefel, Symmetric
from riemopt.nn import table
from tests import needs


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6))
        self.prototypes = ManifoldParameter(torch.randn(3, 6), Sphere())
        constrain(self.inner[0], "weight", Stiefel())
        self.inner[1].weight = ManifoldParameter(torch.randn(6, 6), Symmetric())

    def forward(self, x):
        return self.inner(x) @ self.prototypes.mT


EXPECTED = {"inner.0.weight": Stiefel(), "inner.1.weight": Symmetric(), "prototypes": Sphere()}


def _train(model, optimizer, steps=3, dtype=torch.float32):
    for step in range(steps):
        data = torch.randn(5, 4, generator=torch.Generator().manual_seed(step)).to(dtype)
        optimizer.zero_grad()
        (model(data) - 1).square().mean().backward()
        optimizer.step()


def _saved(model, weights_only):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=weights_only)


def _assign(model):
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    return model


def _through_meta(model):
    state = copy.deepcopy(model.state_dict())
    model = model.to("meta").to_empty(device="cpu")
    model.load_state_dict(state)
    return model


def _meta_init(model):
    with torch.device("meta"):
        fresh = Net()
    fresh = fresh.to_empty(device="cpu")
    fresh.load_state_dict(model.state_dict())
    return fresh


def _with_future_flag(name):
    def remake(model):
        setter = getattr(torch.__future__, f"set_{name}")
        setter(True)
        try:
            model = model.to(torch.float64).to(torch.float32)
            model.load_state_dict(copy.deepcopy(model.state_dict()))
        finally:
            setter(False)
        return model

    return remake


def _new_parameters(model):
    model.inner[0].weight = nn.Parameter(model.inner[0].weight.detach().clone())
    model.inner[1].weight = nn.Parameter(model.inner[1].weight.detach().clone())
    model.prototypes = nn.Parameter(model.prototypes.detach().clone())
    return model


def _swapped(model):
    weight = nn.Parameter(model.prototypes.detach().clone())
    torch.utils.swap_tensors(model.prototypes, weight)
    return model


def _parametrized(model):
    parametrize.register_parametrization(model.inner[0], "weight", nn.Identity())
    return model


def _edited(model):
    for p in model.parameters():
        p.data = p.data.clone()
    return model


REMAKES = {
    "unchanged": lambda m: m,
    "deepcopy": copy.deepcopy,
    "deepcopy twice": lambda m: copy.deepcopy(copy.deepcopy(m)),
    "shallow copy": lambda m: _shallow(m),
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "torch.save": lambda m: _saved(m, weights_only=False),
    "assign=True": _assign,
    "meta and to_empty": _through_meta,
    "meta initialisation": _meta_init,
    "to(float64) and back": lambda m: m.double().float(),
    "swap_module_params": _with_future_flag("swap_module_params_on_conversion"),
    "overwrite_module_params": _with_future_flag("overwrite_module_params_on_conversion"),
    "new parameters": _new_parameters,
    "swap_tensors": _swapped,
    "p.data = ...": _edited,
    "parametrized over it": _parametrized,
    "nested": lambda m: nn.Sequential(m),
    "AveragedModel": lambda m: torch.optim.swa_utils.AveragedModel(m),
    "torch.compile": lambda m: torch.compile(m, backend="eager"),
}


def _shallow(model):
    twin = copy.copy(model)
    twin.inner = copy.copy(model.inner)
    twin.inner._modules = {k: copy.copy(v) for k, v in model.inner._modules.items()}
    return twin


@pytest.mark.sampled(2)
@pytest.mark.parametrize("remake", REMAKES)
@pytest.mark.parametrize("cls", [riemopt.RiemannianSGD, riemopt.RiemannianAdam])
def test_survives(remake, cls):
    model = Net()
    _train(model, cls(model.parameters(), lr=0.1))
    model = REMAKES[remake](model)
    gc.collect()
    found = {c.name: c.manifold for c in constraints(model)}
    assert sorted(map(repr, found.values())) == sorted(map(repr, EXPECTED.values()))
    optimizer = cls(model.parameters(), lr=0.1)
    assert all(name in repr(optimizer) for name in ("1 on Stiefel", "1 on Symm", "1 on Sphere"))
    before = [p.detach().clone() for p in model.parameters()]
    _train(model, optimizer)
    assert all(c.satisfied for c in constraints(model))
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    "copier",
    [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p)), lambda p: _saved(p, True)],
    ids=["deepcopy", "pickle", "weights_only"],
)
@pytest.mark.parametrize("requires_grad", [True, False])
def test_a_loose_manifold_parameter_survives(copier, requires_grad):
    p = ManifoldParameter(torch.randn(6, 3), Stiefel(retraction="qr"), requires_grad)
    p.note = "kept"
    q = copier(p)
    assert type(q) is ManifoldParameter
    assert torch.equal(p, q)
    assert q.requires_grad is requires_grad
    assert manifold_of(q) == Stiefel(retraction="qr")
    assert q.note == "kept"


def test_a_dict_of_named_parameters_loads_with_weights_only():
    loaded = _saved(dict(Net().named_parameters()), weights_only=True)
    assert manifold_of(loaded["prototypes"]) == Sphere()


def test_what_loads_off_the_surface_is_reported_and_put_back():
    model = Net()
    model.load_state_dict({k: 2 * v + 1e-1 for k, v in model.state_dict().items()})
    assert not any(c.satisfied for c in constraints(model) if c.manifold != Symmetric())
    riemopt.project_(model)
    assert all(c.satisfied for c in constraints(model))


def test_functional_call_and_its_transforms():
    model = Net()
    params = dict(model.named_parameters())
    data = torch.randn(5, 4)
    value = torch.func.functional_call(model, params, data)
    torch.testing.assert_close(value, model(data))

    def loss(p):
        return torch.func.functional_call(model, p, data).sum()

    grads = torch.func.grad(loss)({k: v.detach() for k, v in params.items()})
    assert grads.keys() == params.keys()
    assert len(constraints(model)) == 3


@pytest.mark.parametrize("cls", [riemopt.RiemannianSGD, riemopt.RiemannianAdam])
def test_constraining_after_the_optimizer_was_built(cls):
    model = nn.Linear(4, 6)
    optimizer = cls(model.parameters(), lr=0.1)
    _train(model, optimizer)
    constrain(model, "weight", Stiefel())
    assert "1 on Stiefel" in repr(optimizer)
    _train(model, optimizer)
    assert constraints(model)[0].satisfied
    riemopt.unconstrain(model, "weight")
    _train(model, optimizer)
    assert Stiefel().violation(model.weight.detach()) > 1e-3


def test_a_replaced_parameter_is_found_by_the_next_optimizer():
    model = Net()
    model.prototypes = ManifoldParameter(torch.randn(3, 6), Sphere(radius=2.0))
    assert {c.name: c.manifold for c in constraints(model)}["prototypes"] == Sphere(radius=2.0)


def test_an_optimizer_of_a_replaced_parameter_is_not_told_of_the_new_ones_manifold():
    layer = nn.Linear(4, 6)
    optimizer = riemopt.RiemannianSGD(layer.parameters(), lr=0.1)
    layer.weight = ManifoldParameter(torch.randn(4, 4), Symmetric())
    assert "2 unconstrained" in repr(optimizer)


def test_a_tied_weight_released_in_one_place_is_released_in_the_other():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    constrain(first, "weight", Stiefel())
    constrain(second, "weight", Stiefel())
    optimizer = riemopt.RiemannianAdam(first.parameters())
    riemopt.unconstrain(second, "weight")
    assert "2 unconstrained" in repr(optimizer)
    assert manifold_of(first.weight) is None
    assert constraints(first) == []


def test_a_weight_tied_to_two_manifolds_concerns_its_own_optimizer_only():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    constrain(first, "weight", Stiefel())
    constrain(second, "weight", Symmetric())
    second.weight = first.weight
    with pytest.raises(ValueError, match=r"several manifolds.*'weight' of Linear on S"):
        riemopt.RiemannianAdam(first.parameters())
    riemopt.RiemannianAdam(nn.Linear(2, 2).parameters())
    riemopt.unconstrain(second, "weight")


@pytest.mark.parametrize(
    "lose",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        lambda layer: nn.utils.parametrizations.weight_norm(layer, "weight"),
        lambda layer: layer._parameters.pop("weight"),
    ],
    ids=["pruning", "several originals", "removed"],
)
def test_a_lost_manifold_is_an_error_and_not_a_euclidean_step(lose):
    layer = constrain(nn.Linear(4, 6), "weight", Stiefel())
    model = nn.Sequential(layer, nn.Linear(6, 2))
    lose(layer)
    with pytest.raises(LostManifoldError, match=r"'weight'.*unconstrain"):
        riemopt.RiemannianAdam(layer.parameters())
    with pytest.raises(LostManifoldError, match=r"0\.weight"):
        constraints(model)
    riemopt.RiemannianAdam(model[1].parameters())  # other modules are not concerned
    riemopt.unconstrain(layer, "weight")
    riemopt.RiemannianAdam(layer.parameters())


def test_a_flat_parameter_that_swallowed_a_constrained_weight_is_refused():
    from torch.distributed.fsdp._flat_param import FlatParameter, ParamInfo

    layer = constrain(nn.Linear(4, 6), "weight", Stiefel())
    flat = FlatParameter(torch.zeros(30))
    flat._param_infos = (ParamInfo("weight", layer, "layer"),)
    with pytest.raises(LostManifoldError, match=r"layer\.weight.*fully_shard"):
        riemopt.RiemannianSGD([flat], lr=0.1)


@pytest.mark.parametrize("cls", [riemopt.RiemannianSGD, riemopt.RiemannianAdam])
def test_groups_changed_by_hand_are_an_error_and_not_a_euclidean_step(cls):
    model = Net()
    optimizer = cls(model.parameters(), lr=0.1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.param_groups[0]["params"].append(nn.Parameter(torch.ones(1)))
    with pytest.raises(LostManifoldError, match="add_param_group"):
        optimizer.step()
    optimizer.param_groups[0]["params"].pop()
    optimizer.param_groups.append(dict(optimizer.param_groups[0], params=[]))
    with pytest.raises(LostManifoldError, match="add_param_group"):
        optimizer.step()


def test_a_trainer_that_swaps_the_tensors_of_a_group_keeps_the_constraint():
    model = Net()
    optimizer = riemopt.RiemannianAdam(model.parameters(), lr=0.1)
    moved = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
    optimizer.param_groups[0]["params"] = moved
    for p in moved:
        p.grad = torch.randn_like(p)
    optimizer.step()
    assert Sphere().violation(moved[0].detach()).max() < 1e-6


def test_manifolds_of_another_package_are_converted_where_it_is_registered(monkeypatch):
    class Unit:
        """A manifold of some package."""

    class Scaled(Unit):
        """A user's subclass of it."""

    Unit.__module__ = "elsewhere.manifolds"
    p = nn.Parameter(torch.ones(3))
    p.manifold = Scaled()
    assert manifold_of(p) is None
    monkeypatch.setattr(table, "_CONVERTERS", {})
    table.register_converter("elsewhere", lambda manifold: Sphere())
    assert manifold_of(p) == Sphere()


def test_no_reference_cycle_keeps_a_model_alive():
    gc.collect()
    gc.disable()
    try:
        model = Net()
        alive = weakref.ref(model)
        del model
        assert alive() is None
    finally:
        gc.enable()


def test_manifolds_are_not_in_checkpoints():
    model = Net()
    optimizer = riemopt.RiemannianAdam(model.parameters())
    _train(model, optimizer)
    reference = torch.optim.Adam(nn.Linear(2, 2).parameters())
    assert optimizer.state_dict().keys() == reference.state_dict().keys()
    assert optimizer.param_groups[0].keys() == reference.param_groups[0].keys()
    assert all(type(v) is torch.Tensor for v in model.state_dict().values())


def test_under_a_fake_tensor_mode():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        layer = nn.Linear(4, 6)
        layer.weight = ManifoldParameter(torch.randn(6, 4), Stiefel())
        assert manifold_of(layer.weight) == Stiefel()


@needs.fully_shard_on_cpu
def test_fully_shard_on_one_process(tmp_path):
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        for cls in (riemopt.RiemannianSGD, riemopt.RiemannianAdam):
            torch.manual_seed(0)
            model = Net()
            twin = copy.deepcopy(model)
            options = {"momentum": 0.9} if cls is riemopt.RiemannianSGD else {}
            _train(twin, cls(twin.parameters(), lr=0.1, **options))
            fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
            optimizer = cls(model.parameters(), lr=0.1, **options)
            assert "1 on Stiefel" in repr(optimizer)
            _train(model, optimizer)
            assert all(c.satisfied for c in constraints(model))
            for p, q in zip(model.parameters(), twin.parameters(), strict=True):
                torch.testing.assert_close(p.full_tensor(), q)
            optimizer.load_state_dict(optimizer.state_dict())
            _train(model, optimizer)
            assert all(c.satisfied for c in constraints(model))
            riemopt.project_(model)
    finally:
        distributed.destroy_process_group()

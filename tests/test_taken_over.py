"""A constrained Parameter keeps its manifold when the module that owned it goes.

Each `TAKE` moves the weight of `old`, a linear layer without bias, to something else. `old` is then
forgotten, with and without a reference cycle and a collector that runs; the optimizer must find the
manifold all the same, and its steps must end on the surface.
"""

import contextlib
import copy
import gc
import io
import pickle
import subprocess
import sys
import weakref
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import riemopt
from riemopt import (
    LostManifoldError,
    ManifoldParameter,
    RiemannianAdam,
    RiemannianSGD,
    constrain,
    constraints,
    manifold_of,
    project_,
    unconstrain,
)
from riemopt.manifolds import FixedSum, Sphere, Stiefel, Symmetric
from tests import needs


def by_constrain(manifold):
    return constrain(nn.Linear(5, 5, bias=False), "weight", manifold)


def by_parameter(manifold):
    layer = nn.Linear(5, 5, bias=False)
    layer.weight = ManifoldParameter(layer.weight, manifold)
    return layer


def after_to_empty(manifold):
    """torch has put a new Parameter in the place of the one that was constrained."""
    value = by_constrain(manifold).weight.detach()
    layer = by_constrain(manifold).to("meta").to_empty(device="cpu")
    layer.load_state_dict({"weight": value})
    return layer


MAKERS = [by_constrain, by_parameter, after_to_empty]


def linear(weight):
    layer = nn.Linear(5, 5, bias=False)
    layer.weight = weight
    return layer


class Wrapper(nn.Module):
    """Takes over a layer's Parameter, as adapters do."""

    def __init__(self, layer):
        super().__init__()
        self.weight = layer.weight
        self.delta = nn.Parameter(torch.zeros(5, 5))

    def forward(self, x):
        return x @ (self.weight + self.delta).mT


class Holder(nn.Module):
    """Keeps the Parameter where torch does not look."""

    def __init__(self, layer):
        super().__init__()
        self.hidden = [layer.weight]

    def forward(self, x):
        return x @ self.hidden[0].mT


def registered(layer):
    new = nn.Linear(5, 5, bias=False)
    new.register_parameter("weight", layer.weight)
    return new


def replaced_in_sequential(layer):
    model = nn.Sequential(layer, nn.ReLU())
    model[0] = Wrapper(model[0])
    return model


def past_the_hook(layer):
    new = nn.Linear(5, 5, bias=False)
    new._parameters["weight"] = layer.weight
    return new


def quantization_aware(layer):
    from torch.ao.nn.qat import Linear
    from torch.ao.quantization import get_default_qat_qconfig

    layer.qconfig = get_default_qat_qconfig("fbgemm")
    return Linear.from_float(layer)


def loaded_with_parameters(layer):
    new = nn.Linear(5, 5, bias=False)
    new.load_state_dict(layer.state_dict(keep_vars=True), assign=True)
    return new


def traced(layer):
    return torch.fx.symbolic_trace(nn.Sequential(layer))


def exported(layer):
    return torch.export.export(nn.Sequential(layer), (torch.ones(2, 5),)).module()


def parametrized_and_back(layer):
    parametrize.register_parametrization(layer, "weight", nn.Identity())
    parametrize.remove_parametrizations(layer, "weight")
    return linear(layer.weight)


def averaged(layer):
    return torch.optim.swa_utils.AveragedModel(layer).module


def tied(layer):
    other = linear(layer.weight)
    del layer.weight
    return other


def shallow(layer):
    return copy.copy(layer)


def pickled(layer):
    return pickle.loads(pickle.dumps(Wrapper(layer)))


def saved(layer):
    buffer = io.BytesIO()
    torch.save(Wrapper(layer), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def compiled(layer):
    return torch.compile(Wrapper(layer), backend="eager", fullgraph=True)


def swapped(layer):
    new = linear(nn.Parameter(layer.weight.detach().clone()))
    torch.utils.swap_tensors(new.weight, layer.weight)
    return new


TAKE = {
    "another layer": lambda layer: linear(layer.weight),
    "nn.Parameter(p)": lambda layer: linear(nn.Parameter(layer.weight)),
    "register_parameter": registered,
    "wrapper": Wrapper,
    "replaced in Sequential": replaced_in_sequential,
    "past the hook": past_the_hook,
    "quantization-aware": quantization_aware,
    "copy.copy": shallow,
    "deepcopy of a wrapper": lambda layer: copy.deepcopy(Wrapper(layer)),
    "assign=True of Parameters": loaded_with_parameters,
    "tied, and the first owner loses it": tied,
    "symbolic_trace": traced,
    "export": exported,
    "ParameterList": lambda layer: nn.ParameterList([layer.weight]),
    "ParameterDict": lambda layer: nn.ParameterDict({"w": layer.weight}),
    "parametrized and back": parametrized_and_back,
    "AveragedModel": averaged,
    "pickle": pickled,
    "torch.save": saved,
    "torch.compile": compiled,
    "swap_tensors": swapped,
    "twice": lambda layer: Wrapper(linear(layer.weight)),
}


def steps_end_on(manifold, params, cls=RiemannianSGD):
    optimizer = cls(params, lr=0.1)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        for p in held:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    weight = held[0].detach()
    assert manifold.violation(weight).max() <= manifold.tolerance(weight).max()
    assert "1 on" in repr(optimizer)


FREED, IN_A_CYCLE, COLLECTED = "freed", "in a cycle", "in a cycle, collected"


@contextlib.contextmanager
def forgotten(box, fate):
    """Drop the old owner, the only thing in `box`, while the collector does not run by itself."""
    gc.disable()
    try:
        if fate != FREED:
            box[0].itself = [box[0]]
        alive = weakref.ref(box.pop())
        if fate == COLLECTED:
            gc.collect()
            assert alive() is None
        assert fate != IN_A_CYCLE or alive() is not None
        yield
    finally:
        gc.enable()


COPIES = ("nn.Parameter(p)", "deepcopy of a wrapper", "pickle", "torch.save", "swap_tensors")


CASES = [(take, fate) for take in TAKE for fate in (FREED, IN_A_CYCLE)]
CASES += [(take, COLLECTED) for take in ("another layer", "wrapper", "export", "pickle")]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("take", "fate"), CASES)
@pytest.mark.parametrize("make", MAKERS)
def test_the_constraint_goes_with_the_parameter(make, take, fate):
    if (take, fate) == ("export", COLLECTED) and needs.VERSION < (2, 7):
        pytest.skip("torch.export keeps the module that it was given")
    box = [make(Stiefel())]
    if make is after_to_empty and (take in COPIES or take.startswith("tied")):
        assert constraints(box[0])  # they keep of a Parameter what has been looked at
    new = TAKE[take](box[0])
    with forgotten(box, fate):
        assert [c.manifold for c in constraints(new)] == [Stiefel()]
        steps_end_on(Stiefel(), new.parameters())
        assert all(c.satisfied for c in constraints(new))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "take",
    [
        lambda layer: [layer.weight],
        lambda layer: list({"w": layer.weight}.values()),
        lambda layer: list(layer.parameters()),
        lambda layer: copy.deepcopy([layer.weight]),
        lambda layer: [copy.copy(layer.weight)],
        lambda layer: pickle.loads(pickle.dumps([layer.weight])),
        lambda layer: [pickle.loads(bytes(ForkingPickler.dumps(layer.weight)))],
        lambda layer: [nn.Parameter(layer.weight)],
        lambda layer: Holder(layer).hidden,
        lambda layer: copy.deepcopy(Holder(layer)).hidden,
    ],
    ids=["list", "dict", "all", "deepcopy", "copy", "pickle", "fork", "nn.Parameter", "held", "h"],
)
@pytest.mark.parametrize("fate", [FREED, IN_A_CYCLE])
def test_a_loose_parameter_carries_its_constraint(make, take, fate):
    box = [make(Stiefel())]
    if make is after_to_empty:
        assert constraints(box[0])
    params = take(box[0])
    with forgotten(box, fate):
        assert manifold_of(params[0]) == Stiefel()
        steps_end_on(Stiefel(), params)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("cls", [RiemannianSGD, RiemannianAdam, riemopt.RiemannianRMSprop])
@pytest.mark.parametrize(
    "manifold",
    [Sphere(), Sphere(dim=None), Symmetric(), FixedSum(), Stiefel("qr")],
    ids=repr,
)
def test_any_manifold_and_any_optimizer(cls, manifold):
    new = Wrapper(by_constrain(manifold))
    gc.collect()
    assert [c.manifold for c in constraints(new)] == [manifold]
    steps_end_on(manifold, new.parameters(), cls)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_any_dtype(dtype):
    new = linear(constrain(nn.Linear(5, 5, dtype=dtype), "weight", Stiefel()).weight)
    gc.collect()
    assert manifold_of(new.weight) == Stiefel()


def test_the_parameter_stays_the_same_object():
    layer = nn.Linear(4, 6)
    weight = layer.weight
    optimizer = RiemannianAdam([weight])
    constrain(layer, "weight", Stiefel())
    assert layer.weight is weight
    assert type(weight) is ManifoldParameter
    assert set(weight.__dict__) == {"manifold", "tangent_grad"}
    assert "1 on Stiefel()" in repr(optimizer)
    unconstrain(layer, "weight")
    assert layer.weight is weight
    assert type(weight) is nn.Parameter
    assert not weight.__dict__


@pytest.mark.parametrize("state", [{}, {"manifold": Stiefel(), "tangent_grad": False}])
def test_loaders_that_make_a_parameter_anew_by_its_class(state):
    """As accelerate does: with what is in `__dict__`, or without."""
    layer = by_constrain(Stiefel())
    old = layer.weight
    new = type(old)(old.detach().clone(), requires_grad=old.requires_grad, **state)
    layer._parameters["weight"] = new
    assert new.requires_grad
    assert torch.allclose(new, old, atol=1e-6)
    assert manifold_of(new) == Stiefel()
    assert [c.manifold for c in constraints(layer)] == [Stiefel()]


def test_a_new_value_for_a_constrained_name_is_marked():
    layer = by_constrain(Stiefel())
    layer.load_state_dict(copy.deepcopy(layer.state_dict()), assign=True)
    assert type(layer.weight) is ManifoldParameter
    layer.weight = nn.Parameter(layer.weight.detach().clone())
    params = list(layer.parameters())
    del layer
    assert manifold_of(params[0]) == Stiefel()


def test_what_torch_wrote_past_registration_is_listed_put_back_and_kept():
    model = past_the_hook(by_constrain(Stiefel()))
    gc.collect()
    with torch.no_grad():
        model.weight.mul_(2)
    assert [c.satisfied for c in constraints(model)] == [False]
    project_(model)
    assert [c.satisfied for c in constraints(model)] == [True]
    model = model.to("meta").to_empty(device="cpu")
    assert manifold_of(model.weight) == Stiefel()


def test_tangent_gradients_go_with_the_parameter():
    old = constrain(nn.Linear(5, 5, bias=False), "weight", Stiefel(), tangent_grad=True)
    for new in (Wrapper(old), loaded_with_parameters(old), copy.deepcopy(Wrapper(old))):
        new.zero_grad()
        new(torch.randn(3, 5)).square().sum().backward()
        x, g = new.weight.detach(), new.weight.grad
        torch.testing.assert_close(Stiefel().proj_tangent(x, g), g)


def test_functional_calls_leave_the_parameter_alone():
    new = Wrapper(by_constrain(Stiefel()))
    values = {k: v.detach() for k, v in new.named_parameters()}
    data = torch.randn(3, 5)

    def loss(values):
        return torch.func.functional_call(new, values, data).square().sum()

    assert torch.func.grad(loss)(values)["weight"].shape == (5, 5)
    assert [c.manifold for c in constraints(new)] == [Stiefel()]


@needs.compiled_forward
@pytest.mark.parametrize("make", MAKERS)
def test_a_compiled_forward_has_no_breaks(make):
    layer = make(Stiefel())

    @torch.compile(backend="aot_eager", fullgraph=True)
    def forward(x):
        return nn.functional.linear(x, layer.weight) + layer.weight.detach().sum()

    x = torch.randn(3, 5)
    torch.testing.assert_close(forward(x), layer(x) + layer.weight.sum())
    forward(x).sum().backward()
    assert layer.weight.grad is not None


# --- released, contradicted, lost ---


@pytest.mark.parametrize("fate", [FREED, IN_A_CYCLE, COLLECTED])
def test_a_weight_that_was_taken_over_can_be_released(fate):
    box = [by_constrain(Stiefel())]
    new = linear(box[0].weight)
    with forgotten(box, fate):
        optimizer = RiemannianAdam(new.parameters())
        unconstrain(new, "weight")
        assert manifold_of(new.weight) is None
        assert constraints(new) == []
        assert "1 unconstrained" in repr(optimizer)
    gc.collect()
    assert manifold_of(new.weight) is None
    constrain(new, "weight", Sphere())
    assert "1 on Sphere()" in repr(optimizer)


def test_two_manifolds_for_one_weight_are_an_error_also_when_one_owner_is_gone():
    first, second = by_constrain(Stiefel()), by_constrain(Symmetric())
    second.weight = first.weight
    with pytest.raises(ValueError, match=r"several manifolds.*'weight' of Linear on S"):
        RiemannianAdam(second.parameters())
    del first
    gc.collect()
    with pytest.raises(ValueError, match=r"several manifolds.*the Parameter itself on Stiefel"):
        RiemannianAdam(second.parameters())
    unconstrain(second, "weight")
    RiemannianAdam(second.parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "script",
    [
        torch.jit.script,
        pytest.param(
            lambda layer: torch.jit.trace(layer, torch.ones(2, 5)), marks=needs.traced_attributes
        ),
    ],
    ids=["script", "trace"],
)
@pytest.mark.parametrize("make", MAKERS)
def test_torchscript_modules(make, script):
    compiled = script(nn.Sequential(make(Stiefel()), make(Stiefel())))
    gc.collect()
    assert [c.name for c in constraints(compiled)] == ["0.weight", "1.weight"]
    optimizer = RiemannianSGD(compiled.parameters(), lr=0.1)
    compiled(torch.randn(7, 5)).square().sum().backward()
    optimizer.step()
    assert all(c.satisfied for c in constraints(compiled))
    with torch.no_grad():
        dict(compiled.named_parameters())["1.weight"].mul_(2)
    project_(compiled)
    assert all(c.satisfied for c in constraints(compiled))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_weight_of_a_torchscript_module_is_constrained_and_released():
    compiled = torch.jit.script(nn.Linear(5, 5))
    constrain(compiled, "weight", Stiefel())
    assert constraints(compiled)[0].satisfied
    with pytest.raises(AttributeError, match="has no parameter 'scale'; it has"):
        constrain(compiled, "scale", Stiefel())
    unconstrain(compiled, "weight")
    assert not constraints(compiled)


LOSE = {
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "weight_norm": lambda layer: nn.utils.parametrizations.weight_norm(layer, "weight"),
    "the old weight_norm": lambda layer: nn.utils.weight_norm(layer, "weight"),
    "the old spectral_norm": lambda layer: nn.utils.spectral_norm(layer, "weight"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("lose", LOSE)
@pytest.mark.parametrize("make", MAKERS)
def test_a_weight_computed_from_a_constrained_one_is_an_error(make, lose):
    layer = make(Stiefel())
    layer.bias = nn.Parameter(torch.zeros(5))
    LOSE[lose](layer)
    for params in (layer.parameters(), [layer.bias], [next(iter(layer.parameters()))]):
        if lose == "weight_norm" and not isinstance(params, list):
            params = [layer.bias]
        with pytest.raises(LostManifoldError, match=r"'weight'.*unconstrain"):
            RiemannianAdam(params)
    with pytest.raises(LostManifoldError, match="weight"):
        constraints(layer)
    unconstrain(layer, "weight")
    assert constraints(layer) == []
    assert "on Stiefel" not in repr(RiemannianAdam(layer.parameters()))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("make", MAKERS)
def test_the_constraint_is_back_when_pruning_or_spectral_norm_is_removed(make):
    layer = make(Stiefel())
    LOSE["pruning"](layer)
    prune.remove(layer, "weight")
    assert [c.name for c in constraints(layer)] == ["weight"]
    LOSE["the old spectral_norm"](layer)
    nn.utils.remove_spectral_norm(layer)
    assert [c.name for c in constraints(layer)] == ["weight"]
    steps_end_on(Stiefel(), layer.parameters())


# --- memory ---


def test_no_reference_keeps_a_module_or_its_weights():
    gc.collect()
    gc.disable()
    try:
        old = by_constrain(Stiefel())
        new = linear(old.weight)
        modules = [weakref.ref(old), weakref.ref(new)]
        weight = weakref.ref(new.weight)
        del old, new
        assert [ref() for ref in modules] == [None, None]
        assert weight() is None
    finally:
        gc.enable()


def test_a_script_that_ends_with_constrained_modules_alive_says_nothing():
    code = (
        "import torch, riemopt; from riemopt.manifolds import Stiefel\n"
        "a = riemopt.constrain(torch.nn.Linear(3, 3), 'weight', Stiefel())\n"
        "a = a.to('meta').to_empty(device='cpu'); a.me = [a]"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout + run.stderr == ""

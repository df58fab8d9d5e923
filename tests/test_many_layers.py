"""Constraining, registering and building optimizers is linear in the number of layers.

What is counted is how many names in tables are looked at: `ManifoldTable.parameter` is how that is
done, and `Places` goes through all of them.
"""

import copy
import gc

import pytest
import torch
from torch import nn

import riemopt
from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD, constrain, manifold_of
from riemopt.manifolds import Sphere, Stiefel
from riemopt.nn import table
from riemopt.optim.parameters import Positions


@pytest.fixture
def looked_at(monkeypatch):
    """How many names in tables were looked at, and how often all were."""
    counts = {"names": 0, "passes": 0}
    parameter, init = table.ManifoldTable.parameter, table.Places.__init__

    def counted_parameter(self, name):
        counts["names"] += 1
        return parameter(self, name)

    def counted_init(self, *args):
        counts["passes"] += 1
        init(self, *args)

    monkeypatch.setattr(table.ManifoldTable, "parameter", counted_parameter)
    monkeypatch.setattr(table.Places, "__init__", counted_init)
    gc.collect()  # a table that goes looks at its names too: not those of other tests
    gc.disable()
    yield counts
    gc.enable()


def layers(number):
    return [nn.Linear(3, 3) for _ in range(number)]


def constrain_each(number):
    made = layers(number)
    for layer in made:
        constrain(layer, "weight", Stiefel())
    return made


def constrain_several_names(number):
    made = layers(number)
    for layer in made:
        constrain(layer, {"weight": Stiefel(), "bias": Sphere()})
    return made


def assign_each(number):
    made = layers(number)
    for layer in made:
        layer.weight = ManifoldParameter(torch.randn(3, 3), Stiefel())
    return made


def register_in_one_module(number):
    return nn.ParameterList(ManifoldParameter(torch.ones(3), Sphere()) for _ in range(number))


def assign_plain_ones(number):
    made = constrain_each(number)
    for layer in made:
        layer.weight = nn.Parameter(layer.weight.detach().clone())
        layer.bias = nn.Parameter(torch.zeros(3))
    return made


def take_over(number):
    made = layers(number)
    for old, new in zip(constrain_each(number), made, strict=True):
        new.weight = old.weight
    return made


def while_an_optimizer_listens(number):
    made = layers(number)
    optimizer = RiemannianAdam(p for layer in made for p in layer.parameters())
    for layer in made:
        constrain(layer, "weight", Stiefel())
    assert f"{number} on Stiefel()" in repr(optimizer)
    return made


@pytest.mark.parametrize(
    "make",
    [
        constrain_each,
        constrain_several_names,
        assign_each,
        register_in_one_module,
        assign_plain_ones,
        take_over,
    ],
)
def test_a_layer_costs_the_same_however_many_there_are(make, looked_at):
    kept, costs = [], []
    for number in (5, 50):
        looked_at["names"] = 0
        kept.append(make(number))
        costs.append(looked_at["names"] / number)
    assert costs[0] == costs[1] <= 8
    assert looked_at["passes"] == 0
    assert all(manifold_of(getattr(layer, "weight", layer)) for made in kept for layer in made)


def test_an_optimizer_that_listens_is_not_gone_through_for_each_layer(looked_at, monkeypatch):
    added, add = [], Positions.add

    def counted(self, *args):
        added.append(args)
        add(self, *args)

    monkeypatch.setattr(Positions, "add", counted)
    while_an_optimizer_listens(20)
    assert looked_at["passes"] == 1  # when it was built
    assert len(added) == 1


@pytest.mark.parametrize("groups", [1, 40])
@pytest.mark.parametrize("cls", [RiemannianSGD, RiemannianAdam, riemopt.RiemannianRMSprop])
def test_an_optimizer_looks_through_the_tables_once(groups, cls, looked_at):
    made = constrain_each(40)
    params = [p for layer in made for p in layer.parameters()]
    size = len(params) // groups
    looked_at["passes"] = 0
    optimizer = cls([{"params": params[i : i + size]} for i in range(0, len(params), size)], lr=0.1)
    assert looked_at["passes"] == 1
    assert "40 on Stiefel()" in repr(optimizer)
    optimizer.add_param_group({"params": constrain_each(1)[0].parameters()})
    assert looked_at["passes"] == 2
    assert "41 on Stiefel()" in repr(optimizer)


def test_a_constrained_parameter_says_its_manifold_itself(looked_at):
    made = [*constrain_each(3), *assign_each(3), *take_over(3), *assign_plain_ones(3)]
    looked_at["names"] = looked_at["passes"] = 0
    assert {manifold_of(layer.weight) for layer in made} == {Stiefel()}
    assert looked_at == {"names": 0, "passes": 0}
    assert manifold_of(made[0].bias) is None
    assert looked_at["passes"] == 1


# --- told of a change, wherever the parameter stands in an optimizer ---


def test_told_after_the_groups_were_exchanged():
    made = layers(3)
    optimizer = RiemannianSGD([layer.weight for layer in layers(3)], lr=0.1)
    optimizer.param_groups[0]["params"][:] = [layer.weight for layer in reversed(made)]
    constrain(made[0], "weight", Stiefel())
    assert optimizer._manifolds == [[None, None, Stiefel()]]
    riemopt.unconstrain(made[0], "weight")
    assert optimizer._manifolds == [[None, None, None]]


def test_told_in_any_group_of_a_copy():
    made = layers(4)
    optimizer = RiemannianSGD([{"params": list(layer.parameters())} for layer in made], lr=0.1)
    made, optimizer = copy.deepcopy((made, optimizer))
    constrain(made[2], "weight", Stiefel())
    constrain(made[3], "bias", Sphere())
    assert optimizer._manifolds == [[None, None], [None, None], [Stiefel(), None], [None, Sphere()]]


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_told_where_a_parameter_stands_twice():
    layer = nn.Linear(3, 3)
    optimizer = RiemannianSGD([{"params": [layer.weight, layer.weight]}], lr=0.1)
    constrain(layer, "weight", Stiefel())
    assert optimizer._manifolds == [[Stiefel(), Stiefel()]]

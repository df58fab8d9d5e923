"""How weights are put on manifolds, reported, put back and released; and what is refused."""

import copy

import pytest
import torch
from torch import nn

import riemopt
from riemopt import ManifoldParameter, constrain, constraints, manifold_of, project_, unconstrain
from riemopt.manifolds import Flattened, Sphere, Stiefel, Symmetric


def test_constrain_keeps_the_parameter_and_moves_its_value():
    layer = nn.Linear(4, 6)
    weight, value = layer.weight, layer.weight.detach().clone()
    assert constrain(layer, "weight", Stiefel()) is layer
    assert layer.weight is weight
    torch.testing.assert_close(weight.detach(), Stiefel().project(value))
    assert manifold_of(weight) == Stiefel()
    assert manifold_of(layer.bias) is None


def test_manifold_parameter_is_the_nearest_point_and_enters_the_modules_table():
    data = torch.randn(6, 4)
    weight = ManifoldParameter(data, Stiefel())
    assert isinstance(weight, nn.Parameter)
    assert weight.requires_grad
    assert weight.manifold == Stiefel()
    assert "ManifoldParameter on Stiefel()" in repr(weight)
    torch.testing.assert_close(weight.detach(), Stiefel().project(data))
    layer = nn.Linear(4, 6)
    layer.weight = weight
    assert layer.weight is weight
    assert [c.name for c in constraints(layer)] == ["weight"]


def test_frozen_manifold_parameter():
    assert not ManifoldParameter(torch.randn(3), Sphere(), requires_grad=False).requires_grad


def test_constraints_reports_and_project_puts_back():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6))
    constrain(model[0], "weight", Stiefel())
    constrain(model[1], "weight", Symmetric())
    assert [c.name for c in constraints(model)] == ["0.weight", "1.weight"]
    assert all(c.satisfied for c in constraints(model))
    kept = model[1].weight.detach().clone()
    with torch.no_grad():
        model[0].weight[0, 0] += 0.5
    report = {c.name: c for c in constraints(model)}
    assert not report["0.weight"].satisfied
    assert report["0.weight"].violation > 0.2
    assert report["0.weight"].manifold == Stiefel()
    assert project_(model) is model
    assert all(c.satisfied for c in constraints(model))
    assert torch.equal(model[1].weight, kept)


def test_project_changes_nothing_if_a_weight_is_not_finite():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6))
    for layer in model:
        constrain(layer, "weight", Stiefel())
    with torch.no_grad():
        model[0].weight.mul_(2)
        model[1].weight[0, 0] = torch.nan
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"1\.weight.*not finite"):
        project_(model)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) or key == "1.weight"


def test_unconstrain_releases_the_weight_everywhere():
    layer = nn.Linear(4, 4)
    layer.weight = ManifoldParameter(torch.randn(4, 4), Stiefel())
    optimizer = riemopt.RiemannianAdam(layer.parameters())
    assert unconstrain(layer, "weight") is layer
    assert manifold_of(layer.weight) is None
    assert constraints(layer) == []
    assert type(layer.weight) is nn.Parameter
    assert repr(optimizer).count("constrained") == 1
    assert "2 unconstrained" in repr(optimizer)
    with pytest.raises(ValueError, match=r"'weight'.*not constrained"):
        unconstrain(layer, "weight")


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_kernels_need_a_view_that_says_what_is_meant(ndim):
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[ndim - 1](2, 5, 3)
    with pytest.raises(ValueError, match=rf"Flattened\(Stiefel\(\), event_ndim={ndim + 2}\)"):
        constrain(layer, "weight", Stiefel())
    with pytest.raises(ValueError, match="slices"):
        layer.weight = ManifoldParameter(layer.weight, Stiefel())
    assert manifold_of(layer.weight) is None
    constrain(layer, "weight", Flattened(Stiefel(), event_ndim=ndim + 2))
    rows = layer.weight.detach().flatten(1)
    torch.testing.assert_close(rows @ rows.mT, torch.eye(5))


def test_what_is_refused_leaves_the_module_as_it_was():
    layer = nn.Linear(4, 6)
    before = copy.deepcopy(layer.state_dict())
    refused = [
        (lambda: constrain(layer, "wieght", Stiefel()), AttributeError, r"'wieght'.*\['weight'"),
        (lambda: constrain(layer, "weight", Stiefel), TypeError, r"write Stiefel\(\)"),
        (lambda: constrain(layer, Stiefel(), "weight"), TypeError, "a module, the name"),
        (lambda: constrain(layer.weight, "weight", Stiefel()), TypeError, "a module, the name"),
        (
            lambda: constrain(nn.Sequential(layer), "0.weight", Stiefel()),
            AttributeError,
            r"get_submodule\('0'\), 'weight'",
        ),
        (
            lambda: constrain(
                nn.utils.parametrizations.orthogonal(nn.Linear(2, 2)), "weight", Stiefel()
            ),
            AttributeError,
            "remove_parametrizations",
        ),
        (lambda: constrain(layer, "weight", None), TypeError, "got None"),
        (lambda: constrain(layer, "weight", Symmetric()), ValueError, r"Symmetric.*\(6, 4\)"),
        (lambda: constrain(layer, "bias", Stiefel()), ValueError, r"Stiefel.*\(6,\)"),
        (lambda: constrain(nn.LazyLinear(3), "weight", Sphere()), ValueError, "lazy"),
        (lambda: ManifoldParameter(torch.tensor([1]), Sphere()), ValueError, "int64"),
        (lambda: ManifoldParameter(torch.tensor([1.0, torch.nan]), Sphere()), ValueError, "finite"),
    ]
    for attempt, error, message in refused:
        with pytest.raises(error, match=message):
            attempt()
    assert constraints(layer) == []
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key])


def test_constraining_twice_is_refused():
    layer = constrain(nn.Linear(4, 6), "weight", Stiefel())
    with pytest.raises(ValueError, match=r"already on Stiefel\(\).*unconstrain"):
        constrain(layer, "weight", Sphere())
    assert manifold_of(layer.weight) == Stiefel()


def test_tied_weights_share_one_constraint():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    constrain(first, "weight", Stiefel())
    with pytest.raises(ValueError, match="tied"):
        constrain(second, "weight", Symmetric())
    constrain(second, "weight", Stiefel())
    model = nn.Sequential(first, second)
    assert [c.name for c in constraints(model)] == ["0.weight"]
    optimizer = riemopt.RiemannianAdam(model.parameters())
    assert "1 on Stiefel()" in repr(optimizer)


def test_a_group_that_contradicts_the_constraint_is_refused_whole():
    layer = constrain(nn.Linear(4, 4), "weight", Stiefel())
    optimizer = riemopt.RiemannianAdam([nn.Parameter(torch.ones(1))])
    for manifold, error, message in (
        (Symmetric(), ValueError, r"says Symmetric\(\).*constrained to Stiefel\(\)"),
        (Stiefel, TypeError, "instance"),
    ):
        with pytest.raises(error, match=message):
            optimizer.add_param_group({"params": [layer.weight], "manifold": manifold})
        assert len(optimizer.param_groups) == 1
    with pytest.raises(TypeError, match=r"key 'manifold'; got \['manifld'\]"):
        optimizer.add_param_group({"params": [layer.weight], "manifld": Stiefel()})
    with pytest.raises(ValueError, match=r"Symmetric.*\(2, 3\)"):
        optimizer.add_param_group(
            {"params": [nn.Parameter(torch.ones(2, 3))], "manifold": Symmetric()}
        )
    optimizer.add_param_group({"params": [layer.weight], "manifold": Stiefel()})
    assert "1 on Stiefel()" in repr(optimizer)


def test_a_tangent_gradient_is_what_clipping_logging_and_torchs_optimizers_see():
    model = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3))
    constrain(model[0], "weight", Stiefel(), tangent_grad=True)
    model[1].weight = ManifoldParameter(torch.randn(3, 8), Sphere(), tangent_grad=True)
    raw = copy.deepcopy(model)
    for layer in raw:
        name, value = "weight", nn.Parameter(layer.weight.detach().clone())
        unconstrain(layer, name)
        layer.weight = value
    data = torch.randn(7, 5)
    for _ in range(2):  # accumulated over two backward passes
        model(data).square().sum().backward()
        raw(data).square().sum().backward()
    for layer, plain in zip(model, raw, strict=True):
        manifold = manifold_of(layer.weight)
        expected = manifold.proj_tangent(plain.weight.detach(), plain.weight.grad)
        torch.testing.assert_close(layer.weight.grad, expected)
        assert not torch.allclose(plain.weight.grad, expected)


@pytest.mark.parametrize(
    "remake",
    [
        copy.deepcopy,
        lambda m: m.load_state_dict(copy.deepcopy(m.state_dict()), assign=True) and m,
        lambda m: _pickle(m),
    ],
    ids=["deepcopy", "assign", "pickle"],
)
def test_tangent_gradients_survive_new_parameter_objects(remake):
    model = constrain(nn.Linear(4, 6), "weight", Stiefel(), tangent_grad=True)
    model = remake(model)
    model(torch.randn(3, 4)).square().sum().backward()
    weight = model.weight.detach()
    tangent = Stiefel().proj_tangent(weight, model.weight.grad)
    torch.testing.assert_close(model.weight.grad, tangent)
    unconstrain(model, "weight")
    model.zero_grad()
    model(torch.randn(3, 4)).square().sum().backward()
    assert not torch.allclose(
        model.weight.grad, Stiefel().proj_tangent(weight, model.weight.grad), atol=1e-4
    )


def test_tangent_gradient_of_a_loose_parameter_survives_deepcopy():
    p = copy.deepcopy(ManifoldParameter(torch.randn(4), Sphere(), tangent_grad=True))
    (p * torch.arange(4.0)).sum().backward()
    assert abs(p.grad @ p.detach()) < 1e-6


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_tangent_gradient_keeps_the_graph_of_a_double_backward():
    p = ManifoldParameter(torch.randn(4, dtype=torch.float64), Sphere(), tangent_grad=True)
    (p**3).sum().backward(create_graph=True)
    assert p.grad.requires_grad
    assert abs((p.grad @ p).item()) < 1e-12


def _pickle(module):
    import io

    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("kind", ["swa", "ema"])
def test_averages_stay_on_the_surface(kind):
    from torch.optim.swa_utils import AveragedModel

    from riemopt.swa_utils import get_ema_avg_fn, get_swa_avg_fn

    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    constrain(model[0], "weight", Stiefel())
    model[1].weight = ManifoldParameter(torch.randn(3, 6), Sphere())
    average = get_swa_avg_fn() if kind == "swa" else get_ema_avg_fn(0.5)
    averaged = AveragedModel(model, avg_fn=average)
    plain = AveragedModel(
        nn.Linear(6, 3),
        avg_fn=torch.optim.swa_utils.get_swa_avg_fn()
        if kind == "swa"
        else torch.optim.swa_utils.get_ema_avg_fn(0.5),
    )
    for _ in range(4):
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn_like(p))
        project_(model)
        averaged.update_parameters(model)
        plain.update_parameters(model[1])
    assert len(constraints(averaged)) == 2
    assert all(c.satisfied for c in constraints(averaged))
    torch.testing.assert_close(averaged.module[1].bias, plain.module.bias)
    assert not torch.allclose(averaged.module[0].weight, model[0].weight, atol=0.01)


def test_ema_decay_is_checked():
    with pytest.raises(ValueError, match="decay"):
        riemopt.swa_utils.get_ema_avg_fn(1.5)


def test_a_group_puts_its_weight_on_the_surface_with_the_first_step():
    for shape in ((20, 8), (64, 20)):
        weight = nn.Linear(*shape).weight
        optimizer = riemopt.RiemannianAdam([{"params": [weight], "manifold": Stiefel()}])
        weight.grad = torch.randn_like(weight)
        optimizer.step()
        assert Stiefel().violation(weight.detach()) < 1e-5

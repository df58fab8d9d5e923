"""torch.nn.utils.parametrize and geotorch: to constraints, back, checkpoints, and reimposing."""

import copy
import itertools
import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import riemopt
from riemopt import ManifoldParameter, constrain, constraints, manifold_of
from riemopt.interop.parametrize import (
    Normalize,
    ScaledDirection,
    SkewSymmetrize,
    Symmetrize,
    convert_state_dict,
    from_parametrized,
    reimpose_,
    reimpose_every,
    to_parametrized,
)
from riemopt.manifolds import (
    SPD,
    Euclidean,
    FixedRank,
    FixedSum,
    Flattened,
    Grassmann,
    SkewSymmetric,
    SpecialLinear,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
    Symmetric,
)

close = torch.testing.assert_close
EPS = torch.finfo(torch.float32).eps
ORTHOGONAL = list(
    itertools.product(
        ("matrix_exp", "cayley", "householder"), (True, False), ((5, 5), (6, 3), (3, 6))
    )
)


def linear(shape, dtype=torch.float32):
    return nn.Linear(shape[1], shape[0], dtype=dtype)


def orthogonal(kind, base, shape, dtype=torch.float64, scale=0.7):
    """A layer whose originals have been trained away from where they start."""
    layer = linear(shape, dtype)
    parametrizations.orthogonal(layer, orthogonal_map=kind, use_trivialization=base)
    jolt(layer, scale, below_diagonal=kind == "householder")
    return layer


@torch.no_grad()
def jolt(layer, scale=0.5, *, below_diagonal=False):
    for original in layer.parametrizations.weight.parameters(recurse=False):
        noise = scale * torch.randn_like(original)
        if below_diagonal:  # on it are the signs
            wide = noise.shape[-1] > noise.shape[-2]
            noise = noise.mT.tril(-1).mT if wide else noise.tril(-1)
        original += noise


def parametrized(shape, parametrization, dtype=torch.float64):
    layer = linear(shape, dtype)
    parametrize.register_parametrization(layer, "weight", parametrization, unsafe=True)
    jolt(layer)
    return layer


def weight_normed(dim, shape=(5, 3)):
    layer = parametrizations.weight_norm(linear(shape, torch.float64), dim=dim)
    jolt(layer)
    return layer


OURS = {
    "symmetric": (lambda: parametrized((4, 4), Symmetrize()), Symmetric()),
    "skew": (lambda: parametrized((4, 4), SkewSymmetrize()), SkewSymmetric()),
    "rows": (lambda: parametrized((4, 3), Normalize()), Sphere()),
    "columns": (lambda: parametrized((4, 3), Normalize(0, 2.0)), Sphere(dim=0, radius=2.0)),
    "whole": (lambda: parametrized((4, 3), Normalize(None)), Sphere(dim=None)),
}


# --- from parametrizations ---


@pytest.mark.parametrize(("kind", "base", "shape"), ORTHOGONAL)
def test_orthogonal_becomes_stiefel(kind, base, shape):
    layer = orthogonal(kind, base, shape)
    weight, original = layer.weight.detach(), layer.parametrizations.weight.original
    report = from_parametrized(layer)
    assert report.done == {"weight": Stiefel()}
    assert not report.left
    assert type(layer) is nn.Linear
    assert layer.weight is original
    assert layer.weight.is_contiguous()
    close(layer.weight.detach(), weight, atol=1e-13, rtol=0)
    assert constraints(layer)[0].satisfied


@pytest.mark.parametrize("name", OURS)
def test_our_own_maps_become_their_manifolds(name):
    make, manifold = OURS[name]
    layer = make()
    weight = layer.weight.detach()
    assert from_parametrized(layer).done == {"weight": manifold}
    assert torch.equal(layer.weight, weight)  # on the manifold to rounding: every bit is kept


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_unitary_matrices(dtype):
    layer = orthogonal("matrix_exp", True, (6, 3), dtype)
    weight = layer.weight.detach()
    assert from_parametrized(layer).done == {"weight": Stiefel()}
    close(layer.weight.detach(), weight)


@pytest.mark.parametrize(
    ("dim", "sphere", "lengths"),
    [(0, Sphere(), (5, 1)), (1, Sphere(dim=-2), (1, 3)), (None, Sphere(dim=(-2, -1)), ())],
)
def test_weight_norm_keeps_its_length_free(dim, sphere, lengths):
    layer = weight_normed(dim)
    weight = layer.weight.detach()
    g, v = layer.parametrizations.weight.parameters(recurse=False)
    old = copy.deepcopy(layer)
    name = "parametrizations.weight.original1"
    assert from_parametrized(layer).done == {name: sphere}
    close(layer.weight.detach(), weight)
    assert g.shape == lengths
    assert [p for n, p in layer.named_parameters() if "original" in n] == [g, v] or (
        layer.parametrizations.weight.original0 is g
        and layer.parametrizations.weight.original1 is v
    )
    assert manifold_of(g) is None
    assert manifold_of(v) == sphere

    x, y = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    for module in (old, layer):
        (module(x) - y).square().sum().backward()
    close(g.grad, old.parametrizations.weight.original0.grad)  # g is the same parameter as before
    optimizer = riemopt.RiemannianAdam(layer.parameters(), lr=0.05)
    start = (layer(x) - y).square().sum().item()
    for _ in range(20):
        optimizer.zero_grad()
        (layer(x) - y).square().sum().backward()
        optimizer.step()
    assert (layer(x) - y).square().sum() < start
    assert constraints(layer)[0].satisfied
    assert not torch.allclose(g, old.parametrizations.weight.original0)
    target = torch.randn(5, 3, dtype=torch.float64)
    layer.weight = target  # any weight can be assigned
    close(layer.weight.detach(), target)


@pytest.mark.parametrize("expected", [SpecialOrthogonal(), Stiefel()], ids=str)
def test_geotorchs_rotations_and_the_reflections_that_it_lets_pass(expected):
    geotorch = pytest.importorskip("geotorch")
    layer = linear((4, 4))
    layer.weight.data = SpecialOrthogonal().random_point(4, 4)
    if expected == Stiefel():
        layer.weight.data[0] *= -1
    parametrize.register_parametrization(layer, "weight", geotorch.SO((4, 4)), unsafe=True)
    jolt(layer)
    weight = layer.weight.detach()
    assert from_parametrized(layer).done == {"weight": expected}
    close(layer.weight.detach(), weight)


def test_geotorch_where_it_maps():
    geotorch = pytest.importorskip("geotorch")
    cases = [
        (lambda m: geotorch.sphere(m, "weight", 2.0), (4, 3), Sphere(radius=2.0)),
        (lambda m: geotorch.sphere(m, "weight", embedded=True), (4, 3), Sphere()),
        (lambda m: geotorch.orthogonal(m, "weight", "cayley"), (3, 5), Stiefel()),
        (lambda m: geotorch.symmetric(m, "weight", lower=False), (4, 4), Symmetric()),
        (lambda m: geotorch.skew(m, "weight"), (4, 4), SkewSymmetric()),
        (lambda m: geotorch.grassmannian(m, "weight"), (5, 2), Grassmann()),
        (lambda m: geotorch.fixed_rank(m, "weight", 2), (5, 4), FixedRank(2)),
        (lambda m: geotorch.low_rank(m, "weight", 2), (4, 5), FixedRank(2)),
        (lambda m: geotorch.sln(m, "weight"), (4, 4), SpecialLinear()),
        (lambda m: geotorch.positive_definite(m, "weight"), (3, 3), SPD()),
        (lambda m: geotorch.positive_semidefinite(m, "weight"), (3, 3), "PSSD is not known"),
    ]
    for register, shape, expected in cases:
        layer = linear(shape)
        register(layer)
        jolt(layer)
        weight = layer.weight.detach()
        report = from_parametrized(layer)
        if isinstance(expected, str):
            assert report.left["weight"].startswith(expected)
        else:
            assert report.done == {"weight": expected}
        close(layer.weight.detach(), weight, atol=1e-6, rtol=0)


def test_slices_of_kernels_and_batches_are_read_as_torch_reads_them():
    conv = parametrizations.orthogonal(nn.Conv2d(2, 3, (4, 2)), orthogonal_map="matrix_exp")
    weight = conv.weight.detach()
    assert from_parametrized(conv).done == {"weight": Flattened(Stiefel(), event_ndim=2)}
    close(conv.weight.detach(), weight, atol=1e-6, rtol=0)
    conv = parametrizations.weight_norm(nn.Conv2d(2, 3, 3))
    weight = conv.weight.detach()
    from_parametrized(conv)
    assert manifold_of(conv.parametrizations.weight.original1) == Sphere(dim=(-3, -2, -1))
    close(conv.weight.detach(), weight)
    bilinear = parametrizations.orthogonal(nn.Bilinear(3, 2, 4))
    assert from_parametrized(bilinear).done == {"weight": Stiefel()}


def test_submodules_are_walked_and_state_is_kept():
    model = nn.Sequential(
        parametrizations.orthogonal(nn.Linear(6, 4)),
        nn.Sequential(nn.ReLU(), parametrizations.weight_norm(nn.Linear(4, 4))),
        parametrizations.spectral_norm(nn.Linear(4, 2)),
        parametrizations.orthogonal(nn.RNN(3, 4), "weight_hh_l0"),
    )
    model[0].parametrizations.weight.original.requires_grad_(False)
    model[1].eval()
    (model[0].bias.sum() + model[3].weight_hh_l0.sum()).backward()
    x, sequence = torch.randn(3, 6), torch.randn(5, 3)
    model[2].eval()
    before, hidden = model[:3](x), model[3](sequence)[0]
    modes = [m.training for m in (model, model[0], model[1], model[1][1], model[2], model[3])]
    report = from_parametrized(model)
    assert report.done == {
        "0.weight": Stiefel(),
        "1.1.parametrizations.weight.original1": Sphere(),
        "3.weight_hh_l0": Stiefel(),
    }
    assert report.left == {"2.weight": "‖W‖₂ = 1 is on no manifold of the catalogue"}
    assert str(report).splitlines()[0] == "0.weight: Stiefel()"
    assert str(report).splitlines()[-1].startswith("2.weight: left, as ‖W‖₂ = 1")
    close(model[:3](x), before)
    close(model[3](sequence)[0], hidden)
    assert not model[0].weight.requires_grad
    assert model[3].weight_hh_l0.grad is None  # it was the original's
    assert model[0].bias.grad is not None
    after = [m.training for m in (model, model[0], model[1], model[1][1], model[2], model[3])]
    assert after == modes
    assert not model[1][1].parametrizations.weight[0].training
    assert str(from_parametrized(nn.Linear(2, 2))) == "nothing to do"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_dtypes_are_kept(dtype):
    layer = parametrized((4, 3), Normalize(), dtype)
    from_parametrized(layer)
    assert layer.weight.dtype == dtype
    assert constraints(layer)[0].satisfied


def test_no_value_is_needed_on_meta():
    layer = parametrized((4, 3), Normalize()).to("meta")
    assert from_parametrized(layer).done == {"weight": Sphere()}
    assert layer.weight.is_meta
    layer.to_empty(device="cpu")
    assert manifold_of(layer.weight) == Sphere()


class Halves(nn.Module):
    """A user's symmetric map."""

    def forward(self, x):
        return x.triu() + x.triu(1).mT


def test_users_say_where_their_own_maps_lead():
    layer = parametrized((4, 4), Halves())
    assert "Halves is not known to map onto a manifold" in from_parametrized(layer).left["weight"]
    assert parametrize.is_parametrized(layer)
    wrong = from_parametrized(layer, {Halves: SkewSymmetric()})
    assert wrong.left["weight"].startswith("the computed weight is off SkewSymmetric() by")
    weight = layer.weight.detach()
    assert from_parametrized(layer, {Halves: Symmetric()}).done == {"weight": Symmetric()}
    assert torch.equal(layer.weight, weight)


class OuterProduct(nn.Module):
    def forward(self, x, y):
        return x[:, None] * y

    def right_inverse(self, a):
        return a[:, 0], a[0]


def left(layer, name="weight"):
    """Why a weight is left; and it is left bit for bit, in all that is stored."""
    before = copy.deepcopy(layer.state_dict())
    report = from_parametrized(layer)
    after = layer.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) or before[key].isnan().any() for key in after)
    assert not report.done
    return report.left[name]


def test_what_is_left_says_why():
    layer = parametrized((4, 3), Normalize())
    parametrize.register_parametrization(layer, "weight", Normalize(None))
    assert left(layer) == "several parametrizations follow each other: Normalize and Normalize"

    layer = nn.Linear(2, 2)
    layer.register_buffer("constant", torch.eye(2))
    parametrize.register_parametrization(layer, "constant", Normalize())
    assert left(layer, "constant") == "it is a buffer, which no optimizer steps"

    layer = parametrizations.orthogonal(nn.Linear(3, 6))
    with torch.no_grad():  # one step of weight decay truncates the signs on the diagonal
        layer.parametrizations.weight.original *= 0.999
    assert left(layer).startswith("the computed weight is off Stiefel() by 1.0e+00")

    layer = parametrized((4, 3), Normalize())
    with torch.no_grad():
        layer.parametrizations.weight.original[0] = 0
    assert left(layer) == "the computed weight is not finite"

    layer = nn.Linear(3, 3)
    parametrizations.weight_norm(layer, "bias")
    assert left(layer, "bias") == "each entry has a length of its own, and no direction"

    layer = constrain(nn.Linear(3, 3), "weight", Stiefel())
    parametrize.register_parametrization(layer, "weight", Normalize())
    assert left(layer) == "it is constrained to Stiefel() already"

    layer = weight_normed(0)
    from_parametrized(layer)
    assert left(layer) == "it is constrained to Sphere() already"

    layer = parametrized((3, 3), OuterProduct())
    report = from_parametrized(layer, {OuterProduct: Symmetric()})
    assert report.left == {"weight": "it is computed from 2 originals"}

    class ToHalf(Normalize):
        def forward(self, x):
            return super().forward(x).half()

    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", ToHalf(), unsafe=True)
    assert left(layer) == "the map changes torch.float32 to torch.float16"


# --- ties, caches, copies ---


def tied(make):
    """Two layers whose weights have one original."""
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    b.weight = a.weight
    for layer in (a, b):
        make(layer)
    assert a.parametrizations.weight.original is b.parametrizations.weight.original
    return nn.ModuleList([a, b])


def test_tied_weights_stay_tied():
    model = tied(lambda m: parametrize.register_parametrization(m, "weight", Symmetrize()))
    weight = model[0].weight.detach()
    report = from_parametrized(model)
    assert report.done == {"0.weight": Symmetric(), "1.weight": Symmetric()}
    assert model[0].weight is model[1].weight
    assert torch.equal(model[0].weight, weight)
    shared = nn.ModuleList([layer := parametrizations.orthogonal(nn.Linear(3, 3)), layer])
    assert from_parametrized(shared).done == {"0.weight": Stiefel()}


def test_tied_weights_that_differ_are_left():
    model = tied(parametrizations.orthogonal)  # each with its own base
    assert (
        left(model, "0.weight")
        == "0.weight and 1.weight share an original and are computed differently"
    )
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    b.weight = a.weight
    parametrize.register_parametrization(a, "weight", Symmetrize())
    model = nn.ModuleList([a, b])
    assert left(model, "0.weight") == "its original is tied to 1.weight"


def test_what_is_cached_is_not_looked_at():
    layer = parametrized((4, 4), Symmetrize())
    with parametrize.cached():
        stale = layer.weight
        jolt(layer)
        fresh = Symmetrize()(layer.parametrizations.weight.original).detach()
        from_parametrized(layer)
        assert torch.equal(layer.weight, fresh)
        with torch.no_grad():
            layer.weight *= 2
        to_parametrized(layer)
        assert torch.equal(layer.weight, 2 * fresh)
        assert not torch.equal(layer.weight, stale)


def test_deep_copies_are_independent():
    """torch's remove_parametrizations takes the weight away from deep copies as well."""
    layer = parametrized((4, 4), Symmetrize())
    parametrize.register_parametrization(layer, "bias", Normalize())
    twin = copy.deepcopy(layer)
    weight = layer.weight.detach()
    from_parametrized(twin)
    assert torch.equal(layer.weight, weight)
    to_parametrized(twin)
    assert torch.equal(twin.weight, weight)

    half = constrain(nn.Linear(4, 4), "weight", Symmetric())
    parametrize.register_parametrization(half, "bias", Normalize())
    to_parametrized(copy.deepcopy(half))
    assert half.weight is half._parameters["weight"]

    broken = copy.deepcopy(layer)
    parametrize.remove_parametrizations(broken, "weight")
    with pytest.raises(AttributeError, match="weight"):
        _ = layer.weight


# --- and back ---


CONSTRAINED = {
    "square": (Stiefel(), (5, 5), "_Orthogonal"),
    "rotation": (SpecialOrthogonal(), (5, 5), "_Orthogonal"),
    "tall": (Stiefel("qr", "canonical"), (6, 3), "_Orthogonal"),
    "wide": (Stiefel(), (3, 6), "_Orthogonal"),
    "rows": (Sphere(), (4, 3), "Normalize"),
    "columns": (Sphere(dim=0, radius=2.0), (4, 3), "Normalize"),
    "symmetric": (Symmetric(), (4, 4), "Symmetrize"),
    "skew": (SkewSymmetric(), (4, 4), "SkewSymmetrize"),
}


@pytest.mark.parametrize("name", CONSTRAINED)
@pytest.mark.parametrize("new_parameter", [False, True])
def test_constraints_become_parametrizations(name, new_parameter):
    manifold, shape, kind = CONSTRAINED[name]
    layer = linear(shape, torch.float64)
    if new_parameter:
        layer.weight = ManifoldParameter(layer.weight, manifold, requires_grad=False)
    else:
        constrain(layer, "weight", manifold, tangent_grad=True)
    param, weight = layer.weight, layer.weight.detach().clone()
    state = torch.get_rng_state()
    report = to_parametrized(layer.eval())
    assert type(report.done["weight"]).__name__ == kind
    assert torch.equal(torch.get_rng_state(), state)
    assert not constraints(layer)
    assert manifold_of(layer.parametrizations.weight.original) is None
    assert layer.parametrizations.weight.original is param
    assert param.requires_grad is not new_parameter
    assert not layer.parametrizations.weight[0].training
    close(layer.weight.detach(), weight, atol=1e-14, rtol=1e-14)
    if not new_parameter:
        layer.weight.sum().backward()  # the hook that made gradients tangent is gone
    assert from_parametrized(layer).done  # and back once more
    close(layer.weight.detach(), weight, atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("kind", ["matrix_exp", "cayley", "householder"])
def test_the_map_can_be_chosen(kind):
    layer = constrain(nn.Linear(3, 6), "weight", Stiefel())
    weight = layer.weight.detach().clone()
    to_parametrized(layer, orthogonal_map=kind)
    assert layer.parametrizations.weight[0].orthogonal_map.name == kind
    close(layer.weight.detach(), weight, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"orthogonal_map must be None, .* got 'polar'"):
        to_parametrized(layer, orthogonal_map="polar")


def test_scaled_directions_become_weight_norm():
    layer = weight_normed(0)
    weight, originals = layer.weight.detach(), list(layer.parametrizations.weight.parameters())
    from_parametrized(layer)
    report = to_parametrized(layer)
    assert list(report.done) == ["parametrizations.weight.original1"]
    assert not constraints(layer)
    assert all(
        a is b for a, b in zip(layer.parametrizations.weight.parameters(), originals, strict=True)
    )
    close(layer.weight.detach(), weight)
    assert from_parametrized(layer).done


def test_tied_constraints_stay_tied():
    model = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    model[1].weight = model[0].weight
    for layer in model:
        constrain(layer, "weight", Stiefel())
    weight = model[0].weight.detach().clone()
    assert set(to_parametrized(model).done) == {"0.weight", "1.weight"}
    assert model[0].parametrizations.weight is model[1].parametrizations.weight
    jolt(model[0])
    assert torch.equal(model[0].weight, model[1].weight)
    assert not torch.allclose(model[0].weight, weight)
    assert len(list(model.parameters())) == 3
    from_parametrized(model)
    assert model[0].weight is model[1].weight


def test_constraints_that_are_left_say_why_and_hold_on():
    def why(layer):
        before = copy.deepcopy(layer.state_dict())
        entries = [(c.name, c.manifold) for c in constraints(layer)]
        report = to_parametrized(layer)
        assert not report.done
        assert [(c.name, c.manifold) for c in constraints(layer)] == entries
        assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
        return next(iter(report.left.values()))

    layer = constrain(nn.Linear(4, 4), "weight", FixedSum())
    assert why(layer) == f"no parametrization onto {FixedSum()} is at hand"
    layer = constrain(nn.Conv2d(2, 8, 2), "weight", Flattened(Stiefel()))
    assert why(layer).startswith("no parametrization onto Flattened")
    layer = constrain(nn.Linear(3, 3), "weight", Symmetric(), tangent_grad=True)
    param = layer.weight
    with torch.no_grad():
        layer.weight[0, 1] += 1
    assert why(layer).startswith("the weight would change by 5.0e-01: it is off the manifold")
    assert layer.weight is param
    layer.weight.square().sum().backward()
    close(param.grad, param.grad.mT)  # tangent_grad still works
    layer = nn.Linear(3, 3)
    layer.weight = ManifoldParameter(torch.eye(3), Stiefel())
    with torch.no_grad():
        layer.weight *= 2
    assert why(layer).startswith("the weight would change")
    assert layer.weight.manifold == Stiefel()
    layer = constrain(nn.Linear(2, 4, dtype=torch.bfloat16), "weight", Stiefel())
    assert why(layer).startswith("torch refuses: ")  # it has no QR in bfloat16
    layer = constrain(nn.Linear(3, 3), "weight", Euclidean())
    assert why(layer) == "no parametrization onto Euclidean() is at hand"


# --- checkpoints ---


def build():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3))


def build_parametrized():
    model = build()
    parametrizations.orthogonal(model[0])
    parametrize.register_parametrization(model[2], "weight", Symmetrize())
    parametrizations.weight_norm(model[3])
    return model


def build_constrained():
    model = build_parametrized()
    from_parametrized(model)
    return model


def train(model, optimizer):
    x = torch.randn(20, 6)
    for _ in range(10):
        optimizer.zero_grad()
        (model(x) - x[:, :3]).square().mean().backward()
        optimizer.step()


def test_checkpoints_are_converted_both_ways():
    x = torch.randn(5, 6)
    old, new = build_parametrized(), build_constrained()
    train(old, torch.optim.Adam(old.parameters(), lr=0.05))
    saved = copy.deepcopy(old.state_dict())
    converted = convert_state_dict(saved, build_parametrized(), to="constrained")
    assert "0.weight" in converted
    assert "0.parametrizations.weight.original" in saved
    new.load_state_dict(converted)
    close(new(x), old(x))
    assert all(c.satisfied for c in constraints(new))

    train(new, riemopt.RiemannianAdam(new.parameters(), lr=0.05))
    template = build_constrained()
    back = convert_state_dict(new.state_dict(), template, to="parametrized")
    assert list(back) == list(saved)
    other = build_parametrized()
    other.load_state_dict(back)
    close(other(x), new(x))
    assert list(template.state_dict()) == list(new.state_dict())  # the model given is left alone


def test_checkpoints_that_cannot_be_converted():
    model = build_parametrized()
    with pytest.raises(ValueError, match="to must be 'constrained' or 'parametrized'; got 'plain'"):
        convert_state_dict(model.state_dict(), model, to="plain")
    plain = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="No weight of the Linear can be turned"):
        convert_state_dict(plain.state_dict(), plain, to="constrained")
    with pytest.raises(RuntimeError, match="parametrizations"):
        convert_state_dict(build().state_dict(), model, to="constrained")


def test_checkpoints_may_need_the_same_arguments():
    layer = parametrized((4, 4), Halves())
    state = convert_state_dict(
        layer.state_dict(), layer, to="constrained", manifolds={Halves: Symmetric()}
    )
    assert torch.equal(state["weight"], layer.weight)
    layer = constrain(nn.Linear(3, 6), "weight", Stiefel())
    state = convert_state_dict(
        layer.state_dict(), layer, to="parametrized", orthogonal_map="cayley"
    )
    assert "parametrizations.weight.0.base" in state


# --- reimposing ---


def reimposed(layer):
    """What is reported, after checking that the weight has stayed."""
    state = torch.get_rng_state()
    weight, params = layer.weight.detach().clone(), list(layer.parameters())
    pointers = [p.data_ptr() for p in params]
    report = reimpose_(layer)
    close(layer.weight.detach(), weight, atol=1e-13, rtol=1e-13)
    assert all(a is b for a, b in zip(layer.parameters(), params, strict=True))
    assert [p.data_ptr() for p in params] == pointers  # for views of them, and captured graphs
    assert torch.equal(torch.get_rng_state(), state)
    return report.done.get("weight") or report.left["weight"]


@pytest.mark.parametrize(("kind", "base", "shape"), ORTHOGONAL)
def test_reimposing_orthogonal(kind, base, shape):
    layer = orthogonal(kind, base, shape)
    told = reimposed(layer)
    original = layer.parametrizations.weight.original.detach()
    if base:
        assert told == "the original is the right inverse of the weight"
        eye = torch.zeros_like(original)
        eye.diagonal().fill_(-1)
        assert torch.equal(original, eye)  # the identity, in torch's signs
        full = layer.parametrizations.weight[0].base
        close(
            full[:, : min(shape)].mT if shape[0] < shape[1] else full[:, : min(shape)],
            layer.weight.detach(),
        )
        close(full @ full.mT, torch.eye(max(shape), dtype=full.dtype))
    elif kind == "householder":
        assert told == "the original is the right inverse of the weight"
    elif kind == "cayley":
        assert told == "the Cayley map is one to one: there is no other original"
    elif shape == (5, 5):
        assert told == "its angles are within ±π already"
    else:
        assert (
            told == "of exp(A) the first columns alone are kept, and no other A with them is known"
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_turns_are_taken_out_of_a_square_exponential(dtype):
    layer = orthogonal("matrix_exp", False, (6, 6), dtype, scale=10.0)
    assert reimposed(layer) == "angles of the skew matrix are modulo 2π"
    lower = layer.parametrizations.weight.original.detach().tril()
    angles = torch.linalg.eigvals(lower - lower.mH).imag.abs()
    assert angles.max() <= math.pi + 1e-9
    assert reimposed(layer) == "its angles are within ±π already"


@pytest.mark.parametrize("name", OURS)
def test_reimposing_what_is_its_own_original(name):
    make, manifold = OURS[name]
    layer = make()
    original = layer.parametrizations.weight.original
    assert manifold.violation(original.detach()).max() > 0.01
    assert reimposed(layer) == "the original is the weight"
    assert manifold.violation(original.detach()).max() < 1e-14


@pytest.mark.parametrize("dim", [0, 1, None])
def test_reimposing_weight_norm(dim):
    layer = weight_normed(dim)
    g, v = layer.parametrizations.weight.parameters(recurse=False)
    g.data *= -1  # a length may have become negative
    length = g.detach().clone()
    assert reimposed(layer) == "V has length 1"
    assert torch.equal(g, length)
    norms = torch.norm_except_dim(v.detach(), 2, -1 if dim is None else dim)
    close(norms, torch.ones_like(norms))


@pytest.mark.parametrize("training", [False, True])
def test_reimposing_spectral_norm_takes_no_power_iteration(training):
    layer = parametrizations.spectral_norm(linear((5, 3), torch.float64)).train(training)
    maps = layer.parametrizations.weight
    with torch.no_grad():
        maps.original *= 3
    u = maps[0]._u.clone()
    twin = copy.deepcopy(layer)
    assert reimpose_(layer).done == {"weight": "the original is the weight"}
    assert torch.equal(maps[0]._u, u)
    assert layer.training == maps[0].training == training
    for _ in range(3):  # the iterations to come are the same, too
        close(layer.weight, twin.weight)
    sigma = torch.linalg.matrix_norm(maps.original.detach(), 2)
    close(sigma, torch.tensor(1.0).double(), atol=0.01, rtol=0)


def test_reimposing_geotorchs_bases():
    geotorch = pytest.importorskip("geotorch")
    for register, shape in (
        (geotorch.sphere, (4, 3)),
        (geotorch.orthogonal, (5, 5)),
        (geotorch.orthogonal, (3, 5)),
    ):
        layer = linear(shape, torch.float64)
        register(layer, "weight")
        jolt(layer)
        assert reimposed(layer) == "the original is the right inverse of the weight"
        assert not layer.parametrizations.weight.original.any()


def test_what_cannot_be_reimposed_keeps_every_bit():
    class Exponential(nn.Module):
        def forward(self, x):
            return x.exp()

    class Rough(Exponential):
        def right_inverse(self, y):
            return y.abs().log() + 0.01

    class Refuses(Exponential):
        def right_inverse(self, y):
            if hasattr(self, "registered"):
                raise ValueError("not today")
            self.registered = True
            return y

    def why(layer):
        before = copy.deepcopy(layer.state_dict())
        report = reimpose_(layer)
        assert not report.done
        state = layer.state_dict()
        assert all(torch.equal(state[key], value) for key, value in before.items())
        return next(iter(report.left.values()))

    assert why(parametrized((3, 3), Exponential())) == "Exponential has no right_inverse"
    assert why(parametrized((3, 3), Rough())).startswith("the weight would change by")
    assert why(parametrized((3, 3), Refuses())) == "right_inverse refuses the weight: not today"
    layer = orthogonal("householder", True, (6, 3))
    with torch.no_grad():  # the signs of two columns have decayed to 0
        layer.parametrizations.weight.original.diagonal()[:2] *= 0.9
    assert why(layer).startswith("the weight would change by")
    layer = weight_normed(0)
    from_parametrized(layer)
    assert why(layer) == "its direction is kept on a sphere by riemopt's optimizers"
    model = tied(lambda m: parametrize.register_parametrization(m, "weight", Symmetrize()))
    assert why(model).startswith("its original is tied to ")


class PlusOne(nn.Module):
    def forward(self, x):
        return x + 1

    def right_inverse(self, y):
        return y - 1


def test_a_chain_is_reimposed_as_a_whole():
    for second, how in (
        (Normalize(None), "the original is the weight"),
        (PlusOne(), "the original is the right inverse of the weight"),
    ):
        layer = parametrized((4, 3), Normalize())
        parametrize.register_parametrization(layer, "weight", second)
        assert reimposed(layer) == how


def test_the_cached_weight_is_dropped():
    layer = parametrized((4, 3), Normalize())
    with parametrize.cached():
        stale = layer.weight
        reimpose_(layer)
        assert layer.weight is not stale
        close(layer.weight, stale)


def drift(optimizer_class, every=None, steps=60, **options):
    """Norms of the originals of a normalising parametrization after training."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 4, bias=False)
    parametrize.register_parametrization(layer, "weight", Normalize())
    with torch.no_grad():
        layer.parametrizations.weight.original.copy_(layer.weight)
    optimizer = optimizer_class(layer.parameters(), **options)
    if every is not None:
        reimpose_every(optimizer, layer, every)
    x, y = torch.randn(64, 8), torch.randn(64, 4)
    for _ in range(steps):
        optimizer.zero_grad()
        batch = torch.randint(64, (8,))
        (layer(x[batch]) - y[batch]).square().sum().backward()
        optimizer.step()
    original = layer.parametrizations.weight.original.detach()
    return torch.linalg.vector_norm(original, dim=-1)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.SGD, {"lr": 0.03}),
        (torch.optim.SGD, {"lr": 0.003, "momentum": 0.9}),
        (torch.optim.Adam, {"lr": 0.1}),
    ],
    ids=["SGD", "momentum", "Adam"],
)
def test_originals_drift_without_it_and_not_with_it(optimizer, options):
    drifted = drift(optimizer, **options)
    assert drifted.min() > 1.5  # the gradient is normal to x, so that ‖x‖ can only grow
    close(drift(optimizer, every=1, **options), torch.ones(4), atol=2 * EPS, rtol=0)
    norms = drift(optimizer, every=7, **options)  # 60 = 8·7 + 4: four steps have gone by since
    assert 1 + 10 * EPS < norms.max() < drifted.min()


def test_a_step_moves_the_angle_by_less_where_the_original_has_grown():
    """What the drift costs, and what reimposing restores."""

    def angle_of_a_step(scale, *, reimpose):
        layer = nn.Linear(3, 1, bias=False)
        parametrize.register_parametrization(layer, "weight", Normalize())
        with torch.no_grad():
            layer.parametrizations.weight.original.copy_(scale * torch.tensor([1.0, 0, 0]))
        if reimpose:
            reimpose_(layer)
        layer(torch.tensor([0.0, 1, 0])).backward()
        torch.optim.SGD(layer.parameters(), lr=0.1).step()
        return math.atan2(-layer.weight[0, 1].item(), layer.weight[0, 0].item())

    assert angle_of_a_step(10.0, reimpose=False) == pytest.approx(1e-3, rel=0.01)  # 1/‖x‖² of it
    assert angle_of_a_step(10.0, reimpose=True) == pytest.approx(0.1, rel=0.01)


def test_the_hook_counts_steps_and_can_be_removed():
    layer = parametrized((4, 3), Normalize())
    original = layer.parametrizations.weight.original
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    handle = reimpose_every(optimizer, layer, 3)
    layer.weight.sum().backward()

    def on_sphere_after_a_step():
        optimizer.step()
        return Sphere().violation(original.detach()).max().item() < 1e-12

    assert [on_sphere_after_a_step() for _ in range(3)] == [False, False, True]
    jolt(layer)
    handle.remove()
    assert not any(on_sphere_after_a_step() for _ in range(3))
    for steps in (0, -1, 1.5):
        with pytest.raises(ValueError, match="steps must be a positive integer"):
            reimpose_every(optimizer, layer, steps)
    with pytest.raises(ValueError, match="Linear has no parametrized weight"):
        reimpose_every(optimizer, nn.Linear(2, 2), 1)


# --- the bridge itself ---


def test_maps_are_written_out():
    assert "Normalize(Sphere(dim=0, radius=2.0))" in repr(Normalize(0, 2.0))
    assert repr(ScaledDirection(None)) == "ScaledDirection(dim=-1)"
    with pytest.raises(ValueError, match="positive, finite radius"):
        Normalize(radius=-1.0)


def test_geotorch_is_not_imported():
    code = "import sys, riemopt.interop.parametrize; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"geotorch", "geoopt"} & set(run.stdout.split())
    code = "import sys, riemopt; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not any(name.startswith("riemopt.interop") for name in run.stdout.split())

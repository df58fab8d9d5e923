"""The padding row of an embedding stays what it is; all other rows are on the manifold."""

import copy

import geoopt
import pytest
import torch
from torch import nn

import riemopt
from riemopt import (
    ManifoldParameter,
    RiemannianSGD,
    constrain,
    constraints,
    manifold_of,
    project_,
    riemannian,
    unconstrain,
)
from riemopt.interop import geoopt as ours
from riemopt.interop.distributed import shard_placement
from riemopt.interop.parametrize import Normalize, from_parametrized, to_parametrized
from riemopt.manifolds import (
    ExceptRows,
    FixedSum,
    Frozen,
    LevelSet,
    Product,
    Sphere,
    Stiefel,
    Symmetric,
)
from tests.manifold_cases import unit_norm

OPTIMIZERS = {
    "SGD": lambda p: RiemannianSGD(p, lr=0.1),
    "momentum": lambda p: RiemannianSGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "Adam": lambda p: riemopt.RiemannianAdam(p, lr=0.1, weight_decay=0.1),
    "point": lambda p: riemopt.RiemannianAdam(p, lr=0.1, second_moment="point"),
    "carried": lambda p: riemopt.RiemannianAdam(p, lr=0.1, second_moment="carried"),
    "amsgrad": lambda p: riemopt.RiemannianAdam(p, lr=0.1, amsgrad=True),
    "AdamW": lambda p: riemopt.RiemannianAdamW(p, lr=0.1, weight_decay=0.1),
    "NAdam": lambda p: riemopt.RiemannianNAdam(p, lr=0.1),
    "Adagrad": lambda p: riemopt.RiemannianAdagrad(p, lr=0.1),
    "RMSprop": lambda p: riemopt.RiemannianRMSprop(p, lr=0.1),
    "RAdam": lambda p: riemannian(torch.optim.RAdam)(p, lr=0.1),
    "Adamax": lambda p: riemannian(torch.optim.Adamax)(p, lr=0.1, weight_decay=0.1),
}


def table(row=0, n=6, d=4, cls=nn.Embedding, dtype=torch.float32):
    torch.manual_seed(0)
    return cls(n, d, padding_idx=row).to(dtype)


def train(layer, optimizer, steps=5):
    """A loss that has a gradient in every row, as that of a tied weight."""
    target = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        (layer.weight.float() - target).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_no_optimizer_changes_the_padding_row(name, dtype):
    layer = constrain(table(dtype=dtype), "weight", Sphere())
    assert torch.equal(layer.weight[0], torch.zeros(4, dtype=dtype))
    with torch.no_grad():
        layer.weight[0] = torch.tensor([3.0, -0.1, 0.0, 1e3])  # as a user may
    kept, moved = layer.weight[0].detach().clone(), layer.weight[1:].detach().clone()
    optimizer = OPTIMIZERS[name](layer.parameters())
    train(layer, optimizer)
    assert torch.equal(layer.weight[0], kept)
    assert not torch.isclose(layer.weight[1:], moved, atol=1e-3).all(1).any()
    report = constraints(layer)[0]
    assert report.satisfied
    norms = layer.weight[1:].detach().double().norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(5).double(), atol=2e-3, rtol=0)
    project_(layer)
    assert torch.equal(layer.weight[0], kept)


@pytest.mark.parametrize("cls", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("row", [0, 3, 5, -1, -6])
def test_any_row_of_both_kinds_of_tables(cls, row):
    layer = constrain(table(row, cls=cls), "weight", Sphere())
    norms = layer.weight.detach().norm(dim=1)
    expected = torch.ones(6)
    expected[row] = 0
    torch.testing.assert_close(norms, expected)
    train(layer, RiemannianSGD(layer.parameters(), lr=0.1))
    torch.testing.assert_close(layer.weight.detach().norm(dim=1), expected)


def test_other_rows_are_stepped_as_without_padding():
    """Up to rounding, by gradients through the layer."""
    padded, plain = table(), nn.Embedding(6, 4)
    for layer in (padded, plain):
        constrain(layer, "weight", Sphere())
    with torch.no_grad():
        plain.weight[1:] = padded.weight[1:]
    for layer in (padded, plain):
        optimizer = riemopt.RiemannianAdam(layer.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            layer(torch.tensor([0, 1, 2, 5, 5])).pow(3).sum().backward()
            optimizer.step()
    torch.testing.assert_close(padded.weight[1:], plain.weight[1:])


def test_it_is_reported_by_its_name_and_put_back_after_loading():
    layer = constrain(table(), "weight", Sphere())
    assert manifold_of(layer.weight) == ExceptRows(Sphere(), rows=0)
    assert str(constraints(layer)[0].manifold) == "ExceptRows(Sphere(), rows=0)"
    loaded = torch.randn(6, 4)
    layer.load_state_dict({"weight": loaded})
    assert not constraints(layer)[0].satisfied
    project_(layer)
    assert constraints(layer)[0].satisfied
    assert torch.equal(layer.weight[0], loaded[0])
    twin = copy.deepcopy(layer)
    train(twin, RiemannianSGD(twin.parameters(), lr=0.1))
    assert torch.equal(twin.weight[0], loaded[0])


def test_a_padding_row_that_is_not_finite_is_no_violation():
    layer = constrain(table(), "weight", Sphere())
    with torch.no_grad():
        layer.weight[0] = torch.nan
    assert constraints(layer)[0].violation < 1e-6
    assert constraints(layer)[0].satisfied


def test_a_tied_output_layer_shares_it():
    layer, out = table(), nn.Linear(4, 6, bias=False)
    out.weight = layer.weight
    constrain(layer, "weight", Sphere())
    model = nn.Sequential(layer, out)
    optimizer = RiemannianSGD(model.parameters(), lr=0.1)
    before = layer.weight.detach().clone()
    model(torch.tensor([[0, 1, 2]])).square().sum().backward()
    assert layer.weight.grad.abs().sum(1).gt(0).sum() >= 2
    optimizer.step()
    assert torch.equal(out.weight[0], torch.zeros(4))
    assert not torch.equal(out.weight, before)
    with pytest.raises(ValueError, match=r"ExceptRows\(Sphere\(\), rows=0\) and cannot be on"):
        constrain(out, "weight", Sphere())
    constrain(out, "weight", ExceptRows(Sphere(), rows=0))


def test_a_table_that_is_constrained_through_another_layer_is_found():
    layer, out = table(), nn.Linear(4, 6, bias=False)
    out.weight = layer.weight
    model = nn.Sequential(layer, out)
    constrain(out, "weight", Sphere())  # it knows nothing of the table
    before = layer.weight.detach().clone()
    for look in (constraints, project_):
        with pytest.raises(ValueError, match=r"padding row of 0 \(Embedding\).*unconstrain there"):
            look(model)
    assert torch.equal(layer.weight, before)
    unconstrain(out, "weight")
    constrain(layer, "weight", Sphere())
    assert constraints(model)[0].satisfied
    assert torch.equal(layer.weight[0], before[0])


def test_parameters_made_for_such_a_table():
    layer = table()
    with pytest.raises(ValueError, match=r"ManifoldParameter\(…, ExceptRows\(Sphere"):
        layer.weight = ManifoldParameter(torch.randn(6, 4), Sphere())
    assert torch.equal(layer.weight[0], torch.zeros(4))
    assert constraints(layer) == []
    data = torch.randn(6, 4)
    layer.weight = ManifoldParameter(data, ExceptRows(Sphere(), rows=0))
    assert torch.equal(layer.weight[0], data[0])
    last = table(row=-1)
    last.weight = ManifoldParameter(data, ExceptRows(Sphere(), rows=-1))
    assert torch.equal(last.weight[5], data[5])


def test_rows_that_the_user_keeps_are_kept_too():
    layer = constrain(table(), "weight", ExceptRows(Sphere(), rows=3))
    assert manifold_of(layer.weight) == ExceptRows(Sphere(), rows=(0, 3))


BASES = [
    Sphere(radius=2.0),
    FixedSum(total=1.0),
    LevelSet(unit_norm, event_ndim=1),
    ours.from_geoopt(geoopt.PoincareBall()),
    ours.from_geoopt(geoopt.Lorentz()),
    ours.from_geoopt(geoopt.SphereExact()),
]


@pytest.mark.parametrize("base", BASES, ids=str)
@pytest.mark.parametrize("row", [0, -1])
def test_every_manifold_whose_points_are_rows(base, row):
    layer = constrain(table(row), "weight", base)
    optimizer = riemopt.RiemannianAdam(layer.parameters(), lr=0.01)
    before = layer.weight.detach().clone()
    train(layer, optimizer)
    assert torch.equal(layer.weight[row], torch.zeros(4))
    assert not torch.equal(layer.weight, before)
    assert constraints(layer)[0].satisfied
    assert (optimizer.skipped_steps, optimizer.shortened_steps) == (0, 0)


@pytest.mark.parametrize("manifold", [Stiefel(), Sphere(dim=0), Sphere(dim=None)], ids=str)
def test_refused_where_points_are_not_rows(manifold):
    layer = table()
    with pytest.raises(ValueError, match=r"padding_idx=0 of this Embedding.*whose points are rows"):
        constrain(layer, "weight", manifold)
    with pytest.raises(ValueError, match="points are rows"):
        layer.weight = ManifoldParameter(torch.randn(6, 4), manifold)
    assert constraints(layer) == []
    constrain(nn.Embedding(6, 4), "weight", manifold)


@pytest.mark.parametrize("cls", [nn.Embedding, nn.EmbeddingBag])
def test_max_norm_is_refused(cls):
    """The layer would scale rows in its forward pass."""
    layer = cls(6, 4, max_norm=0.5)
    with pytest.raises(ValueError, match=r"max_norm=0\.5: each forward pass scales"):
        constrain(layer, "weight", Sphere())
    with pytest.raises(ValueError, match=r"max_norm=0\.5"):
        layer.weight = ManifoldParameter(torch.randn(6, 4), Sphere())
    assert constraints(layer) == []


def test_bridges_keep_the_row():
    layer = table()
    with torch.no_grad():
        layer.weight[0] = 2
    nn.utils.parametrize.register_parametrization(layer, "weight", Normalize())
    before = layer.weight.detach().clone()
    assert from_parametrized(layer).done == {"weight": ExceptRows(Sphere(), rows=0)}
    torch.testing.assert_close(layer.weight.detach(), before)
    assert "ExceptRows" in to_parametrized(layer).left["weight"]
    theirs = table()
    x = nn.functional.normalize(torch.randn(6, 4))
    theirs.weight = geoopt.ManifoldParameter(x, manifold=geoopt.Sphere())
    assert ours.adopt(theirs).done == {"weight": ExceptRows(Sphere(), rows=0)}
    assert torch.equal(
        theirs.weight.detach().as_subclass(torch.Tensor), x.as_subclass(torch.Tensor)
    )


def test_cut_by_rows_over_processes_it_is_refused():
    layer = constrain(table(), "weight", Sphere())
    with pytest.raises(NotImplementedError, match=r"ExceptRows.*cuts its points.*whole on each"):
        shard_placement(layer.weight)


# --- the manifolds ---------------------------------------------------------------------------


def test_runs_of_rows():
    manifold = ExceptRows(Sphere(), rows=(-1, 3, 0, -4))
    x = manifold.project(torch.randn(9, 2))
    kept = [round(float(n), 5) != 1 for n in x.norm(dim=1)]
    assert kept == [True, False, False, True, False, True, False, False, True]
    assert manifold == ExceptRows(Sphere(), [0, 3, -4, -1])
    assert manifold.dim((9, 3)) == 5 * 2
    assert ExceptRows(Sphere(), 5).project(torch.ones(6, 2))[5].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (lambda: ExceptRows(Sphere(), ()), ValueError, "one or more rows"),
        (lambda: ExceptRows(Sphere(), ("0",)), TypeError, "numbers of one or more rows"),
        (lambda: ExceptRows(Stiefel(), 0), ValueError, r"points are rows; got Stiefel\(\)"),
        (lambda: ExceptRows(Sphere, 0), TypeError, r"write Sphere\(\)"),
        (lambda: ExceptRows(Sphere(), 3).check_shape((3, 2)), ValueError, r"n ≥ 4.*\(3, 2\)"),
        (lambda: ExceptRows(Sphere(), (0, -1)).check_shape((1, 2)), ValueError, "n ≥ 2"),
        (lambda: ExceptRows(Sphere(), 0).check_shape((4,)), ValueError, r"\(4,\)"),
        (lambda: ExceptRows(FixedSum(), 0).check_shape((4, 0)), ValueError, "at least one entry"),
    ],
)
def test_what_is_refused_says_why(attempt, error, message):
    with pytest.raises(error, match=message):
        attempt()


def test_a_frozen_part_of_a_product():
    manifold = Product({"origin": (Frozen(), 3), "direction": (Sphere(), -1)})
    p = ManifoldParameter(torch.randn(5, 7), manifold)
    before = p.detach().clone()
    p.grad = torch.randn(5, 7)
    riemopt.RiemannianAdamW([p], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(p[:, :3], before[:, :3])
    assert not torch.isclose(p[:, 3:], before[:, 3:]).all(1).any()
    x, y = before, before + 1
    assert Frozen().dist(x, x).eq(0).all()
    assert Frozen().dist(x, y).isinf().all()
    with pytest.raises(ValueError, match="dimension 0"):
        ManifoldParameter(torch.randn(3), Frozen())


def test_a_linear_base_keeps_moments_entry_by_entry():
    manifold = Product([(Frozen(), 1), (Symmetric(), 3)], dim=-2)
    assert manifold.allows_elementwise_scaling
    p = ManifoldParameter(torch.randn(4, 3), manifold)
    before = p.detach().clone()
    optimizer = riemopt.RiemannianAdamW([p], lr=0.1, weight_decay=0.1)
    for _ in range(3):
        p.grad = torch.randn(4, 3)
        optimizer.step()
    assert torch.equal(p[0], before[0])
    assert not torch.equal(p[1:], before[1:])


@pytest.mark.parametrize("tangent_grad", [False, True])
@pytest.mark.parametrize("cls", [RiemannianSGD, riemopt.RiemannianSparseAdam])
def test_sparse_gradients(cls, tangent_grad):
    """Other touched rows are stepped as without padding."""
    padded = nn.Embedding(6, 4, padding_idx=0, sparse=True)
    plain = nn.Embedding(6, 4, sparse=True)
    with torch.no_grad():
        plain.weight.copy_(padded.weight)
    for layer in (padded, plain):
        constrain(layer, "weight", Sphere(), tangent_grad=tangent_grad)
    kept = padded.weight[4].detach().clone()
    for layer in (padded, plain):
        optimizer = cls(layer.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.tensor([0, 1, 2, 5, 5])).pow(3).sum().backward()
            optimizer.step()
    assert torch.equal(padded.weight[0], torch.zeros(4))
    assert torch.equal(padded.weight[4], kept)
    torch.testing.assert_close(padded.weight[1:], plain.weight[1:])
    assert constraints(padded)[0].satisfied


@pytest.mark.parametrize("cls", [RiemannianSGD, riemopt.RiemannianSparseAdam])
def test_rows_that_stay_with_a_sparse_gradient_of_their_own(cls):
    w = ManifoldParameter(torch.randn(5, 3), ExceptRows(Sphere(), rows=(1, -1)))
    before = w.detach().clone()
    optimizer = cls([w], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.embedding(torch.tensor([0, 1, 1, 4]), w, sparse=True).pow(3).sum().backward()
        optimizer.step()
    assert torch.equal(w[1:], before[1:])
    assert not torch.allclose(w[0], before[0])

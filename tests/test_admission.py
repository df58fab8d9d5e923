"""Which sets a weight may be put on: not those of isolated points, nor others than are meant."""

import copy

import geoopt
import pytest
import torch
from torch import nn

import riemopt
from riemopt import ManifoldParameter, RiemannianSGD, constrain, constraints
from riemopt.interop import geoopt as ours
from riemopt.interop.parametrize import from_parametrized
from riemopt.manifolds import (
    AffineSubspace,
    ExceptRows,
    FixedSum,
    Flattened,
    LevelSet,
    Product,
    RowBlocks,
    SkewSymmetric,
    Sphere,
    Stiefel,
    Symmetric,
    Toeplitz,
)
from tests.manifold_cases import unit_norm


def plus_minus_one(x):
    return x.square() - 1


# --- no degree of freedom -------------------------------------------------------------------

ISOLATED = [
    (Sphere(), (5, 1), r"Sphere\(dim=-2\) has points of 5 entries"),
    (Sphere(), (1,), "requires_grad_"),
    (Sphere(), (1, 1), "Leave it unconstrained"),
    (Sphere(radius=2.0), (5, 1), r"Sphere\(dim=-2, radius=2.0\)"),
    (Sphere(dim=(-2, -1)), (4, 3, 1, 1), r"Sphere\(dim=-3\) has points of 3 entries"),
    (FixedSum(), (5, 1), r"FixedSum\(dim=-2\)"),
    (FixedSum(total=3.0), (5, 1), "dimension 0"),
    (Stiefel(), (1, 1), "dimension 0"),
    (Stiefel(), (7, 1, 1), "dimension 0"),
    (Flattened(Stiefel()), (1, 1, 1, 1), "dimension 0"),
    (SkewSymmetric(), (1, 1), "dimension 0"),
    (AffineSubspace(torch.eye(3), torch.ones(3)), (3,), "dimension 0"),
    (LevelSet(plus_minus_one), (2,), "dimension 0"),
    (LevelSet(unit_norm, event_ndim=1), (4, 1), "dimension 0"),
    (Product([(Sphere(), (4, 1))]), (4,), "dimension 0"),
    (RowBlocks(Sphere(), 5), (5, 1), "dimension 0"),
    (ExceptRows(Sphere(), 0), (1, 4), "dimension 0"),
    (ours.from_geoopt(geoopt.Sphere()), (5, 1), "dimension 0"),
]


class Owner(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(shape) + 0.5)


@pytest.mark.parametrize(
    ("manifold", "shape", "message"), ISOLATED, ids=[f"{m}-{s}" for m, s, _ in ISOLATED]
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_sets_of_isolated_points_are_refused_wherever_a_value_is_admitted(
    manifold, shape, message, device
):
    owner = Owner(shape).to(device)
    kept = owner.weight.detach().clone()
    group = {"params": [owner.weight], "manifold": manifold}
    for attempt in (
        lambda: constrain(owner, "weight", manifold),
        lambda: ManifoldParameter(owner.weight.detach(), manifold),
        lambda: RiemannianSGD([group], lr=0.1),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()
    assert constraints(owner) == []
    assert device == "meta" or torch.equal(owner.weight, kept)


@pytest.mark.parametrize(
    ("manifold", "shape", "dtype"),
    [
        (Sphere(), (5, 1), torch.complex64),  # circles
        (Stiefel(), (1, 1), torch.complex64),
        (SkewSymmetric(), (1, 1), torch.complex64),
        (Sphere(), (0, 3), torch.float32),
        (Sphere(), (0, 1), torch.float32),  # no point that could move
        (Sphere(dim=0), (5, 1), torch.float32),
        (Symmetric(), (1, 1), torch.float32),
        (Toeplitz(), (1, 1), torch.float32),
        (Stiefel(), (1, 4), torch.float32),
        # A part of a product may be constant.
        (Product([(Sphere(), 1), (Sphere(), 3)]), (4,), torch.float32),
    ],
)
def test_small_sets_with_a_degree_of_freedom_are_admitted(manifold, shape, dtype):
    p = ManifoldParameter(torch.randn(shape, dtype=dtype), manifold)
    RiemannianSGD([p], lr=0.1)


@pytest.mark.filterwarnings("ignore:BirkhoffPolytope")
def test_parameters_of_geoopt_whose_points_cannot_move_are_refused():
    """Of its sphere geoopt refuses them itself."""
    p = geoopt.ManifoldParameter(torch.ones(4, 1, 1), manifold=geoopt.BirkhoffPolytope())
    with pytest.raises(ValueError, match="dimension 0"):
        RiemannianSGD([p], lr=0.1)
    model = nn.Module()
    model.w = p
    assert "dimension 0" in ours.adopt(model).left["w"]
    assert constraints(model) == []


def test_a_parametrization_onto_isolated_points_is_left():
    for layer in (
        nn.utils.parametrizations.orthogonal(nn.Linear(1, 1)),
        nn.utils.parametrizations.weight_norm(nn.Linear(1, 3)),
    ):
        before = copy.deepcopy(layer.state_dict())
        assert "dimension 0" in from_parametrized(layer).left["weight"]
        assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


# --- slices of kernels ----------------------------------------------------------------------

LAYERS = [
    (lambda: nn.Conv1d(16, 8, 1), "(dim=(-2, -1)", 2),
    (lambda: nn.Conv1d(16, 8, 3), "(dim=(-2, -1)", 2),
    (lambda: nn.Conv2d(16, 8, 1), "(dim=(-3, -2, -1)", 3),
    (lambda: nn.Conv2d(16, 8, 3), "(dim=(-3, -2, -1)", 3),
    (lambda: nn.Conv2d(16, 8, 3, groups=4), "(dim=(-3, -2, -1)", 3),
    (lambda: nn.Conv2d(8, 8, 3, groups=8), "(dim=(-3, -2, -1)", 3),
    (lambda: nn.Conv3d(16, 8, 3), "(dim=(-4, -3, -2, -1)", 4),
    (lambda: nn.ConvTranspose1d(16, 8, 3), "(dim=(-3, -1)", 2),
    (lambda: nn.ConvTranspose2d(16, 8, 3), "(dim=(-4, -2, -1)", 3),
    (lambda: nn.Bilinear(3, 4, 2), "(dim=(-2, -1)", 2),
]


@pytest.mark.parametrize(("make", "wanted", "last"), LAYERS, ids=[str(f()) for f, _, _ in LAYERS])
@pytest.mark.parametrize("manifold", [Sphere(), Sphere(radius=2.0), FixedSum(total=1.0)], ids=str)
def test_rows_of_a_kernel_are_points_only_if_asked_for(make, wanted, last, manifold):
    layer, name = make(), type(manifold).__name__
    kept = layer.weight.detach().clone()
    with pytest.raises(ValueError, match="each row of its last dimension") as refused:
        constrain(layer, "weight", manifold)
    assert f"{name}{wanted}" in str(refused.value)
    assert f"{name}(dim={last}" in str(refused.value)
    assert constraints(layer) == []
    assert torch.equal(layer.weight, kept)
    constrain(layer, "bias", manifold)  # a vector is one point


@pytest.mark.parametrize(("make", "wanted", "last"), LAYERS, ids=[str(f()) for f, _, _ in LAYERS])
def test_what_the_error_says_gives_each_output_one_point(make, wanted, last):
    """As many points as there are outputs."""
    layer = make()
    with pytest.raises(ValueError, match="use ") as refused:
        constrain(layer, "weight", Sphere())
    said = str(refused.value).split("use ")[1].split(";")[0]
    manifold = eval(said, vars(riemopt.manifolds))
    constrain(layer, "weight", manifold)
    points = manifold.violation(layer.weight.detach())
    outputs = layer.weight.shape[1 if getattr(layer, "transposed", False) else 0]
    assert points.numel() == outputs
    RiemannianSGD(layer.parameters(), lr=0.1)


def test_grouped_transposed_kernels_have_blocks_of_filters():
    """(in, out/groups, kh, kw): an output has weights in the rows of its group alone."""
    layer = nn.ConvTranspose2d(6, 4, 3, groups=2, bias=False)
    with pytest.raises(ValueError, match="RowBlocks") as refused:
        constrain(layer, "weight", Sphere())
    said = str(refused.value).split("use ")[1].split(";")[0]
    constrain(layer, "weight", eval(said, vars(riemopt.manifolds)))
    blocks = layer.weight.detach().unflatten(0, (2, 3))
    torch.testing.assert_close(blocks.square().sum((1, 3, 4)), torch.ones(2, 2))
    # Output o is linear in those weights: with x = 1 the sum of its filter bounds it by √(3·9).
    image = layer(torch.ones(1, 6, 5, 5))
    assert image.abs().max() <= (3 * 9) ** 0.5


def test_a_parameter_for_a_kernel_is_refused_as_constrain_refuses_it():
    layer = nn.Conv2d(4, 8, 3)
    with pytest.raises(ValueError, match=r"Sphere\(dim=\(-3, -2, -1\)\)"):
        layer.weight = ManifoldParameter(layer.weight, Sphere())
    layer.weight = ManifoldParameter(layer.weight, Sphere(dim=(-3, -2, -1)))
    torch.testing.assert_close(layer.weight.detach().flatten(1).norm(dim=1), torch.ones(8))


def test_other_vectors_on_kernels():
    ball = ours.from_geoopt(geoopt.PoincareBall())
    layer = nn.Conv2d(4, 8, 3)
    with pytest.raises(ValueError, match=r"write Product\(\[\(PoincareBall\(\), 3\)\]\)"):
        constrain(layer, "weight", ball)
    constrain(layer, "weight", Product([(ball, 3)]))


@pytest.mark.parametrize(
    ("layer", "manifold"),
    [
        (nn.Conv1d(8, 8, 3, groups=8), Sphere()),  # the row is the filter
        (nn.Conv2d(8, 8, (1, 3), groups=8), FixedSum()),
        (nn.Conv2d(8, 4, 3), Sphere(dim=3)),
        (nn.Conv2d(8, 4, 3), Sphere(dim=(-2, -1))),
        (nn.Conv2d(8, 4, 3), Sphere(dim=None)),
        (nn.Conv2d(8, 4, 1), FixedSum(dim=1)),
        (nn.Linear(4, 3), Sphere()),
        (nn.Embedding(5, 3), Sphere()),
        (nn.Bilinear(3, 4, 2), Stiefel()),
        (nn.LayerNorm(4), Sphere()),
        (nn.BatchNorm2d(4), FixedSum(total=4.0)),
    ],
    ids=lambda a: str(a),
)
def test_what_is_meant_is_admitted(layer, manifold):
    constrain(layer, "weight", manifold)
    assert all(c.satisfied for c in constraints(layer))
    RiemannianSGD(layer.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.MultiheadAttention(8, 2), "in_proj_weight"),
        (nn.LSTM(3, 8), "weight_hh_l0"),
        (nn.LSTM(3, 8), "weight_ih_l0"),
        (nn.GRU(3, 8), "weight_hh_l0"),
        (nn.RNN(3, 8), "bias_hh_l0"),
    ],
    ids=str,
)
def test_rows_of_stacked_weights_are_units(layer, name):
    constrain(layer, name, Sphere())
    assert constraints(layer)[0].satisfied


def test_matrices_of_transposed_kernels_are_named_as_torch_stores_them():
    with pytest.raises(ValueError, match=r"matrix \(in, out·k\) use Flattened"):
        constrain(nn.ConvTranspose2d(4, 8, 3), "weight", Stiefel())
    with pytest.raises(ValueError, match=r"matrix \(out, in·k\) use Flattened"):
        constrain(nn.Conv2d(4, 8, 3), "weight", Stiefel())


def test_a_scalar_has_no_dimension_for_a_point():
    with pytest.raises(ValueError, match=r"at least one dimension; got.*\(\)"):
        ManifoldParameter(torch.tensor(1.0), Sphere(dim=None))
    with pytest.raises(ValueError, match=r"has dimension -1; got.*\(\)"):
        ManifoldParameter(torch.tensor(1.0), Sphere())


def test_kernels_of_parametrizations_and_of_geoopt_keep_the_slices_they_have():
    layer = nn.Conv2d(4, 8, 3)
    from riemopt.interop.parametrize import Normalize

    nn.utils.parametrize.register_parametrization(layer, "weight", Normalize())
    before = layer.weight.detach().clone()
    assert from_parametrized(layer).done == {"weight": Sphere(dim=3)}
    torch.testing.assert_close(layer.weight.detach(), before)
    other = nn.Conv2d(4, 8, 3)
    other.weight = layer.weight  # it can be handed on
    copy.deepcopy(layer)

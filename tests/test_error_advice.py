"""Errors say what was given, what is needed and what to write; nothing has changed then."""

import copy
import pickle

import geoopt
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from riemopt import (
    ManifoldParameter,
    RiemannianAdam,
    RiemannianSGD,
    constrain,
    constraints,
    manifold_of,
    project_,
    unconstrain,
)
from riemopt.interop.distributed import shard_placement
from riemopt.interop.geoopt import adopt, from_geoopt
from riemopt.interop.parametrize import (
    ScaledDirection,
    convert_state_dict,
    from_parametrized,
    reimpose_,
    reimpose_every,
    to_parametrized,
)
from riemopt.manifolds import (
    Flattened,
    LevelSet,
    Manifold,
    Product,
    RowBlocks,
    Sparsity,
    Sphere,
    Stiefel,
    Symmetric,
)
from riemopt.manifolds.elsewhere import OURS, advice_for
from tests.manifold_cases import CASES, unit_norm

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*weight_norm.* is deprecated",
    "ignore:Sparse CSR tensor support",
    "ignore:The PyTorch API of nested tensors",
)


def linear(n=4):
    return nn.Linear(n, n)


def nested():
    return torch.nested.nested_tensor([torch.ones(2)])


def branched():
    model = nn.Sequential(linear(), nn.ReLU(), nn.Sequential(linear(), nn.Tanh()))
    model.extend(linear() for _ in range(6))
    return model


REFUSED = [
    # what is no value
    ("list", lambda: ManifoldParameter([1.0, 2.0], Sphere()), TypeError, "got list.*as_tensor"),
    ("float", lambda: ManifoldParameter(1.0, Sphere()), TypeError, "got float.*as_tensor"),
    ("none", lambda: ManifoldParameter(None, Sphere()), TypeError, "got NoneType"),
    ("numpy", lambda: ManifoldParameter(np.ones(2), Sphere()), TypeError, "got ndarray.*as_tensor"),
    (
        "sparse",
        lambda: ManifoldParameter(torch.eye(2).to_sparse(), Sphere()),
        ValueError,
        r"dense tensor; got layout torch\.sparse_coo.*to_dense\(\).*Sparsity",
    ),
    (
        "csr",
        lambda: ManifoldParameter(torch.eye(2).to_sparse_csr(), Sphere()),
        ValueError,
        r"got layout torch\.sparse_csr.*to_dense",
    ),
    (
        "nested",
        lambda: ManifoldParameter(nested(), Sphere()),
        ValueError,
        "a nested tensor.*padded",
    ),
    (
        "float8",
        lambda: ManifoldParameter(torch.eye(2).to(torch.float8_e4m3fn), Sphere()),
        ValueError,
        r"needs one of torch\.float32.*got torch\.float8_e4m3fn.*to\(torch\.bfloat16\)",
    ),
    (
        "integer",
        lambda: ManifoldParameter(torch.eye(2).int(), Sphere()),
        ValueError,
        r"got torch\.int32. Write \.float\(\)",
    ),
    # what is no manifold
    (
        "geoopt",
        lambda: constrain(linear(), "weight", geoopt.Sphere()),
        TypeError,
        r"'weight' of Linear.*got Sphere manifold; riemopt\.interop\.geoopt\.from_geoopt\(…\)",
    ),
    (
        "geoopt class",
        lambda: constrain(linear(), "weight", geoopt.Sphere),
        TypeError,
        "from_geoopt",
    ),
    (
        "geoopt in a group",
        lambda: RiemannianSGD([{"params": linear().weight, "manifold": geoopt.Sphere()}], lr=0.1),
        TypeError,
        "got Sphere manifold; .*from_geoopt",
    ),
    (
        "geoopt in a product",
        lambda: Product([(geoopt.Sphere(), 3)]),
        TypeError,
        "from_geoopt",
    ),
    ("geoopt flattened", lambda: Flattened(geoopt.Stiefel()), ValueError, "from_geoopt"),
    ("class", lambda: constrain(linear(), "weight", Sphere), TypeError, r"write Sphere\(\)"),
    ("name", lambda: constrain(linear(), "weight", "sphere"), TypeError, "by name: import it"),
    ("function", lambda: constrain(linear(), "weight", unit_norm), TypeError, r"is LevelSet\(c\)"),
    ("nothing", lambda: constrain(linear(), "weight"), TypeError, "got None"),
    ("ours", lambda: from_geoopt(Sphere()), TypeError, "one of riemopt already"),
    (
        "parameter",
        lambda: from_geoopt(geoopt.ManifoldParameter(torch.eye(2), manifold=geoopt.Stiefel())),
        TypeError,
        r"ManifoldParameter. Give it its \.manifold",
    ),
    # what is no module, or no parameter
    ("project_", lambda: project_(torch.eye(2)), TypeError, r"got Tensor.*manifold\.project\(x\)"),
    ("list of modules", lambda: project_([linear()]), TypeError, "for each, or .*ModuleList"),
    ("constraints", lambda: constraints(linear().weight), TypeError, r"got Parameter.*violation"),
    ("unconstrain", lambda: unconstrain(linear().weight, "x"), TypeError, "got Parameter"),
    (
        "manifold_of",
        lambda: manifold_of(linear()),
        TypeError,
        r"Linear; for a module call .*constr",
    ),
    ("manifold_of list", lambda: manifold_of([linear().weight]), TypeError, "parameter; got list"),
    (
        "from_param",
        lambda: from_parametrized(torch.eye(2)),
        TypeError,
        "module is needed; got Tens",
    ),
    ("to_param", lambda: to_parametrized([linear()]), TypeError, "module is needed; got list"),
    ("reimpose_", lambda: reimpose_(torch.eye(2)), TypeError, "module is needed; got Tensor"),
    (
        "reimpose_every",
        lambda: reimpose_every(torch.optim.SGD([nn.Parameter(torch.eye(2))]), torch.eye(2), 3),
        TypeError,
        "module is needed; got Tensor",
    ),
    ("adopt", lambda: adopt(torch.eye(2)), TypeError, "module is needed; got Tensor"),
    (
        "tensor",
        lambda: constrain(linear().weight, "weight", Sphere()),
        TypeError,
        r"got Parameter.*ManifoldParameter\(tensor, manifold\)",
    ),
    (
        "names",
        lambda: constrain(linear(), ["weight"], Sphere()),
        TypeError,
        r"Linear and \['weight'",
    ),
    (
        "container",
        lambda: constrain(branched(), "weight", Sphere()),
        AttributeError,
        r"Submodules that have one: '0', '2\.0', '3', '4', '5', …\. Call "
        r"constrain\(model\.get_submodule\('0'\), 'weight', …\)",
    ),
    (
        "module",
        lambda: constrain(nn.TransformerEncoderLayer(4, 2), "self_attn", Sphere()),
        AttributeError,
        r"is a module: call constrain\(model\.self_attn, 'in_proj_weight', …\)",
    ),
    (
        "None",
        lambda: constrain(nn.Linear(2, 2, bias=False), "bias", Sphere()),
        AttributeError,
        "'bias' of Linear is None: the module was made without it",
    ),
    (
        "buffer",
        lambda: constrain(nn.BatchNorm1d(2), "running_mean", Sphere()),
        AttributeError,
        r"is a buffer, which no optimizer steps; make it an nn\.Parameter",
    ),
    (
        "parametrized",
        lambda: constrain(nn.utils.parametrizations.orthogonal(linear()), "weight", Stiefel()),
        AttributeError,
        "from_parametrized turns it.*remove_parametrizations",
    ),
    (
        "weight_norm",
        lambda: constrain(nn.utils.weight_norm(linear()), "weight", Stiefel()),
        AttributeError,
        r"WeightNorm of torch\.nn\.utils\.weight_norm.*from_parametrized",
    ),
    (
        "pruned",
        lambda: constrain(prune.identity(linear(), "weight"), "weight", Stiefel()),
        AttributeError,
        r"Identity of torch\.nn\.utils\.prune.*from_parametrized",
    ),
    (
        "exchanged arguments",
        lambda: ManifoldParameter(Stiefel(), torch.randn(5, 3)),
        TypeError,
        r"^ManifoldParameter takes the value first, .*ManifoldParameter\(tensor, Stiefel\(\)\)",
    ),
    (
        "a tensor for a manifold",
        lambda: constrain(linear(), "weight", torch.eye(8)),
        TypeError,
        r"got a tensor of shape \(8, 8\)\. ?$",
    ),
    (
        "a path to release",
        lambda: unconstrain(nn.Sequential(constrain(linear(), "weight", Stiefel())), "0.weight"),
        ValueError,
        r"unconstrain\(model\.get_submodule\('0'\), 'weight'\)",
    ),
    (
        "a container to release",
        lambda: unconstrain(nn.Sequential(constrain(linear(), "weight", Stiefel())), "weight"),
        ValueError,
        r"unconstrain\(model\.get_submodule\('0'\), 'weight'\)",
    ),
    # sizes
    (
        "Stiefel(n, p)",
        lambda: Stiefel(64, 32),
        TypeError,
        r"write Stiefel\(\); got Stiefel\(64, 32\)",
    ),
    (
        "Sphere(n)",
        lambda: ManifoldParameter(torch.ones(3, 10), Sphere(10)),
        ValueError,
        "has dimension 10; .*which dimensions make a point; sizes are those of the tensor",
    ),
    ("factors", lambda: Product(Stiefel(), Sphere()), TypeError, "a dict or a list of factors"),
    (
        "one block",
        lambda: Product([(Stiefel(), (8, 8))], dim=-2).check_shape((32, 8)),
        ValueError,
        r"needs size 64 along dimension -2; got a tensor of shape \(32, 8\)\..*"
        r"For 4 blocks of shape \(8, 8\) write \(Stiefel\(\), \(4, 8\)\), or "
        r"RowBlocks\(Stiefel\(\), 4\)",
    ),
    (
        "three blocks",
        lambda: Product([(Stiefel(), (8, 8))] * 3, dim=-2).check_shape((24, 8)),
        ValueError,
        r"divides dimension -2 alone.*Write \(8,\), \(8,\), \(8,\) for the shapes",
    ),
]


@pytest.mark.parametrize(
    ("attempt", "error", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_what_is_refused_says_what_to_write(attempt, error, message):
    with pytest.raises(error, match=message):
        attempt()


def test_a_wrong_shape_without_a_guess_gives_none():
    for factors, shape in (
        ([(Stiefel(), (8, 8))], (33, 8)),
        ([(Stiefel(), (8, 4))], (24, 8)),
        ([(Sphere(), 4), (Sphere(), 5)], (8, 3)),
    ):
        with pytest.raises(ValueError, match=r"needs size .* got a tensor of shape .*\)\.$"):
            Product(factors, dim=-2).check_shape(shape)


def test_manifold_of_none_is_none():
    assert manifold_of(nn.Linear(2, 2, bias=False).bias) is None


# --- names of other packages -----------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_a_name_of_another_package_says_ours(name):
    with pytest.raises(AttributeError) as refused:
        getattr(Sphere(), name)
    assert str(refused.value) == f"Sphere has no {name!r}; write {OURS[name]}."
    assert not hasattr(Sphere(), name)


def test_what_is_written_exists():
    """Each name that is followed by a parenthesis is a method, or known elsewhere."""
    import re

    others = {"repr", "torch.zeros_like", "torch.allclose", "check_shape", "split", "join"}
    for ours in OURS.values():
        for name in re.findall(r"([\w.]+)\(", ours):
            assert name in others or hasattr(Manifold, name), name
    assert hasattr(Product, "split")
    assert hasattr(Product, "join")


def test_geoopts_names_that_a_user_of_it_calls_are_known():
    theirs = {n for n in dir(geoopt.manifolds.base.Manifold) if not n.startswith("_")}
    for name in theirs - set(dir(nn.Module)) - set(dir(Manifold)) - {"reversible"}:
        assert advice_for(name), name


@pytest.mark.parametrize("name", ["to", "train", "parameters", "state_dict", "forward"])
def test_it_is_no_module(name):
    with pytest.raises(AttributeError, match=r"no nn\.Module.*riemopt\.constrain\(module"):
        getattr(Stiefel(), name)


def test_it_is_no_parametrization():
    with pytest.raises(AttributeError, match=r"riemopt\.constrain\(module, name, manifold\)"):
        nn.utils.parametrize.register_parametrization(linear(), "weight", Stiefel())


@pytest.mark.parametrize("case", CASES, ids=[str(case.manifold) for case in CASES])
def test_other_attributes_are_as_before(case):
    """Python's own words, those of a property, and what copies and pickles look for."""
    manifold = case.manifold
    with pytest.raises(AttributeError, match="has no attribute 'anything'"):
        manifold.anything  # noqa: B018
    assert copy.copy(manifold) == copy.deepcopy(manifold) == manifold
    assert getattr(manifold, "__setstate__", None) is None
    if not isinstance(getattr(manifold, "base", manifold), LevelSet):
        assert pickle.loads(pickle.dumps(manifold)) == manifold


def test_the_error_of_a_property_is_kept():
    with pytest.raises(AttributeError, match="takes all dimensions of the tensor"):
        Sphere(dim=None).event_ndim  # noqa: B018


# --- weights that hooks compute --------------------------------------------------------------


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_by_hooks_is_converted(dim):
    torch.manual_seed(0)
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3), dim=dim), nn.Tanh())
    x, kept = torch.randn(5, 4), (model[0].weight_g, model[0].weight_v)
    before = model(x).detach()
    report = from_parametrized(model)
    name = "0.parametrizations.weight.original1"
    assert report.left == {}
    assert list(report.done) == [name]
    torch.testing.assert_close(model(x).detach(), before)
    maps = model[0].parametrizations.weight
    assert isinstance(maps[0], ScaledDirection)
    assert (maps.original0, maps.original1) == kept
    assert not model[0]._forward_pre_hooks
    assert not hasattr(model[0], "weight_g")
    optimizer = RiemannianAdam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    assert [c.name for c in constraints(model)] == [name]
    assert all(c.satisfied for c in constraints(model))
    assert not torch.equal(model(x), before)
    assert list(to_parametrized(model).done) == [name]
    copy.deepcopy(model)


def test_weight_norm_of_a_recurrent_layer():
    torch.manual_seed(0)
    lstm = nn.utils.weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    x = torch.randn(2, 1, 3)
    before = lstm(x)[0].detach()
    assert len(from_parametrized(lstm).done) == 1
    torch.testing.assert_close(lstm(x)[0].detach(), before)
    optimizer = RiemannianSGD(lstm.parameters(), lr=0.1)
    lstm(x)[0].sum().backward()
    assert lstm.parametrizations.weight_hh_l0.original1.grad is not None
    optimizer.step()
    assert constraints(lstm)[0].satisfied
    assert not torch.equal(lstm(x)[0], before)


def test_pruned_weights_keep_their_zeros():
    torch.manual_seed(0)
    layer = prune.l1_unstructured(linear(), "weight", amount=5)
    prune.random_unstructured(layer, "bias", amount=1)
    x, weight, mask = torch.randn(5, 4), layer.weight_orig, layer.weight_mask != 0
    before = layer(x).detach()
    report = from_parametrized(layer)
    assert report.done["weight"] == Sparsity(mask)
    assert set(report.done) == {"weight", "bias"}
    assert torch.equal(layer(x), before)
    assert layer.weight is weight
    assert not prune.is_pruned(layer)
    optimizer = RiemannianAdam(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()
    assert torch.equal(layer.weight != 0, mask)


def test_checkpoints_of_hooks_are_converted():
    old = nn.utils.weight_norm(linear())
    twin = nn.utils.weight_norm(linear())
    state = convert_state_dict(old.state_dict(), twin, to="constrained")
    assert set(state) == {
        "bias",
        "parametrizations.weight.original0",
        "parametrizations.weight.original1",
    }
    from_parametrized(twin)
    twin.load_state_dict(state)
    x = torch.randn(2, 4)
    torch.testing.assert_close(twin(x), old(x))


def test_hooks_that_are_left_say_why_and_change_nothing():
    def ties():
        layer = nn.utils.weight_norm(linear())
        layer.other = layer.weight_v
        return layer

    def constrained():
        layer = nn.utils.weight_norm(linear())
        constrain(layer, "weight_v", Sphere())
        return layer

    def not_finite():
        layer = nn.utils.weight_norm(linear())
        with torch.no_grad():
            layer.weight_v[0] = 0
        return layer

    for make, message in (
        (lambda: nn.utils.spectral_norm(linear()), "remove_spectral_norm"),
        (ties, "tied to other"),
        (constrained, r"weight_v is constrained to Sphere\(\) already"),
        (not_finite, "not finite"),
        (lambda: nn.utils.weight_norm(nn.Linear(1, 3)), "dimension 0"),
        (lambda: prune.random_unstructured(linear(), "weight", amount=16), "entry that is True"),
    ):
        layer = make()
        before, hooks = copy.deepcopy(layer.state_dict()), dict(layer._forward_pre_hooks)
        report = from_parametrized(layer)
        assert report.done == {}
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(report.left["weight"])
        assert str(report) != "nothing to do"
        assert dict(layer._forward_pre_hooks) == hooks
        for key, value in layer.state_dict().items():
            torch.testing.assert_close(value, before[key], equal_nan=True, atol=0, rtol=0)


# --- blocks of rows --------------------------------------------------------------------------


def test_row_blocks_are_views_of_the_weight():
    x = torch.randn(2, 12, 3)
    blocks = RowBlocks(Stiefel(), 4).product.split(x)[0]
    assert blocks.shape == (2, 4, 3, 3)
    assert blocks.data_ptr() == x.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_row_blocks_are_what_a_batch_of_blocks_is(dtype):
    """Steps of (4H, H) are those of four H×H."""
    manifold, base = RowBlocks(Stiefel(), 4), Stiefel()
    x = manifold.random_point(12, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    together = nn.Module()
    together.w = ManifoldParameter(x, manifold)
    apart = nn.Module()
    apart.w = ManifoldParameter(x.reshape(4, 3, 3), base)
    optimizers = [RiemannianSGD(m.parameters(), lr=0.1, momentum=0.9) for m in (together, apart)]
    for seed in range(3):
        g = torch.randn(12, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        together.w.grad, apart.w.grad = g, g.reshape(4, 3, 3)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(together.w.detach(), apart.w.detach().reshape(12, 3))
    assert constraints(together)[0].satisfied


LAYERS = [
    (nn.LSTM(3, 8), "weight_hh_l0", RowBlocks(Stiefel(), 4), 8),
    (nn.GRU(3, 8), "weight_hh_l0", RowBlocks(Stiefel(), 3), 8),
    (nn.MultiheadAttention(8, 2), "in_proj_weight", RowBlocks(Stiefel(), 3), 8),
    (nn.MultiheadAttention(8, 2), "in_proj_weight", RowBlocks(Stiefel(), 6), 4),
    (nn.Conv2d(8, 6, 3, groups=2), "weight", RowBlocks(Flattened(Stiefel()), 2, dim=-4), 3),
]


@pytest.mark.parametrize(("layer", "name", "manifold", "rows"), LAYERS, ids=lambda a: str(a))
def test_gates_heads_and_groups(layer, name, manifold, rows):
    layer = constrain(copy.deepcopy(layer), name, manifold)
    weight = getattr(layer, name)
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    RiemannianAdam([weight], lr=0.1).step()
    for block in weight.detach().flatten(1).split(rows):
        torch.testing.assert_close(block @ block.mT, torch.eye(rows), atol=1e-5, rtol=0)


def test_blocks_that_are_cut_over_processes_are_refused():
    layer = constrain(nn.LSTM(3, 8), "weight_hh_l0", RowBlocks(Stiefel(), 4))
    with pytest.raises(NotImplementedError, match=r"RowBlocks\(Stiefel\(\), 4\).*whole on each"):
        shard_placement(layer.weight_hh_l0)


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (lambda: RowBlocks(Stiefel, 4), TypeError, r"write Stiefel\(\)"),
        (lambda: RowBlocks(4, Stiefel()), TypeError, "RowBlocks: a manifold.*got 4"),
        (lambda: RowBlocks(Stiefel(), 2.0), TypeError, "number of blocks.*got 2.0"),
        (lambda: RowBlocks(Stiefel(), 0), ValueError, "1 or more; got 0"),
        (lambda: RowBlocks(Sphere(), 2, dim=-1), ValueError, "dim=-2 or less; got dim=-1"),
        (
            lambda: RowBlocks(Stiefel(), 4).check_shape((10, 3)),
            ValueError,
            r"4 equal blocks along dimension -2; got.*\(10, 3\)",
        ),
        (lambda: RowBlocks(Stiefel(), 4).check_shape((4,)), ValueError, "4 equal blocks"),
        (lambda: RowBlocks(Stiefel(), 4).check_shape((0, 3)), ValueError, "4 equal blocks"),
        (
            lambda: RowBlocks(Symmetric(), 4).check_shape((8, 3)),
            ValueError,
            r"RowBlocks\(Symmetric\(\), 4\) on.*\(8, 3\).*square.*\(4, 2, 3\)",
        ),
    ],
)
def test_blocks_that_do_not_fit(attempt, error, message):
    with pytest.raises(error, match=message):
        attempt()


def test_a_part_of_a_product_may_be_what_is_left():
    manifold = Product([(Stiefel(), (2, 3)), (Sphere(), -1)], dim=-2)
    parts = manifold.split(torch.randn(5, 10, 3))
    assert [tuple(p.shape) for p in parts] == [(5, 2, 3, 3), (5, 4, 3)]
    assert torch.equal(
        manifold.join(parts).view(5, 10, 3), torch.cat([p.flatten(1, -2) for p in parts], 1)
    )
    with pytest.raises(ValueError, match="size 6 \\+ a multiple of 1 along"):
        manifold.check_shape((5, 3))
    with pytest.raises(ValueError, match="Only one number"):
        Product([(Sphere(), -1), (Stiefel(), (-1, 3))])
    with pytest.raises(ValueError, match=r"\(\*batch, 2, 3, ·\)"):
        manifold.join([torch.ones(4, 3, 3), torch.ones(4, 3)])

"""Sparse gradients: the rows that they have are stepped, and nothing else.

What is compared with: a step of the same weight with the same gradient made dense; torch's own
`SparseAdam` and `SGD`, where a manifold constrains nothing.
"""

import copy
import io

import geoopt
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import riemopt
from riemopt import (
    ManifoldParameter,
    RiemannianAdagrad,
    RiemannianAdam,
    RiemannianSGD,
    RiemannianSparseAdam,
    riemannian,
)
from riemopt.interop.geoopt import from_geoopt
from riemopt.manifolds import Flattened, Sphere, Stiefel
from tests.riemannian_cases import noise
from tests.test_state_edits import Free

BALL = from_geoopt(geoopt.PoincareBall())
MANIFOLDS = {
    "sphere": (Sphere(), (12, 4)),
    "radius": (Sphere(radius=3.0), (12, 4)),
    "ball": (BALL, (12, 4)),
    "heads": (Sphere(), (12, 2, 4)),
    "matrices": (Stiefel(), (12, 4, 2)),
    "kernels": (Flattened(Stiefel(), event_ndim=3), (12, 2, 3, 1)),
}
SGD_OPTIONS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "maximize": {"maximize": True, "momentum": 0.5},
    "one by one": {"foreach": False},
    "foreach": {"foreach": True, "momentum": 0.9},
    "tensor lr": {"lr": torch.tensor(0.1)},
}
LAZY = {
    "SparseAdam": (RiemannianSparseAdam, {"lr": 0.05}),
    "Adagrad": (RiemannianAdagrad, {"lr": 0.05, "initial_accumulator_value": 0.1}),
    "SGD": (RiemannianSGD, {"lr": 0.1}),
}
each_manifold = pytest.mark.parametrize("name", MANIFOLDS)
each_lazy = pytest.mark.parametrize("cls", LAZY)


def _point(name, seed=0, dtype=torch.float64):
    manifold, shape = MANIFOLDS[name]
    x = noise(shape, seed, torch.float64) * (0.2 if name == "ball" else 1)
    return manifold, manifold.project(x).to(dtype)


def _sparse(shape, rows, seed, dtype=torch.float64):
    """A hybrid gradient, in which a row may stand twice."""
    values = noise((len(rows), *shape[1:]), seed, torch.float64).to(dtype)
    indices = torch.tensor([rows], dtype=torch.int64)
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=True)


def _give(p, rows, seed, dense=False):
    g = _sparse(p.shape, rows, seed, p.dtype)
    p.grad = g.to_dense() if dense else g


# --- SGD -------------------------------------------------------------------------------------


@each_manifold
@pytest.mark.parametrize("options", SGD_OPTIONS)
def test_sgd_is_the_step_of_the_dense_gradient(name, options):
    manifold, x = _point(name)
    p, q = nn.Parameter(x.clone()), nn.Parameter(x.clone())
    options = {"lr": 0.1, **SGD_OPTIONS[options]}
    sparse, dense = (
        RiemannianSGD([{"params": [a], "manifold": manifold}], **options) for a in (p, q)
    )
    for i, rows in enumerate([[3, 5, 3, 8], [5], [1, 3], [5, 5]]):
        _give(p, rows, i)
        _give(q, rows, i, dense=True)
        sparse.step()
        dense.step()
        torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-13)
    untouched = [0, 2, 4, 6, 7, 9, 10, 11]
    assert torch.equal(p.detach()[untouched], x[untouched])
    assert not torch.equal(p.detach()[[1, 3, 5, 8]], x[[1, 3, 5, 8]])
    if options.get("momentum"):
        buffer = sparse.state[p]["momentum_buffer"]
        assert buffer.is_sparse
        assert buffer.coalesce().indices().tolist() == [[1, 3, 5, 8]]
        torch.testing.assert_close(
            buffer.to_dense(), dense.state[q]["momentum_buffer"], rtol=0, atol=1e-12
        )
        saved = sparse.state_dict()
        torch.optim.SGD([nn.Parameter(x.clone())], **options).load_state_dict(saved)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}])
def test_gradients_that_are_sparse_and_dense_by_turns(options):
    manifold, x = _point("sphere")
    p, q = nn.Parameter(x.clone()), nn.Parameter(x.clone())
    one, other = (
        RiemannianSGD([{"params": [a], "manifold": manifold}], lr=0.1, **options) for a in (p, q)
    )
    for i, dense in enumerate([False, True, False, False, True]):
        _give(p, [3, 5, 3], i, dense)
        _give(q, [3, 5, 3], i, dense=True)
        one.step()
        other.step()
    torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-13)


# --- the lazy ones ---------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"maximize": True}, {"betas": (0.5, 0.9), "eps": 1e-3}])
@pytest.mark.parametrize("cls", ["SparseAdam", "Adagrad"])
def test_where_nothing_is_constrained_the_step_is_torchs(cls, options):
    ours, base = LAZY[cls][0], LAZY[cls][0].base
    if cls == "Adagrad" and "betas" in options:
        options = {"lr_decay": 0.1}
    x = noise((12, 2, 3), 0, torch.float64)
    p, q = nn.Parameter(x.clone()), nn.Parameter(x.clone())
    one = ours([{"params": [p], "manifold": Free()}], **{**LAZY[cls][1], **options})
    other = base([q], **{**LAZY[cls][1], **options})
    for i, rows in enumerate([[3, 5, 3], [], [5], [1, 8]]):
        _give(p, rows, i)
        _give(q, rows, i)
        one.step()
        other.step()
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-14, atol=1e-14)
        assert one.state[p].keys() == other.state[q].keys()
        for key, value in other.state[q].items():
            torch.testing.assert_close(one.state[p][key], value, rtol=1e-14, atol=1e-14)


@each_manifold
@each_lazy
def test_rows_are_stepped_as_a_weight_of_these_rows_and_no_other_bit_changes(cls, name):
    """With each row in each step: the reference is torch's step on the rows, projected, by hand."""
    make, options = LAZY[cls]
    manifold, x = _point(name)
    rows = [2, 3, 7]
    p, q = nn.Parameter(x.clone()), nn.Parameter(x[rows].clone())
    whole = make([{"params": [p], "manifold": manifold}], **options)
    part = make([{"params": [q], "manifold": manifold}], **options)
    for i in range(3):
        _give(p, [2, 7, 3, 7], i)
        values = p.grad.coalesce().values()
        q.grad = torch.sparse_coo_tensor([[0, 1, 2]], values, q.shape)
        whole.step()
        part.step()
    assert torch.equal(p.detach()[rows], q.detach())
    others = [i for i in range(12) if i not in rows]
    assert torch.equal(p.detach()[others], x[others])
    for key, value in whole.state[p].items():
        if isinstance(value, torch.Tensor) and value.shape == p.shape:
            assert torch.equal(value[rows], part.state[q][key])
            assert (value[others] == options.get("initial_accumulator_value", 0)).all()
    assert manifold.violation(p.detach()).max() < 1e-14
    assert not torch.equal(p.detach()[rows], x[rows])


def test_sparse_adam_on_a_sphere_against_a_reference_by_hand():
    x = Sphere().project(noise((12, 4), 0, torch.float64))
    p = ManifoldParameter(x, Sphere())
    optimizer = RiemannianSparseAdam([p], lr=0.05)
    m, v = torch.zeros_like(x), torch.zeros_like(x)
    for t, rows in enumerate([[3, 5, 3, 8], [5], [1, 3]], start=1):
        _give(p, rows, t)
        g = p.grad.coalesce()
        (r,), g = g.indices(), g.values()
        g = g - x[r] * (x[r] * g).sum(-1, keepdim=True)
        m[r] = 0.9 * m[r] + 0.1 * g
        v[r] = 0.999 * v[r] + 0.001 * g * g
        u = 0.05 * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t) * m[r] / (v[r].sqrt() + 1e-8)
        u = u - x[r] * (x[r] * u).sum(-1, keepdim=True)
        y = x[r] - u
        x = x.clone()
        x[r] = y / y.norm(dim=-1, keepdim=True)
        optimizer.step()
        torch.testing.assert_close(p.detach(), x, rtol=0, atol=1e-14)


def test_sparse_adam_is_the_riemannian_class_of_torchs_and_loads_its_checkpoints():
    assert (
        riemannian(torch.optim.SparseAdam) is RiemannianSparseAdam is riemopt.RiemannianSparseAdam
    )
    assert issubclass(RiemannianSparseAdam, torch.optim.SparseAdam)
    x = Sphere().project(noise((12, 4), 0, torch.float64))
    p, q, free = ManifoldParameter(x, Sphere()), nn.Parameter(x.clone()), nn.Parameter(x.clone())
    ours = RiemannianSparseAdam([p, free], lr=0.05)
    theirs = torch.optim.SparseAdam([q, nn.Parameter(x.clone())], lr=0.05)
    for i in range(2):
        _give(p, [1, 4, 4], i)
        _give(free, [1, 2], i)
        ours.step()
    file = io.BytesIO()
    torch.save(ours.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    theirs.load_state_dict(copy.deepcopy(saved))
    assert theirs.state[q]["step"] == 2
    again = RiemannianSparseAdam([copy.deepcopy(p), free], lr=0.05)
    again.load_state_dict(copy.deepcopy(theirs.state_dict()))
    r = again.param_groups[0]["params"][0]
    free.grad = None
    for a, optimizer in ((p, ours), (r, again)):
        _give(a, [4, 2], 5)
        optimizer.step()
    assert torch.equal(p, r)


# --- layers, loops, what surrounds a step ----------------------------------------------------


@each_lazy
@pytest.mark.parametrize("layer", ["embedding", "bag", "padding"])
def test_layers_train_and_stay_on_the_sphere(layer, cls):
    torch.manual_seed(0)
    make, options = LAZY[cls]
    one, two, free = (
        nn.EmbeddingBag(30, 4, sparse=True, mode="sum")
        if layer == "bag"
        else nn.Embedding(30, 4, sparse=True)
        for _ in range(3)
    )
    for module in (one, two):
        riemopt.constrain(module, "weight", Sphere())
    if layer == "padding":
        one.padding_idx = 3
    model = nn.ModuleList([one, two, free])
    optimizer = make(model.parameters(), **options)
    ids = torch.tensor([[1, 2, 3], [4, 5, 1]])
    target = torch.tensor([1.0, 0, 0, 0])
    before, losses = [m.weight.detach().clone() for m in model], []
    for _ in range(60):
        optimizer.zero_grad()
        loss = sum((m(ids) - target).square().mean() for m in model)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(c.satisfied for c in riemopt.constraints(model))
    touched = [1, 2, 4, 5] if layer == "padding" else [1, 2, 3, 4, 5]
    others = [i for i in range(30) if i not in touched]
    assert torch.equal(one.weight.detach()[others], before[0][others])
    assert not torch.equal(free.weight.detach()[1:3], before[2][1:3])


@each_lazy
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_weights_are_stepped_in_float32(cls, dtype):
    make, options = LAZY[cls]
    x = Sphere().project(noise((12, 4), 0)).to(dtype)
    p, q = nn.Parameter(x.clone()), nn.Parameter(x.float())
    half, single = (make([{"params": [a], "manifold": Sphere()}], **options) for a in (p, q))
    for i in range(3):
        g = _sparse(p.shape, [1, 5, 1], i, torch.float32).to(dtype)
        p.grad, q.grad = g, g.float()
        half.step()
        single.step()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(p.detach().float(), q.detach(), rtol=0, atol=4 * eps)
    for key, value in half.state[p].items():
        if isinstance(value, torch.Tensor) and value.ndim:
            assert value.dtype == torch.float32, key


@each_lazy
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_skipped_with_its_state(cls, bad):
    make, options = LAZY[cls]
    options = {**options, **({"momentum": 0.9} if cls == "SGD" else {})}
    p = ManifoldParameter(noise((12, 4), 0), Sphere())
    optimizer = make([p], **options)
    for i in range(3):
        _give(p, [1, 5, 1], i)
        if i != 1:
            p.grad._values()[1, 2] = bad
        before = p.detach().clone(), copy.deepcopy(dict(optimizer.state[p]))
        optimizer.step()
        if i != 1:
            assert torch.equal(p, before[0])
            for key, value in before[1].items():
                if isinstance(value, torch.Tensor):
                    a, b = (t.to_dense() for t in (optimizer.state[p][key], value))
                    assert torch.equal(a, b), key
        else:
            assert not torch.equal(p, before[0])
    assert optimizer.skipped_steps == 2


@each_lazy
def test_under_a_grad_scaler(cls):
    make, options = LAZY[cls]
    torch.manual_seed(0)
    start = riemopt.constrain(nn.Embedding(12, 4, sparse=True), "weight", Sphere())
    models = start, copy.deepcopy(start)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizers = [make(m.parameters(), **options) for m in models]
    for i in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            loss = (model(torch.tensor([1, 3, 1])) * noise((3, 4), i)).sum()
            infinite = i == 1
            if model is start:
                (scaler.scale(loss) * (float("inf") if infinite else 1.0)).backward()
                scaler.step(optimizer)
                scaler.update()
            elif not infinite:
                loss.backward()
                optimizer.step()
    torch.testing.assert_close(models[0].weight, models[1].weight, rtol=1e-6, atol=1e-7)
    assert optimizers[0].skipped_steps == 0  # the scaler's own decision


@each_lazy
def test_hybrid_gradients_with_two_sparse_dimensions(cls):
    """Points are vectors; two leading dimensions are sparse."""
    make, options = LAZY[cls]
    x = Sphere().project(noise((5, 6, 4), 0, torch.float64))
    p, q = nn.Parameter(x.clone()), nn.Parameter(x.reshape(30, 4).clone())
    one, other = (make([{"params": [a], "manifold": Sphere()}], **options) for a in (p, q))
    for i in range(2):
        values = noise((3, 4), i, torch.float64)
        p.grad = torch.sparse_coo_tensor([[0, 4, 0], [1, 5, 1]], values, p.shape)
        q.grad = torch.sparse_coo_tensor([[1, 29, 1]], values, q.shape)
        one.step()
        other.step()
    torch.testing.assert_close(p.detach().reshape(30, 4), q.detach(), rtol=0, atol=1e-15)


@each_lazy
def test_an_empty_gradient_moves_nothing(cls):
    make, options = LAZY[cls]
    p = ManifoldParameter(noise((12, 4), 0), Sphere())
    before = p.detach().clone()
    optimizer = make([p], **options)
    _give(p, [], 0)
    optimizer.step()
    assert torch.equal(p, before)
    _give(p, [1], 0)
    optimizer.step()
    assert torch.isfinite(p).all()
    assert not torch.equal(p, before)


@each_lazy
def test_weights_that_are_not_contiguous(cls):
    make, options = LAZY[cls]
    x = Sphere().project(noise((12, 4), 0))
    p, q = nn.Parameter(x.clone()), nn.Parameter(x.mT.contiguous().mT)
    for a in (p, q):
        optimizer = make([{"params": [a], "manifold": Sphere()}], **options)
        for i in range(2):
            _give(a, [3, 1, 3], i)
            optimizer.step()
    torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-6)


@each_lazy
def test_a_copied_optimizer_and_a_resumed_one_go_on(cls):
    make, options = LAZY[cls]
    options = {**options, **({"momentum": 0.9} if cls == "SGD" else {})}
    p = ManifoldParameter(noise((12, 4), 0), Sphere())
    optimizer = make([p], **options)
    for i in range(2):
        _give(p, [3, 1, 3], i)
        optimizer.step()
    twin = copy.deepcopy(optimizer)
    q = ManifoldParameter(p.detach(), Sphere())
    with torch.no_grad():
        q.copy_(p)
    resumed = make([q], **options)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for o in (optimizer, twin, resumed):
        _give(o.param_groups[0]["params"][0], [1, 2], 9)
        o.step()
        assert torch.equal(o.param_groups[0]["params"][0], p)


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("manifold", "shape"),
    [
        (Sphere(dim=0), (12, 4)),
        (Sphere(dim=None), (12, 4)),
        (Stiefel(), (12, 4)),
        (Sphere(dim=(0, 1)), (12, 3, 4)),
        (Flattened(Stiefel(), event_ndim=3), (12, 2, 4)),
    ],
    ids=str,
)
@each_lazy
def test_points_that_are_no_rows_are_refused(manifold, shape, cls):
    make, options = LAZY[cls]
    p, q = ManifoldParameter(noise(shape, 0), manifold), nn.Parameter(torch.ones(3, 2))
    before = p.detach().clone()
    optimizer = make([q, p], **options)
    _give(p, [1, 2], 0)
    _give(q, [1], 0)
    with pytest.raises(RuntimeError, match=r"rows are no points.*first 1 of .*sparse=False"):
        optimizer.step()
    assert torch.equal(p, before)
    assert torch.equal(q, torch.ones(3, 2))


def test_entries_are_no_points():
    p = ManifoldParameter(noise((12, 4), 0), Sphere())
    p.grad = noise((12, 4), 1).to_sparse()
    with pytest.raises(RuntimeError, match=r"first 2 of 2 dimensions"):
        RiemannianSGD([p], lr=0.1).step()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"weight_decay": 0.1}, "weight_decay=0.1.*all rows"),
        ({"fused": True}, "fused=True"),
        ({"differentiable": True}, "differentiable=True"),
    ],
)
@pytest.mark.parametrize("cls", [RiemannianSGD, RiemannianAdagrad])
def test_options_that_torch_has_not_for_sparse_gradients_are_refused(cls, options, match):
    p = ManifoldParameter(noise((12, 4), 0), Sphere())
    before = p.detach().clone()
    optimizer = cls([p], lr=0.1, **options)
    _give(p, [1, 2], 0)
    with pytest.raises(RuntimeError, match=match):
        optimizer.step()
    assert torch.equal(p, before)


@pytest.mark.parametrize("second_moment", ["tangent", "carried", "point"])
def test_adam_says_what_to_use(second_moment):
    p = ManifoldParameter(noise((12, 4), 0), Sphere())
    optimizer = RiemannianAdam([p], second_moment=second_moment)
    _give(p, [1, 2], 0)
    with pytest.raises(RuntimeError, match=r"RiemannianAdam.*consider RiemannianSparseAdam"):
        optimizer.step()
    other = riemannian(torch.optim.RMSprop)([p])
    with pytest.raises(RuntimeError, match="consider RiemannianSparseAdam"):
        other.step()


def test_sparse_adam_refuses_a_dense_gradient_before_anything_moves():
    p, q = (ManifoldParameter(noise((12, 4), i), Sphere()) for i in range(2))
    optimizer = RiemannianSparseAdam([p, q])
    _give(p, [1, 2], 0)
    _give(q, [1, 2], 0, dense=True)
    before = p.detach().clone()
    with pytest.raises(RuntimeError, match=r"does not support dense gradients.*RiemannianAdam"):
        optimizer.step()
    assert torch.equal(p, before)
    assert not any(optimizer.state[a] for a in (p, q))


def test_a_gradient_that_becomes_sparse_along_more_dimensions():
    p = ManifoldParameter(noise((5, 6, 4), 0), Sphere())
    optimizer = RiemannianSGD([p], lr=0.1, momentum=0.9)
    _give(p, [1, 2], 0)
    optimizer.step()
    before = p.detach().clone()
    p.grad = torch.sparse_coo_tensor([[0], [1]], noise((1, 4), 1), p.shape)
    with pytest.raises(RuntimeError, match="'momentum_buffer' along 1"):
        optimizer.step()
    p.grad = noise(p.shape, 1).to_sparse()
    with pytest.raises(RuntimeError, match="rows are no points"):
        optimizer.step()
    assert torch.equal(p, before)


# --- what a step costs -----------------------------------------------------------------------


class Sizes(TorchDispatchMode):
    """The most entries of a new tensor, and which operations read or write a large one."""

    def __init__(self, large):
        super().__init__()
        self.large, self.made, self.touching = large, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [a for a in tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
        result = func(*args, **(kwargs or {}))
        if any(a.numel() >= self.large and not a.is_sparse for a in given):
            self.touching.add(func._schema.name)
        known = set(map(id, given))
        for a in tree_leaves(result):
            if isinstance(a, torch.Tensor) and not (a.is_sparse or id(a) in known or a._is_view()):
                self.made = max(self.made, a.numel())
        return result


@each_lazy
@pytest.mark.parametrize("manifold", [Sphere(), BALL], ids=["sphere", "ball"])
def test_no_operation_of_a_step_takes_in_the_whole_weight(cls, manifold):
    make, options = LAZY[cls]
    options = {**options, **({"momentum": 0.9} if cls == "SGD" else {})}
    p = nn.Parameter(manifold.project(0.2 * noise((5000, 5), 0)))
    optimizer = make([{"params": [p], "manifold": manifold}], **options)
    for i in range(2):
        _give(p, [*range(20), 1, 2], i)
        optimizer.step()
    _give(p, [*range(30, 50), 1, 2], 3)
    with Sizes(p.numel()) as sizes:
        optimizer.step()
    assert 0 < sizes.made <= 2 * 42 * 5
    assert sizes.touching <= {"aten::index", "aten::index_put_", "aten::detach"}
    with Sizes(p.numel()) as sizes:
        p.square().sum()
    assert sizes.made == p.numel()
    assert "aten::pow" in sizes.touching


# --- tangent_grad=True -----------------------------------------------------------------------


def test_tangent_gradients_of_an_embedding():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        one, other = (nn.Embedding(12, 4, sparse=True, dtype=dtype) for _ in range(2))
        riemopt.constrain(one, "weight", Sphere(), tangent_grad=True)
        other.load_state_dict(one.state_dict())
        for i in range(2):  # accumulated over two passes
            for module in (one, other):
                (module(torch.tensor([3, 5, 3])) * noise((3, 4), i).to(dtype)).sum().backward()
        g, raw = one.weight.grad, other.weight.grad.to_dense()
        assert g.is_sparse
        assert g.dtype == dtype
        assert g.coalesce().indices().tolist() == [[3, 5]]
        x = other.weight.detach()
        expected = Sphere().proj_tangent(x.double(), raw.double())
        torch.testing.assert_close(
            g.to_dense().double(), expected, rtol=0, atol=20 * torch.finfo(dtype).eps
        )
        optimizer = RiemannianSGD(one.parameters(), lr=0.1)
        optimizer.step()
        assert all(c.satisfied for c in riemopt.constraints(one))


def test_tangent_gradients_where_rows_are_no_points_are_refused_with_the_reason():
    embedding = nn.Embedding(12, 4, sparse=True)
    riemopt.constrain(embedding, "weight", Stiefel(), tangent_grad=True)
    with pytest.raises(RuntimeError, match=r"Stiefel\(\).*rows are no points.*sparse=False"):
        embedding(torch.tensor([1])).sum().backward()

"""What a step does to a constrained parameter."""

import copy
import math

import pytest
import torch
from torch import nn

import riemopt
from riemopt import ManifoldParameter, RiemannianAdam, RiemannianAdamW, RiemannianSGD, linalg
from riemopt._torch_versions import ALL_PRODUCTS
from riemopt.linalg import polar_adaptive
from riemopt.manifolds import (
    Circulant,
    FixedSum,
    FlatSubspace,
    Flattened,
    Lorentz,
    PoincareBall,
    Product,
    SkewSymmetric,
    Sphere,
    Stiefel,
    Symmetric,
    Toeplitz,
)
from tests import needs
from tests.manifold_cases import PACKED, POSE, chequered, triangle, two_equations

POINTS = {
    "sphere": (Sphere(), (4, 6)),
    "sphere-columns": (Sphere(dim=0), (4, 6)),
    "sphere-whole": (Sphere(dim=None, radius=2.0), (3, 4)),
    "stiefel": (Stiefel(), (6, 3)),
    "stiefel-wide": (Stiefel(), (3, 6)),
    "stiefel-batch": (Stiefel(), (5, 4, 2)),
    "stiefel-canonical": (Stiefel(metric="canonical"), (6, 3)),
    "stiefel-qr": (Stiefel(retraction="qr"), (6, 3)),
    "stiefel-cayley": (Stiefel(retraction="cayley"), (6, 3)),
    "symmetric": (Symmetric(), (4, 4)),
    "skew": (SkewSymmetric(), (4, 4)),
    "kernel": (Flattened(Stiefel()), (6, 2, 3, 3)),
    "affine": (two_equations(), (3, 5)),
    "fixed-sum": (FixedSum(dim=0, total=2.0), (4, 3)),
    "sparsity": (triangle(), (4, 4)),
    "toeplitz": (Toeplitz(), (5, 3)),
    "circulant": (Circulant(), (2, 4, 4)),
    "product": (POSE, (3, 12)),
    "product-canonical": (PACKED, (18,)),
    "product-blocks": (Product([(Stiefel(), (3, 2))], dim=-2), (6, 4)),
}
OPTIMIZERS = {
    "sgd": lambda p, **o: RiemannianSGD(p, lr=0.1, **o),
    "momentum": lambda p, **o: RiemannianSGD(p, lr=0.1, momentum=0.9, dampening=0.2, **o),
    "nesterov": lambda p, **o: RiemannianSGD(p, lr=0.1, momentum=0.9, nesterov=True, **o),
    "adam": lambda p, **o: RiemannianAdam(p, lr=0.1, **o),
    "point": lambda p, **o: RiemannianAdam(p, lr=0.1, second_moment="point", **o),
    "amsgrad": lambda p, **o: RiemannianAdam(p, lr=0.1, amsgrad=True, second_moment="point", **o),
    "adamw": lambda p, **o: RiemannianAdamW(p, lr=0.1, weight_decay=0.1, **o),
    "carried": lambda p, **o: RiemannianAdam(p, lr=0.1, second_moment="carried", **o),
}
every_point = pytest.mark.parametrize("point", POINTS)
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS)
point_and_optimizer = chequered("point, make", POINTS, OPTIMIZERS)


def _parameter(point, dtype=torch.float64, seed=0):
    manifold, shape = POINTS[point]
    generator = torch.Generator().manual_seed(seed)
    return ManifoldParameter(torch.randn(shape, generator=generator, dtype=dtype), manifold)


def _noise(p, seed):
    # Away from the seeds of `_parameter`: the matrix that a point is the polar factor of is normal.
    generator = torch.Generator().manual_seed(10**6 + seed)
    return torch.randn(p.shape, generator=generator, dtype=p.dtype)


def _run(optimizer, params, steps=6, start=0):
    for i in range(start, start + steps):
        for j, p in enumerate(params):
            p.grad = _noise(p, seed=1000 * i + j)
        optimizer.step()


def _satisfies(p, units=10):
    side = max(p.shape)
    # Solutions of equations may be of any size, and are off by a rounding error of it.
    flat = isinstance(p.manifold, FlatSubspace) and not p.manifold.allows_elementwise_scaling
    size = float(p.detach().abs().max()) if flat else 1.0
    bound = units * torch.finfo(p.dtype).eps * side**0.5 * max(1.0, size)
    return p.manifold.violation(p.detach()).max() <= bound


@point_and_optimizer
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64], ids=str
)
def test_stays_on_the_surface_and_moves(point, make, dtype):
    p = _parameter(point, dtype)
    start = p.detach().clone()
    optimizer = OPTIMIZERS[make]([p])
    _run(optimizer, [p])
    assert _satisfies(p)
    assert (p - start).abs().max() > 0.05
    assert optimizer.skipped_steps == 0


# --- the algorithms against an independent, unbatched restatement of the formulas -------------


def _reference_sgd(manifold, x, grads, lr, mu, tau, nesterov):
    m = None
    for g in grads:
        rgrad = manifold.egrad2rgrad(x, g)
        m = rgrad if m is None else mu * manifold.transport(x, x, m) + (1 - tau) * rgrad
        x = manifold.retract(x, -lr * (rgrad + mu * m if nesterov else m))
    return x


@every_point
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_textbook_algorithm(point, nesterov):
    p = _parameter(point)
    tau = 0 if nesterov else 0.3
    grads = [_noise(p, i) for i in range(5)]
    expected = _reference_sgd(p.manifold, p.detach(), grads, 0.1, 0.9, tau, nesterov)
    optimizer = RiemannianSGD([p], lr=0.1, momentum=0.9, dampening=tau, nesterov=nesterov)
    for g in grads:
        p.grad = g
        optimizer.step()
    torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-12)


def _reference_adam(manifold, x, grads, lr, beta1, beta2, eps, amsgrad):
    m, v, largest = torch.zeros_like(x), 0, 0
    for t, g in enumerate(grads, start=1):
        dims = manifold.event_dims(x.ndim)
        n = math.prod(x.shape[d] for d in dims)
        rgrad = manifold.egrad2rgrad(x, g)
        m = beta1 * manifold.transport(x, x, m) + (1 - beta1) * rgrad
        square = (
            rgrad**2
            if manifold.allows_elementwise_scaling
            else manifold.norm(x, rgrad, keepdim=True) ** 2 / n
        )
        v = beta2 * v + (1 - beta2) * square
        largest = torch.maximum(torch.as_tensor(largest), v) if amsgrad else v
        denominator = (largest / (1 - beta2**t)) ** 0.5 + eps
        x = manifold.retract(x, -lr * (m / (1 - beta1**t)) / denominator)
    return x


@every_point
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_with_a_moment_for_each_point_is_the_textbook_algorithm(point, amsgrad):
    p = _parameter(point)
    grads = [_noise(p, i) / (i + 1) for i in range(5)]
    expected = _reference_adam(p.manifold, p.detach(), grads, 0.1, 0.8, 0.95, 1e-3, amsgrad)
    options = {"betas": (0.8, 0.95), "eps": 1e-3, "amsgrad": amsgrad}
    optimizer = RiemannianAdam([p], lr=0.1, second_moment="point", **options)
    for g in grads:
        p.grad = g
        optimizer.step()
    torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-12)


def test_adam_on_symmetric_matrices_is_torchs_adam():
    p = ManifoldParameter(torch.randn(5, 5, dtype=torch.float64), Symmetric())
    q = nn.Parameter(p.detach().clone())
    ours, theirs = (
        RiemannianAdam([p], lr=0.1, amsgrad=True),
        torch.optim.Adam([q], lr=0.1, amsgrad=True),
    )
    for i in range(5):
        g = _noise(p, i)
        p.grad, q.grad = g, (g + g.mT) / 2
        ours.step()
        theirs.step()
    torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("point", ["sphere-whole", "stiefel", "stiefel-wide", "kernel"])
def test_adams_step_is_as_long_as_torchs(point):
    p = _parameter(point)
    q = nn.Parameter(p.detach().clone())
    start = p.detach().clone()
    p.grad = q.grad = _noise(p, 3)
    RiemannianAdam([p], lr=1e-4, second_moment="point").step()
    torch.optim.Adam([q], lr=1e-4).step()
    moved, expected = (torch.dist(t.detach(), start).item() for t in (p, q))
    assert moved == pytest.approx(expected, rel=0.01)


def test_adam_on_stiefel_commutes_with_rotations_on_both_sides():
    p = _parameter("stiefel")
    u = Stiefel().random_point(6, 6, dtype=torch.float64)
    v = Stiefel().random_point(3, 3, dtype=torch.float64)
    q = ManifoldParameter(u @ p.detach() @ v, Stiefel())
    a, b = (RiemannianAdam([w], lr=0.1, second_moment="point") for w in (p, q))
    for i in range(5):
        p.grad = _noise(p, i)
        q.grad = u @ p.grad @ v
        a.step()
        b.step()
    torch.testing.assert_close(u @ p.detach() @ v, q.detach(), rtol=0, atol=1e-10)


# --- options ---------------------------------------------------------------------------------


@point_and_optimizer
def test_maximize_is_the_step_for_the_negative_gradient(point, make):
    p, q = _parameter(point), _parameter(point)
    a, b = OPTIMIZERS[make]([p], maximize=True), OPTIMIZERS[make]([q])
    for i in range(3):
        p.grad = _noise(p, i)
        q.grad = -p.grad
        a.step()
        b.step()
    torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("cls", [RiemannianSGD, RiemannianAdam, RiemannianAdamW])
@pytest.mark.parametrize("point", ["sphere", "stiefel", "kernel"])
def test_weight_decay_has_no_effect_where_the_norm_is_constant(cls, point):
    p, q = _parameter(point), _parameter(point)
    _run(cls([p], lr=0.1, weight_decay=0.5), [p])
    _run(cls([q], lr=0.1, weight_decay=0.0), [q])
    assert torch.equal(p, q)


@needs.adam_with_decoupled_decay
@pytest.mark.parametrize("decoupled", [False, True])
def test_weight_decay_on_a_linear_manifold_is_torchs(decoupled):
    p = ManifoldParameter(torch.randn(4, 4, dtype=torch.float64), Symmetric())
    q = nn.Parameter(p.detach().clone())
    options = {"lr": 0.1, "weight_decay": 0.3, "decoupled_weight_decay": decoupled}
    a, b = RiemannianAdam([p], **options), torch.optim.Adam([q], **options)
    for i in range(4):
        g = _noise(p, i)
        p.grad, q.grad = g, (g + g.mT) / 2
        a.step()
        b.step()
    torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-13)


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_stacked_equals_one_by_one(make, dtype):
    many = [_parameter(point, dtype, seed=s) for point in POINTS for s in range(3)]
    alone = copy.deepcopy(many)
    stacked = OPTIMIZERS[make](many)
    single = OPTIMIZERS[make](alone, foreach=False)
    many[4].grad = None
    for i in range(4):
        for j, (p, q) in enumerate(zip(many, alone, strict=True)):
            if i > 1 or j != 4:  # a gradient that arrives late
                p.grad = _noise(p, 10 * i + j)
                q.grad = p.grad.clone()
        stacked.step()
        single.step()
    for p, q in zip(many, alone, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "lr", [0.1, torch.tensor(0.1), torch.tensor([0.1])], ids=["float", "0d", "1d"]
)
@pytest.mark.parametrize("cls", [RiemannianSGD, RiemannianAdam])
def test_tensor_lr(cls, lr):
    p, q = _parameter("stiefel"), _parameter("stiefel")
    _run(cls([p], lr=lr), [p])
    _run(cls([q], lr=0.1), [q])
    torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-7)


def test_parameter_groups_have_their_own_options_and_manifold():
    p, q = nn.Parameter(torch.eye(5, 3)), nn.Parameter(torch.randn(4))
    optimizer = RiemannianAdam(
        [{"params": [p], "manifold": Stiefel(), "lr": 0.0}, {"params": [q]}], lr=0.1
    )
    before = p.detach().clone()
    _run(optimizer, [p, q])
    assert torch.equal(p, before)
    optimizer.param_groups[0]["lr"] = 0.1
    _run(optimizer, [p, q])
    assert not torch.equal(p, before)
    assert Stiefel().violation(p.detach()) < 1e-6
    assert "manifold" not in optimizer.param_groups[0]


def test_closure_runs_with_gradients_and_its_value_is_returned():
    p = _parameter("sphere")
    optimizer = RiemannianSGD([p], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (p * torch.arange(6.0)).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        first = optimizer.step(closure)
        assert optimizer.step(closure) < first


TALL = (Stiefel(), (4, 2))
KERNELS = [
    (Stiefel(), (3, 3)),
    (Stiefel(), (2, 3, 2)),
    (Sphere(), (2, 3)),
    (PoincareBall(), (2, 3)),
    (Lorentz(), (2, 3)),
]
DIFFERENTIABLE = [*((make, *TALL) for make in OPTIMIZERS), *(("point", *case) for case in KERNELS)]


@needs.differentiable_steps
@pytest.mark.parametrize(("make", "manifold", "shape"), DIFFERENTIABLE, ids=str)
def test_differentiable_through_two_steps(make, manifold, shape):
    def end(x, g1, g2, lr):
        p = x.clone()
        optimizer = OPTIMIZERS[make]([{"params": [p], "manifold": manifold}], differentiable=True)
        optimizer.param_groups[0]["lr"] = lr
        for g in (g1, g2):
            p.grad = g
            optimizer.step()
        return p

    x = manifold.random_point(*shape, dtype=torch.float64).requires_grad_()
    g1, g2 = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    lr = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    # x itself leaves the manifold under finite differences, so it is held fixed.
    assert torch.autograd.gradcheck(lambda *a: end(x.detach().requires_grad_(), *a), (g1, g2, lr))


# --- bad steps -------------------------------------------------------------------------------


@point_and_optimizer
def test_zero_gradient_or_zero_lr_changes_no_bit(point, make):
    for lr, scale in ((0.0, 1.0), (0.1, 0.0)):
        p = _parameter(point, torch.float32)
        before = p.detach().clone()
        optimizer = OPTIMIZERS[make]([p])
        optimizer.param_groups[0].update(lr=lr, weight_decay=0.0)
        for i in range(2):
            p.grad = scale * _noise(p, i)
            optimizer.step()
        assert torch.equal(p, before)


@point_and_optimizer
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_but_its_count(point, make, bad):
    p, q = _parameter(point, seed=1), _parameter(point, seed=2)
    plain = nn.Parameter(torch.ones(2))
    optimizer = OPTIMIZERS[make]([p, q, plain])
    _run(optimizer, [p, q, plain], steps=2)
    kept = copy.deepcopy((p.detach(), optimizer.state[p]))
    p.grad, q.grad, plain.grad = _noise(p, 7), _noise(q, 8), torch.tensor([math.nan, 1.0])
    p.grad.flatten()[1] = bad
    other = q.detach().clone()
    optimizer.step()
    assert torch.equal(p, kept[0])
    for key, value in kept[1].items():
        assert torch.equal(optimizer.state[p][key], value), key
    assert not torch.equal(q, other)
    assert plain[0].isnan()
    assert plain[1].isfinite()
    assert optimizer.skipped_steps == 1
    _run(optimizer, [p, q], steps=2)
    assert _satisfies(p)
    assert optimizer.skipped_steps == 1


@every_optimizer
def test_first_gradient_not_finite(make):
    p = _parameter("stiefel")
    optimizer = OPTIMIZERS[make]([p])
    p.grad = torch.full_like(p, math.nan)
    optimizer.step()
    _run(optimizer, [p])
    assert p.isfinite().all()
    assert _satisfies(p)


@point_and_optimizer
@pytest.mark.parametrize("lr", [1e-30, 1.0, 1e6])
def test_any_learning_rate_ends_on_the_surface(point, make, lr):
    p = _parameter(point, torch.float32)
    optimizer = OPTIMIZERS[make]([p])
    optimizer.param_groups[0].update(lr=lr, weight_decay=0.0)
    _run(optimizer, [p])
    assert p.isfinite().all()
    assert _satisfies(p)


@point_and_optimizer
def test_gradients_are_never_written(point, make):
    p = _parameter(point)
    optimizer = OPTIMIZERS[make]([p])
    optimizer.param_groups[0]["weight_decay"] = 0.1
    for i in range(3):
        p.grad = _noise(p, i)
        optimizer.step()
        assert torch.equal(p.grad, _noise(p, i))


@every_optimizer
@pytest.mark.parametrize("point", ["sphere", "stiefel", "stiefel-wide", "symmetric"])
def test_strides_of_weight_and_gradient_do_not_matter(make, point):
    p = _parameter(point, torch.float32)
    q = nn.Parameter(p.detach().mT.contiguous().mT)
    optimizers = [
        OPTIMIZERS[make]([p]),
        OPTIMIZERS[make]([{"params": [q], "manifold": p.manifold}]),
    ]
    for i in range(3):
        p.grad = _noise(p, i)
        q.grad = p.grad.mT.contiguous().mT if i == 1 else p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-6)


# --- state -----------------------------------------------------------------------------------


@point_and_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_resume_is_bit_for_bit(point, make, dtype, tmp_path):
    p = _parameter(point, dtype)
    optimizer = OPTIMIZERS[make]([p])
    _run(optimizer, [p], steps=3)
    torch.save({"p": p.detach(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pt")
    _run(optimizer, [p], steps=3, start=3)

    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    q = _parameter(point, dtype)
    with torch.no_grad():
        q.copy_(saved["p"])
    resumed = OPTIMIZERS[make]([q])
    resumed.load_state_dict(saved["optimizer"])
    _run(resumed, [q], steps=3, start=3)
    assert torch.equal(p, q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
@every_point
@pytest.mark.parametrize("second_moment", ["tangent", "carried", "point"])
def test_torchs_adam_loads_our_checkpoint_and_we_load_its(point, dtype, second_moment):
    p = _parameter(point, dtype)
    ours = RiemannianAdam([p], lr=0.01, amsgrad=True, second_moment=second_moment)
    _run(ours, [p], steps=3)
    q = nn.Parameter(p.detach().clone())
    theirs = torch.optim.Adam([q], lr=0.01, amsgrad=True)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    assert theirs.state[q]["exp_avg_sq"].shape == q.shape
    assert theirs.param_groups[0].keys() == ours.param_groups[0].keys()
    _run(theirs, [q], steps=3)
    back = RiemannianAdam([p], lr=0.01, amsgrad=True, second_moment=second_moment)
    back.load_state_dict(copy.deepcopy(theirs.state_dict()))
    _run(back, [p], steps=3)
    assert _satisfies(p)
    if not p.manifold.allows_elementwise_scaling:
        expected = theirs.state[q]["exp_avg_sq"]
        expected = torch.view_as_real(expected).mean(-1) if p.is_complex() else expected.float()
        dims = p.manifold.event_dims(p.ndim)
        loaded = RiemannianAdam([p], amsgrad=True, second_moment="point")
        loaded.load_state_dict(copy.deepcopy(theirs.state_dict()))
        torch.testing.assert_close(
            loaded.state[p]["exp_avg_sq"], expected.mean(dims, keepdim=True), rtol=1e-5, atol=0
        )


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda o: _pickled(o)], ids=["deepcopy", "pickle"]
)
@every_optimizer
def test_a_copied_optimizer_still_knows_its_manifolds(make, copier):
    p, plain = _parameter("stiefel"), nn.Parameter(torch.ones(3))
    optimizer = OPTIMIZERS[make]([p, plain])
    _run(optimizer, [p, plain], steps=2)
    twin = copier(optimizer)
    q, plain_twin = twin.param_groups[0]["params"]
    _run(optimizer, [p, plain], steps=2, start=2)
    _run(twin, [q, plain_twin], steps=2, start=2)
    assert torch.equal(p, q)
    assert torch.equal(plain, plain_twin)
    assert repr(twin) == repr(optimizer)


def _pickled(optimizer):
    import pickle

    return pickle.loads(pickle.dumps(optimizer))


def test_memory_of_the_state():
    p = _parameter("stiefel")
    optimizer = RiemannianSGD([p], lr=0.1)
    _run(optimizer, [p])
    assert not optimizer.state[p]
    optimizer = RiemannianAdam([p], lr=0.1, second_moment="point")
    _run(optimizer, [p])
    assert optimizer.state[p]["exp_avg_sq"].shape == (1, 1)


def test_repr_says_what_is_constrained():
    p, q = _parameter("stiefel"), nn.Parameter(torch.ones(2))
    text = repr(RiemannianAdam([p, q]))
    assert "1 on Stiefel(), 1 unconstrained" in text


def test_the_old_name_of_a_second_moment_warns():
    with pytest.warns(FutureWarning, match='called "carried" now'):
        optimizer = RiemannianAdam([_parameter("sphere")], second_moment="elementwise")
    assert optimizer.second_moment == "carried"


def test_a_checkpoint_of_one_second_moment_loads_into_another():
    """As what was the default before, one number for each point, into what is it now."""
    for old in ("tangent", "carried", "point"):
        for new in ("tangent", "carried", "point"):
            p = _parameter("stiefel", torch.float32)
            before = RiemannianAdam([p], lr=0.01, second_moment=old)
            _run(before, [p], steps=3)
            after = RiemannianAdam([p], lr=0.01, second_moment=new)
            after.load_state_dict(before.state_dict())
            _run(after, [p], steps=3, start=3)
            assert _satisfies(p)
            assert after.state[p]["step"] == 6


def test_unknown_second_moment_is_refused():
    with pytest.raises(ValueError, match="'tangent', 'carried' or 'point'; got 'row'"):
        RiemannianAdam([_parameter("sphere")], second_moment="row")


@pytest.fixture(params=["high", "medium"])
def lowered_precision(request):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def walk(steps=20):
    torch.manual_seed(0)
    p = torch.nn.Parameter(Stiefel().random_point(256, 128))
    optimizer = riemopt.RiemannianAdam([{"params": [p], "manifold": Stiefel()}], lr=1e-2)
    for _ in range(steps):
        p.grad = torch.randn_like(p)
        optimizer.step()
    return (p.detach().double().mT @ p.detach().double() - torch.eye(128)).abs().max()


def test_the_surface_is_kept_where_products_may_be_of_low_precision(lowered_precision):
    """TF32 on a GPU, bfloat16 on some CPUs: the step sees to its own Gram matrices."""
    assert walk() <= 1e-6
    assert torch.get_float32_matmul_precision() == lowered_precision


def test_gram_matrices_of_a_step_are_made_in_full_precision(lowered_precision, monkeypatch):
    seen = []
    gram_defect = linalg.gram_defect

    def spy(x):
        seen.extend(setting.fp32_precision for setting in ALL_PRODUCTS)
        return gram_defect(x)

    monkeypatch.setattr(polar_adaptive, "host_gram_defect", spy)
    before = [setting.fp32_precision for setting in ALL_PRODUCTS]
    walk(steps=1)
    assert set(seen) == {"ieee"}
    assert [setting.fp32_precision for setting in ALL_PRODUCTS] == before
    assert {"tf32", "bf16"} & set(before)

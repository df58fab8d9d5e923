"""Defects seen in packages that do the same work, each as a test that this one passes.

Where the other package can be run here (geoopt 0.5.1), the defect itself is shown too, so that the
test is known to be able to fail.
"""

import copy
import io
import math

import geoopt
import pytest
import torch
from torch import nn

import riemopt
from riemopt import ManifoldParameter, RiemannianAdam, RiemannianAdamW, RiemannianSGD, constrain
from riemopt.manifolds import Flattened, Sphere, Stiefel

EPS = torch.finfo(torch.float32).eps


def _random_steps(optimizer, p, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        optimizer.step()


def test_the_first_momentum_buffer_is_the_riemannian_gradient_counted_once():
    def path(make, parameter):
        p = parameter(torch.zeros(1))
        optimizer, values = make([p]), []
        for _ in range(3):
            p.grad = torch.ones(1)
            optimizer.step()
            values.append(round(p.item(), 2))
        return values

    expected = [-1.0, -2.9, -5.61]
    assert path(lambda p: torch.optim.SGD(p, lr=1, momentum=0.9), nn.Parameter) == expected
    assert path(lambda p: RiemannianSGD(p, lr=1, momentum=0.9), nn.Parameter) == expected
    theirs = path(lambda p: geoopt.optim.RiemannianSGD(p, lr=1, momentum=0.9), nn.Parameter)
    assert theirs == [-1.9, -4.61, -8.05]


def test_the_weight_does_not_leave_at_step_one():
    p = ManifoldParameter(torch.randn(8, 3), Stiefel())
    optimizer = RiemannianSGD([p], lr=0.5, momentum=0.9)
    _random_steps(optimizer, p, 1)
    assert p.manifold.violation(p.detach()) < 10 * EPS


def test_the_canonical_projection_is_one_and_momentum_does_not_explode():
    manifold = Stiefel(metric="canonical")
    x = manifold.random_point(8, 3, dtype=torch.float64)
    u = torch.randn(8, 3, dtype=torch.float64)
    once = manifold.proj_tangent(x, u)
    torch.testing.assert_close(manifold.proj_tangent(x, once), once)
    theirs = geoopt.CanonicalStiefel()
    assert not torch.allclose(theirs.proju(x, theirs.proju(x, u)), theirs.proju(x, u))

    p = ManifoldParameter(torch.randn(8, 3), manifold)
    optimizer = RiemannianSGD([p], lr=1e-3, momentum=0.9)
    _random_steps(optimizer, p, 100)
    # Σ 0.9ᵏ = 10 gradients at most, and the canonical gradient is at most twice the Euclidean.
    assert optimizer.state[p]["momentum_buffer"].abs().max() < 20 * 5


@pytest.mark.parametrize("manifold", [Stiefel(), Stiefel(metric="canonical")], ids=repr)
@pytest.mark.parametrize("lr", [1e-3, 0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_no_drift_at_any_learning_rate_and_precision(manifold, lr, dtype):
    p = ManifoldParameter(torch.randn(16, 4, dtype=dtype), manifold)
    _random_steps(RiemannianAdam([p], lr=lr), p, 300)
    assert manifold.violation(p.detach().double()) < 10 * torch.finfo(dtype).eps * 2


def test_the_manifold_is_not_lost_without_a_word():
    layer = constrain(nn.Linear(3, 8), "weight", Stiefel())
    layer.load_state_dict(copy.deepcopy(layer.state_dict()), assign=True)
    optimizer = RiemannianAdam(layer.parameters(), lr=0.1)
    _random_steps(optimizer, layer.weight, 5)
    assert riemopt.constraints(layer)[0].satisfied
    # The other ways of losing it: tests/test_table.py.


def test_no_option_is_accepted_and_ignored():
    def end(**options):
        p = ManifoldParameter(torch.eye(5, 2, dtype=torch.float64), Stiefel())
        optimizer = RiemannianAdam([p], lr=0.1, **options)
        _random_steps(optimizer, p, 3)
        return p.detach()

    base = end()
    for options in ({"maximize": True}, {"amsgrad": True, "betas": (0.9, 0.1)}, {"eps": 1.0}):
        assert not torch.allclose(end(**options), base), options
    for options in ({"foreach": True}, {"foreach": False}, {"fused": True}):
        torch.testing.assert_close(end(**options), base)
    p = nn.Parameter(torch.ones(1))
    q = geoopt.ManifoldParameter(torch.ones(1))
    for cls, parameter in ((RiemannianAdam, p), (geoopt.optim.RiemannianAdam, q)):
        optimizer = cls([parameter], lr=0.1, maximize=True)
        parameter.grad = torch.ones(1)
        optimizer.step()
    assert p > 1 > q  # geoopt minimises


def test_fused_under_a_scaler_unscales_and_skips():
    p = ManifoldParameter(torch.randn(6, 2), Stiefel())
    twin = copy.deepcopy(p)
    fused, plain = RiemannianAdam([p], fused=True), RiemannianAdam([twin])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    weights = torch.randn(6, 2)
    scaler.scale((p * weights).sum()).backward()
    (twin * weights).sum().backward()
    scaler.step(fused)
    scaler.update()
    plain.step()
    torch.testing.assert_close(p.detach(), twin.detach())
    before, state = p.detach().clone(), copy.deepcopy(fused.state[p])
    p.grad = None
    scaler.scale((p * math.inf).sum()).backward()
    scaler.step(fused)
    assert torch.equal(p, before)
    assert all(torch.equal(v, fused.state[p][k]) for k, v in state.items())


@pytest.mark.parametrize("cls", [RiemannianSGD, RiemannianAdam, RiemannianAdamW])
def test_weight_decay_does_not_write_to_the_gradient(cls):
    p, q = ManifoldParameter(torch.randn(4, 4), Stiefel()), nn.Parameter(torch.randn(4))
    p.grad, q.grad = torch.randn(4, 4), torch.randn(4)
    kept = p.grad.clone(), q.grad.clone()
    cls([p, q], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(p.grad, kept[0])
    assert torch.equal(q.grad, kept[1])


def test_distances_and_gradients_at_coincident_points():
    x = Sphere().random_point(1000, 20)
    assert Sphere().dist(x, x).max() == 0
    assert geoopt.Sphere().dist(x, x).max() > 1e-4
    u = torch.zeros(20, requires_grad=True)
    for value in (Sphere().exp(x[0], u).sum(), Sphere().norm(x[0], u)):
        (grad,) = torch.autograd.grad(value, u)
        assert grad.isfinite().all()


def test_complex_matrices_use_the_conjugate_transpose():
    x = Stiefel().random_point(6, 3, dtype=torch.complex128)
    torch.testing.assert_close(x.mH @ x, torch.eye(3, dtype=torch.complex128))
    u = Stiefel().random_tangent(x)
    skew = x.mH @ u
    torch.testing.assert_close(skew, -skew.mH)


def test_a_nan_gradient_does_not_poison_the_weight():
    p = ManifoldParameter(torch.randn(6, 3), Stiefel())
    optimizer = RiemannianAdam([p], lr=0.1)
    _random_steps(optimizer, p, 3)
    p.grad = torch.full_like(p, math.nan)
    optimizer.step()
    _random_steps(optimizer, p, 3)
    assert p.isfinite().all()
    assert optimizer.skipped_steps == 1
    q = geoopt.ManifoldParameter(torch.eye(6, 3), manifold=geoopt.EuclideanStiefel())
    theirs = geoopt.optim.RiemannianSGD([q], lr=0.1)
    q.grad = torch.full_like(q, math.nan)
    theirs.step()
    assert q.isnan().any()


def test_saving_loading_validation_equality_and_shapes():
    buffer = io.BytesIO()
    torch.save(ManifoldParameter(torch.randn(4, 2), Stiefel()), buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True).manifold == Stiefel()
    assert Stiefel() == Stiefel() != Stiefel(retraction="qr")
    assert geoopt.EuclideanStiefel() != geoopt.EuclideanStiefel()
    assert Stiefel().violation(ManifoldParameter(torch.randn(4, 2), Stiefel())) < 10 * EPS
    wide = ManifoldParameter(torch.randn(2, 5), Stiefel())
    torch.testing.assert_close(wide @ wide.mT, torch.eye(2))
    with pytest.raises(ValueError, match="Flattened"):
        constrain(nn.Conv2d(3, 8, 3), "weight", Stiefel())
    constrain(nn.Conv2d(3, 8, 3), "weight", Flattened(Stiefel()))


def test_a_closure_is_called_with_gradients_even_under_no_grad():
    p = ManifoldParameter(torch.ones(3), Sphere())
    for cls in (RiemannianSGD, RiemannianAdam):
        optimizer, calls = cls([p], lr=0.1), []

        def closure(optimizer=optimizer, calls=calls):
            optimizer.zero_grad()
            loss = p[0].square()
            loss.backward()
            calls.append(loss)
            return loss

        with torch.no_grad():
            assert optimizer.step(closure) is calls[0]


@pytest.mark.parametrize("cls", [RiemannianSGD, RiemannianAdam])
def test_state_is_saved_and_a_late_first_gradient_is_fine(cls):
    p, q = (ManifoldParameter(torch.randn(5, 2), Stiefel()) for _ in range(2))
    optimizer = cls([p, q], lr=0.1)
    _random_steps(optimizer, p, 2)
    copy.deepcopy(optimizer.state_dict())
    q.grad = torch.randn(5, 2)
    _random_steps(optimizer, p, 2)
    assert Stiefel().violation(q.detach()) < 10 * EPS


def test_deepcopy_clipping_and_accumulation():
    layer = constrain(nn.Linear(3, 5), "weight", Stiefel())
    twin = copy.deepcopy(layer)
    assert riemopt.manifold_of(twin.weight) == Stiefel()
    data = torch.randn(8, 3)

    def ends(module, parts, clip):
        optimizer = RiemannianSGD(module.parameters(), lr=0.1)
        optimizer.zero_grad()
        for part in data.chunk(parts):
            (module(part).square().sum() / len(data)).backward()
        nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        return module.weight.detach()

    whole = ends(copy.deepcopy(layer), 1, math.inf)
    torch.testing.assert_close(ends(copy.deepcopy(layer), 4, math.inf), whole)
    assert not torch.allclose(ends(copy.deepcopy(layer), 1, 1e-3), whole)

"""Nothing of the package computes in a caller's autocast: every result is what it is outside."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import riemopt
from riemopt import constrain, constraints, manifold_of, project_
from riemopt.interop import parametrize
from riemopt.manifolds import AffineSubspace, Flattened, LevelSet, Manifold, Sphere, Stiefel
from riemopt.nn.swa_utils import get_ema_avg_fn
from riemopt.testing import check_manifold
from tests import needs
from tests.manifold_cases import generator, orthonormal_columns, over, point

OPTIMIZERS = {
    "SGD": lambda params: riemopt.RiemannianSGD(params, lr=0.1, momentum=0.9),
    "Adam": lambda params: riemopt.RiemannianAdam(params, lr=0.1),
    "Adam point": lambda params: riemopt.RiemannianAdam(params, lr=0.1, second_moment="point"),
    "Adam carried": lambda params: riemopt.RiemannianAdam(params, lr=0.1, second_moment="carried"),
    "RMSprop": lambda params: riemopt.riemannian(torch.optim.RMSprop)(params, lr=0.1),
}


def block():
    """The autocast of a training loop on a CPU."""
    return torch.autocast("cpu", torch.bfloat16)


def same_in_the_block(function):
    outside = function()
    with block():
        inside = function()
    torch.testing.assert_close(inside, outside, rtol=0, atol=0, equal_nan=True)


def methods_of(case, shape, dtype):
    """Calls of every method of the contract that computes, by name."""
    m = case.manifold
    x, y = point(case, shape, dtype, 0), point(case, shape, dtype, 1)
    a = torch.randn(shape, dtype=dtype, generator=generator(2))
    u = m.random_tangent(x, generator=generator(3))
    calls = {
        "proj_tangent": lambda: m.proj_tangent(x, a),
        "egrad2rgrad": lambda: m.egrad2rgrad(x, a),
        "retract": lambda: m.retract(x, u),
        "curve": lambda: m.curve(x, u, 0.5),
        "curve_with_fraction": lambda: m.curve_with_fraction(x, u, 0.5)[0],
        "project": lambda: m.project(a),
        "violation": lambda: m.violation(a),
        "tolerance": lambda: m.tolerance(x),
        "inner": lambda: m.inner(x, u, u),
        "norm": lambda: m.norm(x, u),
        "transport": lambda: m.transport(x, y, u),
        "carry": lambda: m.carry(x, u, a, 0.9, 0.1),
        "carry_mean": lambda: m.carry_mean(x, u, a, 0.9),
        "after_move": lambda: m.after_move(x, y, u),
        "random_point": lambda: m.random_point(*shape, dtype=dtype, generator=generator(4)),
        "random_tangent": lambda: m.random_tangent(x, generator=generator(5)),
        "linearised_at": lambda: m.linearised_at(x).proj_tangent(x, a),
    }
    if m.with_dims_from_end(x.ndim).spectral_shape(shape) is not None:
        calls["spectral_direction"] = lambda: m.spectral_direction(x, a)
        calls["spectral_curve"] = lambda: m.spectral_curve(x, u / 10, 0.5)[0]
    if "exp" in case.closed_forms:
        calls["exp"] = lambda: m.exp(x, u)
    if "log" in case.closed_forms:
        calls["log"] = lambda: m.log(x, y)
        calls["dist"] = lambda: m.dist(x, y)
    return calls


@over(dtypes=[torch.float32], kinds="small")
def test_methods(case, shape, dtype):
    for call in methods_of(case, shape, dtype).values():
        same_in_the_block(call)


@dataclass(frozen=True)
class Sum(Manifold):
    """A user's own class, whose methods use products: the vectors with Σx = 1."""

    @property
    def event_ndim(self):
        return 1

    def proj_tangent(self, x, u):
        return u - (u @ torch.ones_like(u.mT)) / u.shape[-1]

    def retract(self, x, u):
        return self.project(x + u)

    def project(self, a):
        return a + (1 - a @ torch.ones_like(a.mT)) / a.shape[-1]

    def violation(self, x):
        return (x @ torch.ones_like(x.mT) - 1).abs().amax(-1)

    def check_shape(self, shape):
        pass

    def dim(self, shape, *, is_complex=False):
        return (shape[-1] - 1) * (1 + is_complex)


def test_a_users_own_manifold():
    a = torch.randn(5, 5, generator=generator(0))
    for method in ("project", "violation"):
        same_in_the_block(lambda method=method: getattr(Sum(), method)(a))
    same_in_the_block(lambda: Sum().proj_tangent(a, a))
    same_in_the_block(lambda: Sum().curve(a, a, 0.5))


LAYERS = {
    "Stiefel": lambda: constrain(nn.Linear(16, 64), "weight", Stiefel()),
    "square": lambda: constrain(nn.Linear(32, 32), "weight", Stiefel()),
    "canonical": lambda: constrain(nn.Linear(16, 32), "weight", Stiefel(metric="canonical")),
    "cayley": lambda: constrain(nn.Linear(8, 32), "weight", Stiefel("cayley")),
    "qr": lambda: constrain(nn.Linear(8, 32), "weight", Stiefel("qr")),
    "kernel": lambda: constrain(nn.Conv2d(3, 8, 3), "weight", Flattened(Stiefel())),
    "sphere": lambda: constrain(nn.Linear(16, 8), "weight", Sphere()),
    "affine": lambda: constrain(nn.Linear(16, 8), "weight", AffineSubspace(torch.ones(2, 16), 1.0)),
    "level set": lambda: constrain(nn.Linear(3, 8), "weight", LevelSet(orthonormal_columns)),
}


def inputs_of(layer):
    shape = (4, 3, 6, 6) if isinstance(layer, nn.Conv2d) else (4, layer.weight.shape[1])
    return torch.randn(shape, generator=generator(1))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps(layer, name):
    """Of the same gradients the same steps."""

    def weight_after_five_steps():
        torch.manual_seed(0)
        model = LAYERS[layer]()
        optimizer = OPTIMIZERS[name](model.parameters())
        for seed in range(5):
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator(seed))
            optimizer.step()
        return model.weight.detach()

    same_in_the_block(weight_after_five_steps)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_training_loop_that_is_all_in_the_block(layer):
    with block():
        torch.manual_seed(0)
        model = LAYERS[layer]()
        optimizer = riemopt.RiemannianAdam(model.parameters(), lr=0.05)
        x = inputs_of(model)
        for _ in range(20):
            optimizer.zero_grad()
            model(x).float().square().mean().backward()
            optimizer.step()
        (report,) = constraints(model)
    assert report.satisfied
    assert constraints(model)[0].violation == report.violation


def test_the_closure_runs_in_the_block():
    model = constrain(nn.Linear(4, 4), "weight", Stiefel())
    optimizer = riemopt.RiemannianSGD(model.parameters(), lr=0.1)
    seen = []

    def closure():
        optimizer.zero_grad()
        out = model(torch.ones(1, 4))
        seen.append(out.dtype)
        out.sum().backward()
        return out.sum()

    with block():
        optimizer.step(closure)
        assert torch.is_autocast_enabled("cpu")
    assert seen == [torch.bfloat16]
    assert Stiefel().violation(model.weight) < 1e-6


def test_constrain_project_and_constraints():
    def values():
        model = nn.Linear(16, 64)
        with torch.no_grad():
            model.weight.copy_(torch.randn(64, 16, generator=generator(0)))
            constrain(model, "weight", Stiefel())
            started = model.weight.clone()
            model.weight.mul_(1.1)
            off = torch.tensor(constraints(model)[0].violation)
            project_(model)
        assert manifold_of(model.weight) == Stiefel()
        return started, off, model.weight.detach()

    same_in_the_block(values)


def test_derivatives_of_a_projection():
    """Of backward called in the block, as some loops do."""

    def gradient():
        a = torch.randn(6, 4, generator=generator(0)).requires_grad_()
        Stiefel().project(a).pow(3).sum().backward()
        return a.grad

    same_in_the_block(gradient)


def test_averages():
    torch.manual_seed(0)
    model = LAYERS["Stiefel"]()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.weight.copy_(Stiefel().random_point(64, 16, generator=generator(1)))

    def average():
        averaged = AveragedModel(model, avg_fn=get_ema_avg_fn(0.7))
        averaged.update_parameters(model)
        averaged.update_parameters(other)
        return averaged.module.weight.detach()

    same_in_the_block(average)


def test_tangent_gradients():
    def gradient():
        model = nn.Linear(16, 64)
        with torch.no_grad():
            model.weight.copy_(Stiefel().random_point(64, 16, generator=generator(0)))
        constrain(model, "weight", Stiefel(), tangent_grad=True)
        weights = torch.randn(64, 16, generator=generator(1))
        (model.weight * weights).sum().backward()
        return model.weight.grad

    same_in_the_block(gradient)


def test_conversion_from_parametrize():
    torch.manual_seed(0)  # torch's own `orthogonal` raises in the block
    parametrized = torch.nn.utils.parametrizations.orthogonal(nn.Linear(16, 16))

    def weight():
        layer = copy.deepcopy(parametrized)
        parametrize.from_parametrized(layer)
        return layer.weight.detach()

    same_in_the_block(weight)


def test_checks_of_a_manifold():
    with block():
        assert check_manifold(Stiefel(), (4, 2), repeats=2)


@needs.compiled_steps
@pytest.mark.parametrize("name", ["SGD", "Adam", "Adam point"])
def test_a_compiled_step(name):
    def weight():
        torch.compiler.reset()
        torch.manual_seed(0)
        model = LAYERS["Stiefel"]()
        optimizer = OPTIMIZERS[name](model.parameters())
        step = torch.compile(type(optimizer).step, backend="eager", fullgraph=True)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator(0))
        step(optimizer)
        return model.weight.detach()

    same_in_the_block(weight)

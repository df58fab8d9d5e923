"""Weight decay of any optimizer made Riemannian: the gradient of ½‖x‖², made tangent."""

import functools
import inspect

import pytest
import torch

from riemopt import ManifoldParameter
from riemopt.manifolds import AffineSubspace, FixedSum, LevelSet
from riemopt.optim import riemannian
from tests.riemannian_cases import (
    BASES,
    OPTIONS,
    OUTSIDE,
    Clipped,
    fill,
    noise,
    plain_weights,
    run,
    weight,
)


def with_decay(name, weight_decay, **flags):
    return functools.partial(
        riemannian(BASES[name], **flags), **{**OPTIONS[name], "weight_decay": weight_decay}
    )


DECAYING = [n for n in BASES if "weight_decay" in inspect.signature(BASES[n]).parameters]


@pytest.mark.parametrize("name", DECAYING)
@pytest.mark.parametrize("point", ["sphere", "tall", "wide", "square"])
def test_no_weight_decay_where_the_norm_is_constant(name, point):
    p, q = weight(point), weight(point)
    run(with_decay(name, 0.5)([p]), [p])
    run(with_decay(name, 0.0)([q]), [q])
    assert torch.equal(p, q)


def on_a_sphere(x):
    return x.square().sum() - 1


NORMALS = {  # where x itself has a part that is normal, and one that is not
    "fixed sum": (FixedSum(total=1.0), (2, 5)),
    "affine": (AffineSubspace(torch.tensor([[1.0, 2, 0, 1, -1]]), torch.tensor([1.0])), (2, 5)),
    "level set": (LevelSet(on_a_sphere, event_ndim=1), (5,)),
}
COUPLED = [n for n in DECAYING if riemannian(BASES[n]).decay_is_decoupled is False]
# Muon steps none of these manifolds, and has decay on `Scaled`: see test_muon.py.
DECOUPLED = [n for n in DECAYING if riemannian(BASES[n]).decay_is_decoupled and n != "Muon"]


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("point", NORMALS)
@pytest.mark.parametrize("maximize", [False, True])
def test_coupled_decay_is_part_of_the_gradient_that_is_made_tangent(name, point, maximize):
    """A second optimizer is given the gradient with decay, and no decay of its own."""
    if maximize and "maximize" not in inspect.signature(BASES[name]).parameters:
        pytest.skip("it has no such option")
    manifold, shape = NORMALS[point]
    p, q = (ManifoldParameter(noise(shape, 1, torch.float64), manifold) for _ in range(2))
    options = {"maximize": True} if maximize else {}
    a, b = with_decay(name, 0.3)([p], **options), with_decay(name, 0.0)([q], **options)
    for step in range(4):
        p.grad = noise(shape, step, torch.float64)
        q.grad = p.grad + (-0.3 if maximize else 0.3) * q.detach()
        a.step()
        b.step()
    torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-12)
    for key, value in a.state[p].items():
        torch.testing.assert_close(value, b.state[q][key], rtol=0, atol=1e-12)
        if key in ("exp_avg", "grad_avg"):
            assert_close_to_tangent(manifold, p.detach(), value, by_rounding=point != "level set")


def assert_close_to_tangent(manifold, x, m, by_rounding):
    normal = m - manifold.proj_tangent(x, m)
    if by_rounding:  # a flat manifold has one tangent space
        torch.testing.assert_close(normal, torch.zeros_like(m), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DECOUPLED)
@pytest.mark.parametrize("point", NORMALS)
def test_decoupled_decay_is_the_tangent_part_of_the_weight(name, point):
    """The first step without a gradient to speak of goes along -lr·wd·x, projected."""
    if name == "Adafactor":
        pytest.skip("its rate is relative")
    manifold, shape = NORMALS[point]
    p = ManifoldParameter(noise(shape, 1, torch.float64), manifold)
    x = p.detach().clone()
    optimizer = with_decay(name, 0.3)([p])
    p.grad = torch.zeros_like(p)
    optimizer.step()
    u = manifold.proj_tangent(x, -OPTIONS[name]["lr"] * 0.3 * x)
    torch.testing.assert_close(p.detach(), manifold.retract(x, u), rtol=0, atol=1e-12)


def test_decay_of_the_unknown_kind_is_refused_with_the_option_that_says_it():
    for base, kind in ((Clipped, "Clipped"),):
        p, plain = ManifoldParameter(noise((2, 5), 1), FixedSum(total=1.0)), plain_weights()[0]
        optimizer = riemannian(base)([{"params": [plain]}, {"params": [p]}])
        optimizer.param_groups[1]["weight_decay"] = 0.1
        fill([p, plain], 0)
        before = [p.detach().clone(), plain.detach().clone()]
        message = rf"weight_decay=0.1 of {kind} on FixedSum.*decay_is_decoupled=False\) or =True"
        with pytest.raises(ValueError, match=message):
            optimizer.step()
        assert torch.equal(p, before[0])
        assert torch.equal(plain, before[1])
        assert not optimizer.state[plain]
        optimizer.param_groups[1]["weight_decay"] = 0.0
        optimizer.step()
        assert not torch.equal(p, before[0])


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
def test_which_kind_the_decay_of_lion_is_stands_in_its_groups(decoupled, maximize):
    if "Lion" not in OUTSIDE:
        pytest.skip("needs pytorch_optimizer")
    cls = riemannian(OUTSIDE["Lion"])
    manifold = FixedSum(total=1.0)
    options = {"lr": 0.02, "maximize": maximize, "weight_decouple": decoupled}
    p, q = (ManifoldParameter(noise((2, 5), 1, torch.float64), manifold) for _ in range(2))
    a, b = cls([p], weight_decay=0.3, **options), cls([q], weight_decay=0.0, **options)
    for step in range(4):
        p.grad = noise((2, 5), step, torch.float64)
        q.grad = p.grad.clone()
        x = q.detach().clone()
        if not decoupled:
            q.grad += (-0.3 if maximize else 0.3) * x
        a.step()
        b.step()
        if decoupled:
            with torch.no_grad():
                q.add_(manifold.proj_tangent(x, x), alpha=-0.02 * 0.3)
    torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-12)

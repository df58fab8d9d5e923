"""Sizes that are left to the weight: `Sphere(radius="init")`, and the scale of `Scaled`."""

import pickle

import pytest
import torch
from torch import nn

from riemopt import ManifoldParameter, RiemannianSGD, constrain, manifold_of
from riemopt.manifolds import (
    Euclidean,
    ExceptRows,
    Flattened,
    Lorentz,
    Product,
    RowBlocks,
    Scaled,
    Sphere,
    Stiefel,
)

INIT = Sphere(radius="init")


def rms_of_norms(weight, dim=-1):
    norms = torch.linalg.vector_norm(weight.detach().double(), dim=dim)
    return norms.square().mean().sqrt().item()


def test_the_radius_is_that_which_keeps_the_norm_of_the_whole_weight():
    layer = nn.Linear(20, 30)
    before = layer.weight.detach().clone()
    constrain(layer, "weight", INIT)
    sphere = manifold_of(layer.weight)
    assert sphere == Sphere(radius=sphere.radius)
    assert sphere.radius == pytest.approx(rms_of_norms(before))
    assert layer.weight.norm().item() == pytest.approx(before.norm().item())
    assert sphere.violation(layer.weight.detach()).max() < 1e-6


def test_a_manifold_parameter_takes_it_from_its_data_and_keeps_it():
    weight = ManifoldParameter(torch.full((3, 4), 2.0), INIT)
    assert manifold_of(weight) == Sphere(radius=4.0)
    weight.data.mul_(3)
    RiemannianSGD([weight], lr=1e-2)
    assert manifold_of(weight) == Sphere(radius=4.0)
    assert manifold_of(pickle.loads(pickle.dumps(weight))) == Sphere(radius=4.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
def test_of_any_dtype(dtype):
    value = torch.randn(6, 8, dtype=torch.complex64 if dtype.is_complex else torch.float32)
    weight = ManifoldParameter(value.to(dtype), Sphere(dim=0, radius="init"))
    norms = torch.linalg.vector_norm(value.to(dtype).to(torch.complex128), dim=0)
    assert manifold_of(weight).radius == pytest.approx(norms.square().mean().sqrt().item())


WRAPPED = {
    "kernel": (Sphere(dim=(-3, -2, -1), radius="init"), (5, 2, 3, 3), (-3, -2, -1)),
    "flattened": (Flattened(Sphere(dim=(-2, -1), radius="init")), (5, 2, 3, 3), (0, 1, 2, 3)),
    "blocks": (RowBlocks(INIT, 3), (6, 4), -1),
    "batch of blocks": (RowBlocks(INIT, 3), (2, 6, 4), -1),
    "product": (Product([(INIT, (2, 4))]), (5, 8), None),
    "scaled": (Scaled(INIT), (6, 4), -1),
}


@pytest.mark.parametrize(("manifold", "shape", "dim"), WRAPPED.values(), ids=[*WRAPPED])
def test_within_other_manifolds(manifold, shape, dim):
    value = torch.randn(shape)
    fitted = manifold_of(ManifoldParameter(value, manifold))
    radius = rms_of_norms(value.reshape(-1, 4), -1) if dim is None else rms_of_norms(value, dim)
    inner = getattr(fitted, "base", fitted)
    inner = inner.manifolds[0] if isinstance(inner, Product) else inner
    assert inner.radius == pytest.approx(radius)
    assert fitted.fitted_to(value) is fitted
    assert type(fitted) is type(manifold)


def test_rows_that_stay_do_not_count():
    table = nn.Embedding(10, 4, padding_idx=2)
    kept = torch.cat([table.weight[:2], table.weight[3:]])
    constrain(table, "weight", INIT)
    fitted = manifold_of(table.weight)
    assert isinstance(fitted, ExceptRows)
    assert fitted.base.radius == pytest.approx(rms_of_norms(kept))


def test_what_leaves_nothing_to_the_weight_is_the_same_object():
    for manifold, shape in (
        (Sphere(), (3, 4)),
        (Stiefel(), (3, 2)),
        (Scaled(Stiefel()), (3, 2)),
        (RowBlocks(Stiefel(), 2), (6, 2)),
        (ExceptRows(Sphere(), 0), (5, 3)),
        (Product([(Stiefel(), (3, 2)), (Euclidean(), 2)]), (4, 8)),
        (Flattened(Stiefel()), (4, 2, 2, 2)),
        (Lorentz(), (3, 4)),
    ):
        assert manifold.fitted_to(torch.randn(shape)) is manifold


def test_without_a_weight_the_error_says_what_to_write():
    with pytest.raises(ValueError, match=r"of a tensor, fitted_to\(tensor\)"):
        INIT.project(torch.ones(3))
    with pytest.raises(ValueError, match="In a parameter group write a number"):
        RiemannianSGD([{"params": [nn.Parameter(torch.ones(3, 4))], "manifold": INIT}], lr=0.1)
    with pytest.raises(ValueError, match="finite and not 0"):
        ManifoldParameter(torch.zeros(3, 4), INIT)
    for empty in (torch.empty(3, 4, device="meta"), torch.empty(0, 4)):
        with pytest.raises(ValueError, match="needs values to take its radius from"):
            ManifoldParameter(empty, INIT)
    for radius in ("Init", None, -1.0, float("nan")):
        with pytest.raises(ValueError, match="positive, finite radius, or 'init'"):
            Sphere(radius=radius)
    assert eval(repr(Sphere(dim=0, radius="init"))) == Sphere(dim=0, radius="init")


def test_scaled_starts_from_the_present_size():
    layer = nn.Linear(6, 6, bias=False)
    with torch.no_grad():
        layer.weight.copy_(3 * Stiefel().random_point(6, 6))
    before = layer.weight.detach().clone()
    constrain(layer, "weight", Scaled(Stiefel()))
    torch.testing.assert_close(layer.weight.detach(), before)

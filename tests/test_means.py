"""Means and medians: closed forms, optimality, batches, weights, stopping, what is refused."""

import math
import warnings

import pytest
import torch

import riemopt
from riemopt.manifolds import (
    Euclidean,
    Flattened,
    Grassmann,
    Product,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
    Symmetric,
)
from tests.manifold_cases import generator, name

POSE = Product({"rotation": (SpecialOrthogonal(), (3, 3)), "translation": (Euclidean(), 3)})
WITH_LOG = [
    (Sphere(), (4,)),
    (Sphere(dim=0, radius=2.0), (3, 2)),
    (Sphere(dim=None), (2, 3)),
    (SpecialOrthogonal(), (2, 3, 3)),
    (SpecialOrthogonal(), (5, 5)),
    (Grassmann(), (5, 2)),
    (Flattened(Grassmann()), (2, 6, 1, 2, 1)),
    (POSE, (12,)),
]
close = torch.testing.assert_close
with_log = pytest.mark.parametrize(("manifold", "shape"), WITH_LOG, ids=str)
averages = pytest.mark.parametrize("average", [riemopt.mean, riemopt.median])


def cloud(manifold, shape, count=7, size=0.5, dtype=torch.float64, seed=0):
    """Points within `size` of one."""
    x = manifold.random_point(*shape, generator=generator(seed), dtype=dtype)
    stack = x.expand(count, *shape).contiguous()
    from_end = manifold.with_dims_from_end(len(shape))
    u = from_end.random_tangent(stack, generator=generator(seed + 1))
    return from_end, from_end.exp(stack, size * u / from_end.norm(stack, u, keepdim=True))


# --- closed forms ------------------------------------------------------------------------------


@pytest.mark.parametrize("manifold", [Euclidean(), Symmetric()], ids=str)
def test_of_flat_spaces_the_mean_is_the_arithmetic_one(manifold):
    points = manifold.random_point(9, 4, 4, dtype=torch.float64, generator=generator(0))
    w = torch.rand(9, generator=generator(1), dtype=torch.float64)
    expected = torch.einsum("i,ijk->jk", w / w.sum(), points)
    close(riemopt.mean(manifold, points, w), expected)


def test_of_the_line_the_median_is_the_middle_one():
    points = torch.tensor([[5.0], [-1], [0], [100], [1]], dtype=torch.float64)
    found = riemopt.median(Euclidean(), points)
    close(found, torch.tensor([1.0], dtype=torch.float64), rtol=0, atol=1e-9)


def test_on_a_circle_angles_are_averaged():
    angles = torch.tensor([0.1, 0.4, -0.2, 1.0], dtype=torch.float64)
    points = torch.stack([angles.cos(), angles.sin()], -1)
    x = riemopt.mean(Sphere(), points)
    close(torch.atan2(x[1], x[0]), angles.mean())
    R = torch.stack([torch.stack([p, torch.stack([-p[1], p[0]])], -1) for p in points])
    close(riemopt.mean(SpecialOrthogonal(), R)[:, 0], x)


@averages
@with_log
def test_of_two_points_it_is_the_middle(average, manifold, shape):
    manifold, points = cloud(manifold, shape, 2)
    x = average(manifold, points, start=points[0] if average is riemopt.mean else None)
    apart = manifold.dist(points[0], points[1])
    if average is riemopt.mean:
        close(manifold.dist(x, points[0]), apart / 2)
    close(manifold.dist(x, points[0]) + manifold.dist(x, points[1]), apart)


# --- optimality --------------------------------------------------------------------------------


@averages
@with_log
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_no_point_near_by_is_better(average, manifold, shape, dtype):
    manifold, points = cloud(manifold, shape, dtype=dtype)
    w = torch.rand(7, generator=generator(3), dtype=dtype) + 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = average(manifold, points, weights=w)
    assert x.dtype == dtype
    assert (manifold.violation(x) <= 10 * manifold.tolerance(x)).all()
    x, points, w = x.double(), points.double(), w.double()

    def cost(y):
        d = manifold.dist(y.expand_as(points), points)
        d = d.square() if average is riemopt.mean else d
        return (w.reshape(-1, *[1] * (d.ndim - 1)) * d).sum(0)

    best = cost(x)
    for seed in range(10):
        u = manifold.random_tangent(x, generator=generator(seed))
        for t in (1e-3, -1e-2, 0.1):
            assert (cost(manifold.exp(x, t * u)) >= best - 1e-10).all()


@with_log
def test_the_mean_of_a_symmetric_cloud_is_its_centre(manifold, shape):
    """Also from another start, and of half a sphere nearly."""
    x = manifold.random_point(*shape, generator=generator(0), dtype=torch.float64)
    manifold = manifold.with_dims_from_end(len(shape))
    u = manifold.random_tangent(x.expand(4, *shape).contiguous(), generator=generator(1))
    u = 0.7 * u / manifold.norm(u, u, keepdim=True)
    stack = x.expand(8, *shape)
    points = manifold.exp(stack, torch.cat([u, -u]))
    for start in (None, points[3]):
        close(riemopt.mean(manifold, points, start=start), x) if (
            manifold.total_space is None
        ) else close(
            manifold.invariants(riemopt.mean(manifold, points, start=start)),
            manifold.invariants(x),
        )


def test_a_median_at_one_of_the_points():
    """More than half of the weight lies there; Weiszfeld's step divides by its distance."""
    _, points = cloud(Sphere(), (4,))
    w = torch.tensor([10.0, 1, 1, 1, 1, 1, 1], dtype=torch.float64)
    close(riemopt.median(Sphere(), points, w), points[0], rtol=0, atol=1e-7)
    close(riemopt.median(Sphere(), points, w, start=points[0]), points[0])
    x = riemopt.median(Sphere(), points, start=points[0])  # held there, but not for good
    close(x, riemopt.median(Sphere(), points), rtol=0, atol=1e-6)
    assert Sphere().dist(x, points[0]) > 0.01


def test_the_median_stands_a_wild_point():
    manifold, points = cloud(SpecialOrthogonal(), (3, 3), 9, size=1e-2)
    centre = SpecialOrthogonal().random_point(3, 3, generator=generator(0), dtype=torch.float64)
    points[0] = centre @ torch.diag(torch.tensor([-1.0, -1, 1], dtype=torch.float64))
    assert manifold.dist(riemopt.median(manifold, points), centre) < 0.02
    assert manifold.dist(riemopt.mean(manifold, points), centre) > 0.1


# --- batches, weights, dtypes, derivatives -----------------------------------------------------


@averages
def test_a_batch_is_averaged_point_by_point(average):
    manifold, points = cloud(SpecialOrthogonal(), (4, 3, 3))
    w = torch.rand(7, 4, generator=generator(1), dtype=torch.float64)
    w[3] = 0
    together = average(manifold, points, w)
    for i in range(4):
        close(together[i], average(manifold, points[:, i], w[:, i]), rtol=0, atol=1e-9)
    close(average(manifold, points[:, :0]), points[0, :0])
    manifold, points = cloud(Sphere(dim=0), (3, 4))
    together = average(manifold, points, w)
    for i in range(4):
        alone = average(Sphere(), points[:, :, i], w[:, i])
        close(together[:, i], alone, rtol=0, atol=1e-9)


def test_equal_points_are_their_mean():
    for size in (1.0, 1e-8, 1e8):
        points = size * torch.ones(5, 3, dtype=torch.float64)
        close(riemopt.mean(Euclidean(), points), points[0])
    x = SpecialOrthogonal().random_point(3, 3, generator=generator(0))
    assert SpecialOrthogonal().dist(riemopt.mean(SpecialOrthogonal(), x.expand(4, 3, 3)), x) < 1e-6


def test_half_precision_and_complex_numbers():
    _, points = cloud(Sphere(), (4,), dtype=torch.float32)
    found = riemopt.mean(Sphere(), points.bfloat16())
    assert found.dtype == torch.bfloat16
    close(found.float(), riemopt.mean(Sphere(), points), rtol=0, atol=0.01)
    manifold, points = cloud(SpecialOrthogonal(), (3, 3), dtype=torch.complex128)
    x = riemopt.mean(manifold, points, torch.ones(7))
    pull = manifold.log(x.expand_as(points), points).mean(0)
    close(pull, torch.zeros_like(pull), rtol=0, atol=1e-13)


def test_it_is_differentiable():
    """The derivative of a mean of rotations near the identity is the mean of the derivatives."""
    skew = torch.randn(3, 3, 3, generator=generator(0), dtype=torch.float64)
    skew = skew - skew.mT

    def angle(t):
        points = torch.linalg.matrix_exp(t * skew)
        return riemopt.mean(SpecialOrthogonal(), points)

    t = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(angle, t)


# --- without a log, and what is refused --------------------------------------------------------


def test_where_there_is_no_log_it_is_the_projected_mean():
    points = Stiefel().random_point(5, 4, 2, dtype=torch.float64, generator=generator(0))
    w = torch.tensor([1.0, 2, 3, 4, 5], dtype=torch.float64)
    expected = Stiefel().project(torch.einsum("i,ijk->jk", w, points))
    close(riemopt.mean(Stiefel(), points, w), expected)
    with pytest.raises(NotImplementedError, match="no closed-form log"):
        riemopt.median(Stiefel(), points)


def test_it_says_that_it_has_not_arrived():
    _, points = cloud(Sphere(), (4,), size=1.2)
    with pytest.warns(RuntimeWarning, match=r"max_iterations=1 .* 1 of 1 points; allow more"):
        riemopt.mean(Sphere(), points, max_iterations=1)
    riemopt.mean(Sphere(), points, max_iterations=1, tolerance=1.0)


WRONG = [
    ({"points": torch.ones(0, 3)}, "One point at least"),
    ({"points": torch.ones(())}, "One point at least"),
    ({"points": torch.ones(4)}, "dimension"),
    ({"weights": torch.ones(3)}, r"weights need the shape \(4,\)"),
    ({"weights": torch.tensor([1.0, -1, 1, 1])}, "not negative"),
    ({"weights": torch.zeros(4)}, "not all zero"),
    ({"weights": torch.full((4,), math.nan)}, "finite"),
    ({"start": torch.ones(2)}, r"start needs the shape of one of the points, \(3,\)"),
    ({"points": torch.full((4, 3), math.nan)}, "not finite"),
]


@averages
@pytest.mark.parametrize(("change", "error"), WRONG)
def test_what_is_refused(average, change, error):
    points = Sphere().random_point(4, 3, generator=generator(0))
    with pytest.raises(ValueError, match=error):
        average(Sphere(), **{"points": points, **change})


def test_points_without_a_shortest_way():
    points = torch.stack([torch.eye(4), torch.diag(torch.tensor([-1.0, -1, 1, 1]))])
    with pytest.raises(ValueError, match=r"no shortest way .* give another start"):
        riemopt.mean(SpecialOrthogonal(), points, start=points[0])

"""Products: several manifolds in one tensor, and several parameters in one call."""

import copy
import io

import pytest
import torch
from torch import nn

import riemopt
from riemopt import constrain, constraints, manifold_of
from riemopt.manifolds import (
    Euclidean,
    FixedSum,
    LevelSet,
    Product,
    Sparsity,
    Sphere,
    Stiefel,
    Symmetric,
)
from tests.manifold_cases import PACKED, POSE, unit_norm


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- layout ---------------------------------------------------------------------------------


def test_split_gives_views_and_join_their_copy():
    x = torch.arange(24.0).reshape(2, 12)
    parts = POSE.split(x)
    assert {name: tuple(part.shape) for name, part in parts.items()} == {
        "rotation": (2, 3, 3),
        "translation": (2, 3),
    }
    assert parts["rotation"][1, 0].tolist() == [12, 13, 14]
    assert parts["translation"][1].tolist() == [21, 22, 23]
    joined = POSE.join(parts)
    assert torch.equal(joined, x)
    assert joined.data_ptr() != x.data_ptr()
    parts["translation"].zero_()
    assert x[:, 9:].eq(0).all()


def test_factors_without_names_are_a_sequence():
    x = torch.arange(18.0)
    parts = PACKED.split(x)
    assert [tuple(part.shape) for part in parts] == [(3, 2), (2, 4), (2, 2)]
    assert torch.equal(PACKED.join(parts), x)


def test_a_leading_dimension_of_a_matrix_can_be_cut():
    blocks = Product({"tall": (Stiefel(), 5), "square": (Symmetric(), 3)}, dim=-2)
    x = torch.randn(2, 8, 3)
    parts = blocks.split(x)
    assert torch.equal(parts["tall"], x[:, :5])
    assert torch.equal(parts["square"], x[:, 5:])
    assert torch.equal(blocks.join(parts), x)
    stacked = Product([(Stiefel(), (3, 4))], dim=-2)
    (part,) = stacked.split(torch.randn(2, 12, 5))
    assert part.shape == (2, 3, 4, 5)


REFUSED = [
    (lambda: POSE.check_shape((5, 11)), r"size 9 \+ 3 = 12 along dimension -1; got.*\(5, 11\)"),
    (lambda: POSE.split(torch.ones(5)), "size 9"),
    (lambda: POSE.check_shape(()), "size 9"),
    (
        lambda: Product([(Symmetric(), 3)], dim=-2).check_shape((3, 4)),
        r"Factor 0.*square.*\(3, 4\)",
    ),
    (lambda: Product({"a": (Stiefel(), 4)}), r"Factor 'a' of.*matrices.*got.*\(4,\)"),
    (lambda: Product([]), "at least one factor"),
    (lambda: Product([(Stiefel(), (2, 2))], dim=0), "negative; got 0"),
    (lambda: Product([(Sphere(), ())]), "positive numbers"),
    (lambda: Product([(Sphere(), (2, 0))]), "positive numbers"),
    (
        lambda: POSE.join({"rotation": torch.ones(3, 3)}),
        r"\['rotation', 'translation'\]; got \['ro",
    ),
    (lambda: POSE.join([torch.ones(3, 3), torch.ones(3)]), r"got \[0, 1\]"),
    (lambda: PACKED.join([torch.ones(3, 2)]), r"\[0, 1, 2\]; got \[0\]"),
    (
        lambda: POSE.join({"rotation": torch.ones(9), "translation": torch.ones(3)}),
        r"\(\*batch, 3, 3\) is needed; got \(9,\)",
    ),
]


@pytest.mark.parametrize(("attempt", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_what_is_refused_says_what_was_given_and_what_is_needed(attempt, message):
    with pytest.raises(ValueError, match=message):
        attempt()


@pytest.mark.parametrize("factor", [Stiefel(), (Stiefel, 3), (Stiefel(), "33"), (3, Stiefel())])
def test_a_factor_is_a_manifold_and_a_shape(factor):
    with pytest.raises(TypeError, match=r"a manifold and a shape, \(Stiefel\(\), \(3, 3\)\)"):
        Product([factor])


def test_a_value_as_any_manifold():
    again = Product({"rotation": (Stiefel(), [3, 3]), "translation": (Euclidean(), (3,))})
    assert again == POSE
    assert hash(again) == hash(POSE) == hash(copy.deepcopy(POSE))
    turned = Product({"translation": (Euclidean(), 3), "rotation": (Stiefel(), (3, 3))})
    assert turned != POSE  # another layout
    p = riemopt.ManifoldParameter(torch.randn(2, 12), POSE)
    buffer = io.BytesIO()
    torch.save(p, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True).manifold == POSE


# --- factor by factor -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_each_method_is_that_of_the_factors(dtype):
    x, y = (PACKED.random_point(4, 18, generator=generator(s), dtype=dtype) for s in (0, 1))
    u, v = (PACKED.random_tangent(x, generator=generator(s)) for s in (2, 3))
    g = torch.randn(4, 18, generator=generator(4), dtype=dtype)
    cases = {
        "proj_tangent": (x, g),
        "egrad2rgrad": (x, g),
        "transport": (x, y, v),
        "retract": (x, u),
        "exp": (x, u),
        "project": (g,),
    }
    for method, arguments in cases.items():
        result = PACKED.split(getattr(PACKED, method)(*arguments))
        parts = zip(*map(PACKED.split, arguments), strict=True)
        for manifold, part, own in zip(PACKED.manifolds, result, parts, strict=True):
            torch.testing.assert_close(part, getattr(manifold, method)(*own), msg=method)


def test_the_metric_is_the_sum_and_the_violation_the_largest():
    x = PACKED.random_point(4, 18, generator=generator(), dtype=torch.float64)
    u, v = (PACKED.random_tangent(x, generator=generator(s)) for s in (2, 3))
    X, U, V = map(PACKED.split, (x, u, v))
    stiefel, sphere, symmetric = PACKED.manifolds
    expected = (
        stiefel.inner(X[0], U[0], V[0])  # canonical
        + sphere.inner(X[1], U[1], V[1]).sum(-1)  # two points in one factor
        + symmetric.inner(X[2], U[2], V[2])
    )
    torch.testing.assert_close(PACKED.inner(x, u, v), expected)
    x[0, 0] += 0.5
    x[1, 6] += 0.5
    x[2, 10] += 0.25
    violation = PACKED.violation(x)
    assert violation.shape == (4,)
    torch.testing.assert_close(violation[0], stiefel.violation(X[0])[0])
    torch.testing.assert_close(violation[1], sphere.violation(X[1])[1, 0])
    torch.testing.assert_close(violation[2], sphere.violation(X[1])[2, 1])
    assert violation[3] < 1e-12


def test_dimension_and_distance():
    manifold = Product([(Sphere(), (2, 4)), (Euclidean(), 3)])
    assert manifold.dim((7, 11)) == 2 * 3 + 3
    assert manifold.dim((7, 11), is_complex=True) == 2 * 7 + 6
    x, y = (manifold.random_point(5, 11, generator=generator(s)) for s in (0, 1))
    (a, b), (c, d) = manifold.split(x), manifold.split(y)
    squares = Sphere().dist(a, c).square().sum(-1) + (b - d).square().sum(-1)
    torch.testing.assert_close(manifold.dist(x, y), squares.sqrt())
    with pytest.raises(NotImplementedError, match=r"Product.*no closed-form dist: Stiefel\(\) has"):
        POSE.dist(torch.ones(12), torch.ones(12))


def test_properties_hold_where_they_hold_of_all_factors():
    assert POSE.is_constraint
    assert not POSE.has_constant_norm
    assert not Product([(Euclidean(), 3)]).is_constraint
    assert Product([(Euclidean(), 3), (Symmetric(), (2, 2))]).allows_elementwise_scaling
    assert not Product([(Euclidean(), 3), (FixedSum(), 2)]).allows_elementwise_scaling
    assert Product([(Stiefel(), (2, 2)), (Sphere(), 2)]).has_constant_norm


def test_dimensions_of_a_factor_are_counted_in_its_part():
    """Columns of the part, whatever the batch."""
    manifold = Product([(Sphere(dim=0), (3, 2)), (Sphere(dim=None), (2, 2))])
    x = manifold.random_point(5, 10, generator=generator())
    columns, whole = manifold.split(x)
    torch.testing.assert_close(columns.norm(dim=-2), torch.ones(5, 2))
    torch.testing.assert_close(whole.flatten(1).norm(dim=-1), torch.ones(5))


def test_products_of_products():
    nested = Product({"pose": (POSE, 12), "scales": (Sphere(), 4)})
    x = nested.random_point(3, 16, generator=generator())
    assert nested.violation(x).shape == (3,)
    assert nested.dim((16,)) == 3 + 3 + 3
    assert POSE.split(nested.split(x)["pose"])["rotation"].shape == (3, 3, 3)


def test_one_batched_factor_is_as_good_as_three():
    batched = Product([(Stiefel(), (3, 4))], dim=-2)
    three = Product([(Stiefel(), 4)] * 3, dim=-2)
    x = three.random_point(12, 4, generator=generator(), dtype=torch.float64)
    g = torch.randn(12, 4, generator=generator(1), dtype=torch.float64)
    for method in ("proj_tangent", "egrad2rgrad"):
        torch.testing.assert_close(getattr(batched, method)(x, g), getattr(three, method)(x, g))
    torch.testing.assert_close(batched.carry(x, g, g, 0.9, 0.1), three.carry(x, g, g, 0.9, 0.1))
    assert batched.dim(x.shape) == three.dim(x.shape)
    for mine, theirs in zip(
        batched.carry_mean(x, g, g, 0.9), three.carry_mean(x, g, g, 0.9), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_a_large_translation_does_not_hide_a_wrong_rotation():
    layer = nn.Module()
    layer.pose = riemopt.ManifoldParameter(torch.randn(2, 12, generator=generator()), POSE)
    with torch.no_grad():
        layer.pose[:, 9:] = 1e6
    assert constraints(layer)[0].satisfied
    with torch.no_grad():
        layer.pose[1, 0] += 1e-3
    report = constraints(layer)[0]
    assert not report.satisfied
    assert report.violation > 1e-4
    riemopt.project_(layer)
    assert constraints(layer)[0].satisfied


def test_a_step_counts_as_shortened_if_that_of_any_factor_is():
    level_set = LevelSet(unit_norm, event_ndim=1)
    manifold = Product([(level_set, (2, 3)), (Euclidean(), 2)])
    x = manifold.random_point(4, 8, generator=generator(), dtype=torch.float64)
    u = manifold.random_tangent(x, generator=generator(1))
    t = torch.tensor([1.0, 1e4, 1.0, 1e4]).double()[:, None]
    y, taken = manifold.curve_with_fraction(x, u, t)
    of_factor = level_set.curve_with_fraction(
        manifold.split(x)[0], manifold.split(u)[0], t[:, None]
    )[1]
    assert torch.equal(taken, of_factor.amin(-1))
    assert taken.eq(1).tolist() == [True, False, True, False]
    assert manifold.violation(y).max() < 1e-12
    assert POSE.curve_with_fraction(torch.eye(3, 4).reshape(12), torch.zeros(12), 1.0)[1] is None
    p = riemopt.ManifoldParameter(x, manifold)
    optimizer = riemopt.RiemannianSGD([p], lr=1e4)
    p.grad = u.clone()
    optimizer.step()
    assert optimizer.shortened_steps == 4


def test_constants_of_factors_are_copied_when_an_optimizer_is_given_the_parameter():
    pattern = Sparsity(torch.eye(3) > 0)
    p = nn.Parameter(torch.empty(9, device="meta"))
    group = {"params": [p], "manifold": Product([(pattern, (3, 3))])}
    riemopt.RiemannianSGD([group], lr=0.1)
    assert len(pattern.mask.copies.devices) == 1


# --- what it is for -------------------------------------------------------------------------


def rotate(quaternion, v):
    w, r = quaternion[..., :1], quaternion[..., 1:]
    return v + 2 * torch.linalg.cross(r, torch.linalg.cross(r, v) + w * v)


MOTIONS = {
    "matrices": (POSE, lambda p, v: v @ p["rotation"].mT + p["translation"][:, None]),
    "quaternions": (
        Product({"quaternion": (Sphere(), 4), "translation": (Euclidean(), 3)}),
        lambda p, v: rotate(p["quaternion"][:, None], v) + p["translation"][:, None],
    ),
}


@pytest.mark.parametrize("kind", MOTIONS)
def test_poses_are_found_from_points_and_their_images(kind):
    """Eight rigid motions at once, from an orientation near to the true one."""
    manifold, move = MOTIONS[kind]
    size = sum(manifold.cut.sizes)
    true = manifold.random_point(8, size, generator=generator())
    points = torch.randn(8, 20, 3, generator=generator(1))
    images = move(manifold.split(true), points)
    start = true + 0.2 * torch.randn(8, size, generator=generator(2))
    poses = riemopt.ManifoldParameter(start, manifold)
    optimizer = riemopt.RiemannianAdam([poses], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        (move(manifold.split(poses), points) - images).square().mean().backward()
        optimizer.step()
    assert (poses - true).abs().max() < 2e-3
    assert manifold.violation(poses.detach()).max() < 1e-6


def test_attention_with_three_orthogonal_blocks_in_one_parameter():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    constrain(attention, "in_proj_weight", Product([(Stiefel(), (3, 8))], dim=-2))
    optimizer = riemopt.RiemannianSGD(attention.parameters(), lr=0.1, momentum=0.9)
    x, before = torch.randn(4, 5, 8), attention.in_proj_weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        attention(x, x, x)[0].square().mean().backward()
        optimizer.step()
    for block in attention.in_proj_weight.detach().chunk(3):
        torch.testing.assert_close(block.mT @ block, torch.eye(8), atol=1e-6, rtol=0)
    assert not torch.equal(attention.in_proj_weight, before)


# --- several parameters of a module ---------------------------------------------------------


class Pose(nn.Module):
    def __init__(self):
        super().__init__()
        self.rotation = nn.Parameter(torch.randn(3, 3))
        self.direction = nn.Parameter(torch.randn(3))
        self.offset = nn.Parameter(torch.randn(3))


def test_constrain_takes_several_parameters():
    pose = Pose()
    before = riemopt.RiemannianAdam(pose.parameters())
    kept = dict(pose.named_parameters())
    chosen = {"rotation": Stiefel(), "direction": Sphere()}
    assert constrain(pose, chosen, tangent_grad=True) is pose
    assert dict(pose.named_parameters()) == kept
    assert {c.name: c.manifold for c in constraints(pose)} == chosen
    assert all(c.satisfied for c in constraints(pose))
    assert manifold_of(pose.offset) is None
    for optimizer in (before, riemopt.RiemannianAdam(pose.parameters())):
        assert "1 on Stiefel()" in repr(optimizer)
        assert "1 on Sphere()" in repr(optimizer)
    pose.direction.sum().backward()
    assert abs(pose.direction.grad @ pose.direction.detach()) < 1e-6
    assert constrain(pose, {}) is pose


SEVERAL_REFUSED = [
    ({"rotation": Stiefel(), "direction": Stiefel()}, ValueError, "'direction' of Pose: Stiefel"),
    ({"rotation": Stiefel(), "scale": Sphere()}, AttributeError, "no parameter 'scale'"),
    ({"rotation": Stiefel(), "direction": Sphere}, TypeError, r"'direction' of Pose.*Sphere\(\)"),
    ({"rotation": Stiefel(), "broken": Sphere()}, ValueError, "'broken' of Pose.*not finite"),
    ({"rotation": Stiefel(), "alias": Symmetric()}, ValueError, "'alias' of Pose is tied"),
    (
        {"rotation": Stiefel(), "direction": LevelSet(lambda x: x.square().sum() + 1)},
        ValueError,
        "found no point",
    ),
    ({"rotation": Stiefel(), 3: Sphere()}, TypeError, "the name of its parameter"),
]


@pytest.mark.parametrize(("chosen", "error", "message"), SEVERAL_REFUSED, ids=str)
def test_nothing_is_changed_if_one_is_refused(chosen, error, message):
    pose = Pose()
    pose.alias = pose.rotation
    pose.broken = nn.Parameter(torch.tensor([1.0, torch.nan]))
    optimizer = riemopt.RiemannianSGD(pose.parameters(), lr=0.1)
    before = copy.deepcopy(pose.state_dict())
    with pytest.raises(error, match=message):
        constrain(pose, chosen)
    assert constraints(pose) == []
    assert "on Stiefel" not in repr(optimizer)
    for key, value in pose.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True)


def test_a_dict_and_a_manifold_besides_are_refused():
    with pytest.raises(TypeError, match=r"each name has; got Sphere\(\) as well"):
        constrain(Pose(), {"rotation": Stiefel()}, Sphere())


def test_two_names_of_one_parameter_may_agree():
    pose = Pose()
    pose.alias = pose.rotation
    constrain(pose, {"rotation": Stiefel(), "alias": Stiefel()})
    assert [c.name for c in constraints(pose)] == ["rotation"]
    assert "1 on Stiefel()" in repr(riemopt.RiemannianAdam(pose.parameters()))

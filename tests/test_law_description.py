"""A manifold is a description: equal by value, hashable, frozen, written as it is read."""

import copy
import dataclasses
import pickle

import pytest

import riemopt.manifolds
from riemopt.manifolds import (
    Circulant,
    Elliptope,
    Euclidean,
    ExceptRows,
    Flag,
    Flattened,
    Grassmann,
    LinearSubspace,
    Product,
    PSDFixedRank,
    Scaled,
    SkewSymmetric,
    Sparsity,
    SpecialEuclidean,
    SpecialOrthogonal,
    Spectrahedron,
    Sphere,
    Stiefel,
    Symmetric,
    Toeplitz,
)
from riemopt.manifolds.bases import Bases
from tests import manifold_cases
from tests.manifold_cases import CASES, over_cases


def written(manifold):
    """What the repr says, as Python reads it."""
    return eval(repr(manifold), {**vars(riemopt.manifolds), **vars(manifold_cases)})


@over_cases(lambda case: case.again is None)
def test_repr_is_the_constructor_call(case):
    assert written(case.manifold) == case.manifold


@over_cases()
def test_equal_by_value(case):
    same = case.again() if case.again else written(case.manifold)
    assert same is not case.manifold
    assert hash(same) == hash(case.manifold)
    assert [other.manifold for other in CASES if other.manifold == same] == [case.manifold]


@over_cases()
@pytest.mark.parametrize(
    "remake", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies_are_equal(case, remake):
    assert remake(case.manifold) == case.manifold


@over_cases()
def test_frozen(case):
    field = (dataclasses.fields(case.manifold) or [None])[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(case.manifold, field.name if field else "anything", 0)


def test_spellings_of_one_sphere():
    assert Sphere() == Sphere(-1) == Sphere(dim=(-1,), radius=1)
    assert repr(Sphere()) == "Sphere()"
    assert Sphere(dim=1).with_dims_from_end(2) == Sphere()


REJECTED = [
    (Sphere(), (), "dimension"),
    (Sphere(), (3, 0), "at least one entry"),
    (Sphere(dim=2), (3, 4), "dimension"),
    (Sphere(dim=None), (), "dimension"),
    (Sphere(dim=(0, -1)), (4,), "distinct"),
    (Stiefel(), (3,), "matrices"),
    (Stiefel(), (3, 0), "n ≥ 1 and p ≥ 1"),
    (Symmetric(), (3, 2), "square"),
    (Symmetric(), (3,), "square"),
    (SkewSymmetric(), (2, 3, 2), "square"),
    (SkewSymmetric(), (0, 0), "square"),
    (SpecialOrthogonal(), (3, 2), "square"),
    (SpecialEuclidean(), (3, 4), "4×4 for motions of space"),
    (SpecialEuclidean(), (1, 1), "n ≥ 1"),
    (Flag(1, 2), (5, 2), "n ≥ 3"),
    (Flag(3), (3, 3), "more than one block"),
    (Grassmann(), (3,), "matrices"),
    (PSDFixedRank(3), (4, 4), "not that matrix"),
    (Elliptope(3), (2, 3), "n ≥ 3"),
    (Spectrahedron(2), (2,), "factors"),
    (Grassmann(), (2, 3, 3), "not square"),
    (Flattened(Stiefel()), (3, 2, 2), "at least event_ndim=4 dimensions"),
    (Flattened(Stiefel()), (3, 0, 2, 2), "n ≥ 1 and p ≥ 1"),
    (Flattened(Symmetric(), event_ndim=3), (4, 2, 3), "square"),
]


@pytest.mark.parametrize(("manifold", "shape", "rule"), REJECTED, ids=str)
def test_wrong_shape_is_named(manifold, shape, rule):
    """The message says which manifold, what it needs, and the shape it was given."""
    with pytest.raises(ValueError, match=rule) as raised:
        manifold.check_shape(shape)
    assert type(getattr(manifold, "base", manifold)).__name__ in str(raised.value)
    assert str(shape) in str(raised.value)
    with pytest.raises(ValueError, match=rule):
        manifold.random_point(*shape)


@over_cases()
def test_right_shapes_are_accepted(case):
    for shape in case.shapes.values():
        case.manifold.check_shape(shape)


WRONG_OPTIONS = [
    (lambda: Sphere(radius=0), "radius"),
    (lambda: Sphere(radius=float("nan")), "radius"),
    (lambda: Sphere(dim=()), "dim"),
    (lambda: Sphere(dim=(1, 1)), "dim"),
    (lambda: Flag(), "sizes"),
    (lambda: PSDFixedRank(0), "rank"),
    (lambda: Elliptope(2.0), "rank"),
    (lambda: Flag(1, 0), "sizes"),
    (lambda: Stiefel("svd"), "retraction"),
    (lambda: Stiefel(metric="flat"), "metric"),
    (lambda: Flattened(Euclidean()), "matrices"),
    (lambda: Flattened(Sphere(dim=None)), "matrices"),
    (lambda: Flattened(Sphere(dim=(0, 1))), "matrices"),  # of a batch these are not the last two
    (lambda: Flattened(Stiefel(), event_ndim=1), "event_ndim"),
]


@pytest.mark.parametrize(("make", "option"), WRONG_OPTIONS)
def test_wrong_options_are_named(make, option):
    with pytest.raises(ValueError, match=option):
        make()


def test_what_an_optimizer_asks():
    """The properties that decide how a parameter is stepped."""
    assert not Euclidean().is_constraint
    assert all(case.manifold.is_constraint for case in CASES if case.manifold != Euclidean())
    linear = {type(case.manifold) for case in CASES if case.manifold.allows_elementwise_scaling}
    ties = {Circulant, Sparsity, Toeplitz}
    assert linear == {Euclidean, Symmetric, SkewSymmetric, Flattened} | ties
    assert not Flattened(Stiefel()).allows_elementwise_scaling
    for case in CASES:
        if isinstance(case.manifold, Product | ExceptRows):
            continue
        base = getattr(case.manifold, "base", case.manifold)
        of_constant_norm = Bases | Elliptope | SpecialOrthogonal | Spectrahedron | Sphere | Stiefel
        constant = isinstance(base, of_constant_norm)
        constant = constant and not isinstance(case.manifold, Scaled)
        assert case.manifold.has_constant_norm == constant


def test_a_manifold_that_is_no_dataclass_can_be_printed():
    class Plain(LinearSubspace):
        event_ndim = 1

        def proj_tangent(self, x, u):
            return u

        def check_shape(self, shape):
            pass

        def dim(self, shape, *, is_complex=False):
            return shape[-1]

    assert repr(Plain()) == "Plain()"

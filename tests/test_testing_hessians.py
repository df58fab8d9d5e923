"""`check_hessian`: right Hessians are accepted, wrong ones rejected and told apart."""

import pytest
import torch
from torch import Tensor

from riemopt.manifolds import (
    SPD,
    Euclidean,
    FixedRank,
    Manifold,
    Sphere,
    Stiefel,
    Symmetric,
    SymplecticStiefel,
)
from riemopt.testing import check_hessian
from tests import test_planted_mistakes as planted
from tests.manifold_cases import EXACT, name
from tests.test_testing_gradients import B, Cube, quadratic, quadratic_gradient

DERIVATIVE, TERM = "Hessian is the gradient's derivative", "Hessian is the second-order term"


def quadratic_hessian(x: Tensor, u: Tensor) -> Tensor:
    A = B.to(x.dtype) if x.is_complex() else B.real
    along = 2 * (x.conj() * u).real * x + x.abs().square() * u
    return (A + A.mH) @ u / 2 + 4 * along


EUCLIDEAN = {"euclidean_gradient": quadratic_gradient, "euclidean_hessian": quadratic_hessian}


def riemannian(manifold):
    def gradient(x):
        return manifold.egrad2rgrad(x, quadratic_gradient(x))

    def hessian(x, u):
        return manifold.ehess2rhess(x, quadratic_gradient(x), quadratic_hessian(x, u), u)

    return {"riemannian_gradient": gradient, "riemannian_hessian": hessian}


@pytest.mark.parametrize("dtype", EXACT, ids=name)
@pytest.mark.parametrize(
    "manifold", [Stiefel(), Stiefel(metric="canonical"), Sphere(dim=(-2, -1))], ids=str
)
def test_a_right_hessian_is_accepted(manifold, dtype):
    for given in ({}, EUCLIDEAN, riemannian(manifold)):
        places = (4, 2), (2, 4, 3)
        report = check_hessian(quadratic, manifold, *places, dtype=dtype, repeats=2, **given)
        report.require()
        assert report[TERM].slope == pytest.approx(3, abs=0.15)


def test_which_slopes_are_taken_follows_from_metric_and_retraction():
    """Along `exp`, along a second-order retraction, by the gradient alone, or both."""
    taken = {}
    for manifold, shape in [
        (Sphere(dim=(-2, -1)), (4, 2)),
        (SPD("affine"), (4, 4)),
        (FixedRank(1), (4, 3)),
        (SymplecticStiefel(), (4, 2)),
    ]:
        report = check_hessian(quadratic, manifold, shape, repeats=2).require()
        taken[type(manifold).__name__] = [
            report[law].slope and round(report[law].slope) for law in (DERIVATIVE, TERM)
        ]
    assert taken == {
        "Sphere": [2, 3],
        "SPD": [None, 3],
        "FixedRank": [2, 3],
        "SymplecticStiefel": [2, None],
    }


def test_a_hessian_that_is_wrong_by_a_hundredth_is_rejected():
    """Over twenty seeds; the right one is accepted as often."""

    def wrong(x, u):
        return 1.01 * quadratic_hessian(x, u)

    for seed in range(20):
        options = {"seed": seed, "repeats": 1}
        assert check_hessian(quadratic, Stiefel(), (4, 2), **EUCLIDEAN, **options)
        report = check_hessian(
            quadratic, Stiefel(), (4, 2), **{**EUCLIDEAN, "euclidean_hessian": wrong}, **options
        )
        assert {DERIVATIVE, TERM} <= {row.law for row in report.failed}, str(report)


def laws_broken(manifold, hessian, **others):
    report = check_hessian(quadratic, manifold, (4, 2), riemannian_hessian=hessian, **others)
    return {row.law for row in report.failed}


def test_wrong_hessians_are_told_apart():
    manifold = Sphere(dim=(-2, -1))
    right = riemannian(manifold)["riemannian_hessian"]

    def projected(x, u):  # the surface's share is missing
        return manifold.proj_tangent(x, quadratic_hessian(x, u))

    def with_a_turn(x, u):  # what ⟨Hv, v⟩ does not see
        v = torch.stack([u[1], -u[0], 0 * u[2], 0 * u[3]])
        return right(x, u) + 0.1 * manifold.proj_tangent(x, v)

    def curved(x, u):
        return right(x, u) + 0.1 * manifold.norm(x, u, keepdim=True) * u

    assert laws_broken(manifold, right) == set()
    assert laws_broken(manifold, lambda x, u: right(x, u) + x) == {
        "Hessian is tangent",
        "Hessian is linear",
        DERIVATIVE,
    }
    assert laws_broken(manifold, projected) == {DERIVATIVE, TERM}
    assert laws_broken(manifold, with_a_turn) == {"Hessian is self-adjoint", DERIVATIVE}
    assert "Hessian is linear" in laws_broken(manifold, curved)


def test_advice_names_the_part_that_is_wrong():
    report = check_hessian(
        quadratic,
        Sphere(dim=(-2, -1)),
        (4, 2),
        euclidean_gradient=lambda x: 2 * quadratic_gradient(x),
        euclidean_hessian=quadratic_hessian,
    )
    assert round(report[TERM].slope) == 1
    assert "check_gradient" in report[TERM].advice


def test_the_conversion_of_a_manifold_is_checked_with_it():
    assert check_hessian(quadratic, planted.ProjectedHessian(), (4, 2))[TERM].slope < 2.2


def test_a_custom_backward_is_checked_twice_through():
    def through(power):
        return check_hessian(lambda x: Cube.apply(x, power).sum(), Sphere(), (5,))

    assert through(2)
    assert not through(1)


def test_functions_of_any_size_and_linear_ones():
    for size in (1e-12, 1e12):
        check_hessian(lambda x, s=size: s * x.square().square().sum(), Sphere(), (5,)).require()
    check_hessian(lambda x: 3 * x.sum(), Symmetric(), (3, 3)).require()  # exact
    check_hessian(lambda x: 3 * x.sum(), Sphere(), (5,)).require()  # curved by the surface
    check_hessian(lambda x: x.square().sum(), Euclidean(), (5,)).require()


REFUSED = [
    ({"euclidean_hessian": quadratic_hessian, "riemannian_hessian": quadratic_hessian}, "not both"),
    ({"riemannian_gradient": quadratic_gradient}, "with riemannian_gradient give"),
    ({"euclidean_hessian": lambda x, u: u.sum()}, "The Hessian takes a point and a tangent"),
    ({"euclidean_hessian": lambda x, u: 1.0}, "got 1.0"),
]


@pytest.mark.parametrize(("given", "text"), REFUSED)
def test_what_cannot_be_checked_is_refused(given, text):
    with pytest.raises(ValueError, match=text):
        check_hessian(quadratic, Stiefel(), (4, 2), **given)
    with pytest.raises(ValueError, match="does not depend"):
        check_hessian(lambda x: torch.ones(()).double(), Stiefel(), (4, 2))


def test_a_manifold_without_a_conversion_is_named():
    class OtherMetric(Sphere):
        ehess2rhess = Manifold.ehess2rhess

        def egrad2rgrad(self, x, g):
            return 2 * self.proj_tangent(x, g)

    with pytest.raises(ValueError, match=r"no closed-form ehess2rhess.*Give riemannian_gradient"):
        check_hessian(quadratic, OtherMetric(), (4, 2))

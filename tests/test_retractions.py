"""Retractions as values: names, refusals, and one of a user's own in all places."""

import io
from dataclasses import dataclass

import pytest
import torch

import riemopt
from riemopt import linalg
from riemopt.distributed import sharded_geometry
from riemopt.manifolds import QR, Cayley, Cubic, Polar, Retraction, Stiefel
from riemopt.manifolds.retractions import NAMED, polar_of
from riemopt.testing.behaviour import arguments_are_left_alone, results_keep_the_layout
from riemopt.testing.retractions import (
    curve_is_its_definition,
    retraction_fixes_zero,
    retraction_is_first_order,
    retraction_is_second_order,
)
from tests import test_distributed as distributed
from tests import test_law_retraction as laws
from tests.laws import assert_law
from tests.manifold_cases import EXACT, MATRICES, Case, for_seeds, generator, name, over, point


@dataclass(frozen=True)
class Quadratic(Retraction):
    """The polar factor of X + U - ½X·UᴴU; a step longer than `longest` is cut to that length."""

    longest: float = 8.0

    def coefficients(self, XX, XU, UU):
        norm = torch.linalg.vector_norm(UU, dim=(-2, -1), keepdim=True).sqrt()
        s = self.longest / norm.clamp(min=self.longest)
        eye = linalg.identity_like(UU)
        return polar_of(eye - s * s * UU / 2, s * eye, XX, XU, UU)


OWN = Stiefel(Quadratic())
CASES = [Case(OWN, MATRICES, "ambient"), Case(Stiefel(Quadratic(), "canonical"), MATRICES)]


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", NAMED)
def test_a_name_is_the_value(word):
    assert Stiefel(word) == Stiefel(NAMED[word])
    assert hash(Stiefel(word)) == hash(Stiefel(NAMED[word]))
    assert len({*map(Stiefel, NAMED)}) == 4
    assert Stiefel(Quadratic()) == OWN != Stiefel(Quadratic(4.0))


def test_none_depends_on_the_shape():
    assert Stiefel().retraction_of((3, 4, 4)) == Cubic()
    assert Stiefel().retraction_of((4, 3)) == Polar()
    assert Stiefel(Cayley()).retraction_of((4, 4)) == Cayley()
    with pytest.raises(ValueError, match="square"):
        Stiefel(Cubic()).check_shape((4, 3))


@pytest.mark.parametrize("value", ["svd", 3, QR])
def test_what_is_no_retraction_is_told_what_is(value):
    with pytest.raises(ValueError, match=r"'polar', 'cubic', 'qr', 'cayley', a Retraction such as"):
        Stiefel(value)


@pytest.mark.parametrize("dtype", EXACT, ids=name)
@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (4, 4)])
@pytest.mark.parametrize("value", NAMED.values(), ids=NAMED)
def test_coefficients_lead_where_the_curve_does(value, shape, dtype):
    if value.needs_square and shape[0] != shape[1]:
        return
    x = Stiefel().random_point(2, *shape, generator=generator(0), dtype=dtype)
    u = Stiefel().random_tangent(x, generator=generator(1))
    for t in (0.01, 1.0, 100.0):
        if type(value) is QR and shape[0] == shape[1] and t > 10:
            continue  # the factor of a matrix of condition 100, by its square
        torch.testing.assert_close(Retraction.curve(value, x, u, t), value.curve(x, u, t))


def test_a_retraction_that_gives_nothing_says_so():
    x = torch.eye(3, 2)
    with pytest.raises(NotImplementedError, match="Retraction has no coefficients"):
        Stiefel(Retraction()).retract(x, x)


# --- one of a user's own -----------------------------------------------------------------------


@over(cases=CASES)
def test_it_stays_on_the_surface(case, shape, dtype):
    x = point(case, shape, dtype)
    for size in laws.SIZES:
        laws.law_retract_stays_on_surface(case.manifold, x, generator(1), size)
    for law in (results_keep_the_layout, curve_is_its_definition, retraction_fixes_zero):
        assert_law(law, case.manifold, x, generator(1))
    arguments_are_left_alone(case.manifold, x, generator(1))
    laws.law_batch_equals_loop(case.manifold, x, generator(1))


@over(dtypes=EXACT, kinds="small", cases=CASES)
@for_seeds
def test_it_has_its_order(case, shape, dtype, seed):
    x = point(case, shape, dtype, seed)
    assert_law(retraction_is_first_order, case.manifold, x, generator(seed + 1))
    if case.second_order:
        assert_law(retraction_is_second_order, case.manifold, x, generator(seed + 1))


def test_it_trains():
    target = OWN.random_point(8, 3, generator=generator(0))
    p = riemopt.ManifoldParameter(OWN.random_point(8, 3, generator=generator(1)), OWN)
    optimizer = riemopt.RiemannianAdam([p], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (p - target).square().sum()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert OWN.violation(p.detach().double()) < 1e-6


@pytest.mark.parametrize(("shape", "dim"), [((9, 4), -2), ((4, 9), -1), ((2, 5, 3), -2)])
def test_its_weights_can_be_cut(shape, dim):
    distributed.test_a_step_in_parts_is_the_whole_step(OWN, shape, dim)
    distributed.test_a_step_in_parts_reads_nothing_on_the_host(OWN, shape, dim)


def test_it_loads_from_a_checkpoint():
    p = riemopt.ManifoldParameter(torch.randn(6, 3), OWN)
    file = io.BytesIO()
    torch.save(p, file)
    file.seek(0)
    with torch.serialization.safe_globals([Quadratic]):
        loaded = torch.load(file, weights_only=True)
    assert torch.equal(loaded, p)
    assert riemopt.manifold_of(loaded) == OWN


@pytest.mark.parametrize("value", NAMED.values(), ids=NAMED)
def test_built_in_ones_load_from_a_checkpoint(value):
    file = io.BytesIO()
    torch.save(riemopt.ManifoldParameter(torch.randn(3, 3), Stiefel(value)), file)
    file.seek(0)
    assert riemopt.manifold_of(torch.load(file, weights_only=True)) == Stiefel(value)


class CurveAlone(Retraction):
    def curve(self, x, u, t):
        return linalg.polar_step(x, u, t)


def test_without_coefficients_whole_weights_alone_are_stepped():
    whole = Stiefel(CurveAlone())
    assert whole == Stiefel(CurveAlone())
    laws.law_retract_stays_on_surface(whole, torch.eye(4, 2), generator(0), 1.0)
    for manifold, shape, dim, words in [
        (whole, (6, 3), -2, "CurveAlone has no `coefficients`.*Give it that method, or keep"),
        (OWN, (4, 4), -1, r"Quadratic needs whole rows. Use Shard\(0\)"),
    ]:
        with pytest.raises(NotImplementedError, match=words):
            sharded_geometry(manifold, frozenset({dim}), shape)

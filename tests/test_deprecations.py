"""What version 0.1 called otherwise: all of it, each with one warning."""

import warnings

import pytest
import torch

from riemopt import Manifold, RiemannianAdam
from riemopt.manifolds import Sphere, Stiefel, renamed


@pytest.fixture(autouse=True)
def _nobody_was_warned(monkeypatch):
    monkeypatch.setattr(renamed, "_warned", set())


X = torch.eye(4, 2)
U = torch.ones(4, 2).tril(-1)
CALLS = {
    "anchored": (2,),
    "at": (X,),
    "attempt": (X, U, 0.5),
    "average": (X, U, U, 0.9),
    "is_linear": None,
}


def test_every_old_name_is_tried():
    assert set(CALLS) == set(renamed.RENAMED)
    assert all(hasattr(Manifold, new) and not hasattr(Manifold, o) for o, new in _pairs())


def _pairs():
    return renamed.RENAMED.items()


@pytest.mark.parametrize("old", CALLS)
def test_an_old_name_is_the_new_one_and_warns_once(old):
    new, manifold = renamed.RENAMED[old], Stiefel()
    with pytest.warns(FutureWarning, match=rf"Stiefel\.{old} is called {new}") as caught:
        value = getattr(manifold, old)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert getattr(manifold, old) == value == getattr(manifold, new)
        assert CALLS[old] is None or value(*CALLS[old]) is not None


def test_what_a_class_of_a_user_overrides_is_called_by_its_new_name():
    with pytest.warns(
        FutureWarning, match=r"Mine\.attempt is called curve_with_fraction"
    ) as caught:

        class Mine(Sphere):
            def attempt(self, x, u, t):
                return x, torch.zeros(x.shape[:-1])

    assert caught[0].filename == __file__
    x = torch.eye(3)
    moved, fraction = Mine().curve_with_fraction(x, torch.ones(3, 3), 1.0)
    assert moved is x
    assert not fraction.any()


def test_what_is_gone_says_what_to_write():
    with pytest.raises(AttributeError, match=r"write y = retract\(x, u\), then transport"):
        Stiefel().retract_transport(X, U, U)
    with pytest.raises(AttributeError, match=r"write curve\(x, proj_tangent"):
        Stiefel().step(X, U, 0.1)


def test_elementwise_second_moments_are_called_carried():
    with pytest.warns(FutureWarning, match="carried"):
        optimizer = RiemannianAdam([torch.nn.Parameter(X)], second_moment="elementwise")
    assert optimizer.second_moment == "carried"

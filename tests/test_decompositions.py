"""Singular values and eigenvalues are found where LAPACK gives up at the first try."""

import pytest
import torch

from riemopt.linalg import decompositions
from riemopt.manifolds import AffineSubspace, Stiefel
from tests.manifold_cases import FULL, generator, name


def nearly_orthonormal():
    """A matrix whose SVD in float32 does not converge, with the LAPACK of torch's CPU builds."""
    gen = generator(1433)
    q = torch.linalg.qr(torch.randn(128, 128, generator=gen))[0]
    return q + 1e-6 * torch.randn(128, 128, generator=gen)


def fails_at_first(monkeypatch, function, times=1):
    """Make the first calls raise as LAPACK does where it has not converged."""
    original, calls = getattr(torch.linalg, function), []

    def wrapper(*args, **kwargs):
        calls.append(args)
        if len(calls) <= times:
            raise torch.linalg.LinAlgError("did not converge")
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.linalg, function, wrapper)
    return calls


def test_a_matrix_whose_svd_does_not_converge():
    a = nearly_orthonormal()
    y = Stiefel().project(a)
    expected = Stiefel().project(a.double() * 1.5)  # of singular values that are not near 1
    assert Stiefel().violation(y) < 1e-6
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (2, 4, 2)], ids=str)
@pytest.mark.parametrize("dtype", FULL, ids=name)
def test_factors_after_a_failure_are_factors(monkeypatch, dtype, shape, times):
    a = torch.randn(shape, generator=generator(0), dtype=dtype)
    h = a @ a.mH
    right = torch.linalg.svdvals(a), torch.linalg.eigvalsh(h)
    fails_at_first(monkeypatch, "svd", times)
    fails_at_first(monkeypatch, "eigh", times)
    U, s, Vh = decompositions.svd(a)
    torch.testing.assert_close(U * s.unsqueeze(-2) @ Vh, a)
    torch.testing.assert_close(s, right[0])
    values, V = decompositions.eigh(h)
    torch.testing.assert_close(V * values.unsqueeze(-2) @ V.mH, h)
    torch.testing.assert_close(V.mH @ V, torch.eye(V.shape[-1], dtype=dtype).expand_as(V))
    torch.testing.assert_close(values, right[1])


def test_nothing_is_tried_again_where_the_first_try_succeeds(monkeypatch):
    calls = fails_at_first(monkeypatch, "svd", times=0)
    Stiefel().random_point(5, 3)
    assert len(calls) == 1


def test_what_is_not_finite_is_refused_as_before():
    with pytest.raises(torch.linalg.LinAlgError, match="non-finite"):
        Stiefel().project(torch.full((3, 3), torch.nan))


def test_equations_are_factored_after_a_failure(monkeypatch):
    fails_at_first(monkeypatch, "svd")
    A = torch.randn(2, 5, generator=generator(0), dtype=torch.float64)
    x = AffineSubspace(A, 1.0).project(torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(A @ x, torch.ones(2, dtype=torch.float64))

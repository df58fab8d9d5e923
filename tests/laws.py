"""What the laws of the contract are made of. The laws are in `test_law_*.py`.

Where `riemopt.testing` has the law for users, it is that one, with the bounds of this suite:
`assert_law`. A law is a function that raises `AssertionError` where it is broken. It takes the
manifold, a point (or batch) and a generator for the vectors it needs, and works for any manifold
and dtype unless it says otherwise. Each file states its laws and runs them over every case of
`manifold_cases.py`; `test_planted_mistakes.py` shows that each of them can fail.
"""

import torch
from torch import Tensor

from riemopt.linalg import sym
from riemopt.manifolds import (
    FlatSubspace,
    Frozen,
    Manifold,
    Product,
    SpecialEuclidean,
    SpecialOrthogonal,
)
from riemopt.testing.law import Law, Residual
from riemopt.testing.sampling import ambient, batch_shape, event_dims_kept, tangent
from riemopt.testing.slopes import Curve
from tests.bounds import TWINS, assert_close, length, on_surface, rounding, wide
from tests.slopes import assert_slope

__all__ = ["ambient", "batch_shape", "event_dims_kept", "tangent"]

# Lengths of the steps that a retraction must stand.
SIZES = (0.0, 1e-8, 1.0, 1e3, 1e6)


def assert_holds(manifold: Manifold, x: Tensor, residual: Residual, factor: float = 1.0) -> None:
    """The residual is rounding: `factor` times the bound of `tests.bounds`."""
    error, allowed = residual.worst(factor * rounding(manifold, x))
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"


def assert_law(
    law: Law, manifold: Manifold, x: Tensor, gen: torch.Generator, *, factor: float = 1.0
) -> None:
    """A law of `riemopt.testing` holds at `x`, with the bounds of this suite."""
    evidence = law(manifold, x, gen)
    if isinstance(evidence, Residual):
        assert_holds(manifold, x, evidence, factor)
    elif isinstance(evidence, Curve):
        assert_slope(evidence)


def assert_on_surface(manifold: Manifold, x: Tensor) -> None:
    manifold = getattr(manifold, "product", manifold)
    if isinstance(manifold, Product):  # each factor has a bound of its own
        for factor, part in zip(manifold.manifolds, manifold.cut.split(x), strict=True):
            assert_on_surface(factor, part)
        return
    bound = on_surface(manifold, x)
    violation = manifold.violation(wide(x))
    assert bool((violation <= bound).all()), f"off by {violation.max():.3g}, bound {bound:.3g}"


def assert_tangent(manifold: Manifold, x: Tensor, u: Tensor) -> None:
    """`proj_tangent` changes nothing about `u`."""
    assert_close(manifold, manifold.proj_tangent(x, u), u, length(manifold, u))


def project_scale(manifold: Manifold, a: Tensor) -> Tensor:
    """‖project(a)‖ times the condition number of the nearest point."""
    y = manifold.project(wide(a))
    manifold = TWINS.get(manifold, manifold)
    manifold = getattr(manifold, "product", manifold)
    if isinstance(manifold, FlatSubspace):
        return length(manifold, a) + length(manifold, y)
    if isinstance(manifold, Frozen):
        return length(manifold, a)
    if isinstance(manifold, Product):
        scales = zip(manifold.manifolds, manifold.cut.split(a), strict=True)
        batch = y.ndim - manifold.event_ndim
        parts = [project_scale(m, part).unsqueeze(-1).flatten(batch) for m, part in scales]
        return torch.linalg.vector_norm(torch.cat(parts, -1), dim=-1)
    if manifold.margin:  # the nearest point of a convex set, moved inside
        return 1 + length(manifold, a) + length(manifold, y)
    if hasattr(manifold, "radius"):
        return length(manifold, y)
    if isinstance(manifold, SpecialEuclidean):
        return length(manifold, y) + project_scale(SpecialOrthogonal(), a[..., :-1, :-1])
    if isinstance(manifold, SpecialOrthogonal):
        return length(manifold, y) * (1 + torch.linalg.matrix_norm(wide(a), 2) / stiffness(y, a))
    if manifold.event_ndim == 1:
        return length(manifold, a) + length(manifold, y)
    matrix = wide(a).flatten(1 - manifold.event_ndim) if manifold.event_ndim > 2 else wide(a)
    sigma = torch.linalg.svdvals(matrix)
    return length(manifold, y) * (1 + sigma[..., 0] / sigma[..., -1])


def stiffness(y: Tensor, a: Tensor) -> Tensor:
    """The least curvature of ½‖a - ·‖² along rotations at the nearest one, y.

    Along yΩ it is tr(HΩᴴΩ) with H = sym(yᴴa): the mean of two eigenvalues of H, or, if complex, for
    a diagonal Ω of trace 0 that of diag(H) across the ones.
    """
    h = torch.linalg.eigvalsh(sym(y.mH @ wide(a)))
    n = h.shape[-1]
    if n == 1:
        return torch.ones_like(h[..., 0])
    least = (h[..., 0] + h[..., 1]) / 2
    if not y.is_complex():
        return least
    basis = torch.linalg.qr(torch.eye(n, dtype=h.dtype) - 1 / n)[0][:, : n - 1]
    return torch.minimum(
        least, torch.linalg.eigvalsh(basis.mT @ torch.diag_embed(h) @ basis)[..., 0]
    )

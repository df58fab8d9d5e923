"""Random points and tangents: where they lie, and what decides them."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from riemopt.manifolds import Flattened, Grassmann, Manifold, SpecialOrthogonal, Sphere, Stiefel
from tests.bounds import assert_close, length
from tests.laws import assert_on_surface
from tests.manifold_cases import EXACT, first_of_its_metric, generator, name, over, point

SAMPLES = 1000
# A hundred or so tests are made of one sampler; with the seed fixed this is decided once.
ALPHA = 1e-5


def law_random_point_is_on_surface(manifold: Manifold, shape: tuple[int, ...], dtype) -> None:
    """Shape, dtype, layout; and the generator alone decides."""
    x, y, z = (
        manifold.random_point(*shape, generator=torch.Generator().manual_seed(s), dtype=dtype)
        for s in (7, 7, 8)
    )
    assert (x.shape, x.dtype, x.is_contiguous()) == (shape, dtype, True)
    assert torch.equal(x, y)
    assert x.numel() <= 1 or not torch.equal(x, z)
    assert_on_surface(manifold, x)


def law_random_tangent_is_tangent(manifold: Manifold, x: Tensor) -> None:
    """Like `x`, tangent, and decided by the generator alone."""
    u, v, w = (
        manifold.random_tangent(x, generator=torch.Generator().manual_seed(s)) for s in (7, 7, 8)
    )
    assert (u.shape, u.dtype) == (x.shape, x.dtype)
    assert torch.equal(u, v)
    assert_close(manifold, manifold.proj_tangent(x, u), u, length(manifold, ambient_like(x)))
    trivial = manifold.dim(x.shape, is_complex=x.is_complex()) == 0
    assert x.numel() == 0 or trivial or not torch.equal(u, w)


def ambient_like(x: Tensor) -> Tensor:
    """The noise that `random_tangent` projects has entries of size 1."""
    return torch.ones_like(x)


def assert_marginal(coordinates: Tensor, n: int, radius: float) -> None:
    """Kolmogorov-Smirnov: they are those of uniform points of the sphere in ℝⁿ or ℂⁿ.

    |z|² is Beta(½, (n-1)/2) in ℝⁿ and Beta(1, n-1) in ℂⁿ, and the sign or phase is uniform.
    """
    z = coordinates.flatten() / radius
    if z.is_complex():
        phase = stats.uniform(-math.pi, 2 * math.pi)
        assert stats.kstest(z.angle().numpy(), phase.cdf).pvalue > ALPHA
        a, b = 1.0, n - 1.0
    else:
        assert stats.binomtest(int((z > 0).sum()), len(z)).pvalue > ALPHA
        a, b = 0.5, (n - 1) / 2
    squared = z.abs().square().clamp(max=1).numpy()
    if n > 1:
        assert stats.kstest(squared, stats.beta(a, b).cdf).pvalue > ALPHA
    else:
        assert (abs(squared - 1) < 1e-12).all()


def law_random_point_is_uniform(manifold: Manifold, shape: tuple[int, ...], dtype) -> None:
    """Each entry has the marginal of a uniform point, and so has each entry of UX for a fixed
    rotation U of the ambient space that leaves the measure as it is.

    On a sphere every entry is a coordinate in ℝᴺ; on a Stiefel manifold of n×p matrices every
    column is uniform on the sphere in ℝⁿ, n the larger side.
    """
    radius = getattr(manifold, "radius", 0.0)
    gen = torch.Generator().manual_seed(0)
    x = torch.stack(
        [manifold.random_point(*shape, generator=gen, dtype=dtype) for _ in range(SAMPLES)]
    )
    if radius:
        x = x.flatten(1).unsqueeze(-1)  # an n×1 matrix
    else:
        x = x.flatten(2)
        x = x.mT if x.shape[-2] < x.shape[-1] else x
    n, p = x.shape[-2:]
    left, right = (
        torch.linalg.qr(torch.randn(k, k, generator=gen, dtype=dtype))[0] for k in (n, p)
    )
    for rotated in (x, left @ x, x @ right):
        for i in range(n):
            for j in range(p):
                assert_marginal(rotated[:, i, j], n, radius or 1.0)


# --- over the cases ---


@over(where=first_of_its_metric)
def test_random_point(case, shape, dtype):
    law_random_point_is_on_surface(case.manifold, shape, dtype)


@over(where=first_of_its_metric)
def test_random_tangent(case, shape, dtype):
    law_random_tangent_is_tangent(case.manifold, point(case, shape, dtype))


UNIFORM = [
    (Sphere(), (5,)),
    (Sphere(), (2,)),
    (Sphere(radius=0.5), (4,)),
    (Sphere(dim=None), (2, 3)),
    (Sphere(dim=(-2, -1)), (2, 3)),
    (Stiefel(), (5, 2)),
    (Stiefel(), (2, 5)),
    (Stiefel(), (3, 3)),
    (Stiefel(), (1, 1)),
    (Stiefel("qr"), (4, 3)),
    (Flattened(Stiefel()), (2, 2, 2, 1)),
    (Grassmann(), (4, 2)),
    (SpecialOrthogonal(), (3, 3)),
    (SpecialOrthogonal(), (4, 4)),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", EXACT, ids=name)
@pytest.mark.parametrize(("manifold", "shape"), UNIFORM, ids=str)
def test_uniform(manifold, shape, dtype):
    law_random_point_is_uniform(manifold, shape, dtype)


def test_uniform_in_a_batch_along_the_first_dimension():
    x = Sphere(dim=0).random_point(4, 2000, generator=generator(0), dtype=torch.float64)
    assert_marginal(x.flatten(), 4, 1.0)


def test_generator_of_the_default_dtype_and_global_state():
    assert Sphere().random_point(3).dtype == torch.get_default_dtype()
    torch.manual_seed(1)
    x = Sphere().random_point(3)
    torch.manual_seed(1)
    assert torch.equal(x, Sphere().random_point(3))

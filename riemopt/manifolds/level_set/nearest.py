"""The point of {c = 0} next to any tensor: for starting values and repairs, not for steps.

    y, found = reach(c, a, linearise)       # some point
    y = approach(c, y, a, linearise)        # the one next to a

Reads on the host throughout.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from riemopt.manifolds.level_set.newton import Linearise, descend, land
from riemopt.manifolds.level_set.normal_space import Residual, lengths

# Newton fails from a where J is singular, such as at the centre of a sphere. Then it starts from a
# scaled to entries of about 1, plus noise of these sizes.
_SHAKEN = (0.0, 1e-3, 0.1, 1.0)
# Steps of descent along the manifold, at most.
_STEPS = 100


def reach(c: Residual, a: Tensor, linearise: Linearise) -> tuple[Tensor, Tensor]:
    """A point of {c = 0} that Newton finds from a, or else from tensors like a.

    Args:
        c: `(B, n)` → `(B, m)`.
        a: `(B, n)`.
        linearise: the normal space at given points.

    Returns:
        `(B, n)`, and `(B, 1)` whether it lies on {c = 0}; where it does not, a itself.
    """
    y, found = a, torch.zeros_like(a[:, :1], dtype=torch.bool)
    for start in _starts(a):
        reached, arrived = descend(c, start, linearise)
        y = torch.where(arrived & ~found, reached, y)
        found = found | arrived
        if bool(found.all()):
            break
    return y, found


def _starts(a: Tensor) -> Iterator[Tensor]:
    yield a
    largest = a.abs().amax(1, keepdim=True)
    scaled = a / torch.where(largest == 0, 1, largest)
    size = scaled.square().mean(1, keepdim=True).sqrt()
    scaled = scaled / torch.where(size == 0, 1, size)
    generator = torch.Generator("cpu").manual_seed(0)
    noise = torch.randn(a.shape, generator=generator, dtype=a.dtype, device="cpu").to(a.device)
    for size_of_noise in _SHAKEN:
        yield scaled + size_of_noise * noise


def approach(c: Residual, y: Tensor, a: Tensor, linearise: Linearise) -> Tensor:
    """A point of {c = 0} at which the distance from a is stationary, found by descent from y.

    That is Riemannian, of ½‖y - a‖², with Barzilai-Borwein steps, shorter where they ascend.
    """
    eps = torch.finfo(a.dtype).eps
    space = linearise(y)
    g, apart = space.tangent(y - a), lengths(y - a)
    step = torch.ones_like(apart)
    for _ in range(_STEPS):
        size = lengths(g)
        done = size <= 8 * eps * (apart + lengths(y))
        # So far away, the nearest point depends on digits that a does not have.
        done = done | ~(apart < eps**-0.5 * lengths(y))
        if bool(done.all()):
            break
        z, _ = land(c, partial(linearise, y), y, g, torch.where(done, 0, -step), linearise)
        distance = lengths(z - a)
        # Near the end the distance is constant to rounding.
        better = distance.square() <= apart.square() * (1 + 4 * eps)
        z = torch.where(better, z, y)
        space = linearise(z)
        new = space.tangent(z - a)
        s, change = z - y, new - g
        curvature = (s * change).sum(1, keepdim=True)
        barzilai = s.square().sum(1, keepdim=True) / torch.where(curvature > 0, curvature, 1)
        faster = torch.where(curvature > 0, barzilai, 2 * step).clamp(1e-3, 1e3)
        step = torch.where(better & ~done, faster, torch.where(done, step, step / 4))
        y, g, apart = z, new, torch.where(better, distance, apart)
    return y

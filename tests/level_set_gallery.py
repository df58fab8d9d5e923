"""Sets that are given by equations alone: what the gallery of the documentation shows.

A line names the equations and the shape of a point. `CLOSED_FORMS` has the tangent projections that
somebody has derived by hand, `NEAREST` the ends of steps that have a closed form.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from riemopt.manifolds import LevelSet

Function = Callable[[Tensor], Tensor]


class Example(NamedTuple):
    manifold: LevelSet
    shape: tuple[int, ...]
    dim: int
    """Degrees of freedom of one point."""


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def circle(x: Tensor) -> Tensor:
    return x.square().sum() - 1


def ellipsoid(axes: Tensor) -> Function:
    return lambda x: (x / axes).square().sum() - 1


def stiefel(X: Tensor) -> Tensor:
    return X.mT @ X - torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)


def generalized_stiefel(B: Tensor) -> Function:
    """XᵀBX = I."""
    return lambda X: X.mT @ B @ X - torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)


def symplectic_form(n: int) -> Tensor:
    J = torch.zeros(2 * n, 2 * n, dtype=torch.float64)
    J[:n, n:] = torch.eye(n)
    J[n:, :n] = -torch.eye(n)
    return J


def symplectic_stiefel(n: int, p: int) -> Function:
    """XᵀJ₂ₙX = J₂ₚ."""
    outer, inner = symplectic_form(n), symplectic_form(p)
    return lambda X: X.mT @ outer @ X - inner


def unit_determinant(X: Tensor) -> Tensor:
    return torch.linalg.det(X) - 1


def doubly_stochastic(X: Tensor) -> Tensor:
    """All rows and columns have the sum 1: one of the 2n equations follows from the others."""
    return torch.cat([X.sum(0) - 1, X.sum(1) - 1])


def symmetric(X: Tensor) -> Tensor:
    return X - X.mT


def fixed_trace(X: Tensor) -> Tensor:
    return X.diagonal().sum() - 1


def fixed_norm(X: Tensor) -> Tensor:
    return X.square().sum() - 1


def torus(x: Tensor) -> Tensor:
    """Radii 2 and 1/2."""
    return (torch.hypot(x[0], x[1]) - 2).square() + x[2].square() - 0.25


BARS = tensor(1, 0.8, 1.2, 0.9)
SUM = tensor(2, 0.5, 0, 0)


def linkage(angles: Tensor, bars: Tensor = BARS) -> Tensor:
    """Four bars in a closed loop: where the arm of angles θ ends, it began."""
    return torch.stack([(bars * angles.cos()).sum(), (bars * angles.sin()).sum()])


def unit_quaternions(Q: Tensor) -> Tensor:
    return Q.square().sum(-1) - 1


def fixed_sum(Q: Tensor, total: Tensor = SUM) -> Tensor:
    return Q.sum(0) - total


def zero_mean(x: Tensor) -> Tensor:
    return x.mean()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)).requires_grad_(False)


B = torch.diag(tensor(1, 2, 3, 4, 5)) + 0.1 * torch.ones(5, 5, dtype=torch.float64)

# fmt: off
GALLERY = {
    "circle": Example(LevelSet(circle), (2,), 1),
    "sphere": Example(LevelSet(circle, event_ndim=1), (4, 5), 4),
    "ellipsoid": Example(LevelSet(ellipsoid(tensor(1, 2, 0.5))), (3,), 2),
    "Stiefel": Example(LevelSet(stiefel), (6, 3), 12),
    "generalized Stiefel": Example(LevelSet(generalized_stiefel(B)), (5, 2), 7),
    "symplectic Stiefel": Example(LevelSet(symplectic_stiefel(3, 1)), (6, 2), 11),
    "unit determinant": Example(LevelSet(unit_determinant), (3, 3), 8),
    "doubly stochastic": Example(LevelSet(doubly_stochastic), (4, 4), 9),
    "symmetric of fixed trace and norm": Example(
        LevelSet(symmetric, fixed_trace, fixed_norm), (4, 4), 8
    ),
    "torus": Example(LevelSet(torus), (3,), 2),
    "linkage": Example(LevelSet(linkage), (4,), 2),
    "quaternions of fixed sum": Example(LevelSet(unit_quaternions, fixed_sum), (3, 4), 5),
    "sphere and plane": Example(LevelSet(circle, torch.sum), (5,), 3),
    "filters of zero mean and unit norm": Example(
        LevelSet(zero_mean, circle, event_ndim=3), (4, 2, 3, 3), 16
    ),
    "output of a network": Example(LevelSet(network()), (4,), 2),
}
# fmt: on


def _two_normals(a: Tensor, b: Tensor, u: Tensor) -> Tensor:
    """u without its parts along a and b, which are orthogonal to each other."""
    return u - a * ((a * u).sum() / a.square().sum()) - b * ((b * u).sum() / b.square().sum())


def _generalized_stiefel(X: Tensor, U: Tensor) -> Tensor:
    """U - BXS with S symmetric and X'B²X S + S X'B²X = X'BU + U'BX, by a Lyapunov equation."""
    import scipy.linalg

    gram, right = X.mT @ B @ B @ X, X.mT @ B @ U + U.mT @ B @ X
    S = scipy.linalg.solve_continuous_lyapunov(gram.numpy(), right.numpy())
    return U - B @ X @ torch.from_numpy(S)


def _symplectic_stiefel(X: Tensor, U: Tensor) -> Tensor:
    """U - JXΩ with Ω skew: Gao, Son, Absil & Stykel (2021), proposition 4.3, by a linear solve."""
    J = symplectic_form(3)
    # p = 1: Ω is one number times J₂, and the normal space is the line along JXJ₂.
    normal = J @ X @ symplectic_form(1)
    return U - normal * ((normal * U).sum() / normal.square().sum())


def _unit_determinant(X: Tensor, U: Tensor) -> Tensor:
    """The gradient of det is det(X)·X⁻ᵀ."""
    normal = torch.linalg.inv(X).mT
    return U - normal * ((normal * U).sum() / normal.square().sum())


def _doubly_stochastic(X: Tensor, U: Tensor) -> Tensor:
    """Rows and columns centred."""
    return U - U.mean(0, keepdim=True) - U.mean(1, keepdim=True) + U.mean()


def _symmetric(X: Tensor, U: Tensor) -> Tensor:
    """In the symmetric matrices, without the parts along I and X."""
    eye = torch.eye(4, dtype=X.dtype)
    return _two_normals(eye, X - eye * (X.diagonal().sum() / 4), (U + U.mT) / 2)


def _torus(x: Tensor, u: Tensor) -> Tensor:
    """The normal leads from the circle of radius 2 to x."""
    ring = torch.stack([x[0], x[1], torch.zeros_like(x[0])])
    normal = x - 2 * ring / ring.norm()
    return u - normal * ((normal * u).sum() / normal.square().sum())


def _filters(x: Tensor, u: Tensor) -> Tensor:
    dims = (-3, -2, -1)
    u = u - u.mean(dims, keepdim=True)
    return u - x * (x * u).sum(dims, keepdim=True)


def _ellipsoid(x: Tensor, u: Tensor) -> Tensor:
    normal = x / tensor(1, 2, 0.5) ** 2
    return u - normal * ((normal @ u) / (normal @ normal))


CLOSED_FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ellipsoid": _ellipsoid,
    "circle": lambda x, u: u - x * (x @ u),
    "sphere": lambda x, u: u - x * (x * u).sum(-1, keepdim=True),
    "Stiefel": lambda X, U: U - X @ (X.mT @ U + U.mT @ X) / 2,
    "generalized Stiefel": _generalized_stiefel,
    "symplectic Stiefel": _symplectic_stiefel,
    "unit determinant": _unit_determinant,
    "doubly stochastic": _doubly_stochastic,
    "symmetric of fixed trace and norm": _symmetric,
    "torus": _torus,
    "sphere and plane": lambda x, u: _two_normals(x, torch.ones_like(x), u),
    "filters of zero mean and unit norm": _filters,
}

# Where a step from x along u ends, if that has a closed form too: the nearest point of the set.
NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "circle": lambda y: y / y.norm(),
    "sphere": lambda y: y / y.norm(dim=-1, keepdim=True),
    "Stiefel": lambda Y: (lambda U, _, V: U @ V)(*torch.linalg.svd(Y, full_matrices=False)),
    "doubly stochastic": lambda Y: Y,
    "sphere and plane": lambda y: (lambda z: z / z.norm())(y - y.mean()),
    "filters of zero mean and unit norm": lambda y: (
        y / y.flatten(1).norm(dim=1)[:, None, None, None]
    ),
}

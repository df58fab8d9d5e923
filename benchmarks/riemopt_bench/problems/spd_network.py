"""A network on positive definite matrices (SPDNet; Huang & Van Gool 2017): digits by their moments.

M(image) = Σ_p I_p f_p f_pᵀ / Σ_p I_p + εI       f_p: polynomials of the pixel's place, I, ∇I
M ← V max(Λ, ε) Vᵀ  of  W M Wᵀ = V Λ Vᵀ          W wide with orthonormal rows (BiMap, ReEig)
logits: linear in log M                           (LogEig)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._digits import VALIDATION, digits, learn_from, split_digits
from riemopt_bench.problems._learning import Learning, accuracy
from riemopt_bench.surfaces import Stiefel

SIZES = (13, 10, 7)
FLOOR = 1e-3


class Spectral(torch.autograd.Function):
    """f(X) = V f(Λ) Vᵀ of symmetric X = V Λ Vᵀ.

    The derivative is V (L ∘ Vᵀ dX V) Vᵀ with L_ij = (f(λ_i) - f(λ_j)) / (λ_i - λ_j), and f' where
    the two are equal (Daleckii & Krein 1965): finite where that of V and Λ is not.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, f: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """`f` and its derivative `slope` act on each eigenvalue."""
        values, vectors = torch.linalg.eigh(x)
        image = f(values)
        row, column = values.unsqueeze(-1), values.unsqueeze(-2)
        gap = row - column
        near = gap.abs() <= 1e-3 * torch.maximum(row.abs(), column.abs())
        rise = image.unsqueeze(-1) - image.unsqueeze(-2)
        quotients = torch.where(near, slope((row + column) / 2), rise / gap.masked_fill(near, 1))
        ctx.save_for_backward(vectors, quotients)
        return (vectors * image.unsqueeze(-2)) @ vectors.mT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Of `x`."""
        vectors, quotients = ctx.saved_tensors
        inner = vectors.mT @ gradients[0] @ vectors
        return vectors @ (quotients * inner) @ vectors.mT, None, None


_spectral: Any = Spectral.apply


def rectified(x: Tensor) -> Tensor:
    """ReEig: eigenvalues of at least `FLOOR`."""
    return _spectral(x, lambda v: v.clamp(min=FLOOR), lambda v: (v > FLOOR).to(v.dtype))


def logarithm(x: Tensor) -> Tensor:
    """LogEig."""
    return _spectral(x, torch.log, torch.reciprocal)


class Net(nn.Module):
    """Two BiMaps, each of which makes the matrices smaller, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ParameterList(
            nn.init.orthogonal_(torch.empty(m, n)) for n, m in pairwise(SIZES)
        )
        rows, columns = torch.tril_indices(SIZES[-1], SIZES[-1])
        self.entries = rows * SIZES[-1] + columns
        self.classify = nn.Linear(len(self.entries), 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, 10)` of positive definite matrices `(N, 13, 13)`."""
        for W in self.maps:
            x = rectified(W @ x @ W.mT)
        return self.classify(logarithm(x).flatten(1)[:, self.entries])


@cache
def moments() -> Tensor:
    """Of all digits, `(1797, 13, 13)`."""
    image = digits()[0].double().view(-1, 8, 8)
    wide = functional.pad(image, (1, 1, 1, 1))
    slopes = wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2], wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1]
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).expand(8, 8)
    y = x.mT
    x2, y2 = 2 * x**2 - 1, 2 * y**2 - 1  # Chebyshev's polynomials
    x3, y3 = 4 * x**3 - 3 * x, 4 * y**3 - 3 * y
    of_place = [x**0, x, y, x * y, x2, y2, x2 * y, x * y2, x3, y3]
    of_image = [image, slopes[0] / 2, slopes[1] / 2]
    f = torch.stack([a.expand_as(image).flatten(1) for a in of_place + of_image], 1)
    weights = image.flatten(1).unsqueeze(1)
    moments = (weights * f) @ f.mT / weights.sum(-1, keepdim=True)
    return (moments + FLOOR * torch.eye(f.shape[1])).float()


def learn(seed: int) -> Learning:
    """Model and data, all from `seed`."""
    torch.manual_seed(seed)
    net = Net()
    surfaces = {f"maps.{i}": Stiefel() for i in range(len(net.maps))}
    return learn_from(split_digits(seed, VALIDATION, moments()), seed, net, surfaces)


def build(seed: int) -> Task:
    """Judged by accuracy."""
    return learn(seed).task(accuracy)


PROBLEMS = (
    Problem(
        name="spd-network",
        title="SPD network",
        description="13×13 moments of 8×8 digits, made smaller by 10×13 and 7×10 maps with "
        "orthonormal rows.",
        metric="test accuracy",
        higher_is_better=True,
        target=0.9,
        surfaces=frozenset({Stiefel()}),
        build=build,
        reference="0.96 by logistic regression on the logarithms of the moments, 91 numbers "
        "instead of 28; Adam with free maps, tuned in the same way. The network is that of Huang & "
        "Van Gool (2017).",
        budget=Budget(150, records=20),
    ),
)

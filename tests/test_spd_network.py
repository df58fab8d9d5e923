"""A network on covariances (Huang & Van Gool 2017): BiMap weights on Stiefel, a mean on SPD.

Two classes of signals differ by the direction in which they vary, behind mixing that makes the
channels' variances alike. A linear layer sees log(WXWᵀ) after centring at a learned mean.
"""

import torch
from torch import Tensor, nn

from riemopt import ManifoldParameter, RiemannianAdam, linalg
from riemopt.manifolds import SPD, Stiefel
from tests.manifold_cases import generator


class SPDNet(nn.Module):
    """X ↦ linear(log(M^(-½)WXWᵀM^(-½))), with WWᵀ = I and M positive definite, as M = LLᵀ."""

    def __init__(self, channels: int, kept: int) -> None:
        super().__init__()
        self.map = ManifoldParameter(torch.randn(kept, channels), Stiefel())
        self.mean = ManifoldParameter(torch.eye(kept), SPD())
        self.linear = nn.Linear(kept * kept, 2)

    def forward(self, x: Tensor) -> Tensor:
        small = self.map @ x @ self.map.mT
        white = linalg.whiten(linalg.cholesky(self.mean).expand_as(small), small)
        return self.linear(linalg.hermitian_function(white, linalg.LOG).flatten(1))


def signals(count: int, channels: int, seed: int) -> tuple[Tensor, Tensor]:
    """Covariances of short signals, and their classes."""
    gen = generator(seed)
    mixing = torch.linalg.qr(torch.randn(channels, channels, generator=generator(0)))[0]
    labels = torch.arange(count) % 2
    scales = torch.ones(count, channels)
    scales[labels == 0, 0] = 2.0
    scales[labels == 1, 1] = 2.0
    sources = torch.randn(count, channels, 50, generator=gen) * scales.unsqueeze(-1)
    mixed = mixing @ sources
    return mixed @ mixed.mT / 50, labels


def test_it_learns_to_tell_covariances_apart():
    torch.manual_seed(0)
    (x, labels), (unseen, expected) = signals(200, 8, 1), signals(200, 8, 2)
    model = SPDNet(8, 4)
    optimizer = RiemannianAdam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    accuracy = (model(unseen).argmax(1) == expected).float().mean()
    assert accuracy > 0.95
    assert Stiefel().violation(model.map.detach()) < 1e-6
    assert SPD().violation(model.mean.detach()) == 0
    assert not torch.equal(model.mean.detach(), torch.eye(4))

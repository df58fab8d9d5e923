"""A convolutional network on digits, its kernels orthonormal as matrices (out, in·3·3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._digits import VALIDATION, learn_from, split_digits
from riemopt_bench.problems._learning import Learning, accuracy
from riemopt_bench.surfaces import Stiefel

KERNEL = Stiefel(kernel=True)


class Net(nn.Module):
    """Three convolutions, the last two of which halve the image; group norms; a linear head."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.Conv2d(8, 16, 3, padding=1, stride=2, bias=False),
            nn.Conv2d(16, 32, 3, padding=1, stride=2, bias=False),
        ]
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList(nn.GroupNorm(4, c.out_channels) for c in convolutions)
        self.classify = nn.Linear(32 * 4, 10)
        for convolution in convolutions:
            nn.init.orthogonal_(convolution.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, 10)` of images `(N, 64)`."""
        h = x.view(-1, 1, 8, 8)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            h = norm(convolution(h)).relu()
        return self.classify(h.flatten(1))


def learn(seed: int, validation: int = VALIDATION) -> Learning:
    """Model and data, all from `seed`."""
    torch.manual_seed(seed)
    net = Net()
    surfaces = {f"convolutions.{i}.weight": KERNEL for i in range(len(net.convolutions))}
    return learn_from(split_digits(seed, validation), seed, net, surfaces)


def build(seed: int) -> Task:
    """Judged by accuracy."""
    return learn(seed).task(accuracy)


PROBLEMS = (
    Problem(
        name="orthogonal-cnn",
        title="Orthogonal CNN",
        description="8×8 digits; three convolutions of 3×3, orthonormal as matrices.",
        metric="test accuracy",
        higher_is_better=True,
        target=0.975,
        surfaces=frozenset({KERNEL}),
        build=build,
        reference="Adam without the constraint, tuned in the same way; kernels as matrices after "
        "Wang et al. (2020).",
        budget=Budget(120, records=20),
    ),
)

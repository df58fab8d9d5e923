"""A transformer whose weights have rows or columns of norm 1 (nGPT; Loshchilov et al. 2024).

States are kept at norm 1 as well; a layer moves them by learned fractions, and learned scales make
up for the norms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._learning import Learning
from riemopt_bench.problems._text import VALIDATION, learn_text, text
from riemopt_bench.surfaces import Sphere, Surface

WIDTH, HEADS, LAYERS, CONTEXT = 32, 2, 2, 24


def unit(rows: int, columns: int, dim: int) -> nn.Parameter:
    """Random slices of norm 1 along `dim`."""
    return nn.Parameter(functional.normalize(torch.randn(rows, columns), dim=dim))


class Layer(nn.Module):
    """Attention, then a gated feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (unit(WIDTH, WIDTH, 1) for _ in range(3))
        self.o = unit(WIDTH, WIDTH, 0)
        self.up, self.gate = unit(2 * WIDTH, WIDTH, 1), unit(2 * WIDTH, WIDTH, 1)
        self.down = unit(WIDTH, 2 * WIDTH, 0)
        self.sharpness = nn.Parameter(torch.ones(HEADS, 1, 1))
        self.scale = nn.Parameter(torch.ones(2 * WIDTH))
        self.fractions = nn.Parameter(torch.full((2, WIDTH), 0.3))

    def attend(self, h: Tensor) -> Tensor:
        """Each state made of those before it."""
        n, t, _ = h.shape
        q, k, v = (functional.linear(h, w).view(n, t, HEADS, -1) for w in (self.q, self.k, self.v))
        q, k = (
            self.sharpness * functional.normalize(q, dim=-1).transpose(1, 2),
            functional.normalize(k, dim=-1),
        )
        scale = math.sqrt(WIDTH / HEADS)
        a = functional.scaled_dot_product_attention(
            q, k.transpose(1, 2), v.transpose(1, 2), is_causal=True, scale=scale
        )
        return functional.linear(a.transpose(1, 2).reshape(n, t, WIDTH), self.o)

    def think(self, h: Tensor) -> Tensor:
        """Each state by itself."""
        root = math.sqrt(WIDTH)
        gate = functional.silu(root * functional.linear(h, self.gate) * self.scale)
        return functional.linear(gate * functional.linear(h, self.up), self.down)

    def forward(self, h: Tensor) -> Tensor:
        """States `(N, T, WIDTH)` of the states below, both of norm 1."""
        for part, fraction in zip((self.attend, self.think), self.fractions, strict=True):
            h = functional.normalize(
                h + fraction * (functional.normalize(part(h), dim=-1) - h), dim=-1
            )
        return h


class Model(nn.Module):
    """Embedding and head are one weight."""

    def __init__(self, characters: int, context: int) -> None:
        super().__init__()
        self.embedding = unit(characters, WIDTH, 1)
        self.places = nn.Parameter(torch.randn(context, WIDTH) / math.sqrt(WIDTH))
        self.layers = nn.Sequential(*[Layer() for _ in range(LAYERS)])
        self.sharpness = nn.Parameter(torch.full((characters,), 5.0))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, T, characters)` of the character after each of `(N, T)`."""
        h = self.layers(functional.normalize(self.embedding[x] + self.places, dim=-1))
        return functional.linear(h, self.embedding) * self.sharpness


def learn(seed: int, validation: float = VALIDATION, context: int = CONTEXT) -> Learning:
    """Model and data, all from `seed`."""
    torch.manual_seed(seed)
    surfaces: dict[str, Surface] = {"embedding": Sphere()}
    for i in range(LAYERS):
        surfaces |= {f"layers.{i}.{w}": Sphere() for w in ("q", "k", "v", "up", "gate")}
        surfaces |= {f"layers.{i}.{w}": Sphere(dim=0) for w in ("o", "down")}
    return learn_text(seed, Model(text()[1], context), surfaces, context, validation)


def build(seed: int) -> Task:
    """Judged by the loss."""
    return learn(seed).task()


PROBLEMS = (
    Problem(
        name="unit-norm-transformer",
        title="Transformer of unit weights",
        description="Characters of Python's manual; two layers of width 32, every row or column of "
        "15 weights of norm 1.",
        metric="test loss",
        higher_is_better=False,
        target=2.42,
        surfaces=frozenset({Sphere(), Sphere(dim=0)}),
        build=build,
        reference="Adam with the same network and free weights, tuned in the same way; the network "
        "is nGPT (Loshchilov et al. 2024).",
        budget=Budget(120, records=20),
    ),
)

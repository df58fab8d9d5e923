"""A transformer that predicts characters; each head has orthonormal query and key maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._attention import OrthogonalHeads
from riemopt_bench.problems._learning import Learning
from riemopt_bench.problems._text import learn_text, text
from riemopt_bench.surfaces import Stiefel

WIDTH, HEADS, LAYERS, CONTEXT = 32, 4, 2, 32


class Layer(nn.Module):
    """Attention and a feed-forward part, each after a norm and added to the state."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = OrthogonalHeads(WIDTH, HEADS, is_causal=True)
        self.think = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))

    def forward(self, h: Tensor) -> Tensor:
        """States `(N, T, WIDTH)` of the states below."""
        h = h + self.attend(self.norms[0](h))
        return h + self.think(self.norms[1](h))


class Model(nn.Module):
    """Embedding, places, layers, head."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, WIDTH)
        self.places = nn.Parameter(torch.randn(CONTEXT, WIDTH) / math.sqrt(WIDTH))
        self.layers = nn.Sequential(*[Layer() for _ in range(LAYERS)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, characters)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, T, characters)` of the character after each of `(N, T)`."""
        return self.head(self.norm(self.layers(self.embedding(x) + self.places)))


def learn(seed: int) -> Learning:
    """Model and data, all from `seed`."""
    torch.manual_seed(seed)
    names = [f"layers.{i}.attend.{w}" for i in range(LAYERS) for w in "qk"]
    return learn_text(seed, Model(text()[1]), dict.fromkeys(names, Stiefel()), CONTEXT)


def build(seed: int) -> Task:
    """Judged by the loss."""
    return learn(seed).task()


PROBLEMS = (
    Problem(
        name="orthogonal-heads",
        title="Transformer, orthogonal heads",
        description="Characters of Python's manual; two layers of four heads, each with 32×8 "
        "orthonormal query and key maps.",
        metric="test loss",
        higher_is_better=False,
        target=2.25,
        surfaces=frozenset({Stiefel()}),
        build=build,
        reference="Adam with free query and key maps, from the same orthogonal start, tuned in the "
        "same way.",
        budget=Budget(120, records=20),
    ),
)

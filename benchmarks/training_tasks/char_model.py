"""A character model whose 15 weights have rows or columns of norm 1 (nGPT; Loshchilov et al. 2024).

States are kept at norm 1 as well; a layer moves them by learned fractions, and learned scales make
up for the norms.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from riemopt.manifolds import Manifold, Sphere
from training_tasks.data import text
from training_tasks.interface import Figures, Training, TrainingTask

WIDTH, HEADS, LAYERS, CONTEXT, BATCH, HELD = 32, 2, 2, 48, 16, 64


def unit(rows: int, columns: int, dim: int) -> nn.Parameter:
    return nn.Parameter(functional.normalize(torch.randn(rows, columns), dim=dim))


class Layer(nn.Module):
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
        root = math.sqrt(WIDTH)
        gate = functional.silu(root * functional.linear(h, self.gate) * self.scale)
        return functional.linear(gate * functional.linear(h, self.up), self.down)

    def forward(self, h: Tensor) -> Tensor:
        for part, fraction in zip((self.attend, self.think), self.fractions, strict=True):
            h = functional.normalize(
                h + fraction * (functional.normalize(part(h), dim=-1) - h), dim=-1
            )
        return h


class Model(nn.Module):
    """Embedding and head are one weight."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embedding = unit(characters, WIDTH, 1)
        self.places = nn.Parameter(torch.randn(CONTEXT, WIDTH) / math.sqrt(WIDTH))
        self.layers = nn.Sequential(*[Layer() for _ in range(LAYERS)])
        self.sharpness = nn.Parameter(torch.full((characters,), 5.0))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers(functional.normalize(self.embedding[x] + self.places, dim=-1))
        return functional.linear(h, self.embedding) * self.sharpness


def windows(part: Tensor, n: int, generator: torch.Generator) -> Tensor:
    starts = torch.randint(len(part) - CONTEXT - 1, (n, 1), generator=generator)
    return part[starts + torch.arange(CONTEXT + 1)]


def build(seed: int) -> Training:
    torch.manual_seed(seed)
    characters, different = text()
    net = Model(different)
    cut = len(characters) * 9 // 10
    generator = torch.Generator().manual_seed(seed)
    held = torch.Generator().manual_seed(seed + 10_000)
    seen, unseen = (windows(p, HELD, held) for p in (characters[:cut], characters[cut:]))

    def error(w: Tensor) -> Tensor:
        return functional.cross_entropy(net(w[:, :-1]).flatten(0, 1), w[:, 1:].flatten())

    manifolds: dict[str, Manifold] = {"embedding": Sphere()}
    for i in range(LAYERS):
        manifolds |= {f"layers.{i}.{w}": Sphere() for w in ("q", "k", "v", "up", "gate")}
        manifolds |= {f"layers.{i}.{w}": Sphere(dim=0) for w in ("o", "down")}
    return Training(
        net,
        manifolds,
        lambda step: error(windows(characters[:cut], BATCH, generator)),
        lambda: Figures(error(seen).item(), error(unseen).item()),
    )


TASK = TrainingTask("char_model", "unit-norm character model", "network", 300, build)

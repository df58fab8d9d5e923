"""A character model whose weights have rows or columns of norm 1: nGPT (Loshchilov et al. 2024).

python examples/unit_norm_transformer.py
"""

import torch
from shared import compare, fit, losses, manual, normalise_after_steps, windows
from torch import nn
from torch.nn.functional import cross_entropy, linear, normalize, scaled_dot_product_attention, silu

from riemopt import RiemannianAdam, constrain
from riemopt.manifolds import Sphere

WIDTH, HEADS, LAYERS, CONTEXT = 32, 2, 2, 48
SHAPES = {"qkv": (WIDTH, 3 * WIDTH), "mix": (WIDTH, WIDTH), "up": (WIDTH, 64), "down": (64, WIDTH)}
LR = {"riemopt": 0.03, "normalised after a step": 0.03}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.places = nn.Embedding(128, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(*shape, bias=False) for name, shape in SHAPES.items()})
            for _ in range(LAYERS)
        )
        self.gains = nn.Parameter(torch.tensor([[5.0, WIDTH**0.5]] * LAYERS))  # of q, of the MLP
        self.rates = nn.Parameter(torch.full((LAYERS, 2, WIDTH), 0.3))
        self.logits = nn.Parameter(torch.full((128,), 5.0))

    def loss(self, text):
        h = normalize(self.embed(text[:, :-1]) + self.places.weight, dim=-1)
        for block, gain, rate in zip(self.blocks, self.gains, self.rates, strict=True):
            q, k, v = block["qkv"](h).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
            q, k = gain[0] * normalize(q, dim=-1), normalize(k, dim=-1)
            a = scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
            a = normalize(block["mix"](a.transpose(1, 2).flatten(2)), dim=-1)
            h = normalize(h.lerp(a, rate[0]), dim=-1)
            m = normalize(block["down"](silu(gain[1] * block["up"](h))), dim=-1)
            h = normalize(h.lerp(m, rate[1]), dim=-1)
        return cross_entropy((self.logits * linear(h, self.embed.weight)).mT, text[:, 1:])


def train(way, seed, steps):
    torch.manual_seed(seed)
    model, (text, held_out) = Model(), windows(manual(), CONTEXT)
    optimizer = RiemannianAdam(model.parameters(), lr=LR[way])  # torch's Adam of free weights
    for name, layer in model.named_modules():
        if hasattr(layer, "weight"):  # rows read from h, columns write to it
            dim = 0 if name.endswith(("mix", "down")) else 1
            if way == "riemopt":
                constrain(layer, "weight", Sphere(dim))
            else:
                normalise_after_steps(optimizer, layer.weight, dim)
    fit(model.loss, text, optimizer, steps, seed, batch=16)
    return model, losses(model.loss, text, held_out)


if __name__ == "__main__":
    compare(train, LR, steps=300)

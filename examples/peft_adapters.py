"""Adapters U·S·Vᵀ of a Hugging Face model, with the PEFT library (StelLA; Li et al. 2025).

python examples/peft_adapters.py
"""

import argparse
import inspect

import torch
from peft import LoraConfig, get_peft_model
from shared import compare, fit, losses, manual, windows
from torch import nn
from torch.nn.functional import cross_entropy, linear
from transformers import LlamaConfig, LlamaForCausalLM

from riemopt import ManifoldParameter, RiemannianAdam, constrain
from riemopt.manifolds import Stiefel

CONTEXT, RANK = 48, 4
LR = {"riemopt": 0.03, "LoRA": 0.03, "riemopt, lr too high": 0.1, "LoRA, lr too high": 0.1}
SIZES = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}


class US(nn.Module):
    """In the place of `lora_B`: U with orthonormal columns, times a free matrix S."""

    def __init__(self, lora_B):
        super().__init__()
        self.U = ManifoldParameter(torch.randn_like(lora_B.weight), Stiefel())
        self.S = nn.Parameter(torch.zeros(RANK, RANK))  # nothing is added at the start

    @property
    def weight(self):  # PEFT merges this times that of `lora_A`
        return self.U @ self.S

    def forward(self, x):
        return linear(x, self.weight)


def train(way, seed, steps):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, **SIZES))

    def loss(text):
        return cross_entropy(model(text[:, :-1]).logits.mT, text[:, 1:])

    optimizer = RiemannianAdam(model.parameters(), lr=0.01)  # torch's Adam: nothing is constrained
    fit(loss, windows(manual(), CONTEXT)[0], optimizer, 200, seed, batch=16)
    model = get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear"))
    for layer in list(model.modules()):
        if way.startswith("riemopt") and hasattr(layer, "lora_A"):
            constrain(layer.lora_A["default"], "weight", Stiefel())  # Vᵀ: orthonormal rows
            layer.lora_B["default"] = US(layer.lora_B["default"])
    code, held_out = windows(inspect.getsource(argparse), CONTEXT)  # what it is adapted to
    fit(loss, code, RiemannianAdam(model.parameters(), lr=LR[way]), steps, seed, batch=16)
    return model, losses(loss, code, held_out)


if __name__ == "__main__":
    compare(train, LR, steps=200)

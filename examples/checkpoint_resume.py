"""Train an MLP with one constrained layer of each kind, stop half-way, resume: the same losses.

python examples/checkpoint_resume.py
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

from riemopt import RiemannianAdam, constrain, constraints
from riemopt.manifolds import SkewSymmetric, Sphere, Stiefel, Symmetric

STEPS, HALF = 60, 30
inputs = torch.randn(256, 10, generator=torch.Generator().manual_seed(0))
targets = torch.sin(inputs[:, :2])


def build():
    torch.manual_seed(0)
    model = nn.Sequential(
        constrain(nn.Linear(10, 32), "weight", Stiefel()),
        nn.Tanh(),
        constrain(nn.Linear(32, 32), "weight", Symmetric()),
        constrain(nn.Linear(32, 32), "weight", SkewSymmetric()),
        constrain(nn.Linear(32, 2), "weight", Sphere()),
    )
    optimizer = RiemannianAdam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=STEPS)
    return model, optimizer, scheduler, torch.amp.GradScaler("cpu")


def train(model, optimizer, scheduler, scaler, steps):
    for step in steps:
        batch = torch.randperm(256, generator=torch.Generator().manual_seed(step))[:64]
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.mse_loss(model(inputs[batch]), targets[batch])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        yield loss.item()


whole = list(train(*build(), range(STEPS)))

checkpoint = Path(tempfile.mkdtemp()) / "half.pt"
parts = build()
first = list(train(*parts, range(HALF)))
torch.save([part.state_dict() for part in parts], checkpoint)
parts = build()
for part, state in zip(parts, torch.load(checkpoint, weights_only=True), strict=True):
    part.load_state_dict(state)
second = list(train(*parts, range(HALF, STEPS)))

print(f"loss {whole[0]:.4f} -> {whole[-1]:.4f}; resumed run identical: {first + second == whole}")
for name, manifold, violation, _ in constraints(parts[0]):
    print(f"{name:10} on {manifold!s:16} violation {violation:.1e}")

"""Classify digits with a layer whose weight satisfies two equations: ‖W‖ = 1 and Σ Wᵢⱼ = 0.

python examples/constrain_anything.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from riemopt import RiemannianAdam, constrain, constraints
from riemopt.manifolds import LevelSet

torch.manual_seed(0)
digits = load_digits()
images = torch.from_numpy(digits.data).float() / 16
labels = torch.from_numpy(digits.target)
test = torch.arange(len(labels)) % 5 == 0  # every fifth image is held out

layer = nn.Linear(64, 10)
constrain(layer, "weight", LevelSet(lambda W: W.square().sum() - 1, lambda W: W.sum()))
scale = nn.Parameter(torch.tensor(10.0))  # ‖W‖ = 1 leaves the logits small
optimizer = RiemannianAdam([*layer.parameters(), scale], lr=1e-2)

for step in range(301):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(scale * layer(images[~test]), labels[~test])
    loss.backward()
    optimizer.step()
    if step % 100 == 0:
        norm, total = layer.weight.square().sum().item(), layer.weight.sum().item()
        print(f"step {step:3}  loss {loss:.3f}  ‖W‖² - 1 = {norm - 1:8.1e}  ΣW = {total:8.1e}")

accuracy = (layer(images[test]).argmax(1) == labels[test]).float().mean().item()
(report,) = constraints(layer)
print(f"accuracy {accuracy:.3f}, violation {report.violation:.1e}, satisfied: {report.satisfied}")

# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# %% [markdown]
# # Choosing an optimizer
#
# Two small problems, of the two kinds that there are. A network is trained on batches: the gradient is noisy, and a few digits are enough. A cost over the whole data has an exact gradient, and many digits are wanted. What is best on one is not on the other.

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from riemopt import (
    RiemannianAdam,
    RiemannianLBFGS,
    RiemannianMuon,
    RiemannianSGD,
    constrain,
    constraints,
    minimize,
)
from riemopt.manifolds import Grassmann, Stiefel

data = load_digits()
images = torch.from_numpy(data.data).float() / 16
labels = torch.from_numpy(data.target)
held_out = torch.arange(len(labels)) % 5 == 0

# %% [markdown]
# ## A network, on batches
#
# Two orthonormal weights with a fixed gain √2, and an output layer. All optimizers see the same batches, and the learning rate falls linearly to zero. The rates below are the best of a grid of half decades on another seed; try others.


# %%
def build():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    for layer in (model[0], model[2]):
        constrain(layer, "weight", Stiefel(scale=2**0.5))
    return model


def muon(model):
    """Muon for the orthonormal weights, AdamW for the output layer and the biases."""
    hidden = [model[0].weight, model[2].weight]
    rest = [p for p in model.parameters() if all(p is not q for q in hidden)]
    return RiemannianMuon(
        [{"params": hidden}, {"params": rest, "use_muon": False}], lr=0.1, adamw={"lr": 0.03}
    )


optimizers = {
    "SGD": lambda m: RiemannianSGD(m.parameters(), lr=0.1, momentum=0.9),
    "Adam": lambda m: RiemannianAdam(m.parameters(), lr=0.03),
    'Adam, "point"': lambda m: RiemannianAdam(m.parameters(), lr=0.03, second_moment="point"),
    "Muon": muon,
}


def loss_of(model, which):
    return nn.functional.cross_entropy(model(images[which]), labels[which])


def train(make, steps=120, seed=1):
    generator = torch.Generator().manual_seed(seed)
    model = build()
    optimizer = make(model)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    pool, losses = (~held_out).nonzero().flatten(), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, pool[torch.randint(len(pool), (128,), generator=generator)])
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return model, losses


curves = {}
for name, make in optimizers.items():
    model, curves[name] = train(make)
    assert all(c.satisfied for c in constraints(model))
    with torch.no_grad():
        print(f"{name:14} training {loss_of(model, ~held_out):.4f}", end="  ")
        print(f"held out {loss_of(model, held_out):.3f}")

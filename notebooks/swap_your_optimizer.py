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
# # Swap your optimizer
#
# A classifier of handwritten digits, trained with `torch.optim.Adam`, gets an orthonormal weight.
# Two lines change. This notebook shows them, and then what stays as it was and what does not.

# %%
import io

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from riemopt import RiemannianAdam, constrain, constraints
from riemopt.manifolds import Scaled, Stiefel

data = load_digits()
images = torch.from_numpy(data.data).float() / 16
labels = torch.from_numpy(data.target)
held_out = torch.arange(len(labels)) % 5 == 0

# %% [markdown]
# ## The loop
#
# It is written for torch: random batches, gradient clipping, a schedule. It knows nothing of
# constraints, and does not change below. It also notes how far WᵀW is from I.


# %%
def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))


def schedule(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=200)


def train(model, optimizer, scheduler, steps):
    losses, off = [], []
    train_images, train_labels = images[~held_out], labels[~held_out]
    for step in steps:
        batch = torch.randint(
            len(train_labels), (128,), generator=torch.Generator().manual_seed(step)
        )
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(train_images[batch]), train_labels[batch])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        W = model[0].weight.detach()
        off.append((W.mT @ W - torch.eye(64)).abs().max().item())
    return losses, off


def accuracy(model):
    return (model(images[held_out]).argmax(1) == labels[held_out]).float().mean().item()


# %% [markdown]
# ## Two lines change
#
# `constrain` moves the weight to the nearest point of the surface, and the optimizer keeps it
# there.

# %%
free = build()
adam = torch.optim.Adam(free.parameters(), lr=1e-2)
curves = {"Adam": train(free, adam, schedule(adam), range(200))}

model = build()
constrain(model[0], "weight", Stiefel())  # new: orthonormal columns
optimizer = RiemannianAdam(model.parameters(), lr=1e-2)  # was: torch.optim.Adam
curves["RiemannianAdam"] = train(model, optimizer, schedule(optimizer), range(200))

for name, trained in (("Adam", free), ("RiemannianAdam", model)):
    print(f"{name:15} {accuracy(trained):.3f} of the held-out digits are right")
print(f"{'':15} the weight is on its surface: {constraints(model)[0].satisfied}")

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for name, (losses, off) in curves.items():
    left.semilogy(losses, lw=1, label=name)
    right.semilogy(off, label=name)
left.set(title="loss of each batch", xlabel="step")
right.set(title="largest entry of |WᵀW − I|", xlabel="step", ylim=(1e-8, 1e2))
left.legend()
plt.show()

# %% [markdown]
# ## What does not change: the other weights
#
# Where no weight is constrained, `RiemannianAdam` is `torch.optim.Adam`, to the last bit. So it can
# take Adam's place everywhere, and only constrained weights notice.

# %%
same = build()
ours = RiemannianAdam(same.parameters(), lr=1e-2)
train(same, ours, schedule(ours), range(200))
print(all(torch.equal(p, q) for p, q in zip(same.parameters(), free.parameters(), strict=True)))

# %% [markdown]
# ## What does not change: checkpoints
#
# A run stops after 100 of the 200 steps. Its checkpoint takes a detour through `torch.optim.Adam`,
# which has the same layout, and the resumed run ends where the uninterrupted one did. Values are
# saved, constraints are not: call `constrain` where the model is made.

# %%
first = build()
constrain(first[0], "weight", Stiefel())
optimizer = RiemannianAdam(first.parameters(), lr=1e-2)
scheduler = schedule(optimizer)
train(first, optimizer, scheduler, range(100))
saved = io.BytesIO()
torch.save([part.state_dict() for part in (first, optimizer, scheduler)], saved)

saved.seek(0)
weights, state, place = torch.load(saved)
resumed = build()
constrain(resumed[0], "weight", Stiefel())
resumed.load_state_dict(weights)
theirs = torch.optim.Adam(resumed.parameters(), lr=1e-2)
theirs.load_state_dict(state)
optimizer = RiemannianAdam(resumed.parameters(), lr=1e-2)
scheduler = schedule(optimizer)
optimizer.load_state_dict(theirs.state_dict())
scheduler.load_state_dict(place)
train(resumed, optimizer, scheduler, range(100, 200))
print(all(torch.equal(p, q) for p, q in zip(resumed.parameters(), model.parameters(), strict=True)))

# %% [markdown]
# ## What changes: decay and size
#
# Decay pulls a weight towards zero. All matrices with orthonormal columns have the same norm, so
# that there is nothing to pull at: along the surface, decay is zero. Constrained weights may stay
# in the group that decays.
#
# A free weight grows while it is trained. An orthonormal one keeps its size, and cannot scale its
# output: that is why its training loss ends higher above, though it is as good on digits that it
# has not seen. Where nothing else in the network scales, put a learned gain behind the weight.
# `Scaled(Stiefel())` has one within: orthonormal columns times a number.


# %%
def moved(weight_decay):
    trial = build()
    constrain(trial[0], "weight", Stiefel())
    before = trial[0].weight.detach().clone()
    optimizer = RiemannianAdam(trial.parameters(), lr=1e-2, weight_decay=weight_decay)
    trial(images).logsumexp(1).mean().backward()
    optimizer.step()
    return trial[0].weight.detach() - before


print("the same step with decay and without:", torch.equal(moved(0.1), moved(0.0)))

scaled = build()
constrain(scaled[0], "weight", Scaled(Stiefel()))
optimizer = RiemannianAdam(scaled.parameters(), lr=1e-2)
curves["with a gain"] = train(scaled, optimizer, schedule(optimizer), range(200))
for (name, (losses, _)), trained in zip(curves.items(), (free, model, scaled), strict=True):
    sizes = torch.linalg.svdvals(trained[0].weight.detach())
    print(
        f"{name:15} singular values from {sizes.min():.2f} to {sizes.max():.2f}, "
        f"mean loss of the last 20 batches {sum(losses[-20:]) / 20:.3f}, "
        f"right {accuracy(trained):.3f}"
    )

# %% [markdown]
# [Moving from torch.optim](../docs/moving-from-torch-optim.md) has the whole list, and [choosing an
# optimizer](choosing_an_optimizer.ipynb) what to take in place of Adam.

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
# Two small problems, of the two kinds that there are. A network is trained on batches: the gradient
# is noisy, and a few digits are enough. A cost over the whole data has an exact gradient, and many
# digits are wanted. What is best on one is not on the other.

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from riemopt import (
    ManifoldParameter,
    RiemannianAdam,
    RiemannianMuon,
    RiemannianSGD,
    constrain,
    constraints,
    minimize,
)
from riemopt.manifolds import Stiefel

data = load_digits()
images = torch.from_numpy(data.data).float() / 16
labels = torch.from_numpy(data.target)
held_out = torch.arange(len(labels)) % 5 == 0

# %% [markdown]
# ## A network, on batches
#
# Two orthonormal weights with a fixed gain √2, and an output layer. All optimizers see the same
# batches, and the learning rate falls linearly to zero. The rates are the best of half decades by
# the training loss on another seed, one for all weights.


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
        [{"params": hidden}, {"params": rest, "use_muon": False}], lr=0.1, adamw={"lr": 0.1}
    )


optimizers = {
    "SGD": lambda m: RiemannianSGD(m.parameters(), lr=0.3, momentum=0.9),
    "Adam": lambda m: RiemannianAdam(m.parameters(), lr=0.1),
    'Adam, "point"': lambda m: RiemannianAdam(m.parameters(), lr=0.1, second_moment="point"),
    "Muon": muon,
}


def loss_of(model, which):
    return nn.functional.cross_entropy(model(images[which]), labels[which])


def train(make, steps=100, seed=1):
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

plt.figure(figsize=(5.5, 3.2), layout="constrained")
for name, losses in curves.items():
    smooth = torch.tensor(losses).unfold(0, 10, 1).mean(1)
    plt.semilogy(range(9, len(losses)), smooth, label=name)
plt.title("loss, mean of ten batches")
plt.xlabel("step")
plt.legend()
plt.show()

# %% [markdown]
# In this run Muon and Adam are ahead; which of them is better elsewhere depends on the task, and
# [the measurements](../docs/choosing-an-optimizer.md) over ten networks say more than one picture.
# `"point"` has half of Adam's state and one learning rate for each matrix, and trains somewhat less
# well here as there.
#
# ## The same network, on the whole data
#
# `minimize` wants an exact loss. It needs no learning rate, and fits the training data as well as
# the best run on batches, but each of its evaluations goes through all images. On digits that it
# has not seen it gains nothing by that.

# %%
model = build()
result = minimize(lambda: loss_of(model, ~held_out), model, options={"maxiter": 50})
with torch.no_grad():
    print(f"L-BFGS, {result.nfev} evaluations of 1437 images: ", end="")
    print(f"training {result.fun:.4f}  held out {loss_of(model, held_out):.3f}")

# %% [markdown]
# ## A cost without noise: eigenvectors
#
# The four dominant eigenvectors of the covariance of the pixels are the minimum of −tr(N XᵀAX) over
# orthonormal X, with N = diag(4, 3, 2, 1) to put them in order. The optimum is known, so that
# errors can be seen down to rounding. The rates are again the best of half decades, and fall
# linearly to zero; `minimize` has none to choose.

# %%
centred = images.double() - images.double().mean(0)
A = centred.mT @ centred / len(centred)
N = torch.arange(4, 0, -1, dtype=torch.float64)
best = -(N * torch.linalg.eigvalsh(A).flip(0)[:4]).sum()
torch.manual_seed(0)
start = Stiefel().random_point(64, 4, dtype=torch.float64)


def cost(X, A=A):
    return -(X * (A @ X) * N).sum()


def error(value):
    return ((value - best) / abs(best)).clamp(min=1e-17).item()


def descend(make, cost=cost, start=start, steps=200):
    X = ManifoldParameter(start.clone(), Stiefel())
    optimizer = make([X])
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    errors = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = cost(X)
        value.backward()
        optimizer.step()
        scheduler.step()
        errors.append(error(value.detach()))
    return errors


optimizers = {
    "SGD": lambda p: RiemannianSGD(p, lr=1.0, momentum=0.9),
    "Adam": lambda p: RiemannianAdam(p, lr=0.3),
    "Adam, a tenth of that rate": lambda p: RiemannianAdam(p, lr=0.03),
    'Adam, "point"': lambda p: RiemannianAdam(p, lr=0.3, second_moment="point"),
    "Muon": lambda p: RiemannianMuon(p, lr=0.1),
}
errors = {name: descend(make) for name, make in optimizers.items()}
for method in ("lbfgs", "trust-region"):
    result = minimize(cost, start, Stiefel(), method=method)
    products = [row["njev"] + row["nhev"] for row in result.history]
    values = [error(torch.tensor(row["fun"], dtype=A.dtype)) for row in result.history]
    errors[f"minimize, {method}"] = (products, values)

plt.figure(figsize=(6.5, 3.6), layout="constrained")
for name, curve in errors.items():
    if name.startswith("minimize"):
        plt.semilogy(*curve, "k", ls="-" if "lbfgs" in name else "--", label=name)
    else:
        plt.semilogy(curve, lw=1, label=name)
plt.title("relative error of the cost")
plt.xlabel("gradients, and products with the Hessian")
plt.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# With a good rate that falls to zero, SGD and Adam come near as well; at a tenth of it they do not,
# and one has to know. `minimize` needs fewer gradients, and says when it has converged. Muon's step
# has the same length near the minimum as far from it, so that many digits are not its use.
#
# ## What "point" is for
#
# Adam's second moment by entry depends on the coordinates. With `"point"` the steps are the same in
# every orthonormal basis: the problem below is that of above, turned by a random rotation.

# %%
Q = Stiefel().random_point(64, 64, dtype=torch.float64)
turned = Q @ A @ Q.mT
for name in ("Adam", 'Adam, "point"'):
    again = descend(optimizers[name], lambda X: cost(X, turned), Q @ start)
    print(f"{name:14} error after 50 steps {errors[name][50]:.1e}, turned {again[50]:.1e}")

# %% [markdown]
# ## In short
#
# | what you train | begin with |
# | --- | --- |
# | a network, on batches | `RiemannianAdam` with your rate, or `RiemannianMuon` |
# | the same where memory counts | `RiemannianAdam(second_moment="point")` |
# | what you train with SGD already | `RiemannianSGD` with your rate |
# | a cost over the whole data, many digits | `minimize`, or `RiemannianLBFGS` in a loop |
#
# [Choosing an optimizer](../docs/choosing-an-optimizer.md) has the measurements, and
# [minimize](../docs/minimize.md) its methods.

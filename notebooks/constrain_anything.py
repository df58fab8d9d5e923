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
# # Constrain anything
#
# `LevelSet` takes a constraint as a function: write c, and the weight stays where c(x) = 0. Tangent
# spaces come from autograd and the way back to the surface from Newton's method, so that there is
# nothing to derive by hand.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD, constrain, constraints
from riemopt.manifolds import LevelSet
from riemopt.testing import check_manifold

# %% [markdown]
# ## One equation
#
# The function takes one point, and is zero on the set. This one is a rounded square. Its point
# nearest to a lamp is found by gradient descent with momentum.


# %%
def rounded_square(x):
    return x.pow(4).sum() - 1


lamp = torch.tensor([1.4, 0.9], dtype=torch.float64)
start = torch.tensor([-1.0, 0.3], dtype=torch.float64)
x = ManifoldParameter(start, LevelSet(rounded_square))  # the nearest point to the start
optimizer = RiemannianSGD([x], lr=0.05, momentum=0.7)

path = [x.detach().clone()]
for _ in range(60):
    optimizer.zero_grad()
    (x - lamp).square().sum().backward()
    optimizer.step()
    path.append(x.detach().clone())
path = torch.stack(path)
print(f"largest |c(x)| of all {len(path)} points: {(path.pow(4).sum(1) - 1).abs().max():.0e}")

grid = torch.linspace(-1.7, 1.7, 200, dtype=torch.float64)
a, b = torch.meshgrid(grid, grid, indexing="xy")
plt.figure(figsize=(4, 4), layout="constrained")
plt.contour(a, b, (a - lamp[0]) ** 2 + (b - lamp[1]) ** 2, levels=12, colors="0.85")
plt.contour(a, b, a**4 + b**4 - 1, levels=[0], colors="C0")
plt.plot(*path.T, "o-", color="C3", ms=4, lw=1, label="the weight, step by step")
plt.plot(*lamp, "*", color="C1", ms=15, label="lamp")
plt.legend(loc="lower left", fontsize=8)
plt.axis("equal")
plt.show()

# %% [markdown]
# ## Several equations
#
# All of them hold at once. With `event_ndim=1` each row of the weight is a point: here each has
# mean 0 and norm 1, as in weight standardisation. `dim` says how many degrees of freedom are left.


# %%
def norm(row):
    return row.square().sum() - 1


torch.manual_seed(0)
standardized = LevelSet(norm, torch.mean, event_ndim=1)
layer = nn.Linear(64, 10)
constrain(layer, "weight", standardized)
optimizer = RiemannianAdam(layer.parameters(), lr=1e-2)
inputs = torch.randn(256, 64)
for _ in range(30):
    optimizer.zero_grad()
    nn.functional.mse_loss(layer(inputs), inputs[:, :10]).backward()
    optimizer.step()

W = layer.weight.detach()
print(
    f"means up to {W.mean(1).abs().max():.0e}, norms off by {(W.norm(dim=1) - 1).abs().max():.0e}"
)
print("satisfied:", constraints(layer)[0].satisfied)
print("degrees of freedom:", standardized.dim(W.shape), "of", W.numel())

# %% [markdown]
# ## Is it the set you mean?
#
# `check_manifold` tries the laws that a manifold keeps, with finite differences where it can:
# tangent space, projection, retraction and transport. A `LevelSet` claims a retraction of second
# order. The result is a table; in a test, `.require()` raises where a law fails. (One law is left
# out here, as it takes seconds.)

# %%
report = check_manifold(
    LevelSet(rounded_square), (2,), order=2, repeats=1, skip=["project has its derivative"]
)
print("\n".join(str(report).splitlines()[:12]))
print("…")
print("all laws hold:", report.passed)

# %% [markdown]
# ## What is refused, and why
#
# c must be smooth where it is zero, with a derivative that does not vanish there, and autograd must
# be able to follow it. Anything else is refused when a weight is put on the set, and the weight
# stays as it was.

# %%
refused = {
    "a square": lambda x: (x.square().sum() - 1) ** 2,
    "a kink": lambda x: x.abs().sum() - 1,
    "an inequality, x ≥ 0": lambda x: torch.relu(-x),
    "no solution": lambda x: x.square().sum() + 1,
    "leaves torch": lambda x: torch.tensor(float(x.detach().numpy().sum()) - 1),
}
for name, c in refused.items():
    try:
        LevelSet(c).project(torch.tensor([0.5, 1.0, 0.0], dtype=torch.float64))
        print(f"{name}: accepted")
    except (ValueError, RuntimeError) as error:
        print(f"{name}: {error}\n")

# %% [markdown]
# Write the equation itself and not its square, and several functions in place of a sum of squares.
#
# ## A step that is too long
#
# From the far side of a curve there may be no way back. Such a step is shortened, so that the
# stored point is on the surface at any learning rate, and counted.

# %%
y = ManifoldParameter(start, LevelSet(rounded_square))
optimizer = RiemannianSGD([y], lr=100.0)
(y - lamp).square().sum().backward()
optimizer.step()
print(f"shortened steps: {optimizer.shortened_steps}, |c(y)|: {abs(rounded_square(y).item()):.0e}")

# %% [markdown]
# ## When the catalogue has the set
#
# Take it. The steps are the same, but a `LevelSet` differentiates c in each, which costs several
# times as much. The [catalogue](../docs/catalogue.md) has the sets with a class of their own;
# [Constrain anything](../docs/constrain-anything.md) a gallery of those without, tori and linkages
# among them.

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
# # The weight itself stays on the surface
#
# `torch.nn.utils.parametrize` stores an unconstrained tensor, the *original*, and computes the
# weight from it in every forward pass. riemopt stores the weight, and each step of the optimizer
# leads from a point of the constraint surface to another. Here is the difference on the smallest
# example there is, a point on the unit circle, and then on an orthonormal layer.

# %%
import copy

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.utils import parametrize

from riemopt import RiemannianAdam, RiemannianSGD, constrain, constraints, project_
from riemopt.interop.parametrize import Normalize
from riemopt.manifolds import Sphere, Stiefel

# %% [markdown]
# ## A point on a circle
#
# The loss is ⟨x, target⟩, and its gradient is noisy. `Normalize` of riemopt is the parametrization
# x = original / ‖original‖. Both ways see the same noise and have the same learning rate.


# %%
class Point(nn.Module):
    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.tensor([1.0, 0.0]))


torch.manual_seed(0)
stored, derived = Point(), Point()
constrain(stored, "x", Sphere())
parametrize.register_parametrization(derived, "x", Normalize())

ways = {
    "riemopt": (stored, RiemannianSGD(stored.parameters(), lr=0.05)),
    "parametrize": (derived, torch.optim.SGD(derived.parameters(), lr=0.05)),
}
paths = {name: [] for name in ways}
for _ in range(300):
    noise = torch.randn(2)
    for name, (model, optimizer) in ways.items():
        optimizer.zero_grad()
        (model.x @ (torch.tensor([0.3, 1.0]) + 3 * noise)).backward()
        optimizer.step()
        (tensor,) = model.parameters()
        paths[name].append(tensor.detach().clone())

for name, path in paths.items():
    print(f"{name:12} the stored tensor has norm {path[-1].norm():.6f} after 300 steps")

# %% [markdown]
# The gradient of x / ‖x‖ is at right angles to x, so every step makes the original longer, and the
# longer it is, the less a step turns it. The learning rate falls though nobody lowers it.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for name, path in paths.items():
    points = torch.stack(path)
    left.plot(*points.T, ".-", lw=0.5, ms=3, label=name)
    right.plot(points.norm(dim=1), label=name)
left.set(aspect="equal", title="the stored tensor")
right.set(title="its norm", xlabel="step")
right.legend()
plt.show()

# %% [markdown]
# ## An orthonormal layer
#
# One line for each constrained weight, and `RiemannianAdam` for `Adam`. The rest of the loop is
# torch's, the scheduler included. `constraints` says how far each weight is from its surface.

# %%
model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 5))
constrain(model[0], "weight", Stiefel())  # orthonormal columns
optimizer = RiemannianAdam(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=200)

inputs = torch.randn(512, 20)
targets = torch.sin(inputs[:, :5])
for _ in range(200):
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(inputs), targets)
    loss.backward()
    optimizer.step()
    scheduler.step()

(report,) = constraints(model)
print(f"loss {loss.item():.3f}")
print(f"{report.name} on {report.manifold}: violation {report.violation:.0e}")
print("satisfied:", report.satisfied)

# %% [markdown]
# ## What survives
#
# The constraint is kept under the weight's name in its module. It stays when the model is copied,
# and when loading replaces the Parameter object. A checkpoint of the optimizer has the layout of
# `torch.optim.Adam`, so that either loads that of the other.

# %%
twin = copy.deepcopy(model)
twin.load_state_dict(model.state_dict(), assign=True)
print("the copy:", constraints(twin)[0].manifold)

adam = torch.optim.Adam(twin.parameters())
adam.load_state_dict(optimizer.state_dict())
back = RiemannianAdam(model.parameters())
back.load_state_dict(adam.state_dict())
print(
    "there and back:", back.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
)

# %% [markdown]
# A weight that was edited by hand may be off its surface. That is reported, and `project_` takes it
# to the nearest point.

# %%
with torch.no_grad():
    model[0].weight += 0.1
print("edited:   ", constraints(model)[0].satisfied)
project_(model)
print("projected:", constraints(model)[0].satisfied)

# %% [markdown]
# Next: [swap your optimizer](swap_your_optimizer.ipynb) on real data, or [riemopt beside
# parametrize](parametrize_against_riemopt.ipynb) in more detail.

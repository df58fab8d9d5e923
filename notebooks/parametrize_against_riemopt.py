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
# # Parametrize beside riemopt
#
# The same layer twice: once `torch.nn.utils.parametrizations.orthogonal` computes its weight from
# an unconstrained original, and once riemopt stores the weight and keeps it orthonormal. Both give
# orthonormal weights. They differ in what is stored, in where the work is done, and in what the
# optimizer sees.

# %%
import pickle

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal, weight_norm
from torch.nn.utils.parametrize import register_parametrization
from torch.utils._python_dispatch import TorchDispatchMode

from riemopt import RiemannianSGD, constrain, constraints
from riemopt.interop.parametrize import (
    Normalize,
    convert_state_dict,
    from_parametrized,
    to_parametrized,
)
from riemopt.manifolds import Sphere, Stiefel

# %% [markdown]
# ## What is stored

# %%
torch.manual_seed(0)
derived = orthogonal(nn.Linear(48, 48), orthogonal_map="matrix_exp")
stored = nn.Linear(48, 48)
constrain(stored, "weight", Stiefel())

for name, layer in (("parametrize", derived), ("riemopt", stored)):
    print(name)
    for key, tensor in layer.state_dict().items():
        print(f"    {key:40} {tuple(tensor.shape)}")
    try:
        pickle.dumps(layer)
        print("    can be pickled")
    except RuntimeError as error:
        print(f"    cannot be pickled: {str(error).split('.')[0]}")

# %% [markdown]
# ## Where the work is done
#
# A parametrized weight is computed in each forward pass and differentiated in each backward pass,
# also in evaluation and in each part of an accumulated gradient, unless `parametrize.cached()` is
# used. A stored weight is read. In return the optimizer's step has more to do: the projection and
# the way back to the surface, once a step. Here is what torch runs in a forward pass; [the
# benchmark](../docs/benchmark.md) has times of whole training steps.


# %%
class Names(TorchDispatchMode):
    """Names of the operations that torch runs, without views of a tensor."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


x = torch.randn(8, 48)
layers = {"riemopt": stored, "matrix_exp": derived}
for orthogonal_map in ("cayley", "householder"):
    layers[orthogonal_map] = orthogonal(nn.Linear(48, 48), orthogonal_map=orthogonal_map)
for name, layer in layers.items():
    with Names() as ran:
        layer(x)
    print(f"{name:12}", *ran.names)

# %% [markdown]
# ## Drift of the original
#
# Many originals give one weight, and training drifts along them. With x / ‖x‖ the gradient is at
# right angles to the original, so that its norm grows with every step, and the angle by which a
# step turns the weight falls as 1 / ‖original‖². Weight decay works against that, and so becomes a
# second learning rate. The stored weight has norm 1, and decay does nothing to it: its two lines
# below are one.


# %%
def run(way, weight_decay):
    """Norms of the stored tensor, and degrees by which each step turned the weight."""
    generator = torch.Generator().manual_seed(1)
    layer = nn.Linear(16, 1, bias=False)
    nn.init.ones_(layer.weight)
    constrain(layer, "weight", Sphere())
    if way == "riemopt":
        optimizer = RiemannianSGD(layer.parameters(), lr=0.05, weight_decay=weight_decay)
    else:
        start = layer.weight.detach().clone()
        layer = register_parametrization(nn.Linear(16, 1, bias=False), "weight", Normalize())
        layer.weight = start
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.05, weight_decay=weight_decay)
    norms, angles = [], []
    for _ in range(400):
        before = layer.weight.detach().clone()
        optimizer.zero_grad()
        layer(torch.randn(4, 16, generator=generator)).sum().backward()
        optimizer.step()
        cosine = (before * layer.weight.detach()).sum().clamp(-1, 1)
        angles.append(torch.rad2deg(torch.arccos(cosine)).item())
        norms.append(next(layer.parameters()).norm().item())
    return norms, torch.tensor(angles).view(-1, 20).mean(1)


figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for way in ("riemopt", "parametrize"):
    for weight_decay, line in ((0.0, "-"), (0.5, "--")):
        norms, angles = run(way, weight_decay)
        style = {"color": "C0" if way == "riemopt" else "C1", "ls": line}
        label = f"{way}, decay {weight_decay:g}"
        left.plot(norms, label=label, **style)
        right.plot(range(10, 400, 20), angles, **style)
left.set(title="norm of the stored tensor", xlabel="step")
right.set(title="degrees that a step turns the weight", xlabel="step", ylim=0)
left.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## Converting a model
#
# `from_parametrized` turns the parametrizations of a model into constraints. The network computes
# the same function before and after, and the report says what became of each weight.

# %%
torch.manual_seed(0)


def build():
    return nn.Sequential(orthogonal(nn.Linear(20, 64)), nn.Tanh(), weight_norm(nn.Linear(64, 5)))


model = build()
checkpoint = model.state_dict()
x = torch.randn(8, 20)
before = model(x)
print(from_parametrized(model))
print(f"outputs differ by {(model(x) - before).abs().max():.0e}")
print("on their surfaces:", all(c.satisfied for c in constraints(model)))

# %% [markdown]
# Checkpoints are converted as well, in both directions, and so is the model. Only the optimizer
# begins anew, as its old state is of the originals.

# %%
model.load_state_dict(convert_state_dict(checkpoint, build(), to="constrained"))
print(f"from a checkpoint:  outputs differ by {(model(x) - before).abs().max():.0e}")
to_parametrized(model)
print(f"turned back:        outputs differ by {(model(x) - before).abs().max():.0e}")

# %% [markdown]
# ## When to stay with parametrize
#
# Where the map matters and not the surface, as for a positive scale exp(s), or where a weight is
# small and the forward pass cheap: then there is little to gain. [Moving from
# parametrize](../docs/moving-from-parametrize.md) has the table of what is converted, and
# `reimpose_every` for those who stay.

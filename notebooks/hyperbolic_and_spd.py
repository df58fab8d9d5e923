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
# # Trees in hyperbolic space, means of covariances
#
# Two sets where straight lines are the wrong ones. A tree has more nodes at each level than the
# plane has room for, and hyperbolic space has room. The mean of covariance matrices by entries is
# larger than any of them, and the mean along geodesics is not.

# %%
import matplotlib.pyplot as plt
import torch

import riemopt
from riemopt import ManifoldParameter, RiemannianAdam
from riemopt.manifolds import SPD, PoincareBall, Stereographic

# %% [markdown]
# ## A tree
#
# A binary tree of six levels, 63 nodes. The distance of two nodes is the number of edges between
# them.

# %%
LEVELS = 6
NODES = 2**LEVELS - 1
parent = (torch.arange(NODES) - 1) // 2
ancestors = torch.eye(NODES, dtype=torch.bool)  # row i: i, its parent, and so on to the root
for node in range(1, NODES):
    ancestors[node] |= ancestors[parent[node]]
depth = ancestors.sum(1)
shared = (ancestors[:, None] & ancestors[None]).sum(-1)
edges = (depth[:, None] + depth[None] - 2 * shared).double()
pairs = torch.triu_indices(NODES, NODES, 1)
print(f"{NODES} nodes, {pairs.shape[1]} pairs, up to {edges.max():.0f} edges apart")

# The start of both embeddings: a small fan, in which no edges cross.
turn = torch.cat([(torch.arange(2**k) + 0.5) / 2**k for k in range(LEVELS)]) * 2 * torch.pi
fan = 0.05 * (depth - 1)[:, None] * torch.stack([turn.cos(), turn.sin()], -1).double()

# %% [markdown]
# ## Embedded in the plane and in the ball
#
# The same loss for both: distances should be those in the tree, up to one scale that is learned
# too. `Stereographic(0.0)` is the plane, with a point in each row; `PoincareBall` is the inside of
# the unit disc with the metric of hyperbolic space. With `second_moment="point"` a step is measured
# in that metric, so that points near the rim still move.
#
# In the picture of the ball, edges are arcs of circles. A unit of length covers ever less of the
# picture towards the rim, and so the outer edges look short.


# %%
def embed(manifold, steps=300):
    points = ManifoldParameter(fan.clone(), manifold)
    scale = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = RiemannianAdam([points, scale], lr=0.3, second_moment="point")
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    target = edges[pairs[0], pairs[1]]
    for _ in range(steps):
        optimizer.zero_grad()
        found = manifold.dist(points[pairs[0]], points[pairs[1]])
        errors = found / (scale.exp() * target) - 1
        errors.square().mean().backward()
        optimizer.step()
        scheduler.step()
    return points.detach(), errors.detach().abs()


embeddings = {}
for name, manifold in (("plane", Stereographic(0.0)), ("ball", PoincareBall())):
    embeddings[name], errors = embed(manifold)
    print(f"{name:6} distances off by {errors.mean():.1%} on average, {errors.max():.0%} at most")

figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
t = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]
for ax, (name, points) in zip(axes, embeddings.items(), strict=True):
    for node in range(1, NODES):
        start, end = points[parent[node]].expand(20, 2), points[node].expand(20, 2)
        line = start.lerp(end, t) if name == "plane" else PoincareBall().geodesic(start, end, t)
        ax.plot(*line.T, color="0.6", lw=1, zorder=1)
    ax.scatter(*points.T, c=depth, s=14, cmap="viridis_r", zorder=2)
    ax.set(aspect="equal", title=name)
    ax.set_axis_off()
axes[1].add_patch(plt.Circle((0, 0), 1, fill=False, color="0.8"))
plt.show()

# %% [markdown]
# ## Means of covariance matrices
#
# Thin ellipses that point in different directions, all of determinant 1. Their mean by entries has
# a larger one than any of them: it has swollen. `SPD("affine")` measures distances that are the
# same in all coordinates, and its mean has the determinant of the members. (The default of `SPD()`
# is the metric of optimal transport, for training weights.)

# %%
affine = SPD("affine")
angle = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)
rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2)
members = rotation @ torch.diag(torch.tensor([4.0, 0.25], dtype=torch.float64)) @ rotation.mT
means = {"by entries": members.mean(0), "affine": riemopt.mean(affine, members)}
for name, M in means.items():
    print(f"{name:10} determinant {torch.linalg.det(M):.4f}")

circle = torch.linspace(0, 2 * torch.pi, 200, dtype=torch.float64)
circle = torch.stack([circle.cos(), circle.sin()])
plt.figure(figsize=(4.6, 3.6), layout="constrained")
for S in members:
    plt.plot(*(torch.linalg.cholesky(S) @ circle), color="0.8", lw=1)
for name, M in means.items():
    plt.plot(*(torch.linalg.cholesky(M) @ circle), lw=2, label=f"mean, {name}")
plt.axis("equal")
plt.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
plt.show()

# %% [markdown]
# In other coordinates, S ↦ BSBᵀ, the affine mean goes along, and the mean of the inverses is the
# inverse of the mean, so that covariances and precisions have one mean. That by entries does not
# have the second.

# %%
B = torch.tensor([[2.0, 1.0], [0.0, 0.5]], dtype=torch.float64)
ways = {
    "by entries": lambda matrices: matrices.mean(0),
    "affine": lambda m: riemopt.mean(affine, m),
}
for name, mean in ways.items():
    coordinates = mean(B @ members @ B.mT) - B @ means[name] @ B.mT
    inverses = mean(members.inverse()) - means[name].inverse()
    print(f"{name:10} off by {coordinates.abs().max():.0e} in other coordinates", end=", ")
    print(f"by {inverses.abs().max():.0e} for inverses")

# %% [markdown]
# One bad measurement moves a mean. The median, which makes the sum of distances smallest and not
# that of their squares, moves less.

# %%
bad = torch.cat([members, 1000 * torch.eye(2, dtype=torch.float64)[None]])
for name, centre in (("mean", riemopt.mean), ("median", riemopt.median)):
    moved = affine.dist(centre(affine, bad), centre(affine, members))
    print(f"the {name:6} moves by {moved:.2f}")

# %% [markdown]
# [Hyperbolic spaces](../docs/hyperbolic.md) says which model keeps enough digits for how large a
# tree, and the [catalogue](../docs/catalogue.md#spd) has the other metrics of `SPD`.

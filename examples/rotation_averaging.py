"""Rotation averaging: how ten cameras are turned, from noisy rotations between pairs of them.

python examples/rotation_averaging.py

Camera j is seen from camera i as turned by Rⱼᵢ, which is Rⱼ·Rᵢᵀ and an error of 5° or so. The ten
rotations are found from random starts; a common rotation of all cannot be seen, and is divided out.
"""

import math

import torch

import riemopt
from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD
from riemopt.manifolds import SpecialOrthogonal

SO3 = SpecialOrthogonal()
CAMERAS, NOISE, STARTS = 10, math.radians(5), 5

torch.manual_seed(0)
truth = SO3.random_point(CAMERAS, 3, 3)
i, j = torch.combinations(torch.arange(CAMERAS)).T
i, j = i[::2], j[::2]  # every other pair
seen = truth[j] @ truth[i].mT
tilt = SO3.random_tangent(seen)
seen = SO3.exp(seen, NOISE * 2**0.5 * tilt / SO3.norm(seen, tilt, keepdim=True))


def disagreement(R):
    """Mean of ‖Rⱼ - Rⱼᵢ·Rᵢ‖² over the pairs."""
    return (R[j] - seen @ R[i]).square().sum((-2, -1)).mean()


def degrees(R):
    """Root mean square of the angles to the truth, after the best common rotation."""
    common = riemopt.mean(SO3, R.mT @ truth)
    angles = SO3.dist(R @ common, truth) / 2**0.5
    return math.degrees(angles.square().mean().sqrt())


optimizers = {
    "RiemannianAdam": lambda R: RiemannianAdam([R], lr=0.1),
    "RiemannianSGD": lambda R: RiemannianSGD([R], lr=0.5, momentum=0.9),
}
print(f"{len(i)} pairs, off by 5°; disagreement of the truth {disagreement(truth):.4f}")
worst = 0.0
for name, make in optimizers.items():
    for start in range(STARTS):
        R = ManifoldParameter(SO3.random_point(CAMERAS, 3, 3), SO3)
        before = degrees(R.detach())
        optimizer = make(R)
        for _ in range(300):
            optimizer.zero_grad()
            loss = disagreement(R)
            loss.backward()
            optimizer.step()
        after = degrees(R.detach())
        worst = max(worst, after)
        print(f"{name:14}  start {start}: from {before:5.1f}° to {after:.2f}°, {loss.item():.4f}")
print(f"worst of {2 * STARTS} starts: {worst:.2f}°")

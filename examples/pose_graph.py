"""A pose graph: where a robot has been, from noisy motions and the loops that it has closed.

python examples/pose_graph.py

Pose j is seen from pose i as Zᵢⱼ, which is Xᵢ⁻¹Xⱼ and an error. Consecutive poses see each other
(odometry), and so do some that are near each other again (loop closures). Adding up the odometry is
the start, which drifts. Levenberg–Marquardt minimises the errors of all, weighted by how exact they
are, in a few iterations; RiemannianAdam needs hundreds of steps.
"""

import math
from dataclasses import dataclass

import torch

from riemopt import ManifoldParameter, RiemannianAdam, minimize
from riemopt.manifolds import SpecialEuclidean

TURN, SHIFT = 0.02, 0.05
"""Errors of a motion: radians, and the unit of length."""


@dataclass(frozen=True)
class PoseGraph:
    """Poses `(n, d+1, d+1)` by odometry, the truth, and the motions Z seen along edges (i, j)."""

    start: torch.Tensor
    truth: torch.Tensor
    i: torch.Tensor
    j: torch.Tensor
    Z: torch.Tensor

    def residuals(self, X):
        """Errors of Rᵢ⁻¹Rⱼ and of tⱼ seen from pose i, one row an edge, in standard deviations."""
        n = X.shape[-1] - 1
        Ri, Rj, ti, tj = X[self.i, :n, :n], X[self.j, :n, :n], X[self.i, :n, n], X[self.j, :n, n]
        turned = (Ri.mT @ Rj - self.Z[:, :n, :n]) / (math.sqrt(2) * TURN)
        moved = ((Ri.mT @ (tj - ti)[..., None])[..., 0] - self.Z[:, :n, n]) / SHIFT
        return torch.cat([turned.flatten(1), moved], 1)

    def cost(self, X):
        """Half the sum of squares."""
        return self.residuals(X).square().sum() / 2


def pose_graph(d, *, loops=8, around=25, seed=0):
    """A drive of `loops` rounds of a circle in d = 2 dimensions, or up a helix in 3."""
    gen = torch.Generator().manual_seed(seed)
    n = loops * around
    angle = torch.arange(n, dtype=torch.float64) * (2 * math.pi / around)
    manifold, truth = SpecialEuclidean(), torch.eye(d + 1, dtype=torch.float64).repeat(n, 1, 1)
    c, s = angle.cos(), angle.sin()
    truth[:, 0, 0], truth[:, 0, 1], truth[:, 1, 0], truth[:, 1, 1] = c, -s, s, c
    truth[:, 0, d], truth[:, 1, d] = 5 * s, -5 * c
    if d == 3:
        truth[:, 2, 3] = angle / 5
    i = torch.cat([torch.arange(n - 1), torch.arange(0, n - around, 3)])
    j = torch.cat([torch.arange(1, n), torch.arange(0, n - around, 3) + around])  # a round later
    Z = torch.linalg.solve(truth[i], truth[j])
    # Errors turn by TURN, a length of √2·TURN in the metric, and shift by SHIFT.
    error = manifold.random_tangent(Z, generator=gen)
    error[:, :d, :d] *= TURN
    error[:, :d, d] *= SHIFT
    Z = manifold.exp(Z, error)
    start = [truth[0]]
    for motion in Z[: n - 1]:
        start.append(start[-1] @ motion)
    return PoseGraph(torch.stack(start), truth, i, j, Z)


def drift(X, truth):
    """Root mean square error of the positions, as seen from the first pose."""
    off = torch.linalg.solve(X[:1], X) - torch.linalg.solve(truth[:1], truth)
    return off[:, :-1, -1].norm(dim=-1).square().mean().sqrt()


def steps_of_adam(graph, lr, target, most=2000):
    """How many it takes until the cost is at the target."""
    X = ManifoldParameter(graph.start.clone(), SpecialEuclidean())
    optimizer = RiemannianAdam([X], lr=lr)
    for step in range(most):
        optimizer.zero_grad()
        loss = graph.cost(X)
        if loss.item() <= target:
            return step
        loss.backward()
        optimizer.step()
    return most


def main():
    for d in (2, 3):
        graph = pose_graph(d)
        result = minimize(
            graph.residuals, graph.start, SpecialEuclidean(), method="levenberg-marquardt"
        )
        assert result.success, result.message
        print(
            f"{d}-D, {len(graph.truth)} poses, {len(graph.i)} edges: cost "
            f"{graph.cost(graph.start):.1f} to {result.fun:.1f}, positions off by "
            f"{drift(graph.start, graph.truth):.2f} to {drift(result.x, graph.truth):.2f}"
        )
        print(f"     Levenberg–Marquardt: {result.nit} iterations")
        for lr in (0.03, 0.1):
            steps = steps_of_adam(graph, lr, 1.001 * result.fun)
            print(f"     RiemannianAdam, lr={lr}: {steps} steps to within 0.1% of that cost")


if __name__ == "__main__":
    main()

"""Complete a matrix of rank 5 from a sixth of its entries, as a whole matrix and as two factors.

python examples/low_rank_completion.py
"""

import torch

from riemopt import ManifoldParameter, RiemannianSGD
from riemopt.manifolds import FixedRank, FixedRankFactors

ROWS, COLUMNS, RANK, STEPS = 300, 200, 5, 150

torch.manual_seed(0)
left, right = (torch.randn(k, RANK, dtype=torch.float64) for k in (ROWS, COLUMNS))
matrix = left @ right.mT
known = torch.rand(ROWS, COLUMNS) < 1 / 6
share = known.double().mean().item()


def complete(name, weight, whole, lr, momentum):
    optimizer = RiemannianSGD([weight], lr=lr / share, momentum=momentum)
    print(f"{name:28}", end="")
    for step in range(STEPS + 1):
        optimizer.zero_grad()
        error = whole(weight) - matrix
        if step % 50 == 0:
            unseen = error[~known].norm() / matrix[~known].norm()
            print(f"  {unseen.item():.1e}", end="")
        (known * error).square().sum().div(2).backward()
        optimizer.step()
    print()


print("Relative error of the entries that are not known, every 50 steps:")
manifold = FixedRank(RANK)
zeros = torch.zeros_like(matrix)
for name, start in (
    ("whole, from what is known", manifold.project(known * matrix / share)),
    ("whole, from a random point", manifold.random_point(ROWS, COLUMNS, dtype=torch.float64)),
    ("whole, from zeros", manifold.project(zeros)),
):
    complete(name, ManifoldParameter(start, manifold), lambda X: X, lr=0.5, momentum=0.5)

manifold = FixedRankFactors(rows=ROWS)
for name, scale in (("factors", 1.0), ("factors of unequal size", 30.0)):
    torch.manual_seed(1)
    G, H = (torch.randn(k, RANK, dtype=torch.float64) for k in (ROWS, COLUMNS))
    start = ManifoldParameter(manifold.join(scale * G, H / scale), manifold)
    complete(name, start, manifold.matrix, lr=0.3, momentum=0.7)

"""A tree in the Poincaré ball (Nickel & Kiela 2017): neighbours are to be nearest.

    minimise  E -log( e^{-d(u,v)} / Σ_w e^{-d(u,w)} ),   (u, v) an edge; w: v and all non-neighbours

A node has as many neighbours whatever its depth, while their number grows exponentially with depth:
there is room for that in the ball and not in a plane. Judged by the mean average precision with
which distances find the neighbours of each node; in the ball's plane an embedding that finds all of
them, of precision 1, can be written down (Sarkar 2011).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._learning import Learning, draws
from riemopt_bench.surfaces import PoincareBall

CHILDREN, DEPTH, DIMENSIONS = 3, 4, 5
BATCH = 64


def neighbours() -> Tensor:
    """Whether two nodes share an edge, of a tree whose inner nodes have `CHILDREN` each."""
    inner = (CHILDREN**DEPTH - 1) // (CHILDREN - 1)
    child = torch.arange(1, CHILDREN * inner + 1)
    adjacent = torch.zeros(len(child) + 1, len(child) + 1, dtype=torch.bool)
    adjacent[child, (child - 1) // CHILDREN] = True
    return adjacent | adjacent.mT


def distance(x: Tensor, y: Tensor) -> Tensor:
    """2 arsinh( ‖x-y‖ / √((1-‖x‖²)(1-‖y‖²)) ), of the last dimension; NaN outside the ball."""
    room = (1 - x.square().sum(-1)) * (1 - y.square().sum(-1))
    return 2 * (torch.linalg.vector_norm(x - y, dim=-1) / room.sqrt()).asinh()


class Tree(nn.Module):
    """A point per node, near the centre at the start."""

    def __init__(self, adjacent: Tensor) -> None:
        super().__init__()
        self.points = nn.Parameter(0.01 * torch.randn(len(adjacent), DIMENSIONS))
        self.register_buffer("adjacent", adjacent, persistent=False)

    def forward(self, nodes: Tensor) -> Tensor:
        """Distances `(N, all)` of nodes `(N,)` to every node; infinite to themselves."""
        distances = distance(self.points[nodes, None], self.points)
        itself = nodes[:, None] == torch.arange(len(self.points))
        return distances.masked_fill(itself, torch.inf)


def edge_loss(model: nn.Module, edges: Tensor) -> Tensor:
    """How far a node `edges[0]` has its neighbour `edges[1]`, measured by those who are none."""
    node, neighbour = edges
    others = model.get_buffer("adjacent")[node].scatter(1, neighbour[:, None], value=False)
    return functional.cross_entropy(-model(node).masked_fill(others, torch.inf), neighbour)


def mean_average_precision(model: nn.Module, adjacent: Tensor) -> Tensor:
    """Over a node's neighbours v, the share of neighbours among the nodes no farther than v."""
    every = torch.arange(len(adjacent))
    hit = adjacent.take_along_dim(model(every).argsort(-1), -1)
    precision = hit.cumsum(-1) / (every + 1)
    return ((precision * hit).sum(-1) / hit.sum(-1)).mean()


def learn(seed: int) -> Learning:
    """`seed` draws start and batches; the tree is known, so there is no other data to test on."""
    torch.manual_seed(seed)
    adjacent = neighbours()
    edges = adjacent.nonzero().mT
    chosen = draws(
        seed, lambda generator: torch.randint(edges.shape[1], (BATCH,), generator=generator)
    )
    return Learning(
        Tree(adjacent),
        {"points": PoincareBall()},
        lambda step: edges[:, chosen(step)],
        edge_loss,
        test=adjacent,
        validation=edges,
        training=edges,
    )


def build(seed: int) -> Task:
    """Judged by the mean average precision."""
    return learn(seed).task(mean_average_precision)


PROBLEMS = (
    Problem(
        name="hyperbolic-tree",
        title="Tree in the Poincaré ball",
        description="121 nodes of a tree with three children each, as points in five dimensions "
        "whose nearest ones are the neighbours.",
        metric="mean average precision",
        higher_is_better=True,
        target=0.95,
        surfaces=frozenset({PoincareBall()}),
        build=build,
        reference="The optimum is 1 (Sarkar 2011). Set up as in Nickel & Kiela (2017), with all "
        "nodes that are no neighbours in place of some that are drawn.",
        bounded=False,  # there are no distances outside the ball
        budget=Budget(400),
    ),
)

"""Two scripts of geoopt's users, with their imports changed: a hyperbolic MLP and a tree embedding.

python -m tests.test_hyperbolic_ports       prints the figures of both packages
"""

from typing import Any, NamedTuple

import geoopt
import pytest
import torch
from torch import nn

import riemopt
from riemopt.interop import geoopt as bridge
from riemopt.manifolds import Lorentz, PoincareBall
from tests.manifold_cases import generator


class Package(NamedTuple):
    """What a script imports, and the names of the methods that it calls."""

    ball: Any
    parameter: Any
    adam: Any
    exp0: str = "expmap0"
    log0: str = "logmap0"
    plane: str = "dist2plane"


def adam(params, lr):
    return riemopt.RiemannianAdam(params, lr=lr, second_moment="point")


GEOOPT = Package(geoopt.PoincareBall, geoopt.ManifoldParameter, geoopt.optim.RiemannianAdam)
# The import of the optimizer alone is changed: its steps are those of riemopt's PoincareBall.
BRIDGED = GEOOPT._replace(adam=bridge.RiemannianAdam)
RIEMOPT = Package(
    PoincareBall, riemopt.ManifoldParameter, adam, "exp0", "log0", "dist_to_hyperplane"
)


class MobiusLinear(nn.Module):
    """geoopt's examples/mobius_linear_example.py: M ⊗ x ⊕ b, and tanh in the tangent space at 0."""

    def __init__(self, package, ball, inputs, outputs, gen):
        super().__init__()
        self.package, self.ball = package, ball
        self.weight = nn.Parameter(torch.randn(outputs, inputs, generator=gen) / inputs**0.5)
        bias = 1e-2 * torch.randn(outputs, generator=gen)
        self.bias = package.parameter(bias, ball)

    def forward(self, x):
        y = self.ball.mobius_add(self.ball.mobius_matvec(self.weight, x), self.bias)
        exp0, log0 = (getattr(self.ball, name) for name in (self.package.exp0, self.package.log0))
        return exp0(torch.tanh(log0(y)))


class Classifier(nn.Module):
    """Two such layers, and distances to hyperplanes as logits (Ganea et al. 2018)."""

    def __init__(self, package, inputs, hidden, classes):
        super().__init__()
        gen = generator(0)
        self.package, self.ball = package, package.ball()
        self.layers = nn.Sequential(
            MobiusLinear(package, self.ball, inputs, hidden, gen),
            MobiusLinear(package, self.ball, hidden, hidden, gen),
        )
        points = 0.1 * torch.randn(classes, hidden, generator=gen)
        self.points = package.parameter(points, self.ball)
        self.normals = nn.Parameter(torch.randn(classes, hidden, generator=gen) / hidden**0.5)

    def forward(self, x):
        y = self.layers(getattr(self.ball, self.package.exp0)(x)).unsqueeze(-2)
        plane = getattr(self.ball, self.package.plane)
        distance = plane(y, self.points, self.normals, signed=True)
        scale = 2 * torch.linalg.vector_norm(self.normals, dim=-1)
        return distance * scale


def classify(package, steps=150):
    """Test accuracy on handwritten digits, and the last loss."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16 / 4
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=generator(1))
    train, test = order[:1200], order[1200:]
    model = Classifier(package, 64, 16, 10)
    optimizer = package.adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[train]), y[train])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (model(x[test]).argmax(-1) == y[test]).float().mean()
    return accuracy.item(), loss.item()


def binary_tree(depth):
    """Pairs (node, parent) of a complete binary tree, and the distances between all nodes."""
    count = 2 ** (depth + 1) - 1
    ancestors = [{i} for i in range(count)]
    for i in range(1, count):
        ancestors[i] = ancestors[i] | ancestors[(i - 1) // 2]
    distances = [[len(a ^ b) for b in ancestors] for a in ancestors]
    edges = torch.tensor([[i, (i - 1) // 2] for i in range(1, count)])
    return edges, torch.tensor(distances)


def embed(package, manifold=None, depth=5, steps=300):
    """Mean average precision of neighbours (Nickel & Kiela 2017, §4), and the last loss."""
    edges, distances = binary_tree(depth)
    manifold = manifold or package.ball()
    start = 1e-2 * torch.randn(len(distances), 2, generator=generator(0))
    if isinstance(manifold, Lorentz):
        start = manifold.exp0(start)
    p = package.parameter(start, manifold)
    optimizer = package.adam([p], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        apart = manifold.dist(p.unsqueeze(0), p.unsqueeze(1))
        apart = apart + torch.diag(torch.full((len(p),), 1e9))
        loss = torch.cat(
            [
                nn.functional.cross_entropy(-apart[edges[:, i]], edges[:, 1 - i], reduction="none")
                for i in (0, 1)
            ]
        ).mean()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        apart = manifold.dist(p.unsqueeze(0), p.unsqueeze(1)).fill_diagonal_(torch.inf)
    precision = []
    for i, row in enumerate(distances):
        rank = torch.empty(len(row), dtype=torch.long)
        rank[apart[i].argsort()] = torch.arange(1, len(row) + 1)
        ranks = rank[row == 1].sort().values
        precision.append((torch.arange(1, len(ranks) + 1) / ranks).mean())
    return torch.stack(precision).mean().item(), loss.item()


@pytest.mark.parametrize("package", [BRIDGED, RIEMOPT], ids=["bridged", "riemopt"])
def test_a_hyperbolic_classifier(package):
    theirs, their_loss = classify(GEOOPT)
    ours, loss = classify(package)
    assert ours > 0.93
    assert ours > theirs - 0.02
    assert loss < 1.2 * their_loss


@pytest.mark.parametrize("package", [BRIDGED, RIEMOPT], ids=["bridged", "riemopt"])
def test_a_tree_embedding(package):
    theirs, _ = embed(GEOOPT)
    ours, _ = embed(package)
    assert ours > 0.85
    assert ours > theirs - 0.05


def test_a_tree_embedding_on_the_hyperboloid():
    assert embed(RIEMOPT, Lorentz())[0] > 0.85


if __name__ == "__main__":
    for name, package in (("geoopt", GEOOPT), ("bridged", BRIDGED), ("riemopt", RIEMOPT)):
        print(name, "classifier (accuracy, loss):", classify(package))
        print(name, "tree (precision, loss):", embed(package))
    print("tree on the hyperboloid:", embed(RIEMOPT, Lorentz()))

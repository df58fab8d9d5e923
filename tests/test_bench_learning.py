"""The learning problems: data in parts that are apart, models that do what their files say."""

import pytest
import torch
from riemopt_bench import registry
from riemopt_bench.interface import Budget
from riemopt_bench.problems import energy, hyperbolic_tree, sparse_autoencoder, spd_network
from riemopt_bench.problems._digits import digits, split_digits, trained_network
from riemopt_bench.problems._learning import draws
from riemopt_bench.problems._text import learn_text, text
from riemopt_bench.train import measure
from torch.nn.functional import normalize

from riemopt.manifolds import PoincareBall


@pytest.mark.parametrize("name", ["adapters", "oft"])
def test_training_leaves_the_frozen_network_alone(name):
    before = {key: value.clone() for key, value in trained_network().state_dict().items()}
    problem = registry.problems()[name]
    plain = registry.methods()["adam-unconstrained"]
    measure.train(*measure.fresh(problem, plain, 1e-1, 0), Budget(2), record=False)
    for key, value in trained_network().state_dict().items():
        assert torch.equal(value, before[key]), key


def test_parts_of_the_digits_are_apart_and_those_to_test_on_are_the_same():
    numbered = torch.arange(1797)
    parts, all_parts = split_digits(3, seen=numbered), split_digits(3, 0, numbered)
    seen = torch.cat([part[0] for part in parts])
    assert torch.equal(seen.sort().values, numbered)
    assert [len(part[0]) for part in parts] == [997, 300, 500]
    assert torch.equal(parts.test[0], all_parts.test[0])


def test_a_draw_does_not_depend_on_when_it_is_asked_for():
    def draw(generator):
        return torch.randint(1000, (5,), generator=generator)

    one, two = draws(1, draw), draws(1, draw)
    late = one(7)
    assert torch.equal(one(2), two(2))
    assert torch.equal(late, two(7))
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(
        torch.stack([one(t) for t in range(8)]), torch.stack([draw(generator) for _ in range(8)])
    )


def test_parts_of_the_text_are_apart(monkeypatch):
    numbered = torch.arange(len(text()[0]))
    monkeypatch.setattr("riemopt_bench.problems._text.text", lambda: (numbered, len(numbered)))
    learning = learn_text(0, torch.nn.Identity(), {}, context=32)
    for inputs, following in (learning.batch(3), learning.validation, learning.test):
        assert torch.equal(inputs[:, 1:], following[:, :-1])
    cuts = [0, *(int(len(numbered) * share) for share in (0.8, 0.9)), len(numbered)]
    parts = (learning.training, learning.validation, learning.test)
    for (inputs, following), low, high in zip(parts, cuts[:-1], cuts[1:], strict=True):
        assert low <= inputs.min()
        assert following.max() < high


def test_the_energy_falls_where_the_coupling_is_symmetric():
    net = energy.learn(0).model.double()
    x = digits()[0][:20].double()
    levels = []
    with torch.no_grad():
        field, W = net.input(2 * x - 1), net.coupling
        s = torch.zeros_like(field)
        for _ in range(energy.STEPS):
            rho = s.tanh()
            integral = rho * s - s.cosh().log()  # of artanh, from 0 to rho
            levels.append((integral - rho * (0.5 * rho @ W + field)).sum(-1))
            s = s + 0.5 * (rho @ W + field - s)
        torch.testing.assert_close(net(x), s[:, -energy.CLASSES :])
    assert (torch.stack(levels).diff(dim=0) < 1e-9).all()


def test_distances_are_those_of_the_ball():
    x, y = (0.5 * torch.rand(2, 30, 5, dtype=torch.float64) - 0.25) * 1.7
    expected = PoincareBall().dist(x, y)
    torch.testing.assert_close(hyperbolic_tree.distance(x, y), expected)


def tree_distances(adjacent):
    """Numbers of edges between nodes."""
    away = torch.where(adjacent, 1.0, torch.inf).fill_diagonal_(0)
    for k in range(len(away)):
        away = torch.minimum(away, away[:, k, None] + away[k])
    return away


def test_the_tree_itself_has_precision_one():
    adjacent = hyperbolic_tree.neighbours()
    assert (len(adjacent), int(adjacent.sum())) == (121, 2 * 120)
    away = tree_distances(adjacent)
    assert away.max() == 8  # connected
    away = away.fill_diagonal_(torch.inf)
    precision = hyperbolic_tree.mean_average_precision(lambda nodes: away[nodes], adjacent)
    assert precision == 1
    worst = hyperbolic_tree.mean_average_precision(lambda nodes: -away[nodes], adjacent)
    assert worst < 0.1


def test_average_precision_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    adjacent = hyperbolic_tree.neighbours()
    distances = torch.rand(len(adjacent), len(adjacent)).fill_diagonal_(torch.inf)
    found = hyperbolic_tree.mean_average_precision(lambda nodes: distances[nodes], adjacent)
    others = ~torch.eye(len(adjacent), dtype=torch.bool)
    expected = [
        metrics.average_precision_score(adjacent[i][others[i]], -distances[i][others[i]])
        for i in range(len(adjacent))
    ]
    assert found.item() == pytest.approx(sum(expected) / len(expected))


def test_spectral_functions_and_their_derivatives():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 5, 5, dtype=torch.float64, generator=generator)
    x = (a @ a.mT + 0.1 * torch.eye(5)).requires_grad_()
    torch.testing.assert_close(torch.linalg.matrix_exp(spd_network.logarithm(x)), x)
    torch.testing.assert_close(spd_network.rectified(x), x)

    def log(a):
        return spd_network.logarithm((a + a.mT) / 2)

    assert torch.autograd.gradcheck(log, x)
    # At equal eigenvalues, where the derivative of eigh is not finite: d log(X) = dX/λ at X = λI.
    equal = (2 * torch.eye(5, dtype=torch.float64)).requires_grad_()
    (gradient,) = torch.autograd.grad((spd_network.logarithm(equal) * x[0].detach()).sum(), equal)
    torch.testing.assert_close(gradient, x[0].detach() / 2)


def test_small_eigenvalues_are_raised_to_the_floor():
    x = torch.diag(torch.tensor([1.0, 1e-5, 0.0]))
    expected = torch.diag(torch.tensor([1.0, spd_network.FLOOR, spd_network.FLOOR]))
    torch.testing.assert_close(spd_network.rectified(x), expected)


@pytest.mark.slow
def test_reference_of_the_spd_network():
    linear_model = pytest.importorskip("sklearn.linear_model")
    model_selection = pytest.importorskip("sklearn.model_selection")
    logarithms = spd_network.logarithm(spd_network.moments().double())
    rows, columns = torch.tril_indices(*logarithms.shape[1:])
    x = logarithms[:, rows, columns]
    assert x.shape[1] == 91
    x = (x - x.mean(0)) / (x.std(0) + 1e-9)  # the mass is 1 in all: its logarithm may not vary
    regression = linear_model.LogisticRegression(max_iter=300)
    scores = model_selection.cross_val_score(regression, x.numpy(), digits()[1].numpy(), cv=4)
    assert scores.mean() == pytest.approx(0.96, abs=0.01)


@pytest.mark.slow
def test_reference_of_the_sparse_autoencoder():
    """Dictionary learning by block coordinate descent (Mairal et al. 2009), codes by FISTA."""
    learning, penalty = sparse_autoencoder.learn(0), sparse_autoencoder.PENALTY
    generator = torch.Generator().manual_seed(0)
    D = normalize(torch.randn(96, sparse_autoencoder.CODES, generator=generator), dim=0)

    def codes(D, x, steps=60):
        bound = 2 * torch.linalg.matrix_norm(D, 2) ** 2
        z = ahead = torch.zeros(len(x), D.shape[1])
        t = 1.0
        for _ in range(steps):
            gradient = 2 * (ahead @ D.mT - x) @ D + penalty
            new, t_new = (ahead - gradient / bound).relu(), (1 + (1 + 4 * t * t) ** 0.5) / 2
            ahead, z, t = new + (t - 1) / t_new * (new - z), new, t_new
        return z

    x, test = learning.training[0], learning.test[0]
    for _ in range(60):
        z = codes(D, x)
        A, B = z.mT @ z, x.mT @ z
        for j in range(D.shape[1]):
            if A[j, j] > 1e-6:
                D[:, j] = normalize(D[:, j] + (B[:, j] - D @ A[:, j]) / A[j, j], dim=0)
    z = codes(D, test, steps=200)
    reached = (test - z @ D.mT).square().sum(-1).mean() + penalty * z.sum(-1).mean()
    assert reached.item() == pytest.approx(0.022, abs=0.001)

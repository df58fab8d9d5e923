"""`RiemannianLBFGS`: torch's signature, numbers and state; on manifolds, transported pairs."""

import copy
import inspect
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import riemopt
from riemopt import ManifoldParameter, RiemannianLBFGS, constrain, minimize
from riemopt.manifolds import SPD, Grassmann, SpecialOrthogonal, Sphere, Stiefel, Symmetric

F64 = torch.float64


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


A = normal(0, 12, 12)
A = (A + A.mT) / 2


def rayleigh(X):
    return (X * (A @ X) * torch.tensor([2.0, 1.0], dtype=F64)).sum()


def closure_of(optimizer, loss):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def run(optimizer, loss, steps=10):
    return [optimizer.step(closure_of(optimizer, loss)).item() for _ in range(steps)]


OPTIONS = [
    {},
    {"line_search_fn": "strong_wolfe"},
    {"lr": 0.3, "max_iter": 4, "history_size": 2},
    {"line_search_fn": "strong_wolfe", "max_iter": 7, "max_eval": 9, "history_size": 3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_plain_parameters_get_torchs_numbers_bit_for_bit(options):
    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

    data, target = torch.randn(20, 4), torch.randn(20, 1)
    ours, theirs = net(), net()

    def loss(model):
        return lambda: (model(data) - target).square().mean()

    a = RiemannianLBFGS(ours.parameters(), **options)
    b = torch.optim.LBFGS(theirs.parameters(), **options)
    assert run(a, loss(ours)) == run(b, loss(theirs))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)
    assert str(a.state_dict()) == str(b.state_dict())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_on_a_flat_manifold_the_iterates_are_those_of_torch(options):
    """On symmetric matrices the gradient is tangent already, and nothing is transported.

    Without a line search; the one here finds other lengths than torch's.
    """
    options = {"max_iter": 8, **options, "line_search_fn": None, "lr": 0.5}
    target = normal(1, 5, 5)

    def loss(X):
        return lambda: ((X + X.mT) / 2 - target).square().sum() + (X**4).sum()

    start = Symmetric().random_point(5, 5, dtype=F64)
    x, y = ManifoldParameter(start.clone(), Symmetric()), nn.Parameter(start.clone())
    a, b = RiemannianLBFGS([x], **options), torch.optim.LBFGS([y], **options)
    np.testing.assert_allclose(run(a, loss(x), 2), run(b, loss(y), 2), rtol=1e-9)
    torch.testing.assert_close(x.detach(), y.detach(), atol=1e-8, rtol=1e-8)
    ours, theirs = a.state_dict()["state"][0], b.state_dict()["state"][0]
    assert set(theirs) - set(ours) <= {"al"}
    assert (ours["n_iter"], ours["func_evals"]) == (theirs["n_iter"], theirs["func_evals"])
    assert len(ours["old_dirs"]) == len(theirs["old_dirs"])


CASES = [
    (Stiefel(), (12, 2), rayleigh),
    (Stiefel(metric="canonical"), (12, 2), rayleigh),
    (Grassmann(), (12, 2), lambda X: (X * (A @ X)).sum()),
    (Sphere(dim=0), (12, 2), lambda X: (X * (A @ X)).sum()),
    (SpecialOrthogonal(), (4, 3, 3), lambda X: (X * normal(2, 4, 3, 3)).sum()),
    (SPD("affine"), (4, 4), lambda X: (X @ A[:4, :4] @ A[:4, :4].mT).trace() - torch.logdet(X)),
]


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
@pytest.mark.parametrize(
    ("manifold", "shape", "cost"), CASES, ids=[f"{m}-{s}" for m, s, _ in CASES]
)
def test_minima_are_those_of_minimize(manifold, shape, cost, search):
    gen = torch.Generator().manual_seed(3)
    start = manifold.random_point(*shape, generator=gen, dtype=F64)
    found = minimize(cost, start, manifold)
    X = ManifoldParameter(start.clone(), manifold)
    lr = 1.0 if search else 0.5
    optimizer = RiemannianLBFGS([X], lr=lr, max_iter=40, line_search_fn=search)
    run(optimizer, lambda: cost(X), 10)
    assert found.success
    assert cost(X).item() == pytest.approx(found.fun, rel=1e-8)
    assert (manifold.violation(X.detach()) <= manifold.tolerance(X.detach())).all()
    assert optimizer.skipped_steps == 0


def test_constrained_and_plain_weights_move_along_one_line():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    constrain(model[0], "weight", Stiefel())
    data, target = normal(1, 40, 6), normal(2, 40, 2)

    def loss():
        return (model(data) - target).square().mean()

    optimizer = RiemannianLBFGS(model.parameters(), line_search_fn="strong_wolfe")
    losses = run(optimizer, loss, 15)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]
    assert Stiefel().violation(model[0].weight) < 1e-13
    assert "1 on Stiefel(), 3 unconstrained" in repr(optimizer)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_a_run_that_is_saved_and_resumed_is_the_same(search):
    def make(start):
        X = ManifoldParameter(start.clone(), Stiefel())
        with torch.no_grad():
            X.copy_(start)  # which projecting may have changed in the last bit
        return X, RiemannianLBFGS([X], lr=0.5, max_iter=3, line_search_fn=search)

    start = Stiefel().random_point(12, 2, dtype=F64)
    X, optimizer = make(start)
    run(optimizer, lambda: rayleigh(X), 3)
    Y, resumed = make(X.detach())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    same = [run(o, lambda x=x: rayleigh(x), 4) for x, o in ((X, optimizer), (Y, resumed))]
    assert same[0] == same[1]
    assert torch.equal(X, Y)


def test_state_of_torch_goes_on_here_and_state_of_ours_there():
    start = Symmetric().random_point(5, 5, dtype=F64)
    target = normal(1, 5, 5)

    def loss(X):
        return lambda: ((X + X.mT) / 2 - target).square().sum() + (X**4).sum()

    x, y = ManifoldParameter(start.clone(), Symmetric()), nn.Parameter(start.clone())
    a, b = (
        cls([p], lr=0.5, max_iter=2) for cls, p in ((RiemannianLBFGS, x), (torch.optim.LBFGS, y))
    )
    run(a, loss(x), 2)
    run(b, loss(y), 2)
    first, second = copy.deepcopy(a.state_dict()), copy.deepcopy(b.state_dict())
    a.load_state_dict(second)
    b.load_state_dict(first)
    np.testing.assert_allclose(run(a, loss(x), 3), run(b, loss(y), 3), rtol=1e-7)


def test_pairs_are_tangent_and_few():
    X = ManifoldParameter(Stiefel().random_point(12, 2, dtype=F64), Stiefel())
    optimizer = RiemannianLBFGS([X], max_iter=9, history_size=4, line_search_fn="strong_wolfe")
    run(optimizer, lambda: rayleigh(X), 1)
    state = optimizer.state[X]
    assert len(state["old_dirs"]) == len(state["old_stps"]) == len(state["ro"]) == 4
    for vector in (*state["old_dirs"], *state["old_stps"], state["d"], state["prev_flat_grad"]):
        u = vector.view(12, 2)
        torch.testing.assert_close(Stiefel().proj_tangent(X.detach(), u), u, atol=1e-10, rtol=0)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("manifold", [Sphere(), Symmetric()], ids=str)
def test_trials_of_a_search_do_not_move_where_it_starts(manifold, set_to_none):
    """One parameter, whose memory trials are written into; the first of them is too long."""
    X = ManifoldParameter(normal(3, 12, 12), manifold)
    optimizer = RiemannianLBFGS([X], lr=50.0, max_iter=3, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad(set_to_none=set_to_none)
        value = ((X - A) ** 2 + 0.1 * X**4).sum()
        value.backward()
        return value

    losses = [optimizer.step(closure).item() for _ in range(15)]
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(losses))
    assert losses[-1] < 0.9 * losses[0]


def test_limits_are_torchs():
    """`max_eval` and `max_iter` count calls of the closure and iterations of one step."""
    start = Sphere().random_point(12, dtype=F64)
    for options, calls in (
        ({"max_iter": 5, "lr": 0.1}, 5),
        ({"max_iter": 20, "max_eval": 8, "lr": 0.1}, 8),
    ):
        x = ManifoldParameter(start.clone(), Sphere())
        optimizer, count = RiemannianLBFGS([x], **options), []

        def loss(x=x, count=count):
            count.append(1)
            return x @ A @ x

        run(optimizer, loss, 1)
        assert len(count) == calls == optimizer.state[x]["func_evals"]


def test_at_a_minimum_nothing_moves():
    x = ManifoldParameter(torch.linalg.eigh(A).eigenvectors[:, 0].contiguous(), Sphere())
    before = x.detach().clone()
    optimizer = RiemannianLBFGS([x])
    loss = optimizer.step(closure_of(optimizer, lambda: x @ A @ x))
    assert isinstance(loss, torch.Tensor)
    assert torch.equal(x.detach(), before)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_a_loss_that_is_not_finite_moves_nothing_and_is_counted(search):
    x = ManifoldParameter(Sphere().random_point(12, dtype=F64), Sphere())
    before = x.detach().clone()
    optimizer = RiemannianLBFGS([x], line_search_fn=search)
    optimizer.step(closure_of(optimizer, lambda: (x @ A @ x) * torch.nan))
    assert torch.equal(x.detach(), before)
    assert optimizer.skipped_steps == 1


def test_signature_and_errors_are_torchs():
    assert inspect.signature(RiemannianLBFGS) == inspect.signature(torch.optim.LBFGS)
    assert issubclass(RiemannianLBFGS, torch.optim.LBFGS)
    assert riemopt.optim.riemannian(torch.optim.LBFGS) is RiemannianLBFGS
    x, y = (ManifoldParameter(torch.randn(3), Sphere()) for _ in range(2))
    with pytest.raises(ValueError, match="per-parameter options"):
        RiemannianLBFGS([{"params": [x]}, {"params": [y]}])
    with pytest.raises(TypeError, match="closure"):
        RiemannianLBFGS([x]).step()
    optimizer = RiemannianLBFGS([x], line_search_fn="armijo")
    with pytest.raises(RuntimeError, match="only 'strong_wolfe'"):
        optimizer.step(closure_of(optimizer, lambda: x.sum()))


def test_half_precision_is_refused_before_anything_moves():
    x = ManifoldParameter(torch.randn(3, dtype=torch.bfloat16), Sphere())
    before = x.detach().clone()
    optimizer = RiemannianLBFGS([x])
    with pytest.raises(NotImplementedError, match="float32 or float64"):
        optimizer.step(closure_of(optimizer, lambda: x.sum()))
    assert torch.equal(x.detach(), before)


def test_hooks_fire_once_and_complex_weights_move():
    z = ManifoldParameter(Stiefel().random_point(6, 2, dtype=torch.complex128), Stiefel())
    B = torch.randn(6, 6, dtype=torch.complex128)
    B = B + B.mH
    optimizer, calls = RiemannianLBFGS([z], line_search_fn="strong_wolfe", max_iter=100), []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    run(optimizer, lambda: (z.conj() * (B @ z)).real.sum(), 2)
    assert calls == [1, 1]
    least = torch.linalg.eigvalsh(B)[:2].sum()
    assert (z.conj() * (B @ z)).real.sum().item() == pytest.approx(float(least), rel=1e-9)

"""A constrained weight is not stepped off its manifold without a word."""

import copy
import sys
import types
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

import riemopt
from riemopt import ManifoldParameter, OffManifoldWarning, constrain, riemannian, unconstrain
from riemopt.manifolds import Euclidean, Sphere, Stiefel
from riemopt.nn import table
from riemopt.optim import torch_steps
from tests import needs


def model():
    return nn.Sequential(constrain(nn.Linear(4, 6), "weight", Stiefel()), nn.Linear(6, 2))


def train(model, optimizer, steps=2):
    """The warnings of some steps."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(3, 4)).square().sum().backward()
            optimizer.step()
    return [w for w in caught if issubclass(w.category, OffManifoldWarning)]


OPTIMIZERS = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer
}
TAKE_A_MATRIX = [name for name in OPTIMIZERS if name not in ("LBFGS", "SparseAdam", "Muon")]


@pytest.mark.parametrize("name", TAKE_A_MATRIX)
def test_one_warning_at_the_first_step(name):
    net = model()
    optimizer = OPTIMIZERS[name](net.parameters(), lr=0.1)
    (warning,) = train(net, optimizer)
    text = str(warning.message)
    assert text.startswith(f"{name} steps constrained weights off their manifolds: (6, 4) on Stie")
    named = f"riemopt.Riemannian{name}"
    known = hasattr(riemopt, f"Riemannian{name}")
    assert (named if known else f"riemopt.riemannian({name})") in text
    assert "riemopt.project_(model)" in text
    assert "ignore" in text
    assert "riemopt.OffManifoldWarning" in text
    assert warning.filename == __file__
    assert not train(net, optimizer)
    (warning,) = train(net, OPTIMIZERS[name](net.parameters(), lr=0.1))  # each optimizer says it


def test_what_it_says_to_do_can_be_done():
    for name in ("Adam", "SGD", "Rprop"):
        net = model()
        (warning,) = train(net, OPTIMIZERS[name](net.parameters(), lr=0.1))
        instead = str(warning.message).split("Use ")[1].split(", or call")[0]
        cls = eval(instead, {"riemopt": riemopt, **OPTIMIZERS})
        assert not train(net, cls(net.parameters(), lr=0.1))
        action, category = "ignore", riemopt.OffManifoldWarning
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings(action, category=category)
            optimizer = OPTIMIZERS[name](net.parameters(), lr=0.1)
            net(torch.ones(3, 4)).sum().backward()
            optimizer.step()


def test_gradients_that_a_closure_makes():
    net = model()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=1)

    def closure():
        optimizer.zero_grad()
        loss = net(torch.ones(3, 4)).square().sum()
        loss.backward()
        return loss

    with pytest.warns(OffManifoldWarning, match="LBFGS.*Use riemopt.RiemannianLBFGS"):
        optimizer.step(closure)


def test_an_optimizer_of_the_users_own():
    class Own(Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

        def step(self):
            pass

    net = model()
    (warning,) = train(net, Own(net.parameters()))
    assert "Use riemopt.riemannian(Own)" in str(warning.message)


def test_it_names_some_weights_and_counts_the_others():
    points = [ManifoldParameter(torch.randn(3 + i), Sphere()) for i in range(5)]
    for p in points:
        p.grad = torch.zeros_like(p)
    with pytest.warns(OffManifoldWarning, match=r"\(3,\) on Sphere.*\(5,\) on .* and 2 more\. Use"):
        torch.optim.SGD(points, lr=0.1).step()


@pytest.mark.parametrize(
    "make",
    [
        lambda net: net.load_state_dict(copy.deepcopy(net.state_dict()), assign=True) and net,
        lambda net: copy.deepcopy(net),
        lambda net: net.to("meta").to_empty(device="cpu"),
        lambda net: nn.Sequential(*net),
    ],
    ids=["assign", "deepcopy", "to_empty", "taken over"],
)
def test_however_the_constraint_got_there(make):
    net = make(model())
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    assert len(train(net, torch.optim.SGD(net.parameters(), lr=0.1))) == 1


def test_constrained_or_added_after_the_first_step():
    net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(net[0].parameters(), lr=0.1)
    assert not train(net, optimizer)
    constrain(net[1], "weight", Stiefel())
    assert not train(net, optimizer)
    optimizer.add_param_group({"params": net[1].parameters()})
    assert len(train(net, optimizer)) == 1
    optimizer = torch.optim.SGD(net[0].parameters(), lr=0.1)
    assert not train(net, optimizer)
    constrain(net[0], "weight", Stiefel())
    assert len(train(net, optimizer)) == 1


def test_a_gradient_that_comes_late():
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net[0].requires_grad_(False)
    assert not train(net, optimizer)
    net[0].requires_grad_(True)
    net[0].weight.grad = None
    net[1].weight.grad = torch.zeros(2, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    assert len(train(net, optimizer)) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda net: riemopt.RiemannianSGD(net.parameters(), lr=0.1),
        lambda net: riemannian(torch.optim.RAdam)(net.parameters(), lr=0.1),
        lambda net: torch.optim.SGD(net[1].parameters(), lr=0.1),
        lambda net: torch.optim.SGD(unconstrain(net[0], "weight").parameters(), lr=0.1),
    ],
    ids=["Riemannian", "made Riemannian", "other weights", "released"],
)
def test_no_warning(make):
    net = model()
    assert not train(net, make(net))


def test_no_warning_for_a_euclidean_weight():
    net = constrain(nn.Linear(4, 6), "weight", Euclidean())
    assert not train(net, torch.optim.SGD(net.parameters(), lr=0.1))


class Lookahead(Optimizer):
    """Holds another optimizer, in an attribute or a list."""

    def __init__(self, inner, how):
        self.inner = {"attribute": inner, "list": [inner], "dict": {"all": inner}}[how]
        self.step_inner = inner.step
        super().__init__(inner.param_groups, {})

    def step(self):
        self.step_inner()


@pytest.mark.parametrize("how", ["attribute", "list", "dict"])
def test_an_optimizer_that_holds_another_leaves_it_to_that_one(how):
    net = model()
    assert not train(net, Lookahead(riemopt.RiemannianSGD(net.parameters(), lr=0.1), how))
    assert len(train(net, Lookahead(torch.optim.SGD(net.parameters(), lr=0.1), how))) == 1


def test_schedulers_and_scalers_do_not_warn_of_a_riemannian_optimizer():
    net = model()
    optimizer = riemopt.RiemannianAdam(net.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    scaler = torch.amp.GradScaler("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error", OffManifoldWarning)
        scaler.scale(net(torch.ones(3, 4)).square().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()


def test_zero_redundancy_optimizer(tmp_path):
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    from torch.distributed.optim import ZeroRedundancyOptimizer

    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        for cls, number in ((riemopt.RiemannianSGD, 0), (torch.optim.SGD, 1)):
            net = model()
            optimizer = ZeroRedundancyOptimizer(net.parameters(), optimizer_class=cls, lr=0.1)
            assert len(train(net, optimizer)) == number
    finally:
        distributed.destroy_process_group()


@needs.compiled_steps
def test_a_compiled_step_is_not_broken():
    net = model()
    net(torch.ones(3, 4)).square().sum().backward()
    for cls in (riemopt.RiemannianSGD, torch.optim.Muon):
        weights = [net[0].weight] if cls is torch.optim.Muon else list(net.parameters())
        optimizer = cls(weights, lr=0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("error", OffManifoldWarning)
            torch.compile(optimizer.step, fullgraph=True, backend="eager")()


def test_an_optimizer_is_looked_at_once(monkeypatch):
    looks = []
    find = torch_steps._constrained
    monkeypatch.setattr(torch_steps, "_constrained", lambda o: looks.append(o) or find(o))
    net, plain = model(), nn.Linear(4, 2)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (net, plain)]
    for m, optimizer in zip((net, plain), optimizers, strict=True):
        train(m, optimizer, steps=5)
    assert looks == optimizers
    alive = weakref.ref(optimizers.pop())
    del optimizer, looks[:]
    assert alive() is None


# --- manifolds of other packages ---


@pytest.fixture
def hgcn(monkeypatch):
    """A package of its own, with a manifold, a parameter and an optimizer."""
    module = types.ModuleType("hgcn")
    source = """
import torch
class PoincareBall: ...
class Euclidean: ...
class RiemannianAdam(torch.optim.SGD): ...
class Parameter(torch.nn.Parameter):
    def __new__(cls, data, manifold):
        return torch.Tensor._make_subclass(cls, data, True)
    def __init__(self, data, manifold):
        self.manifold = manifold
"""
    exec(source, module.__dict__)
    for value in vars(module).values():
        if isinstance(value, type):
            value.__module__ = "hgcn.manifolds"
    monkeypatch.setitem(sys.modules, "hgcn", module)
    return module


def holding(*params):
    for p in params:
        p.grad = torch.zeros_like(p)
    return list(params)


@pytest.mark.parametrize("cls", [riemopt.RiemannianSGD, riemopt.RiemannianAdam])
def test_our_optimizers_say_that_they_do_not_know_it(cls, hgcn):
    params = holding(*(hgcn.Parameter(torch.ones(3, 2), hgcn.PoincareBall()) for _ in range(3)))
    expected = (
        r"\(3, 2\).*hgcn\.manifolds\.PoincareBall.*unconstrained.*constrain.*'manifold'.*ignore"
    )
    with pytest.warns(OffManifoldWarning, match=expected) as caught:
        optimizer = cls([{"params": [p]} for p in params], lr=0.1)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        cls([{"params": params, "manifold": Sphere()}], lr=0.1)
        cls(holding(hgcn.Parameter(torch.ones(3), hgcn.Euclidean())), lr=0.1)
        cls(holding(hgcn.Parameter(torch.ones(3), None)), lr=0.1)
        layer = nn.Module()
        layer.p = params[0]
        cls(constrain(layer, "p", Sphere()).parameters(), lr=0.1)


def test_torchs_optimizers_say_nothing_of_what_is_unknown(hgcn):
    params = holding(hgcn.Parameter(torch.ones(3, 2), hgcn.PoincareBall()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.optim.SGD(params, lr=0.1).step()
        hgcn.RiemannianAdam(params, lr=0.1).step()


def test_what_is_converted_is_known_to_us_and_to_its_own_package(hgcn, monkeypatch):
    monkeypatch.setattr(table, "_CONVERTERS", {"hgcn": lambda manifold: Sphere()})
    params = holding(hgcn.Parameter(torch.ones(3, 2), hgcn.PoincareBall()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "1 on Sphere()" in repr(riemopt.RiemannianSGD(params, lr=0.1))
        hgcn.RiemannianAdam(params, lr=0.1).step()
    with pytest.warns(OffManifoldWarning, match=r"SGD steps .*\(3, 2\) on <hgcn"):
        torch.optim.SGD(params, lr=0.1).step()


def test_geoopts_own_optimizers_step_geoopts_parameters():
    geoopt = pytest.importorskip("geoopt")
    sphere = geoopt.ManifoldParameter(torch.eye(3)[0].clone(), geoopt.Sphere())
    params = holding(sphere, geoopt.ManifoldParameter(torch.ones(3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", OffManifoldWarning)
        geoopt.optim.RiemannianSGD(params, lr=0.1).step()
        torch.optim.SGD(params[1:], lr=0.1).step()
    with pytest.warns(OffManifoldWarning, match=r"Adam steps .*\(3,\) on Sphere"):
        torch.optim.Adam(params, lr=0.1).step()

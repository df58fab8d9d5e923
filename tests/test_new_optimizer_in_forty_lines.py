"""A new optimizer is a rule of a few lines; what is promised of every optimizer it has at once.

Signum (Bernstein et al. 2018): a running mean of gradients, and a step along its signs. The sign of
a tangent vector is no tangent, so the rule says `is_tangent=False`.
"""

import copy
import inspect
import math

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from riemopt.distributed import sharded_geometry
from riemopt.distributed.summands import numbers, restored
from riemopt.manifolds import Flattened, Sphere, Stiefel
from riemopt.optim import RiemannianOptimizer
from riemopt.optim.stack import Stack
from riemopt.optim.step import Request, Step
from riemopt.optim.take import take_parts
from tests import textbook
from tests.bounds import on_surface, wide
from tests.test_rules import POINTS, Rule, assert_is_the_textbook, problem


class Signum(Optimizer):
    """On unconstrained parameters."""

    def __init__(self, params, lr=1e-3, beta=0.9):
        super().__init__(params, {"lr": lr, "beta": beta})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - group["beta"])
                p.sub_(m.sign(), alpha=group["lr"])


class RiemannianSignum(RiemannianOptimizer, Signum):
    """On manifolds: m is carried to each point, and its signs are made tangent."""

    tangent_state = ("exp_avg",)

    def _initial_state(self, group, param, manifold):
        return {"exp_avg": torch.zeros_like(param)}

    def _request(self, group, stack):
        return Request(stack.load("exp_avg"), group["beta"])

    def _rule(self, group, stack, carried):
        m = carried.momentum
        return Step(m.sign(), -group["lr"], {"exp_avg": m}, is_tangent=False)


def test_it_takes_forty_lines():
    lines = [inspect.getsource(cls).splitlines() for cls in (Signum, RiemannianSignum)]
    assert sum(map(len, lines)) <= 40


RULE = Rule(RiemannianSignum, textbook.sign_momentum, {"lr": 0.1, "beta": 0.8})
every_point = pytest.mark.parametrize("point", POINTS)


def _weights(point, dtype=torch.float32):
    starts, gradients = problem(point, dtype)
    params = [nn.Parameter(x.clone()) for x in starts]
    optimizer = RULE.make([{"params": params, "manifold": POINTS[point][0]}])
    return params, gradients, optimizer


def _run(params, gradients, optimizer, steps):
    for t in steps:
        for p, own in zip(params, gradients, strict=True):
            p.grad = own[t % len(own)].clone()
        optimizer.step()


@every_point
@pytest.mark.parametrize("late", [False, True])
def test_it_is_the_textbook(point, late):
    assert_is_the_textbook(RULE, point, late=late)


def test_on_unconstrained_parameters_it_is_its_base():
    p, q = (nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4)) for _ in range(2))
    ours, theirs = RiemannianSignum([p], lr=0.1), Signum([q], lr=0.1)
    for seed in range(4):
        p.grad = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
        q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    assert torch.equal(p, q)
    assert torch.equal(ours.state[p]["exp_avg"], theirs.state[q]["exp_avg"])


@every_point
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_it_stays_on_the_surface(point, dtype):
    params, gradients, optimizer = _weights(point, dtype)
    _run(params, gradients, optimizer, range(100))
    for p in params:
        x = p.detach()
        violation = POINTS[point][0].violation(x if dtype == torch.bfloat16 else wide(x)).max()
        size = float(x.abs().max()) if point == "product" else 1.0
        assert violation <= on_surface(POINTS[point][0], x) * max(size, 1.0)
    assert optimizer.skipped_steps == 0


@every_point
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(point, bad):
    params, gradients, optimizer = _weights(point)
    _run(params, gradients, optimizer, range(2))
    before = [p.detach().clone() for p in params]
    kept = optimizer.state[params[0]]["exp_avg"].clone()
    gradients[0][2].view(-1)[-1] = bad
    _run(params, gradients, optimizer, [2])
    moved = [not torch.equal(p, x) for p, x in zip(params, before, strict=True)]
    assert moved == [False, True, True]
    assert torch.equal(optimizer.state[params[0]]["exp_avg"], kept)
    assert optimizer.skipped_steps == 1


@every_point
def test_it_resumes_bit_for_bit(point, tmp_path):
    params, gradients, optimizer = _weights(point)
    _run(params, gradients, optimizer, range(3))
    torch.save(optimizer.state_dict(), tmp_path / "checkpoint.pt")
    others, _, resumed = _weights(point)
    with torch.no_grad():
        for q, p in zip(others, params, strict=True):
            q.copy_(p)
    resumed.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    twin = copy.deepcopy(resumed)
    for those, of in (
        (params, optimizer),
        (others, resumed),
        (twin.param_groups[0]["params"], twin),
    ):
        _run(those, gradients, of, range(3, 6))
    for p, q, r in zip(params, others, twin.param_groups[0]["params"], strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p, r)


# --- in parts --------------------------------------------------------------------------------

CUT = [
    (Stiefel(), (9, 4), -2),
    (Stiefel("qr", "canonical"), (4, 9), -1),
    (Stiefel("cayley"), (9, 4), -2),
    (Sphere(radius=3.0), (3, 7), -1),
    (Flattened(Stiefel()), (3, 5, 2, 1), -3),
]


def together(steps):
    """Drive one step for each part, and add up what they yield, as processes would."""
    waiting = [(step, next(step)) for step in steps]
    while waiting:
        sent = [[numbers(summand) for summand in asked] for _, asked in waiting]
        sums = [sum(shares) for shares in zip(*sent, strict=True)]
        sums = [restored(a, s) for a, s in zip(sums, waiting[0][1], strict=True)]
        advanced = []
        for step, _ in waiting:
            try:
                advanced.append((step, step.send(sums)))
            except StopIteration:
                continue
        waiting = advanced


class Part:
    """What one process has of two weights, and the step it takes with them."""

    def __init__(self, geometry, manifold, weights):
        self.params = [nn.Parameter(x) for x in weights]
        self.optimizer = RULE.make(self.params)
        (self.group,) = self.optimizer.param_groups
        self.geometry, self.manifold = geometry, manifold

    def step(self, gradients):
        for p, g in zip(self.params, gradients, strict=True):
            p.grad = g
            if not self.optimizer.state[p]:
                own = self.optimizer._initial_state(self.group, p, self.manifold)
                self.optimizer.state[p].update(own)
        states = [self.optimizer.state[p] for p in self.params]
        stack = Stack(self.manifold, self.params, states, in_place=True)
        self.optimizer._skipped.prepare(stack.device)
        return take_parts(self.optimizer, self.group, stack, self.geometry)


each_cut = pytest.mark.parametrize(("manifold", "shape", "dim"), CUT, ids=[str(m) for m, *_ in CUT])


def _noise(shape, seed):
    """For each of two weights."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)]


def _cut(tensors, dim, sizes):
    """The tensors of each part; a size may count from the whole."""
    n = tensors[0].shape[dim]
    sizes = [n + size if size < 0 else size for size in sizes]
    return zip(
        *([a.contiguous().clone() for a in t.split(sizes, dim)] for t in tensors), strict=True
    )


@each_cut
@pytest.mark.parametrize("sizes", [[2, -2], [0, -1, 1]], ids=str)
def test_in_parts_it_is_the_whole_step(manifold, shape, dim, sizes):
    manifold = manifold.with_dims_from_end(len(shape))
    geometry = sharded_geometry(manifold, frozenset({dim}), shape)
    starts = [manifold.project(a) for a in _noise(shape, 0)]
    params = [nn.Parameter(x.clone()) for x in starts]
    optimizer = RULE.make([{"params": params, "manifold": manifold}])
    parts = [Part(geometry, manifold, own) for own in _cut(starts, dim, sizes)]
    for seed in range(1, 5):
        gradients = _noise(shape, seed)
        for p, g in zip(params, gradients, strict=True):
            p.grad = g
        optimizer.step()
        with torch.no_grad():
            pieces = _cut(gradients, dim, sizes)
            together([part.step(own) for part, own in zip(parts, pieces, strict=True)])
    for i, p in enumerate(params):
        whole = torch.cat([part.params[i].detach() for part in parts], dim)
        torch.testing.assert_close(whole, p.detach(), rtol=0, atol=1e-12)
        m = torch.cat([part.optimizer.state[part.params[i]]["exp_avg"] for part in parts], dim)
        torch.testing.assert_close(m, optimizer.state[p]["exp_avg"], rtol=0, atol=1e-12)


@each_cut
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_in_one_part_is_refused_by_all(manifold, shape, dim, bad):
    manifold = manifold.with_dims_from_end(len(shape))
    geometry = sharded_geometry(manifold, frozenset({dim}), shape)
    starts = [manifold.project(a) for a in _noise(shape, 0)]
    parts = [Part(geometry, manifold, own) for own in _cut(starts, dim, [2, -2])]
    gradients = _noise(shape, 1)
    gradients[0].view(-1)[0] = bad
    with torch.no_grad():
        pieces = _cut(gradients, dim, [2, -2])
        together([part.step(own) for part, own in zip(parts, pieces, strict=True)])
    for part, (x, y) in zip(parts, _cut(starts, dim, [2, -2]), strict=True):
        assert torch.equal(part.params[0], x)
        assert not part.optimizer.state[part.params[0]]["exp_avg"].any()
        assert not torch.equal(part.params[1], y)
        assert part.optimizer.skipped_steps == 1

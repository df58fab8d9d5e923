"""Every optimizer and option is its textbook restatement, over manifolds of every kind.

The restatements (`tests.textbook`) treat one point at a time; here two weights of one shape are
stepped as a stack, and one of another shape, of several points, beside them.
"""

import contextlib
import itertools
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from riemopt.manifolds import FixedSum, Flattened, Sphere, Stiefel, Symmetric
from riemopt.optim import (
    RiemannianAdagrad,
    RiemannianAdam,
    RiemannianAdamW,
    RiemannianNAdam,
    RiemannianRMSprop,
    RiemannianSGD,
)
from tests import needs, textbook
from tests.manifold_cases import PACKED

# Manifold, shape of two weights, shape of a third.
POINTS = {
    "sphere": (Sphere(radius=2.0), (5,), (2, 4)),
    "tall": (Stiefel(), (5, 3), (2, 4, 2)),
    "wide": (Stiefel(), (3, 5), (2, 6)),
    "square": (Stiefel(), (4, 4), (2, 3, 3)),
    "canonical": (Stiefel(metric="canonical"), (5, 3), (2, 5)),
    "symmetric": (Symmetric(), (4, 4), (2, 3, 3)),
    "fixed sum": (FixedSum(total=2.0), (5,), (3, 4)),
    "product": (PACKED, (18,), (2, 18)),
    "kernel": (Flattened(Stiefel()), (5, 1, 3, 1), (2, 3, 2, 1)),
}
# Gradients grow and shrink, so that averages, maxima and corrections all matter.
SIZES = (1.0, 0.1, 3.0, 0.2, 2.0, 0.05)


class Rule(NamedTuple):
    """An optimizer with options, and the textbook's with the same."""

    optimizer: Any
    restated: Any
    options: dict[str, Any]
    implied: dict[str, Any] = {}  # noqa: RUF012
    """What the optimizer's class says, and the textbook has to be told."""

    def make(self, params, **changed):
        options = {**self.options, **changed}
        decoupled = options.get("decoupled_weight_decay", False)
        if decoupled and self.optimizer is RiemannianAdam and needs.VERSION < "2.7":
            pytest.skip("torch's Adam has no decoupled_weight_decay before 2.7")
        return self.optimizer(params, **options)


def _grid(**options):
    return [dict(zip(options, v, strict=True)) for v in itertools.product(*options.values())]


def _named(kind, optimizer, restated, grid, **common):
    """Rules by the options in which they differ from what is common."""
    rules = {}
    for options in grid:
        said = [k if v is True else f"{k}={v}" for k, v in options.items() if v]
        rules[" ".join([kind, *said])] = Rule(optimizer, restated, {**common, **options})
    return rules


_SGD = [
    {"momentum": 0.0},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "nesterov": True},
]
_DECAYS = [{}, {"weight_decay": 0.3}, {"weight_decay": 0.3, "decoupled_weight_decay": True}]
_ADAM = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.02}
_KINDS = ("tangent", "carried", "point")
RULES: dict[str, Rule] = {
    **_named(
        "SGD",
        RiemannianSGD,
        textbook.sgd,
        [
            {**own, **more}
            for own in _SGD
            for more in _grid(weight_decay=(0.0, 0.3), maximize=(False, True))
        ],
        lr=0.1,
    ),
    **_named(
        "Adam",
        RiemannianAdam,
        textbook.adam,
        [
            {"second_moment": kind, **more, **decay}
            for kind in _KINDS
            for more in ({}, {"amsgrad": True}, {"maximize": True})
            for decay in _DECAYS
        ],
        **_ADAM,
    ),
    **{
        f"AdamW {kind}": Rule(
            RiemannianAdamW,
            textbook.adam,
            {**_ADAM, "weight_decay": 0.3, "second_moment": kind},
            {"decoupled_weight_decay": True},
        )
        for kind in _KINDS
    },
    **_named(
        "RMSprop",
        RiemannianRMSprop,
        textbook.rmsprop,
        [
            {},
            {"momentum": 0.8},
            {"centered": True},
            {"weight_decay": 0.3},
            {"maximize": True},
            {"momentum": 0.8, "centered": True, "weight_decay": 0.3, "maximize": True},
        ],
        lr=0.05,
        alpha=0.9,
        eps=0.02,
    ),
    **_named(
        "Adagrad",
        RiemannianAdagrad,
        textbook.adagrad,
        [
            {},
            {"lr_decay": 0.2},
            {"weight_decay": 0.3},
            {"maximize": True},
            {
                "lr_decay": 0.2,
                "weight_decay": 0.3,
                "initial_accumulator_value": 0.5,
                "maximize": True,
            },
        ],
        lr=0.1,
        eps=0.02,
    ),
    **_named(
        "NAdam",
        RiemannianNAdam,
        textbook.nadam,
        [
            {},
            {"maximize": True},
            {"momentum_decay": 0.1},
            *_DECAYS[1:],
            {"momentum_decay": 0.1, "maximize": True, **_DECAYS[1]},
            {"momentum_decay": 0.1, "maximize": True, **_DECAYS[2]},
        ],
        **_ADAM,
    ),
}
# One of each kind of rule and state.
FEW = (
    "SGD",
    "SGD momentum=0.9 dampening=0.3",
    "SGD momentum=0.9 nesterov",
    "Adam second_moment=tangent",
    "Adam second_moment=tangent amsgrad weight_decay=0.3",
    "Adam second_moment=carried",
    "Adam second_moment=point amsgrad",
    "AdamW point",
    "RMSprop momentum=0.8",
    "Adagrad lr_decay=0.2",
    "NAdam",
)
# Whose step for a zero gradient is zero: there is no decay.
WITHOUT_DECAY = [name for name, rule in RULES.items() if not rule.options.get("weight_decay")]

every_point = pytest.mark.parametrize("point", POINTS)


def problem(point: str, dtype: torch.dtype = torch.float64) -> tuple[list[Any], list[Any]]:
    """Three starting points, and the gradients of each."""
    manifold, pair, single = POINTS[point]
    generator = torch.Generator().manual_seed(7)
    starts = [
        manifold.random_point(*s, generator=generator, dtype=dtype) for s in (pair, pair, single)
    ]
    gradients = [
        [size * torch.randn(x.shape, generator=generator, dtype=dtype) for size in SIZES]
        for x in starts
    ]
    return starts, gradients


@contextlib.contextmanager
def double_counters():
    """Torch keeps counters, and what it computes with them, in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def assert_is_the_textbook(rule: Rule, point: str, *, late: bool = False, **options: Any) -> None:
    """Each weight is, after each step, where the textbook puts its points.

    Args:
        rule: whose optimizer is run.
        point: name of the manifold and shapes.
        late: the second weight has no gradient in the second step.
        options: of the optimizer alone.
    """
    by_counters = late or rule.optimizer is RiemannianNAdam
    with double_counters() if by_counters else contextlib.nullcontext():
        _assert_is_the_textbook(rule, point, late, options)


def _assert_is_the_textbook(rule, point, late, options):
    manifold = POINTS[point][0]
    starts, gradients = problem(point)
    if late:
        gradients[1][1] = None
    params = [nn.Parameter(x.clone()) for x in starts]
    optimizer = rule.make([{"params": params, "manifold": manifold}], **options)
    paths = [
        iter(
            textbook.by_point(
                rule.restated,
                manifold,
                x,
                [g for g in own if g is not None],
                **rule.options,
                **rule.implied,
            )
        )
        for x, own in zip(starts, gradients, strict=True)
    ]
    for t in range(len(SIZES)):
        for p, own in zip(params, gradients, strict=True):
            p.grad = own[t]
        optimizer.step()
        for p, path in zip(params, paths, strict=True):
            if p.grad is not None:
                torch.testing.assert_close(p.detach(), next(path), rtol=0, atol=1e-12)
    assert optimizer.skipped_steps == 0


@pytest.mark.sampled(2)
@every_point
@pytest.mark.parametrize("rule", RULES)
def test_the_optimizer_is_the_textbook(rule, point):
    assert_is_the_textbook(RULES[rule], point)


@pytest.mark.parametrize("point", ["sphere", "canonical", "symmetric", "product"])
@pytest.mark.parametrize("rule", FEW)
def test_weights_whose_steps_are_counted_apart(rule, point):
    assert_is_the_textbook(RULES[rule], point, late=True)


@pytest.mark.parametrize("point", ["sphere", "canonical", "symmetric", "product"])
@pytest.mark.parametrize("rule", FEW)
def test_one_by_one(rule, point):
    assert_is_the_textbook(RULES[rule], point, foreach=False)


# --- no step ---------------------------------------------------------------------------------


def assert_a_zero_gradient_changes_no_bit(rule: Rule, point: str) -> None:
    starts, _ = problem(point, torch.float32)
    params = [nn.Parameter(x.clone()) for x in starts]
    optimizer = rule.make([{"params": params, "manifold": POINTS[point][0]}])
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    for p, x in zip(params, starts, strict=True):
        assert torch.equal(p, x)
    assert optimizer.skipped_steps == 0


def assert_a_zero_rate_changes_no_bit(rule: Rule, point: str) -> None:
    """Also in the midst of a run, with momentum: the rate of a schedule may go to zero."""
    starts, gradients = problem(point, torch.float32)
    params = [nn.Parameter(x.clone()) for x in starts]
    optimizer = rule.make([{"params": params, "manifold": POINTS[point][0]}])
    for t, lr in enumerate((0.0, 0.1, 0.0, 0.0)):
        optimizer.param_groups[0]["lr"] = lr
        before = [p.detach().clone() for p in params]
        for p, own in zip(params, gradients, strict=True):
            p.grad = own[t]
        optimizer.step()
        for p, x in zip(params, before, strict=True):
            assert torch.equal(p, x) == (lr == 0.0)


@pytest.mark.parametrize("point", ["sphere", "wide", "canonical", "symmetric", "product"])
@pytest.mark.parametrize("rule", WITHOUT_DECAY)
def test_a_zero_gradient_changes_no_bit(rule, point):
    assert_a_zero_gradient_changes_no_bit(RULES[rule], point)


@every_point
@pytest.mark.parametrize("rule", FEW)
def test_a_zero_rate_changes_no_bit(rule, point):
    assert_a_zero_rate_changes_no_bit(RULES[rule], point)

"""A check of the checks: an optimizer with one mistake in it is not the textbook's any more.

Each entry of `MISTAKES` changes one thing in the package while a test runs, and names the rule, the
manifold and the check of `tests.test_rules` that must reject it, and which accepts what is right.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch

from riemopt import linalg
from riemopt.manifolds import Manifold
from riemopt.optim import adam as adams
from riemopt.optim import sgd as sgds
from riemopt.optim import stand_ins
from riemopt.optim import step as steps
from riemopt.optim.stack import Stack
from riemopt.optim.step import Carried, Step
from tests import test_rules
from tests.test_rules import (
    RULES,
    assert_a_zero_gradient_changes_no_bit,
    assert_a_zero_rate_changes_no_bit,
    assert_is_the_textbook,
)

Patch = pytest.MonkeyPatch
StandIns = stand_ins.StandIns


def scale(change: Callable[..., Any]) -> Callable[[Patch], None]:
    """`change(step, square, v, v_max, **options)` in place of `adam_scale`."""

    def plant(patch: Patch) -> None:
        patch.setattr(adams, "_scale", linalg.on_host_numbers(change))

    return plant


def carry(change: Callable[..., Carried]) -> Callable[[Patch], None]:
    """`change(right, manifold, x, g, request)` in place of `carry`, where `right` is it."""
    right = steps.carry

    def plant(patch: Patch) -> None:
        patch.setattr(steps, "carry", lambda *given: change(right, *given))

    return plant


def replaced(owner: Any, name: str, change: Any) -> Callable[[Patch], None]:
    def plant(patch: Patch) -> None:
        patch.setattr(owner, name, change)

    return plant


# --- Adam's length of a step ---


def bias_correction_off_by_one(step, *given, **options):
    """β^(t+1) for βᵗ."""
    found = adams.adam_scale(step + 1, *given, **options)
    return found._replace(step=step + 1)


def no_bias_correction_of_the_mean(step, *given, lr, **options):
    return adams.adam_scale(step, *given, lr=lr, **options)._replace(length=-lr)


def eps_inside_the_root(step, square, v, v_max, *, eps, betas, **options):
    """√(v̂ + eps) for √v̂ + eps."""
    found = adams.adam_scale(step, square, v, v_max, eps=0.0, betas=betas, **options)
    return found._replace(denominator=(found.denominator**2 + eps) ** 0.5)


def eps_before_the_correction(step, square, v, v_max, *, eps, betas, **options):
    """(√v + eps)/√(1 - β₂ᵗ), eps shrinking with the correction."""
    found = adams.adam_scale(step, square, v, v_max, eps=0.0, betas=betas, **options)
    more = eps / (1 - betas[1] ** found.step) ** 0.5
    return found._replace(denominator=found.denominator + adams._along(more, found.denominator))


def maximum_before_the_average(step, square, v, v_max, *, betas, **options):
    """The average of the largest squares, for the largest average."""
    largest = linalg.maximum(v_max, square)
    found = adams.adam_scale(step, largest + 0, v, None, betas=betas, **options)
    return found._replace(v_max=largest)


def maximum_forgotten(step, square, v, v_max, **options):
    return adams.adam_scale(step, square, v, None, **options)._replace(v_max=v_max)


def moments_mixed_up(step, square, v, v_max, *, betas, **options):
    return adams.adam_scale(step, square, v, v_max, betas=betas[::-1], **options)


# --- SGD ---


def nesterov_left_out(carried, *, lr, momentum, nesterov):
    return right_sgd(carried, lr=lr, momentum=momentum, nesterov=False)


def nesterov_without_its_gradient(carried, *, lr, momentum, nesterov):
    """μ·m + m for μ·m + g."""
    step = right_sgd(carried, lr=lr, momentum=momentum, nesterov=False)
    return Step((1 + momentum) * step.u, step.t, step.state)


def first_gradient_damped(carried, *, lr, momentum, nesterov):
    if carried.momentum is None:
        carried = replace(carried, gradient=0.7 * carried.gradient)
    return right_sgd(carried, lr=lr, momentum=momentum, nesterov=nesterov)


def dampening_forgotten(right, manifold, x, g, request):
    return right(manifold, x, g, request._replace(weight=1.0))


right_sgd = sgds.sgd

# --- carry ---


def momentum_not_projected(right, manifold, x, g, request):
    """m as it was at the last point."""
    gradient = manifold.egrad2rgrad(x, g)
    squared = manifold.inner(x, gradient, gradient, keepdim=True)
    if request.momentum is None:
        return Carried(None, gradient, squared)
    weight = 1 - request.decay if request.weight is None else request.weight
    return Carried(request.decay * request.momentum + weight * gradient, gradient, squared)


def gradient_projected_only(right, manifold, x, g, request):
    """The projection for the Riemannian gradient, which in the canonical metric it is not."""
    gradient = manifold.proj_tangent(x, g)
    squared = manifold.inner(x, gradient, gradient, keepdim=True)
    if request.momentum is None:
        return Carried(None, gradient, squared)
    weight = 1 - request.decay if request.weight is None else request.weight
    m = request.decay * manifold.proj_tangent(x, request.momentum) + weight * gradient
    return Carried(m, gradient, squared)


def gradient_not_projected(right, manifold, x, g, request):
    return replace(right(manifold, x, g, request), gradient=g)


def norm_of_the_euclidean_gradient(right, manifold, x, g, request):
    squared = linalg.squared_norm(g, manifold.event_dims(x.ndim))
    return replace(right(manifold, x, g, request), squared_norm=squared)


def norm_in_the_ambient_metric(right, manifold, x, g, request):
    gradient = manifold.egrad2rgrad(x, g)
    squared = linalg.squared_norm(gradient, manifold.event_dims(x.ndim))
    return replace(right(manifold, x, g, request), squared_norm=squared)


def norm_of_the_momentum(right, manifold, x, g, request):
    carried = right(manifold, x, g, request)
    m = carried.momentum
    return replace(carried, squared_norm=manifold.inner(x, m, m, keepdim=True))


def norm_of_the_whole_stack(right, manifold, x, g, request):
    carried = right(manifold, x, g, request)
    total = carried.squared_norm.sum(0, keepdim=True)
    return replace(carried, squared_norm=total.expand_as(carried.squared_norm))


# --- decay ---


def decay_in_the_moments(manifold, x, g, request, rule, skip=None, shrink=0.0):
    """AdamW's taken for Adam's."""
    return right_decide(manifold, x, g + shrink / 0.1 * x, request, rule, skip)


def decay_not_projected(manifold, x, g, request, rule, skip=None, shrink=0.0):
    """-lr·wd·x as it is, on a sphere too."""
    step, _ = right_decide(manifold, x, g, request, rule, skip)
    step.u, step.t = step.t * step.u - shrink * x, 1.0
    return step, steps.check(step.u, step.t, skip)


def decay_without_the_rate(manifold, x, g, request, rule, skip=None, shrink=0.0):
    """-wd·x for -lr·wd·x."""
    return right_decide(manifold, x, g, request, rule, skip, shrink / 0.1)


def decay_ascends(manifold, x, g, weight_decay, maximize):
    """-(g + wd·x) for -g + wd·x."""
    g = right_descent(manifold, x, g, weight_decay, False)
    return -g if maximize else g


right_decide, right_descent = steps.decide, steps.descent


def decay_as_a_normal_vector(patch: Patch) -> None:
    """Coupled decay left to the torch optimizer: it gets wd·x, which is not tangent."""
    patch.setattr(StandIns, "_adds_decay", lambda self: False)
    patch.setattr(StandIns, "options", lambda self: {})


# --- move ---


def direction_not_projected(manifold, x, step):
    return


def zero_step_moves_a_bit(manifold, x, u, t, checked, **options):
    """The retraction's rounding, where it was not asked for."""
    return manifold.curve_with_fraction(x, u, t)[0], None


def a_step_rounded(manifold, x, u, t, checked, **options):
    y, fraction = right_move(manifold, x, u, t, checked)
    return y * (1 + 2 * torch.finfo(y.dtype).eps), fraction


right_move = steps.move

# --- torch's rule ---


def euclidean_gradient_lent(self):
    x, g = right_points_and_gradient(self)
    self.manifold = Ambient(self.manifold)
    return x, g


class Ambient:
    """A manifold whose gradient is the Euclidean one."""

    after_move = Manifold.after_move

    def __init__(self, manifold):
        self._manifold = manifold

    def __getattr__(self, name):
        return getattr(self._manifold, name)

    def egrad2rgrad(self, x, g):
        return g


def state_forgotten(self):
    return


def one_state_for_all(self):
    """Whatever the counters say."""
    first = self.stack.states[0]
    if not self.stack.has_batches or not all(self.stack.states):
        return right_state_of_all(self)
    return {
        key: self.stack.batch(key) if value.ndim else value.clone() for key, value in first.items()
    }


def the_kernel_ascends(*tensors, maximize, **options):
    return right_fused(*tensors, maximize=not maximize, **options)


def counters_not_looked_at(condition):
    return True


right_fused = torch._fused_adam_
right_points_and_gradient = StandIns._points_and_gradient
right_state_of_all = StandIns._state_of_all


# --- which check rejects which ---


def late(rule, point):
    assert_is_the_textbook(rule, point, late=True)


def late_by_few_digits(rule, point):
    """With torch's counters in float32, which its fused kernels ask for."""
    test_rules._assert_is_the_textbook(rule, point, True, {})


class Mistake(NamedTuple):
    plant: Callable[[Patch], None]
    rule: str
    point: str
    rejected_by: Callable[..., None] = assert_is_the_textbook


POINT, AMSGRAD = "Adam second_moment=point", "Adam second_moment=point amsgrad"
CARRIED, TANGENT = "Adam second_moment=carried", "Adam second_moment=tangent"
HEAVY, DAMPED = "SGD momentum=0.9", "SGD momentum=0.9 dampening=0.3"
NESTEROV = "SGD momentum=0.9 nesterov"
no_bit = assert_a_zero_gradient_changes_no_bit
no_rate = assert_a_zero_rate_changes_no_bit
MISTAKES = {
    "bias correction off by one": Mistake(scale(bias_correction_off_by_one), POINT, "sphere"),
    "bias correction off by one, by entry": Mistake(
        scale(bias_correction_off_by_one), CARRIED, "symmetric"
    ),
    "no bias correction of m": Mistake(scale(no_bias_correction_of_the_mean), POINT, "tall"),
    "eps inside the root": Mistake(scale(eps_inside_the_root), CARRIED, "sphere"),
    "eps inside the root, by point": Mistake(scale(eps_inside_the_root), POINT, "wide"),
    "eps before the correction": Mistake(scale(eps_before_the_correction), POINT, "wide"),
    "amsgrad before the average": Mistake(scale(maximum_before_the_average), AMSGRAD, "kernel"),
    "amsgrad left out": Mistake(scale(maximum_forgotten), AMSGRAD, "fixed sum"),
    "β₁ for β₂": Mistake(scale(moments_mixed_up), POINT, "square"),
    "Nesterov left out": Mistake(replaced(sgds, "sgd", nesterov_left_out), NESTEROV, "sphere"),
    "Nesterov by m twice": Mistake(
        replaced(sgds, "sgd", nesterov_without_its_gradient), NESTEROV, "square"
    ),
    "dampening on the first step": Mistake(
        replaced(sgds, "sgd", first_gradient_damped), DAMPED, "tall"
    ),
    "dampening left out": Mistake(carry(dampening_forgotten), DAMPED, "product"),
    "momentum not projected": Mistake(carry(momentum_not_projected), HEAVY, "sphere"),
    "momentum not projected, canonical": Mistake(carry(momentum_not_projected), HEAVY, "canonical"),
    "m not projected": Mistake(carry(momentum_not_projected), POINT, "wide"),
    "m not projected, by entry": Mistake(carry(momentum_not_projected), CARRIED, "kernel"),
    "gradient not in the metric": Mistake(carry(gradient_projected_only), HEAVY, "canonical"),
    "gradient not in the metric, without momentum": Mistake(
        carry(gradient_projected_only), "SGD", "canonical"
    ),
    "gradient not in the metric, Adam": Mistake(carry(gradient_projected_only), POINT, "product"),
    "gradient not in the metric, torch": Mistake(
        carry(gradient_projected_only), "RMSprop", "canonical"
    ),
    "gradient not projected": Mistake(carry(gradient_not_projected), CARRIED, "square"),
    "norm of the Euclidean gradient": Mistake(
        carry(norm_of_the_euclidean_gradient), POINT, "fixed sum"
    ),
    "norm in the ambient metric": Mistake(carry(norm_in_the_ambient_metric), POINT, "canonical"),
    "norm of m": Mistake(carry(norm_of_the_momentum), POINT, "sphere"),
    "norm of the whole stack": Mistake(carry(norm_of_the_whole_stack), POINT, "product"),
    "mean over one entry": Mistake(
        lambda patch: patch.setattr(
            Stack, "entries", property(lambda s: 1, lambda s, n: None), raising=False
        ),
        POINT,
        "tall",
    ),
    "decoupled decay in the moments": Mistake(
        replaced(steps, "decide", decay_in_the_moments), "AdamW point", "symmetric"
    ),
    "decoupled decay in the moments, by entry": Mistake(
        replaced(steps, "decide", decay_in_the_moments), "AdamW carried", "fixed sum"
    ),
    "decay of the wrong sign": Mistake(
        replaced(steps, "descent", decay_ascends),
        "SGD momentum=0.9 weight_decay=0.3 maximize",
        "symmetric",
    ),
    "decay not projected": Mistake(
        replaced(steps, "decide", decay_not_projected), "AdamW point", "sphere"
    ),
    "decay not projected, matrices": Mistake(
        replaced(steps, "decide", decay_not_projected), "AdamW point", "tall"
    ),
    "decay without the rate": Mistake(
        replaced(steps, "decide", decay_without_the_rate), "AdamW carried", "product"
    ),
    "decay in torch's moments, sphere": Mistake(
        decay_as_a_normal_vector, "NAdam weight_decay=0.3", "sphere"
    ),
    "decay in torch's moments, fixed sum": Mistake(
        decay_as_a_normal_vector, "Adagrad weight_decay=0.3", "fixed sum"
    ),
    "direction not projected": Mistake(
        replaced(steps, "make_tangent", direction_not_projected), CARRIED, "sphere"
    ),
    "direction not projected, torch": Mistake(
        replaced(steps, "make_tangent", direction_not_projected), TANGENT, "wide"
    ),
    "direction not projected, NAdam": Mistake(
        replaced(steps, "make_tangent", direction_not_projected), "NAdam", "square"
    ),
    "a zero step moves a bit": Mistake(
        replaced(steps, "move", zero_step_moves_a_bit), HEAVY, "sphere", no_bit
    ),
    "a zero rate moves a bit": Mistake(
        replaced(steps, "move", zero_step_moves_a_bit), POINT, "tall", no_rate
    ),
    "a zero step of torch's moves a bit": Mistake(
        replaced(steps, "move", zero_step_moves_a_bit), "RMSprop momentum=0.8", "wide", no_bit
    ),
    "a step of 2 eps": Mistake(replaced(steps, "move", a_step_rounded), "SGD", "symmetric", no_bit),
    "the Euclidean gradient lent": Mistake(
        replaced(StandIns, "_points_and_gradient", euclidean_gradient_lent),
        "Adagrad lr_decay=0.2",
        "tall",
    ),
    "state not given back": Mistake(
        replaced(StandIns, "_give_back", state_forgotten), "NAdam", "square"
    ),
    "one counter for all": Mistake(
        replaced(StandIns, "_state_of_all", one_state_for_all),
        "Adagrad lr_decay=0.2",
        "sphere",
        late,
    ),
    "one counter for all, fused": Mistake(
        replaced(linalg, "known_all", counters_not_looked_at), TANGENT, "sphere", late_by_few_digits
    ),
    "the fused kernel ascends": Mistake(
        replaced(torch, "_fused_adam_", the_kernel_ascends), TANGENT, "tall"
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_mistake_is_caught(name, monkeypatch):
    mistake = MISTAKES[name]
    rule = RULES[mistake.rule]
    mistake.rejected_by(rule, mistake.point)
    mistake.plant(monkeypatch)
    with pytest.raises(AssertionError):
        mistake.rejected_by(rule, mistake.point)

"""Adam and AdamW on manifolds (Kingma & Ba 2015; Bécigneul & Ganea 2019)."""

import math
import warnings
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from riemopt import linalg
from riemopt._torch_versions import decoupled_weight_decay_of_adam
from riemopt.manifolds import Manifold
from riemopt.optim.optimizer import RiemannianOptimizer
from riemopt.optim.stack import Stack
from riemopt.optim.state import counter_device, exact, zero_moment
from riemopt.optim.step import Carried, Request, Scalar, Step, along

SecondMoment = Literal["tangent", "carried", "point"]
_SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq")


class AdamScale(NamedTuple):
    """How long Adam's step is, and the state that says so. Tensors, or Python numbers."""

    length: Scalar
    """-lr·√(1 - β₂ᵗ)/(1 - β₁ᵗ), one for each member, `(K,)`, or for all."""
    denominator: Scalar
    """√v + eps·√(1 - β₂ᵗ), like v: so v̂ takes no pass of its own."""
    step: Scalar
    v: Scalar
    v_max: Scalar | None


def adam_scale(
    step: Scalar,
    square: Scalar,
    v: Scalar,
    v_max: Scalar | None,
    *,
    entries: int,
    lr: Scalar,
    betas: tuple[Scalar, Scalar],
    eps: float,
) -> AdamScale:
    """Take `square`, the sum of |grad|² over `entries`, into v, and find the length of the step.

    The same arithmetic on tensors and on numbers. `square` may be overwritten.

    Raises:
        ZeroDivisionError: of numbers only, where tensors would give infinity or NaN.
    """
    beta1, beta2 = betas
    step = step + 1
    square = square if entries == 1 else square / entries
    average: Any = linalg.average  # of two tensors or of two numbers
    v = average(square, v, beta2, overwrite=True)
    largest = v
    if v_max is not None:
        largest = v_max = linalg.maximum(v_max, v)
    root = (1 - beta2**step) ** 0.5
    denominator = linalg.root_plus(largest, _along(eps * root, largest))
    return AdamScale(-lr * root / (1 - beta1**step), denominator, step, v, v_max)


def _along(values: Scalar, stack: Scalar) -> Scalar:
    """One value for each member of a stack, shaped to broadcast to it; a number is for all."""
    if not isinstance(values, Tensor) or values.ndim == 0 or not isinstance(stack, Tensor):
        return values
    return along(values, stack)


_scale = linalg.on_host_numbers(adam_scale)


def _common_counter(counters: Scalar, device: torch.device) -> Scalar:
    """One counter if all `(K,)` are known to be equal, so that it can be a number; else all."""
    if not isinstance(counters, Tensor):
        return counters
    if not linalg.adaptive(counters):
        return counters.to(device)
    if len(counters) == 1:
        return counters
    known = counters.tolist()
    return counters[:1] if known.count(known[0]) == len(known) else counters.to(device)


def adam(
    carried: Carried,
    step: Scalar,
    v: Scalar,
    v_max: Scalar | None,
    *,
    elementwise: bool,
    entries: int,
    lr: Scalar,
    betas: tuple[Scalar, Scalar],
    eps: float,
) -> Step:
    """The step -lr·m̂/(√v̂ + eps).

    v is the running mean of mean |grad|² over the real `entries` of each point, in the metric, so
    that m/√v is tangent and a step is as long as torch's Adam makes it at the same `lr`; or, with
    `elementwise`, of |grad|² entry by entry, and m/√v is no tangent.
    """
    m = carried.momentum
    assert m is not None
    if elementwise:
        assert carried.gradient is not None
        square, entries = _square(carried.gradient), 1
        carried.gradient = None
    else:
        assert carried.squared_norm is not None
        square = carried.squared_norm
    if isinstance(step, Tensor):
        step = step.to(m.real.dtype)
    scale = _scale(step, square, v, v_max, entries=entries, lr=lr, betas=betas, eps=eps)
    length = _along(scale.length, m)
    state: dict[str, Any] = {"step": scale.step, "exp_avg": m, "exp_avg_sq": scale.v}
    if v_max is not None:
        state["max_exp_avg_sq"] = scale.v_max
    if not elementwise:
        return Step(m, _divided(length, scale.denominator), state)
    u = _quotient(m, scale.denominator)
    return Step(u, length, state, is_tangent=False, keeps_nan=True)


def fused_adam(group: dict[str, Any], stack: Stack, gradient: Tensor) -> Step | None:
    """The elementwise step by torch's fused kernel, in one pass over the memory.

    The kernel writes into the state, so it runs where the gradient is known to be finite. It steps
    a tensor of zeros, which becomes the direction.

    Args:
        group: options.
        stack: whose state it is.
        gradient: tangent, `(K, *shape)`.

    Returns:
        The step; None where the kernel cannot take it, and nothing has changed.
    """
    lr, beta1, beta2 = map(linalg.if_free, (group["lr"], *group["betas"]))
    moments = ["exp_avg", *_SECOND_MOMENTS[: 1 + group["amsgrad"]]]
    state = stack.live_state(["step", *moments])
    if (
        state is None
        or isinstance(lr, Tensor)
        or isinstance(beta1, Tensor)
        or isinstance(beta2, Tensor)
        or not math.isfinite(lr)
        or not linalg.known_finite(gradient)
    ):
        return None
    counters, *live = state
    g = gradient.contiguous().view(live[0].shape)
    u = torch.zeros_like(g)
    tensors = [u, g, *live]
    if u.is_complex():
        tensors = [torch.view_as_real(a) for a in tensors]
    known_equal = counters.numel() == 1 or linalg.known_all(counters == counters[0])
    if not known_equal or not all(a.is_contiguous() and a.dtype == u.dtype for a in [g, *live]):
        return None
    counters.add_(1)
    torch._fused_adam_(
        tensors[:1],
        tensors[1:2],
        tensors[2:3],
        tensors[3:4],
        tensors[4:],
        [(counters[0] if counters.ndim else counters).float()],
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=group["eps"],
        amsgrad=group["amsgrad"],
        weight_decay=0.0,  # it is in the gradient, or acts beside this step
        maximize=False,
    )
    return Step(u.view_as(gradient), 1.0, is_tangent=False, keeps_nan=True)


def _divided(length: Scalar, denominator: Scalar) -> Scalar:
    """length/denominator, NaN for 0/0 of numbers as for tensors."""
    if isinstance(denominator, Tensor) or denominator:
        return length / denominator
    return math.nan


def _square(grad: Tensor) -> Tensor:
    """|g|² of each entry; of complex ones, of the two parts by themselves in a last dimension."""
    return torch.view_as_real(grad).square() if grad.is_complex() else grad.square()


def _quotient(m: Tensor, denominator: Any) -> Tensor:
    if m.is_complex() and denominator.ndim > m.ndim:
        return torch.view_as_complex(torch.view_as_real(m) / denominator)
    return linalg.divide(m, denominator)


class _AdamRule(RiemannianOptimizer):
    """What the two classes have in common: the rule and its state."""

    tangent_state = ("exp_avg",)
    acts_by_entry = True
    second_moment: SecondMoment

    def _choose(self, second_moment: str) -> None:
        self.second_moment = _checked(second_moment)

    @property
    @override
    def per_point_state(self) -> tuple[str, ...]:
        return () if self.second_moment == "carried" else _SECOND_MOMENTS

    @override
    def _has_own_rule(self, manifold: Manifold) -> bool:
        return True

    @override
    def _is_per_point(self, manifold: Manifold) -> bool:
        if manifold.allows_elementwise_scaling:
            return False
        by_default = self.second_moment == "tangent" and manifold.distorts_lengths
        return by_default or self.second_moment == "point"

    @override
    def _initial_state(
        self, group: dict[str, Any], param: Tensor, manifold: Manifold
    ) -> dict[str, Tensor]:
        def zeros() -> Tensor:
            return torch.zeros_like(param, dtype=exact(param), memory_format=torch.preserve_format)

        dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
        step = torch.zeros((), dtype=dtype, device=counter_device(group, param))
        state = {"step": step, "exp_avg": zeros()}
        per_point = self._is_per_point(manifold)
        for key in _SECOND_MOMENTS[: 1 + group["amsgrad"]]:
            state[key] = zero_moment(param, manifold) if per_point else zeros()
        return state

    @override
    def _needed_state(self, saved_group: dict[str, Any]) -> tuple[str, ...]:
        return ("step", "exp_avg", *_SECOND_MOMENTS[: 1 + saved_group.get("amsgrad", False)])

    @override
    def _request(self, group: dict[str, Any], stack: Stack) -> Request:
        per_point = self._is_per_point(stack.manifold)
        if self.second_moment == "tangent" and not per_point:
            return Request(gradient=True)
        return Request(
            stack.load("exp_avg"),
            group["betas"][0],
            gradient=not per_point,
            squared_norm=per_point,
        )

    @override
    def _rule(self, group: dict[str, Any], stack: Stack, carried: Carried) -> Step:
        elementwise = not self._is_per_point(stack.manifold)
        if carried.momentum is None:  # "tangent": it stays as it was, entry by entry
            assert carried.gradient is not None
            may_be_fused = self._skip(stack.device) is None
            if may_be_fused and (step := fused_adam(group, stack, carried.gradient)) is not None:
                return step
            m = stack.load("exp_avg")
            carried.momentum = linalg.average(carried.gradient, m, group["betas"][0])

        def moment(key: str) -> Scalar:
            v = stack.load_number(key)
            return torch.view_as_real(v) if isinstance(v, Tensor) and v.is_complex() else v

        step = adam(
            carried,
            _common_counter(stack.load_number("step"), stack.device),
            moment("exp_avg_sq"),
            moment("max_exp_avg_sq") if group["amsgrad"] else None,
            elementwise=elementwise,
            entries=stack.entries,
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
        )
        if stack.params[0].is_complex() and elementwise:
            for key in set(_SECOND_MOMENTS) & set(step.state):
                step.state[key] = torch.view_as_complex(step.state[key])
        return step

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "second_moment": self.second_moment}


def _checked(second_moment: str) -> SecondMoment:
    if second_moment == "elementwise":
        warnings.warn(
            'second_moment="elementwise" is called "carried" now.', FutureWarning, stacklevel=4
        )
        return "carried"
    if second_moment not in ("tangent", "carried", "point"):
        raise ValueError(
            f"second_moment must be 'tangent', 'carried' or 'point'; got {second_moment!r}."
        )
    return second_moment  # type: ignore[return-value]


class RiemannianAdam(_AdamRule, torch.optim.Adam):
    """`torch.optim.Adam` whose constrained parameters stay on their manifolds.

    The arguments, their order and defaults, the layout of `state_dict()` and the numbers on
    unconstrained parameters are torch's.

    Args:
        params: parameters, named parameters, or groups; a group may hold `"manifold": Stiefel()`.
        lr: root mean square of the entries of a step.
        betas: decay of the first and of the second moment.
        eps: added to the root of the second moment.
        weight_decay: coefficient of the gradient of ½‖x‖², projected like any other: it is zero
            on spheres and Stiefel manifolds.
        amsgrad: use the largest second moment so far.
        foreach: False steps constrained parameters one by one; None and True stack small ones of
            equal shape.
        maximize: ascend.
        capturable: safe to capture in a CUDA graph.
        differentiable: let autograd record the step; parameters must not be leaves then.
        fused: torch's fused kernels; under a GradScaler constrained parameters are unscaled, and
            skipped where it found an infinity.
        decoupled_weight_decay: as `RiemannianAdamW`.
        second_moment: what v is, and so what √v divides.
            "tangent": torch's Adam itself, on the Riemannian gradient; m/√v is projected to the
            tangent space. Trains best in most networks. Where entries say nothing of lengths
            (`Manifold.distorts_lengths`: hyperbolic space, `Positive`, most metrics of `SPD`), it
            is "point".
            "carried": the same, and m is brought to each new point by projection.
            "point": one number for each point, the mean square of the Riemannian gradient, and m is
            carried: m/√v is tangent and does not depend on the coordinates (on Stiefel it commutes
            with rotations on both sides), and the state is half as large. On linear manifolds
            (`Symmetric`) it is elementwise.
            `docs/choosing-an-optimizer.md` has what was measured.

    Raises:
        ValueError, TypeError, RuntimeError: as `torch.optim.Adam`; and as `add_param_group`.

    Examples:
        >>> import torch
        >>> from riemopt import RiemannianAdam
        >>> from riemopt.manifolds import Stiefel
        >>> W, b = torch.nn.Parameter(torch.eye(4, 2)), torch.nn.Parameter(torch.zeros(4))
        >>> groups = [{"params": [W], "manifold": Stiefel()}, {"params": [b]}]
        >>> optimizer = RiemannianAdam(groups, lr=1e-2)
        >>> (W[2:].sum() + b.sum()).backward()
        >>> optimizer.step()
        >>> bool(Stiefel().violation(W.detach()) < 1e-6)
        True
    """

    decay_is_decoupled = False

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        second_moment: SecondMoment = "tangent",
    ) -> None:
        self._choose(second_moment)
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            **decoupled_weight_decay_of_adam(decoupled_weight_decay),
        )


class RiemannianAdamW(_AdamRule, torch.optim.AdamW):
    """`RiemannianAdam` with decoupled weight decay, as `torch.optim.AdamW` has it.

    On a manifold the decay is the tangent part of -lr·weight_decay·x, of which spheres and Stiefel
    manifolds have none.

    Examples:
        >>> import torch, riemopt
        >>> model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.Linear(64, 5))
        >>> _ = riemopt.constrain(model[0], "weight", riemopt.manifolds.Stiefel())
        >>> optimizer = riemopt.RiemannianAdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
        >>> model(torch.randn(8, 20)).square().mean().backward()
        >>> optimizer.step()  # the decay acts on the three other tensors
        >>> riemopt.constraints(model)[0].satisfied
        True
    """

    decay_is_decoupled = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        second_moment: SecondMoment = "tangent",
    ) -> None:
        self._choose(second_moment)
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
        )

"""Adam and AdamW on manifolds."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.optimizer import (
    ParamsT,
    _device_dtype_check_for_fused,
    _get_scalar_dtype,
)

from riemopt.distributed import ShardedGeometry
from riemopt.distributed.dtensor import local_part
from riemopt.linalg import HALF
from riemopt.manifolds import Manifold
from riemopt.optim import functional, rounds
from riemopt.optim.base import RiemannianOptimizer, Update
from riemopt.optim.moments import expand_moment, reduce_moment, zero_moment
from riemopt.optim.rounds import Direction, Rounds
from riemopt.optim.stack import Stack

_SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq")


class RiemannianAdam(RiemannianOptimizer, torch.optim.Adam):
    """`torch.optim.Adam` whose constrained parameters stay on their manifolds.

    The first moment is a tangent vector, carried along by projection. The second moment is one
    number per point, the running mean square of the Riemannian gradient, so that the direction
    m/√v is tangent, does not depend on the coordinates (on Stiefel it commutes with rotations on
    both sides), and has the length that `lr` gives in torch's Adam. On linear manifolds
    (`Symmetric`) it is elementwise. The arguments, their order and defaults, the layout of
    `state_dict()` and the numbers on unconstrained parameters are torch's.

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
        capturable: safe to capture in a CUDA graph. Constrained parameters always are.
        differentiable: let autograd record the step; parameters must not be leaves then.
        fused: torch's fused kernel for the unconstrained parameters; under a GradScaler the
            constrained ones are unscaled, and skipped where it found an infinity.
        decoupled_weight_decay: as `RiemannianAdamW`.
        second_moment: "point", or "elementwise" for torch's v on all manifolds; m/√v is then
            projected to the tangent space again, and depends on the coordinates.

    Raises:
        ValueError, TypeError, RuntimeError: as `torch.optim.Adam`; and as `add_param_group`.
    """

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
        second_moment: Literal["point", "elementwise"] = "point",
    ) -> None:
        if second_moment not in ("point", "elementwise"):
            raise ValueError(
                f"second_moment must be 'point' or 'elementwise'; got {second_moment!r}."
            )
        self.second_moment = second_moment
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
            decoupled_weight_decay=decoupled_weight_decay,
        )

    def _plain_step(self, group: dict[str, Any], params: list[Tensor]) -> None:
        if group["foreach"] and torch.is_tensor(group["lr"]) and not group["capturable"]:
            raise RuntimeError(
                "lr as a Tensor is not supported for capturable=False and foreach=True"
            )
        for p in params:
            if p.grad is not None and p.grad.is_sparse:
                raise RuntimeError(
                    "Adam does not support sparse gradients, please consider SparseAdam instead"
                )
            if not self.state[p]:
                if group["fused"]:
                    _device_dtype_check_for_fused(p)
                self.state[p].update(self._initial_state(group, p))
        states = [self.state[p] for p in params]
        beta1, beta2 = group["betas"]
        adam(
            params,
            [p.grad for p in params if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
            [state["step"] for state in states],
            amsgrad=group["amsgrad"],
            has_complex=any(p.is_complex() for p in params),
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
            foreach=group["foreach"],
            capturable=group["capturable"],
            differentiable=group["differentiable"],
            fused=group["fused"],
            grad_scale=getattr(self, "grad_scale", None),
            found_inf=getattr(self, "found_inf", None),
            decoupled_weight_decay=group["decoupled_weight_decay"],
        )

    def _elementwise(self, manifold: Manifold) -> bool:
        return manifold.allows_elementwise_scaling or self.second_moment == "elementwise"

    def _initial_state(
        self, group: dict[str, Any], param: Tensor, manifold: Manifold | None = None
    ) -> dict[str, Tensor]:
        # On a manifold it is decided on the device whether a step counts.
        on_device = manifold is not None or group["capturable"] or group["fused"]
        state = {
            "step": torch.zeros(
                (),
                dtype=_get_scalar_dtype(is_fused=group["fused"]),
                device=param.device if on_device else "cpu",
            ),
            "exp_avg": torch.zeros_like(param, memory_format=torch.preserve_format),
        }
        for key in _SECOND_MOMENTS[: 1 + group["amsgrad"]]:
            if manifold is None or self._elementwise(manifold):
                state[key] = torch.zeros_like(param, memory_format=torch.preserve_format)
            else:
                state[key] = zero_moment(param, manifold)
        return state

    def _update(self, group: dict[str, Any], stack: Stack) -> Update:
        x, g = stack.points(), stack.gradients(getattr(self, "grad_scale", None))
        manifold = stack.manifold.linearised_at(x)
        u, t, new = functional.adam(
            manifold,
            x,
            g,
            _load(group, stack),
            weight_decay=group["weight_decay"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
            **self._options(group, manifold),
        )
        return Update(manifold, x, u, t, self._new_state(stack, new))

    def _split_update(
        self, group: dict[str, Any], stack: Stack, parts: ShardedGeometry
    ) -> Rounds[tuple[Direction, dict[str, Any]]]:
        x, g = stack.points(), stack.gradients(getattr(self, "grad_scale", None))
        direction, new = yield from rounds.adam(
            parts,
            x,
            g,
            _load(group, stack),
            skip=self._skip(x.device),
            **self._options(group, stack.manifold),
        )
        return direction, self._new_state(stack, new)

    def _options(self, group: dict[str, Any], manifold: Manifold) -> dict[str, Any]:
        beta1, beta2 = group["betas"]
        options = {key: group[key] for key in ("lr", "eps", "amsgrad", "maximize")}
        return {
            **options,
            "beta1": beta1,
            "beta2": beta2,
            "elementwise": self._elementwise(manifold),
        }

    def _new_state(self, stack: Stack, new: functional.AdamState) -> dict[str, Any]:
        as_complex = stack.params[0].is_complex() and self._elementwise(stack.manifold)
        state: dict[str, Any] = {"step": new.step, "exp_avg": new.m}
        for key, v in zip(_SECOND_MOMENTS, (new.v, new.v_max), strict=True):
            if v is not None:
                state[key] = torch.view_as_complex(v) if as_complex else v
        return state

    # --- checkpoints in torch's layout ---

    def state_dict(self) -> dict[str, Any]:
        """The state in the layout of `torch.optim.Adam`, which can load it.

        A per-point second moment is written out at the parameter's full size.
        """
        packed = super().state_dict()
        params = (p for group in self.param_groups for p in group["params"])
        state = dict(packed["state"])
        for index, param in enumerate(params):
            if index in state:
                state[index] = {
                    key: expand_moment(value, param) if key in _SECOND_MOMENTS else value
                    for key, value in state[index].items()
                }
        return {**packed, "state": state}

    _saved_options = ("lr", "betas", "eps", "weight_decay")

    def _needed_state(self, saved_group: dict[str, Any]) -> tuple[str, ...]:
        return ("step", "exp_avg", *_SECOND_MOMENTS[: 1 + saved_group.get("amsgrad", False)])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this class or of torch's Adam or AdamW.

        A full-size second moment is reduced to the mean over each point. On any error nothing has
        changed.

        Raises:
            ValueError: as `RiemannianSGD.load_state_dict`.
        """
        super().load_state_dict(state_dict)

    def _conform_loaded(self, param: Tensor, manifold: Manifold, saved: dict[str, Any]) -> None:
        if param.dtype in HALF:
            # torch has rounded the moments to the parameter's dtype; half precision loses them.
            for key in _SECOND_MOMENTS:
                if key in saved:
                    self.state[param][key] = saved[key].to(param.device, copy=True)
        self._conform_state(param, manifold)

    def _conform_state(self, param: Tensor, manifold: Manifold | None) -> None:
        state = self.state.get(param)
        if not state:
            return
        # As torch keeps it for an unconstrained parameter, on a manifold on its device.
        options = next(g for g in self.param_groups if any(p is param for p in g["params"]))
        on_device = manifold is not None or options["capturable"] or options["fused"]
        state["step"] = state["step"].to(param.device if on_device else "cpu")
        for key in _SECOND_MOMENTS:
            value = state.get(key)
            if value is None:
                continue
            if manifold is None or self._elementwise(manifold):
                state[key] = expand_moment(value, param)
            elif value.shape == param.shape:
                state[key] = reduce_moment(value, param, manifold)
        if manifold is not None and manifold.allows_elementwise_scaling:
            # Its moments stay in the subspace by themselves; those of another optimizer need not.
            m, x = local_part(state["exp_avg"]), local_part(param).detach()
            m.copy_(manifold.proj_tangent(x.to(m.dtype), m))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "second_moment": self.second_moment}


def _load(group: dict[str, Any], stack: Stack) -> functional.AdamState:
    def second_moment(key: str) -> Tensor:
        v = stack.load(key)
        return torch.view_as_real(v) if v.is_complex() else v

    return functional.AdamState(
        step=stack.load("step"),
        m=stack.load("exp_avg"),
        v=second_moment("exp_avg_sq"),
        v_max=second_moment("max_exp_avg_sq") if group["amsgrad"] else None,
    )


class RiemannianAdamW(RiemannianAdam):
    """`RiemannianAdam` with decoupled weight decay, as `torch.optim.AdamW` has it.

    On a manifold the decay is the tangent part of -lr·weight_decay·x, of which spheres and Stiefel
    manifolds have none.
    """

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
        second_moment: Literal["point", "elementwise"] = "point",
    ) -> None:
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
            decoupled_weight_decay=True,
            second_moment=second_moment,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # an Adam checkpoint does not switch it off, as in torch
            group["decoupled_weight_decay"] = True

"""Optimizers with the arguments and the step length of geoopt's.

    from riemopt.interop.geoopt import RiemannianAdam       # was: from geoopt.optim import …

What is not geoopt's: the first momentum buffer is the Riemannian gradient, counted once; a step
ends on the manifold without `stabilize`; gradients are not written to; and every option of torch's
class is honoured.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import optim
from riemopt.linalg import HALF
from riemopt.manifolds import Manifold
from riemopt.optim.optimizer import RiemannianOptimizer
from riemopt.optim.stack import Stack
from riemopt.optim.step import Carried, Step

_TANGENTS = ("momentum_buffer", "exp_avg")


class _LikeGeoopt(RiemannianOptimizer):
    """geoopt's `stabilize`."""

    _stabilize: int | None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As of `RiemannianOptimizer`; a group may hold its own `"stabilize"`."""
        super().add_param_group({"stabilize": self._stabilize, **param_group})

    @torch.no_grad()
    def stabilize(self) -> None:
        """Move every constrained parameter to the nearest point, and its momentum to the tangents.

        Steps do so by themselves; this is for values that were changed in between.
        """
        for group, manifolds in zip(self.param_groups, self._manifolds, strict=True):
            self._stabilize_group(group["params"], manifolds)

    def _stabilize_group(self, params: list[Tensor], manifolds: list[Manifold | None]) -> None:
        for p, manifold in zip(params, manifolds, strict=True):
            if manifold is None:
                continue
            p.copy_(manifold.project(p.detach()))
            x = p.detach().float() if p.dtype in HALF else p.detach()
            for key in _TANGENTS:
                if key in self.state.get(p, {}):
                    m = self.state[p][key]
                    m.copy_(manifold.proj_tangent(x, m.to(x.dtype)))

    @torch.no_grad()
    def _stabilize_when_due(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Step post-hook. The count is kept in the group, where geoopt's SGD keeps it."""
        for group, manifolds in zip(self.param_groups, self._manifolds, strict=True):
            every = group.get("stabilize")
            if every is None:
                continue
            group["step"] = group.get("step", 0) + 1
            if group["step"] % every == 0:
                self._stabilize_group(group["params"], manifolds)

    def _set_hook(self) -> None:
        # torch drops hooks when it copies an optimizer.
        hooks = self._optimizer_step_post_hooks.values()
        if not any(getattr(hook, "__self__", None) is self for hook in hooks):
            self.register_step_post_hook(self._stabilize_when_due)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_stabilize": self._stabilize}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._set_hook()


class RiemannianSGD(_LikeGeoopt, optim.RiemannianSGD):
    """`riemopt.RiemannianSGD` with the arguments of `geoopt.optim.RiemannianSGD`.

    Args:
        params, lr, momentum, dampening, weight_decay, nesterov: as there.
        stabilize: project parameters and momentum every so many steps; None for never, which is
            enough, since each step ends on the manifold.
        options: keywords of `torch.optim.SGD` that geoopt does not have.

    Raises:
        ValueError: as `torch.optim.SGD`, or `stabilize` is not a positive integer.

    Examples:
        >>> import geoopt, torch
        >>> from riemopt.interop.geoopt import RiemannianSGD
        >>> x = geoopt.ManifoldParameter(torch.tensor([1.0, 0.0]), geoopt.Sphere())
        >>> optimizer = RiemannianSGD([x], lr=0.1, momentum=0.9, stabilize=10)
        >>> x[1].backward()
        >>> optimizer.step()
        >>> round(x.norm().item(), 5), bool(x[1] < 0)
        (1.0, True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        stabilize: int | None = None,
        **options: Any,
    ) -> None:
        self._stabilize = _checked(stabilize)
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, **options)
        self._set_hook()


class RiemannianAdam(_LikeGeoopt, optim.RiemannianAdam):
    """`riemopt.RiemannianAdam` with the arguments, and the unit of `lr`, of geoopt's.

    geoopt's second moment is ‖grad‖² of a point, and a step is about `lr` long in the manifold's
    metric; `riemopt.RiemannianAdam` follows torch, where `lr` is the root mean square of the
    entries, √n times as long for a point of n entries. Here a step is as long as geoopt's.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad: as there.
        stabilize: as of `RiemannianSGD`.
        options: other keywords of `riemopt.RiemannianAdam`. `second_moment` is "point" as in
            geoopt; with others the unit of `lr` is torch's.

    Raises:
        ValueError: as `torch.optim.Adam`, or `stabilize` is not a positive integer.

    Examples:
        >>> import geoopt, torch
        >>> from riemopt.interop.geoopt import RiemannianAdam
        >>> x = geoopt.ManifoldParameter(torch.tensor([1.0, 0.0]), geoopt.Sphere())
        >>> optimizer = RiemannianAdam([x], lr=0.1, stabilize=10)
        >>> x[1].backward()
        >>> optimizer.step()
        >>> round(x.norm().item(), 5), bool(x[1] < 0)
        (1.0, True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        stabilize: int | None = None,
        **options: Any,
    ) -> None:
        self._stabilize = _checked(stabilize)
        options.setdefault("second_moment", "point")
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options)
        self._set_hook()

    @override
    def _rule(self, group: dict[str, Any], stack: Stack, carried: Carried) -> Step:
        return super()._rule(self._in_their_unit(group, stack), stack, carried)

    def _in_their_unit(self, group: dict[str, Any], stack: Stack) -> dict[str, Any]:
        """The group with lr/√n and eps/√n: √v is 1/√n of geoopt's, so the quotient is the same."""
        if not self._is_per_point(stack.manifold):
            return group
        root = math.sqrt(stack.entries)
        return {**group, "lr": group["lr"] / root, "eps": group["eps"] / root}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this class, of torch's Adam, or of geoopt's (whose step is an int).

        geoopt's second moment, ‖grad‖² of a point, is divided by the entries of a point.
        """
        states = state_dict["state"].values()
        theirs = any(isinstance(state.get("step"), int) for state in states)
        super().load_state_dict(state_dict)
        if not theirs:
            return
        for group, manifolds in zip(self.param_groups, self._manifolds, strict=True):
            for p, manifold in zip(group["params"], manifolds, strict=True):
                if manifold is None or not self._is_per_point(manifold):
                    continue
                for key in {"exp_avg_sq", "max_exp_avg_sq"} & set(self.state.get(p, {})):
                    self.state[p][key] = self.state[p][key] / _entries(p, manifold)


def _entries(param: Tensor, manifold: Manifold) -> int:
    """Real numbers in one point."""
    sizes = [param.shape[d] for d in manifold.event_dims(param.ndim)]
    return math.prod(sizes) * (2 if param.is_complex() else 1)


def _checked(stabilize: int | None) -> int | None:
    if stabilize is not None and not (isinstance(stabilize, int) and stabilize > 0):
        raise ValueError(
            f"stabilize must be None or a positive number of steps; got {stabilize!r}."
        )
    return stabilize

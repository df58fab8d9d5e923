"""L-BFGS as an optimizer with `step(closure)`, in torch's form.

All parameters are moved along one line, so this is not the frame's step of one stack after another.
They are one point of a product of manifolds, as in `riemopt.minimize`, whose vectors, memory of
pairs and line search are used here; what is done with them is what `torch.optim.LBFGS` does.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.distributed.dtensor import is_dtensor
from riemopt.linalg import HALF
from riemopt.manifolds import Euclidean, Manifold
from riemopt.optim.optimizer import RiemannianOptimizer
from riemopt.solvers.lbfgs import Pairs
from riemopt.solvers.line_search import StrongWolfe
from riemopt.solvers.points import Points, host
from riemopt.solvers.problem import Evaluation, Problem
from riemopt.solvers.structure import Structure

CURVATURE = 1e-10
"""A pair (s, y) is kept where ⟨s, y⟩ is more: torch's number."""


class RiemannianLBFGS(RiemannianOptimizer, torch.optim.LBFGS):
    """`torch.optim.LBFGS` whose constrained parameters stay on their manifolds.

    Quasi-Newton steps for losses over all the data. The pairs (s, y) of steps and changes of the
    gradient are transported to each new point, and inner products are those of the metric (Huang,
    Gallivan & Absil 2015). Where no parameter is constrained, torch's own step is taken.

        optimizer = RiemannianLBFGS(model.parameters(), line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            loss = loss_fn(model(data), target)
            loss.backward()
            return loss

        optimizer.step(closure)

    `riemopt.minimize` is the same method with a stopping rule of its own, for a function.

    Args:
        params: parameters, or one group, which may hold `"manifold": Stiefel()`.
        lr: length of the first trial in units of the quasi-Newton step, and without a line search
            of the step.
        max_iter: iterations in one call of `step`.
        max_eval: calls of the closure in one call of `step`; 5/4 of `max_iter` if None.
        tolerance_grad: stop where no entry of the Riemannian gradient is larger.
        tolerance_change: stop where no entry of a step is larger, or where the loss changes less.
        history_size: how many pairs are kept.
        line_search_fn: "strong_wolfe", or None for steps of `lr`.

    A step that is not finite is not taken; `skipped_steps` counts it for each constrained
    parameter. State is in torch's layout, with vectors that are tangent at the point. It is all in
    that of the first parameter.

    Raises:
        ValueError: as `torch.optim.LBFGS`, which allows one group.

    Examples:
        >>> import torch
        >>> from riemopt import ManifoldParameter, RiemannianLBFGS
        >>> from riemopt.manifolds import Sphere
        >>> A = torch.diag(torch.arange(1.0, 6.0))
        >>> x = ManifoldParameter(torch.ones(5), Sphere())
        >>> optimizer = RiemannianLBFGS([x], line_search_fn="strong_wolfe")
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = x @ A @ x
        ...     loss.backward()
        ...     return loss
        >>> _ = optimizer.step(closure)
        >>> f"{(x @ A @ x).item():.3f}"  # the smallest eigenvalue
        '1.000'
    """

    @override
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Take up to `max_iter` iterations.

        Args:
            closure: zeroes the gradients, computes the loss, calls backward and returns the loss.

        Returns:
            The loss at the start.

        Raises:
            RuntimeError: `line_search_fn` is neither "strong_wolfe" nor None.
            NotImplementedError: a constrained weight, or one beside it, is in half precision, or
                spread over processes.
        """
        if len(self.param_groups) != 1:
            raise AssertionError(
                f"Expected exactly one param_group, but got {len(self.param_groups)}"
            )
        ((group, manifolds),) = self._groups()
        with torch.no_grad(), np.errstate(all="ignore"):
            if not any(manifolds):
                base_step: Callable[..., Any] = type(self)._base_step
                return base_step(self, closure)
            _check(group)
            return _Run(self, group, manifolds, closure).to_the_end()


def _check(group: dict[str, Any]) -> None:
    """Refuse what cannot be stepped, before a weight has moved."""
    if group["line_search_fn"] not in (None, "strong_wolfe"):
        raise RuntimeError("only 'strong_wolfe' is supported")
    for p in group["params"]:
        if p.dtype in HALF:
            raise NotImplementedError(
                f"RiemannianLBFGS needs float32 or float64, since it takes differences of "
                f"gradients; got a parameter of {p.dtype} beside constrained ones."
            )
        if is_dtensor(p):
            raise NotImplementedError(
                "RiemannianLBFGS needs whole weights, since its products go over all of them; got "
                "one that is spread over processes. Use RiemannianAdam or RiemannianSGD."
            )


class _Parameters(Structure):
    """The parameters as a point, and the closure as the cost."""

    def __init__(self, params: list[Tensor], closure: Callable[[], Any]) -> None:
        self.tensors, self.closure = params, closure

    @override
    def leaves(self, tensors: list[Tensor]) -> list[Tensor]:
        for p, t in zip(self.tensors, tensors, strict=True):
            p.copy_(t)
        return self.tensors

    @override
    def cost(self, leaves: list[Tensor]) -> Tensor:
        with torch.enable_grad():
            self.loss = self.closure()
        return torch.as_tensor(self.loss, device=leaves[0].device).detach()

    @override
    def result(self, tensors: list[Tensor]) -> Any:
        return tensors


class _Closure(Problem):
    """A loss whose gradients the closure leaves in `.grad`."""

    @override
    def _differentiate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        params = self._structure.leaves(self.points.unpack(x))
        value = self._structure.cost(params)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense() for p in params]
        # A copy, as the next call of the closure may write into the same memory.
        return value, self.points.pack(grads).detach().clone()


class _Run:
    """One call of `step`. Names are those of `torch.optim.LBFGS`."""

    def __init__(
        self,
        optimizer: RiemannianLBFGS,
        group: dict[str, Any],
        manifolds: list[Manifold | None],
        closure: Callable[[], Any],
    ) -> None:
        self.optimizer, self.group = optimizer, group
        self.params: list[Tensor] = group["params"]
        self.points = Points(self.params, [m or Euclidean() for m in manifolds])
        self.parameters = _Parameters(self.params, closure)
        self.problem = _Closure(self.parameters, self.points)
        self.constrained = sum(m is not None for m in manifolds)
        self.state = optimizer.state[self.params[0]]
        self.pairs = Pairs(self.points, max(1, group["history_size"]))
        self.old_dirs: list[Tensor] = list(self.state.get("old_dirs") or [])
        self.old_stps: list[Tensor] = list(self.state.get("old_stps") or [])

    def to_the_end(self) -> Any:
        state, group = self.state, self.group
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)
        # A copy, as trials are written into the parameters.
        here = self.problem.evaluate(self.points.pack([p.detach() for p in self.params]).clone())
        orig_loss = self.parameters.loss
        n_iter = 0
        while not self._is_optimal(here) and n_iter < group["max_iter"]:
            if not np.isfinite(here.value):
                self._skip()
                break
            n_iter += 1
            state["n_iter"] += 1
            d, gtd = self._direction(here)
            t = float(group["lr"])
            if state["n_iter"] == 1:
                t *= min(1.0, 1.0 / float(here.grad.abs().sum()))
            if gtd > -group["tolerance_change"]:
                break
            is_last = n_iter == group["max_iter"]
            there, t = self._move(here, d, gtd, t, is_last)
            if there is None:
                self._skip()
                break
            self._carry(here, there.x, d, t)
            change = abs(float(there.value - here.value))
            here = there
            if (
                self.problem.nfev >= group["max_eval"]
                or float(d.abs().max()) * t <= group["tolerance_change"]
                or change < group["tolerance_change"]
            ):
                break
        state["func_evals"] += int(self.problem.nfev)
        return orig_loss

    def _is_optimal(self, here: Evaluation) -> bool:
        return bool(here.grad.abs().max() <= self.group["tolerance_grad"])

    def _skip(self) -> None:
        device = self.params[0].device
        self.optimizer._skipped.prepare(device)
        self.optimizer._skipped.add(torch.tensor(self.constrained, device=device))

    @linalg.outside_autocast
    def _direction(self, here: Evaluation) -> tuple[Tensor, float]:
        """-H·grad, with the pair of the last move taken in, and the slope along it."""
        state, points = self.state, self.points
        if state["n_iter"] > 1 and state.get("d") is not None:
            s, y = state["d"] * state["t"], here.grad - state["prev_flat_grad"]
            ys, yy = (
                float(a) for a in host(points.inner(here.x, y, s), points.inner(here.x, y, y))
            )
            if ys > CURVATURE:
                full = len(self.old_dirs) == self.group["history_size"]
                self.old_dirs = [*self.old_dirs[full:], y]
                self.old_stps = [*self.old_stps[full:], s]
                state["H_diag"] = ys / yy
        else:
            self.old_dirs, self.old_stps, state["H_diag"] = [], [], 1
        rows = [row for pair in zip(self.old_stps, self.old_dirs, strict=True) for row in pair]
        self.pairs.rows = torch.stack(rows) if rows else None
        d, slope = self.pairs.direction(here)
        return d, float(slope)

    def _move(
        self, here: Evaluation, d: Tensor, gtd: float, t: float, is_last: bool
    ) -> tuple[Evaluation | None, float]:
        """The next point and the length of the step; None where it is not finite.

        Without a line search the closure is not called after the last iteration, as the next call
        of `step` begins with that.
        """
        problem, points = self.problem, self.points
        if self.group["line_search_fn"] is not None:
            search = StrongWolfe(max_trials=max(1, self.group["max_eval"] - int(problem.nfev)))
            found = search(problem, here, d, np.array(gtd), np.array(t), problem.all)
            there, t = found.there, float(found.length)
        else:
            y = points.retract(here.x, t * d)
            there = here if is_last else problem.evaluate(y)
            there = Evaluation(**{**vars(there), "x": y})
        finite = bool(there.x.isfinite().all()) and (is_last or bool(np.isfinite(there.value)))
        self.parameters.leaves(points.unpack(there.x if finite else here.x))
        return (there if finite else None), t

    @linalg.outside_autocast
    def _carry(self, here: Evaluation, y: Tensor, d: Tensor, t: float) -> None:
        """Bring what is remembered to the new point, and keep it in torch's layout."""
        old = [d, here.grad, *self.old_stps, *self.old_dirs]
        moved = list(self.points.transport(here.x, y, torch.stack(old)).unbind())
        count = len(self.old_stps)
        self.old_stps, self.old_dirs = moved[2 : 2 + count], moved[2 + count :]
        pairs = zip(self.old_stps, self.old_dirs, strict=True)
        self.state.update(
            d=moved[0],
            t=t,
            old_dirs=self.old_dirs,
            old_stps=self.old_stps,
            ro=[1 / self.points.inner(y, s, v) for s, v in pairs],
            prev_flat_grad=moved[1],
            prev_loss=float(here.value),
        )

"""pymanopt (Townsend, Koep & Weichwald 2016): conjugate gradients and trust regions, full batch.

Points are NumPy arrays in float64; the loss and its gradient are torch's, in the task's precision
and by autograd, as with `pymanopt.function.pytorch`. Each call of the cost, of its gradient and of
a Hessian–vector product spends a step of the budget.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from riemopt_bench.interface import (
    Attached,
    Case,
    Method,
    Observe,
    Skip,
    Task,
    unknown,
)
from riemopt_bench.libraries._packages import needs, needs_one_function
from riemopt_bench.surfaces import (
    LowRank,
    PoincareBall,
    PositiveDefinite,
    Rotation,
    Sphere,
    Stiefel,
    Subspace,
    Surface,
    Symmetric,
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Posed:
    """A manifold, and a weight as its point.

    `point` makes one from the weight as a tensor in float64, and `weight` makes that again from the
    tensors of a point, one for each array of it.
    """

    manifold: Any
    point: Callable[[Tensor], Any]
    weight: Callable[..., Tensor]


def _array(tensor: Tensor) -> Any:
    return np.ascontiguousarray(tensor.numpy())


def _reshaped(manifold: Any, shape: Shape, forth: Callable[[Tensor], Tensor]) -> Posed:
    """Points that are the weight in another shape."""
    return Posed(manifold, lambda w: _array(forth(w)), lambda x: x.reshape(shape))


@functools.singledispatch
def pose(surface: Surface, shape: Shape) -> Posed:
    """pymanopt's manifold for a weight of that shape."""
    raise unknown("pymanopt", surface)


def _batch(shape: Shape) -> tuple[int, Shape]:
    """How many matrices, and the shape of pymanopt's points, which are flat where it is one."""
    count = math.prod(shape[:-2])
    return count, shape[-2:] if count == 1 else (count, *shape[-2:])


def _columns(kind: str, surface: Stiefel, shape: Shape) -> Posed:
    import pymanopt

    n, p = surface.sides(shape)
    count, flat = (1, (n, p)) if surface.kernel else _batch((*shape[:-2], n, p))
    manifold = getattr(pymanopt.manifolds, kind)(n, p, k=count)
    size = torch.Size(shape)
    tall = (n, p) if surface.kernel else (*shape[:-2], n, p)
    return Posed(
        manifold,
        lambda w: _array(surface.tall(w).reshape(flat)),
        lambda x: surface.from_tall(x.reshape(tall), size),
    )


@pose.register
def _(surface: Stiefel, shape: Shape) -> Posed:
    return _columns("Stiefel", surface, shape)


@pose.register
def _(surface: Subspace, shape: Shape) -> Posed:
    return _columns("Grassmann", surface, shape)


def _square(kind: str, shape: Shape) -> Posed:
    import pymanopt

    count, flat = _batch(shape)
    manifold = getattr(pymanopt.manifolds, kind)(shape[-1], k=count)
    return _reshaped(manifold, shape, lambda w: w.reshape(flat))


@pose.register
def _(surface: Rotation, shape: Shape) -> Posed:
    return _square("SpecialOrthogonalGroup", shape)


@pose.register
def _(surface: Symmetric, shape: Shape) -> Posed:
    return _square("Symmetric", shape)


@pose.register
def _(surface: PositiveDefinite, shape: Shape) -> Posed:
    return _square("SymmetricPositiveDefinite", shape)


@pose.register
def _(surface: Sphere, shape: Shape) -> Posed:
    from pymanopt import manifolds

    n, size = shape[surface.dim], torch.Size(shape)
    if n == math.prod(shape):
        return _reshaped(manifolds.Sphere(n), shape, lambda w: w.reshape(n))
    moved = torch.empty(shape).movedim(surface.dim, 0).shape
    return Posed(
        manifolds.Oblique(n, size.numel() // n),
        lambda w: _array(w.movedim(surface.dim, 0).reshape(n, -1)),
        lambda x: x.reshape(moved).movedim(0, surface.dim),
    )


@pose.register
def _(surface: PoincareBall, shape: Shape) -> Posed:
    from pymanopt import manifolds

    count = math.prod(shape[:-1])
    flat = (shape[-1],) if count == 1 else (count, shape[-1])
    manifold = manifolds.PoincareBall(shape[-1], k=count)
    return _reshaped(manifold, shape, lambda w: w.reshape(flat))


@pose.register
def _(surface: LowRank, shape: Shape) -> Posed:
    from pymanopt import manifolds

    if len(shape) != 2:
        raise ValueError(f"pymanopt's FixedRankEmbedded is of one matrix; got the shape {shape}")
    r, manifold = surface.rank, manifolds.FixedRankEmbedded(*shape, surface.rank)
    kind = type(manifold.random_point())

    def point(weight: Tensor) -> Any:
        U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
        return kind(_array(U[:, :r]), _array(S[:r]), _array(Vh[:r]))

    return Posed(manifold, point, lambda U, S, Vh: (U * S) @ Vh)


def _free(shape: Shape) -> Posed:
    from pymanopt import manifolds

    flat = shape or (1,)
    return _reshaped(manifolds.Euclidean(*flat), shape, lambda w: w.reshape(flat))


class _Loss(nn.Module):
    """The task's loss as a module, so that its parameters can be put in for a call."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model, self.loss = task.model, task.loss

    def forward(self, batch: Any) -> Tensor:
        """The loss of a batch."""
        return self.loss(self.model, batch)


class _Posed:
    """A task as a problem of pymanopt, whose calls are counted."""

    def __init__(self, task: Task, observe: Observe) -> None:
        import pymanopt

        self.observe, self.module = observe, _Loss(task)
        self.parameters = dict(self.module.named_parameters())
        self.parts = [
            _free(tuple(p.shape))
            if (surface := task.surfaces.get(name)) is None
            else pose(surface, tuple(p.shape))
            for name, p in task.model.named_parameters()
        ]
        points = [
            part.point(p.detach().double())
            for part, p in zip(self.parts, self.parameters.values(), strict=True)
        ]
        # Its problems cannot be of a product of one.
        self.alone = len(points) == 1
        self.start = points[0] if self.alone else points
        self.manifold = (
            self.parts[0].manifold
            if self.alone
            else pymanopt.manifolds.product.Product([part.manifold for part in self.parts])
        )
        self.batch, self.calls = observe.batch, 0

        posed = pymanopt.function.pytorch(self.manifold)
        self.problem = pymanopt.Problem(self.manifold, posed(lambda *tensors: self.cost(tensors)))
        # A property of the class, made when it is first asked for.
        self.problem._euclidean_gradient = self._noting(self.problem.euclidean_gradient)

    def weights(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The parameters, from all tensors of a point of the product."""
        left, found = list(tensors), []
        for part in self.parts:
            layout = part.manifold.point_layout
            found.append(part.weight(*left[:layout]))
            del left[:layout]
        return found

    def cost(self, tensors: Sequence[Tensor]) -> Tensor:
        """The loss at a point. Gradients and products with the Hessian call it, too, once each."""
        pairs = zip(self.parameters.items(), self.weights(tensors), strict=True)
        values = {name: weight.to(p.dtype) for (name, p), weight in pairs}
        loss: Tensor = torch.func.functional_call(self.module, values, (self.batch,))
        self.calls, self.latest = self.calls + 1, loss.detach()
        # pymanopt cannot differentiate the gradient of a linear loss: it is constant.
        nothing = sum(0.0 * tensor.square().sum() for tensor in tensors)
        return loss.double() + nothing

    def _noting(self, gradient: Callable[..., Any]) -> Callable[..., Any]:
        """pymanopt asks for gradients at its iterates alone: so the last of these is its point."""

        def call(point: Any) -> Any:
            found = gradient(point)
            self.point, self.loss = point, self.latest
            return found

        return call

    @torch.no_grad()
    def report(self) -> None:
        """Tell of the calls since the last time, and put the iterate into the model."""
        for _ in range(self.calls):
            self.observe.tell(self.loss)  # not that of a trial, which may have been refused
        self.calls = 0
        points = [self.point] if self.alone else self.point
        arrays = [
            array
            for part, one in zip(self.parts, points, strict=True)
            for array in ([one] if part.manifold.point_layout == 1 else one)
        ]
        weights = self.weights([torch.from_numpy(np.asarray(a)) for a in arrays])
        for p, weight in zip(self.parameters.values(), weights, strict=True):
            p.copy_(weight)


def attach(task: Task, lr: float, *, solver: str) -> Attached:
    """An optimizer of pymanopt that reports to the runner where it asks whether to stop."""
    import pymanopt

    base: Any = getattr(pymanopt.optimizers, solver)

    def solve(observe: Observe) -> None:
        if not observe():
            return
        posed = _Posed(task, observe)

        class Observed(base):  # type: ignore[misc]
            def _check_stopping_criterion(self, **progress: Any) -> str | None:
                posed.report()
                if not observe():
                    return "the budget is spent"
                reason: str | None = super()._check_stopping_criterion(**progress)
                return reason

        Observed(
            verbosity=0,
            max_time=math.inf,
            max_iterations=10**9,
            max_cost_evaluations=10**9,
        ).run(posed.problem, initial_point=posed.start)

    return Attached.to_stored_weights(task, None, solve=solve)


def _check(case: Case) -> None:
    needs_one_function(case)
    for surface in case.surfaces:
        if pose.dispatch(type(surface)) is pose.dispatch(object):
            raise unknown("pymanopt", surface)


def _lacking(lacking: type[Surface], what: str) -> Callable[[Case], None]:
    """A check for a solver that needs what pymanopt's manifold of a surface lacks."""

    def check(case: Case) -> None:
        _check(case)
        if any(isinstance(surface, lacking) for surface in case.surfaces):
            raise Skip(f"pymanopt's manifold for {lacking.__name__} has no {what}")

    return check


def _method(name: str, title: str, solver: str, check: Callable[[Case], None]) -> Method:
    return Method(
        name=name,
        title=title,
        family="pymanopt",
        description=f"pymanopt.optimizers.{solver} as it comes, gradients by torch.",
        attach=functools.partial(attach, solver=solver),
        check=needs("pymanopt", check),
        grid=(1.0,),
        packages=("torch", "pymanopt"),
    )


METHODS = (
    _method("pymanopt-cg", "pymanopt CG", "ConjugateGradient", _lacking(PoincareBall, "transport")),
    _method(
        "pymanopt-trust-region",
        "pymanopt trust region",
        "TrustRegions",
        _lacking(LowRank, "Hessian"),
    ),
)

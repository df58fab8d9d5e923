"""A cost on a product of manifolds: its values, gradients and Hessians, and how many were taken.

    problem = Problem(structure, points)
    here = problem.evaluate(x)                 # value, gradient and its norm: one Evaluation
    hessian = problem.hessian(here)            # a function of tangent vectors at x
    hessian(u)

Every call is for the whole batch, since `fun` is; it is counted for the problems that a solver
names as active. Values that are NaN or +inf are returned as +inf, so that every solver steps back.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from riemopt.linalg import outside_autocast
from riemopt.solvers.points import Mask, Numbers, Points, host, times, where
from riemopt.solvers.structure import Structure

Hessian = Callable[[Tensor], Tensor]
"""Of a tangent vector at a fixed point: the Riemannian Hessian times it."""


@dataclass(frozen=True)
class Evaluation:
    """What is known of a cost at a point. Vectors are `(*batch, N)`, numbers of the shape batch.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import Points, Problem
        >>> from riemopt.solvers.structure import structure_of
        >>> x, f = torch.tensor([1.0, 0.0]), lambda x: 3 * x[0] + 4 * x[1]
        >>> here = Problem(structure_of(f, x, Sphere()), Points([x], [Sphere()])).evaluate(x)
        >>> here.value.item(), here.egrad, here.grad, here.norm.item()
        (3.0, tensor([3., 4.]), tensor([0., 4.]), 4.0)
    """

    x: Tensor
    value: Numbers
    """f(x); +inf where the cost is not a number."""
    egrad: Tensor
    """The Euclidean gradient."""
    grad: Tensor
    """The Riemannian gradient."""
    norm: Numbers
    """‖grad f(x)‖ in the metric at x."""
    scale: Numbers
    """A norm beside which that one may be called small: of the Euclidean gradient, where the metric
    is the ambient one, else the same."""
    slope: Numbers
    """Of an evaluation along a curve, the derivative of the cost along it; else NaN."""


def choose(mask: Mask, a: Evaluation, b: Evaluation) -> Evaluation:
    """Of each problem the evaluation `a` where the mask holds, else `b`."""
    if mask.all():
        return a
    if not mask.any():
        return b
    x, egrad, grad = (
        where(mask, p, q) for p, q in ((a.x, b.x), (a.egrad, b.egrad), (a.grad, b.grad))
    )
    value, norm, scale, slope = (
        np.where(mask, p, q)
        for p, q in (
            (a.value, b.value),
            (a.norm, b.norm),
            (a.scale, b.scale),
            (a.slope, b.slope),
        )
    )
    return Evaluation(x, value, egrad, grad, norm, scale, slope)


_Graph = tuple[Tensor, list[Tensor], list[Tensor]]


class Problem:
    """A cost on `points`, differentiated by autograd.

    Args:
        structure: the cost, as a function of the tensors of a point; it returns one real number for
            each problem, a tensor of the shape `points.batch`.
        points: where they lie.

    Attributes:
        nfev, njev, nhev: calls of the cost, gradients and Hessian–vector products so far, for each
            problem: integers of the shape batch. A difference of gradients that stands for a
            Hessian–vector product counts as a value and a gradient.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import Points, Problem
        >>> from riemopt.solvers.structure import structure_of
        >>> x, f = torch.tensor([1.0, 0.0]), lambda x: 3 * x[0] + 4 * x[1]
        >>> problem = Problem(structure_of(f, x, Sphere()), Points([x], [Sphere()]))
        >>> problem.evaluate(x).grad, problem.nfev.item()
        (tensor([0., 4.]), 1)
    """

    has_gradient = True

    def __init__(self, structure: Structure, points: Points) -> None:
        self.points = points
        self._structure = structure
        self.nfev = np.zeros(points.batch, dtype=np.int64)
        self.njev = self.nfev.copy()
        self.nhev = self.nfev.copy()
        self.all: Mask = np.ones(points.batch, dtype=bool)
        self.keeps_graph = False
        """Whether evaluations record what Hessians need; second-order methods set it."""
        self.has_hessian = True
        """False once a Hessian was not to be had: differences of gradients take its place."""
        # x, leaves and gradients of the latest evaluation, and of the point of the latest Hessian.
        self._tried = False
        self._graph: _Graph | None = None
        self._base: _Graph | None = None
        self.small: Numbers = np.zeros(points.batch)
        """The gradient norm at which the run stops: methods that solve equations for a step need no
        smaller residual. Set by the loop."""
        self._magnitude, self._weight = np.zeros(points.batch), 0.0

    # --- values and gradients ---

    def value(self, x: Tensor, active: Mask | None = None) -> Numbers:
        """f(x) alone, for methods without gradients and searches that need no more."""
        self.nfev += self.all if active is None else active
        self._graph = None
        with torch.no_grad():
            leaves = self._structure.leaves(self.points.unpack(x))
            (value,) = host(self._cost(leaves))
        return _or_inf(value)

    def evaluate(
        self,
        x: Tensor,
        active: Mask | None = None,
        velocity: Tensor | None = None,
    ) -> Evaluation:
        """f, its gradient and its norm at x.

        Args:
            x: points.
            active: for which problems this counts; None for all.
            velocity: of a trial on a curve, that at x, see `Points.curve`: it gives the slope.

        Raises:
            ValueError, TypeError: what `fun` returns is no real number for each problem, or does
                not depend on the point by autograd.
        """
        active = self.all if active is None else active
        self.nfev += active
        self.njev += active
        value, egrad = self._differentiate(x)
        return self._evaluation(x, value, egrad, velocity)

    @outside_autocast
    def _evaluation(
        self, x: Tensor, value: Tensor, egrad: Tensor, velocity: Tensor | None
    ) -> Evaluation:
        points = self.points
        grad = points.egrad2rgrad(x, egrad)
        square = points.inner(x, grad, grad)
        scalars = [value.to(square.dtype), square]
        if points.is_ambient:
            scalars.append(torch.linalg.vecdot(egrad, egrad))
        if velocity is not None:
            if points.is_ambient:  # the gradient is tangent already
                scalars.append(torch.linalg.vecdot(grad, velocity))
            else:
                scalars.append(torch.linalg.vecdot(egrad, points.proj_tangent(x, velocity)))
        numbers = host(*scalars)
        norm = np.sqrt(np.maximum(numbers[1], 0))
        scale = np.sqrt(numbers[2]) if points.is_ambient else norm
        slope = numbers[-1] if velocity is not None else np.full_like(norm, np.nan)
        bad = ~np.isfinite(norm)
        return Evaluation(
            x, np.where(bad, np.inf, _or_inf(numbers[0])), egrad, grad, norm, scale, slope
        )

    def _differentiate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f, and its Euclidean gradient as a vector; keeps the graph for Hessians if asked to."""
        self._graph = None
        with torch.inference_mode(False), torch.enable_grad():
            parts = self._structure.leaves(self.points.unpack(x))
            value = self._cost(parts)
            if not value.requires_grad:
                raise ValueError(
                    "The cost does not depend on the point by autograd: is there a detach(), "
                    ".item(), torch.no_grad() or NumPy in it, or is it constant? Methods that need "
                    "no gradient are 'nelder-mead' and 'particle-swarm'."
                )
            grads = torch.autograd.grad(
                value.sum(),
                parts,
                create_graph=self.keeps_graph and self.has_hessian,
                allow_unused=True,
                materialize_grads=True,
            )
        if self.keeps_graph and self.has_hessian:
            self._graph = x, parts, list(grads)
        return value.detach(), self.points.pack([g.detach() for g in grads])

    def _cost(self, leaves: list[Tensor]) -> Tensor:
        """The cost of the tensors of a point, one number for each problem."""
        return self._checked(self._structure.cost(leaves))

    def _checked(self, value: Tensor) -> Tensor:
        batch = self.points.batch
        if not isinstance(value, Tensor):
            raise TypeError(
                f"The cost must return a tensor, by which it can be differentiated; got "
                f"{type(value).__name__}."
            )
        if value.is_complex() or not value.is_floating_point():
            raise ValueError(f"The cost must be real; got a tensor of {value.dtype}.")
        if tuple(value.shape) != batch:
            if not batch and value.numel() == 1:
                return value.reshape(())
            one = "one number" if not batch else f"one number for each problem, of shape {batch}"
            hint = (
                ". Sum or average it"
                if not batch
                else "; sum over all dimensions but the first batch_ndim"
            )
            if not batch and value.ndim:
                hint += "; for independent problems say batch_ndim=1"
            raise ValueError(f"The cost must be {one}; got the shape {tuple(value.shape)}{hint}.")
        return value

    # --- Hessians ---

    def hessian(self, here: Evaluation, active: Mask | None = None) -> Hessian:
        """The Riemannian Hessian at `here` as a function of tangent vectors.

        By double backward and `ehess2rhess`. Where autograd or a manifold has no second derivative,
        by differences of Riemannian gradients, of which one more is taken for each product.

        Args:
            here: the latest evaluation; for another one the gradient is taken once more.
            active: for which problems products count; None for all.
        """
        active = self.all if active is None else active
        graph = self._graph_at(here, active) if self.has_hessian else None
        if graph is None:
            return lambda u: self._difference(here, u, active)

        def product(u: Tensor) -> Tensor:
            self.nhev += active
            return self._second_derivative(graph, here, u)

        return product

    def _graph_at(self, here: Evaluation, active: Mask) -> _Graph | None:
        """That of the gradient at `here`; None where it has no derivative."""
        self.keeps_graph = True
        base = None if self._structure.overwrites else self._base
        known = [g for g in (self._graph, base) if g is not None and g[0] is here.x]
        if not known:
            self.nfev += active
            self.njev += active
            self._differentiate(here.x)
            known = [g for g in (self._graph,) if g is not None]
        self._base = known[0]
        if not self._tried:
            self._tried = True
            self.has_hessian = self._can_be_differentiated(known[0], here, active)
        if not self.has_hessian:
            self._graph = self._base = None
        return self._base

    def _can_be_differentiated(self, graph: _Graph, here: Evaluation, active: Mask) -> bool:
        """Whether autograd and the manifolds have the second derivative.

        A gradient that records nothing may be that of a linear cost, or come from a function whose
        backward pass cannot be differentiated: whether it is the same elsewhere tells.
        """
        try:
            self._second_derivative(graph, here, torch.zeros_like(here.x))
        except (NotImplementedError, RuntimeError):
            return False
        if all(g.requires_grad for g in graph[2]):
            return True
        generator = torch.Generator(here.x.device).manual_seed(0)
        u = self.points.random_tangent(here.x, generator)
        (square,) = host(self.points.inner(here.x, u, u))
        length = 1e-2 / np.sqrt(np.where(square > 0, square, 1))
        there = self.evaluate(self.points.retract(here.x, times(length, u)), active)
        constant = [not g.requires_grad for g in graph[2]]
        pairs = zip(self.points.unpack(here.egrad), self.points.unpack(there.egrad), strict=True)
        return all(
            torch.allclose(a, b, rtol=1e3 * self.points.eps, atol=1e3 * self.points.eps)
            for (a, b), same in zip(pairs, constant, strict=True)
            if same
        )

    def _second_derivative(self, graph: _Graph, here: Evaluation, u: Tensor) -> Tensor:
        _, parts, grads = graph
        pairs = [
            (g, v) for g, v in zip(grads, self.points.unpack(u), strict=True) if g.requires_grad
        ]
        if pairs:
            along, given = zip(*pairs, strict=True)
            second = torch.autograd.grad(
                along,
                parts,
                grad_outputs=given,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            h = self.points.pack(second)
        else:  # a linear cost
            h = torch.zeros_like(u)
        return self._converted(here, h, u)

    @outside_autocast
    def _converted(self, here: Evaluation, h: Tensor, u: Tensor) -> Tensor:
        # Formulas hold of tangent u, and may enlarge what rounding has left of a normal part: it
        # would grow from each vector of a Krylov space to the next.
        product = self.points.ehess2rhess(here.x, here.egrad, h, u)
        return self.points.proj_tangent(here.x, product)

    def _difference(self, here: Evaluation, u: Tensor, active: Mask) -> Tensor:
        """(grad f(y) brought back to x - grad f(x))/t, y a step of t·u away."""
        points = self.points
        norm = np.sqrt(np.maximum(host(points.inner(here.x, u, u))[0], 0))
        t = points.eps ** (1 / 3) / np.where(norm > 0, norm, 1)
        forth, back = (self.evaluate(points.retract(here.x, times(s, u)), active) for s in (t, -t))
        carried = [points.transport(e.x, here.x, e.grad) for e in (forth, back)]
        return times(0.5 / t, carried[0] - carried[1])

    # --- rounding ---

    def note(self, here: Evaluation) -> None:
        """Take the value of a new iterate into the running mean of magnitudes."""
        # The weights of Hager & Zhang (2005), §2: the past counts less and less.
        self._weight = 1 + 0.7 * self._weight
        self._magnitude = self._magnitude + (np.abs(here.value) - self._magnitude) / self._weight

    @property
    def rounding(self) -> Numbers:
        """Differences of values below this are rounding."""
        return 10 * self.points.eps * self._magnitude


def _or_inf(value: Numbers) -> Numbers:
    return np.where(np.isnan(value), np.inf, value)

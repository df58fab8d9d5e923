"""The contract of a manifold.

A manifold is a *description*: frozen, hashable, equal by value, and on no device. A point is an
ordinary tensor; its last `event_ndim` dimensions are one point and all leading dimensions are a
batch. Five methods are required (`proj_tangent`, `retract`, `project`, `violation`, `check_shape`)
and `dim`; everything else has a default built from them. Implementations are final: they inherit
from `Manifold` alone. Decorate one with `@dataclass(frozen=True, repr=False)`: equality and hash by
value are what lets an optimizer step equal manifolds together.

    @dataclass(frozen=True)
    class Simplex(Manifold):
        ...
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from riemopt import linalg
from riemopt.manifolds.elsewhere import advice_for, hint_for
from riemopt.manifolds.renamed import RENAMED, adopt_overrides, by_old_name

_COMPUTES = (
    "proj_tangent",
    "retract",
    "project",
    "round_point",
    "violation",
    "egrad2rgrad",
    "ehess2rhess",
    "carry",
    "carry_mean",
    "after_move",
    "inner",
    "norm",
    "transport",
    "parallel_transport",
    "geodesic",
    "curve",
    "curve_with_fraction",
    "spectral_direction",
    "spectral_curve",
    "random_point",
    "random_tangent",
    "exp",
    "log",
    "dist",
    "tolerance",
    "linearised_at",
    "prepare",
    "invariants",
)
"""The methods of the contract that compute with tensors."""


def _compute_outside_autocast(cls: type) -> None:
    for name in _COMPUTES:
        method = cls.__dict__.get(name)
        if callable(method):
            setattr(cls, name, linalg.outside_autocast(method))


class Manifold(ABC):
    """A smooth set of tensors with a tangent space at every point and a way to move along it.

    Letters: `x, y` points, `u, v` tangent vectors at `x`, `g` an ambient (Euclidean) gradient, `a`
    any tensor of the ambient space; all of shape `(*batch, *event)`. Unless a class says otherwise
    the metric is the ambient one, ⟨u, v⟩ = Re Σ conj(u)·v.

    No method used in an optimizer's step (all but `project`, `random_point`, `exp`, `log`, `dist`)
    may synchronise with the host on an accelerator. All compute as if no `torch.autocast` were
    around the call; a class that inherits from this one need do nothing for that.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Sphere
        >>> sphere, x, g = Sphere(), torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0])
        >>> sphere.proj_tangent(x, g)
        tensor([0., 4.])
        >>> sphere.retract(x, torch.tensor([0.0, 1.0]))
        tensor([0.7071, 0.7071])
        >>> sphere.project(g)
        tensor([0.6000, 0.8000])
        >>> sphere.violation(x), sphere.dim(x.shape)
        (tensor(0.), 1)
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        adopt_overrides(cls)
        _compute_outside_autocast(cls)

    @property
    @abstractmethod
    def event_ndim(self) -> int:
        """Number of dimensions that make one point: the last ones, unless a class says otherwise.

        Code for any manifold asks `event_dims(ndim)`, which is right for `Sphere(dim=0)` too.
        """

    @property
    def dims_are_explicit(self) -> bool:
        """True where options say which dimensions make a point, or of what shape it is.

        `constrain` asks it when a convolution kernel is put on a manifold: it refuses to take each
        kh×kw slice, or each row of one, for a point unless the user has said so.
        """
        return False

    @property
    def is_constraint(self) -> bool:
        """False where every tensor is a point, so that plain Euclidean steps are right."""
        return True

    @property
    def allows_elementwise_scaling(self) -> bool:
        """True for a linear subspace in which Adam's elementwise quotient m/√v stays.

        Optimizers then skip projections, and keep second moments elementwise.
        """
        return False

    @property
    def has_constant_norm(self) -> bool:
        """Whether all points have one ambient norm, so that weight decay has no tangent part."""
        return False

    @property
    def has_ambient_metric(self) -> bool:
        """Whether ⟨u, v⟩ is the ambient inner product, so that one projection converts gradients.

        A manifold that overrides `egrad2rgrad` and has this metric all the same says so.
        """
        return type(self).egrad2rgrad is Manifold.egrad2rgrad

    @property
    def distorts_lengths(self) -> bool:
        """Whether the ambient size of a tangent vector says nothing of its length.

        Their ratio has no bound, and no geodesic ends: so it is in hyperbolic space, where a small
        entry may be a long way, and on `SPD` but in the Bures-Wasserstein metric. Adam's default
        then keeps one second moment for each point, and none for each entry.
        """
        return False

    @property
    def keeps_entries(self) -> bool:
        """Whether some entries may have any value, and no step changes them.

        `project` leaves them too, so that its derivative at a point is not `proj_tangent`.
        """
        return False

    @property
    def extends_metric(self) -> bool:
        """Whether `inner` is one inner product of the whole ambient space, the same at all points.

        If so, it takes the place of Re Σ conj(u)·v wherever the contract says "orthogonal",
        "self-adjoint" or "nearest": in `proj_tangent` and in `project`.
        """
        return False

    @property
    def tangents_may_be_inexact(self) -> bool:
        """Whether optimizers may make tangent vectors by products that round their inputs to TF32.

        So they may where `curve` takes away again what is left of a normal part. Only on devices
        that have TF32; see `linalg.inexact_products`.
        """
        return False

    @property
    def total_space(self) -> "Manifold | None":
        """Of a quotient, the manifold of the tensors that stand for its points; else None.

        Where several tensors stand for one point, as the bases of one subspace, tangent vectors are
        *horizontal*: tangent to the total space, and orthogonal to the set of tensors that stand
        for the point. `proj_tangent` projects on these and `dim` counts them; `project` and
        `violation` are those of the total space (Absil et al. 2008, §3.4 and §3.5.8).
        """
        return None

    def invariants(self, x: Tensor) -> Tensor:
        """What all tensors that stand for the point `x` have in common: `x` itself, if one does.

        Of a quotient a smooth function of `x`, which tells points apart; laws are tried with it.
        """
        return x

    @property
    def margin(self) -> float:
        """How much farther than the nearest point project(a) may be, in multiples of 1 + ‖a‖.

        Not 0 for open sets, as of positive numbers. They have no point that is nearest to what is
        outside, and a step from close to the boundary would begin badly. Nor is it 0 where nearest
        points are found from nearby alone (`SymplecticStiefel`).
        """
        return 0.0

    # --- required ---

    @abstractmethod
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """Orthogonal projection of the ambient `u` on the tangent space at `x`.

        Linear in `u`, idempotent, and self-adjoint in the ambient inner product.
        """

    @abstractmethod
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """Move from `x` along the tangent `u` and return a contiguous point of the manifold.

        `retract(x, t·u) = x + t·u + O(t²)`; for tangent `u` of any size the result is on the
        manifold to rounding.
        """

    @abstractmethod
    def project(self, a: Tensor) -> Tensor:
        """Nearest point of the manifold, in the ambient norm, to any ambient tensor; contiguous."""

    @abstractmethod
    def violation(self, x: Tensor) -> Tensor:
        """Residual of the constraint at each point, in the max-norm; of the batch's shape."""

    @abstractmethod
    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise `ValueError` that says what is needed if tensors of `shape` cannot be points."""

    @abstractmethod
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Degrees of freedom (real numbers) of one point of a tensor of `shape`."""

    def round_point(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The point x in another dtype; optimizers call it when they write a half-precision weight.

        A manifold overrides it where rounding may leave the set: a positive number may become 0. It
        returns points that `dtype` holds exactly as they are.
        """
        return x.to(dtype)

    # --- geometry, from the above ---

    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        """Riemannian gradient of a function whose Euclidean gradient at `x` is `g`."""
        return self.proj_tangent(x, g)

    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """Riemannian Hessian along the tangent `u`: the covariant derivative of the gradient.

        Second-order solvers call it. The default is that of the ambient metric,
        P(h + D⟨g, P u⟩), where P is the projection at x and D the derivative with respect to x: the
        Weingarten map (Absil, Mahony & Trumpf 2013, eq. 7), which is symmetric, by one derivative
        of `proj_tangent`. A manifold with another metric overrides it, by the acceleration of its
        geodesics, say: see `Stiefel.ehess2rhess`.

        Args:
            x: points.
            g: Euclidean gradient at x.
            h: Euclidean Hessian times u, a vector of the ambient space.
            u: tangent vectors at x.

        Raises:
            NotImplementedError: the metric is not the ambient one, and the class has no formula.
        """
        if not self.has_ambient_metric:
            self._no_closed_form("ehess2rhess", "differences of gradients along `retract` agree")
        if self.allows_elementwise_scaling:  # a linear subspace, whose projection is one for all x
            return self.proj_tangent(x, h)
        return self.proj_tangent(x, h + linalg.derivative_of_inner(g, self.proj_tangent, x, u))

    def carry(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor, weight: float | Tensor
    ) -> Tensor:
        """Momentum at `x`: decay·(m brought to x) + weight·grad.

        Optimizers with momentum call it once a step. `m` is tangent where the last step started,
        `g` the Euclidean gradient at `x`. In the ambient metric one projection does both parts.
        """
        if self.has_ambient_metric:
            return self.proj_tangent(x, linalg.combine(m, g, decay, weight))
        return decay * self.proj_tangent(x, m) + weight * self.egrad2rgrad(x, g)

    def carry_mean(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """`carry` with the weights of a running mean, and how long the gradient is.

        Adam with one second moment for each point calls it once a step. A manifold overrides it
        where the two parts share work.

        Returns:
            decay·(m brought to x) + (1 - decay)·grad, and ‖grad‖² with event dimensions of size 1.
        """
        grad = self.egrad2rgrad(x, g)
        mean = linalg.average(grad, self.proj_tangent(x, m), decay)
        return mean, self.inner(x, grad, grad, keepdim=True)

    def after_move(self, x: Tensor, y: Tensor, m: Tensor) -> Tensor:
        """What is kept of the momentum `m`, tangent at `x`, when the point has moved to `y`.

        Optimizers call it at the end of a step. The default is `m` itself, for `carry` projects it
        when the next step starts. In a metric that changes from point to point this would not keep
        the length of a vector; such a manifold returns `transport(x, y, m)`.
        """
        return m

    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        """Riemannian inner product of tangents at each point; the batch's shape, real.

        With `keepdim` the event dimensions stay, with size 1, so that it broadcasts to `x`.
        """
        return linalg.inner(u, v, self.event_dims(x.ndim), keepdim=keepdim)

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """Riemannian norm √⟨u, u⟩ at each point; its autograd gradient at u = 0 is 0, not NaN."""
        squared = self.inner(x, u, u, keepdim=keepdim)
        positive = squared > 0
        return torch.where(positive, squared, 1).sqrt() * positive

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Carry the tangent `v` at `x` to `y`, by projection (Absil et al. 2008, §8.1.3)."""
        return self.proj_tangent(y, v)

    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Carry the tangent `v` at `x` to `y` along the shortest geodesic: it keeps lengths."""
        self._no_closed_form("parallel_transport", "`transport` carries vectors by projection")

    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        """`retract(x, t·u)`: the retraction's curve along the tangent `u`, at the parameter `t`.

        Optimizers move points by it. `t` is a number, or a tensor that broadcasts to one number for
        each point. A manifold overrides it to save the pass over memory that t·u costs.
        """
        return self.retract(x, t * u)

    def curve_with_fraction(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """`curve(x, u, t)`, and what part of the step t·u was taken.

        None where a retraction takes any step whole, as most do. Otherwise a tensor of the batch's
        shape with entries in [0, 1]: a point for which the way back to the manifold is not found
        takes less of the step, or stays where it is.
        """
        return self.curve(x, u, t), None

    # --- steps in the spectral norm ---

    def spectral_shape(self, shape: Sequence[int]) -> tuple[int, int] | None:
        """Rows and columns of the matrices, in a tensor of `shape`, of `spectral_direction`.

        None where it is not for them: `RiemannianMuon` steps such points by AdamW.
        """
        return None

    def spectral_direction(
        self, x: Tensor, m: Tensor, steps: int = 6, *, eps: float = 1e-7, exact: bool = True
    ) -> Tensor:
        """A tangent Φ with ‖Φ‖₂ about 1 along which Re⟨m, Φ⟩ is large: the step of Muon.

        P·msign(P·m), P the projection at x and msign(USVᴴ) = UVᴴ: Re⟨m, Φ⟩ is the sum of the
        singular values of P·m, and 0 for m = 0 alone if m is tangent. A manifold overrides it
        where the largest value with ‖Φ‖₂ ≤ 1 is known.

        Args:
            x: points, matrices in the last two dimensions.
            m: any tensor of the ambient space, such as a momentum of Euclidean gradients.
            steps: of the iteration that makes msign; see `riemopt.linalg.msign`.
            eps: norm of the tangent part of m below which Φ is shorter.
            exact: False for the formula above on manifolds that have a better one.
        """
        return self.proj_tangent(x, linalg.msign(self.proj_tangent(x, m), steps, eps))

    def spectral_curve(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """`curve_with_fraction`, for a `u` that is a `spectral_direction`.

        A manifold overrides it where the way back from such a step is shorter.
        """
        return self.curve_with_fraction(x, u, t)

    def random_point(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """A random point (or batch) of `shape`: the projection of a standard normal tensor.

        That is uniform on spheres, Stiefel manifolds and all others whose projection commutes with
        the group that acts on them.
        """
        self.check_shape(shape)
        return self.project(torch.randn(*shape, generator=generator, dtype=dtype, device=device))

    def random_tangent(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """A standard normal vector of the tangent space at `x`."""
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return self.proj_tangent(x, noise)

    # --- where a closed form exists ---

    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """Point reached by the geodesic from `x` with velocity `u` at time 1."""
        self._no_closed_form("exp", "`retract` moves along `u` to first order or better")

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """Tangent `u` at `x` of least length with `exp(x, u) = y`."""
        self._no_closed_form("log", "`proj_tangent(x, y - x)` agrees with it to first order")

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """Geodesic distance between points; the batch's shape."""
        self._no_closed_form(
            "dist", "the ambient distance of x and y agrees with it to first order"
        )

    def geodesic(self, x: Tensor, y: Tensor, t: float | Tensor) -> Tensor:
        """The shortest geodesic from `x` at t = 0 to `y` at t = 1: `exp(x, t·log(x, y))`.

        `t` is a number, or a tensor that broadcasts to one number for each point.
        """
        return self.exp(x, t * self.log(x, y))

    def _no_closed_form(self, method: str, alternative: str) -> NoReturn:
        raise NotImplementedError(f"{self!r} has no closed-form {method}; {alternative}.")

    # --- numbers ---

    def constant_norm(self, shape: Sequence[int]) -> float:
        """The ambient norm of each point of a tensor of `shape`, where `has_constant_norm`."""
        raise NotImplementedError(f"Points of {self!r} have no norm that is known.")

    def is_discrete(self, shape: Sequence[int], *, is_complex: bool = False) -> bool:
        """Whether points of a tensor of `shape` are isolated, so that no step can move them.

        `constrain` refuses them. A manifold overrides it where `dim` is expensive.
        """
        return self.dim(shape, is_complex=is_complex) == 0

    def tolerance(self, x: Tensor) -> Tensor:
        """The `violation` that rounding explains: 10·eps·√n·max(1, max |x|); the batch's shape.

        n is the longest side of a point and eps that of the tensor's dtype.
        """
        dims = self.event_dims(x.ndim)
        size = x.abs().amax(dims) if dims else x.abs()
        side = max([x.shape[d] for d in dims] or [1])
        return 10 * torch.finfo(x.dtype).eps * side**0.5 * size.clamp(min=1)

    # --- layout ---

    def event_dims(self, ndim: int) -> tuple[int, ...]:
        """The dimensions, counted from the end, that make one point of a tensor with `ndim`."""
        return tuple(range(-self.event_ndim, 0))

    def of_single_rows(self) -> tuple["Manifold", tuple[int, ...]]:
        """Where single rows of a table `(…, n, *row)` lie, and the numbers of rows that stay.

        Optimizers call it for a parameter with a sparse gradient, of which they step the touched
        rows alone. A manifold overrides it that tells rows apart.
        """
        return self, ()

    def linearised_at(self, x: Tensor) -> "Manifold":
        """The same manifold, for several calls with this very tensor `x`.

        Optimizers call it at the start of each step. A manifold whose methods share work at one
        point, such as a factorisation, returns a copy of itself that keeps it.
        """
        return self

    def fitted_to(self, x: Tensor) -> "Manifold":
        """The same manifold, with what it leaves to the weight `x`: `Sphere(radius="init")`.

        `constrain` and `ManifoldParameter` call it with the value that is about to be projected.
        """
        return self

    def with_dims_from_end(self, ndim: int) -> "Manifold":
        """The same manifold for tensors of `ndim`, still valid when a batch is put in front.

        Optimizers call it when they are given a parameter, since they step stacks of parameters. A
        manifold that counts dimensions from the front returns one that counts from the end.
        """
        return self

    def prepare(self, x: Tensor) -> None:  # noqa: B027
        """Do what steps on tensors like `x` need once: copy constants to its device.

        Optimizers call it when they are given a parameter, so that no step waits for a copy.
        """

    def __repr__(self) -> str:
        """The constructor call, without options that have their default."""
        if not dataclasses.is_dataclass(self):
            return f"{type(self).__name__}()"
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        options = [f"{name}={v!r}" for name, v in values.items() if v != defaults[name]]
        return f"{type(self).__name__}({', '.join(options)})"

    if not TYPE_CHECKING:  # for a type checker no attribute but those above exists

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):  # what copy and pickle ask for; torch.compile follows them
                raise AttributeError(name)
            if name in RENAMED:
                return by_old_name(self, name)
            advice = advice_for(name)
            if advice is not None:
                message = f"{type(self).__name__} has no {name!r}; {advice}."
                raise AttributeError(message, name=name, obj=self)
            return object.__getattribute__(self, name)  # raises, by the words of a property

    def _reject(self, shape: Sequence[int], need: str, advice: str = "") -> NoReturn:
        raise ValueError(f"{self!r} needs {need}; got a tensor of shape {tuple(shape)}.{advice}")

    def _check_real(self, a: Tensor) -> None:
        if a.is_complex():
            raise ValueError(f"{self!r} needs real tensors; got {a.dtype}.")

    def _check_square(self, shape: Sequence[int]) -> None:
        if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0:
            self._reject(shape, "square matrices (*batch, n, n) with n ≥ 1")


_compute_outside_autocast(Manifold)


def require_manifold(given: Any, what: str = "A manifold instance") -> Manifold:
    """`given`; `TypeError` that says what to write if it is no instance of `Manifold`."""
    if isinstance(given, Manifold):
        return given
    shown = f"a tensor of shape {tuple(given.shape)}" if isinstance(given, Tensor) else repr(given)
    raise TypeError(f"{what} is needed, such as Stiefel(); got {shown}{hint_for(given)}.")

"""Any constraint: the set where a function of the user's is zero."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import HALF, can_be_read, exact_products, upcast
from riemopt.manifolds.base import Manifold
from riemopt.manifolds.level_set import conditioning, nearest, newton, smoothness
from riemopt.manifolds.level_set.equations import Equations, PointFunction, follow, name_of
from riemopt.manifolds.level_set.normal_space import NormalSpace, normal_space, rank

# How many random tensors are tried as the start of a random point.
_DRAWS = 10
# Points of more entries are not looked at by `is_discrete`.
_FEW_ENTRIES = 64
# At how many random points the dimension is looked at.
_SAMPLES = 3


class _Linearised(NamedTuple):
    """The equations at one point, kept for several calls."""

    point: Tensor
    space: NormalSpace


@final
@dataclass(frozen=True, init=False, repr=False)
class LevelSet(Manifold):
    """{x : c(x) = 0} for functions `c` of one point, written in torch; all else is by autograd.

        LevelSet(lambda x: x.square().sum() - 1)                    the sphere, x of any shape
        LevelSet(lambda x: x.square().sum() - 1, torch.sum)         ... cut by a plane
        LevelSet(lambda x: x.square().sum() - 1, event_ndim=1)      each row of a matrix
        LevelSet(lambda x, B=B: x.mT @ B @ x - torch.eye(3))        XᵀBX = I

    Args:
        constraints: each takes one point and returns a tensor of any shape that is zero on the
            manifold. It must be differentiable by torch's own operators, or functions that
            `torch.func` takes; where there are several points, fit for `torch.vmap`, and where
            there are 2 to `dense_up_to` equations, so must be its derivative: no value read on
            the host, no writing in place. Equations may be redundant. Tensors that it closes over,
            or has as default arguments, are taken as constants, and follow the points' device and
            precision; tensors in global variables must fit, or raise `ValueError`.
        event_ndim: dimensions of one point, the last ones; None takes the whole tensor as one.
        dense_up_to: up to so many equations, J is formed and JJᵀ factored, and their scales may
            differ (by 1e6 in float32); from there on products with J and conjugate gradients do,
            made for equations of one scale.
        cg_iterations: of conjugate gradients; None lets them run until the residual is small, or,
            where that cannot be read without a synchronisation, takes as many as have been seen to
            be exact when the weight came in, and 8 if there is no such number. One is enough on
            spheres and Stiefel manifolds.

    Dimension: n - rank J for n entries a point, J = Dc(x).

    Metric: the ambient one. The tangent space at x is the kernel of J. An `lr` times a gradient
    with entries of size 1 moves entries by about `lr`.

    Step: along the tangent, and back by Newton's iteration in the normal space, of second order
    (Absil & Malick 2012). Where it does not come back, or the surface bends too much, the step is
    shortened, down to nothing: every point stays on the manifold, and `curve_with_fraction` and
    `optimizer.shortened_steps` tell.

    Cost: about four times that of a manifold of the catalogue for the same set.

    For: any smooth equation, or several at once, that no class here has.

    Not for: inequalities, or sets with corners or of changing dimension.

    c must be smooth where it is zero, which norms, absolute values and singular values are not if
    they vanish there, and J of the same rank everywhere, which is not so of (‖x‖² - 1)², whose J is
    0 on the set. Else it is refused when a weight is put on it.

    Two level sets are equal if they hold the same function objects, with equal options.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import LevelSet
        >>> ellipse = LevelSet(lambda x: (x / torch.tensor([2.0, 1.0])).square().sum() - 1)
        >>> ellipse.project(torch.tensor([3.0, 0.0]))
        tensor([2., 0.])
        >>> ellipse.dim((2,))
        1
    """

    constraints: tuple[PointFunction, ...]
    points_ndim: int | None
    dense_up_to: int
    cg_iterations: int | None

    if TYPE_CHECKING:  # no fields, as they are no part of the description
        _followed: dict[Any, list[PointFunction]]
        _discrete: dict[tuple[tuple[int, ...], bool], bool]
        _here: _Linearised | None
        _admitted: set[tuple[tuple[int, ...], bool]]
        _enough: dict[tuple[tuple[int, ...], bool], int | None]

    def __init__(
        self,
        *constraints: PointFunction,
        event_ndim: int | None = None,
        dense_up_to: int = 32,
        cg_iterations: int | None = None,
    ) -> None:
        if not constraints or not all(map(callable, constraints)):
            given = ", ".join(map(repr, constraints)) or "none"
            raise TypeError(f"LevelSet needs one or more functions of a point; got {given}.")
        hash(constraints)  # as manifolds are compared and counted: TypeError here, not later
        for name, value, least in (
            ("event_ndim", event_ndim, 0),
            ("dense_up_to", dense_up_to, 0),
            ("cg_iterations", cg_iterations, 1),
        ):
            if value is not None and (not isinstance(value, int) or value < least):
                raise ValueError(f"LevelSet needs {name} ≥ {least}; got {value!r}.")
        values: dict[str, Any] = {
            "constraints": constraints,
            "points_ndim": event_ndim,
            "dense_up_to": dense_up_to,
            "cg_iterations": cg_iterations,
            "_followed": {},
            "_discrete": {},
            "_here": None,
            "_admitted": set(),
            "_enough": {},
        }
        for name in values:
            object.__setattr__(self, name, values[name])

    def __repr__(self) -> str:
        parts = [name_of(c) for c in self.constraints]
        for name, value, default in (
            ("event_ndim", self.points_ndim, None),
            ("dense_up_to", self.dense_up_to, 32),
            ("cg_iterations", self.cg_iterations, None),
        ):
            parts += [f"{name}={value}"] * (value != default)
        return f"LevelSet({', '.join(parts)})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "LevelSet":
        # A copied model lies on the same manifold: the functions, and what they hold, are shared.
        return self

    def __reduce__(self) -> Any:
        options: dict[str, Any] = {
            "event_ndim": self.points_ndim,
            "dense_up_to": self.dense_up_to,
            "cg_iterations": self.cg_iterations,
        }
        return partial(LevelSet, **options), self.constraints

    def _with(self, **changes: Any) -> "LevelSet":
        """The same, but for some attributes; it shares what has been copied to devices."""
        other = object.__new__(LevelSet)
        for name, value in {**vars(self), **changes}.items():
            object.__setattr__(other, name, value)
        return other

    # --- layout ---

    @property
    def event_ndim(self) -> int:
        """Dimensions of one point; `AttributeError` where the whole tensor is one."""
        if self.points_ndim is None:
            raise AttributeError("This LevelSet takes all dimensions of the tensor it is given.")
        return self.points_ndim

    @override
    def event_dims(self, ndim: int) -> tuple[int, ...]:
        return tuple(range(-(ndim if self.points_ndim is None else self.points_ndim), 0))

    @override
    def with_dims_from_end(self, ndim: int) -> "LevelSet":
        return self if self.points_ndim is not None else self._with(points_ndim=ndim)

    @override
    def linearised_at(self, x: Tensor) -> "LevelSet":
        if x.numel() == 0:
            return self
        c = self._equations(x)
        return self._with(_here=_Linearised(x, self._linearise(c, c.flatten(x))))

    def prepare(self, x: Tensor) -> None:
        """Copy what the functions hold to the device of `x`, and call them once.

        Raises:
            ValueError: as `project`, but for points that are not found: these do not move in steps.
        """
        x = x.detach().float() if x.dtype in HALF else x.detach()
        c = self._equations(x)
        if not x.numel() or hasattr(x, "placements"):
            return
        with torch.no_grad():
            c(c.flatten(x)[:1])  # a wrong function fails here, not in a step
            if c.kind not in self._admitted and can_be_read(x) and x.isfinite().all():
                self._reach(x, admit=True)

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        if len(shape) < (self.points_ndim or 0):
            self._reject(shape, f"at least event_ndim={self.points_ndim} dimensions")
        if 0 in self._event(shape):
            self._reject(shape, "at least one entry along each dimension of a point")

    def _event(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape[len(shape) - len(self.event_dims(len(shape))) :])

    def _batch(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape[: len(shape) - len(self.event_dims(len(shape)))])

    # --- c and J on batches of vectors ---

    def _equations(self, x: Tensor) -> Equations:
        if not (x.is_floating_point() or x.is_complex()):
            raise TypeError(f"{self!r} needs floating-point or complex tensors; got {x.dtype}.")
        dtype = x.real.dtype if x.is_complex() else x.dtype
        key = x.device, dtype
        if key not in self._followed:
            with torch.inference_mode(False):  # what it makes is kept
                self._followed[key] = [follow(c, x.device, dtype) for c in self.constraints]
        return Equations(self._followed[key], self._event(x.shape), is_complex=x.is_complex())

    def _linearise(self, c: Equations, vectors: Tensor, *others: Any) -> NormalSpace:
        # Conjugate gradients end where the solution is right, but not yet its derivative.
        few = sys.maxsize if _recorded(vectors, *others) else self.dense_up_to
        iterations, enough = self.cg_iterations, self._enough.get(c.kind)
        return normal_space(c, vectors, few=few, iterations=iterations, enough=enough)

    def _space(self, x: Tensor, c: Equations, vectors: Tensor, *others: Any) -> NormalSpace:
        """The normal space at x; `others` are the arguments besides x."""
        here = self._here
        if here is not None and here.point is x and not _recorded(*others):
            return here.space
        return self._linearise(c, vectors, *others)

    # --- the contract ---

    @exact_products
    @upcast
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The projection u - J⁺Ju."""
        if x.numel() == 0:
            return u
        c = self._equations(x)
        space = self._space(x, c, c.flatten(x), u)
        return c.unflatten(space.tangent(c.flatten(u)), x)

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """The point x + u, brought back by Newton's iteration; less of u where that fails."""
        return self.curve_with_fraction(x, u, 1.0)[0]

    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        """The point x + t·u, brought back."""
        return self.curve_with_fraction(x, u, t)[0]

    @exact_products
    def curve_with_fraction(self, x: Tensor, u: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """`curve(x, u, t)`, and what part of t·u was taken, in [0, 1] and of the batch's shape."""
        if x.dtype in HALF:
            y, taken = self.curve_with_fraction(x.float(), u.float(), t)
            return y.to(x.dtype), taken
        batch = self._batch(x.shape)
        if x.numel() == 0:
            return x.clone(), x.real.new_ones(batch)
        c = self._equations(x)
        vectors = c.flatten(x)
        if isinstance(t, Tensor) and t.ndim:  # one number for each point
            t = t.broadcast_to(*batch, *[1] * (x.ndim - len(batch))).reshape(-1, 1)
        y, taken = newton.land(
            c,
            lambda: self._space(x, c, vectors, u, t),
            vectors,
            c.flatten(u),
            t,
            lambda y: self._linearise(c, y),
        )
        return c.unflatten(y, x).contiguous(), taken.reshape(batch)

    @exact_products
    @upcast
    def violation(self, x: Tensor) -> Tensor:
        """max |c(x)| of each point."""
        batch = self._batch(x.shape)
        if x.numel() == 0:
            return x.real.new_zeros(batch)
        c = self._equations(x)
        return c(c.flatten(x)).abs().amax(1).reshape(batch)

    def tolerance(self, x: Tensor) -> Tensor:
        """10·eps·‖x‖·‖Jᵢ‖: what rounding the entries of x makes of cᵢ, tenfold.

        Of equations of different scales it is what `violation` exceeds where one of them exceeds
        its own, and only there.
        """
        batch = self._batch(x.shape)
        if x.numel() == 0:
            return x.real.new_zeros(batch)
        full = x.float() if x.dtype in HALF else x
        c = self._equations(full)
        vectors = c.flatten(full)
        size = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        space = self._linearise(c, vectors)
        limits, violations = 10 * torch.finfo(x.dtype).eps * size * space.sizes(), space.value.abs()
        worst = (violations / limits).nan_to_num(nan=0.0).amax(1)
        tolerance = torch.where(worst > 0, violations.amax(1) / worst, limits.amax(1))
        return tolerance.reshape(batch)

    @exact_products
    @upcast
    def project(self, a: Tensor) -> Tensor:
        """A point of the manifold at which the distance from `a` is stationary.

        Newton leads from `a` to the manifold, and descent of the distance along it from there on:
        to the nearest point where `a` is close. Not for use in a step: it reads on the host.

        Raises:
            ValueError: no point was found, as c has no zero near, or no regular one; or c is not
                smooth where it is zero, has another derivative by autograd than its values have,
                or does not change with x.
        """
        y, found = self._search(a, admit=True)
        self._require(y, found)
        return y

    def _require(self, y: Tensor, found: Tensor) -> None:
        if bool(found.all()):
            return
        worst = self.violation(y).max().item()
        raise ValueError(
            f"{self!r} found no point near {int((~found).sum())} of {found.numel()} tensors of "
            f"shape {self._event(y.shape)}: |c| stays at {worst:.3g}. Start nearer to a solution, "
            "and write c so that its derivative does not vanish where it is zero (‖x‖² - 1, not "
            "its square)."
        )

    def random_point(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """A point near a standard normal tensor; of several tensors, where none is near the first.

        Its distribution has no name. Reads on the host.

        Raises:
            ValueError: as `project`.
        """
        self.check_shape(shape)
        batch = self._batch(shape)

        def draw() -> tuple[Tensor, Tensor]:
            a = torch.randn(shape, generator=generator, dtype=dtype, device=device)
            y, found = self._search(a.float() if a.dtype in HALF else a)
            return y.to(a.dtype), found.reshape((*batch, *[1] * (a.ndim - len(batch))))

        x, found = draw()
        for _ in range(_DRAWS - 1):
            if bool(found.all()):
                break
            again, on_it = draw()
            x, found = torch.where(found, x, again), found | on_it
        self._require(x, found)
        return x

    @exact_products
    def _search(self, a: Tensor, *, admit: bool = False) -> tuple[Tensor, Tensor]:
        """The points next to `a`, and whether they were found; `admit` refuses a c with a fault."""
        if a.numel() == 0:
            batch = self._batch(a.shape)
            return a.clone(), torch.ones(batch, dtype=torch.bool, device=a.device)
        admit = admit and can_be_read(a.detach())
        c, y, found = self._reach(a, admit=admit)
        if bool(found.all()):
            z = nearest.approach(c, y, c.flatten(a), lambda y: self._linearise(c, y))
            if admit and not torch.equal(z, y):
                self._require_smooth(c.unflatten(z, a), found)
            y = z
        return c.unflatten(y, a).contiguous(), found

    @exact_products
    def _reach(self, a: Tensor, *, admit: bool) -> tuple[Equations, Tensor, Tensor]:
        c = self._equations(a)
        vectors = c.flatten(a)
        if can_be_read(a.detach()):
            self._require_recorded(c, vectors[0])
        y, found = nearest.reach(c, vectors, lambda y: self._linearise(c, y))
        if admit:
            self._require_smooth(c.unflatten(y, a), found)
        return c, y, found

    # --- what c has to be ---

    def _require_recorded(self, c: Equations, vector: Tensor) -> None:
        """Raise `ValueError` where a function gives autograd nothing to differentiate."""
        for function in c.unrecorded(vector):
            raise ValueError(
                f"The constraint {name_of(function)} does not depend on the point as autograd sees "
                f"it. It is constant, or leaves torch. {smoothness.IN_TORCH}"
            )

    @torch.no_grad()
    def _require_smooth(self, x: Tensor, found: Tensor) -> None:
        """Raise `ValueError` where c is not smooth at the `found` points; around all if none is."""
        c, vectors = self._in_double(x.detach())
        found = found.reshape(-1)
        reason = smoothness.reason_against(c, vectors, found, lambda y: self._linearise(c, y))
        if reason is not None:
            raise ValueError(
                f"{self!r} is no manifold of points of shape {self._event(x.shape)}: {reason}"
            )
        if bool(found.all()):
            self._admitted.add(c.kind)
            if self.cg_iterations is None and c(vectors[:1]).shape[1] > self.dense_up_to:
                self._enough[c.kind] = conditioning.iterations_enough(
                    c, vectors, lambda y: self._linearise(c, y)
                )

    def _in_double(self, x: Tensor) -> tuple[Equations, Tensor]:
        """The equations and the points in float64, or as they are where c cannot do that."""
        try:
            wide = x.to(torch.complex128 if x.is_complex() else torch.float64)
            c = self._equations(wide)
            c(c.flatten(wide)[:1])
        except (TypeError, ValueError, RuntimeError):
            wide, c = x, self._equations(x)
        return c, c.flatten(wide)

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Entries less the numerical rank of J, at random points in float64.

        Takes the time of some singular value decompositions of J.

        Raises:
            ValueError: as `project`, or the set has parts of different dimensions.
        """
        event = self._event(shape)
        dtype = torch.complex128 if is_complex else torch.float64
        generator = torch.Generator("cpu").manual_seed(0)
        ranks = set()
        for _ in range(_SAMPLES):
            x = self.random_point(*event, generator=generator, dtype=dtype, device="cpu")
            self._require_smooth(x, torch.tensor(True, device="cpu"))
            c = self._equations(x)
            ranks.add(rank(c, c.flatten(x)))
        numbers = math.prod(event) * (1 + is_complex)
        if len(ranks) > 1:
            dims = sorted(numbers - r for r in ranks)
            raise ValueError(
                f"{self!r} has parts of different dimensions at points of shape {event}: {dims}. "
                "Which of them a weight lies on depends on its value."
            )
        return numbers - ranks.pop()

    @override
    def is_discrete(self, shape: Sequence[int], *, is_complex: bool = False) -> bool:
        """Of points of up to 64 entries; `dim` of larger ones takes long, and they have freedom."""
        event = self._event(shape)
        if math.prod(event) > _FEW_ENTRIES or not linalg.can_be_read(torch.zeros(())):
            return False
        key = event, is_complex
        if key not in self._discrete:
            try:
                self._discrete[key] = self.dim(shape, is_complex=is_complex) == 0
            except ValueError:  # no random point was found: the user's may be
                self._discrete[key] = False
        return self._discrete[key]


def _recorded(*given: Any) -> bool:
    """Whether autograd records what is made of these."""
    return torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in given)

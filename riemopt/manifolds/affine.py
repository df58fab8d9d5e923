"""The solutions of linear equations."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import decompositions, exact_products, upcast
from riemopt.manifolds.constant import Constant
from riemopt.manifolds.linear import FlatSubspace


@final
@dataclass(frozen=True, init=False, repr=False)
class AffineSubspace(FlatSubspace):
    """{x : A x = b}, points of the shape that A acts on.

        AffineSubspace(torch.ones(1, 5), 1.0)              # (*batch, 5): entries that sum to 1
        AffineSubspace(torch.eye(3), 1.0, event_ndim=2)    # (*batch, 3, 3): trace 1
        AffineSubspace.of(lambda X: X.sum(-1) - 1, (4, 4)) # row sums 1, from a function

    Args:
        A: `(*equations, *event)`. Its last `event_ndim` dimensions are those of a point: the
            equations are Σ A[k, i] x[i] = b[k]. Values are copied.
        b: right-hand sides of shape `equations`, or one number for all.
        event_ndim: how many dimensions make a point.

    The equations are factored once, in float64: A = USVᴴ with rows scaled to norm 1, so that
    redundant and badly scaled ones do no harm; singular values below n·eps·s₁, eps of A's dtype,
    count as zero. With the r orthonormal rows Q of Vᴴ that are left and c = S⁻¹Uᴴb, the projection
    is u - QᴴQu and the nearest point a - Qᴴ(Qa - c) (Golub & Van Loan 2013, §6.2.3). Two are equal
    where A, b and the rank are, as numbers. Complex equations need complex points.

    Dimension: n - r for n entries a point.

    Metric: the ambient one. An `lr` times a gradient with entries of size 1 moves entries by about
    `lr`.

    Step: x + u, along a straight line.

    Cost: two products with Q a step, 4rn flops.

    For: row and column sums at once, fixed traces, boundary values, conservation laws, filters
    without a response to given signals.

    Not for: what has a closed form (`FixedSum`, `Sparsity`, `Toeplitz`), or n so large that Q, as
    dense as A, does not fit.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, no equation, or equations
            that contradict each other.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import AffineSubspace
        >>> margins = AffineSubspace.of(lambda X: torch.cat([X.sum(0), X.sum(1)]) - 1, (2, 2))
        >>> margins.project(torch.eye(2) * 3)
        tensor([[ 2., -1.],
                [-1.,  2.]])
        >>> margins.dim((2, 2))  # one of the four equations follows from the others
        1
    """

    dims_are_explicit = True

    event_shape: tuple[int, ...]
    rank: int
    given: str
    """What tells A and b from others."""
    _rows: Constant = field(compare=False)
    """Q, (r, n)."""
    _levels: Constant = field(compare=False)
    """C = Qx for points, (r,)."""

    def __init__(self, A: Tensor, b: Tensor | float = 0.0, *, event_ndim: int = 1) -> None:
        A = _floating(A)
        if not 1 <= event_ndim <= A.ndim:
            raise ValueError(
                f"AffineSubspace needs event_ndim from 1 to the dimensions of A; got event_ndim="
                f"{event_ndim!r} and A of shape {tuple(A.shape)}."
            )
        event, equations = A.shape[A.ndim - event_ndim :], A.shape[: A.ndim - event_ndim]
        b = _floating(b)
        if b.shape not in ((), equations):
            raise ValueError(
                f"AffineSubspace needs one right-hand side for each equation: b of shape "
                f"{tuple(equations)}, or a number; got {tuple(b.shape)} with A of shape "
                f"{tuple(A.shape)} and event_ndim={event_ndim}."
            )
        left = Constant(A.reshape(equations.numel(), event.numel()))
        right = Constant(b.expand(equations).flatten())
        eps = torch.finfo(A.dtype).eps, torch.finfo(b.dtype).eps
        rows, levels = _factor(left.array, right.array, *eps)
        object.__setattr__(self, "event_shape", tuple(event))
        object.__setattr__(self, "rank", len(rows))
        object.__setattr__(
            self, "given", hashlib.sha256(f"{left.digest}{right.digest}".encode()).hexdigest()
        )
        object.__setattr__(self, "_rows", Constant(torch.from_numpy(rows)))
        object.__setattr__(self, "_levels", Constant(torch.from_numpy(levels)))

    @classmethod
    def of(
        cls,
        function: Callable[[Tensor], Tensor],
        shape: Sequence[int],
        *,
        dtype: torch.dtype = torch.float64,
    ) -> "AffineSubspace":
        """{x : function(x) = 0}, with A and b = -function(0) read off by its adjoint.

        Args:
            function: affine, of one point; a result of m entries is m equations, each of which
                costs one backward pass.
            shape: of a point.
            dtype: that `function` computes in.

        Raises:
            ValueError: the function is not affine, or as in the class.
        """
        A, b = _read_off(function, tuple(shape), dtype)
        return cls(A, b, event_ndim=len(shape))

    def __repr__(self) -> str:
        event = "×".join(map(str, self.event_shape))
        return f"AffineSubspace(<rank {self.rank} on {event} #{self.given[:6]}>)"

    @property
    @override
    def event_ndim(self) -> int:
        return len(self.event_shape)

    @override
    def prepare(self, x: Tensor) -> None:
        self._rows.on(x)
        self._levels.on(x)

    @upcast
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The vector u - QᴴQu."""
        return self._subtract(u, None)

    @upcast
    def project(self, a: Tensor) -> Tensor:
        """The point a - Qᴴ(Qa - c); twice, as rounding a large Qa leaves an error of its size."""
        return self._land(self._land(a))

    @exact_products
    def _land(self, a: Tensor) -> Tensor:
        return self._subtract(a, self._levels.on(a)).contiguous()

    @upcast
    def violation(self, x: Tensor) -> Tensor:
        """max |x - project(x)| of each point: whatever the scale of the equations."""
        return super().violation(x)

    def _subtract(self, a: Tensor, levels: Tensor | None) -> Tensor:
        Q = self._rows.on(a)
        vectors = a.flatten(-self.event_ndim)
        residual = linalg.rows_times(vectors, Q)
        residual = residual if levels is None else residual - levels
        return linalg.shift(vectors, residual @ Q.conj(), (-1,)).reshape(a.shape)

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        if tuple(shape[max(len(shape) - self.event_ndim, 0) :]) != self.event_shape:
            self._reject(shape, f"tensors (*batch, {', '.join(map(str, self.event_shape))})")

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension n - r for n entries and r independent equations; twice that if complex."""
        return (math.prod(self.event_shape) - self.rank) * (2 if is_complex else 1)


# --- the equations, once ---------------------------------------------------------------------


# A residual may be so many times what one rounding of each number makes of it.
_SLACK = 10


def _floating(a: Tensor | float) -> Tensor:
    """A tensor of floating or complex numbers; what has no precision of its own is float64."""
    given = torch.as_tensor(a)
    keep = isinstance(a, Tensor) and (a.is_floating_point() or a.is_complex())
    return given if keep else given.to(torch.complex128 if given.is_complex() else torch.float64)


def _factor(
    A: np.ndarray, b: np.ndarray, eps: float, eps_b: float
) -> tuple[np.ndarray, np.ndarray]:
    """Q (r, n) with orthonormal rows and c (r,) such that A x = b where Q x = c.

    `eps` and `eps_b` are the relative errors of A and b.

    Raises:
        ValueError: not finite, no equation, or no solution.
    """
    if not (np.isfinite(A).all() and np.isfinite(b).all()):
        raise ValueError("AffineSubspace needs finite numbers; A or b has an infinity or a NaN.")
    scale = _norms(A)
    A, b = A / scale[:, None], b / scale
    U, s, Vh = (f.numpy() for f in decompositions.svd(torch.from_numpy(A)))
    largest = s.max(initial=0.0)
    rank = int((s > max(A.shape) * eps * largest).sum())
    rows, levels = Vh[:rank], (U[:, :rank].conj().T @ b) / s[:rank]
    x = rows.conj().T @ levels
    residual = np.abs(A @ x - b)
    size = largest * np.linalg.norm(x) + np.abs(b).max(initial=0.0)
    explained = _SLACK * max(A.shape) * max(eps, eps_b) * size
    if not (residual <= explained).all():
        worst = int(residual.argmax())
        raise ValueError(
            f"AffineSubspace needs equations that have a solution. The best x leaves a residual of "
            f"{residual[worst] * scale[worst]:.3g} in equation {worst} of {len(b)}, where rounding "
            f"explains {explained * scale[worst]:.3g}. Change b, or leave equations out."
        )
    if rank == 0:
        raise ValueError(
            f"AffineSubspace needs an equation that is not 0 = 0; A is zero, {len(A)} equations "
            f"for {A.shape[1]} entries. Unconstrained tensors are Euclidean()."
        )
    return rows, levels


def _norms(A: np.ndarray) -> np.ndarray:
    """Norm of each row, 1 for a zero row; no square overflows or vanishes."""
    largest = np.abs(A).max(1, initial=0.0)
    largest = np.where(largest > 0, largest, 1.0)
    norms: np.ndarray = largest * np.maximum(np.linalg.norm(A / largest[:, None], axis=1), 1.0)
    return norms


def _read_off(
    function: Callable[[Tensor], Tensor], shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """A `(m, *shape)` and b `(m,)` of an affine function A x - b."""
    with torch.inference_mode(False), torch.enable_grad():
        zero = torch.zeros(shape, dtype=dtype, device="cpu", requires_grad=True)
        value = _value(function, zero)
        if not value.requires_grad:
            raise ValueError(
                "AffineSubspace.of needs a function of x, all in torch; got a constant."
            )
        seeds = torch.eye(len(value), dtype=value.dtype, device="cpu")
        rows = [
            torch.autograd.grad(value, zero, e, retain_graph=True, materialize_grads=True)[0]
            for e in seeds
        ]
    # The adjoint takes e_k to row k of Aᴴ.
    A, value = torch.stack(rows).conj().resolve_conj(), value.detach()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for size in (1.0, -3.0):
            x = size * torch.randn(shape, generator=generator, dtype=dtype, device="cpu")
            expected = A.flatten(1) @ x.flatten() + value
            allowed = A.flatten(1).abs() @ x.flatten().abs() + value.abs()
            error = (_value(function, x) - expected).abs()
            if not bool((error <= 100 * torch.finfo(dtype).eps * allowed).all()):
                raise ValueError(
                    f"AffineSubspace.of needs an affine function; at a random point this one "
                    f"differs by {error.max():.3g} from A x - b, as read off at 0. If it computes "
                    f"in less than {dtype}, say so with dtype=; LevelSet takes any function."
                )
    return A, -value


def _value(function: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    value = function(x)
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        got = f"{value.dtype}" if isinstance(value, Tensor) else f"{type(value).__name__}"
        raise TypeError(f"AffineSubspace.of needs a function to a floating tensor; it gave {got}.")
    if value.numel() == 0:
        raise ValueError("AffineSubspace.of needs a function with a result; it gave no entry.")
    return value.reshape(-1)

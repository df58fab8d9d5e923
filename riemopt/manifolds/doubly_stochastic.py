"""Positive matrices with given sums of rows and columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import upcast
from riemopt.manifolds.base import Manifold
from riemopt.manifolds.constant import Constant

_MATRIX = (-2, -1)
_SAME = 1e-6
"""How far, relative to them, the totals of given sums may differ; the columns are adjusted."""
_FARTHEST = 1e3
"""A tensor with larger entries is made smaller before the nearest point is looked for."""
_ROUNDS, _FIXED_ROUNDS, _ARRIVED = 1000, 100, 1e-4
"""Of Dykstra's method; it need not be exact, as the result is moved inside by more."""


@final
@dataclass(frozen=True, init=False, repr=False)
class DoublyStochastic(Manifold):
    """{X : Xᵢⱼ > 0, Σⱼ Xᵢⱼ = rᵢ, Σᵢ Xᵢⱼ = cⱼ}, `(*batch, n, m)`, with Fisher's metric Σ uᵢⱼvᵢⱼ/xᵢⱼ.

        DoublyStochastic()                      rows of sum 1, columns of sum n/m: 1 if square
        DoublyStochastic(rows=p, columns=q)     the couplings of two distributions

    Args:
        rows: r, n positive numbers. None: all equal, and 1 if `columns` are not given either.
        columns: c, m positive numbers of the same total. None: all equal.

    Raises:
        ValueError: a sum is not positive and finite, or the totals differ by more than 1e-6 of
            them.

    Real, with positive entries.

    Dimension: (n-1)(m-1), an open part of a flat set.

    Metric: Fisher's (Douik & Hassibi 2019). The gradient is X∘(G - α1ᵀ - 1βᵀ), whose α and β solve
    a linear system. Entries move by about `lr` times those of the Riemannian gradient. Momentum is
    carried as in the flat coordinates √x, and projected.

    Step: scales X∘exp(arsinh(U/X)) to its sums, by Sinkhorn's iteration with logarithms; of first
    order, and in the set for U of any length. Entries stay above eps².

    Cost: a Cholesky factor of the size of the smaller side for a gradient, n·m·min(n, m)
    operations; for a step 14 rounds of Sinkhorn's iteration, fewer where values may be read, and
    from the seventh on one of Newton's method each, as dear as a gradient. Nothing waits for a
    device.

    For: matchings and sorting (relaxed permutations), optimal transport, mixing of residual
    streams, balanced assignments.

    Not for: zeros: its gradient vanishes on the way to them, as to a permutation. Entries of any
    sign with given sums are an `AffineSubspace`.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import DoublyStochastic
        >>> X = DoublyStochastic().project(torch.eye(3))
        >>> X.sum(0), X.sum(1), bool((X > 0).all())
        (tensor([1.0000, 1.0000, 1.0000]), tensor([1.0000, 1.0000, 1.0000]), True)
    """

    event_ndim = 2
    rows: Constant | None = None
    columns: Constant | None = None

    def __init__(self, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
        sums = {"rows": rows, "columns": columns}
        for name, given in sums.items():
            if given is not None and not _are_sums(given):
                raise ValueError(
                    f"DoublyStochastic needs {name} that are a vector of positive, finite numbers; "
                    f"got {given!r}."
                )
        if rows is not None and columns is not None:
            totals = float(rows.double().sum()), float(columns.double().sum())
            if abs(totals[0] - totals[1]) > _SAME * totals[0]:
                raise ValueError(
                    "DoublyStochastic needs rows and columns of one total; got "
                    f"{totals[0]:g} and {totals[1]:g}. Divide each by its sum."
                )
            columns = columns.double() * (totals[0] / totals[1])
        object.__setattr__(self, "rows", None if rows is None else Constant(rows))
        object.__setattr__(self, "columns", None if columns is None else Constant(columns))

    @property
    @override
    def dims_are_explicit(self) -> bool:
        return self.rows is not None or self.columns is not None

    @property
    @override
    def margin(self) -> float:
        return 0.01

    def _sums(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The sums of rows, `(n, 1)`, and of columns, `(1, m)`, for matrices like x."""
        n, m = x.shape[-2:]
        r = self.rows.on(x) if self.rows else None
        c = self.columns.on(x) if self.columns else None
        if r is None:
            r = x.new_ones(n) if c is None else (c.sum() / n).expand(n)
        if c is None:
            c = (r.sum() / m).expand(m)
        return r.unsqueeze(-1), c.unsqueeze(-2)

    @override
    def prepare(self, x: Tensor) -> None:
        self._sums(x)

    @override
    @upcast
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """U less the means of rows and columns, plus the mean of all."""
        return _centred(u)

    def _fisher(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Z - X∘(α1ᵀ + 1βᵀ), the tangent part of Z in Fisher's metric, and α1ᵀ + 1βᵀ."""
        alpha, beta = linalg.sum_multipliers(x, z.sum(-1, keepdim=True), z.sum(-2, keepdim=True))
        normal = alpha + beta
        return _centred(z - x * normal), normal

    @override
    @upcast
    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        return self._fisher(x, x * g)[0]

    @override
    @upcast
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """The gradient of H + ½(G - α1ᵀ - 1βᵀ)∘U/X: geodesics have Ẍ the tangent part of ½U²/X."""
        _, normal = self._fisher(x, x * g)
        return self._fisher(x, x * h + (g - normal) * u / 2)[0]

    @override
    @upcast
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        """Σ uᵢⱼvᵢⱼ/xᵢⱼ."""
        return linalg.total(u * (v / x), _MATRIX, keepdim=keepdim)

    @override
    @upcast
    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """The tangent part at Y of V∘√(Y/X), which has the length of V."""
        return self._fisher(y, v / x.sqrt() * y.sqrt())[0]

    @override
    def after_move(self, x: Tensor, y: Tensor, m: Tensor) -> Tensor:
        return self.transport(x, y, m)

    @override
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """U + √(X² + U²), entry by entry, scaled to the sums."""
        wide = torch.promote_types(x.dtype, torch.float32)
        weights = linalg.positive_step(x.to(wide), u.to(wide))
        y = linalg.scale_to_sums(weights.log(), *self._sums(weights))
        return self.round_point(y, x.dtype)

    @override
    def round_point(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """X rounded, with entries of eps² at least."""
        return x.to(dtype).clamp(min=_least(dtype)).contiguous()

    @override
    def project(self, a: Tensor) -> Tensor:
        """The nearest matrix with these sums, if its entries are positive.

        Else the nearest one with entries that are not negative, by Dykstra's method, mixed with a
        hundredth of rcᵀ/Σr.
        """
        self._check_real(a)
        A = a.to(torch.promote_types(a.dtype, torch.float32))
        r, c = self._sums(A)
        A = _with_sums(_with_sums(A, r, c), r, c)
        inside = (_least(a.dtype) < A).all(-1, keepdim=True).all(-2, keepdim=True)
        if not linalg.known_all(inside):
            A = torch.where(inside, A, _nearest(A.detach(), r, c, self.margin))
        return self.round_point(A, a.dtype)

    @override
    @upcast
    def violation(self, x: Tensor) -> Tensor:
        """How far off a sum is at most; infinite where an entry is not positive."""
        r, c = self._sums(x)
        off = torch.maximum(
            (x.sum(-1, keepdim=True) - r).abs().amax(_MATRIX),
            (x.sum(-2, keepdim=True) - c).abs().amax(_MATRIX),
        )
        return torch.where((x > 0).all(-1).all(-1), off, torch.inf)

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        """Two or more dimensions, the last two of the lengths of the given sums."""
        n, m = (s.shape[0] if s else None for s in (self.rows, self.columns))
        right = len(shape) >= 2 and 0 not in shape[-2:]
        if not right or (n or shape[-2], m or shape[-1]) != tuple(shape[-2:]):
            self._reject(shape, f"matrices (*batch, {n or 'n'}, {m or 'm'})")

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension (n-1)(m-1)."""
        if is_complex:
            raise ValueError(f"{self!r} needs real tensors; complex numbers have no order.")
        return (shape[-2] - 1) * (shape[-1] - 1)

    @override
    def random_point(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """exp(Z/2) of standard normal Z, scaled to the sums."""
        self.check_shape(shape)
        z = torch.randn(*shape, generator=generator, dtype=dtype, device=device)
        k = z.to(torch.promote_types(z.dtype, torch.float32)) / 2
        return self.round_point(linalg.scale_to_sums(k, *self._sums(k)), z.dtype)


def _are_sums(given: Tensor) -> bool:
    is_vector = isinstance(given, Tensor) and given.ndim == 1 and len(given) > 0
    return is_vector and bool((given.isfinite() & (given > 0)).all())


def _least(dtype: torch.dtype) -> float:
    """The smallest entry that is kept, as of `Simplex`."""
    return float(torch.finfo(dtype).eps ** 2)


def _centred(u: Tensor) -> Tensor:
    rows = u - u.mean(-1, keepdim=True)
    return rows - rows.mean(-2, keepdim=True)


def _with_sums(a: Tensor, r: Tensor, c: Tensor) -> Tensor:
    """The nearest matrix with these sums, of entries of either sign."""
    a = a + (r - a.sum(-1, keepdim=True)) / a.shape[-1]
    return a + (c - a.sum(-2, keepdim=True)) / a.shape[-2]


def _nearest(A: Tensor, r: Tensor, c: Tensor, margin: float) -> Tensor:
    """Projections on the sums and on the signs in turn, with Dykstra's correction of the latter."""
    middle = r * (c / c.sum())
    size = middle.amax()
    Y = _with_sums(A * (_FARTHEST * size / A.abs().amax(_MATRIX, keepdim=True)).clamp(max=1), r, c)
    X, correction = Y, torch.zeros_like(Y)
    arrived = torch.zeros_like(Y[..., :1, :1], dtype=torch.bool)
    for _ in linalg.rounds(Y, at_most=_ROUNDS, fixed=_FIXED_ROUNDS):
        R = Y - correction
        positive = R.clamp(min=0)
        correction, Y = positive - R, _with_sums(positive, r, c)
        X = torch.where(arrived, X, positive)
        arrived = arrived | ((positive - Y).abs().amax(_MATRIX, keepdim=True) < _ARRIVED * size)
        if linalg.known_all(arrived):
            break
    part = margin / torch.linalg.vector_norm(middle).clamp(min=1)
    return linalg.scale_to_sums(((1 - part) * X + part * middle).log(), r, c)

"""The manifolds that the whole suite runs over: one line each in `CASES`.

A line names the manifold, the shapes to try it on, what its retraction claims, and which closed
forms it has. `over(...)` turns the list into a parametrisation with readable ids:

    @over(dtypes=REAL)
    def test_some_law(case, shape, dtype): ...
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import example, given, strategies
from torch import Tensor

from riemopt.manifolds import (
    SPD,
    AffineSubspace,
    Circulant,
    Correlation,
    DoublyStochastic,
    Elliptope,
    Euclidean,
    ExceptRows,
    FixedRank,
    FixedRankFactors,
    FixedSum,
    Flag,
    Flattened,
    GeneralizedStiefel,
    GLPlus,
    Grassmann,
    Interval,
    LevelSet,
    Lorentz,
    Manifold,
    PoincareBall,
    Positive,
    Product,
    PSDFixedRank,
    RowBlocks,
    Scaled,
    Simplex,
    SkewSymmetric,
    Sparsity,
    SpecialEuclidean,
    SpecialLinear,
    SpecialOrthogonal,
    Spectrahedron,
    Sphere,
    Stereographic,
    Stiefel,
    Symmetric,
    SymplecticStiefel,
    Toeplitz,
)
from riemopt.testing.sampling import metric_is_ambient

Shapes = dict[str, tuple[int, ...]]

# --- shapes by kind: empty batch, one entry, square, tall, wide, batch, large ------------------

VECTORS: Shapes = {
    "empty": (0, 3),
    "one": (1,),
    "vector": (5,),
    "batch": (2, 3, 4),
    "large": (3, 1000),
}
COLUMNS: Shapes = {
    "empty": (3, 0),
    "one": (1,),
    "vector": (5,),
    "batch": (4, 2, 3),
    "large": (1000, 3),
}
WHOLE: Shapes = {"one": (1,), "vector": (5,), "tall": (4, 2), "deep": (2, 3, 4), "large": (50, 60)}
MATRICES: Shapes = {
    "empty": (0, 3, 2),
    "one": (1, 1),
    "square": (4, 4),
    "tall": (5, 2),
    "wide": (2, 5),
    "batch": (2, 3, 4, 3),
    "large": (100, 30),
}
# By autograd a step takes many times as many operations, so these are small.
POLAR: Shapes = {"square": (4, 4), "batch": (2, 3, 3)}  # of others it is the default
TALL_ALONE: Shapes = {"one": (1, 1), "square": (4, 4), "tall": (5, 2)}
TALL: Shapes = {**TALL_ALONE, "empty": (0, 3, 2), "batch": (2, 4, 3)}
PAIRS: Shapes = {"empty": (0, 3, 3), "square": (4, 4), "batch": (2, 3, 3)}
FEW_SQUARES: Shapes = {"empty": (0, 3, 3), "one": (1, 1), "square": (4, 4), "batch": (2, 3, 3)}
SQUARES: Shapes = {
    "empty": (0, 3, 3),
    "one": (1, 1),
    "square": (4, 4),
    "batch": (2, 3, 3, 3),
    "large": (60, 60),
}
FLAGS: Shapes = {
    "empty": (0, 4, 3),
    "square": (3, 3),
    "tall": (5, 3),
    "wide": (3, 5),
    "batch": (2, 3, 4, 3),
    "large": (30, 3),
}
MOTIONS: Shapes = {
    "empty": (0, 4, 4),
    "line": (2, 2),
    "plane": (3, 3),
    "square": (5, 5),
    "batch": (2, 3, 4, 4),
}
SUBSPACES: Shapes = {
    "empty": (0, 3, 2),
    "line": (3, 1),
    "tall": (5, 2),
    "wide": (2, 5),
    "batch": (2, 3, 4, 3),
    "large": (100, 30),
}
ROTATIONS: Shapes = {
    "empty": (0, 3, 3),
    "one": (1, 1),
    "plane": (2, 2),
    "square": (4, 4),
    "batch": (2, 3, 3, 3),
    "large": (40, 40),
}
DEFINITE: Shapes = {**SQUARES, "large": (20, 20)}
FACTORS: Shapes = {
    "empty": (0, 3, 2),
    "tall": (5, 2),
    "batch": (2, 3, 4, 2),
    "large": (60, 2),
}
FEW_FACTORS: Shapes = {"tall": (5, 2), "batch": (2, 3, 4, 2)}
CORRELATIONS: Shapes = {**FEW_SQUARES, "large": (20, 20)}
COUPLINGS: Shapes = {"empty": (0, 3, 3), "square": (4, 4), "batch": (2, 3, 5), "large": (30, 20)}
NUMBERS: Shapes = {"empty": (0, 3), "one": (1,), "batch": (2, 3, 4), "large": (3, 100)}
MIXTURES: Shapes = {**NUMBERS, "vector": (5,), "large": (3, 60)}
COLUMN_MIXTURES: Shapes = {"vector": (5,), "batch": (4, 2, 3)}
KERNELS: Shapes = {  # (out, in, kh, kw)
    "empty": (0, 3, 2, 2, 1),
    "one": (1, 1, 1, 1),
    "square": (4, 1, 2, 2),
    "tall": (6, 1, 1, 3),
    "wide": (2, 1, 2, 2),
    "batch": (3, 3, 2, 2, 1),
    "large": (16, 8, 3, 3),
}
KERNELS_1D: Shapes = {  # (out, in, k)
    "empty": (0, 3, 2, 2),
    "one": (1, 1, 1),
    "square": (4, 2, 2),
    "tall": (5, 1, 3),
    "wide": (2, 2, 2),
    "batch": (3, 3, 2, 2),
    "large": (40, 10, 3),
}


FEW_MATRICES: Shapes = {
    kind: MATRICES[kind] for kind in ("square", "tall", "wide", "batch", "large")
}
SOME_SUMS: Shapes = {"vector": (5,), "batch": (2, 3, 4), "large": (3, 1000)}
COLUMN_SUMS: Shapes = {"empty": (3, 0), "one": (1,), "batch": (4, 2, 3)}
FOURS: Shapes = {"square": (4, 4), "batch": (2, 3, 4, 4)}
EVEN: Shapes = {"square": (4, 4), "tall": (6, 2), "batch": (2, 6, 4), "empty": (0, 4, 2)}
OBLONG: Shapes = {"tall": (5, 2), "wide": (2, 4)}
OF_FIVES: Shapes = {"square": (5, 5), "tall": (5, 2), "batch": (2, 5, 3), "empty": (0, 5, 1)}
FIVES: Shapes = {"vector": (5,), "batch": (2, 3, 5)}
THREES: Shapes = {"empty": (0, 3, 3), "square": (3, 3)}
POSES: Shapes = {"empty": (0, 12), "vector": (12,), "batch": (2, 3, 12)}
SEVENS: Shapes = {"vector": (7,), "batch": (2, 3, 7)}
EIGHTEENS: Shapes = {"vector": (18,), "batch": (2, 18)}
TABLES: Shapes = {"tall": (6, 4), "batch": (2, 5, 3)}
HEIGHTS: Shapes = {
    "empty": (0, 3),
    "one": (2,),
    "vector": (5,),
    "batch": (2, 3, 4),
    "large": (3, 1000),
}
FEW_HEIGHTS: Shapes = {"vector": (3,), "batch": (2, 3, 4), "large": (3, 1000)}
LOW_RANK: Shapes = {
    "empty": (0, 4, 3),
    "square": (4, 4),
    "tall": (5, 4),
    "wide": (3, 5),
    "batch": (2, 3, 4, 3),
    "large": (60, 40),
}
FEW_LOW_RANK: Shapes = {"line": (3, 1), "tall": (4, 3), "batch": (2, 3, 4)}
TWO_FACTORS: Shapes = {"empty": (0, 7, 2), "tall": (9, 2), "batch": (2, 3, 7, 1)}
BLOCKS: Shapes = {"tall": (6, 4), "batch": (2, 6, 4)}


class Case(NamedTuple):
    manifold: Manifold
    shapes: Shapes
    second_order: str = ""
    """The metric in which `retract` is claimed to be of second order: "ambient" or its "own"."""
    closed_forms: tuple[str, ...] = ()
    """Which of exp, log and dist the manifold has."""
    reach: float = 1.0
    """A length of geodesics well within the injectivity radius at random points."""
    is_real: bool = False
    """Whether it is a set of real numbers alone."""
    uniform: bool = False
    """Whether `random_point` is promised to be uniform."""
    twin: Manifold | None = None
    """The manifold of the catalogue that is the same set, by which errors are bounded."""
    again: Callable[[], Manifold] | None = None
    """Makes an equal one, where the repr leaves data out."""


ALL_FORMS = ("exp", "log", "dist")


def unit_norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x).square() - 1


def orthonormal_columns(x: Tensor) -> Tensor:
    return x.mH @ x - torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def equals_its_adjoint(x: Tensor) -> Tensor:
    return x - x.mH


def triangle() -> Sparsity:
    return Sparsity(torch.ones(4, 4).triu() > 0)


def two_equations() -> AffineSubspace:
    """Redundant and badly scaled."""
    A = torch.tensor([[1.0, 1, 1, 1, 1], [1, 2, 0, -1, 3], [2e8, 3e8, 1e8, 0, 4e8]])
    return AffineSubspace(A.double(), torch.tensor([1.0, 0.5, 1.5e8]).double())


def unit_trace() -> AffineSubspace:
    return AffineSubspace(torch.eye(3), 1.0, event_ndim=2)


def of_mass() -> GeneralizedStiefel:
    """B of order 5, with eigenvalues from ½ to 3."""
    A = torch.tensor([[1.0, 0.5, -0.3], [0.0, 1.0, 0.4], [0.2, 0, 1], [0.7, -0.6, 0], [0, 0, 0.5]])
    return GeneralizedStiefel(0.5 * torch.eye(5).double() + A.double() @ A.double().mT)


def coupling() -> DoublyStochastic:
    return DoublyStochastic(torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.4, 0.6]))


POSE = Product({"rotation": (Stiefel(), (3, 3)), "translation": (Euclidean(), 3)})
RIGID_MOTION = Product({"quaternion": (Sphere(), 4), "translation": (Euclidean(), 3)})
PACKED = Product([(Stiefel(metric="canonical"), (3, 2)), (Sphere(), (2, 4)), (Symmetric(), (2, 2))])

BY_PRODUCTS = LevelSet(orthonormal_columns, event_ndim=2, dense_up_to=0)

# fmt: off
CASES = [
    Case(Euclidean(), VECTORS, "ambient", ALL_FORMS),
    Case(Sphere(), VECTORS, "ambient", ALL_FORMS, uniform=True),
    Case(Sphere(dim=0), COLUMNS, "ambient", ALL_FORMS, uniform=True),
    Case(Sphere(dim=(-2, -1)), MATRICES, "ambient", ALL_FORMS, uniform=True),
    Case(Sphere(dim=None), WHOLE, "ambient", ALL_FORMS, uniform=True),
    Case(Sphere(radius=0.5), VECTORS, "ambient", ALL_FORMS, uniform=True),
    Case(Sphere(dim=0, radius=3.0), COLUMNS, "ambient", ALL_FORMS, uniform=True),
    Case(Stiefel(), MATRICES, "ambient", ("exp",), uniform=True),
    Case(Stiefel("polar"), POLAR, "ambient", ("exp",), uniform=True),
    Case(Stiefel("qr"), MATRICES, "", ("exp",), uniform=True),
    Case(Stiefel("cayley"), MATRICES, "", ("exp",), uniform=True),
    Case(Stiefel(metric="canonical"), MATRICES, "", ("exp",), uniform=True),
    Case(Stiefel("qr", "canonical"), MATRICES, "", ("exp",), uniform=True),
    Case(Stiefel("cayley", "canonical"), MATRICES, "own", ("exp",), uniform=True),
    Case(Stiefel(scale=3.0), POLAR, "ambient", ("exp",), uniform=True),
    Case(Stiefel(metric="canonical", scale=0.5), OBLONG, "", ("exp",), uniform=True),
    Case(Stiefel("cayley", "canonical", scale=2.0), OBLONG, "own", ("exp",), uniform=True),
    Case(of_mass(), OF_FIVES, "ambient", ("exp",), again=of_mass),
    Case(SymplecticStiefel(), EVEN, is_real=True),
    Case(GLPlus(), FEW_SQUARES, "own", ("exp",), is_real=True),
    Case(SpecialLinear(), PAIRS, "own", ("exp",), is_real=True),
    Case(Symmetric(), SQUARES, "ambient", ALL_FORMS),
    Case(SkewSymmetric(), SQUARES, "ambient", ALL_FORMS),
    Case(SpecialOrthogonal(), ROTATIONS, "ambient", ALL_FORMS),
    Case(Flag(1, 2), FLAGS, "ambient", ("exp",)),
    Case(SpecialEuclidean(), MOTIONS, "ambient", ALL_FORMS),
    Case(FixedRank(2), LOW_RANK, "ambient"),
    Case(FixedRank(1), FEW_LOW_RANK, "ambient"),
    Case(FixedRankFactors(4), TWO_FACTORS),
    Case(Grassmann(), SUBSPACES, "ambient", ALL_FORMS, uniform=True),
    Case(SPD(), DEFINITE, "", ALL_FORMS, reach=0.1),
    Case(SPD("affine"), FEW_SQUARES, "own", ALL_FORMS),
    Case(SPD("log_cholesky"), FEW_SQUARES, "own", ALL_FORMS),
    Case(SPD("log_euclidean"), FEW_SQUARES, "", ALL_FORMS),
    Case(PSDFixedRank(2), FACTORS, "ambient", ALL_FORMS, reach=0.1),
    Case(Elliptope(2), FEW_FACTORS, "ambient", ("exp",)),
    Case(Spectrahedron(2), FEW_FACTORS, "ambient", ALL_FORMS, reach=0.1),
    Case(Correlation(), CORRELATIONS, "own", ALL_FORMS),
    Case(DoublyStochastic(), COUPLINGS, is_real=True),
    Case(coupling(), {"batch": (2, 3, 2)}, is_real=True, again=coupling),
    Case(Positive(), NUMBERS, "own", ALL_FORMS, is_real=True),
    Case(Interval(), NUMBERS, "own", ALL_FORMS, reach=0.1, is_real=True),
    Case(Interval(-2.0, 5.0), {"batch": (2, 3)}, "own", ALL_FORMS, reach=0.1, is_real=True),
    Case(Simplex(), MIXTURES, "", ALL_FORMS, reach=1e-3, is_real=True),
    Case(Simplex(dim=0), COLUMN_MIXTURES, "", ALL_FORMS, reach=1e-3, is_real=True),
    Case(Flattened(Stiefel()), KERNELS, "ambient", ("exp",), uniform=True),
    Case(Flattened(Stiefel(), event_ndim=3), KERNELS_1D, "ambient", ("exp",), uniform=True),
    Case(Flattened(Symmetric(), event_ndim=3), {"square": (4, 2, 2)}, "ambient", ALL_FORMS),
    Case(LevelSet(unit_norm, event_ndim=1), VECTORS, "ambient", twin=Sphere()),
    Case(LevelSet(orthonormal_columns), TALL_ALONE, "ambient", twin=Stiefel()),
    Case(BY_PRODUCTS, TALL, "ambient", twin=Stiefel()),
    Case(LevelSet(equals_its_adjoint, event_ndim=2), PAIRS, "ambient", twin=Symmetric()),
    Case(FixedSum(), SOME_SUMS, "ambient", ALL_FORMS),
    Case(FixedSum(dim=0, total=3.0), COLUMN_SUMS, "ambient", ALL_FORMS),
    Case(Toeplitz(), FEW_MATRICES, "ambient", ALL_FORMS),
    Case(Circulant(), FEW_SQUARES, "ambient", ALL_FORMS),
    Case(triangle(), FOURS, "ambient", ALL_FORMS, again=triangle),
    Case(two_equations(), FIVES, "ambient", ALL_FORMS, again=two_equations),
    Case(unit_trace(), THREES, "ambient", ALL_FORMS, again=unit_trace),
    Case(POSE, POSES, "ambient", ("exp",)),
    Case(RIGID_MOTION, SEVENS, "ambient", ALL_FORMS),
    Case(PACKED, EIGHTEENS, "", ("exp",)),
    Case(RowBlocks(Stiefel(), 3), BLOCKS, "ambient", ("exp",)),
    Case(ExceptRows(Sphere(), rows=0), TABLES, "ambient", ALL_FORMS),
    Case(ExceptRows(FixedSum(), rows=(1, -1)), TABLES, "ambient", ALL_FORMS),
    Case(Scaled(Stiefel()), FEW_MATRICES, "ambient", ("exp",)),
    Case(Scaled(Sphere(radius=2.0)), SOME_SUMS, "ambient", ALL_FORMS),
    Case(Scaled(SpecialOrthogonal()), THREES, "ambient", ALL_FORMS),
    Case(PoincareBall(), VECTORS, "own", ALL_FORMS, is_real=True),
    Case(PoincareBall(c=0.5), SOME_SUMS, "own", ALL_FORMS, is_real=True),
    Case(Lorentz(), HEIGHTS, "own", ALL_FORMS, is_real=True),
    Case(Lorentz(c=2.0), FEW_HEIGHTS, "own", ALL_FORMS, is_real=True),
    Case(Stereographic(), SOME_SUMS, "own", ALL_FORMS, is_real=True),
    Case(Stereographic(k=0.5), VECTORS, "own", ALL_FORMS, is_real=True),
    Case(Stereographic(k=-2.0), SOME_SUMS, "own", ALL_FORMS, is_real=True),
]
# fmt: on

REAL = (torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
HALF = (torch.bfloat16, torch.float16)
EXACT = (torch.float64, torch.complex128)
FULL = (*REAL, *COMPLEX)
DTYPES = (*FULL, torch.bfloat16)


def for_seeds(law: Callable[..., None]) -> Callable[..., None]:
    """Run a law, which draws its values by torch, with `seed=1`, and further seeds if thorough.

    Never with 0, which makes points that are fixed: a vector that is drawn by the same seed as its
    point is parallel to it.
    """
    return given(seed=strategies.integers(1, 2**32 - 1))(example(seed=1)(law))


def has_ambient_metric(case: Case) -> bool:
    shapes = [s for kind, s in case.shapes.items() if kind not in ("empty", "large")]
    return all(metric_is_ambient(case.manifold, point(case, s, torch.float64)) for s in shapes)


def first_of_its_metric(case: Case) -> bool:
    """Whether no case above differs from this one in its retraction alone."""
    return getattr(case.manifold, "retraction", None) is None


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def point(case: Case, shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    return case.manifold.random_point(*shape, generator=generator(seed), dtype=dtype)


leave_out_slow = False
"""Whether what would be marked slow is not even made: to collect it takes longer than many run."""


def over(
    *,
    dtypes: Iterable[torch.dtype] = DTYPES,
    kinds: Iterable[str] | None = None,
    where: Callable[[Case], Any] = lambda case: True,
    cases: Iterable[Case] | None = None,
) -> pytest.MarkDecorator:
    """Parametrise `(case, shape, dtype)` over the cases `where` holds and the shapes of `kinds`.

    Small shapes only, if `kinds` is "small". Of shape × dtype one pair in five is run by
    `make test`, in diagonals, and one in three where there are three dtypes or fewer; the others
    are marked slow. Of a class with other options than in the first of its lines it is one in
    seven.
    """
    dtypes = list(dtypes)
    parameters = []
    classes = set()
    for case in CASES if cases is None else cases:
        if not where(case):
            continue
        shapes = [
            (kind, shape)
            for kind, shape in case.shapes.items()
            if kinds is None
            or (kind not in ("large", "empty") if kinds == "small" else kind in kinds)
        ]
        stride = 7 if type(case.manifold) in classes else 5 if len(dtypes) > 3 else 3
        classes.add(type(case.manifold))
        for i, (kind, shape) in enumerate(shapes):
            for j, dtype in enumerate(dtypes):
                if case.is_real and dtype.is_complex:
                    continue
                thinned = len(dtypes) > 1 and len(shapes) > 1 and (i + j) % stride
                if thinned and leave_out_slow:
                    continue
                label = f"{case.manifold}-{kind}-{name(dtype)}"
                marks = [pytest.mark.slow] if thinned else []
                parameters.append(pytest.param(case, shape, dtype, id=label, marks=marks))
    return pytest.mark.parametrize(("case", "shape", "dtype"), parameters)


def over_cases(where: Callable[[Case], Any] = lambda case: True) -> pytest.MarkDecorator:
    """Parametrise `case` alone."""
    chosen = [case for case in CASES if where(case)]
    return pytest.mark.parametrize("case", chosen, ids=[str(case.manifold) for case in chosen])


def chequered(names: str, rows: Iterable[Any], columns: Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrise two arguments over rows × columns; every other pair is marked slow."""
    columns = list(columns)
    parameters = [
        pytest.param(row, column, marks=[pytest.mark.slow] if (i + j) % 2 else [])
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    ]
    return pytest.mark.parametrize(names, parameters)

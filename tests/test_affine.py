"""Affine subspaces: solutions of equations, and those with a closed form."""

import copy
import io
import pickle

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import riemopt
from riemopt.manifolds import (
    AffineSubspace,
    Circulant,
    Constant,
    FixedSum,
    Sparsity,
    Toeplitz,
)


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- the equations, against numpy's least squares -------------------------------------------


def nearest(A, b, a):
    """A - A⁺(Aa - b) of one vector, by numpy."""
    correction, *_ = np.linalg.lstsq(A.numpy(), (A @ a - b).numpy(), rcond=1e-9)
    return a - torch.from_numpy(correction)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize(("m", "n"), [(1, 5), (3, 5), (5, 5)])
def test_project_is_the_least_squares_solution(m, n, dtype):
    A, a = random(m, n, dtype=dtype), random(n, dtype=dtype, seed=1)
    b = A @ random(n, dtype=dtype, seed=2)
    manifold = AffineSubspace(A, b)
    torch.testing.assert_close(manifold.project(a), nearest(A, b, a))
    assert manifold.rank == m
    assert manifold.dim((7, n), is_complex=dtype.is_complex) == (n - m) * (1 + dtype.is_complex)


def test_redundant_equations_count_once():
    A, b = random(3, 6), random(3, seed=1)
    S = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [2, 0, 0], [0, 0, 0]]).double()
    once, often = AffineSubspace(A, b), AffineSubspace(S @ A, S @ b)
    assert once.rank == often.rank == 3
    a = random(4, 6, seed=2)
    torch.testing.assert_close(often.project(a), once.project(a))


def test_redundancy_is_judged_by_the_precision_of_the_numbers_given():
    """In float32 the sum of two rows is rounded: a third equation would be made of rounding."""
    A, b = random(2, 50, dtype=torch.float32), random(2, dtype=torch.float32, seed=1)
    with_sum = torch.cat([A, A.sum(0, keepdim=True)]), torch.cat([b, b.sum(0, keepdim=True)])
    assert AffineSubspace(*with_sum).rank == 2
    exact = torch.cat([A.double(), A.sum(0, keepdim=True).double()])
    assert AffineSubspace(exact, 0.0).rank == 3


@pytest.mark.parametrize("scale", [1e-200, 1e-8, 1e8, 1e200])
def test_the_scale_of_an_equation_does_not_count(scale):
    A, b, a = random(3, 6), random(3, seed=1), random(6, seed=2)
    scales = torch.tensor([1.0, scale, 1.0], dtype=torch.float64)
    scaled = AffineSubspace(scales[:, None] * A, scales * b)
    assert scaled.rank == 3
    torch.testing.assert_close(scaled.project(a), AffineSubspace(A, b).project(a))


def test_a_far_tensor_is_projected_to_the_precision_of_the_point_not_of_the_tensor():
    """The nearest point to 1e6·(row of A) is small: one pass would leave an error of 1e6·eps."""
    manifold = AffineSubspace(torch.ones(1, 5), 1.0)
    y = manifold.project(torch.full((5,), 1e6))
    assert manifold.violation(y.double()) < 1e-7
    assert abs(float(FixedSum(total=1.0).project(torch.full((5,), 1e6)).sum()) - 1) < 1e-6


def test_a_of_any_shape():
    """A is given with the dimensions of a point; equations may have several as well, or none."""
    X = random(2, 3, 3)
    trace = AffineSubspace(torch.eye(3), 2.0, event_ndim=2)
    assert trace.event_ndim == 2
    torch.testing.assert_close(
        trace.project(X).diagonal(dim1=-2, dim2=-1).sum(-1), torch.full((2,), 2.0).double()
    )
    A, b = random(2, 2, 3, 3, seed=1), random(2, 2, seed=2)
    grid = AffineSubspace(A, b, event_ndim=2)
    assert grid.rank == 4
    torch.testing.assert_close(torch.einsum("klij,nij->nkl", A, grid.project(X)), b.expand(2, 2, 2))
    assert grid == AffineSubspace(A.flatten(0, 1), b.flatten(), event_ndim=2)


def test_numbers_without_a_precision_of_their_own():
    assert AffineSubspace([[1, 1, 0], [0, 1, 1]], 1) == AffineSubspace(
        torch.tensor([[1.0, 1, 0], [0, 1, 1]]), torch.ones(2)
    )
    assert AffineSubspace(torch.tensor([[True, False]])).rank == 1


REFUSED = [
    (
        lambda: AffineSubspace([[1.0, 0], [2, 0]], torch.tensor([1.0, 3])),
        r"residual of 0\.5 in equ",
    ),
    (
        lambda: AffineSubspace([[1.0, 1], [0, 0]], torch.tensor([0.0, 5])),
        "residual of 5 in equation 1",
    ),
    (lambda: AffineSubspace(torch.zeros(2, 3)), r"not 0 = 0.*Euclidean\(\)"),
    (lambda: AffineSubspace(torch.zeros(0, 3)), "not 0 = 0"),
    (
        lambda: AffineSubspace(torch.ones(2, 3), torch.ones(3)),
        r"shape \(2,\), or a number; got \(3,\)",
    ),
    (
        lambda: AffineSubspace(torch.ones(2, 3), event_ndim=3),
        r"event_ndim=3 and A of shape \(2, 3\)",
    ),
    (lambda: AffineSubspace(torch.ones(2, 3), event_ndim=0), "event_ndim=0"),
    (lambda: AffineSubspace([[1.0, float("nan")]]), "infinity or a NaN"),
    (lambda: AffineSubspace([[1.0, 2]], float("inf")), "infinity or a NaN"),
    (lambda: AffineSubspace(torch.ones(1, 3, device="meta")), "values"),
    (lambda: AffineSubspace.of(lambda x: x.square().sum(), (3,)), "affine.*LevelSet"),
    (lambda: AffineSubspace.of(lambda x: x.relu().sum(), (3,)), "affine"),
    (lambda: AffineSubspace.of(lambda x: torch.ones(2), (3,)), "constant"),
    (lambda: AffineSubspace.of(lambda x: x[:0], (3,)), "no entry"),
    (
        lambda: AffineSubspace(torch.ones(1, 3)).check_shape((4, 2)),
        r"\(\*batch, 3\); got.*\(4, 2\)",
    ),
    (lambda: AffineSubspace(torch.ones(3, 3), event_ndim=2).check_shape((3,)), r"3, 3\); got"),
    (lambda: FixedSum(dim=()), "dim"),
    (lambda: FixedSum(dim=(1, 1)), "dim"),
    (lambda: FixedSum(total=float("inf")), "total"),
    (lambda: FixedSum().check_shape(()), "dimension"),
    (lambda: FixedSum().check_shape((3, 0)), "at least one entry"),
    (lambda: FixedSum(dim=(0, -1)).check_shape((3,)), "distinct"),
    (lambda: Sparsity(torch.zeros(3) > 0), r"an entry that is True; got shape \(3,\)"),
    (lambda: Sparsity(torch.tensor(True)), "one dimension or more"),
    (lambda: Sparsity(torch.ones(3) > 0).check_shape((3, 2)), r"\(\*batch, 3\); got.*\(3, 2\)"),
    (lambda: Toeplitz().check_shape((3,)), "matrices"),
    (lambda: Circulant().check_shape((3, 2)), "square"),
]


@pytest.mark.parametrize(("attempt", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_what_is_refused_says_what_was_given_and_what_is_needed(attempt, message):
    with pytest.raises(ValueError, match=message):
        attempt()


def test_wrong_kinds_are_refused():
    with pytest.raises(TypeError, match=r"boolean tensor, such as w != 0; got torch\.float32"):
        Sparsity(torch.ones(3))
    with pytest.raises(TypeError, match="it gave int"):
        AffineSubspace.of(lambda x: 3, (3,))
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    with pytest.raises(TypeError, match="points must be complex"):
        riemopt.constrain(layer, "weight", AffineSubspace(torch.ones(1, 3) * 1j))
    assert torch.equal(layer.weight, before)
    assert riemopt.manifold_of(layer.weight) is None


# --- equations read off a function ----------------------------------------------------------


def test_of_reads_a_and_b_off():
    A, b = random(2, 3, 4), random(2, seed=1)
    read = AffineSubspace.of(lambda X: torch.einsum("kij,ij->k", A, X) - b, (3, 4))
    given = AffineSubspace(A, b, event_ndim=2)
    X = random(5, 3, 4, seed=2)
    torch.testing.assert_close(read.project(X), given.project(X))
    assert read == given


def test_row_and_column_sums():
    """Doubly stochastic without the signs: seven independent equations of eight."""
    doubly = AffineSubspace.of(lambda X: torch.stack([X.sum(-1), X.sum(-2)]) - 1, (4, 4))
    assert doubly.rank == 7
    X = doubly.random_point(4, 4, dtype=torch.float64)
    for dim in (0, 1):
        torch.testing.assert_close(X.sum(dim), torch.ones(4).double())


def test_of_a_complex_function():
    """The adjoint of Ax takes e_k to conj(A)_k."""
    A, b = random(2, 3, dtype=torch.complex128), random(2, dtype=torch.complex128, seed=1)
    assert AffineSubspace.of(lambda x: A @ x - b, (3,), dtype=torch.complex128) == AffineSubspace(
        A, b
    )
    with pytest.raises(ValueError, match="affine"):  # linear over the reals only
        AffineSubspace.of(lambda x: x.conj().sum(), (3,), dtype=torch.complex128)


def test_of_a_function_in_single_precision():
    layer = nn.Linear(4, 2)
    with torch.inference_mode():
        manifold = AffineSubspace.of(layer, (4,), dtype=torch.float32)
    x = manifold.random_point(10, 4)
    assert layer(x).abs().max() < 1e-5
    assert layer.weight.grad is None


# --- data in a description ------------------------------------------------------------------


def test_equal_by_the_values_of_the_data():
    A = random(2, 5)
    same = AffineSubspace(A.clone(), 0.5)
    assert same == AffineSubspace(A, torch.full((2,), 0.5))
    assert hash(same) == hash(AffineSubspace(A, 0.5))
    assert AffineSubspace(A, 0.5) != AffineSubspace(A, 0.25)
    assert AffineSubspace(A, 0.5) != AffineSubspace(A.flip(0), 0.5)
    assert AffineSubspace(torch.ones(4)) != AffineSubspace(torch.ones(2, 2), event_ndim=2)
    assert AffineSubspace([[1.0, 0.0]]) == AffineSubspace([[1.0, -0.0]])
    mask = random(3, 3) > 0
    assert Sparsity(mask) == Sparsity(mask.clone()) != Sparsity(~mask)
    assert Sparsity(mask) != Sparsity(mask.flatten())


def test_the_data_is_copied():
    A, mask = torch.ones(1, 3), torch.ones(3) > 0
    manifold, pattern = AffineSubspace(A, 1.0), Sparsity(mask)
    A.zero_()
    mask.logical_not_()
    assert manifold == AffineSubspace(torch.ones(1, 3), 1.0)
    assert pattern == Sparsity(torch.ones(3) > 0)
    with pytest.raises(ValueError, match="read-only"):
        pattern.mask.array[0] = False


def test_a_repr_shows_sizes_and_tells_data_apart():
    assert repr(Sparsity(torch.eye(3) > 0)).startswith("Sparsity(<3 of 9 entries free, mask 3×3 #")
    assert repr(AffineSubspace(torch.ones(2, 300))).startswith("AffineSubspace(<rank 1 on 300 #")
    assert repr(AffineSubspace(torch.ones(5))) != repr(AffineSubspace(torch.ones(5), 1.0))
    assert repr(FixedSum()) == "FixedSum()"
    assert FixedSum(dim=1).with_dims_from_end(2) == FixedSum((-1,)) == FixedSum()


@pytest.mark.parametrize(
    "manifold",
    [AffineSubspace(torch.ones(1, 3), 1.0), Sparsity(torch.eye(3) > 0), Toeplitz(), FixedSum()],
    ids=str,
)
def test_a_parameter_is_saved_with_its_manifold(manifold):
    p = riemopt.ManifoldParameter(torch.randn(3, 3), manifold)
    riemopt.RiemannianAdam([p])
    buffer = io.BytesIO()
    torch.save(p, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    assert loaded.manifold == manifold
    assert torch.equal(loaded, p)
    assert copy.deepcopy(p).manifold == pickle.loads(pickle.dumps(p)).manifold == manifold


def test_one_copy_for_each_device_and_dtype():
    constant = Constant(random(3, 2))
    x = torch.ones(2, dtype=torch.float32)
    assert constant.on(x) is constant.on(x.clone())
    assert constant.on(x).dtype == constant.on(x.bfloat16()).dtype == torch.float32
    assert constant.on(x.double()).dtype == torch.float64
    assert constant.on(x.to("meta")).device.type == "meta"
    assert copy.deepcopy(constant) is constant
    assert not pickle.loads(pickle.dumps(constant)).copies.devices
    assert Constant(torch.eye(2) > 0).on(x).dtype == torch.bool


def test_a_copy_can_be_made_anywhere():
    """Under inference mode, a transform or a fake mode; and used outside of it."""
    x = random(5, dtype=torch.float32)

    def fresh():
        return AffineSubspace(torch.ones(1, 5), 1.0)

    def used_outside(manifold):
        y = x.clone().requires_grad_()
        manifold.project(y).square().sum().backward()
        return y.grad

    expected = used_outside(fresh())
    inference, transformed, faked = fresh(), fresh(), fresh()
    with torch.inference_mode():
        inference.project(x)
    torch.func.grad(lambda y: transformed.project(y).sum())(x)
    torch.vmap(transformed.project)(x.expand(2, 5))
    with FakeTensorMode() as mode:
        faked.project(mode.from_tensor(x))
    for manifold in (inference, transformed, faked):
        torch.testing.assert_close(used_outside(manifold), expected)
    with FakeTensorMode() as mode:  # which does not mix with the real copy that there is now
        assert faked.project(mode.from_tensor(x)).shape == (5,)


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_a_graph_can_be_the_first_to_use_the_data():
    manifold, pattern = AffineSubspace(torch.ones(1, 5), 1.0), Sparsity(torch.arange(5) > 2)
    compiled = torch.compile(
        lambda a: (manifold.project(a), pattern.project(a)), backend="eager", fullgraph=True
    )
    a = random(3, 5)
    for result, there in zip(compiled(a), (manifold, pattern), strict=True):
        torch.testing.assert_close(result, there.project(a))


def test_an_optimizer_copies_the_data_when_it_is_given_the_parameter():
    pattern = Sparsity(torch.eye(3) > 0)
    p = nn.Parameter(torch.empty(3, 3, device="meta"))
    riemopt.RiemannianSGD([{"params": [p], "manifold": pattern}], lr=0.1)
    assert [device.type for device in pattern.mask.copies.devices] == ["meta"]


# --- closed forms ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 5), (5, 2), (1, 4), (4, 1)], ids=str)
def test_toeplitz_is_the_mean_of_each_diagonal(shape):
    n, p = shape
    a = random(n, p)
    means = {k: a.diagonal(k).mean() for k in range(1 - n, p)}
    column, row = [means[-i] for i in range(n)], [means[j] for j in range(p)]
    expected = torch.from_numpy(scipy.linalg.toeplitz(column, row))
    torch.testing.assert_close(Toeplitz().project(a), expected)


def test_circulant_is_the_projection_in_fourier_space():
    """Circulant matrices are those that the DFT makes diagonal."""
    a = random(5, 5)
    F = torch.fft.fft(torch.eye(5).double(), norm="ortho")
    diagonal = (F @ a.cdouble() @ F.mH).diagonal()
    torch.testing.assert_close(Circulant().project(a), (F.mH @ diagonal.diag() @ F).real)


@pytest.mark.parametrize("manifold", [Toeplitz(), Circulant()], ids=str)
def test_points_are_constant_along_diagonals_bit_for_bit_and_stay_so(manifold):
    """A mean of equal numbers rounds; a thousand steps would add up to a drift."""
    x = manifold.random_point(50, 50)
    assert torch.equal(manifold.project(x), x)
    y = manifold.retract(x, manifold.random_tangent(x))
    assert all(len(y.diagonal(k).unique()) == 1 for k in range(-49, 50))


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_on_toeplitz_matrices_is_torchs_adam_on_their_numbers(amsgrad):
    matrices = riemopt.ManifoldParameter(random(4, 3), Toeplitz())
    i, j = torch.arange(4)[:, None], torch.arange(3)
    first = torch.cat([matrices.detach()[1:, 0].flip(0), matrices.detach()[0]])
    numbers = nn.Parameter(first)
    options = {"lr": 0.1, "amsgrad": amsgrad, "eps": 1e-30}
    ours = riemopt.RiemannianAdam([matrices], **options)
    theirs = torch.optim.Adam([numbers], **options)
    for seed in range(5):
        target = random(4, 3, seed=10 + seed)
        for optimizer, x in ((ours, matrices), (theirs, numbers[j - i + 3])):
            optimizer.zero_grad()
            (x - target).square().sum().backward()
        ours.step()
        theirs.step()
        torch.testing.assert_close(matrices.detach(), numbers.detach()[j - i + 3])


def test_adam_on_a_sparsity_pattern_is_torchs_adam_on_the_free_entries():
    mask = random(4, 4) > 0
    ours, theirs = (nn.Parameter(random(4, 4, seed=1) * mask) for _ in range(2))
    adam = riemopt.RiemannianAdam([{"params": [ours], "manifold": Sparsity(mask)}], lr=0.1)
    torchs = torch.optim.Adam([theirs], lr=0.1)
    for seed in range(5):
        g = random(4, 4, seed=10 + seed)
        theirs.grad = g * mask
        ours.grad = torch.where(mask, g, torch.inf)  # what is not free does not count
        adam.step()
        torchs.step()
    torch.testing.assert_close(ours.detach(), theirs.detach())
    assert bool((ours[~mask] == 0).all())
    assert adam.skipped_steps == 0


def test_adam_keeps_a_sum_that_elementwise_steps_would_not():
    assert not FixedSum().allows_elementwise_scaling
    assert not AffineSubspace(torch.ones(1, 5)).allows_elementwise_scaling
    for second_moment in ("tangent", "carried", "point"):
        p = riemopt.ManifoldParameter(random(3, 5), FixedSum(total=2.0))
        optimizer = riemopt.RiemannianAdam([p], lr=0.1, second_moment=second_moment)
        for seed in range(20):
            p.grad = random(3, 5, seed=seed) * torch.tensor([1, 10, 100, 1e3, 1e4])
            optimizer.step()
        torch.testing.assert_close(p.detach().sum(-1), torch.full((3,), 2.0).double())


def test_closed_forms_agree_with_the_equations():
    a, shape = random(2, 4, 4), (4, 4)
    mask = random(*shape, seed=1) > 0
    pairs = [
        (FixedSum(dim=(-2, -1), total=3.0), lambda X: X.sum() - 3),
        (Sparsity(mask), lambda X: X[~mask]),
        (Toeplitz(), lambda X: X[1:, 1:] - X[:-1, :-1]),
        (Circulant(), lambda X: X - X.roll((1, 1), (0, 1))),
    ]
    for closed, equations in pairs:
        general = AffineSubspace.of(equations, shape)
        torch.testing.assert_close(closed.project(a), general.project(a))
        torch.testing.assert_close(closed.proj_tangent(a, a), general.proj_tangent(a, a))
        assert closed.dim(shape) == general.dim(shape)


def test_kernels_of_a_convolution():
    """Manifolds that name their dimensions, or the shape, may take slices of a kernel."""
    conv = nn.Conv2d(2, 3, 4)
    riemopt.constrain(conv, "weight", FixedSum(dim=(-2, -1), total=1.0))
    torch.testing.assert_close(conv.weight.detach().sum((-2, -1)), torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"Flattened\(Toeplitz\(\), event_ndim=4\)"):
        riemopt.constrain(nn.Conv2d(2, 3, 4), "weight", Toeplitz())

"""Steps where nothing may be read, as on a GPU, shown on a CPU: see `simulated_tf32`.

There a step has a fixed number of products, of which one that decides about the surface is exact.
That number, and the number of kernels, is counted on meta tensors.
"""

import math
import shutil

import launches
import pytest
import torch
from torch import nn

import riemopt
from riemopt import linalg
from riemopt._torch_versions import CUDA_PRODUCTS
from riemopt.linalg import polar_fixed
from riemopt.manifolds import Grassmann, SpecialOrthogonal, Sphere, Stiefel
from tests import needs
from tests.bounds import eps
from tests.manifold_cases import generator, name
from tests.simulated_tf32 import (
    TF32,
    SimulatedTF32,
    bound_of_surface,
    defect,
    nothing_is_read,
    relative_error,
    round_to_tf32,
    tangent_of_norm,
)

FULL = [torch.float32, torch.float64, torch.complex64, torch.complex128]
SHAPES = [(48, 48), (160, 24), (24, 160), (300, 150)]  # the last is wider than `NARROW`
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
over_kinds = pytest.mark.parametrize("kind", ["random", "rank 2"])


# --- the simulation itself ---------------------------------------------------------------------


def test_ten_bits_are_left():
    a = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-12, 0.0, math.inf])
    expected = torch.tensor([1.0, 1 + 2**-10, 1.0, 1 + 2**-9, -1.0, 0.0, math.inf])
    assert torch.equal(round_to_tf32(a), expected)
    assert round_to_tf32(torch.tensor(math.nan)).isnan()


def test_products_are_rounded_where_they_may_be_and_nowhere_else():
    a, b = (torch.randn(2, 5, 5, generator=generator(i)) for i in range(2))
    with SimulatedTF32() as mode:
        assert torch.equal(linalg.product(a, b), a @ b)
        with linalg.inexact_products(a):
            rounded = linalg.product(a, b)
    assert torch.equal(rounded, round_to_tf32(a) @ round_to_tf32(b))
    assert (mode.exact, mode.inexact) == (2 * 2 * 5**3, 2 * 5**3)
    with linalg.inexact_products(a):  # a CPU has no such products
        assert torch.equal(linalg.product(a, b), a @ b)


def test_a_block_leaves_the_setting_as_it_was():
    def interrupted():
        with SimulatedTF32(), linalg.inexact_products(torch.ones(1)):
            seen.append(setting.fp32_precision)
            raise KeyboardInterrupt

    seen, setting = [], CUDA_PRODUCTS
    before = setting.fp32_precision
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert seen == ["tf32"]
    assert setting.fp32_precision == before


def test_an_exact_gram_matrix_is_needed():
    """A check of the check: with inputs of 10 bits throughout, the surface is lost."""
    x = Stiefel().random_point(48, 48, generator=generator(0))
    with SimulatedTF32(), linalg.inexact_products(x):
        y = linalg.cubic_step(x, torch.zeros_like(x))
    assert defect(y) > 1e-5


# --- the surface -------------------------------------------------------------------------------


def feasible_after(shape, dtype, kind, rho, count):
    random, manifold = generator(0), Stiefel()
    x = manifold.random_point(*shape, generator=random, dtype=dtype)
    for _ in range(count):
        u = tangent_of_norm(manifold, x, kind, rho, random)
        with SimulatedTF32():
            x = manifold.retract(x, u)
    return x


@over_shapes
@over_kinds
@pytest.mark.parametrize("rho", [0.01, 0.1, 1.0, 3.0, 8.0, 1e6])
def test_steps_end_on_the_surface(shape, kind, rho):
    x = feasible_after(shape, torch.float32, kind, rho, 10)
    assert defect(x) <= bound_of_surface(x) / (3 if rho <= 3 else 1)


@pytest.mark.slow
@over_shapes
@over_kinds
@pytest.mark.parametrize("rho", [0.01, 0.1, 1.0, 3.0, 8.0])
def test_a_thousand_steps_end_on_the_surface(shape, kind, rho):
    """Nothing adds up."""
    x = feasible_after(shape, torch.float32, kind, rho, 1000)
    assert defect(x) <= bound_of_surface(x) / (3 if rho <= 3 else 1)


@pytest.mark.parametrize("dtype", FULL, ids=name)
@over_shapes
def test_every_dtype_stays_on_the_surface(shape, dtype):
    for rho in (0.1, 3.0):
        x = feasible_after(shape, dtype, "random", rho, 3)
        assert defect(x) <= bound_of_surface(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=name)
def test_half_weights_are_as_near_as_they_can_be(dtype):
    """Their points are rounded, and come back from that in each step."""
    p = nn.Parameter(Stiefel().random_point(40, 40, generator=generator(0)).to(dtype))
    optimizer = riemopt.RiemannianSGD([{"params": [p], "manifold": Stiefel()}], lr=0.05)
    for i in range(20):
        p.grad = torch.randn(40, 40, generator=generator(i)).to(dtype)
        with SimulatedTF32():
            optimizer.step()
    assert defect(p.detach()) <= 2 * eps(dtype)


@pytest.mark.parametrize("shape", [(48, 48), (160, 24)])
def test_a_point_that_is_off_comes_back(shape):
    """As of a rounded checkpoint, in one step; farther off, in some."""
    x = Stiefel().random_point(*shape, generator=generator(0))
    u = tangent_of_norm(Stiefel(), x, "random", 0.05, generator(1))
    for y, count in ((x.bfloat16().float(), 1), (0.75 * x, 1), (1.3 * x, 1), (0.3 * x, 6)):
        for _ in range(count):
            with SimulatedTF32():
                y = Stiefel().retract(y, u)
        assert defect(y) <= bound_of_surface(y), float(defect(y))


@pytest.mark.parametrize("word", ["qr", "cayley", "polar"])
@pytest.mark.parametrize("shape", [(48, 48), (160, 24)])
def test_other_retractions_stay_on_the_surface(word, shape):
    manifold, random = Stiefel(word), generator(0)
    x = manifold.random_point(*shape, generator=random)
    for rho in (0.01, 1.0, 30.0, 1e6):
        u = tangent_of_norm(manifold, x, "random", rho, random)
        with SimulatedTF32():
            x = manifold.retract(x, u)
        assert defect(x) <= bound_of_surface(x)


@pytest.mark.parametrize("radius", [1.0, 3.0, 1e-16])
@pytest.mark.parametrize("dtype", FULL, ids=name)
def test_spheres(dtype, radius):
    sphere = Sphere(radius=radius)
    x = sphere.random_point(7, 20, generator=generator(0), dtype=dtype)
    u = sphere.random_tangent(x, generator=generator(1))
    for t in (0.0, 1e-3, 1.0, 1e6, 1e30):
        y = sphere.curve(x, u, t)
        with nothing_is_read():
            blind = sphere.curve(x, u, t)
        assert bool((sphere.violation(blind) <= 10 * eps(dtype) * radius).all())
        if t < 1e10:
            torch.testing.assert_close(blind, y, atol=10 * eps(dtype) * radius, rtol=0)


# --- one map -----------------------------------------------------------------------------------


def assert_one_map(manifold, x, u):
    """To 3e-4 of the step with TF32 inputs, and without to rounding, of X and of the step."""
    eps_x = eps(x.dtype)
    rounding = 20 * eps_x * torch.linalg.matrix_norm(x) / torch.linalg.matrix_norm(u)
    for mode, bound in ((SimulatedTF32(), TF32), (nothing_is_read(), 40 * eps_x)):
        with mode:
            y, taken = manifold.curve_with_fraction(x, u, 1.0)
        taken = 1 if taken is None else taken
        assert relative_error(manifold, x, u, taken, y) <= bound + rounding


@over_shapes
@over_kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.float64], ids=name)
@pytest.mark.parametrize("rho", [0.01, 0.1, 0.5, 1.0, 3.0])
def test_an_eager_step_leads_to_the_same_point(shape, kind, rho, dtype):
    x = Stiefel().random_point(*shape, generator=generator(0), dtype=dtype)
    assert_one_map(Stiefel(), x, tangent_of_norm(Stiefel(), x, kind, rho, generator(1)))


@pytest.mark.parametrize("word", ["qr", "cayley"])
@pytest.mark.parametrize("shape", [(48, 48), (160, 24), (24, 160)])
@pytest.mark.parametrize("rho", [0.01, 0.1, 1.0, 3.0])
def test_so_it_is_with_other_retractions(word, shape, rho):
    x = Stiefel().random_point(*shape, generator=generator(0))
    assert_one_map(Stiefel(word), x, tangent_of_norm(Stiefel(), x, "random", rho, generator(1)))


@pytest.mark.parametrize("shape", [(48, 48), (160, 24)])
def test_the_users_setting_changes_nothing(shape, monkeypatch):
    manifold = Stiefel()
    x = manifold.random_point(*shape, generator=generator(0))
    u = tangent_of_norm(manifold, x, "random", 0.1, generator(1))
    with SimulatedTF32() as mode:
        y = manifold.retract(x, u)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with SimulatedTF32() as other:
            assert torch.equal(manifold.retract(x, u), y)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert (other.exact, other.inexact) == (mode.exact, mode.inexact)


def test_a_batch_is_stepped_matrix_by_matrix():
    manifold = Stiefel()
    x = manifold.random_point(4, 6, 6, generator=generator(0))
    u = manifold.random_tangent(x, generator=generator(1))
    u = u * torch.tensor([0.0, 0.1, 3.0, 1e4])[:, None, None]
    with nothing_is_read():
        together = manifold.retract(x, u)
        one_by_one = torch.stack([manifold.retract(*pair) for pair in zip(x, u, strict=True)])
    torch.testing.assert_close(together, one_by_one, atol=1e-6, rtol=0)


# --- steps that are too long -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("manifold", "shape", "longest"),
    [
        (Stiefel(), (30, 30), polar_fixed.LONGEST_CUBIC),
        (SpecialOrthogonal(), (30, 30), polar_fixed.LONGEST_CUBIC),
        (Stiefel(), (40, 10), polar_fixed.LONGEST_POLAR),
        (Stiefel(), (10, 40), polar_fixed.LONGEST_POLAR),
        (Grassmann(), (40, 10), polar_fixed.LONGEST_POLAR),
    ],
    ids=str,
)
def test_they_are_shortened_and_counted(manifold, shape, longest):
    """Where √‖UᴴU‖ is above the limit, and nowhere else; one that is refused does not count."""
    start = manifold.random_point(5, *shape, generator=generator(0))
    params = [nn.Parameter(x.clone()) for x in start]
    u = manifold.random_tangent(start, generator=generator(1))
    gram = u @ u.mT if linalg.is_wide(u) else u.mT @ u
    u = u / torch.linalg.matrix_norm(gram, keepdim=True).sqrt()
    sizes = longest * torch.tensor([0.0, 0.9, 1.1, 10.0, math.nan])
    optimizer = riemopt.RiemannianSGD([{"params": params, "manifold": manifold}], lr=1.0)
    for p, direction, size in zip(params, u, sizes, strict=True):
        p.grad = -size * direction
    with nothing_is_read():
        optimizer.step()
    assert optimizer.shortened_steps == 2
    assert optimizer.skipped_steps == 1
    stepped = torch.stack([p.detach() for p in params])
    whole = manifold.retract(start, longest * torch.tensor([0, 0.9, 1, 1, 0])[:, None, None] * u)
    torch.testing.assert_close(stepped[:4], whole[:4], atol=1e-5, rtol=0)
    assert torch.equal(stepped[[0, 4]], start[[0, 4]])


def test_the_fraction_is_one_where_nothing_is_cut():
    x = Stiefel().random_point(6, 6, generator=generator(0))
    u = Stiefel().random_tangent(x, generator=generator(1))
    with nothing_is_read():
        for t in (0.0, 1e-20, 1e-3, 0.1):
            assert Stiefel().curve_with_fraction(x, u, t)[1] == 1


def test_differentiable_steps_have_a_gradient_where_they_are_zero():
    x = Stiefel().random_point(4, 4, generator=generator(0), dtype=torch.float64)
    u = torch.zeros_like(x, requires_grad=True)
    g = torch.randn(4, 4, generator=generator(1), dtype=torch.float64)
    with nothing_is_read():
        (grad,) = torch.autograd.grad((g * Stiefel().retract(x, u)).sum(), u)
    torch.testing.assert_close(grad, Stiefel().proj_tangent(x, g))


# --- what it costs -----------------------------------------------------------------------------

WANTED = [(w, *wanted) for w in launches.WEIGHTS for wanted in w.wanted]


@pytest.mark.parametrize("case", WANTED, ids=lambda case: f"{case[0].name}, {case[1]}")
def test_kernels_and_products(case):
    weights, optimizer, kernels, products = case
    counted = launches.launches(weights, launches.OPTIMIZERS[optimizer])
    assert counted.kernels.total() <= kernels, counted.kernels
    if products is not None:
        unit = launches.unit(weights.shape, weights.count)
        assert counted.multiplications <= products * unit


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("optimizer", launches.OPTIMIZERS)
def test_a_compiled_step_on_spheres_is_one_graph_of_few_kernels(optimizer):
    weights = launches.Weights("", Sphere(), (600, 256))
    found = launches.compiled(weights, launches.OPTIMIZERS[optimizer])
    assert found.graphs == 1
    assert 1 <= found.kernels <= 3
    assert found.library_calls == 0


@pytest.mark.parametrize("shape", [(512, 512), (1024, 512)])
def test_one_product_is_exact(shape):
    weights = launches.Weights("", Stiefel(), shape)
    counted = launches.launches(weights, launches.OPTIMIZERS[launches.POINT])
    assert counted.exact_multiplications == launches.unit(shape, 1)


# --- counters of steps -------------------------------------------------------------------------


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_counters_of_steps_are_on_the_host_unless_a_graph_is_to_count(capturable, count):
    params = [nn.Parameter(torch.empty(6, 3, device="meta")) for _ in range(count)]
    optimizer = riemopt.RiemannianAdam(
        [{"params": params, "manifold": Stiefel()}], second_moment="point"
    )
    optimizer.param_groups[0]["capturable"] = capturable
    for p in params:
        p.grad = torch.empty_like(p)
    optimizer.step()
    optimizer.step()
    for p in params:
        step = optimizer.state[p]["step"]
        assert step.device.type == ("meta" if capturable else "cpu")
        assert capturable or step == 2


# --- graphs of torch.compile -------------------------------------------------------------------


@pytest.mark.parametrize("wide", [False, True])
def test_the_exact_product_is_an_operator_of_its_own(wide):
    """With derivatives and under vmap."""
    x = torch.randn(3, 5, 2, generator=generator(0), dtype=torch.float64)
    x = (x.mT if wide else x).requires_grad_()
    torch.library.opcheck(torch.ops.riemopt.exact_product.default, (x, x.mT.detach()))
    mapped = torch.func.vmap(torch.ops.riemopt.exact_product, in_dims=(0, None))(x, x[0].mT)
    torch.testing.assert_close(mapped, x @ x[0].mT)


@needs.compiled_steps
@pytest.mark.parametrize(
    ("method", "shape"), [*((m, (12, 12)) for m in launches.OPTIMIZERS), (launches.POINT, (12, 5))]
)
def test_a_compiled_step_is_the_eager_one_in_one_graph(method, shape):
    """And in a square one the Gram matrix that decides does not follow the user's setting."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    start = Stiefel().random_point(*shape, generator=generator(0))
    params = [nn.Parameter(start.clone()) for _ in range(2)]
    make = launches.OPTIMIZERS[method]
    optimizers = [make([{"params": [p], "manifold": Stiefel()}]) for p in params]
    torch._dynamo.reset()
    step = torch.compile(
        lambda: type(optimizers[1]).step(optimizers[1]), fullgraph=True, backend=backend
    )
    for i in range(3):
        for p in params:
            p.grad = torch.randn(shape, generator=generator(i))
        optimizers[0].step()
        step()
    torch.testing.assert_close(*params, atol=1e-6, rtol=0)
    assert len(graphs) == 2  # with a state, and before
    exact = [node for node in graphs[-1].graph.nodes if "exact_product" in str(node.target)]
    assert len(exact) == (shape[0] == shape[1])

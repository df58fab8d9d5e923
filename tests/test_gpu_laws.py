"""The laws of a step on a GPU: the contract, and that one retraction is one map everywhere."""

import torch

from riemopt.manifolds import Grassmann, SpecialOrthogonal, Sphere, Stiefel
from riemopt.testing.behaviour import arguments_are_left_alone, results_keep_the_layout
from riemopt.testing.metrics import carried_mean_is_its_definition as carried_mean
from riemopt.testing.metrics import carried_momentum_is_its_definition as carried_momentum
from riemopt.testing.metrics import transport_is_tangent
from riemopt.testing.projections import projection_is_idempotent, projection_is_self_adjoint
from riemopt.testing.retractions import (
    curve_is_its_definition,
    fraction_belongs_to_the_curve,
    retraction_agrees_with_exp,
    retraction_fixes_zero,
    retraction_is_first_order,
    retraction_is_second_order,
)
from tests.devices import as_accelerator, every_device, on_devices
from tests.laws import SIZES, assert_law
from tests.manifold_cases import CASES, generator, name, point
from tests.simulated_tf32 import (
    TF32,
    bound_of_surface,
    defect,
    relative_error,
    tangent_of_norm,
)
from tests.test_law_retraction import law_batch_equals_loop, law_retract_stays_on_surface

LAWS = (
    projection_is_idempotent,
    projection_is_self_adjoint,
    transport_is_tangent,
    carried_momentum,
    carried_mean,
    curve_is_its_definition,
    fraction_belongs_to_the_curve,
    results_keep_the_layout,
    arguments_are_left_alone,
    retraction_fixes_zero,
    retraction_is_first_order,
)
HERE = [case for case in CASES if case.manifold in (Stiefel(), Sphere())]


def shapes_of(case):
    return [shape for kind, shape in case.shapes.items() if kind not in ("empty", "large")]


def manifold_name(case):
    return str(case.manifold)


@on_devices("case", CASES, HERE, ids=manifold_name)
def test_laws_of_a_step(device, case):
    """In float64, where a mistake stands clear of rounding."""
    laws = list(LAWS)
    if case.second_order == "ambient":
        laws.append(retraction_is_second_order)
    elif case.second_order and case.closed_forms:
        laws.append(retraction_agrees_with_exp)
    for shape in shapes_of(case)[-2:]:
        x = point(case, shape, torch.float64).to(device)
        with as_accelerator(device):
            for law in laws:
                assert_law(law, case.manifold, x, generator(1))


@on_devices("case", CASES, HERE, ids=manifold_name)
def test_steps_of_any_length_end_on_the_surface(device, case):
    for shape in case.shapes.values():
        for dtype in (torch.float32, torch.float64, torch.complex64, torch.bfloat16):
            if case.is_real and dtype.is_complex:
                continue
            x = point(case, shape, dtype).to(device)
            for size in SIZES:
                with as_accelerator(device):
                    law_retract_stays_on_surface(case.manifold, x, generator(1), size)


@on_devices("case", CASES, HERE, ids=manifold_name)
def test_a_batch_is_stepped_point_by_point(device, case):
    for shape in shapes_of(case)[-2:]:
        x = point(case, shape, torch.float64).to(device)
        with as_accelerator(device):
            law_batch_equals_loop(case.manifold, x, generator(1))


@on_devices("case", CASES, HERE, ids=manifold_name)
def test_the_gradient_of_a_step_is_that_on_the_cpu(device, case):
    """Of the tangent, for differentiable steps."""
    shape = shapes_of(case)[-1]
    x = point(case, shape, torch.float64)
    u = case.manifold.random_tangent(x, generator=generator(1))
    g = torch.randn(shape, generator=generator(2), dtype=torch.float64)
    gradients = []
    for where in ("cpu", device):
        v = (0.1 * u).to(where).requires_grad_()
        with as_accelerator(where):
            y = case.manifold.retract(x.to(where), v)
        gradients.append(torch.autograd.grad((g.to(where) * y).sum(), v)[0].cpu())
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)


# --- orthonormal columns, whose products may take TF32 inputs ------------------------------------

SHAPES = [(48, 48), (512, 512), (1024, 64), (64, 1024), (1024, 512), (64, 16, 16)]
DTYPES = [torch.float32, torch.float64, torch.complex64]
ORTHONORMAL = [Stiefel(), Stiefel("qr"), Stiefel("cayley"), SpecialOrthogonal(), Grassmann()]
MATRICES = [
    (manifold, shape)
    for manifold in ORTHONORMAL
    for shape in SHAPES
    if shape[-1] == shape[-2] or not isinstance(manifold, SpecialOrthogonal)
    if shape[-1] != shape[-2] or not isinstance(manifold, Grassmann)
]


@on_devices("manifold,shape", MATRICES, [(Stiefel(), (48, 48)), (Grassmann(), (160, 24))])
def test_many_steps_end_on_the_surface(device, manifold, shape):
    """Nothing adds up, also where products round their inputs to TF32."""
    for kind in ("random", "rank 2"):
        x = manifold.random_point(*shape, generator=generator(0)).to(device)
        for rho in (0.01, 0.1, 1.0, 3.0, 8.0) * 3:
            u = tangent_of_norm(manifold, x, kind, rho, generator(1))
            with as_accelerator(device):
                x = manifold.retract(x, u)
            assert defect(x) <= bound_of_surface(x), rho


@on_devices("manifold,shape", MATRICES, [(Stiefel(), (48, 48)), (Stiefel("qr"), (160, 24))])
def test_a_step_leads_where_it_does_on_the_cpu(device, manifold, shape):
    """To 3e-4 of the step with TF32 inputs, and to rounding in float64."""
    for dtype in DTYPES:
        x = manifold.random_point(*shape, generator=generator(0), dtype=dtype)
        for rho in (0.01, 0.5, 1.0):
            u = tangent_of_norm(manifold, x, "random", rho, generator(1))
            with as_accelerator(device):
                y, taken = manifold.curve_with_fraction(x.to(device), u.to(device), 1.0)
            part = 1 if taken is None else taken.cpu().reshape(-1, 1, 1)
            eps = torch.finfo(dtype).eps
            rounding = 20 * eps * torch.linalg.matrix_norm(x) / torch.linalg.matrix_norm(u)
            bound = (40 * eps if dtype is torch.float64 else TF32) + rounding
            error = relative_error(manifold, x, u, part, y.cpu()) / bound
            assert bool((error <= 1).all()), (name(dtype), rho, float(error.max()))


@every_device()
def test_what_the_user_prefers_of_products_changes_nothing(device):
    manifold = Stiefel()
    for shape in ((256, 256), (512, 64)):
        x = manifold.random_point(*shape, generator=generator(0)).to(device)
        u = tangent_of_norm(manifold, x, "random", 0.5, generator(1))
        ends = []
        before = torch.get_float32_matmul_precision()
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            try:
                with as_accelerator(device):
                    ends.append(manifold.retract(x, u))
                assert torch.get_float32_matmul_precision() == precision
            finally:
                torch.set_float32_matmul_precision(before)
        # TF32 in another place would be seen as 1e-4 of the step.
        torch.testing.assert_close(*ends, rtol=0, atol=1e-6)
        assert defect(ends[1]) <= bound_of_surface(x)


@every_device()
def test_points_are_drawn_on_the_device(device):
    random = torch.Generator(device).manual_seed(0)
    x = Stiefel().random_point(6, 3, generator=random, device=device, dtype=torch.float64)
    u = Stiefel().random_tangent(x, generator=random)
    assert x.device.type == u.device.type == device
    assert defect(x) < 1e-14
    torch.testing.assert_close(Stiefel().proj_tangent(x, u), u)

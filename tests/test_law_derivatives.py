"""`project`, `exp`, `log` and dist² have the right derivatives wherever they are smooth."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from riemopt.manifolds import Flattened, Sphere, Stiefel
from riemopt.testing.derivatives import (
    exp_has_its_derivative,
    log_has_its_derivative,
    project_has_its_derivative,
    squared_dist_has_its_derivative,
)
from tests import needs
from tests.laws import assert_law, tangent
from tests.manifold_cases import EXACT, first_of_its_metric, generator, name, over, point


def has(form):
    return lambda case: form in case.closed_forms and first_of_its_metric(case)


@over(dtypes=EXACT, kinds="small", where=first_of_its_metric)
def test_project(case, shape, dtype):
    x = point(case, shape, dtype)
    assert_law(project_has_its_derivative, case.manifold, x, generator(1))


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@over(dtypes=EXACT, kinds="small", where=has("exp"))
def test_exp(case, shape, dtype):
    x = point(case, shape, dtype)
    assert_law(exp_has_its_derivative, case.manifold, x, generator(1))


@over(dtypes=EXACT, kinds="small", where=has("log"))
def test_log(case, shape, dtype):
    x = point(case, shape, dtype)
    assert_law(log_has_its_derivative, case.manifold, x, generator(1))


@over(
    dtypes=EXACT,
    kinds="small",
    where=lambda case: has("dist")(case) and not case.manifold.keeps_entries,
)
def test_squared_dist(case, shape, dtype):
    x = point(case, shape, dtype)
    assert_law(squared_dist_has_its_derivative, case.manifold, x, generator(1))


# --- of every order, in both modes, under transforms ---

SHAPES = [(3, 3), (4, 2), (2, 3), (2, 2, 1)]


@pytest.mark.parametrize("kind", ["orthonormal", "generic"])
@pytest.mark.parametrize("dtype", EXACT, ids=name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_stiefel_project_in_both_modes(shape, dtype, kind):
    a = torch.randn(shape, generator=generator(0), dtype=dtype)
    if kind == "orthonormal":
        a = 2 * Stiefel().project(a)  # all singular values are equal
    a.requires_grad_()
    # torch's batched forward mode fails on the adjoint of a complex matrix: an internal error.
    batched = not (dtype.is_complex and shape[-2] < shape[-1])
    assert gradcheck(
        Stiefel().project,
        (a,),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=batched,
    )
    assert gradgradcheck(Stiefel().project, (a,), check_fwd_over_rev=True)


@pytest.mark.parametrize("manifold", [Sphere(radius=0.5), Sphere(dim=0)], ids=str)
def test_second_derivatives_on_the_sphere(manifold):
    """Of exp at u = 0, of log at y = x, and at other places."""
    x = manifold.random_point(2, 2, generator=generator(0), dtype=torch.float64)
    x.requires_grad_()
    for size in (0.0, 0.3):
        u = (size * tangent(manifold, x, generator(1))).detach().requires_grad_()
        y = manifold.exp(x, u).detach().requires_grad_()
        for function, second in ((manifold.exp, u), (manifold.log, y)):
            assert gradcheck(function, (x, second), check_forward_ad=True)
            assert gradgradcheck(function, (x, second))


def weighted(a):
    """A function of the point, with no symmetry."""
    return (Stiefel().project(a) * torch.arange(8.0, dtype=a.dtype).view(4, 2)).sum()


def test_torch_func_to_the_third_derivative():
    x = Stiefel().random_point(4, 2, generator=generator(0), dtype=torch.float64)
    rev, fwd = torch.func.jacrev, torch.func.jacfwd
    second = rev(rev(weighted))
    h = 1e-5
    directions = torch.eye(8, dtype=torch.float64).view(8, 4, 2)
    quotients = [(second(x + h * d) - second(x - h * d)) / (2 * h) for d in directions]
    third = torch.stack(quotients, -1).reshape(*[4, 2] * 3)
    for compose in (rev(second), fwd(second), rev(fwd(rev(weighted)))):
        torch.testing.assert_close(compose(x), third, rtol=0, atol=1e-7)


def test_forward_mode_within_forward_mode_is_refused():
    """torch would leave a part of the derivative out."""
    x = Stiefel().random_point(4, 2, generator=generator(0), dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="hessian"):
        torch.func.jacfwd(torch.func.jacfwd(weighted))(x)


def test_vmap():
    a = torch.randn(3, 4, 2, generator=generator(0), dtype=torch.float64)
    gradients = torch.func.vmap(torch.func.grad(weighted))(a)
    torch.testing.assert_close(gradients, torch.stack([torch.func.grad(weighted)(m) for m in a]))


@needs.compiled_forward
def test_a_graph_of_torch_compile():
    gradients = []
    for function in (weighted, torch.compile(weighted, fullgraph=True, backend="aot_eager")):
        a = torch.eye(4, 2, requires_grad=True)
        function(a).backward()
        gradients.append(a.grad)
    torch.testing.assert_close(*gradients)


# --- what was reported ---


def test_a_rotation_layer_at_the_identity():
    A = torch.eye(3, requires_grad=True)
    Stiefel().project(A)[0, 1].backward()
    expected = torch.zeros(3, 3)
    expected[0, 1], expected[1, 0] = 0.5, -0.5
    torch.testing.assert_close(A.grad, expected)


@pytest.mark.parametrize("manifold", [Stiefel(), Flattened(Stiefel(), event_ndim=3)], ids=str)
@pytest.mark.parametrize("noise", [0.0, 1e-8, 1e-6, 1e-3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=name)
def test_single_precision_near_orthonormal(manifold, noise, dtype):
    """The gradient of rounded inputs, in the precision of the dtype."""
    exact = torch.complex128 if dtype.is_complex else torch.float64
    shape = (8, 3, 1)[: manifold.event_ndim]
    x = manifold.random_point(*shape, generator=generator(0), dtype=exact)
    x = (x + noise * torch.randn(shape, generator=generator(1), dtype=exact)).to(dtype)
    w = torch.randn(shape, generator=generator(2), dtype=exact)
    (found,), (right,) = (
        torch.autograd.grad(manifold.project(a), a, w.to(a.dtype))
        for a in (x.clone().requires_grad_(), x.to(exact).requires_grad_())
    )
    rounded = torch.finfo(dtype).eps * torch.linalg.vector_norm(w)
    assert torch.linalg.vector_norm(found.to(exact) - right) <= 10 * rounded


@pytest.mark.parametrize("shape", [(3, 3), (4, 3), (3, 4), (0, 4, 3), (2, 0, 4, 3)], ids=str)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_the_rank_is_not_full_gradients_are_finite(shape, value):
    a = torch.full(shape, value, requires_grad=True)
    (gradient,) = torch.autograd.grad(Stiefel().project(a).sum(), a)
    assert bool(gradient.isfinite().all())
    assert bool((gradient.abs() < 1e6).all())

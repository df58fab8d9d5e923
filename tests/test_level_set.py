"""`LevelSet`: any c(x) = 0, against what has been derived by hand, and where it cannot go on."""

import copy
import functools
import pickle
from contextlib import nullcontext

import launches
import pytest
import torch
from torch import Tensor, nn

import riemopt
from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD, constrain
from riemopt.manifolds import LevelSet, Sphere, Stiefel, Symmetric
from riemopt.manifolds.level_set import newton
from riemopt.manifolds.level_set.equations import follow
from tests import needs
from tests.level_set_gallery import (
    CLOSED_FORMS,
    GALLERY,
    NEAREST,
    circle,
    ellipsoid,
    generalized_stiefel,
    stiefel,
    tensor,
    unit_determinant,
)
from tests.manifold_cases import equals_its_adjoint, generator, name, orthonormal_columns, unit_norm
from tests.simulated_tf32 import nothing_is_read

EPS = torch.finfo(torch.float64).eps
OPTIMIZERS = {
    "sgd": lambda p: RiemannianSGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: RiemannianAdam(p, lr=0.05),
}
over_gallery = pytest.mark.parametrize("example", GALLERY, ids=lambda n: n.replace(" ", "-"))


def point_of(example: str, dtype: torch.dtype = torch.float64) -> tuple[LevelSet, Tensor]:
    manifold, shape, _ = GALLERY[example]
    return manifold, manifold.random_point(*shape, generator=generator(1), dtype=dtype)


def scale(manifold: LevelSet, x: Tensor) -> float:
    """Violation that rounding explains."""
    return float(manifold.tolerance(x).max())


# --- the geometry, against closed forms and dense linear algebra ---


@over_gallery
def test_projection_is_that_of_a_dense_solve(example):
    """u - J⁺Ju with J row by row and the pseudo-inverse of LAPACK, which knows redundancy."""
    manifold, x = point_of(example)
    u = torch.randn(x.shape, generator=generator(2), dtype=x.dtype)
    events = manifold.event_dims(x.ndim)
    points = x.flatten(0, x.ndim - len(events) - 1) if len(events) < x.ndim else x[None]
    vectors = u.reshape(points.shape)
    expected = []
    for p, v in zip(points, vectors, strict=True):
        constraints = [follow(c, p.device, p.dtype) for c in manifold.constraints]
        rows = [torch.func.jacrev(c)(p).reshape(-1, p.numel()) for c in constraints]
        J = torch.cat(rows)
        expected.append(v.flatten() - torch.linalg.pinv(J, rtol=1e-10) @ (J @ v.flatten()))
    found = manifold.proj_tangent(x, u).reshape(len(points), -1)
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("example", CLOSED_FORMS, ids=lambda n: n.replace(" ", "-"))
@pytest.mark.parametrize("dense_up_to", [0, 1000])
def test_projection_is_the_one_derived_by_hand(example, dense_up_to):
    manifold, x = point_of(example)
    manifold = LevelSet(
        *manifold.constraints, event_ndim=manifold.points_ndim, dense_up_to=dense_up_to
    )
    u = torch.randn(x.shape, generator=generator(2), dtype=x.dtype)
    found, expected = manifold.proj_tangent(x, u), CLOSED_FORMS[example](x, u)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("example", NEAREST, ids=lambda n: n.replace(" ", "-"))
@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0, 5.0])
def test_a_step_ends_where_the_hand_derived_one_does(example, size):
    manifold, x = point_of(example)
    u = manifold.random_tangent(x, generator=generator(3))
    u = size * u / u.norm()
    y, taken = manifold.curve_with_fraction(x, u, 1.0)
    assert bool((taken == 1).all())
    torch.testing.assert_close(y, NEAREST[example](x + u), rtol=0, atol=1e-14 * (1 + size**3))


@over_gallery
def test_a_random_point_is_on_the_surface(example):
    manifold, x = point_of(example)
    assert bool((manifold.violation(x) <= manifold.tolerance(x)).all())


@over_gallery
def test_dimension(example):
    manifold, shape, dim = GALLERY[example]
    assert manifold.dim(shape) == dim


@over_gallery
@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-2, 1.0, 1e3, 1e6])
def test_no_step_leaves_the_surface(example, size):
    for dtype in (torch.float64, torch.float32):
        manifold, x = point_of(example, dtype)
        u = manifold.random_tangent(x, generator=generator(4))
        y, taken = manifold.curve_with_fraction(x, size * u / u.norm(), 1.0)
        assert bool(y.isfinite().all())
        assert bool((manifold.violation(y) <= 2 * manifold.tolerance(y)).all())
        assert bool(((taken >= 0) & (taken <= 1)).all())


@over_gallery
def test_project_is_stationary(example):
    """a - project(a) is normal: no descent of the distance along the surface is left."""
    manifold, x = point_of(example)
    a = x + 0.1 * torch.randn(x.shape, generator=generator(5), dtype=x.dtype)
    y = manifold.project(a)
    assert bool((manifold.violation(y) <= manifold.tolerance(y)).all())
    along = manifold.proj_tangent(y, a - y)
    assert float(along.norm()) <= 1e-12 * float((a - y).norm() + y.norm())


@pytest.mark.parametrize("size", [1.0, 1e-4, 1e4])
def test_scale_of_the_equations_does_not_matter(size):
    """Of one equation among others, and of all."""
    a = torch.randn(6, generator=generator(0), dtype=torch.float64)
    u = torch.randn(6, generator=generator(1), dtype=torch.float64)

    def scaled(x):
        return torch.stack([size * (x.square().sum() - 1), x.sum() / size])

    def plain(x):
        return torch.stack([x.square().sum() - 1, x.sum()])

    there, here = LevelSet(scaled), LevelSet(plain)
    x = here.project(a)
    torch.testing.assert_close(there.proj_tangent(x, u), here.proj_tangent(x, u))
    torch.testing.assert_close(there.retract(x, 0.1 * u), here.retract(x, 0.1 * u))
    uniform = LevelSet(lambda X: size * stiefel(X), dense_up_to=0)
    X = Stiefel().random_point(8, 4, generator=generator(0))
    U = torch.randn(8, 4, generator=generator(1))
    torch.testing.assert_close(uniform.proj_tangent(X, U), Stiefel().proj_tangent(X, U))
    V = Stiefel().proj_tangent(X, U)
    torch.testing.assert_close(uniform.curve(X, V, -0.1), Stiefel().curve(X, V, -0.1))


def test_what_no_step_can_mend_is_no_direction_of_one():
    """Rounding makes XᴴX - I of entries that do not repeat each other exactly: out of J's range."""
    manifold = LevelSet(orthonormal_columns, event_ndim=2, dense_up_to=0)
    for seed in range(20):
        for scale in (1.0, 1e-3):
            noise = torch.randn(5, 2, generator=generator(seed), dtype=torch.complex64)
            x = manifold.project(scale * noise)
            assert manifold.violation(x.to(torch.complex128)) <= 1e-6


def test_a_small_row_among_large_ones_is_an_equation_all_the_same():
    """In float32, the mean of a million squares beside their sum: rows of norms 4e-4 and 1e3."""

    def unit_variance(W):
        return W.square().mean() - 1

    manifold = LevelSet(torch.sum, unit_variance)
    W = 0.3 * torch.randn(1200, 1200, generator=generator(0)) + 0.01
    X = manifold.project(W)
    assert abs(X.square().mean().item() - 1) < 1e-5
    assert abs(X.double().sum().item()) < 1.0
    Y, taken = manifold.curve_with_fraction(X, manifold.proj_tangent(X, torch.ones_like(X)), 0.1)
    assert taken.item() == 1
    assert abs(Y.square().mean().item() - 1) < 1e-5


def test_a_violated_equation_is_seen_beside_one_of_a_large_scale():
    layer = nn.Linear(3, 4)
    constrain(layer, "weight", LevelSet(lambda x: 1e5 * x[0, 0], circle))
    assert riemopt.constraints(layer)[0].satisfied
    with torch.no_grad():
        layer.weight *= 1.05
    assert not riemopt.constraints(layer)[0].satisfied
    riemopt.project_(layer)
    assert riemopt.constraints(layer)[0].satisfied
    assert abs(layer.weight.square().sum().item() - 1) < 1e-6


# --- where it cannot go on ---


def test_a_step_from_a_singular_point_is_left_out_and_counted():
    """The tip of a cone."""
    cone = LevelSet(lambda x: x[0] ** 2 + x[1] ** 2 - x[2] ** 2)
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = RiemannianSGD([{"params": p, "manifold": cone}], lr=0.1)
    p.grad = tensor(1, 0, 0)
    optimizer.step()
    assert torch.equal(p.detach(), torch.zeros(3, dtype=torch.float64))
    assert (optimizer.shortened_steps, optimizer.skipped_steps) == (1, 0)


def test_a_step_that_no_part_of_comes_back_stays_and_the_others_go():
    """c is not defined beyond 1: the logarithm's argument is negative there."""

    def walled(x):
        return x[1] - torch.log(1 - x[0])

    curve = LevelSet(walled, event_ndim=1)
    x = curve.project(torch.tensor([[0.5, 0.0], [-2.0, 0.0]], dtype=torch.float64))
    u = curve.proj_tangent(x, torch.ones_like(x))
    y, taken = curve.curve_with_fraction(x, 100 * u / u.norm(dim=1, keepdim=True), 1.0)
    assert bool(y.isfinite().all())
    assert bool((curve.violation(y) <= 2 * curve.tolerance(y)).all())
    assert bool((taken < 1).any())


def test_a_function_that_is_nowhere_regular_is_refused():
    squared = LevelSet(lambda x: (x.square().sum() - 1) ** 2)
    with pytest.raises(ValueError, match="derivative does not vanish"):
        squared.project(torch.randn(5, generator=generator(0), dtype=torch.float64))


def test_a_set_without_points_is_refused_and_nothing_changes():
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    with pytest.raises(ValueError, match="found no point"):
        constrain(layer, "weight", LevelSet(lambda x: x.square().sum() + 1))
    assert torch.equal(layer.weight, before)
    assert riemopt.manifold_of(layer.weight) is None


def test_shortened_steps_survive_copies():
    optimizer = RiemannianSGD([nn.Parameter(torch.zeros(2))], lr=0.1)
    optimizer._shortened.prepare(torch.device("cpu"))
    optimizer._shortened.add(torch.tensor(3))
    assert copy.deepcopy(optimizer).shortened_steps == 3
    assert pickle.loads(pickle.dumps(optimizer)).shortened_steps == 3
    state = optimizer.__getstate__()
    del state["_shortened"]  # as saved before there was such a count
    optimizer.__setstate__(state)


# --- tensors that the function closes over ---

GLOBAL = torch.diag(torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64))


def with_an_argument(x, matrix):
    return x @ matrix @ x - 1


def closed_over(matrix):
    return lambda x: x @ matrix @ x - 1


def with_a_default(x, matrix=GLOBAL):
    return x @ matrix @ x - 1


FOLLOWED = {
    "closure": closed_over(GLOBAL),
    "partial": functools.partial(with_an_argument, matrix=GLOBAL),
    "default": with_a_default,
    "function in a closure": (lambda f: lambda x: f(x))(closed_over(GLOBAL)),
    "module": nn.Sequential(nn.Linear(3, 1, dtype=torch.float64)),
}


@pytest.mark.parametrize("held", FOLLOWED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=name)
def test_what_the_function_holds_follows_the_points(held, dtype):
    manifold = LevelSet(FOLLOWED[held], event_ndim=1)
    x = manifold.random_point(4, 3, generator=generator(0), dtype=dtype)
    assert x.dtype == dtype
    assert bool((manifold.violation(x) <= manifold.tolerance(x)).all())
    assert manifold.proj_tangent(x, torch.randn_like(x)).dtype == dtype
    meta = x.to("meta")
    assert manifold.retract(meta, meta).device.type == "meta"
    # What the user has is not touched.
    assert GLOBAL.dtype == torch.float64


def test_a_function_that_fits_is_used_as_it_is():
    for held, constraint in FOLLOWED.items():
        if held != "module":  # whose weights need a gradient
            assert follow(constraint, torch.device("cpu"), torch.float64) is constraint
    frozen = nn.Linear(3, 1).requires_grad_(False)
    assert follow(frozen, torch.device("cpu"), torch.float32) is frozen


def recursive(matrix):
    def c(x, n=3):
        return x * matrix.diagonal().sum() if n == 0 else c(x, n - 1)

    return c


def used_twice(matrix):
    inner = closed_over(matrix)
    return lambda x: inner(x) + closed_over(matrix)(x) * matrix.sum()


def through_parts(network):
    return lambda x: network[1](network[0](x)) * network[0].weight.sum()


def network():
    return nn.Sequential(nn.Linear(3, 2, dtype=torch.float64), nn.Tanh())


HELD_TWICE = {
    "recursive": recursive(GLOBAL),
    "used twice": used_twice(GLOBAL),
    "module and its parts": through_parts(network()),
}


@pytest.mark.parametrize("held", HELD_TWICE)
def test_what_is_held_twice_is_moved_once_and_everywhere(held):
    constraint = HELD_TWICE[held]
    followed = follow(constraint, torch.device("cpu"), torch.float32)
    value = followed(torch.ones(3))
    assert value.dtype == torch.float32
    assert not value.requires_grad
    torch.testing.assert_close(value.double(), constraint(torch.ones(3).double()).detach())
    # With the copies and not the originals; and these are as they were.
    assert constraint(torch.ones(3).double()).dtype == torch.float64


COMPILED = {**FOLLOWED, "module and its parts": through_parts(network())}


@needs.compiled_steps
@pytest.mark.sampled(3)
@pytest.mark.parametrize("held", COMPILED)
def test_a_step_with_moved_tensors_is_compiled(held):
    p = nn.Parameter(torch.ones(3))
    optimizer = RiemannianSGD([{"params": [p], "manifold": LevelSet(COMPILED[held])}], lr=0.1)
    p.grad = torch.ones(3)
    torch._dynamo.reset()
    step = torch.compile(lambda: RiemannianSGD.step(optimizer), backend="eager", fullgraph=True)
    step()
    assert bool(p.isfinite().all())
    torch._dynamo.reset()


def with_a_global(x):
    return x @ GLOBAL @ x - 1


def calls_another(x):
    return with_a_global(x) * 2


def in_a_comprehension(x):
    return sum((row @ x).square() for row in (GLOBAL for _ in range(1)))


def calls_itself(x, n=2):
    return calls_itself(x, n - 1) if n else x @ GLOBAL @ x


NETWORK = network()


def with_a_global_module(x):
    return NETWORK(x)


def calls_a_default(x):
    return with_a_default(x)


def names_an_attribute(x):
    return Points(x).GLOBAL.square().sum() - 1


class Points:
    def __init__(self, x):
        self.GLOBAL = x


GLOBALS = {
    with_a_global: "GLOBAL",
    calls_another: "GLOBAL",
    in_a_comprehension: "GLOBAL",
    calls_itself: "GLOBAL",
    with_a_global_module: "NETWORK",
    calls_a_default: "with_a_default",
    functools.partial(with_a_global): "GLOBAL",
    (lambda f: lambda x: f(x))(with_a_global): "GLOBAL",
}


@pytest.mark.parametrize("constraint", GLOBALS, ids=lambda f: getattr(f, "__name__", "partial"))
def test_tensors_in_global_variables_do_not_follow_and_that_is_said(constraint):
    layer = nn.Linear(3, 1)
    with pytest.raises(ValueError, match=f"global variable '{GLOBALS[constraint]}'.*default arg"):
        constrain(layer, "weight", LevelSet(constraint, event_ndim=1))
    with pytest.raises(ValueError, match="cannot follow the points"):
        follow(constraint, torch.device("meta"), torch.float64)


def test_global_variables_that_fit_are_used():
    for constraint in (with_a_global, calls_another, calls_itself, calls_a_default):
        assert follow(constraint, torch.device("cpu"), torch.float64) is constraint
    x = LevelSet(calls_another).random_point(3, generator=generator(0), dtype=torch.float64)
    torch.testing.assert_close(x @ GLOBAL @ x, tensor(1)[0])
    # An attribute of the same name is no global variable.
    assert follow(names_an_attribute, torch.device("cpu"), torch.float32) is names_an_attribute


def test_what_is_kept_of_one_point_is_used_there_alone():
    manifold = LevelSet(circle, torch.sum)
    x, z = (manifold.random_point(4, generator=generator(s), dtype=torch.float64) for s in (0, 1))
    u = torch.randn(4, generator=generator(2), dtype=torch.float64)
    there = manifold.linearised_at(x)
    assert there == manifold
    assert manifold._here is None
    for y in (x, z, x.clone()):
        assert torch.equal(there.proj_tangent(y, u), manifold.proj_tangent(y, u))
    moved = u.clone().requires_grad_()
    there.proj_tangent(x, moved).sum().backward()
    torch.testing.assert_close(moved.grad, manifold.proj_tangent(x, torch.ones_like(x)))


def test_weights_of_a_network_in_c_get_no_gradient():
    net = nn.Linear(3, 1)
    x = LevelSet(net).random_point(3, generator=generator(0))
    assert not x.requires_grad
    a = torch.ones(3, requires_grad=True)
    LevelSet(net).proj_tangent(x, a).sum().backward()
    assert net.weight.grad is None


# --- what is accepted ---


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="functions of a point; got none"):
        LevelSet()
    with pytest.raises(TypeError, match="functions of a point; got 3"):
        LevelSet(3)
    with pytest.raises(ValueError, match="event_ndim ≥ 0; got -1"):
        LevelSet(circle, event_ndim=-1)
    with pytest.raises(ValueError, match="cg_iterations ≥ 1; got 0"):
        LevelSet(circle, cg_iterations=0)
    with pytest.raises(ValueError, match="at least event_ndim=2"):
        LevelSet(circle, event_ndim=2).check_shape((3,))


@pytest.mark.parametrize("value", [True, 1.0, torch.tensor(True), torch.tensor(1)], ids=repr)
def test_a_function_that_returns_no_residual_is_named(value):
    def on_it(x):
        return value

    with pytest.raises(TypeError, match=r"on_it must return a floating-point tensor"):
        LevelSet(on_it).violation(torch.ones(2))


def test_a_function_that_returns_nothing_is_named():
    with pytest.raises(ValueError, match="returned no number"):
        LevelSet(lambda x: x[:0]).violation(torch.ones(2))


def test_integers_are_named():
    with pytest.raises(
        TypeError, match=r"needs floating-point or complex tensors; got torch.int64"
    ):
        LevelSet(circle).project(torch.ones(2, dtype=torch.int64))


def test_a_constant_of_another_precision_does_not_change_that_of_the_points():
    def c(X):
        return X.mT @ X - torch.eye(X.shape[-1], dtype=torch.float64)

    X = LevelSet(c).random_point(5, 2, generator=generator(0), dtype=torch.float32)
    assert X.dtype == torch.float32
    assert LevelSet(c).proj_tangent(X, X).dtype == torch.float32
    assert LevelSet(c).retract(X, 0 * X).dtype == torch.float32


def test_functions_that_cannot_be_hashed_are_refused_at_once():
    class Unhashable:
        __hash__ = None

        def __call__(self, x):
            return x.sum()

    with pytest.raises(TypeError, match="unhashable"):
        LevelSet(Unhashable())


def test_a_wrong_function_fails_when_the_optimizer_is_built():
    """Not in a step, after other groups have moved."""
    plain, wrong = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    manifold = LevelSet(ellipsoid(tensor(1, 2)))
    with pytest.raises(RuntimeError, match="must match the size"):
        RiemannianSGD([{"params": [plain]}, {"params": [wrong], "manifold": manifold}], lr=0.1)


def test_points_of_no_dimension():
    manifold = LevelSet(lambda x: x**2 - 2, event_ndim=0)
    x = manifold.random_point(4, generator=generator(0), dtype=torch.float64)
    torch.testing.assert_close(x.abs(), torch.full((4,), 2**0.5, dtype=torch.float64))
    assert manifold.dim((4,)) == 0


def test_equal_by_the_function_objects():
    f, g = ellipsoid(tensor(1, 2)), ellipsoid(tensor(1, 2))
    assert LevelSet(f) == LevelSet(f) != LevelSet(g)
    assert LevelSet(f) != LevelSet(f, event_ndim=1)
    assert hash(LevelSet(f)) == hash(LevelSet(f))
    assert copy.deepcopy(LevelSet(f)) == LevelSet(f)
    assert LevelSet(f).with_dims_from_end(1) == LevelSet(f, event_ndim=1)
    assert repr(LevelSet(circle, torch.sum, dense_up_to=3)) == (
        "LevelSet(circle, sum, dense_up_to=3)"
    )


# --- in a model and an optimizer ---

TWINS = {
    "sphere": (LevelSet(unit_norm, event_ndim=1), Sphere(), (5, 7)),
    "stiefel": (LevelSet(orthonormal_columns), Stiefel(), (7, 3)),
    "stiefel, products": (LevelSet(orthonormal_columns, dense_up_to=0), Stiefel(), (7, 3)),
    "symmetric": (LevelSet(equals_its_adjoint), Symmetric(), (4, 4)),
}


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("twin", TWINS)
def test_training_takes_the_path_of_the_hand_derived_manifold(twin, make):
    """Twenty steps in float64; Symmetric has an elementwise Adam of its own."""
    here, there, shape = TWINS[twin]
    if twin == "symmetric" and make == "adam":
        pytest.skip("Adam is elementwise on Symmetric")
    x = there.random_point(*shape, generator=generator(0), dtype=torch.float64)
    target = torch.randn(shape, generator=generator(1), dtype=torch.float64)
    ends = []
    for manifold in (here, there):
        p = nn.Parameter(x.clone())
        optimizer = OPTIMIZERS[make]([{"params": p, "manifold": manifold}])
        for _ in range(20):
            optimizer.zero_grad()
            (p - target).square().sum().backward()
            optimizer.step()
        assert optimizer.shortened_steps == 0
        ends.append(p.detach())
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)


@over_gallery
@pytest.mark.parametrize("make", OPTIMIZERS)
def test_optimizers_stay_on_every_set(example, make):
    """In float32, with gradients of any direction; and they descend."""
    manifold, x = point_of(example, torch.float32)
    target = torch.randn(x.shape, generator=generator(6))
    p = nn.Parameter(x)
    optimizer = OPTIMIZERS[make]([{"params": p, "manifold": manifold}])
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (p - target).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        violation = manifold.violation(p.detach())
        assert bool((violation <= 2 * manifold.tolerance(p.detach())).all())
    assert min(losses) < losses[0] or losses[0] < 1e-3


def test_two_constraints_on_a_layer_by_name(tmp_path):
    """constrain, report, checkpoint, resume."""

    def model():
        torch.manual_seed(0)
        layer = nn.Linear(6, 4)
        constrain(layer, "weight", LevelSet(circle, torch.sum))
        return layer, RiemannianAdam(layer.parameters(), lr=0.01)

    def train(layer, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            layer(torch.ones(3, 6)).square().sum().backward()
            optimizer.step()

    layer, optimizer = model()
    (report,) = riemopt.constraints(layer)
    assert report.satisfied
    assert abs(layer.weight.square().sum().item() - 1) < 1e-6
    assert abs(layer.weight.sum().item()) < 1e-6
    train(layer, optimizer, 3)
    torch.save((layer.state_dict(), optimizer.state_dict()), tmp_path / "checkpoint")
    train(layer, optimizer, 3)
    again, resumed = model()
    weights, state = torch.load(tmp_path / "checkpoint")
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    train(again, resumed, 3)
    assert torch.equal(layer.weight, again.weight)
    assert riemopt.constraints(again)[0].satisfied


def test_half_precision_does_not_shorten_steps_since_rounding_is_off_the_surface():
    """A bfloat16 point is 4e-3 off; a step of 1e-3 is taken whole."""
    sphere = LevelSet(unit_norm, event_ndim=1)
    p = nn.Parameter(sphere.random_point(20, 50, generator=generator(0), dtype=torch.bfloat16))
    optimizer = RiemannianSGD([{"params": p, "manifold": sphere}], lr=1e-3)
    for seed in range(5):
        p.grad = torch.randn(p.shape, generator=generator(seed)).bfloat16()
        optimizer.step()
    assert optimizer.shortened_steps == 0
    assert bool((sphere.violation(p.detach()) <= sphere.tolerance(p.detach())).all())


@needs.torch_from("2.7", "torch.func.grad refuses to run where saved-tensor hooks are set")
def test_c_may_take_a_derivative_itself():
    """By torch.func.grad: the gradient of a potential is zero along the set."""
    potential = torch.func.grad(lambda x: (x[0] * x[1]).sin() + x[2] ** 2)
    manifold = LevelSet(lambda x: potential(x)[2] - 1)
    x = manifold.random_point(3, generator=generator(0), dtype=torch.float64)
    torch.testing.assert_close(x[2], tensor(0.5)[0])
    u = manifold.proj_tangent(x, torch.ones_like(x))
    torch.testing.assert_close(u, tensor(1, 1, 0))


def test_the_number_of_corrections_where_nothing_is_read_is_enough(monkeypatch):
    """With the host blind, a step up to one radius is taken whole, a longer one to one radius."""
    monkeypatch.setattr(newton, "adaptive", lambda a: False)
    for dtype in (torch.float32, torch.float64):
        x = Sphere().random_point(100, 8, generator=generator(0), dtype=dtype)
        manifold = LevelSet(unit_norm, event_ndim=1)
        u = Sphere().random_tangent(x, generator=generator(1))
        u = u / u.norm(dim=1, keepdim=True)
        for size in (0.0, 1e-6, 1e-2, 0.3, 0.99, 3.0, 1e4):
            y, taken = manifold.curve_with_fraction(x, u, size)
            expected = torch.full_like(taken, min(1.0, 1 / size if size else 1.0))
            torch.testing.assert_close(taken, expected, rtol=1e-3, atol=0)
            assert bool((manifold.violation(y) <= manifold.tolerance(y)).all())
            torch.testing.assert_close(y, Sphere().curve(x, u, size * taken[:, None]))


def test_determinant_one_keeps_volume():
    """Adam on SL(3) finds the one point that it looks for."""
    manifold = LevelSet(unit_determinant)
    x = manifold.project(torch.eye(3) + 0.1 * torch.randn(3, 3, generator=generator(0)))
    p, target = nn.Parameter(x), torch.diag(torch.tensor([2.0, 1.0, 0.5]))
    optimizer = RiemannianAdam([{"params": p, "manifold": manifold}], lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        (p - target).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(p.detach(), target, rtol=0, atol=1e-2)
    assert abs(torch.linalg.det(p).item() - 1) < 1e-6


def test_generalized_stiefel_by_products():
    """CG on a JJᵀ that is no multiple of the identity."""
    B = torch.diag(torch.linspace(1, 20, 30, dtype=torch.float64))
    manifold = LevelSet(generalized_stiefel(B), dense_up_to=0)
    X = manifold.random_point(30, 8, generator=generator(0), dtype=torch.float64)
    U = manifold.random_tangent(X, generator=generator(1))
    assert float((U.mT @ B @ X + X.mT @ B @ U).abs().max()) < 1e-11
    Y = manifold.retract(X, 0.05 * U)
    assert float(manifold.violation(Y)) < 1e-12


def test_random_points_are_drawn_again_where_newton_fails():
    """A thin ring with a hollow in c at its middle, in which half of the starts end."""

    def ring(x):
        radius = torch.linalg.vector_norm(x)
        return torch.where(radius < 1.5, -1.0, (radius - 2) / 2)

    manifold = LevelSet(ring, event_ndim=1)
    a = torch.randn(200, 2, generator=generator(0), dtype=torch.float64)
    with pytest.raises(ValueError, match=r"found no point near \d+ of 200"):
        manifold.project(a)
    x = manifold.random_point(200, 2, generator=generator(0), dtype=torch.float64)
    torch.testing.assert_close(x.norm(dim=1), torch.full((200,), 2.0, dtype=torch.float64))


# --- where nothing may be read -------------------------------------------------------------------


def columns_of_two_norms(x):
    return torch.cat([x[:40].square().sum(-1) - 1, x[40:].square().sum(-1) - 4])


def of_an_ellipsoid(x):
    weights = torch.linspace(0.5, 1.5, len(x), dtype=x.dtype, device=x.device)
    return x.mT @ (weights[:, None] * x) - torch.eye(x.shape[1], dtype=x.dtype, device=x.device)


@pytest.mark.parametrize(
    ("c", "shape", "enough"),
    [
        (orthonormal_columns, (20, 8), 1),
        (orthonormal_columns, (8, 8), 1),
        (lambda x: x.square().sum(-1) - 1, (50, 5), 1),
        (columns_of_two_norms, (80, 5), 2),
        (of_an_ellipsoid, (20, 8), None),
    ],
)
def test_how_many_iterations_are_enough_is_seen_when_a_weight_comes_in(c, shape, enough):
    """As many as JJᵀ has eigenvalues, at each point of the set."""
    manifold = LevelSet(c)
    start = torch.randn(shape, generator=generator(0))
    ManifoldParameter(start, manifold)
    assert manifold._enough == {(shape, False): enough}
    # What is known goes along with a weight, and another manifold of these functions asks anew.
    assert manifold.with_dims_from_end(2)._enough is manifold._enough
    assert LevelSet(c)._enough == {}


@pytest.mark.parametrize("c", [orthonormal_columns, of_an_ellipsoid, columns_of_two_norms])
@pytest.mark.parametrize("rho", [0.01, 0.3, 1.0, 3.0, 30.0])
def test_steps_that_read_nothing_end_where_others_do(c, rho):
    """Whole, up to one radius of curvature; the part that is taken beyond."""
    manifold, shape = LevelSet(c), (80, 5)
    for dtype in (torch.float32, torch.float64):
        x = manifold.project(torch.randn(shape, generator=generator(0), dtype=dtype))
        eps = torch.finfo(dtype).eps
        u = manifold.proj_tangent(x, torch.randn(shape, generator=generator(1), dtype=dtype))
        u = u * (rho / torch.linalg.matrix_norm(u, 2))
        with nothing_is_read():
            v = manifold.proj_tangent(x, u)
            y, taken = manifold.curve_with_fraction(x, u, 1.0)
        size = torch.linalg.vector_norm(x)
        assert torch.linalg.vector_norm(v - u) <= 64 * eps * torch.linalg.vector_norm(u)
        assert manifold.violation(y.double()) <= 64 * eps
        assert rho > 3 or taken > 0
        assert rho > 0.3 or taken == 1
        expected = manifold.retract(x.double(), u.double() * taken)
        error = torch.linalg.vector_norm(y.double() - expected)
        assert error <= 64 * eps * (size + torch.linalg.vector_norm(u))


def test_a_step_that_reads_nothing_takes_few_products():
    """26 of size n×p×p, with Adam; of 216 without knowing that one iteration is enough."""
    manifold = LevelSet(orthonormal_columns)
    manifold.prepare(Stiefel().random_point(100, 20, generator=generator(0)))
    weights = launches.Weights("", manifold, (100, 20))
    counted = launches.launches(weights, launches.OPTIMIZERS[launches.POINT])
    assert counted.multiplications <= 26 * launches.unit(weights.shape, 1)


@pytest.mark.parametrize("c", [equals_its_adjoint, unit_norm, orthonormal_columns])
def test_differentiable_steps_that_read_nothing(c):
    """Where nothing has to be corrected, too."""
    manifold = LevelSet(c)
    x = manifold.project(torch.randn(3, 3, generator=generator(0), dtype=torch.float64))
    g = torch.randn(3, 3, generator=generator(1), dtype=torch.float64)
    for size in (0.0, 0.1):
        u = size * manifold.random_tangent(x, generator=generator(2))
        gradients = []
        for block in (nullcontext(), nothing_is_read()):
            v = u.clone().requires_grad_()
            with block:
                gradients.append(torch.autograd.grad((g * manifold.retract(x, v)).sum(), v)[0])
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)

"""A step, a projection and their derivatives are the same in every mode that torch can be in."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from riemopt import RiemannianAdam, RiemannianSGD, constrain
from riemopt.manifolds import LevelSet, Manifold
from tests import needs
from tests.level_set_gallery import GALLERY, circle
from tests.manifold_cases import chequered, generator
from tests.test_no_host_sync import MANIFOLDS


class Quiet(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


MODES = {
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "anomaly, NaN allowed": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "float64": double_by_default,
    "deterministic": deterministic,
    "meta": lambda: torch.device("meta"),
    "saved on CPU": torch.autograd.graph.save_on_cpu,
    "saved by hooks": lambda: torch.autograd.graph.saved_tensors_hooks(Tensor.clone, lambda a: a),
    "saved, mutation allowed": torch.autograd.graph.allow_mutation_on_saved_tensors,
    "dual numbers": forward_ad.dual_level,
    "dispatch mode": Quiet,
    "flop counter": lambda: FlopCounterMode(display=False),
}
OPTIMIZERS = {
    "sgd": lambda p: RiemannianSGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: RiemannianAdam(p, lr=0.1),
}
SETS: dict[str, tuple[Manifold, tuple[int, ...]]] = {
    **{
        name: MANIFOLDS[name]
        for name in ("sphere", "stiefel", "stiefel-cayley", "affine", "product")
    },
    **{name: MANIFOLDS[name] for name in ("level-set", "level-set-two", "level-set-many")},
    "doubly stochastic": GALLERY["doubly stochastic"][:2],
}
BY_AUTOGRAD = [name for name in SETS if isinstance(SETS[name][0], LevelSet)]
over_level_sets = pytest.mark.parametrize("case", BY_AUTOGRAD, ids=lambda n: n.replace(" ", "-"))
over_modes = pytest.mark.parametrize("mode", MODES, ids=lambda n: n.replace(" ", "-"))


def results(case: str, mode) -> dict[str, Tensor]:
    """Of `constrain`, of steps, and of the manifold's methods, all of them inside of the mode."""
    manifold, shape = SETS[case]
    a, g = (torch.randn(shape, generator=generator(seed)) for seed in (0, 1))
    found = {}
    for make in OPTIMIZERS.values():
        layer = nn.Module()
        layer.weight = nn.Parameter(a.clone())
        layer.weight.grad = g.clone()
        with mode():
            constrain(layer, "weight", manifold)
            optimizer = make(layer.parameters())
            optimizer.step()
        found[type(optimizer).__name__] = layer.weight.detach()
    x = found["RiemannianSGD"]
    with mode():
        found["project"] = manifold.project(a)
        found["proj_tangent"] = manifold.proj_tangent(x, g)
        found["retract"] = manifold.retract(x, 0.1 * found["proj_tangent"])
        found["violation"], found["tolerance"] = manifold.violation(x), manifold.tolerance(x)
    return found


@pytest.fixture(scope="module")
def plain() -> dict[str, dict[str, Tensor]]:
    return {case: results(case, contextlib.nullcontext) for case in SETS}


@chequered(("case", "mode"), SETS, MODES)
def test_numbers_are_the_same_in_every_mode(case, mode, plain):
    """To the last bit; among dual numbers by torch.func, whose sums may be in another order."""
    if mode == "saved, mutation allowed" and needs.VERSION < "2.7":
        pytest.skip("before torch 2.7 this mode refuses operators that write into lists")
    allowed = 1e-5 if mode == "dual numbers" else 0.0
    for name, value in results(case, MODES[mode]).items():
        expected = plain[case][name]
        assert value.device == expected.device
        torch.testing.assert_close(value, expected, rtol=allowed, atol=allowed, msg=name)


def derivative(case: str, within=lambda f, a: f(a)) -> Tensor:
    """Of ⟨w, project(a)⟩."""
    manifold, shape = SETS[case]
    a, w = (torch.randn(shape, generator=generator(seed)) for seed in (0, 2))
    a.requires_grad_()
    (within(manifold.project, a) * w).sum().backward()
    return a.grad


@over_modes
def test_a_dimension_is_the_same_in_every_mode(mode):
    manifold, shape, dim = GALLERY["linkage"]
    with MODES[mode]():
        assert manifold.dim(shape) == dim


@over_level_sets
@pytest.mark.parametrize("mode", ["anomaly", "saved on CPU", "saved by hooks", "dispatch mode"])
def test_derivatives_are_the_same_in_every_mode(case, mode):
    def within(f, a):
        with MODES[mode]():
            return f(a)

    torch.testing.assert_close(derivative(case, within), derivative(case))


@over_level_sets
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_can_be_around_a_projection(case, reentrant):
    def within(f, a):
        return checkpoint(f, a, use_reentrant=reentrant)

    torch.testing.assert_close(derivative(case, within), derivative(case))


@over_level_sets
def test_transforms_of_torch_func_can_be_around_a_projection(case):
    manifold, shape = SETS[case]
    a, w, t = (torch.randn(shape, generator=generator(seed)) for seed in (0, 2, 3))
    expected = derivative(case)
    found = torch.func.grad(lambda a: (manifold.project(a) * w).sum())(a)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    along = (expected * t).sum()
    _, tangent = torch.func.jvp(manifold.project, (a,), (t,))
    torch.testing.assert_close((tangent * w).sum(), along, rtol=1e-3, atol=1e-3)
    with forward_ad.dual_level():
        y = manifold.project(forward_ad.make_dual(a, t))
        tangent = forward_ad.unpack_dual(y).tangent
    torch.testing.assert_close((tangent * w).sum(), along, rtol=1e-3, atol=1e-3)


def test_a_nan_that_is_tried_is_no_anomaly():
    """A step beyond where c is defined is taken back; anomaly detection has nothing to say."""
    curve = LevelSet(lambda x: x[1] - torch.log(1 - x[0]))
    x = curve.project(torch.tensor([0.5, 0.0], dtype=torch.float64))
    u = curve.proj_tangent(x, torch.ones_like(x))
    expected = curve.curve_with_fraction(x, u, 100.0)
    with torch.no_grad(), torch.autograd.set_detect_anomaly(True):
        found = curve.curve_with_fraction(x, u, 100.0)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.is_anomaly_check_nan_enabled()


def test_the_users_own_backward_is_still_checked():
    x = torch.zeros(3, requires_grad=True)
    sphere = LevelSet(circle)
    with torch.autograd.set_detect_anomaly(True):
        sphere.project(torch.ones(3))
        with pytest.raises(RuntimeError, match="returned nan"):
            (x.sum().sqrt() * 0).backward()


def test_what_inference_mode_has_copied_serves_outside():
    """The constants of c follow to a new precision in inference mode, and are used again later."""
    axes = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    manifold = LevelSet(lambda x: (x / axes).square().sum() - 1)
    with torch.inference_mode():
        manifold.project(torch.ones(3))
    p = nn.Parameter(manifold.project(torch.ones(3)))
    p.grad = torch.ones(3)
    RiemannianSGD([{"params": [p], "manifold": manifold}], lr=0.1).step()
    assert bool(manifold.violation(p.detach()) <= manifold.tolerance(p.detach()))

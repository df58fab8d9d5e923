"""A new manifold is one class of at most sixty lines; all else the package supplies.

The tube is the set of points at a distance `thickness` from a circle; in three dimensions that is a
torus. It is curved, its points have different norms, and all of its formulas are short.
"""

import inspect
import pickle
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from riemopt import Manifold, ManifoldParameter, RiemannianAdam, RiemannianSGD, manifold_of
from riemopt.manifolds import Product, Sphere
from riemopt.optim import riemannian
from riemopt.testing import check_manifold
from tests import test_law_cost as cost
from tests import test_law_metric as metric
from tests import test_law_random as random
from tests import test_law_retraction as laws
from tests import test_law_violation as violations
from tests.laws import SIZES
from tests.manifold_cases import generator


@dataclass(frozen=True, repr=False)
class Tube(Manifold):
    """{x ∈ ℝⁿ : x has the distance `thickness` from a circle in its first two coordinates}.

    Args:
        radius_of_circle: of the circle, about the origin.
        thickness: less than that.
    """

    event_ndim = 1
    radius_of_circle: float = 2.0
    thickness: float = 0.5

    def _unit(self, a):
        """a/‖a‖; a zero vector goes to the first axis."""
        norm = torch.linalg.vector_norm(a, dim=-1, keepdim=True)
        axis = torch.zeros_like(a)
        axis[..., 0] = 1
        return torch.where(norm > 0, a / torch.where(norm > 0, norm, 1), axis)

    def _split(self, a):
        """The nearest point c of the circle, and the unit vector from c to a."""
        c = self.radius_of_circle * self._unit(a[..., :2])
        c = torch.cat([c, torch.zeros_like(a[..., 2:])], -1)
        return c, self._unit(a - c)

    def proj_tangent(self, x, u):
        _, normal = self._split(x)
        return u - normal * (normal * u).sum(-1, keepdim=True)

    def retract(self, x, u):
        return self.project(x + u)

    def project(self, a):
        c, normal = self._split(a)
        return (c + self.thickness * normal).contiguous()

    def violation(self, x):
        c, _ = self._split(x)
        return (torch.linalg.vector_norm(x - c, dim=-1) - self.thickness).abs()

    def check_shape(self, shape):
        if not shape or shape[-1] < 3:
            self._reject(shape, "vectors of three or more entries")

    def dim(self, shape, *, is_complex=False):
        return shape[-1] - 1


SHAPES = [(3,), (5,), (2, 3, 4)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def test_it_takes_sixty_lines():
    assert len(inspect.getsource(Tube).splitlines()) <= 60


# --- the contract ----------------------------------------------------------------------------


def test_it_keeps_the_contract():
    check_manifold(Tube(), *SHAPES, order=2).require()
    check_manifold(Tube(radius_of_circle=1.0, thickness=0.9), (4,)).require()


def test_it_is_a_value():
    assert Tube() == Tube(2.0, 0.5) != Tube(3.0)
    assert hash(Tube()) == hash(Tube())
    assert repr(Tube(3.0)) == "Tube(radius_of_circle=3.0)"
    with pytest.raises(ValueError, match=r"Tube\(\) needs vectors of three or more entries; got"):
        Tube().check_shape((4, 2))


@every_shape
@both_dtypes
def test_it_keeps_the_laws_of_this_suite(shape, dtype):
    x = Tube().random_point(*shape, generator=generator(0), dtype=dtype)
    for size in SIZES:
        laws.law_retract_stays_on_surface(Tube(), x, generator(1), size)
    random.law_random_point_is_on_surface(Tube(), shape, dtype)
    random.law_random_tangent_is_tangent(Tube(), x)
    metric.law_carried_mean_is_its_definition(Tube(), x, generator(2))
    violations.law_violation_has_batch_shape(Tube(), x)
    cost.law_makes_nothing_large(Tube(), x)
    cost.law_step_never_synchronises(Tube(), x)


def test_it_is_a_factor_of_a_product():
    both = Product({"tube": (Tube(), 3), "direction": (Sphere(), 4)})
    check_manifold(both, (7,), (2, 7), order=2).require()


# --- training --------------------------------------------------------------------------------


class Lion(torch.optim.Optimizer):
    """Chen et al. (2023). `riemannian(Lion)` knows nothing of it but its step."""

    def __init__(self, params, lr=1e-2):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.sub_(torch.lerp(p.grad, m, 0.9).sign(), alpha=group["lr"])
                m.lerp_(p.grad, 0.01)


OPTIMIZERS = {
    "SGD": lambda params: RiemannianSGD(params, lr=0.05, momentum=0.9),
    "tangent": lambda params: RiemannianAdam(params, lr=0.05),
    "carried": lambda params: RiemannianAdam(params, lr=0.05, second_moment="carried"),
    "point": lambda params: RiemannianAdam(params, lr=0.05, second_moment="point"),
    "Adamax": lambda params: riemannian(torch.optim.Adamax)(params, lr=0.2),
    "Lion": lambda params: riemannian(Lion, acts_by_entry=True)(params, lr=0.05),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def noise(shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


@every_optimizer
@both_dtypes
def test_it_trains(name, dtype):
    """The largest ⟨a, x⟩ on the tube is known: radius·‖(a₁, a₂)‖ + thickness·‖a‖."""
    manifold, a = Tube(), noise((4, 5), 0, dtype)
    largest = manifold.radius_of_circle * a[:, :2].norm(dim=-1)
    largest += manifold.thickness * a.norm(dim=-1)
    p = ManifoldParameter(noise((4, 5), 1, dtype), manifold)
    optimizer = OPTIMIZERS[name]([p])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        optimizer.zero_grad()
        (-(a * p).sum()).backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close((a * p).sum(-1).detach(), largest, rtol=1e-3, atol=0)
    assert (manifold.violation(p.detach()) <= manifold.tolerance(p.detach())).all()
    assert optimizer.skipped_steps == optimizer.shortened_steps == 0


@every_optimizer
def test_it_resumes_bit_for_bit(name, tmp_path):
    """The weight with its manifold, and the optimizer's state, by `weights_only` checkpoints."""

    def run(optimizer, p, seeds):
        for seed in seeds:
            p.grad = noise((4, 5), seed)
            optimizer.step()

    p = ManifoldParameter(noise((4, 5), 1), Tube(3.0))
    optimizer = OPTIMIZERS[name]([p])
    run(optimizer, p, range(3))
    torch.save({"p": p, "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pt")
    with pytest.raises(pickle.UnpicklingError, match="Tube"):
        torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    with torch.serialization.safe_globals([Tube]):
        loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    q = loaded["p"]
    assert torch.equal(p, q)
    assert manifold_of(q) == Tube(3.0)
    resumed = OPTIMIZERS[name]([q])
    resumed.load_state_dict(loaded["optimizer"])
    run(optimizer, p, range(3, 6))
    run(resumed, q, range(3, 6))
    assert torch.equal(p, q)


# --- on several processes --------------------------------------------------------------------
# Each may hold whole points. Points of this manifold cannot be cut: they have different norms, and
# a `ShardedGeometry` leaves weight decay out, which is right where all norms are equal.


@pytest.fixture
def process(request):
    """As one of two processes, which cannot reach the other: a step must not need it."""
    dist.init_process_group("fake", store=FakeStore(), rank=request.param, world_size=2)
    yield request.param
    dist.destroy_process_group()


@every_optimizer
@pytest.mark.parametrize("process", [0, 1], indirect=True)
def test_each_process_steps_its_own_points(name, process):
    x, own = Tube().project(noise((5, 4), 0)), slice(0, 3) if process == 0 else slice(3, 5)
    mesh = init_device_mesh("cpu", (2,))

    def spread(a):
        return DTensor.from_local(
            a[own].contiguous(), mesh, [Shard(0)], run_check=False, shape=a.shape, stride=(4, 1)
        )

    p, q = nn.Parameter(x.clone()), nn.Parameter(spread(x))
    alone, together = (OPTIMIZERS[name]([{"params": [w], "manifold": Tube()}]) for w in (p, q))
    for seed in range(1, 5):
        p.grad = noise((5, 4), seed)
        q.grad = spread(p.grad)
        alone.step()
        together.step()
    torch.testing.assert_close(q.detach().to_local(), p.detach()[own], rtol=0, atol=1e-13)
    assert not torch.equal(p, x)


@pytest.mark.parametrize("process", [0], indirect=True)
def test_points_that_are_cut_are_refused(process):
    mesh = init_device_mesh("cpu", (2,))
    part = DTensor.from_local(
        torch.ones(5, 2), mesh, [Shard(1)], run_check=False, shape=(5, 4), stride=(4, 1)
    )
    with pytest.raises(NotImplementedError, match=r"dimension 1, which cuts its points.*Keep the"):
        RiemannianAdam([{"params": nn.Parameter(part), "manifold": Tube()}])

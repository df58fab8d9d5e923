"""`LevelSet` refuses a c that is not smooth where it is zero, and takes every one that is."""

import pytest
import torch
from torch import Tensor, nn

import riemopt
from riemopt import ManifoldParameter, RiemannianSGD, constrain
from riemopt.manifolds import LevelSet
from tests.level_set_gallery import GALLERY, circle, stiefel
from tests.manifold_cases import generator, name


def leaves_torch(x: Tensor) -> Tensor:
    return torch.from_numpy(x.detach().numpy() ** 2).sum() - 1


def in_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy() ** 2).sum() - 1


def read_on_the_host(x: Tensor) -> Tensor:
    return torch.tensor(x.square().sum().item() - 1)


def partly_read(x: Tensor) -> Tensor:
    return x.sum() * x.detach().sum().item() - 1


@torch.no_grad()
def not_recorded(x: Tensor) -> Tensor:
    return x.square().sum() - 1


KINK = r"c has a kink at a point of its set.*inside of a norm"
NO_NUMBER = "not finite near a point of its set.*inside of a norm"
NOT_SEEN = r"does not depend on the point as autograd sees it.*Write it in torch's own"
CUT_OFF = "by autograd is not that of its values.*without .detach()"
CONSTANT = "c does not change with x near a point.*inequality"
VANISHES = r"loses rank on its set.*‖x‖² - 1, not its square|derivative does not vanish"

# c, the shape of a point, and what is said.
REFUSED = {
    "singular values": (lambda X: torch.linalg.svdvals(X)[3:], (10, 15), KINK),
    "singular value": (lambda X: torch.linalg.svdvals(X)[-1], (4, 4), KINK),
    "nuclear norm": (lambda X: torch.linalg.matrix_norm(X - X.mT, "nuc"), (4, 4), KINK),
    "norm": (lambda X: torch.linalg.norm(X - X.mT), (5, 5), KINK),
    "norm of a residual": (lambda X: torch.linalg.norm(stiefel(X)), (6, 3), KINK),
    "root": (lambda X: (X - X.mT).square().sum().sqrt(), (5, 5), f"{NO_NUMBER}|{KINK}"),
    "root of a square": (lambda x: (x.sum() - 1).square().sqrt(), (6,), f"{NO_NUMBER}|{KINK}"),
    "absolute value": (lambda x: x.sum().abs(), (6,), KINK),
    "absolute values": (lambda x: x.abs(), (6,), KINK),
    "maximum": (lambda x: torch.maximum(x.sum(), -x.sum()), (6,), KINK),
    "largest entry": (lambda x: x.abs().amax(), (6,), KINK),
    "smallest entries": (lambda x: x.abs().sort().values[:3], (6,), KINK),
    "eigenvalue twice": (lambda X: torch.linalg.eigvalsh(X + X.mT)[-2:] - 1, (5, 5), KINK),
    "gap": (lambda X: torch.linalg.eigvalsh(X + X.mT).diff()[:1], (5, 5), KINK),
    "relu outside": (lambda x: torch.relu(x.square().sum() - 1), (6,), KINK),
    "relu inside": (lambda x: torch.relu(x.square().sum() - 100), (6,), CONSTANT),
    "zero times x": (lambda x: 0 * x.sum(), (6,), CONSTANT),
    "rounded": (lambda x: torch.floor(x).sum() - 0.5, (6,), CONSTANT),
    "constant": (lambda x: torch.ones(2), (6,), NOT_SEEN),
    "zero": (lambda x: torch.zeros(2), (6,), NOT_SEEN),
    "one of two is constant": (circle, lambda x: torch.zeros(1), (6,), NOT_SEEN),
    "rank": (lambda X: torch.linalg.matrix_rank(X).to(X.dtype) - 2, (5, 5), NOT_SEEN),
    "NumPy": (leaves_torch, (6,), NOT_SEEN),
    "NumPy at once": (in_numpy, (6,), r"in_numpy cannot be differentiated: Can't call numpy"),
    "item": (read_on_the_host, (6,), NOT_SEEN),
    "no_grad": (not_recorded, (6,), NOT_SEEN),
    "detach": (lambda x: x.detach().square().sum() - 1, (6,), NOT_SEEN),
    "half detached": (lambda x: (x.detach() * x).sum() - 1, (6,), CUT_OFF),
    "half read": (partly_read, (6,), CUT_OFF),
    "square": (lambda x: (x.square().sum() - 1) ** 2, (6,), VANISHES),
    "cube": (lambda x: (x.square().sum() - 1) ** 3, (6,), VANISHES),
    "squares": (lambda X: stiefel(X).square(), (6, 3), VANISHES),
    "sum of squares": (lambda X: (X - X.mT).square().sum(), (5, 5), VANISHES),
    "a square beside a plane": (
        lambda x: torch.stack([x.sum(), (x.square().sum() - 1) ** 2]),
        (6,),
        VANISHES,
    ),
}
over_refused = pytest.mark.parametrize("case", REFUSED, ids=lambda n: n.replace(" ", "-"))


def refused(case: str) -> tuple[LevelSet, tuple[int, ...], str]:
    *constraints, shape, reason = REFUSED[case]
    return LevelSet(*constraints), shape, reason


def weight(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=generator(1), dtype=dtype))


@pytest.mark.sampled(8)
@over_refused
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=name)
def test_refused_when_a_layer_is_constrained(case, dtype):
    manifold, shape, reason = refused(case)
    layer = nn.Module()
    layer.weight = weight(shape, dtype)
    before = layer.weight.detach().clone()
    with pytest.raises(ValueError, match=reason):
        constrain(layer, "weight", manifold)
    assert torch.equal(layer.weight, before)
    assert riemopt.manifold_of(layer.weight) is None


# Squares have no points that are found from anywhere; a group says nothing of values off the set.
@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", [n for n in REFUSED if REFUSED[n][-1] != VANISHES])
def test_refused_wherever_a_value_comes_in(case):
    manifold, shape, reason = refused(case)
    with pytest.raises(ValueError, match=reason):
        ManifoldParameter(weight(shape).detach(), manifold)
    with pytest.raises(ValueError, match=reason):
        RiemannianSGD([{"params": [weight(shape)], "manifold": manifold}], lr=0.1)
    optimizer = RiemannianSGD([weight((2,))], lr=0.1)
    with pytest.raises(ValueError, match=reason):
        optimizer.add_param_group({"params": [weight(shape)], "manifold": manifold})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("case", ["singular values", "norm", "absolute value", "relu outside"])
def test_a_dimension_that_would_be_wrong_is_refused(case):
    manifold, shape, reason = refused(case)
    with pytest.raises(ValueError, match=reason):
        manifold.dim(shape)


ON_THE_SET = {"square": LevelSet(circle), "cube": LevelSet(circle), "squares": LevelSet(stiefel)}


@pytest.mark.parametrize("case", ON_THE_SET)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_powers_are_refused_at_values_that_are_on_the_set_already(case, dtype):
    manifold, shape, reason = refused(case)
    x = ON_THE_SET[case].random_point(*shape, generator=generator(0), dtype=dtype)
    with pytest.raises(ValueError, match=reason):
        manifold.project(x)
    with pytest.raises(ValueError, match=reason):
        RiemannianSGD([{"params": [nn.Parameter(x)], "manifold": manifold}], lr=0.1)


def test_one_point_at_a_kink_is_enough():
    """Of the diamond |x₁| + |x₂| = 1, rows on its sides and one at a corner."""
    diamond = LevelSet(lambda x: x.abs().sum() - 1, event_ndim=1)
    rows = torch.tensor([[0.5, 0.5], [-0.25, 0.75]])
    torch.testing.assert_close(diamond.project(rows), rows)
    corner = torch.tensor([[1.0, 0.0]])
    with pytest.raises(ValueError, match=KINK):
        diamond.project(torch.cat([rows, corner]))


# --- no false alarms ---


def repeated(x: Tensor) -> Tensor:
    s = x.square().sum() - 1
    return torch.stack([s, s * x[0], 3 * s])


def of_rounding(x: Tensor) -> Tensor:
    """xᵀKx of a skew K is rounding."""
    K = torch.tensor([[0, 1, 2], [-1, 0, 3], [-2, -3, 0]], dtype=x.dtype)
    return torch.stack([circle(x), x @ K @ x])


SMOOTH = {
    "scales": (lambda x: torch.stack([1e8 * circle(x), 1e-8 * x.sum()]), (5,)),
    "repeated": (repeated, (5,)),
    "rounding": (of_rounding, (3,)),
    "norm of 1": (lambda x: torch.linalg.norm(x) - 1, (5,)),
    "one L1 norm": (lambda x: x.abs().sum() - 30, (5,)),
    "distinct singular values": (
        lambda X: torch.linalg.svdvals(X) - torch.arange(3, 0, -1, dtype=X.dtype),
        (5, 3),
    ),
    "logarithm of |det|": (lambda X: torch.linalg.slogdet(X)[1], (4, 4)),
    "singular matrices": (torch.linalg.det, (3, 3)),
    "cone": (lambda x: x[0] ** 2 + x[1] ** 2 - x[2] ** 2, (3,)),
    "entropy": (lambda x: torch.special.entr(x.softmax(0)).sum() - 1.0, (5,)),
    "steep": (lambda x: nn.functional.softplus(30 * x.sum()) - 0.1, (5,)),
    "fast": (lambda x: torch.sin(1000 * x.sum()), (5,)),
    "in float32": (lambda x: x.float().square().sum() - 1, (5,)),
    "planes in space": (lambda x: x[0] * x[1], (3,)),
}


@pytest.mark.parametrize("case", GALLERY, ids=lambda n: n.replace(" ", "-"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_the_gallery_is_smooth(case, dtype):
    manifold, shape, _ = GALLERY[case]
    for seed in range(5):
        x = manifold.random_point(*shape, generator=generator(seed), dtype=dtype)
        manifold.project(x)  # raises if refused
        manifold.prepare(x)


@pytest.mark.parametrize("case", SMOOTH, ids=lambda n: n.replace(" ", "-"))
def test_smooth_functions_are_taken(case):
    c, shape = SMOOTH[case]
    manifold = LevelSet(c)
    for seed in range(5):
        x = manifold.project(torch.randn(shape, generator=generator(seed)))
        assert bool((manifold.violation(x) <= manifold.tolerance(x)).all())


def test_entries_of_very_different_sizes():
    """What is a step of 1e-6 for one is a large one for the other, where tanh has bent."""
    manifold = LevelSet(lambda x: torch.tanh(x[1]) - 0.5 + 0 * x[0])
    x = manifold.project(torch.tensor([1e6, 0.3], dtype=torch.float64))
    torch.testing.assert_close(x[1].tanh().item(), 0.5)


def test_a_single_singular_point_of_a_smooth_function_is_no_fault():
    """The tip of a cone: it stays there, and the optimizer counts it."""
    cone = LevelSet(lambda x: x[0] ** 2 + x[1] ** 2 - x[2] ** 2)
    tip = torch.zeros(3, dtype=torch.float64)
    assert torch.equal(cone.project(tip), tip)
    RiemannianSGD([{"params": [nn.Parameter(tip)], "manifold": cone}], lr=0.1)


def test_parts_of_different_dimension_have_no_dimension():
    """A plane, and a point beside it."""
    p = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    manifold = LevelSet(lambda x: x[0] * (x - p))
    for x in (p, torch.tensor([0.0, 2.0, 3.0], dtype=torch.float64)):
        assert torch.equal(manifold.project(x), x)
    with pytest.raises(ValueError, match=r"parts of different dimensions .*\[0, 2\]"):
        manifold.dim((3,))


def test_the_dimension_does_not_depend_on_the_scales_of_equations():
    tiny = LevelSet(lambda x: torch.stack([circle(x), 1e-18 * x.sum()]))
    assert tiny.dim((5,)) == 3


def test_steps_ask_nothing():
    """What is asked is asked once for a shape; a step evaluates c as often as it needs."""
    calls = []

    def counted(x):
        calls.append(1)
        return circle(x)

    manifold = LevelSet(counted)
    layer = constrain(nn.Linear(3, 2), "weight", manifold)
    calls.clear()
    optimizer = RiemannianSGD(layer.parameters(), lr=0.1)
    assert len(calls) == 1
    layer.weight.grad = torch.ones_like(layer.weight)
    calls.clear()
    optimizer.step()
    assert len(calls) <= 6

"""`step` never waits for the device: shown without one, on `meta` tensors and by compilation.

Fake tensors alone prove nothing, since an SVD or `.cpu()` passes silently; a dispatch mode forbids
every operator that reads a value back, outside or inside its kernel.
"""

import functools
import shutil

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import riemopt
from riemopt import constrain, constraints
from riemopt.manifolds import (
    SPD,
    Correlation,
    DoublyStochastic,
    Elliptope,
    ExceptRows,
    FixedRank,
    FixedRankFactors,
    FixedSum,
    Flattened,
    GLPlus,
    Grassmann,
    Interval,
    LevelSet,
    Lorentz,
    PoincareBall,
    Positive,
    Product,
    PSDFixedRank,
    RowBlocks,
    Simplex,
    SkewSymmetric,
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
from riemopt.manifolds.curved import Curved
from tests import needs
from tests.level_set_gallery import ellipsoid
from tests.manifold_cases import (
    POSE,
    of_mass,
    orthonormal_columns,
    triangle,
    two_equations,
    unit_norm,
)

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense.default,
    aten.item.default,
    aten.is_nonzero.default,
    aten.equal.default,
    aten.allclose.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten._linalg_check_errors.default,  # what cholesky, solve and inv do besides their work
}
READS_INSIDE = {
    aten._linalg_svd.default,
    aten._linalg_eigh.default,
    aten.linalg_eig.default,
    aten.linalg_matrix_exp.default,
    aten.linalg_lstsq.default,
}


class HostSyncError(AssertionError):
    pass


class NoHostSync(TorchDispatchMode):
    """Raise on an operator that makes the host wait for `device`, and count the others."""

    def __init__(self, device):
        super().__init__()
        self.device, self.dispatched = device, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        target = kwargs.get("device")
        target = self.device if target is None else torch.device(target).type
        if any(t.device.type == self.device for t in tensors):
            if func in READS | READS_INSIDE:
                raise HostSyncError(func)
            if func is aten._to_copy.default and target != self.device:
                raise HostSyncError("copied to the host")
            if func is aten.copy_.default and args[0].device.type != args[1].device.type:
                raise HostSyncError("copied between devices")
            if func is aten.index.Tensor and any(
                i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
            ):
                raise HostSyncError("indexed by a mask")
        elif func is aten._to_copy.default and "device" in kwargs and target == self.device:
            raise HostSyncError("copied from the host")
        self.dispatched += 1
        return func(*args, **kwargs)


MANIFOLDS = {
    "sphere": (Sphere(), (4, 6)),
    "sphere-whole": (Sphere(dim=None), (3, 4)),
    "stiefel": (Stiefel(), (6, 3)),
    "stiefel-wide": (Stiefel(), (3, 6)),
    "stiefel-square": (Stiefel(), (4, 4)),
    "stiefel-qr": (Stiefel(retraction="qr"), (6, 3)),
    "stiefel-cayley": (Stiefel(retraction="cayley"), (9, 3)),
    "stiefel-canonical": (Stiefel(metric="canonical"), (6, 3)),
    "motion": (SpecialEuclidean(), (4, 4)),
    "rotation": (SpecialOrthogonal(), (4, 4)),
    "subspace": (Grassmann(), (5, 2)),
    "generalized": (of_mass(), (5, 2)),
    "symplectic": (SymplecticStiefel(), (6, 4)),
    "gl-plus": (GLPlus(), (4, 4)),
    "special-linear": (SpecialLinear(), (4, 4)),
    "factor": (PSDFixedRank(2), (5, 2)),
    "elliptope": (Elliptope(2), (5, 2)),
    "spectrahedron": (Spectrahedron(2), (5, 2)),
    "symmetric": (Symmetric(), (4, 4)),
    "skew": (SkewSymmetric(), (4, 4)),
    "kernel": (Flattened(Stiefel()), (6, 2, 3, 3)),
    "rank": (FixedRank(2), (3, 5, 4)),
    "factors": (FixedRankFactors(5), (9, 2)),
    "spd": (SPD(), (3, 4, 4)),
    "spd-affine": (SPD("affine"), (4, 4)),
    "spd-cholesky": (SPD("log_cholesky"), (4, 4)),
    "spd-log": (SPD("log_euclidean"), (3, 3)),
    "correlation": (Correlation(), (4, 4)),
    "positive": (Positive(), (3, 4)),
    "interval": (Interval(), (3, 4)),
    "simplex": (Simplex(), (3, 4)),
    "coupling": (DoublyStochastic(torch.tensor([2, 5, 3]), torch.tensor([4, 6])), (3, 2)),
    "doubly-stochastic": (DoublyStochastic(), (2, 3, 4)),
    "affine": (two_equations(), (3, 5)),
    "fixed-sum": (FixedSum(), (3, 5)),
    "sparsity": (triangle(), (4, 4)),
    "toeplitz": (Toeplitz(), (5, 3)),
    "product": (POSE, (3, 12)),
    "row-blocks": (RowBlocks(Stiefel(), 2), (6, 3)),
    "padding": (ExceptRows(Sphere(), 0), (4, 6)),
    "ball": (PoincareBall(), (4, 5)),
    "lorentz": (Lorentz(), (4, 5)),
    "stereographic": (Stereographic(k=0.5), (4, 5)),
    "stereographic-learned": (Stereographic(torch.tensor(-0.5)), (4, 5)),
    "product-blocks": (Product([(triangle(), (2, 4))], dim=-2), (8, 4)),
    "level-set": (LevelSet(unit_norm, event_ndim=1), (4, 6)),
    "level-set-two": (LevelSet(unit_norm, torch.sum), (3, 4)),
    "level-set-many": (LevelSet(orthonormal_columns, dense_up_to=0), (6, 3)),
    "level-set-matrix": (LevelSet(ellipsoid(torch.ones(5).double())), (5,)),
}
REAL = (
    "positive",
    "interval",
    "simplex",
    "symplectic",
    "gl-plus",
    "special-linear",
    "coupling",
    "doubly-stochastic",
)  # sets of real numbers alone


def _muon(params, **options):
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch has no Muon before 2.9")
    return riemopt.RiemannianMuon(params, lr=0.1, adamw={"lr": 0.1, **options})


OPTIMIZERS = {
    "sgd": lambda p, **o: riemopt.RiemannianSGD(p, lr=0.1, **o),
    "momentum": lambda p, **o: riemopt.RiemannianSGD(
        p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1, **o
    ),
    "adam": lambda p, **o: riemopt.RiemannianAdam(p, lr=0.1, amsgrad=True, **o),
    "adamw": lambda p, **o: riemopt.RiemannianAdamW(p, lr=0.1, **o),
    "point": lambda p, **o: riemopt.RiemannianAdam(
        p, lr=0.1, amsgrad=True, second_moment="point", **o
    ),
    "carried": lambda p, **o: riemopt.RiemannianAdam(p, lr=0.1, second_moment="carried", **o),
    "muon": _muon,
}


def _meta_step(manifold, shape, make, dtype=torch.float32):
    params = [nn.Parameter(torch.empty(shape, device="meta", dtype=dtype)) for _ in range(3)]
    plain = nn.Parameter(torch.empty(5, device="meta"))
    optimizer = make([{"params": params, "manifold": manifold}, {"params": [plain]}])
    for p in [*params, plain]:
        p.grad = torch.empty_like(p)
    with NoHostSync("meta") as mode:
        optimizer.step()
        optimizer.step()
    assert mode.dispatched > 0


@pytest.mark.sampled(8)
@pytest.mark.parametrize("case", MANIFOLDS)
@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_a_step_on_meta_reads_nothing(case, make, dtype):
    if dtype.is_complex and isinstance(MANIFOLDS[case][0], Curved):
        pytest.skip("of real points")
    if case in REAL and dtype.is_complex:
        with pytest.raises(ValueError, match="needs real tensors"):
            MANIFOLDS[case][0].project(torch.empty(3, 3, dtype=dtype))
        return
    _meta_step(*MANIFOLDS[case], OPTIMIZERS[make], dtype)


SYNCHRONISING = {
    "item": lambda p: p.sum().item(),
    "bool": lambda p: bool(p.sum() > 0),
    "cpu": lambda p: p.cpu(),
    "svd": torch.linalg.svd,
    "eigh": torch.linalg.eigh,
    "inv": torch.linalg.inv,
    "cholesky": torch.linalg.cholesky,
    "matrix_exp": torch.linalg.matrix_exp,
    "mask": lambda p: p[p > 0],
}


@pytest.mark.parametrize("bad", SYNCHRONISING)
def test_the_detector_detects(bad):
    p = torch.empty(3, 3, device="meta")
    with pytest.raises((HostSyncError, NotImplementedError)), NoHostSync("meta"):
        SYNCHRONISING[bad](p)


class Net(nn.Module):
    def __init__(self, names=tuple(MANIFOLDS)):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleDict({k: nn.Module() for k in names})
        for name in names:
            manifold, shape = MANIFOLDS[name]
            self.layers[name].weight = riemopt.ManifoldParameter(torch.randn(shape), manifold)
        self.plain = nn.Parameter(torch.randn(5))

    def fill_gradients(self, step):
        generator = torch.Generator().manual_seed(step)
        for p in self.parameters():
            p.grad = torch.randn(p.shape, generator=generator)


FEW = ("sphere", "stiefel", "stiefel-square", "symmetric", "level-set")
# Torch's own rule on all manifolds; the others on few, and on all among the slow ones.
COMPILED = [
    ("adam", tuple(MANIFOLDS)),
    *((make, FEW) for make in OPTIMIZERS if make != "adam"),
    *(
        pytest.param(make, tuple(MANIFOLDS), marks=pytest.mark.slow)
        for make in OPTIMIZERS
        if make != "adam"
    ),
]


@needs.compiled_steps
@pytest.mark.sampled(3)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize(("make", "names"), COMPILED)
def test_a_compiled_step_is_the_eager_step_in_one_graph(make, names):
    graphs = []

    def backend(graph_module, inputs):
        graphs.append(graph_module)
        return graph_module.forward

    eager, compiled = Net(names), Net(names)
    lr = torch.tensor(0.1)
    optimizers = [OPTIMIZERS[make](net.parameters()) for net in (eager, compiled)]
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = lr.clone()
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in optimizers]
    torch._dynamo.reset()
    # A scheduler wraps `optimizer.step` in a function that dynamo refuses; the class's is not.
    cls = type(optimizers[1])
    compiled_step = torch.compile(lambda: cls.step(optimizers[1]), fullgraph=True, backend=backend)
    counts = []
    for i in range(5):
        eager.fill_gradients(i)
        compiled.fill_gradients(i)
        optimizers[0].step()
        compiled_step()
        for scheduler in schedulers:
            scheduler.step()
        counts.append(len(graphs))
    assert counts[1:] == counts[1:2] * 4, "recompiled after the state was there"
    assert all(c.satisfied for c in constraints(compiled))
    for p, q in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@needs.compiled_steps
@pytest.mark.sampled(3)
@pytest.mark.parametrize("make", OPTIMIZERS)
def test_stacks_and_unconstrained_parameters_are_compiled_into_one_graph(make):
    graphs, counts = [], []

    def backend(graph_module, inputs):
        graphs.append(graph_module)
        return graph_module.forward

    def trained(wrap):
        torch.manual_seed(0)
        params = [
            *(riemopt.ManifoldParameter(torch.randn(6, 3), Stiefel()) for _ in range(3)),
            nn.Parameter(torch.randn(5)),
            *(riemopt.ManifoldParameter(torch.randn(4, 6), Sphere()) for _ in range(2)),
            nn.Parameter(torch.randn(5, 2)),
        ]
        optimizer = OPTIMIZERS[make](params)
        for p in params:
            p.grad = torch.randn_like(p)
        step = wrap(optimizer.step)
        for _ in range(4):
            step()
            counts.append(len(graphs))
        return params

    torch._dynamo.reset()
    eager = trained(lambda step: step)
    compiled = trained(lambda step: torch.compile(step, fullgraph=True, backend=backend))
    # The first step makes the state, so the second is another program; later ones are not.
    assert counts[4] == 1
    assert counts[5] <= 2
    assert counts[7] == counts[5]
    for p, q in zip(eager, compiled, strict=True):
        # Signs of matrices take rounding times 3,000 where singular values are small.
        tolerance = 1e-3 if make == "muon" else 1e-4
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance / 10)


@needs.compiled_steps
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("shape", [(600, 256)])
@pytest.mark.parametrize("make", [*OPTIMIZERS, "heavy ball"])
def test_spheres_of_many_rows_go_through_inductor(make, shape):
    """Which fails with a KeyError where it fuses too much (pytorch #196570)."""
    heavy_ball = functools.partial(riemopt.RiemannianSGD, lr=0.1, momentum=0.9)
    makers = {**OPTIMIZERS, "heavy ball": heavy_ball}

    def trained(wrap):
        p = riemopt.ManifoldParameter(nn.functional.normalize(randn(shape, 0)), Sphere())
        optimizer = makers[make]([p])
        step = wrap(type(optimizer).step)
        for i in range(3):
            p.grad = randn(shape, i + 1)
            step(optimizer)
        return p.detach()

    def randn(shape, seed):
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    torch._dynamo.reset()
    eager = trained(lambda step: step)
    compiled = trained(lambda step: torch.compile(step, fullgraph=True))
    assert Sphere().violation(compiled.double()).max() < 5e-7
    torch.testing.assert_close(compiled, eager, rtol=0, atol=1e-4)


def test_a_compiled_step_on_a_sphere_that_cannot_be_represented_is_not_taken():
    x = nn.functional.normalize(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)))
    u = Sphere().random_tangent(x)
    t = torch.tensor([[1e-3], [1e30], [-1e3]])
    torch._dynamo.reset()
    y = torch.compile(Sphere().curve, fullgraph=True, backend="eager")(x, u, t)
    torch.testing.assert_close(y[::2], Sphere().curve(x, u, t)[::2])
    torch.testing.assert_close(y[1], x[1])


@needs.compiled_steps
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-3, 1e3])
def test_a_compiled_step_takes_a_scaled_weight_to_the_sphere(scale):
    p = riemopt.ManifoldParameter(torch.randn(4, 5), Sphere())
    optimizer = riemopt.RiemannianAdam([p], lr=0.1)
    with torch.no_grad():
        p.mul_(scale)
    torch._dynamo.reset()
    step = torch.compile(type(optimizer).step, fullgraph=True, backend="eager")
    for i in range(2):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
        step(optimizer)
    assert Sphere().violation(p.detach().double()).max() < 1e-6
    assert optimizer.skipped_steps == 0


@needs.compiled_forward
def test_constrain_does_not_interfere_with_a_compiled_model():
    layer = constrain(nn.Linear(4, 6), "weight", Stiefel(), tangent_grad=True)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    data = torch.randn(3, 4)
    torch.testing.assert_close(compiled(data), layer(data))

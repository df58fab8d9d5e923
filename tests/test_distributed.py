"""Weights that torch.distributed spreads over processes.

The checks that need several processes are in `tests.distributed_checks`; here they are launched.
What a step does with its parts is also shown in one process, where a loop takes the sums.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from riemopt.distributed import Hermitian, ShardedGeometry, sharded_geometry
from riemopt.distributed.summands import numbers, restored
from riemopt.manifolds import Flattened, Manifold, Sphere, Stiefel, Symmetric
from riemopt.optim import sharded_step
from riemopt.optim import step as steps
from riemopt.optim.adam import adam
from riemopt.optim.sgd import sgd
from riemopt.optim.step import Request
from tests import needs
from tests.test_no_host_sync import NoHostSync

ROOT = pathlib.Path(__file__).parents[1]
CASES = [
    (Stiefel(), (9, 4), -2),
    (Stiefel(), (4, 9), -1),
    (Stiefel("qr"), (9, 4), -2),
    (Stiefel("qr", "canonical"), (4, 9), -1),
    (Stiefel("cayley"), (9, 4), -2),
    (Stiefel("cayley", "canonical"), (4, 9), -1),
    (Stiefel(), (2, 5, 3), -2),
    (Stiefel(scale=3.0), (9, 4), -2),
    (Stiefel("cayley", "canonical", scale=0.5), (4, 9), -1),
    (Sphere(), (3, 7), -1),
    (Sphere(dim=0, radius=3.0), (7, 3), -2),
    (Flattened(Stiefel()), (3, 5, 2, 1), -3),
    (Flattened(Stiefel(metric="canonical")), (9, 1, 2, 1), -4),
]
each_case = pytest.mark.parametrize(
    ("manifold", "shape", "dim"), CASES, ids=[f"{m}-{s}" for m, s, _ in CASES]
)


# --- launched --------------------------------------------------------------------------------


def launch(processes, *command, timeout=240):
    """Output of `torchrun --nproc-per-node …`; nothing is left running if it takes too long."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    process = subprocess.Popen(
        [*run, f"--nproc-per-node={processes}", *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        return process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def errors(processes, folder, names):
    """What went wrong, by the name of the check; empty if nothing did."""
    report = folder / f"report-{processes}.json"
    _, stderr = launch(processes, "-m", "tests.distributed_run", report, folder, *names)
    assert report.exists(), stderr
    results = json.loads(report.read_text())
    assert [*results] == [*names]
    return {name: error for name, error in results.items() if error}


def names_of(number):
    return getattr(distributed_checks(), number)


def distributed_checks():
    from tests import distributed_checks  # imports a good part of torch.distributed

    return distributed_checks


@needs.fully_shard_on_cpu
def test_on_two_processes_and_resumed_on_one(tmp_path):
    found = errors(2, tmp_path, [*names_of("TWO"), "nothing of that name"])
    assert "KeyError" in found.pop("nothing of that name")
    assert found == {}
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        distributed_checks().CHECKS["resume"](tmp_path)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_on_four_processes(tmp_path):
    assert errors(2, tmp_path, ["saved"]) == {}
    assert errors(4, tmp_path, names_of("FOUR")) == {}


@pytest.mark.slow
def test_example():
    stdout, stderr = launch(2, ROOT / "examples" / "fsdp_training.py")
    assert "resumed run identical: True" in stdout, stderr


@pytest.mark.slow
def test_table_of_communication():
    stdout, stderr = launch(2, ROOT / "benchmarks" / "communication.py")
    rows = [line for line in stdout.splitlines() if line.startswith(("| Stiefel", "| sphere"))]
    page = (ROOT / "docs" / "distributed.md").read_text()
    assert len(rows) == 21, stderr
    for row in rows:
        assert row.rpartition(" | ")[0] in page  # all columns but the ratio


# --- in one process --------------------------------------------------------------------------


def cut(x, dim, sizes):
    return [part.contiguous() for part in x.split(sizes, dim)]


def together(steps, total=sum):
    """Drive one step for each part; `total` adds what they yield. Returns what they return."""
    asked, results = [next(step) for step in steps], [None] * len(steps)
    while True:
        sent = [[numbers(share) for share in shares] for shares in asked]
        sums = [total(shares) for shares in zip(*sent, strict=True)]
        sums = [restored(a, share) for a, share in zip(sums, asked[0], strict=True)]
        asked = []
        for i, step in enumerate(steps):
            try:
                asked.append(step.send(sums))
            except StopIteration as stop:
                results[i] = stop.value
        if not asked:
            return results


def sgd_step(m, lr=0.3):
    """What SGD asks for, and its rule."""
    request = Request(m, 0.9, 0.8, gradient=True)
    return request, lambda carried: sgd(carried, lr=lr, momentum=0.9, nesterov=True)


def adam_step(m, v, v_max, entries, step=None):
    request = Request(m, 0.9, squared_norm=True)
    step = torch.ones(len(m)) if step is None else step
    options = {"elementwise": False, "entries": entries, "lr": 0.3, "betas": (0.9, 0.99)}
    return request, lambda carried: adam(carried, step, v, v_max, eps=1e-8, **options)


def moved(manifold, x, g, request, rule):
    step, checked = steps.decide(manifold, x, g, request, rule)
    y, _ = steps.move(manifold, x, step.u, step.t, checked)
    return y, step


def moved_parts(geometry, x, g, request, rule, skip=None):
    """A step of one part, as the optimizers take it."""
    step, sums, checked = yield from sharded_step.decide(geometry, x, g, request, rule, skip)
    y = yield from sharded_step.move(geometry, x, step.u, step.t, sums, checked)
    return y, step


def problem(manifold, shape, dim, sizes, dtype=torch.float64):
    """A stack of two weights with a gradient and a momentum: whole, and in parts."""
    generator = torch.Generator().manual_seed(0)
    x = manifold.random_point(2, *shape, generator=generator, dtype=dtype)
    g, m = (torch.randn(x.shape, generator=generator, dtype=dtype) for _ in range(2))
    m = manifold.proj_tangent(x, m)
    pieces = list(zip(*(cut(a, dim, sizes) for a in (x, g, m)), strict=True))
    return (x, g, m), pieces


def sizes_of(shape, dim):
    """Ways to cut it: not at all, unevenly, with empty parts, entry by entry."""
    n = shape[dim]
    return [[n], [2, n - 2], [0, n - 1, 0, 1], [1] * n]


@each_case
def test_a_step_in_parts_is_the_whole_step(manifold, shape, dim):
    manifold = manifold.with_dims_from_end(len(shape))
    geometry = sharded_geometry(manifold, frozenset({dim}), shape)
    for sizes in sizes_of(shape, dim):
        (x, g, m), pieces = problem(manifold, shape, dim, sizes)
        y, step = moved(manifold, x, g, *sgd_step(m))
        results = together([moved_parts(geometry, x, g, *sgd_step(m)) for x, g, m in pieces])
        torch.testing.assert_close(torch.cat([end for end, _ in results], dim), y)
        momenta = [own.state["momentum_buffer"] for _, own in results]
        torch.testing.assert_close(torch.cat(momenta, dim), step.state["momentum_buffer"])

        v = torch.rand_like(manifold.inner(x, x, x, keepdim=True))
        n = geometry.entries
        y, step = moved(manifold, x, g, *adam_step(m, v, None, n))
        results = together(
            [moved_parts(geometry, x, g, *adam_step(m, v, None, n)) for x, g, m in pieces]
        )
        torch.testing.assert_close(torch.cat([end for end, _ in results], dim), y)
        momenta = [own.state["exp_avg"] for _, own in results]
        torch.testing.assert_close(torch.cat(momenta, dim), step.state["exp_avg"])
        for _, own in results:
            torch.testing.assert_close(own.state["exp_avg_sq"], step.state["exp_avg_sq"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_a_hermitian_share_sends_its_upper_triangle(dtype):
    a = torch.randn(2, 3, 5, 5, dtype=dtype)
    share = Hermitian(a + a.mH)
    sent = numbers(share)
    assert sent.numel() == 6 * 15 * (2 if dtype.is_complex else 1)
    assert torch.equal(restored(sent, share), share.matrix)
    assert torch.equal(restored(numbers(a), a), a)


@each_case
def test_a_sum_that_is_not_taken_shows(manifold, shape, dim):
    geometry = sharded_geometry(manifold.with_dims_from_end(len(shape)), frozenset({dim}), shape)
    _, pieces = problem(manifold.with_dims_from_end(len(shape)), shape, dim, [2, shape[dim] - 2])
    own = [moved_parts(geometry, x, g, *sgd_step(m)) for x, g, m in pieces]
    results = together(own, total=lambda shares: shares[0])
    y = torch.cat([r[0] for r in results], dim)
    assert not bool((manifold.with_dims_from_end(len(shape)).violation(y) <= 1e-2).all())


@each_case
def test_a_step_in_parts_reads_nothing_on_the_host(manifold, shape, dim):
    manifold = manifold.with_dims_from_end(len(shape))
    geometry = sharded_geometry(manifold, frozenset({dim}), shape)
    x = torch.empty(2, *shape, device="meta")
    v = manifold.inner(x, x, x, keepdim=True)
    counts = torch.empty(2, device="meta")
    skip = torch.empty((), dtype=torch.bool, device="meta")
    with NoHostSync("meta") as seen:
        for largest in (None, v):
            asked = adam_step(x, v, largest, geometry.entries, counts)
            step, sums, checked = together(
                [sharded_step.decide(geometry, x, x, *asked, skip)], total=lambda s: s[0]
            )[0]
            assert checked is not None
            move = sharded_step.move(geometry, x, step.u, step.t, sums, checked)
            y = together([_started(move)])[0]
            assert y.shape == x.shape
    assert seen.dispatched > 50


def _started(steps):
    """The same rounds, where there may be none."""
    yield []
    return (yield from steps)


def test_what_one_process_skips_all_skip():
    geometry = sharded_geometry(Stiefel(), frozenset({-2}), (6, 2))
    _, pieces = problem(Stiefel(), (6, 2), -2, [3, 3])
    skips = [torch.tensor(False), torch.tensor(True)]
    results = together(
        [
            sharded_step.decide(geometry, x, g, *sgd_step(m), skip)
            for (x, g, m), skip in zip(pieces, skips, strict=True)
        ]
    )
    for _, _, checked in results:
        assert not checked.finite.any()


def test_a_member_is_refused_alone():
    geometry = sharded_geometry(Stiefel(), frozenset({-2}), (6, 2))
    _, pieces = problem(Stiefel(), (6, 2), -2, [1, 5])
    pieces[1][1][0, 0, 0] = torch.nan
    results = together([moved_parts(geometry, x, g, *sgd_step(m)) for x, g, m in pieces])
    for (y, _), (x, _, _) in zip(results, pieces, strict=True):
        assert torch.equal(y[0], x[0])
        assert bool((y[1] != x[1]).all())


def test_a_weight_that_was_zero_gets_to_the_surface():
    for manifold in (Stiefel("qr"), Sphere(dim=-2)):
        geometry = sharded_geometry(manifold, frozenset({-2}), (6, 2))
        x = [torch.zeros(1, 3, 2, dtype=torch.float64)] * 2
        for _ in range(3):
            g = [torch.randn(1, 3, 2, dtype=torch.float64) for _ in x]
            first = Request(gradient=True), sgd_step(None)[1]
            own = [moved_parts(geometry, *piece, *first) for piece in zip(x, g, strict=True)]
            x = [y for y, _ in together(own)]
        assert manifold.violation(torch.cat(x, -2)).max() < 1e-14


def test_a_square_weight_that_was_scaled_comes_back_to_where_it_was():
    """What is off in X is not taken for a step, which would lead to -X."""
    manifold = Stiefel()
    geometry = sharded_geometry(manifold, frozenset({-2}), (6, 6))
    (x, _, _), pieces = problem(manifold, (6, 6), -2, [2, 4])
    own = [moved_parts(geometry, 2 * x, g, *sgd_step(m, lr=1e-9)) for x, g, m in pieces]
    results = together(own)
    torch.testing.assert_close(torch.cat([y for y, _ in results], -2), x, rtol=0, atol=1e-6)


def test_a_manifold_of_ones_own_can_be_cut():
    class Half(Manifold):
        event_ndim = 1
        is_constraint = has_constant_norm = True
        proj_tangent = retract = project = violation = dim = None

        def check_shape(self, shape):
            """Any."""

    for manifold in (Half(), Symmetric()):
        with pytest.raises(NotImplementedError, match=r"dimension 1.*needs whole points. Keep"):
            sharded_geometry(manifold, frozenset({-1}), (3, 3))

    class ShardedHalf(ShardedGeometry):
        needs_finish = False
        gradient_summand = gradient = squared_summand = projection_summand = project = None
        curve_summands = curve = None

    sharded_geometry.register(Half, lambda manifold, cut, shape: ShardedHalf(manifold, shape))
    geometry = sharded_geometry(Half(), frozenset({-1}), (3, 4))
    assert geometry.entries == 4
    for call in (lambda: geometry.finish(None, None), lambda: geometry.finish_summand(None)):
        with pytest.raises(NotImplementedError, match="ShardedHalf needs no finish"):
            call()
    with pytest.raises(TypeError, match=r"has_constant_norm\); got Symmetric"):
        ShardedHalf(Symmetric(), (3, 3))

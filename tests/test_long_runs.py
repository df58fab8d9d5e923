"""Ten thousand steps with random gradients end within 10·eps·√p of the surface.

p is the smaller side of a matrix and the size of a vector (`tests.bounds.smaller_side`); the
violation of the stored weight is computed in float64, ten times in a run, and the largest counts.

    python -m tests.test_long_runs        prints the figures, in units of eps·√p
"""

import itertools
import multiprocessing
import sys

import pytest
import torch

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD
from tests.bounds import on_surface, wide
from tests.manifold_cases import CASES, Case, generator, name

STEPS, SHORT = 10_000, 200
LIMIT = 10.0
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.complex64)
CONSTRAINED = [case for case in CASES if case.manifold.is_constraint]

# With normal gradients each step turns a point by about a tenth of a radian or more.
OPTIMIZERS = {
    "SGD": lambda params: RiemannianSGD(params, lr=0.05, momentum=0.9),
    "Adam": lambda params: RiemannianAdam(params, lr=0.05),
}


def shapes(case: Case) -> list[tuple[int, ...]]:
    """A batch and a wide matrix, where there are any."""
    return [case.shapes[kind] for kind in ("batch", "wide") if kind in case.shapes] or [
        case.shapes["deep" if "deep" in case.shapes else "square"]
    ]


def largest_violation(case: Case, optimizer: str, dtype: torch.dtype, steps: int) -> float:
    """In units of eps·√p (times the radius), over ten checkpoints of the run."""
    gen = generator(0)
    params = [
        ManifoldParameter(0.1 * torch.randn(shape, generator=gen, dtype=dtype), case.manifold)
        for shape in shapes(case)
    ]
    step = OPTIMIZERS[optimizer](params).step
    start = [p.detach().clone() for p in params]
    worst = 0.0
    for i in range(1, steps + 1):
        for p in params:
            p.grad = torch.randn(p.shape, generator=gen, dtype=dtype)
        step()
        if i % (steps // 10) == 0:
            for p in params:
                unit = on_surface(case.manifold, p) / LIMIT
                violation = case.manifold.violation(wide(p.detach()))
                worst = max(worst, float(violation.max()) / unit)
    assert not any(torch.equal(p, q) for p, q in zip(params, start, strict=True))
    return worst


over_runs = pytest.mark.parametrize(
    ("case", "optimizer", "dtype"),
    [
        pytest.param(case, optimizer, dtype, id=f"{case.manifold}-{optimizer}-{name(dtype)}")
        for case, optimizer, dtype in itertools.product(CONSTRAINED, OPTIMIZERS, DTYPES)
        if not (case.is_real and dtype.is_complex)
    ],
)


@pytest.mark.sampled(8)
@over_runs
def test_short_run(case, optimizer, dtype):
    assert largest_violation(case, optimizer, dtype, SHORT) <= LIMIT


@pytest.mark.slow
@over_runs
def test_long_run(case, optimizer, dtype):
    assert largest_violation(case, optimizer, dtype, STEPS) <= LIMIT


def _run(job: tuple[int, str, torch.dtype, int]) -> float:
    torch.set_num_threads(1)
    index, optimizer, dtype, steps = job
    return largest_violation(CONSTRAINED[index], optimizer, dtype, steps)


def main(steps: int) -> None:
    """Print one row a manifold, one column an optimizer and dtype."""
    columns = list(itertools.product(OPTIMIZERS, DTYPES))
    print(f"Largest violation in {steps} steps, in units of eps·√p:\n")
    print("| manifold | " + " | ".join(f"{o} {name(d)}" for o, d in columns) + " |")
    print("| --- |" + " ---: |" * len(columns), flush=True)
    jobs = [(i, o, d, steps) for i in range(len(CONSTRAINED)) for o, d in columns]
    with multiprocessing.get_context("spawn").Pool() as pool:
        figures = pool.imap(_run, jobs)
        for case in CONSTRAINED:
            row = [f"{next(figures):.2f}" for _ in columns]
            print(f"| {case.manifold} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS)

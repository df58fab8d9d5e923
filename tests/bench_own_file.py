"""What a user writes: a surface, a problem, a method with a loop of its own, and a workload.

riemopt bench run --plugin tests/bench_own_file.py --problem rows --method lbfgs
"""

from dataclasses import dataclass

import torch
from riemopt_bench.interface import Attached, Budget, Evaluation, Method, Problem, Task
from riemopt_bench.libraries import riemopt as riemopt_adapter
from riemopt_bench.speed.workloads import Holder, Item, Workload
from riemopt_bench.surfaces import Surface

from riemopt.manifolds import FixedSum


@dataclass(frozen=True)
class RowSum(Surface):
    """Matrices whose rows have a given sum."""

    total: float

    def residual(self, weight):
        return weight.sum(-1) - self.total

    def nearest(self, weight):
        return weight + (self.total - weight.sum(-1, keepdim=True)) / weight.shape[-1]


@riemopt_adapter.manifold.register
def _(surface: RowSum):
    return FixedSum(total=surface.total)


def build(seed):
    """Nearest matrix with row sums 1 to a random one; the answer is known."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(6, 4, generator=generator)
    surface = RowSum(1.0)
    answer = surface.nearest(a)

    def evaluate(model):
        gap = (model.weight - answer).square().mean().item()
        return Evaluation(metric=gap, selection=gap)

    return Task(
        Holder(surface.start(torch.randn(6, 4, generator=generator))),
        {"weight": surface},
        batch=lambda step: a,
        loss=lambda model, a: 0.5 * (model.weight - a).square().sum(),
        evaluate=evaluate,
    )


PROBLEMS = (
    Problem(
        name="rows",
        title="Rows of sum one",
        description="The nearest matrix with rows of sum one.",
        metric="mean square distance to the answer",
        higher_is_better=False,
        target=1e-6,
        surfaces=frozenset({RowSum(1.0)}),
        build=build,
        log_metric=True,
        budget=Budget(12, warmup=1, records=5),
    ),
)


def attach_lbfgs(task, lr):
    """torch's L-BFGS, which evaluates the loss as often as its line search wants."""
    optimizer = torch.optim.LBFGS(
        task.model.parameters(), lr=lr, max_iter=2, line_search_fn="strong_wolfe"
    )

    def solve(observe):
        def closure():
            optimizer.zero_grad()
            return observe.evaluate()

        while observe():
            optimizer.step(closure)

    return Attached.to_stored_weights(task, optimizer, solve=solve)


METHODS = (
    Method(
        name="lbfgs",
        title="L-BFGS, no constraint",
        family="solvers",
        description="torch.optim.LBFGS with the constraints dropped.",
        attach=attach_lbfgs,
        grid=(1.0,),
        constrained=False,
    ),
)

WORKLOADS = (
    Workload("rows-8x5", "one 8×5 matrix, rows of sum two", (Item((8, 5), RowSum(2.0)),), True),
)

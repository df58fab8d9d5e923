"""Steps that need sums over processes, many of them in one all-reduce.

A step of points that are cut over processes is a generator, an `Exchange`: it yields the summands
that it needs added up over the processes, and is sent the sums. That is one *round*. `run` drives
the steps of many weights together and sums what all of them ask for at once, so that the number of
all-reduces does not grow with the number of weights.

How many rounds a step has does not depend on what the tensors hold: all processes take the same.
"""

from collections.abc import Generator, Sequence
from typing import TypeVar

from torch import Tensor

from riemopt.distributed.dtensor import Groups, all_reduce
from riemopt.distributed.summands import Summand, numbers, restored

_T = TypeVar("_T")
Exchange = Generator[Sequence[Summand], list[Tensor], _T]


def run(steps: Sequence[tuple[Groups, Exchange[None]]]) -> None:
    """Take all `steps` to their end, each with sums over its own groups of processes."""
    waiting = [(groups, step, next(step)) for groups, step in steps]
    while waiting:
        sums: dict[int, list[Tensor]] = {}
        for groups in dict.fromkeys(groups for groups, _, _ in waiting):
            members = [i for i, entry in enumerate(waiting) if entry[0] == groups]
            sent = [numbers(summand) for i in members for summand in waiting[i][2]]
            totals = iter(all_reduce(sent, groups))
            for i in members:
                sums[i] = [restored(next(totals), summand) for summand in waiting[i][2]]
        advanced = []
        for i, (groups, step, _) in enumerate(waiting):
            try:
                advanced.append((groups, step, step.send(sums[i])))
            except StopIteration:
                continue
        waiting = advanced

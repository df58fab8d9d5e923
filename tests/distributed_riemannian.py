"""Checks of `riemannian(cls)` on weights that are spread over 2 processes.

torchrun --nproc-per-node 2 -m tests.distributed_riemannian REPORT

Process 0 writes to REPORT, as JSON, the error of each check on each process, as
`tests.distributed_run` does.
"""

import copy
import datetime
import json
import os
import sys
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from riemopt.manifolds import Flattened, Sphere, Stiefel, Symmetric
from riemopt.optim import riemannian
from tests.distributed_run import Collectives, Twins, assert_identical, everywhere, line, randn
from tests.riemannian_cases import BASES, BY_ENTRY, OPTIONS, make

# Manifold, shape of the weight, dimension that is cut.
CASES = {
    "tall": (Stiefel(), (7, 3), 0),
    "wide": (Stiefel(), (3, 7), 1),
    "square": (Stiefel(), (4, 4), 0),
    "canonical": (Stiefel("qr", "canonical"), (6, 3), 0),
    "cut rows": (Sphere(radius=2.0), (3, 5), 1),
    "cut columns": (Sphere(dim=0), (5, 3), 0),
    "kernel": (Flattened(Stiefel()), (4, 3, 2, 2), 1),
    "whole rows": (Sphere(), (5, 4), 0),
    "whole matrices": (Symmetric(), (3, 4, 4), 0),
}
CUT = [name for name in CASES if "whole" not in name]
NOT_BY_ENTRY = [name for name in BASES if name not in BY_ENTRY]


def maker(name, **options):
    return lambda params: make(name, params, **options)


def spread(x, dim=0):
    return distribute_tensor(x, line(), [Shard(dim)])


def as_one_process(name):
    for manifold, shape, dim in CASES.values():
        twins = Twins(maker(name), manifold, shape, [Shard(dim)])
        for seed in range(4):
            twins.step(randn(*shape, seed=seed + 1))
        twins.assert_close(rtol=1e-11, atol=1e-11)
        assert manifold.violation(twins.whole).max() < 1e-14


def in_half_precision(name):
    manifold, shape, dim = CASES["tall"]
    twins = Twins(maker(name), manifold, shape, [Shard(dim)], dtype=torch.bfloat16)
    for seed in range(3):
        twins.step(randn(*shape, seed=seed + 1, dtype=torch.bfloat16))
    torch.testing.assert_close(twins.whole, twins.alone.detach(), rtol=0.05, atol=0.05)
    assert_identical(twins.whole)


def no_step_changes_no_bit(name):
    decay = {"lambd": 0.0} if name == "ASGD" else {}
    for case in CUT:
        manifold, shape, dim = CASES[case]
        twins = Twins(maker(name, **decay), manifold, shape, [Shard(dim)])
        before = twins.whole
        twins.step(torch.zeros(shape, dtype=torch.float64))
        assert torch.equal(twins.whole, before)


def refused_alike(name):
    """A gradient that is not finite on one process: no process steps, and all count it."""
    for case in CUT:
        manifold, shape, dim = CASES[case]
        for bad in (torch.nan, torch.inf):
            twins = Twins(maker(name), manifold, shape, [Shard(dim)])
            twins.step(randn(*shape, seed=1))
            before, kept = twins.whole, copy.deepcopy(twins.spread_optimizer.state_dict()["state"])
            g = randn(*shape, seed=2)
            g.view(-1)[0] = bad
            twins.spread.grad = spread(g, dim)
            twins.spread_optimizer.step()
            assert everywhere(twins.spread_optimizer.skipped_steps) == [1, 1]
            assert torch.equal(twins.whole, before)
            for key, value in twins.spread_optimizer.state_dict()["state"].get(0, {}).items():
                old = kept[0][key]
                if isinstance(value, DTensor):
                    value, old = value.full_tensor(), old.full_tensor()
                assert torch.equal(value, old), key
            twins.spread.grad = spread(randn(*shape, seed=3), dim)
            twins.spread_optimizer.step()
            assert not torch.equal(twins.whole, before)
            assert manifold.violation(twins.whole).max() < 1e-14


def _weights():
    """Constrained and plain weights, all spread."""
    constrained = [nn.Parameter(spread(Stiefel().project(randn(6, 3, seed=s)))) for s in range(3)]
    plain = [nn.Parameter(spread(randn(5, 2, seed=s))) for s in (7, 8)]
    return constrained, plain


def _fill(params, step):
    for i, p in enumerate(params):
        p.grad = spread(randn(*p.shape, seed=100 * step + i))


def resumes(name):
    """Bit for bit, beside plain weights, which get the base's numbers."""

    def start():
        constrained, plain = _weights()
        plain = [] if name == "Rprop" else plain  # in torch it cannot step DTensors
        groups = [{"params": constrained, "manifold": Stiefel()}, {"params": plain}]
        return [*constrained, *plain], make(name, groups)

    params, optimizer = start()
    base_params = [nn.Parameter(p.detach().clone()) for p in params[3:]]
    base = BASES[name](base_params or [torch.ones(1)], **OPTIONS[name])
    for step in range(3):
        _fill(params, step)
        optimizer.step()
        for p, q in zip(params[3:], base_params, strict=True):
            q.grad = p.grad
        base.step()
    for p, q in zip(params[3:], base_params, strict=True):
        assert torch.equal(p.full_tensor(), q.full_tensor())
    others, resumed = start()
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with torch.no_grad():
        for p, q in zip(params, others, strict=True):
            q.copy_(p)
    for step in range(3, 5):
        for these, of in ((params, optimizer), (others, resumed)):
            _fill(these, step)
            of.step()
    for p, q in zip(params[:3], others[:3], strict=True):
        assert torch.equal(p.full_tensor(), q.full_tensor())


def rounds(name):
    """As many for three weights as for one."""
    seen = []
    for count in (1, 3):
        params = [
            nn.Parameter(spread(Stiefel().project(randn(6, 3, seed=s)))) for s in range(count)
        ]
        optimizer = make(name, [{"params": params, "manifold": Stiefel()}])
        for step in range(2):
            _fill(params, step)
            with Collectives() as collectives:
                optimizer.step()
            seen.append(collectives.names)
    assert len({*map(tuple, seen)}) == 1
    assert seen[0] == ["allreduce_"] * 4


def refused_with_words(name):
    """Before anything has moved, also where each process has whole points."""
    for case in ("tall", "whole rows"):
        manifold, shape, dim = CASES[case]
        x = manifold.random_point(*shape, generator=torch.Generator().manual_seed(0))
        p, plain = nn.Parameter(spread(x, dim)), nn.Parameter(torch.ones(3, 2))
        whole = nn.Parameter(x.clone())
        groups = [
            {"params": [plain]},
            {"params": [whole], "manifold": manifold},
            {"params": [p], "manifold": manifold},
        ]
        if name == "Muon":  # which knows when it is given the weight
            words = "Muon looks at the whole of a matrix.*Keep it whole on each process"
            with pytest.raises(NotImplementedError, match=words):
                make(name, groups)
            continue
        optimizer = make(name, groups)
        plain.grad, whole.grad, p.grad = torch.ones(3, 2), torch.ones(shape), spread(x, dim)
        match = rf"{name} looks at the whole of a weight.*Keep it whole .*RiemannianAdam"
        with pytest.raises(NotImplementedError, match=match), Collectives() as collectives:
            optimizer.step()
        assert collectives.calls == []
        assert torch.equal(plain, torch.ones(3, 2))
        assert torch.equal(whole, x)
        assert torch.equal(p.full_tensor(), x)
        assert not any(optimizer.state.values())


def said_to_act_by_entry(name):
    """Who says that Lion acts by entry gets what he asks for."""
    cls = riemannian(BASES[name], acts_by_entry=True)
    for case in ("tall", "cut columns"):
        manifold, shape, dim = CASES[case]
        twins = Twins(lambda p: cls(p, **OPTIONS[name]), manifold, shape, [Shard(dim)])
        for seed in range(4):
            twins.step(randn(*shape, seed=seed + 1))
        twins.assert_close(rtol=1e-11, atol=1e-11)


def checks():
    """Each with a name."""
    by_entry = (as_one_process, no_step_changes_no_bit, refused_alike, resumes)
    named = [(check, name) for name in BY_ENTRY for check in by_entry]
    named += [
        (check, name) for name in ("NAdam", "RMSprop") for check in (rounds, in_half_precision)
    ]
    named += [(refused_with_words, name) for name in NOT_BY_ENTRY]
    named += [(said_to_act_by_entry, name) for name in NOT_BY_ENTRY if name == "Lion"]
    return {f"{check.__name__.replace('_', ' ')}: {name}": (check, name) for check, name in named}


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    results = {}
    for title, (check, name) in checks().items():
        error = ""
        try:
            torch.manual_seed(0)
            check(name)
        except BaseException:  # what pytest raises is not always less
            error = f"process {dist.get_rank()}: {traceback.format_exc()}"
            print(title, error, file=sys.stderr, flush=True)
        errors = everywhere(error)
        results[title] = "\n".join(e for e in errors if e)
        if 0 < sum(map(bool, errors)) < len(errors):
            break  # they may no longer be in step
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads now and then abort a process that ends with Python's own clean-up


if __name__ == "__main__":
    main()

"""`ZeroRedundancyOptimizer` and other wrappers of torch.distributed, on one process and on two."""

import pytest
import torch.distributed as dist

from tests.test_distributed import errors

NAMES = [
    "zero redundancy continues",
    "zero redundancy is the optimizer alone",
    "zero redundancy loads into the optimizer alone and back",
    "zero redundancy of groups that name their manifold",
    "post local sgd",
    "state dict functions",
]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    store = dist.FileStore(str(tmp_path_factory.mktemp("one") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", NAMES)
def test_on_one_process(name, one_process):
    from tests.distributed_wrappers import CHECKS  # imports a good part of torch.distributed

    CHECKS[name]()


def test_on_two_processes(tmp_path):
    from tests.distributed_wrappers import CHECKS

    assert [*CHECKS] == NAMES
    assert errors(2, tmp_path, NAMES) == {}

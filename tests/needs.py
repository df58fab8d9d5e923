"""Marks of tests that need what only some torch releases have; see docs/compatibility.md."""

import importlib.util

import pytest
import torch
from torch.torch_version import TorchVersion

from riemopt._torch_versions import COMPILES_STEPS

VERSION = TorchVersion(torch.__version__)


def torch_from(release: str, reason: str) -> pytest.MarkDecorator:
    """Skip before `release`, with what torch lacked until then."""
    return pytest.mark.skipif(release > VERSION, reason=f"before torch {release} {reason}")


compiled_steps = pytest.mark.skipif(
    not COMPILES_STEPS, reason="torch.compile makes no graph of a step before torch 2.13"
)
compiled_forward = torch_from("2.7", "torch.compile breaks its graph at a constrained layer")
fully_shard_on_cpu = torch_from("2.7", "fully_shard takes CPU streams for those of a GPU")
adam_with_decoupled_decay = torch_from("2.7", "torch's Adam has no decoupled_weight_decay")
differentiable_steps = torch_from("2.7", "torch's own differentiable steps raise")
muon = torch_from("2.9", "torch has no Muon")
traced_attributes = torch_from(
    "2.9", "a traced module clears the attributes of parameters that nothing else holds"
)
pogo = pytest.mark.skipif(
    importlib.util.find_spec("pogo") is None,
    reason="no pogo-torch, as on Python 3.10 and before torch 2.9.1",
)

"""Marks of tests that need what only some torch releases have; see docs/compatibility.md."""

import pytest
import torch
from torch.torch_version import TorchVersion

from riemopt._torch_versions import COMPILES_STEPS

VERSION = TorchVersion(torch.__version__)

compiled_steps = pytest.mark.skipif(
    not COMPILES_STEPS, reason="torch.compile makes no graph of a step before torch 2.13"
)
compiled_forward = pytest.mark.skipif(
    VERSION < (2, 7), reason="torch.compile breaks its graph at Parameters of another class"
)
fully_shard_on_cpu = pytest.mark.skipif(
    VERSION < (2, 7), reason="fully_shard takes CPU streams for those of a GPU"
)

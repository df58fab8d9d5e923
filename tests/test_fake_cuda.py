"""`capturable=True` and steps on CUDA tensors, without a GPU: see `tests.fake_cuda_run`."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest
import torch
from torch.utils.cpp_extension import get_cxx_compiler

from tests.test_no_host_sync import FEW, MANIFOLDS, OPTIMIZERS


@pytest.mark.skipif(
    not torch.backends.cuda.is_built() and shutil.which(get_cxx_compiler()) is None,
    reason="a CPU build of torch needs a C++ compiler to pretend that there is a CUDA device",
)
@pytest.mark.skipif(
    torch.backends.cuda.is_built() and not torch.cuda.is_available(),
    reason="in a CUDA build of torch autograd looks for the device, and this machine has none",
)
def test_a_step_on_fake_cuda_tensors_reads_nothing(tmp_path):
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])  # ninja
    process = subprocess.run(
        [sys.executable, "-m", "tests.fake_cuda_run"],
        cwd=pathlib.Path(__file__).parents[1],
        env={**os.environ, "PATH": path, "TORCH_EXTENSIONS_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout.splitlines()[-1])
    assert len(report["steps"]) > 2 * len(MANIFOLDS) + (len(OPTIMIZERS) - 2) * len(FEW)
    assert {case: error for case, error in report["steps"].items() if error} == {}
    missed = {k: v for k, v in report["plants"].items() if not v.startswith("HostSyncError")}
    assert missed == {}, "synchronisations that the detector does not see"

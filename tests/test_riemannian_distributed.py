"""`riemannian(cls)` on weights that are spread over two processes; see `distributed_riemannian`."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests import distributed_riemannian

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    report = tmp_path_factory.mktemp("riemannian") / "report.json"
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.Popen(
        [*run, "-m", "tests.distributed_riemannian", str(report)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, stderr = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert report.exists(), stderr
    return json.loads(report.read_text())


@pytest.mark.parametrize("title", distributed_riemannian.checks())
def test_on_two_processes(title, results):
    assert results.get(title, "not run") == ""

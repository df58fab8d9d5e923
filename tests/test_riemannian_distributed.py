"""`riemannian(cls)` on weights that are spread over two processes; see `distributed_riemannian`."""

import json

from tests import distributed_riemannian
from tests.test_distributed import launch


def test_on_two_processes(tmp_path):
    report = tmp_path / "report.json"
    _, stderr = launch(2, "-m", "tests.distributed_riemannian", report)
    assert report.exists(), stderr
    results = json.loads(report.read_text())
    assert [*results] == [*distributed_riemannian.checks()]
    assert {title: error for title, error in results.items() if error} == {}

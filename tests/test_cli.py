"""The command line: what it says, and what it says when something is wrong."""

import os
import shutil
import subprocess
import sys

import pytest
from riemopt_bench import commands, environment
from riemopt_bench.train.store import Store
from typer.testing import CliRunner

from riemopt.cli import app


def invoke(*arguments):
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


WITHOUT_PARENT = """
import sys, types
package = types.ModuleType("riemopt")
package.__path__ = [{path!r}]
sys.modules["riemopt"] = package
"""


def prelude():
    import riemopt

    return WITHOUT_PARENT.format(path=os.path.dirname(riemopt.__file__))


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["--help"], ["bench"]),
        (["bench", "--help"], ["list", "run", "report"]),
        (["bench", "run", "--help"], ["--suite", "--seeds", "--jobs", "--no-resume", "--out"]),
    ],
    ids=" ".join,
)
def test_help(arguments, needed):
    result = invoke(*arguments)
    assert result.exit_code == 0
    for word in needed:
        assert word in result.output


def test_parsing_alone_does_not_import_torch():
    code = prelude() + (
        "from typer.testing import CliRunner\nfrom riemopt.cli import app\n"
        "assert CliRunner().invoke(app, ['bench', 'run', '--help']).exit_code == 0\n"
        "assert not {'torch', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules)\n"
    )
    result = python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("missing", ["typer", "rich.console", "riemopt_bench", "geoopt"])
def test_a_missing_package_is_one_line_that_says_what_to_install(missing):
    code = (
        f"import sys\nsys.modules[{missing!r}] = None\n"
        "sys.argv = ['riemopt', 'bench', 'list']\n"
        "from riemopt.cli import main\nmain()\n"
    )
    result = python(code)
    if missing == "geoopt":  # only a run needs it
        assert result.returncode == 0
        return
    assert result.returncode == 1
    assert "pip install 'riemopt[bench]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_package_that_only_the_page_needs_is_missed_before_anything_is_run(tmp_path):
    code = (
        "import sys\nsys.modules['jinja2'] = None\n"
        f"sys.argv = ['riemopt', 'bench', 'run', '--out', {str(tmp_path / 'out')!r}]\n"
        "from riemopt.cli import main\nmain()\n"
    )
    result = python(code)
    assert result.returncode == 1
    assert "pip install 'riemopt[bench]'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_part_of_ours_that_is_missing_is_not_a_package_to_install():
    code = (
        "import sys\nsys.modules['riemopt_bench.registry'] = None\n"
        "sys.argv = ['riemopt', 'bench', 'list']\n"
        "from riemopt.cli import main\nmain()\n"
    )
    result = python(code)
    assert result.returncode == 1
    assert "pip install" not in result.stderr
    assert "riemopt_bench.registry" in result.stderr


def test_list():
    result = invoke("bench", "list")
    assert result.exit_code == 0
    for name in ("digits", "mnist5k", "pca", "circle", "riemopt-adam", "geoopt-adam", "demo"):
        assert name in result.output


@pytest.mark.parametrize(
    ("option", "value", "accepted"),
    [
        ("--suite", "dmeo", "Did you mean 'demo'? There are: demo, quick, full."),
        ("--problem", "digit", "Did you mean 'digits'?"),
        ("--schedule", "cosin", "Did you mean 'cosine'? There are: cosine, constant."),
        ("--dtype", "float8", "There are: float64, float32, bfloat16, float16."),
        ("--device", "tpu", "There are: cpu, cuda"),
        ("--device", "cuda:7", "sees"),
        ("--method", "adam", "geoopt-adam"),
    ],
)
def test_unknown_names(option, value, accepted, tmp_path):
    result = invoke("bench", "run", option, value, "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert repr(value) in result.stderr
    assert accepted in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    result = invoke("bench", "run", "--out", str(tmp_path / "file" / "below"))
    assert result.exit_code == 2
    assert "cannot write to" in result.stderr
    assert "--out DIR" in result.stderr


def test_a_method_that_applies_to_nothing(tmp_path):
    arguments = ("--problem", "pca", "--method", "adam-unconstrained", "--out", str(tmp_path))
    result = invoke("bench", "run", *arguments)
    assert result.exit_code == 2
    assert "no minimum" in result.stderr


def test_a_cluster_decides_how_much_runs_at_a_time(tmp_path):
    arguments = ("--jobs", "2", "--scheduler", "tcp://127.0.0.1:1", "--out", str(tmp_path / "out"))
    result = invoke("bench", "run", "--problem", "pca", *arguments)
    assert result.exit_code == 2
    assert "leave out --jobs" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [("--steps", "0"), ("--seconds", "0"), ("--jobs", "0")])
def test_numbers_must_be_positive(option):
    assert invoke("bench", "run", *option).exit_code == 2


def test_seeds_must_be_positive():
    assert invoke("bench", "run", "--seeds", "0").exit_code == 2


def test_a_report_of_a_directory_without_results(tmp_path):
    result = invoke("bench", "report", str(tmp_path))
    assert result.exit_code == 2
    assert "runs.jsonl" in result.stderr
    assert "riemopt bench run" in result.stderr


def test_a_store_with_a_bad_line(tmp_path):
    (tmp_path / "runs.jsonl").write_text("nonsense\n")
    result = invoke("bench", "report", str(tmp_path))
    assert result.exit_code == 2
    assert "line 1" in result.stderr


# --- patterns, compare, doctor -----------------------------------------------------------------


def test_a_pattern_chooses_all_that_fit_in_their_order():
    known = {"riemopt-adam": 1, "riemopt-sgd": 2, "geoopt-adam": 3}
    assert commands._choose("method", ["*-adam", "riemopt-*"], known) == [1, 2, 3]
    assert commands._choose("method", ["riemopt-*"], known) == [1, 2]
    with pytest.raises(commands.UsageError, match=r"no method called 'rimopt-\*'"):
        commands._choose("method", ["rimopt-*"], known)


def row(method, seconds, **more):
    trace = {
        "optimizer": [seconds / 2] * 3,
        "forward_backward": [seconds / 2] * 3,
        "metric": [0.5, 0.1],
        "elapsed": [0.0, 1.0],
        "stored_violation": {},
        "used_violation": {},
    }
    environment = {"cpu": "one", "torch": "2.13", "cores": 2, "load": 0.1}
    return {
        "key": f"{method}{more}",
        "cell": method,
        "phase": "run",
        "problem": "circle",
        "method": method,
        "repetition": 0,
        "lr": 0.1,
        "status": "ok",
        "budget": {"steps": 3},
        "trace": trace,
        "environment": environment,
        **more,
    }


def directory_of(path, *rows):
    path.mkdir()
    for one in rows:
        Store(path).append(one)
    return str(path)


def test_two_directories_side_by_side(tmp_path):
    a = directory_of(tmp_path / "a", row("riemopt-adam", 0.004), row("riemopt-sgd", 0.001))
    other = {"cpu": "two", "torch": "2.13", "cores": 2, "load": 0.1}
    moved = {"device": "cpu", "dtype": "float64"}
    b = directory_of(
        tmp_path / "b", row("riemopt-adam", 0.006, environment=other, lr=0.3, placement=moved)
    )
    result = invoke("bench", "compare", a, b)
    assert result.exit_code == 0, result.output
    line = next(line for line in result.output.splitlines() if "circle: riemopt-adam" in line)
    cells = [cell.strip() for cell in line.split("│")[1:-1]]
    assert cells[1] == cells[2] == "0.1"
    assert cells[3:] == ["4.00", "6.00", "1.50", "other device or dtype; lr 0.1 and 0.3"]
    assert "cpu: A one, B two" in result.output
    assert "torch: A" not in result.output
    assert "only in A: riemopt-sgd on circle" in result.output


def test_nothing_to_compare_is_an_error(tmp_path):
    a = directory_of(tmp_path / "a", row("riemopt-adam", 0.004))
    b = directory_of(tmp_path / "b", row("riemopt-sgd", 0.004))
    result = invoke("bench", "compare", a, b)
    assert result.exit_code == 2
    result = invoke("bench", "compare", a, str(tmp_path / "nowhere"))
    assert result.exit_code == 2


@pytest.mark.parametrize(("load", "code"), [(0.1, 0), (50.0, 1)])
def test_the_doctor_says_what_disturbs(load, code, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "load", lambda: load)
    monkeypatch.setattr(
        environment, "version", lambda p: "not installed" if p == "geoopt" else "1.0"
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 0, 10**9))
    result = invoke("bench", "doctor", "--out", str(tmp_path / "new"))
    assert result.exit_code == code
    assert f"{load} on" in result.output
    assert "not installed" in result.output
    assert "geoopt-adam" in result.output
    assert not (tmp_path / "new").exists()

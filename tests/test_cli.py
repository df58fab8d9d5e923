"""The command line: what it says, and what it says when something is wrong."""

import os
import subprocess
import sys

import pytest
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
        ("--suite", "dmeo", "Did you mean 'demo'? There are: demo, small, full."),
        ("--problem", "digit", "Did you mean 'digits'?"),
        ("--problem", "mnist5k", "There are: digits, pca, circle."),
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

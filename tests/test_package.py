"""The package as a whole: what importing it costs, and which way its parts depend."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest
import riemopt_bench

import riemopt

PACKAGE = pathlib.Path(riemopt.__file__).parent
BENCH_ONLY = {
    "typer",
    "rich",
    "pandas",
    "matplotlib",
    "jinja2",
    "scipy",
    "sklearn",
    "mlxtend",
    "joblib",
}

# Each part may import from those named after it, from itself, and from what knows torch's releases.
EVERYWHERE = {"_torch_workarounds", "_torch_versions"}
LAYERS = {
    **{part: set() for part in EVERYWHERE},
    "linalg": set(),
    "manifolds": {"linalg"},
    "distributed": {"manifolds", "linalg"},
    "nn": {"distributed", "manifolds", "linalg"},
    "optim": {"solvers", "nn", "distributed", "manifolds", "linalg"},
    "solvers": {"nn", "distributed", "manifolds", "linalg"},
    "testing": {"linalg", "manifolds"},
    "interop": {"optim", "nn", "distributed", "manifolds", "linalg"},
    "swa_utils": {"nn"},
    "cli": set(),
    "__init__": {"solvers", "optim", "nn", "manifolds", "swa_utils"},
}


def _part(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            if node.module == "riemopt":
                yield from (f"riemopt.{alias.name}" for alias in node.names)


FILES = sorted(PACKAGE.rglob("*.py"))
BENCH_FILES = sorted(pathlib.Path(riemopt_bench.__file__).parent.rglob("*.py"))
ROOT = PACKAGE.parent


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_dependencies_point_one_way(path):
    part = _part(path)
    for name in _imports(path):
        if not name.startswith("riemopt."):
            continue
        target = name.split(".")[1]
        public = not (PACKAGE / target).is_dir() and not (PACKAGE / f"{target}.py").exists()
        target = "riemopt" if public else target
        allowed = LAYERS[part] | {part} | EVERYWHERE
        assert target in allowed or (target == "riemopt" and part == "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_command_knows_the_benchmark(path):
    assert path.name == "cli.py" or not any(n.startswith("riemopt_bench") for n in _imports(path))


@pytest.mark.parametrize("path", BENCH_FILES, ids=lambda p: "/".join(p.parts[-2:]))
def test_the_benchmark_uses_public_names_only(path):
    public = {f"riemopt.{name}" for name in riemopt.__all__} | {"riemopt", "riemopt.cli"}
    assert not {n for n in _imports(path) if n.split(".")[0] == "riemopt"} - public


def test_the_wheel_holds_the_benchmark_and_its_page():
    """By hatchling's own reading of pyproject.toml, where it is installed."""
    builders = pytest.importorskip("hatchling.builders.wheel")
    files = {f.distribution_path for f in builders.WheelBuilder(str(ROOT)).recurse_included_files()}
    for needed in ("riemopt/cli.py", "riemopt_bench/surfaces.py"):
        assert needed in files
    assert "riemopt_bench/page/report.html.j2" in files
    assert not [name for name in files if name.startswith(("tests/", "benchmarks/"))]


def test_the_project_names_the_benchmark_as_a_package():
    tomllib = pytest.importorskip("tomllib", reason="of Python 3.11 and newer")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    folders = {(ROOT / package).resolve() for package in packages}
    assert folders == {PACKAGE, pathlib.Path(riemopt_bench.__file__).parent}
    needed = " ".join(project["project"]["optional-dependencies"]["bench-any-torch"])
    assert all(name.replace("sklearn", "scikit-learn") in needed for name in BENCH_ONLY)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_geometry_knows_no_modules_and_no_optimizers(path):
    if _part(path) in ("linalg", "manifolds"):
        assert not any(n.startswith(("torch.nn", "torch.optim")) for n in _imports(path))


def test_importing_riemopt_imports_no_extra():
    code = "import sys, riemopt; print(' '.join(m.split('.')[0] for m in sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not (BENCH_ONLY | {"geoopt"}) & set(loaded.stdout.split())
    code = "import sys, torch; a = set(sys.modules); import riemopt; print(*(set(sys.modules) - a))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    ours = {m for m in loaded.stdout.split() if not m.startswith("riemopt")}
    assert not {m for m in ours if m.startswith("torch._dynamo")}


def test_public_names_exist_and_are_documented():
    for name in riemopt.__all__:
        assert getattr(riemopt, name).__doc__
    for name in riemopt.manifolds.__all__:
        assert getattr(riemopt.manifolds, name).__doc__


# Where the rest of the package still asks which back end computes.
KNOWN = {"optim/plan.py", "optim/stack.py"}  # which keep no plan and no batch in a graph


def test_the_back_end_is_asked_for_in_linalg_and_nowhere_else():
    asking = re.compile(r"host_readable|reads_are_free|is_compiling|is_functorch_wrapped|is_traced")
    found = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if _part(path) not in {"linalg"} | EVERYWHERE and asking.search(path.read_text())
    }
    assert found <= KNOWN

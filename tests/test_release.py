"""What is released: one version, a changelog that names it, checklists that are true."""

import importlib.metadata
import re
from pathlib import Path

import pytest

import riemopt

ROOT = Path(__file__).parent.parent
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
# What a checklist calls NAME, for a file that exists.
NAMES = {
    "riemopt/manifolds": "sphere",
    "riemopt/solvers": "lbfgs",
    "tests": "fixed_rank",
    "problems": "pca",
}


def test_the_version_stands_in_one_place():
    assert "version" not in _project()
    assert 'path = "riemopt/__init__.py"' in (ROOT / "pyproject.toml").read_text()
    assert importlib.metadata.version("riemopt") == riemopt.__version__
    assert f"version: {riemopt.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def _project():
    text = (ROOT / "pyproject.toml").read_text().split("[project]\n")[1].split("\n[")[0]
    return {line.split(" = ")[0] for line in text.splitlines()}


def test_the_changelog_begins_with_this_version():
    versions = re.findall(r"^## \[(.+?)\]", CHANGELOG, re.MULTILINE)
    assert versions[:2] == ["Unreleased", riemopt.__version__] or versions[0] == riemopt.__version__
    kinds = set(re.findall(r"^### (.+)$", CHANGELOG, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def _paths():
    for quoted in re.findall(r"`([\w./-]+/[\w./-]*)`|\]\(([\w./-]+)", CONTRIBUTING):
        path = next(filter(None, quoted))
        if not path.startswith(".venv/"):  # which `make install` makes
            yield path


@pytest.mark.parametrize("path", sorted(set(_paths())))
def test_files_that_a_checklist_names_exist(path):
    if "NAME" in path:
        folder = next(known for known in NAMES if known in path)
        path = path.replace("NAME", NAMES[folder])
    if path.startswith(".venv/"):  # which `make install` makes
        assert "VENV   := .venv" in (ROOT / "Makefile").read_text()
        return
    assert (ROOT / path).exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([a-z-]+)`", CONTRIBUTING))))
def test_targets_of_make_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("CASES", "tests/manifold_cases.py"),
        ("FAMILIES", "docs/make_catalogue.py"),
        ("__all__", "riemopt/manifolds/__init__.py"),
        ("METHODS", "riemopt/solvers/minimize.py"),
        ("PROBLEMS", "benchmarks/riemopt_bench/problems/pca.py"),
    ],
)
def test_lists_of_a_checklist_are_where_it_says(name, file):
    assert f"`{name}`" in CONTRIBUTING
    assert re.search(rf"^{name}\b.* = ", (ROOT / file).read_text(), re.MULTILINE)

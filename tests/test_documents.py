"""The code that users are shown runs: README blocks, the notebook and the examples."""

import json
import pathlib
import re
import subprocess
import sys

import matplotlib as mpl
import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme(number, capsys):
    exec(compile(BLOCKS[number], f"README.md, block {number}", "exec"), {})


def test_files_that_the_readme_names_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.name)
def test_notebook(path, capsys):
    mpl.use("agg")
    cells = json.loads(path.read_text())["cells"]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    exec(compile(code, path.name, "exec"), {})


def test_checkpoint_and_resume_give_the_same_curve():
    script = ROOT / "examples" / "checkpoint_resume.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert "resumed run identical: True" in run.stdout

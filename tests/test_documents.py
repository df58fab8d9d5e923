"""The code that users are shown runs: README blocks, the pages of docs, notebooks, examples.

The blocks of a page of `docs` run one after the other in one namespace, in an empty folder. A block
fenced as `output` shows what the blocks before it print: each of its lines, but "…", begins a line
of that.
"""

import base64
import contextlib
import importlib.util
import inspect
import io
import json
import pathlib
import re
import subprocess
import sys
import urllib.parse

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch

from riemopt import manifolds
from riemopt.manifolds import Manifold
from tests import needs

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
PAGES = sorted((ROOT / "docs").glob("*.md"))
NEEDS = {
    "choosing-an-optimizer.md": needs.muon,
    "choosing_an_optimizer.ipynb": needs.muon,
    "distributed.md": needs.fully_shard_on_cpu,
}


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme(number, capsys):
    exec(compile(BLOCKS[number], f"README.md, block {number}", "exec"), {})


@pytest.fixture
def _default_dtype():
    """A page may set it."""
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("_default_dtype")
@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.name, marks=NEEDS.get(p.name, ())) for p in PAGES]
)
def test_page(page, monkeypatch, tmp_path):
    mpl.use("agg")
    monkeypatch.chdir(tmp_path)
    namespace, printed = {"__name__": "page"}, io.StringIO()
    blocks = re.findall(
        r"^```(python|output)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
    )
    for number, (kind, text) in enumerate(blocks):
        if kind == "python":
            code = compile(text, f"{page.name}, block {number}", "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)
        else:
            lines = printed.getvalue().splitlines()
            for shown in text.splitlines():
                assert shown == "…" or any(line.startswith(shown) for line in lines), shown


LINKING = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "benchmarks" / "README.md",
    *PAGES,
    *sorted((ROOT / "notebooks").glob("*.py")),
]
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def anchors(page):
    """Of the headings of a page, as GitHub makes them, and as `make docs` does."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", LINKING, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    """To a file that is there and a heading in it; links to other sites are looked at, no more."""
    text = FENCED.sub("", page.read_text())
    if page.suffix == ".py":  # of a notebook
        text = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    for target in re.findall(r"\]\(([^)]+)\)", text):
        address = urllib.parse.urlparse(target)
        if address.scheme:
            assert address.scheme == "https", target
            assert re.fullmatch(r"[\w-]+(\.[\w-]+)+", address.netloc), target
            continue
        file = page.parent / address.path if address.path else page
        assert file.exists(), target
        assert not address.fragment or address.fragment in anchors(file), target


def test_results_stand_between_marks():
    """Where `riemopt bench report --readme` writes them."""
    text = (ROOT / "docs" / "benchmark.md").read_text()
    between = re.findall(r"^<!-- results -->\n(.*?)\n<!-- /results -->$", text, FENCED.flags)
    assert len(between) == 1
    assert "| --- |" in between[0]


@pytest.fixture(scope="module")
def catalogue():
    path = ROOT / "docs" / "make_catalogue.py"
    spec = importlib.util.spec_from_file_location("make_catalogue", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_catalogue_is_that_of_the_classes(catalogue):
    assert catalogue.page() == catalogue.PAGE.read_text(), "run `make catalogue`"


def test_catalogue_has_every_manifold(catalogue):
    classes = {cls for cls in vars(manifolds).values() if inspect.isclass(cls)}
    public = {c.__name__ for c in classes if issubclass(c, Manifold) and not inspect.isabstract(c)}
    assert {name for family in catalogue.FAMILIES for name in family.members} == public


def test_catalogue_says_what_each_manifold_is_for(catalogue):
    for family in catalogue.FAMILIES:
        for name, (call, shape) in family.members.items():
            cls = getattr(manifolds, name)
            catalogue.instance(call).check_shape(shape)
            follows = "base" in inspect.signature(cls).parameters or cls in (
                manifolds.Euclidean,
                manifolds.Frozen,
            )
            needed = ("For", "Not for") if follows else catalogue.LABELS
            assert not set(needed) - set(catalogue.labelled(cls)), name


NOTEBOOKS = [
    pytest.param(p, id=p.name, marks=NEEDS.get(p.name, ()))
    for p in sorted((ROOT / "notebooks").glob("*.ipynb"))
]


@pytest.mark.usefixtures("_default_dtype")
@pytest.mark.parametrize("path", NOTEBOOKS)
def test_notebook(path, capsys, monkeypatch):
    """Its cells run, and print what is stored: the words, as the last digits may differ."""
    mpl.use("agg")
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    namespace = {"__name__": "notebook"}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), path.name, "exec"), namespace)
            stored = "".join("".join(o["text"]) for o in cell["outputs"] if "text" in o)
            assert words(capsys.readouterr().out) == words(stored)


def words(text):
    """What a text says beside numbers, and beside the spaces that line them up."""
    return re.sub(r"-?[\d.]+(e[-+]\d+)?", "", text).split()


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_notebook_is_that_of_its_text(path):
    """The `.py` beside it, in jupytext's percent format, has the same cells in the same order."""
    text = path.with_suffix(".py").read_text()
    cells = []
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        kind, _, source = part.partition("\n")
        if kind == " [markdown]":
            lines = [
                line.removeprefix("#").removeprefix(" ") for line in source.strip().split("\n")
            ]
            cells.append(("markdown", "\n".join(lines)))
        else:
            assert not kind
            cells.append(("code", source.strip("\n")))
    stored = json.loads(path.read_text())["cells"]
    assert [(c["cell_type"], "".join(c["source"])) for c in stored] == cells, "`make notebooks`"


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_notebook_is_stored_with_its_output(path):
    """As one run from top to bottom left it: no warning, no path of a machine, small pictures."""
    code = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1)), "`make notebooks`"
    for output in (o for cell in code for o in cell["outputs"]):
        if output["output_type"] == "stream":
            assert output["name"] == "stdout"
            assert not re.search(r"(^|\s)/\w|0x[0-9a-f]{6}", "".join(output["text"]))
        else:
            assert output["output_type"] == "display_data"
            assert len(base64.b64decode(output["data"]["image/png"])) < 100_000


def test_every_text_has_its_notebook():
    folder = ROOT / "notebooks"
    assert {p.stem for p in folder.glob("*.py")} == {p.stem for p in folder.glob("*.ipynb")}


def test_checkpoint_and_resume_give_the_same_curve():
    script = ROOT / "examples" / "checkpoint_resume.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert "resumed run identical: True" in run.stdout


def test_ten_rotations_from_random_starts():
    script = ROOT / "examples" / "rotation_averaging.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert float(re.search(r"worst of 10 starts: (\S+)°", run.stdout)[1]) < 3


@pytest.mark.slow
def test_two_equations_at_once_on_a_classifier():
    script = ROOT / "examples" / "constrain_anything.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    accuracy, violation = re.search(r"accuracy (\S+), violation (\S+), sat", run.stdout).groups()
    assert float(accuracy) > 0.9
    assert float(violation) < 1e-6
    assert "satisfied: True" in run.stdout


@pytest.mark.slow
def test_a_matrix_is_completed_whole_and_as_factors():
    script = ROOT / "examples" / "low_rank_completion.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    errors = [
        [float(e) for e in re.findall(r"\d\.\de\S+", line)] for line in run.stdout.split("\n")
    ]
    runs = [line for line in errors if line]
    assert len(runs) == 5
    assert all(line[0] > 0.3 and line[-1] < 1e-8 for line in runs)
    assert runs[3] == runs[4]  # what the factors' sizes are does not matter


@pytest.mark.slow
def test_pose_graphs_need_few_iterations():
    script = ROOT / "examples" / "pose_graph.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    iterations = [int(n) for n in re.findall(r"Marquardt: (\d+) iterations", run.stdout)]
    steps = [int(n) for n in re.findall(r": (\d+) steps", run.stdout)]
    off = re.findall(r"positions off by (\S+) to (\S+)", run.stdout)
    assert len(iterations) == 2
    assert max(iterations) <= 20
    assert len(steps) == 4
    assert min(steps) >= 100
    assert all(float(after) < float(before) / 3 for before, after in off)

"""Every public class and function has an example in its docstring, and the examples are true."""

import doctest
import importlib
import inspect
import pkgutil
import re

import pytest

import riemopt
from tests import needs

# Whose `__all__` is public.
MODULES = [
    "riemopt",
    "riemopt.manifolds",
    "riemopt.optim",
    "riemopt.solvers",
    "riemopt.testing",
    "riemopt.swa_utils",
    "riemopt.interop.parametrize",
    "riemopt.interop.geoopt",
    "riemopt.interop.distributed",
    "riemopt.linalg",
]
# Of `riemopt.linalg` what says where and how something is computed, and not what.
WITHOUT = {
    f"riemopt.linalg.{part}"
    for part in ("autocast", "backends", "copies", "numbers", "rows", "steps")
} | {"torch.compiler"}


def public():
    """Qualified names of classes and functions; what several modules export comes once."""
    found = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for member in module.__all__:
            value = getattr(module, member)
            has_docstring = inspect.isclass(value) or inspect.isfunction(value)
            if has_docstring and inspect.unwrap(value).__module__ not in WITHOUT:
                found.setdefault(id(value), f"{name}.{member}")
    return sorted(found.values())


@pytest.mark.parametrize("name", public())
def test_what_is_public_has_an_example(name):
    module, _, member = name.rpartition(".")
    doc = getattr(importlib.import_module(module), member).__doc__
    assert doc is not None
    _, heading, examples = doc.partition("\n    Examples:\n")
    assert heading, "its docstring needs a paragraph `Examples:`"
    statements = doctest.DocTestParser().get_examples(examples)
    assert any(not s.source.startswith(("import ", "from ")) for s in statements)


def with_examples():
    modules = [riemopt.__name__]
    modules += [m.name for m in pkgutil.walk_packages(riemopt.__path__, "riemopt.")]
    return [m for m in modules if ">>> " in inspect.getsource(importlib.import_module(m))]


class Rounded(doctest.OutputChecker):
    """Numbers may differ in the last digits, which another processor may round otherwise."""

    def check_output(self, want, got, flags):
        texts = (re.sub(r"-?\d+\.\d*(e[+-]\d+)?", self._rounded, text) for text in (want, got))
        return super().check_output(*texts, flags)

    @staticmethod
    def _rounded(number):
        return f"{float(number[0]) + 0.0:.2e}"


OF_MUON = {"riemopt.optim.muon"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=needs.muon) if n in OF_MUON else n for n in with_examples()],
)
@pytest.mark.filterwarnings("ignore:.*Conversion|.*proj:UserWarning")
def test_examples_print_what_they_say(name):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(Rounded(), optionflags=flags)
    said = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)):
        test.globs = {}  # an example says all that it needs
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)

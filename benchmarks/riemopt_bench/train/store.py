"""The results file: one JSON object per line, appended whole, never rewritten.

A run's key is a hash of everything that determines its result (see `RunSpec.key`). A second start
of the same benchmark skips the keys that are present. A process that dies while it writes leaves a
last line without its newline: readers skip it, and the next append cuts it off.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class StoreError(Exception):
    """The results cannot be read or written; the message says where and what to do."""


class Store:
    """The rows of `DIR/runs.jsonl`."""

    FILE = "runs.jsonl"

    def __init__(self, directory: Path) -> None:
        self.path = directory / self.FILE
        self.truncated = False

    def rows(self) -> list[Row]:
        """All complete rows, oldest first; sets `truncated` if a cut-off last line was skipped."""
        self.truncated = False
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        complete, _, rest = data.rpartition(b"\n")
        self.truncated = bool(rest)
        rows = []
        for number, line in enumerate(complete.splitlines(), start=1):
            if line.strip():
                rows.append(self._parse(line, number))
        return rows

    def keys(self) -> set[str]:
        """Keys of the runs that are done, failures included."""
        return {row["key"] for row in self.rows()}

    def append(self, row: Row) -> None:
        """Add one row with a single write, under a lock where the system has one."""
        line = json.dumps(row, allow_nan=True, separators=(",", ":")).encode() + b"\n"
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            with _locked(descriptor):
                _cut_incomplete_line(descriptor)
                written = os.write(descriptor, line)
                if written != len(line):
                    raise StoreError(f"{self.path}: only part of a row was written (disk full?)")
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _parse(self, line: bytes, number: int) -> Row:
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or "key" not in row:
                raise ValueError("not an object with a 'key'")
        except ValueError as error:
            raise StoreError(
                f"{self.path}, line {number}: not a benchmark row ({error}). Every line must be "
                f"one JSON object as `riemopt bench run` writes it; delete that line, and the "
                f"run it held is measured again."
            ) from None
        return row


def _cut_incomplete_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    end = size
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end != size:
        os.ftruncate(descriptor, end)


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows: a single O_APPEND write is all there is
        yield
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)

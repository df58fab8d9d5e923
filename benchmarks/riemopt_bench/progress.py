"""Progress: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)


class Ticker:
    """Counts the runs of one phase, and says how much time is left to the end of the last one.

    with Ticker(console, "tuning", total=12, later=4) as ticker:
        ticker.done("digits  riemopt-adam  1.9 ms")

    `later` is the work of the phases to come, in runs of this one.
    """

    def __init__(self, console: Console, phase: str, total: int, later: float = 0.0) -> None:
        self.console, self.phase, self.total, self.later = console, phase, total, later
        self.count = 0
        self.started = time.monotonic()
        self.bar: Progress | None = None
        if console.is_terminal:
            self.bar = Progress(
                TextColumn(f"{phase:<10}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
                TextColumn("{task.description}"),
                console=console,
                refresh_per_second=2,
            )
            self.task = self.bar.add_task("", total=total, left="")

    def __enter__(self) -> Ticker:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()

    def done(self, text: str, failed: bool = False) -> None:
        """One more run is finished."""
        self.count += 1
        runs = self.total - self.count + self.later
        seconds = (time.monotonic() - self.started) / self.count * runs
        left = f"{_duration(seconds)} left"
        if self.bar:
            self.bar.update(self.task, advance=1, description=text, left=left)
            if failed:
                self.console.print(f"  failed: {text}", highlight=False, markup=False)
            return
        line = f"{self.phase} {self.count}/{self.total}  {text}  ({left})"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

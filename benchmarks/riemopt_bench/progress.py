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
    TimeRemainingColumn,
)


class Ticker:
    """Counts the runs of one phase.

    with Ticker(console, "measuring", total=12) as ticker:
        ticker.done("digits  riemopt-adam  1.9 ms")
    """

    def __init__(self, console: Console, phase: str, total: int) -> None:
        self.console, self.phase, self.total = console, phase, total
        self.count = 0
        self.started = time.monotonic()
        self.bar: Progress | None = None
        if console.is_terminal:
            self.bar = Progress(
                TextColumn(f"{phase:<10}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=console,
                refresh_per_second=2,
            )
            self.task = self.bar.add_task("", total=total)

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
        if self.bar:
            self.bar.update(self.task, advance=1, description=text)
            if failed:
                self.console.print(f"  failed: {text}", highlight=False, markup=False)
            return
        left = (time.monotonic() - self.started) / self.count * (self.total - self.count)
        line = f"{self.phase} {self.count}/{self.total}  {text}  ({_duration(left)} left)"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

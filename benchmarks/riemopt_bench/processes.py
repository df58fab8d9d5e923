"""One process per run, a few at a time."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from riemopt_bench.store import Row
from riemopt_bench.worker import RunSpec, work


@dataclass
class _Job:
    spec: RunSpec
    head: Row
    process: BaseProcess
    connection: Connection
    started: float

    def overdue(self) -> bool:
        return time.monotonic() - self.started > self.spec.budget.time_limit

    def failed(self, error: str) -> Row:
        return self.head | {"status": "failed", "error": error}

    def result(self) -> Row:
        try:
            row: Row = self.connection.recv()
        except EOFError:
            self.process.join()
            row = self.failed(f"the process ended with exit code {self.process.exitcode}")
        self.close()
        return row

    def close(self) -> None:
        if self.process.is_alive():
            self.process.join(timeout=1)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


def _context() -> multiprocessing.context.BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["riemopt_bench.preload"])
    return context


def run_each(specs: Sequence[tuple[RunSpec, Row]], jobs: int) -> Iterator[Row]:
    """Run every spec in a process of its own, `jobs` at a time; yield rows as they come.

    A process that dies or passes its time limit yields a failed row. When the caller stops
    early (an interrupt), the running processes are ended and leave no row.
    """
    context = _context()
    waiting = list(reversed(specs))
    running: list[_Job] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(context, *waiting.pop()))
            ready = set(wait([job.connection for job in running], timeout=1.0))
            for job in list(running):
                if job.connection in ready:
                    running.remove(job)
                    yield job.result()
                elif job.overdue():
                    running.remove(job)
                    job.process.kill()
                    job.close()
                    yield job.failed(f"time limit of {job.spec.budget.time_limit:.0f} s passed")
    finally:
        for job in running:
            job.process.kill()
            job.close()


def _start(context: multiprocessing.context.BaseContext, spec: RunSpec, head: Row) -> _Job:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(spec, head, sender), daemon=True)  # type: ignore[attr-defined]
    process.start()
    sender.close()
    return _Job(spec, head, process, receiver, time.monotonic())

"""Many runs, each in a process of its own: on this machine, or on the workers of a Dask cluster.

joblib hands the runs out: to threads here, or to the cluster's workers. Thread and worker do the
same: they start a process, wait for its row, and return it. Only the caller writes to the store.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joblib import Parallel, delayed, parallel_config

from riemopt_bench import environment, registry
from riemopt_bench.processes import Child
from riemopt_bench.train.store import Row
from riemopt_bench.train.worker import RunSpec, work

if TYPE_CHECKING:
    from distributed import Client

Job = tuple[RunSpec, Row]
SECONDS_TO_CONNECT = 10


class ClusterError(Exception):
    """The cluster cannot be used, or was lost; the message says what to do."""


def run(spec: RunSpec, head: Row, started: Callable[[Child], None] = lambda child: None) -> Row:
    """One run in a process of its own. A process that dies or takes too long has failed.

    One that was killed from outside says nothing of the method; it is started once more.
    """
    for last in (False, True):
        child = Child(work, spec, head)
        started(child)
        try:
            row: Row | None = child.receive(spec.budget.time_limit)
            if row is not None:
                child.end(wait=1.0)
                return row
            error = f"time limit of {spec.budget.time_limit:.0f} s passed"
        except (EOFError, OSError):
            if child.exit_code() == -signal.SIGKILL and not last:
                continue
            error = child.how_it_ended()
        finally:
            child.end()
        break
    return head | {"status": "failed", "error": error}


class Here:
    """This machine, with so many runs at the same time."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs

    def rows(self, specs: Sequence[Job]) -> Generator[Row, None, None]:
        """Rows as they come. Processes still running when the caller stops leave none."""
        children = _Children()
        parallel = Parallel(
            self.jobs, backend="threading", batch_size=1, return_as="generator_unordered"
        )
        rows = parallel(delayed(children.run)(*job) for job in specs)
        try:
            yield from rows
        finally:
            children.end()
            rows.close()


class _Children:
    """The processes of several threads, which can be ended together."""

    def __init__(self) -> None:
        self._running: dict[int, Child | None] = {}
        self._change = threading.Condition()
        self._ended = False

    def run(self, spec: RunSpec, head: Row) -> Row:
        """As `run` of this module; nothing is started after the end."""
        thread = threading.get_ident()
        with self._change:
            if self._ended:
                return {}
            self._running[thread] = None

        def started(child: Child) -> None:
            with self._change:
                self._running[thread] = child
                if self._ended:
                    child.kill()

        try:
            return run(spec, head, started)
        finally:
            with self._change:
                del self._running[thread]
                self._change.notify_all()

    def end(self) -> None:
        """Kill what is running and wait until it is gone."""
        with self._change:
            self._ended = True
            for child in self._running.values():
                if child is not None:
                    child.kill()
            self._change.wait_for(lambda: not self._running)


class Cluster:
    """The workers of a Dask cluster: as many runs at the same time as they have threads.

    Raises:
        ClusterError: there is no cluster at the address, it has no workers, or one of them has
            other code, other packages or no sight of the user's own files.
    """

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ModuleNotFoundError:
            raise ClusterError(
                "--scheduler needs Dask, which is not installed: pip install 'riemopt[cluster]'"
            ) from None
        try:
            self.client: Client = Client(address, timeout=SECONDS_TO_CONNECT, set_as_default=False)
            self.client.wait_for_workers(1, timeout=SECONDS_TO_CONNECT)
        except (OSError, ValueError) as error:  # a timeout is an OSError
            raise ClusterError(
                f"--scheduler {address}: no scheduler with a worker answers there ({error}). Start "
                "them with `dask scheduler` and `dask worker ADDRESS`."
            ) from None
        self._refuse_other_code()
        self.jobs: int = sum(self.client.nthreads().values())

    def _refuse_other_code(self) -> None:
        files = registry.own_files()
        expected = facts(files)
        try:
            found = self.client.run(facts, files)
        except Exception as error:  # whatever importing this module raised there
            raise ClusterError(
                f"a worker of the cluster cannot load the benchmark ({error}). Install the same "
                "riemopt[bench] there."
            ) from None
        for worker, there in found.items():
            for what, value in expected.items():
                if there[what] != value:
                    raise ClusterError(
                        f"worker {worker} has {what} {there[what]}, and this machine {value}. All "
                        "must be the same, or rows would have the wrong keys."
                    )

    def rows(self, specs: Sequence[Job]) -> Generator[Row, None, None]:
        """Rows as they come."""
        files = registry.own_files()
        with parallel_config("dask", client=self.client):
            parallel = Parallel(batch_size=1, return_as="generator_unordered")
            rows = parallel(delayed(run_on_worker)(files, *job) for job in specs)
        try:
            yield from rows
        finally:
            rows.close()


def facts(files: Sequence[Path]) -> dict[str, Any]:
    """What must be the same on all machines, in words."""
    packages = sorted({p for method in registry.methods().values() for p in method.packages})
    own = {
        str(f): hashlib.sha256(f.read_bytes()).hexdigest()[:12] if f.is_file() else "missing"
        for f in files
    }
    return {
        "riemopt_bench": environment.fingerprint(Path(environment.__file__).parent),
        **{package: environment.version(package) for package in packages},
        **own,
    }


def run_on_worker(files: Sequence[Path], spec: RunSpec, head: Row) -> Row:
    """As `run`, on a cluster's worker, which has not read the user's own files."""
    multiprocessing.current_process().daemon = False  # Dask's are; those cannot start processes
    registry.use(files)
    return run(spec, head)

"""A whole run: workload after workload, and everything written after each."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from rich.console import Console

from riemopt_bench import environment
from riemopt_bench.interface import Method
from riemopt_bench.page.numbers import significant
from riemopt_bench.processes import describe
from riemopt_bench.progress import Ticker
from riemopt_bench.registry import step_methods
from riemopt_bench.speed import breakdown, cost, figures, growth, tables
from riemopt_bench.speed.devices import DEVICES, Device
from riemopt_bench.speed.probe import probe
from riemopt_bench.speed.results import Measurement, SpeedResults, WorkloadResult
from riemopt_bench.speed.stepper import Stepper, stepper
from riemopt_bench.speed.targets import CUDA_TARGETS, TARGETS, Verdict, verdicts
from riemopt_bench.speed.timing import Timing, interleave, settle_allocator
from riemopt_bench.speed.workloads import Workload

BUSY = 0.5  # one-minute load average
ONCE_SECONDS = 1.0  # a call that takes longer is not taken into the rounds


@dataclass(frozen=True)
class Settings:
    """`limit`: seconds that one call of a heavy method may take, and as many to set it up.

    `device` and `way` are names of `DEVICES` and `WAYS`. `cost_seconds`: about how long each method
    may take for its 100 steps with new gradients.
    """

    rounds: int
    threads: int
    limit: float
    cost_seconds: float
    quick: bool = False
    device: str = "cpu"
    way: str = "eager"


def default_settings(
    quick: bool,
    rounds: int | None,
    threads: int | None,
    limit: float | None,
    device: str = "cpu",
    way: str = "eager",
) -> Settings:
    """What is not given: few rounds and short limits if quick, all cores."""
    return Settings(
        rounds=rounds or (5 if quick else 30),
        threads=threads or _cores(),
        limit=limit or (2.0 if quick else 120.0),
        cost_seconds=0.3 if quick else 10.0,
        quick=quick,
        device=device,
        way=way,
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class SpeedRunner:
    """Measures, prints a table after each workload, writes JSON and pictures."""

    def __init__(self, settings: Settings, directory: Path, console: Console) -> None:
        self.settings, self.directory, self.console = settings, directory, console

    def workloads(self, workloads: Sequence[Workload], methods: Sequence[Method]) -> SpeedResults:
        """Every method on every workload that it applies to, and the targets."""
        results = self._start("workloads")
        plan = [(w, [m for m in methods if m.times(w)]) for w in workloads]
        path = self.directory / "speed.json"
        with Ticker(self.console, "step time", sum(len(chosen) for _, chosen in plan)) as ticker:
            for workload, chosen in plan:
                result = self.measure(workload, chosen, ticker)
                results.workloads.append(result)
                results.write(path)
                self.console.print(tables.workload_table(workload, result))
        judged = verdicts(results, CUDA_TARGETS if self.settings.device == "cuda" else TARGETS)
        if judged:
            self.console.print(tables.target_table(judged))
            self.console.print(tables.summary(judged))
        results.extra["targets"] = [_verdict(one) for one in judged]
        results.write(path)
        self._finish(path, figures.relative_times(results), "speed")
        return results

    def growth(self) -> SpeedResults:
        """riemopt's Adam and the floor at growing sizes."""
        results = self._start("growth")
        wanted = growth.studies(self.settings.quick)
        points = [workload for study in wanted for _, workload in study.points]
        chosen = [step_methods()[name] for name in growth.METHODS]
        path = self.directory / "growth.json"
        with Ticker(self.console, "growth", len(points) * len(chosen)) as ticker:
            for workload in points:
                results.workloads.append(self.measure(workload, chosen, ticker, costs=False))
                results.write(path)
        results.extra["studies"] = growth.fit(results, wanted)
        results.write(path)
        self.console.print(tables.growth_table(results.extra["studies"]))
        self._finish(path, figures.growth(results), "growth")
        return results

    def profile(self, workloads: Sequence[Workload], methods: Sequence[Method]) -> SpeedResults:
        """Where the time of a step goes, for every method on every workload it applies to."""
        results = self._start("profile")
        profiles: dict[str, list[dict[str, Any]]] = {}
        results.extra["profiles"] = profiles
        path = self.directory / "profile.json"
        plan = [(w, [m for m in methods if m.times(w)]) for w in workloads]
        with Ticker(self.console, "profile", sum(len(chosen) for _, chosen in plan)) as ticker:
            for workload, chosen in plan:
                task, found = workload.build(device=self.settings.device), []
                for method in chosen:
                    step = stepper(method, copy.deepcopy(task))
                    found.append(breakdown.measure(method.name, step, self.settings.rounds))
                    ticker.done(f"{workload.name}  {method.name}", False)
                profiles[workload.name] = [asdict(one) for one in found]
                results.write(path)
                self.console.print(tables.profile_table(workload, found))
        self._finish(path, None, "profile")
        return results

    def _start(self, kind: Literal["workloads", "growth", "profile"]) -> SpeedResults:
        load = environment.load()
        if load is not None and load > BUSY:
            self.console.print(
                f"The machine is busy (load {load:g}). Steps whose threads wait for a core can "
                "take some hundred times as long: do not quote these times.",
                style="yellow",
            )
        torch.set_num_threads(self.settings.threads)
        settle_allocator()
        versions = {name: environment.version(name) for name in ("pogo-torch", "geotorch")}
        described = {**environment.describe(self.settings.device), **versions}
        if self.settings.device == "cuda":
            said = ("gpu", "driver", "torch", "cuda")
            self.console.print(", ".join(f"{key}: {described[key]}" for key in said))
        return SpeedResults(kind, vars(self.settings).copy(), described)

    def _finish(self, path: Path, figure: Figure | None, name: str) -> None:
        written = [path]
        if figure is not None:
            written = [*figures.write(figure, self.directory, name), path]
        for one in written:
            self.console.print(str(one), highlight=False, markup=False, soft_wrap=True)

    def measure(
        self, workload: Workload, methods: Sequence[Method], ticker: Ticker, costs: bool = True
    ) -> WorkloadResult:
        """One row per method, in their order."""
        rows: dict[str, Measurement] = {}
        steppers: dict[str, Stepper] = {}
        task = workload.build(device=self.settings.device)
        load = environment.load()

        def add(row: Measurement) -> None:
            rows[row.method] = row
            ticker.done(f"{workload.name}  {row.method}  {_said(row)}", row.status == "failed")

        for method in methods:
            row = self._tried(workload, method) if method.timed.heavy else None
            if row is None:
                try:
                    steppers[method.name] = stepper(method, copy.deepcopy(task), self.settings.way)
                except Exception as error:
                    row = Measurement(method.name, "failed", note=describe(error))
            if row is not None:
                add(row)
        for name, timing in interleave(steppers, self.settings.rounds, self._device).items():
            if isinstance(timing, Timing):
                row = Measurement(name, "timed", timing.seconds, timing.calls)
                if costs:
                    self._add_cost(workload, steppers[name], row)
            else:
                row = Measurement(name, "failed", note=describe(timing))
            add(row)
        return WorkloadResult(workload.name, workload.title, [rows[m.name] for m in methods], load)

    @property
    def _device(self) -> Device:
        return DEVICES[self.settings.device]

    def _tried(self, workload: Workload, method: Method) -> Measurement | None:
        """The row of a heavy method, or None if it is quick enough for the rounds."""
        limit = self.settings.limit
        found = probe(workload, method.name, limit, self.settings.threads, self._device.name)
        if found.status == "failed":
            return Measurement(method.name, "failed", note=found.text)
        if found.status == "late":
            what = "setting it up takes" if found.phase == "build" else "a call takes"
            at_least = limit if found.phase == "call" else None
            note = f"skipped: {what} {found.text}"
            return Measurement(method.name, "skipped", at_least=at_least, note=note)
        if found.seconds > ONCE_SECONDS:
            return Measurement(method.name, "once", {0: found.seconds}, note="one call, n = 1")
        return None

    def _add_cost(self, workload: Workload, step: Stepper, row: Measurement) -> None:
        try:
            seconds = row.quartiles.median
            budget = self.settings.cost_seconds
            row.cost = cost.measure(workload, step, seconds, budget, self._device)
        except Exception as error:
            row.note = f"cost: {describe(error)}"


def _said(row: Measurement) -> str:
    if row.measured:
        return f"{significant(1e3 * row.quartiles.median)} ms"
    return row.note


def _verdict(verdict: Verdict) -> dict[str, Any]:
    reached = verdict.reached
    return {
        "target": verdict.target.title,
        "workload": verdict.workload,
        "wanted": verdict.target.wanted,
        "reached": None if reached is None else reached.value,
        "lower_bound": reached is not None and reached.at_least,
        "answer": verdict.answer,
        "note": verdict.note,
    }

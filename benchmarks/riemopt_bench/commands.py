"""What the commands of `riemopt bench` do, between parsing (`riemopt.cli`) and the runner."""

from __future__ import annotations

import difflib
import fnmatch
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast, get_args

from rich.console import Console
from rich.table import Table

from riemopt_bench import environment, registry
from riemopt_bench.interface import Method, Problem, Schedule
from riemopt_bench.train.suites import SUITES, Settings, Suite

T = TypeVar("T")


class UsageError(Exception):
    """The command cannot be done as given; the message says what was given and what is accepted."""


def show_list() -> None:
    """Print the problems, methods and suites, and what `riemopt bench speed` measures."""
    console = Console()
    problems = [(p.name, p.description, p.metric) for p in registry.problems().values()]
    console.print(_table("Problems", ("name", "what it is", "result"), problems))
    console.print(_methods("Methods", registry.methods()))
    suites = [
        (s.name, s.description, "all" if s.budgets is None else ", ".join(s.budgets))
        for s in SUITES.values()
    ]
    console.print(_table("Suites", ("name", "what it is", "problems"), suites))
    titles = [(w.name, w.title, "yes" if w.quick else "") for w in registry.workloads().values()]
    console.print(_table("Workloads of bench speed", ("name", "what it is", "quick"), titles))
    console.print(_methods("Methods of bench speed", registry.step_methods()))
    console.print("A problem, method or workload of your own is one file: --plugin FILE.")


def _methods(title: str, methods: Mapping[str, Method]) -> Table:
    rows = [(m.name, m.description) for m in methods.values()]
    return _table(title, ("name", "what it is"), rows)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", expand=False)
    for index, column in enumerate(columns):
        style = "cyan" if index == 0 else ""
        table.add_column(column, no_wrap=index == 0, style=style, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def use(files: Iterable[Path]) -> None:
    """Take problems, methods and workloads from files of the user's own, and entry points."""
    for file in files:
        if not file.is_file():
            raise UsageError(f"--plugin {file}: there is no such file.")
    try:
        registry.use(files)
        registry.problems()
        registry.methods()
    except registry.RegistryError as error:
        raise UsageError(str(error)) from error


def find_suite(name: str) -> Suite:
    """A suite by name."""
    return _find("suite", name, SUITES)


def run(
    suite: Suite,
    *,
    problems: Sequence[str] | None,
    methods: Sequence[str] | None,
    repetitions: int | None,
    settings: Settings,
    directory: Path,
    jobs: int | None,
    scheduler: str | None,
    resume: bool,
    report: bool,
) -> None:
    """Run a suite, or the part of it that was asked for, and make the page."""
    from riemopt_bench.page.report import write_report
    from riemopt_bench.train.jobs import Cluster, ClusterError
    from riemopt_bench.train.runner import Plan, SuiteRunner

    _refuse_settings(settings)
    plan = Plan(
        suite=suite,
        problems=_choose_problems(suite, problems),
        methods=tuple(
            _choose("method", methods, registry.methods()) if methods else suite.methods()
        ),
        repetitions=repetitions or suite.repetitions,
        settings=settings,
    )
    if not plan.pairs():
        reasons = "; ".join(f"{m.name} on {p.name}: {s.reason}" for p, m, s in plan.left_out())
        raise UsageError(f"nothing to run: none of the methods applies ({reasons})")
    if jobs is not None and scheduler is not None:
        raise UsageError("--scheduler runs as much as its workers have threads; leave out --jobs.")
    try:
        cluster = None if scheduler is None else Cluster(scheduler)
    except ClusterError as error:
        raise UsageError(str(error)) from None
    _make_writable(directory)
    console = Console()
    runner = SuiteRunner(
        plan, directory, jobs or suite.jobs(plan.settings), resume, console, cluster
    )
    for problem, method, skip in plan.left_out():
        runner.say(f"left out: {method.name} on {problem.name}: {skip.reason}")
    try:
        keys = runner.run()
        if report:
            runner.say(str(write_report(directory, prefer=keys)))
    except KeyboardInterrupt:
        runner.say(
            f"Interrupted. Finished runs are in {runner.store.path}; the same command goes on."
        )
        raise SystemExit(130) from None


def make_settings(
    steps: int | None, seconds: float | None, schedule: str | None, device: str, dtype: str | None
) -> Settings:
    """The settings of a run, from what was given on the command line."""
    schedules = {name: name for name in get_args(Schedule)}
    chosen = None if schedule is None else _find("schedule", schedule, schedules)
    return Settings(steps, seconds, cast("Schedule | None", chosen), device, dtype)


def _refuse_settings(settings: Settings) -> None:
    """Say what cannot be run here, before anything is."""
    from riemopt_bench.train.placement import DTYPES, reason_against

    if settings.dtype is not None:
        _find("dtype", settings.dtype, dict.fromkeys(DTYPES))
    reason = reason_against(settings.device)
    if reason is not None:
        raise UsageError(reason)


def _choose_problems(suite: Suite, names: Sequence[str] | None) -> tuple[Problem, ...]:
    """The problems of the suite, or those that are named, whether it has them or not."""
    return tuple(_choose("problem", names, registry.problems()) if names else suite.problems())


def speed(
    *,
    workloads: Sequence[str] | None,
    methods: Sequence[str] | None,
    quick: bool,
    growth: bool,
    profile: bool,
    rounds: int | None,
    threads: int | None,
    limit: float | None,
    directory: Path,
    device: str = "cpu",
    way: str = "eager",
) -> None:
    """Time optimizer steps; print tables, targets and the path of the results."""
    from riemopt_bench.speed import breakdown
    from riemopt_bench.speed.devices import reason_against
    from riemopt_bench.speed.runner import SpeedRunner, default_settings

    reason = reason_against(device, way)
    if reason is not None:
        raise UsageError(reason)
    known = {
        name: w
        for name, w in registry.workloads().items()
        if workloads or (w.quick if quick else device == "cuda" or not w.large)
    }
    chosen = _choose("workload", workloads, known)
    wanted = methods or (breakdown.METHODS if profile else None)
    some = _choose("method", wanted, registry.step_methods())
    _refuse_contradictions(workloads, methods, growth, profile, limit)
    if profile and (device, way) != ("cpu", "eager"):
        raise UsageError("--profile counts the operators of eager steps on the CPU.")
    missing = {method.name: _missing(method) for method in some}
    some = [method for method in some if not missing[method.name]]
    heavy = [method.name for method in some if method.timed.heavy]
    if profile and heavy:
        raise UsageError(
            f"--profile takes methods whose step is short; leave out {', '.join(heavy)}."
        )
    if not any(m.times(w) for m in some for w in chosen):
        raise UsageError(
            "nothing to run: none of the methods applies to any of the workloads"
            + "".join(
                f"; {name} needs {packages}" for name, packages in missing.items() if packages
            )
            + "."
        )
    _make_writable(directory)
    console = _console()
    for name, packages in missing.items():
        if packages:
            console.print(f"left out: {name}, as {packages} is not installed", style="yellow")
    settings = default_settings(quick, rounds, threads, limit, device, way)
    runner = SpeedRunner(settings, directory, console)
    try:
        if growth:
            runner.growth()
        elif profile:
            runner.profile(chosen, some)
        else:
            runner.workloads(chosen, some)
    except KeyboardInterrupt:
        console.print(f"Interrupted. Finished workloads are in {directory}.", highlight=False)
        raise SystemExit(130) from None


def _missing(method: Method) -> str:
    """Which of the packages that a method measures are not installed."""
    return ", ".join(p for p in method.packages if environment.version(p) == "not installed")


def _refuse_contradictions(
    workloads: Sequence[str] | None,
    methods: Sequence[str] | None,
    growth: bool,
    profile: bool,
    limit: float | None,
) -> None:
    if growth and profile:
        raise UsageError("--growth and --profile are two runs; leave one of them out.")
    if growth and (workloads or methods):
        raise UsageError("--growth has its own workloads and methods; leave the filters out.")
    if profile and limit is not None:
        raise UsageError("--profile takes methods whose step is short; leave out --limit.")


def report(directory: Path, readme: Path | None) -> None:
    """Make the page from what a directory holds, and put its summary into a README."""
    from riemopt_bench.page.report import write_report
    from riemopt_bench.page.summary import MARKS, write_readme

    _require_results(directory)
    _make_writable(directory)
    if readme is not None and not readme.is_file():
        raise UsageError(f"--readme {readme}: there is no such file.")
    page = write_report(directory)
    if readme is not None:
        try:
            write_readme(directory / "results.md", readme)
        except ValueError:
            raise UsageError(
                f"--readme {readme}: the summary goes between the lines {MARKS[0]!r} and "
                f"{MARKS[1]!r}; the file needs each of them once."
            ) from None
    Console().print(str(page), highlight=False, markup=False, soft_wrap=True)


def compare(first: Path, second: Path) -> None:
    """Print what two directories of results have in common, side by side."""
    from riemopt_bench.comparison import compare as put_side_by_side

    for directory in (first, second):
        _require_results(directory)
    found = put_side_by_side(first, second)
    if not found.pairs:
        raise UsageError(f"{first} and {second} have no problem and method in common.")
    console = _console()
    rows = [
        (f"{p.problem}: {p.method}", *p.metric, *p.milliseconds, p.ratio, p.note)
        for p in found.pairs
    ]
    columns = ("method", "result A", "B", "ms per step A", "B", "time B ÷ A", "note")
    console.print(f"A: {first}\nB: {second}", highlight=False)
    console.print(_table("Runs of both", columns, rows))
    for fact, (a, b) in found.facts.items():
        console.print(f"{fact}: A {a or 'unknown'}, B {b or 'unknown'}", highlight=False)
    for name, only in zip("AB", found.only, strict=True):
        if only:
            console.print(f"only in {name}: {', '.join(only)}", highlight=False)


def doctor(directory: Path) -> None:
    """Print what would be measured here, and what would disturb it; exit 1 on a problem."""
    from riemopt_bench.doctor import examine

    console = _console()
    findings = list(examine(directory))
    marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "problem": "[red]problem[/]"}
    rows = [(marks[f.level], f.what, f.text) for f in findings]
    console.print(_table("Before you measure", ("", "what", "what was found"), rows))
    if any(f.level == "problem" for f in findings):
        raise SystemExit(1)


def _console() -> Console:
    """A console that is wide where nobody looks at a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=170)


def _choose(kind: str, names: Sequence[str] | None, known: Mapping[str, T]) -> list[T]:
    if not names:
        return list(known.values())
    wanted = {id(value) for name in names for value in _matching(kind, name, known)}
    return [value for value in known.values() if id(value) in wanted]


def _matching(kind: str, name: str, known: Mapping[str, T]) -> list[T]:
    """The value of a name, or those of all names that a pattern such as `riemopt-*` fits."""
    return [known[n] for n in fnmatch.filter(known, name)] or [_find(kind, name, known)]


def _find(kind: str, name: str, known: Mapping[str, T]) -> T:
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    listed = "" if kind in ("dtype", "schedule") else " `riemopt bench list` describes them."
    raise UsageError(
        f"there is no {kind} called {name!r}.{hint} There are: {', '.join(known)}.{listed}"
    )


def _require_results(directory: Path) -> None:
    from riemopt_bench.train.store import Store

    if not (directory / Store.FILE).is_file():
        raise UsageError(
            f"{directory} has no {Store.FILE}. Give a directory that `riemopt bench run` has "
            f"written to, or start with `riemopt bench run --out {directory}`."
        )


def _make_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"cannot write to {str(directory)!r} ({error.strerror}). The results need a directory "
            "that can be made or written to; give another with --out DIR."
        ) from None

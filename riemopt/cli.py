"""The `riemopt` command: parsing only. Heavy imports happen inside the commands.

riemopt bench list
riemopt bench run --suite demo
riemopt bench report results/demo
riemopt bench compare results/before results/after
riemopt bench speed --quick
riemopt bench doctor
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

if TYPE_CHECKING:
    from riemopt_bench.train.suites import Suite

INSTALL = "pip install 'riemopt[bench]'"

try:
    import typer
except ModuleNotFoundError:
    raise SystemExit(
        f"riemopt: the command needs the package 'typer', which is not installed: {INSTALL}"
    ) from None

app = typer.Typer(
    name="riemopt",
    help="Riemannian optimizers for PyTorch: the stored weight stays on its constraint surface.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench = typer.Typer(
    help="Measure riemopt against torch.nn.utils.parametrize, geoopt and others on real data.",
    no_args_is_help=True,
)
app.add_typer(bench, name="bench")


def main() -> None:
    """Entry point of the `riemopt` command."""
    app()


Own = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        "--with",
        help="A file with a problem, methods or workloads of your own; may be repeated. "
        "--with is its older name.",
    ),
]


@app.callback()
def _root() -> None:
    """Riemannian optimizers for PyTorch: the stored weight stays on its constraint surface."""


@bench.command("list")
def list_(own: Own = None) -> None:
    """Show the problems, methods and suites there are."""
    with _explained():
        from riemopt_bench import commands

        commands.use(own or [])
        commands.show_list()


@bench.command("run")
def run(
    suite: Annotated[str, typer.Option(help="demo, quick or full: see `riemopt bench list`.")] = (
        "demo"
    ),
    problem: Annotated[
        list[str] | None,
        typer.Option(help="This one, or those like `c*`, of any suite; may be repeated."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Only this one, or those like `riemopt-*`; may be repeated."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Repetitions per method instead of the suite's.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of every run, instead of the suite's budget.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=1e-3,
            help="Seconds of every run, by the clock that covers forward, backward and step, "
            "instead of the suite's budget. With --steps: whichever is spent first.",
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="Learning rate over the budget: cosine (to zero) or constant.",
            show_default="the problem's, cosine for nearly all",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda, cuda:1.")] = "cpu",
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float64, float32, bfloat16 or float16 for model and batches.",
            show_default="the problem's",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory for the results.", show_default="results/<suite>"),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Measured runs at the same time. More than 1 disturbs timings.",
            show_default="1; of quick 2",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Run on the workers of the Dask scheduler at this address."),
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Keep runs that the store has for the same code, budget and seed.")
    ] = True,
    report: Annotated[bool, typer.Option(help="Make the page at the end.")] = True,
    own: Own = None,
) -> None:
    """Tune, measure and write `report.html`; its path is the last line printed.

    Stop it at any time (Ctrl-C): the same command goes on from there.
    """
    with _explained():
        from riemopt_bench import commands

        commands.use(own or [])
        chosen: Suite = commands.find_suite(suite)
        commands.run(
            chosen,
            problems=problem,
            methods=method,
            repetitions=seeds,
            settings=commands.make_settings(steps, seconds, schedule, device, dtype),
            directory=out or Path("results") / chosen.name,
            jobs=jobs,
            scheduler=scheduler,
            resume=resume,
            report=report,
        )


@bench.command("speed")
def speed(
    workload: Annotated[
        list[str] | None,
        typer.Option("--workload", "--shape", help="Only this one; may be repeated."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Only this one, or those like `riemopt-*`; may be repeated."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few rounds on small shapes: about a minute.")
    ] = False,
    growth: Annotated[
        bool, typer.Option("--growth", help="Instead: how time grows with size and number.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Instead: in which operators a step spends its time.")
    ] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds over the methods.", show_default="30")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch.", show_default="all cores")
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(min=0.1, help="Seconds that one call may take.", show_default="120"),
    ] = None,
    device: Annotated[str, typer.Option(help="Where steps run: cpu or cuda.")] = "cpu",
    way: Annotated[
        str, typer.Option(help="How steps are called: eager, compiled, or graph (on cuda).")
    ] = "eager",
    out: Annotated[Path, typer.Option(help="Directory for the results.")] = Path("results/speed"),
    own: Own = None,
) -> None:
    """Time the optimizers' steps in turns, against others and against a floor.

    Prints a table per workload and the targets; writes JSON and a picture, whose paths come last.
    """
    with _explained():
        from riemopt_bench import commands

        commands.use(own or [])
        commands.speed(
            workloads=workload,
            methods=method,
            quick=quick,
            growth=growth,
            profile=profile,
            rounds=rounds,
            threads=threads,
            limit=limit,
            directory=out,
            device=device,
            way=way,
        )


@bench.command("report")
def report(
    directory: Annotated[Path, typer.Argument(help="Where `riemopt bench run` put its results.")],
    readme: Annotated[
        Path | None,
        typer.Option(
            help="Put the summary between the lines <!-- results --> and <!-- /results --> of it."
        ),
    ] = None,
    own: Own = None,
) -> None:
    """Make `report.html` and the data beside it from the runs in a directory; print its path."""
    with _explained():
        from riemopt_bench import commands

        commands.use(own or [])
        commands.report(directory, readme)


@bench.command("compare")
def compare(
    first: Annotated[Path, typer.Argument(help="A directory of `riemopt bench run`.")],
    second: Annotated[Path, typer.Argument(help="Another: of another version or machine.")],
    own: Own = None,
) -> None:
    """Put two directories of results side by side: two versions, machines or cards."""
    with _explained():
        from riemopt_bench import commands

        commands.use(own or [])
        commands.compare(first, second)


@bench.command("doctor")
def doctor(
    out: Annotated[Path, typer.Option(help="Directory for the results.")] = Path("results"),
    own: Own = None,
) -> None:
    """Say what would be measured on this machine, and what would disturb it."""
    with _explained():
        from riemopt_bench import commands

        commands.use(own or [])
        commands.doctor(out)


@contextmanager
def _explained() -> Iterator[None]:
    """Turn foreseeable errors into one message without a traceback."""
    try:
        yield
    except ModuleNotFoundError as missing:
        name = missing.name or ""
        if name.startswith(("riemopt.", "riemopt_bench.")):  # not a package to install
            raise
        _fail(f"the benchmark needs the package {name!r}, not installed: {INSTALL}", 1)
    except Exception as error:
        if type(error).__name__ not in ("UsageError", "StoreError", "ClusterError"):
            raise
        _fail(str(error), 2)


def _fail(message: str, code: int) -> NoReturn:
    print(f"riemopt: {message}", file=sys.stderr)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()

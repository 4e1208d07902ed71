"""`studio render`: a batch from a jobs file or a grid, on several processes or machines."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from studio.cli.values import whole_option

ENGINES = ("local", "ray")
_SAY_SECONDS = 10.0  # between lines where nobody watches a bar
_SHOWN = 10  # failures told one by one


def render(
    jobs: Annotated[
        list[str] | None,
        typer.Argument(help="A .jsonl or .csv file; after --grid more axes.", show_default=False),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results.", metavar="DIR")
    ] = Path("renders"),
    grid: Annotated[
        list[str] | None,
        typer.Option(help="An axis; all combinations are made.", metavar="NAME=A,B|0..9"),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="A bundled name, a folder or a Hub id; the first is "
                     "for jobs that name none."),
    ] = None,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    workers: Annotated[int | None, whole_option("Processes; by cores or GPUs if absent.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; one on this machine if absent.")
    ] = None,
    batch: Annotated[int, whole_option("Jobs at a time at most; measured up to that.")] = 64,
    attempts: Annotated[int, whole_option("A job fails after so many.")] = 3,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try failed jobs again.")
    ] = False,
    format: Annotated[
        str | None,
        typer.Option(help="png, webp, jpg; wav, flac; mp4, gif, ... for outputs without one; by "
                     "the model if absent."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the jobs and list what they would make.")
    ] = False,
) -> None:  # fmt: skip
    """Make everything that a jobs file or a grid asks for. Run again, it goes on where it was."""
    from studio.cli import opening
    from studio.rendering.media import FORMATS
    from studio.rendering.plan import make_plan
    from studio.rendering.render import render as run
    from studio.rendering.sheet import write_sheet
    from studio.rendering.store import HIDDEN
    from studio.rendering.worker import Options, store_of

    opening.check_device(device)
    _check_choice("--engine", engine, ENGINES)
    if format is not None:
        _check_choice("--format", format, tuple(suffix[1:] for suffix in FORMATS))
    for name, value in (("--batch", batch), ("--attempts", attempts), ("--workers", workers)):
        if value is not None and not 1 <= value <= 1024:
            raise ValueError(f"{name} {value} must be a whole number from 1 to 1024")
    if address is not None and engine != "ray":
        raise ValueError(f"--address {address!r} is for --engine ray")
    wanted, columns = _wanted(jobs or [], grid or [])
    plan = make_plan(wanted, models=model or [], suffix=format and f".{format}")
    if dry_run:
        return _list(plan)
    options = Options(
        folder=str(out.resolve()), plan="", device=device, batch=batch, attempts=attempts
    )
    store = store_of(plan, replace(options, folder=str(out)))
    store.open()
    try:
        store.prepare(retry_failed=retry_failed)
        path = plan.write(out / HIDDEN / "plans")
        options = replace(options, plan=str(path.resolve()))
        made = _engine(engine, options, workers, address)
        with _shown(len(plan.jobs)) as show:
            summary = run(plan, store, made, on_progress=show)
        sheet = write_sheet(plan, store, columns=columns)
    except KeyboardInterrupt:
        counts = store.counts()
        typer.echo(f"{counts.done} of {counts.total} done; the same command goes on", err=True)
        raise
    finally:
        store.close()
    _tell(summary, sheet)
    if summary.counts.failed:
        raise typer.Exit(1)


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} {value!r} must be one of {', '.join(allowed)}")


def _wanted(jobs: list[str], grid: list[str]) -> tuple[list, int | None]:
    """The jobs, and how many stand in a row of the contact sheet."""
    from studio.rendering.jobs import read_grid, read_jobs

    files = [text for text in jobs if "=" not in text]
    if grid and not files:
        axes = [*grid, *jobs]
        wanted = read_grid(axes)
        last = read_grid(axes[-1:]) if len(axes) > 1 else []
        return wanted, len(last) or None
    if grid:
        raise ValueError(f"--grid and the jobs file {files[0]!r} exclude each other")
    if len(jobs) != 1:
        raise ValueError("JOBS is missing: give one .jsonl or .csv file, or --grid prompt=a,b")
    return read_jobs(jobs[0]), None


def _engine(name: str, options, workers: int | None, address: str | None):
    if name == "ray":
        from studio.rendering.ray_engine import RayEngine

        return RayEngine(options, workers, address=address)
    from studio.rendering.engines import LocalEngine, default_workers

    return LocalEngine(options, workers or default_workers(options.device))


@contextmanager
def _shown(total: int) -> Iterator[Any]:
    """A function that shows how far a batch is: a bar for eyes, else a line now and then."""
    if not sys.stderr.isatty():
        said = 0.0

        def say(progress) -> None:
            nonlocal said
            if progress.seconds - said >= _SAY_SECONDS:
                said = progress.seconds
                typer.echo(_line(progress), err=True)

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=total)

        def draw(progress) -> None:
            settled = progress.counts.done + progress.counts.failed
            bar.update(task, completed=settled, description=_line(progress))

        yield draw


def _line(progress) -> str:
    counts = progress.counts
    failed = f", {counts.failed} failed" if counts.failed else ""
    left = "" if progress.left is None else f", {clock(progress.left)} left"
    return f"{counts.done} of {counts.total} done{failed}, {progress.workers} workers{left}"


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:34 or 1:02:03."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _list(plan) -> None:
    """What a batch would make: a line for every file, then how many."""
    for job in plan.jobs:
        request = job.request
        what = request.class_label if request.prompt is None else request.prompt
        typer.echo(f"{job.output}: {what!r}, seed {request.seed}, {request.model}")
    typer.echo(f"{len(plan.jobs)} results; nothing was made")


def _tell(summary, sheet: Path) -> None:
    """The end of a batch, in words."""
    counts = summary.counts
    speed = f", {summary.seconds / summary.made:.2f} s each" if summary.made else ""
    before = counts.done - summary.made
    there = f", {before} were there" if before else ""
    failed = f", {counts.failed} failed" if counts.failed else ""
    typer.echo(
        f"{counts.done} of {counts.total} results{there}{failed}; "
        f"{summary.made} made in {clock(summary.seconds)}{speed}"
    )
    for failure in summary.failures[:_SHOWN]:
        typer.echo(f"failed: {failure.get('place')}: {failure.get('error')}", err=True)
    if len(summary.failures) > _SHOWN:
        typer.echo(f"... and {len(summary.failures) - _SHOWN} more", err=True)
    if summary.failures:
        typer.echo(f"tracebacks: {sheet.parent / 'failed'}; --retry-failed tries again", err=True)
    typer.echo(f"contact sheet: {sheet}")

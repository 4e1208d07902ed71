"""What all verbs of `studio evaluate` share: checks, processes, progress, and the report's end."""

import sys
from pathlib import Path
from typing import Any

import typer


def measured(evaluation: Any) -> Any:
    """The report of an evaluation, checked first and watched on the way; None on all processes but
    the main one."""
    evaluation.check()
    with Bar(quiet=not evaluation.shard.is_main) as bar:
        evaluation.progress = bar.update
        return evaluation.run()


def finish(report: Any, out: Path, *, data: Path) -> None:
    """Writes a report, prints its first table and where it is. Nothing where `report` is None: on
    all processes but the main one."""
    if report is None:
        return
    from studio.cli.table import print_rows
    from studio.evaluation.report_page import curves_missing, shown, write_report

    report.facts = {"data": data.resolve().name, **report.facts}
    paths = write_report(report, out)
    first = [row for row in report.rows if row.get("group") == report.rows[0].get("group")]
    columns = [c for c in report.columns if any(row.get(c.key) is not None for row in first)]
    print_rows([{c.label: shown(row.get(c.key), c) for c in columns} for row in first])
    for path in paths:
        typer.echo(f"wrote {path}")
    if missing := curves_missing():
        typer.echo(f"warning: {missing}", err=True)


class Bar:
    """What is being measured, how far it is, and the time left; a line each where there is no
    terminal."""

    def __init__(self, *, quiet: bool = False):
        self._quiet = quiet

    def __enter__(self) -> "Bar":
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._bar = Progress(console=console, disable=self._quiet or not console.is_terminal)
        self._tasks: dict[str, Any] = {}
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def update(self, name: str, done: int, total: int) -> None:
        """Called after every part."""
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(name, total=total)
        self._bar.update(self._tasks[name], completed=done)
        if not self._quiet and done == total and not sys.stderr.isatty():
            typer.echo(f"{name}: {total} of {total} parts", err=True)


def check_call(out: Path, device: str, **least: int | None) -> None:
    """Raises ValueError or OSError in one line for a folder, a device or a number that can't be."""
    from studio.cli.opening import check_device
    from studio.media.files import check_writable

    check_device(device)
    for name, value in least.items():
        lowest = {"pictures": 0, "sounds": 0, "clips": 0, "count": 2}.get(name, 1)
        if value is not None and value < lowest:
            raise ValueError(f"--{name} {value} must be at least {lowest}")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {str(out)!r} is a file, not a folder")
    check_writable(out / "report.json")


def processes(device: str):
    """This process's share of the work, and the torch device for it."""
    from studio.cli.opening import pick_device
    from studio.evaluation.parts import this_shard
    from studio.hub import import_diffusers

    import_diffusers()
    place = pick_device(device)
    shard = this_shard(place)
    if shard.count > 1 and place == "cuda":
        place = f"cuda:{shard.local_index}"
    return shard, place


def open_judges(lpips: list[Path] | None, inception: Path | None, device: str):
    """The bundled features, and what the user has files for."""
    from studio.evaluation.features import ImageTextFeatures
    from studio.evaluation.inception import Inception
    from studio.evaluation.judges import Judges
    from studio.evaluation.lpips import Lpips

    judges = Judges(
        features=ImageTextFeatures.bundled(),
        lpips=Lpips.from_files([*lpips]) if lpips else None,
        inception=Inception.from_file(inception) if inception else None,
    )
    return judges.to(device)

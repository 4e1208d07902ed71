"""`studio train`: a recipe into a model."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (.yaml).", metavar="RECIPE")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the run; runs/NAME when absent."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the folder.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one value, as --set steps=10.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Train a tokenizer, a generator or the evaluation features by a recipe."""
    if not recipe.is_file():
        raise FileNotFoundError(f"recipe {str(recipe)!r} does not exist")
    from studio.training.loop import train as run

    with TrainingBar() as bar:
        final = run(recipe, out=out, resume=resume, overrides=settings or [], progress=bar.update)
    typer.echo(f"wrote {final}")


class TrainingBar:
    """A bar with step, loss, speed and time left; one line every 100 steps where there is no
    terminal.
    """

    def __enter__(self) -> "TrainingBar":
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(
            *columns,
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=None)
        self._bar.start()
        return self

    def __exit__(self, *error) -> None:
        self._bar.stop()

    def update(self, step: int, steps: int, metrics: dict) -> None:
        """Called by the loop after every step."""
        words = "  ".join(f"{key} {float(metrics[key]):.4g}" for key in list(metrics)[:3])
        self._bar.update(self._task, completed=step, total=steps, description=words)
        if self._bar.disable and (step % 100 == 0 or step == steps):
            typer.echo(f"step {step}/{steps} {words}", err=True)

"""`studio verify`: our network against recorded outputs of the official one."""

import math
from pathlib import Path
from typing import Annotated

import typer


def verify(
    folder: Annotated[
        Path, typer.Argument(help="A fixture: config.json, weights, io.safetensors.", metavar="DIR")
    ],
    family: Annotated[
        str | None, typer.Option(help="The family; the folder's name when absent.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Convert official weights, run every recorded input and compare every recorded output."""
    from studio.evaluation.verify import verify as check

    rows = [
        {
            "output": row.output,
            "shape": "x".join(map(str, row.shape)) or "scalar",
            "error": None if math.isnan(row.error) else row.error,
            "tolerance": row.tolerance,
            "ok": row.ok,
            "note": row.note,
        }
        for row in check(folder, family=family)
    ]
    if as_json:
        import json

        typer.echo(json.dumps(rows, indent=2))
    elif rows:
        from studio.cli.table import print_rows

        print_rows(rows, title=folder.resolve().name)
    failed = [row["output"] for row in rows if not row["ok"]]
    if failed or not rows:
        names = ", ".join(failed) if failed else "no output was compared"
        typer.echo(f"error: {folder.resolve().name} does not hold: {names}", err=True)
        raise typer.Exit(1)
    if not as_json:
        typer.echo(f"all {len(rows)} outputs hold")

"""`studio convert`: an official checkpoint into a folder of ours."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    file: Annotated[Path, typer.Argument(help="Official weights: .pt, .pth, .ckpt, .safetensors.")],
    family: Annotated[str, typer.Option(help="Which official release the weights belong to.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    config: Annotated[
        Path | None, typer.Option(help="Its config.json; looked for beside FILE when absent.")
    ] = None,
) -> None:
    """Convert official weights; what is not known by name is refused."""
    from studio.conversion.convert import convert as run

    run(file, family=family, out=out, config=config)
    typer.echo(f"wrote {out}")

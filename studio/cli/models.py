"""`studio models`: the models that came with the package."""

from pathlib import Path
from typing import Annotated, Any

import typer


def models(
    folder: Annotated[
        Path | None, typer.Argument(help="Also list the models in this folder.", metavar="[DIR]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """List the bundled models: what they make, their generators, tokens, size and licence."""
    from studio.cli.table import print_rows
    from studio.hub import DEFAULT_MODEL, list_models

    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"folder {str(folder)!r} does not exist")
    rows = []
    for info in list_models(folder):
        card = card_values(info.folder)
        row = {
            "name": info.name,
            "default": info.name == DEFAULT_MODEL,
            "pipeline": info.pipeline,
            "tokenizer": info.tokenizer,
            "tokens": card.get("tokens"),
            "generators": list(info.generators),
            "MiB": round(info.bytes / 2**20, 1),
            "license": card.get("license"),
        }
        rows.append(row)
    if as_json:
        import json

        typer.echo(json.dumps(rows, indent=2))
        return
    if folder is not None and len(rows) == len(list_models()):
        raise FileNotFoundError(f"folder {str(folder)!r} holds no model (no model_index.json)")
    if not rows:
        raise FileNotFoundError("no model is installed; run: studio doctor")
    print_rows(rows)


def card_values(folder: Path) -> dict[str, Any]:
    """The front matter of a model's card (README.md); empty when there is none that reads."""
    from studio.media import front_matter

    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}
    return front_matter.read(front_matter.split(text)[0])

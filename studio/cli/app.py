"""`studio app`: the studio in a browser, and its REST API."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from studio.cli.values import whole_option


def app(
    port: Annotated[int, whole_option("Of this machine; 0 takes a free one.")] = 8501,
    workspace: Annotated[
        Path, typer.Option(help="Folder for everything that is made.", metavar="DIR")
    ] = Path("studio-workspace"),
    models: Annotated[
        list[Path] | None, typer.Option(help="Also offer the models of a folder.", metavar="DIR")
    ] = None,
    keep: Annotated[int, whole_option("Models that stay loaded.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="Of generators' weights: float32; bfloat16 or float16 take half.")
    ] = "float32",
) -> None:
    """Open the studio at http://127.0.0.1:PORT, with a REST API beside it, until interrupted."""
    from studio.cli import opening
    from studio.env import mend

    opening.check_device(device)
    if not 0 <= port <= 65535:
        raise ValueError(f"--port {port} must be a whole number from 0 to 65535")
    if not 1 <= keep <= 16:
        raise ValueError(f"--keep {keep} must be a whole number from 1 to 16")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"--dtype {dtype!r} must be float32, bfloat16 or float16")
    for folder in models or []:
        if not folder.is_dir():
            raise FileNotFoundError(f"--models {str(folder)!r} is no folder")
    if importlib.util.find_spec("streamlit") is None:
        raise ImportError(f"streamlit is not installed; run: {mend('app')}")
    command = [sys.executable, str(app_folder() / "serve.py"), "--port", str(port)]
    command += ["--workspace", str(workspace), "--keep", str(keep), "--device", device]
    command += ["--dtype", dtype]
    for folder in models or []:
        command += ["--models", str(folder)]
    package = str(Path(__file__).parent.parent.parent)
    paths = [package, os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    sys.stdout.flush()
    os.execv(sys.executable, command)


def app_folder() -> Path:
    """Where the pages are: in the checkout, or in the installed package."""
    package = Path(__file__).parent.parent
    installed = package / "_app"
    return installed if installed.is_dir() else package.parent / "app"

"""`studio`: the command and its verbs.

Errors a user can cause are one line on stderr and exit code 2; failed jobs and a full disk exit 1;
an interrupt 130. Anything else is a fault of ours and shows its traceback, as all errors do when
STUDIO_TRACEBACK is set.
"""

import logging
import os
import sys

import typer

from studio.cli import app as web
from studio.cli import (
    bench,
    convert,
    demo,
    doctor,
    evaluate,
    generate,
    models,
    reconstruct,
    render,
    train,
    verify,
)

# Threads that wait for each other spin; with another process on a core that costs ten times the
# time. Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

app = typer.Typer(
    name="studio",
    help="Generative image, video and audio models that work through tokens.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (demo.demo, generate.generate, render.render, reconstruct.reconstruct, train.train):
    app.command()(verb)
for verb in (convert.convert, verify.verify, models.models, doctor.doctor):
    app.command()(verb)
app.command()(web.app)
app.add_typer(bench.app, name="bench")
app.add_typer(evaluate.app, name="evaluate")

# What the caller can mend by saying something else, or by installing an extra.
_USER_ERRORS = (
    ValueError,
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ImportError,
)
_MAX_LINE = 600


@app.callback(invoke_without_command=True)
def _options(
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    if version:
        from studio import __version__

        typer.echo(__version__)
        raise typer.Exit


def one_line(error: BaseException) -> str:
    """An error's message on one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MAX_LINE else f"{text[:_MAX_LINE]} ..."


def _fail(message: str, code: int) -> int:
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)  # no escape codes
    typer.echo(f"error: {shown}", err=True)
    return code


def run(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    try:
        return app(args=arguments, prog_name="studio", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except Exception as error:
        if os.environ.get("STUDIO_TRACEBACK"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message())
            return 0
        if hasattr(error, "format_message"):  # typer's usage errors
            message = " ".join(error.format_message().split())
            return _fail(message, 2) if message else 2
        if isinstance(error, _USER_ERRORS):
            return _fail(one_line(error), 2)
        if isinstance(error, OSError):
            return _fail(one_line(error), 1)
        raise


def main() -> None:
    """The entry point of the `studio` command."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.addLevelName(logging.WARNING, "warning")
    logging.addLevelName(logging.ERROR, "error")
    # Only what concerns the user is said, and nothing is sent anywhere.
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    sys.exit(run())


if __name__ == "__main__":
    main()

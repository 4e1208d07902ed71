"""`studio doctor`: what is there, what works, and the line that mends the rest."""

import typer


def doctor(
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of text."),
) -> None:
    """Check this installation; exits 1 when something that is needed does not work."""
    from studio import __version__, env

    report = env.doctor()
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps({"studio": __version__, **asdict(report)}, indent=2))
    else:
        _print(report, __version__)
    if not report.ok:
        raise typer.Exit(1)


def _print(report, version: str) -> None:
    from studio.cli.table import print_rows

    facts = {"studio": version, **report.machine, "emoji font": report.font or "not installed"}
    facts["bundled models"] = ", ".join(report.models) or "none"
    for name, value in facts.items():
        typer.echo(f"{name + ':':16}{value}")
    typer.echo("")
    states = [("needed", p) for p in report.required] + [("optional", p) for p in report.optional]
    print_rows(
        [
            {
                "package": state.name,
                "": kind,
                "version": state.version,
                "works": state.ok,
                "why not": state.error or "",
            }
            for kind, state in states
        ]
    )
    typer.echo("")
    if report.mends:
        typer.echo("To mend or add:")
        for line in report.mends:
            typer.echo(f"  {line}")
    typer.echo("Everything that is needed works." if report.ok else "Something needed is missing.")

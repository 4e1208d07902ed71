"""`studio evaluate`: reports over a folder of data. One verb a medium; `image` when none is
named."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from studio.cli.values import parse_options, whole, whole_option

DEFAULT = "image"
SENTENCES = 50  # of held-out speech, in known voices and in held-out ones


class _DefaultGroup(TyperGroup):
    """`studio evaluate MODEL ...` is `studio evaluate image MODEL ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the default verb in front where none is named."""
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_DefaultGroup,
    help="Reports over a folder of data: JSON, CSV and a page. Without a verb: image.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Models = Annotated[list[str], typer.Argument(help="Bundled names, folders or Hub ids.")]
Data = Annotated[Path, typer.Option("--data", help="A folder of pictures.", show_default=False)]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the report. A rerun goes on where it was.")
]
Count = Annotated[int | None, whole_option("So many of the data, evenly spread; all if absent.")]
Batch = Annotated[int, whole_option("Pictures at a time, and of a part that is kept.")]
Shown = Annotated[int, whole_option("Pictures on the page.")]
Lpips = Annotated[
    list[Path] | None,
    typer.Option(help="Weight file of LPIPS; twice for torchvision's backbone and the heads."),
]
InceptionFile = Annotated[
    Path | None, typer.Option("--inception", help="Weight file of FID's Inception network.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


@app.command()
def image(
    models: Models,
    data: Data,
    out: Out = Path("report"),
    tokens: Annotated[
        str | None, typer.Option(help="Prefix lengths, such as 1,8,64; powers of two if absent.")
    ] = None,
    codecs: Annotated[
        str | None, typer.Option(help="jpeg,webp,avif or none; all that are here if absent.")
    ] = None,
    count: Count = None,
    batch: Batch = 16,
    pictures: Shown = 8,
    lpips: Lpips = None,
    inception: InceptionFile = None,
    device: Device = "auto",
) -> None:
    """Image tokenizers over a folder of pictures, beside JPEG, WebP and AVIF at equal bytes."""
    _check(out, device, count=count, batch=batch, pictures=pictures)
    counts = None if tokens is None else _lengths(tokens)
    names = None if codecs is None else [x for x in codecs.lower().split(",") if x != "none"]

    from studio.evaluation.image_report import ImageEvaluation
    from studio.evaluation.pictures import find_pictures
    from studio.evaluation.subjects import open_tokenizers

    files = find_pictures(data, limit=count)
    shard, place = _processes(device)
    judges = _judges(lpips, inception, place)
    subjects = open_tokenizers(models)
    for subject in subjects:
        subject.model.to(place)
    evaluation = ImageEvaluation(
        subjects=subjects,
        files=files,
        judges=judges,
        folder=out,
        counts=counts,
        codecs=names,
        batch_size=batch,
        shown=pictures,
        shard=shard,
    )
    evaluation.check()
    with Bar(quiet=not shard.is_main) as bar:
        evaluation.progress = bar.update
        report = evaluation.run()
    finish(report, out, data=data)


@app.command()
def generator(
    models: Models,
    data: Annotated[
        str,
        typer.Option(
            help='A folder of pictures with captions, or "emoji": renders of names.',
            show_default=False,
        ),
    ],
    out: Out = Path("report"),
    kind: Annotated[
        str | None,
        typer.Option(
            "--generator", help="autoregressive, masked or all; the model's default if absent."
        ),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Of the decoding, such as guidance_scale=2.")
    ] = None,
    count: Count = None,
    batch: Batch = 16,
    pictures: Shown = 32,
    inception: InceptionFile = None,
    device: Device = "auto",
) -> None:
    """Generators on the captions of a folder, beside its real pictures."""
    _check(out, device, count=count, batch=batch, pictures=pictures)
    if kind not in (None, "autoregressive", "masked", "all"):
        raise ValueError(f"--generator {kind!r} must be autoregressive, masked or all")
    options = parse_options(option or [])

    from studio.evaluation.generator_report import GeneratorEvaluation, find_items
    from studio.evaluation.subjects import open_generators

    items = find_items(data, limit=count)
    shard, place = _processes(device)
    judges = _judges(None, inception, place)
    subjects = open_generators(models, kind)
    for subject in subjects:
        subject.model.to(place)
    evaluation = GeneratorEvaluation(
        subjects=subjects,
        items=items,
        judges=judges,
        folder=out,
        options=options,
        batch_size=batch,
        shown=pictures,
        shard=shard,
    )
    evaluation.check()
    with Bar(quiet=not shard.is_main) as bar:
        evaluation.progress = bar.update
        report = evaluation.run()
    finish(report, out, data=Path(data))


@app.command()
def speech(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Bundled names, folders or Hub ids; speech if absent."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder of sounds; if absent, held-out sentences that espeak-ng speaks, in the "
            "voices of training and in others.",
            show_default=False,
        ),
    ] = None,
    out: Out = Path("report"),
    seconds: Annotated[float, typer.Option(help="Of every sound, from its start.")] = 10.0,
    codecs: Annotated[
        str | None, typer.Option(help="mp3,opus or none; all that are here if absent.")
    ] = None,
    count: Count = None,
    batch: Annotated[int, whole_option("Sounds of a part that is kept.")] = 8,
    sounds: Annotated[int, whole_option("Sounds on the page.")] = 6,
    opinion: Annotated[
        list[Path] | None,
        typer.Option(help="TorchScript or ONNX file that scores a wave at 16 kHz, such as UTMOS."),
    ] = None,
    speaker: Annotated[
        Path | None, typer.Option(help="Such a file that gives a vector for a speaker.")
    ] = None,
    recogniser: Annotated[
        Path | None, typer.Option(help="Folder of a recogniser, for errors in what is heard.")
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(help="JSON of figures to put these into; the model's card is written anew."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Sound tokenizers over a folder of sounds, beside MP3 and Opus at their lowest rates."""
    _check(out, device, count=count, batch=batch, sounds=sounds)
    if not 0.1 <= seconds <= 600:
        raise ValueError(f"--seconds {seconds:g} must lie between 0.1 and 600")
    names = models or ["speech"]
    wanted = None if codecs is None else [x for x in codecs.lower().split(",") if x != "none"]

    from studio.evaluation.sound_judges import SoundJudges
    from studio.evaluation.sound_networks import open_all
    from studio.evaluation.sound_report import SoundEvaluation
    from studio.evaluation.sounds import find_sounds, spoken_note, spoken_sounds
    from studio.evaluation.speech_card import card_folder, write_speech_card
    from studio.evaluation.subjects import open_tokenizers

    spoken = count or SENTENCES
    found = spoken_sounds(spoken) if data is None else find_sounds(data, limit=count)
    folder = None if card is None else card_folder(names, synthetic=data is None)
    networks = open_all(opinion or [], speaker, recogniser)
    shard, place = _processes(device)
    subjects = open_tokenizers(names, medium="sound")
    for subject in subjects:
        subject.model.to(place)
    evaluation = SoundEvaluation(
        subjects=subjects,
        sounds=found,
        judges=SoundJudges(networks),
        folder=out,
        seconds=seconds,
        codecs=wanted,
        batch_size=batch,
        shown=sounds,
        data_notes=[spoken_note(spoken)] if data is None else [],
        shard=shard,
    )
    evaluation.check()
    with Bar(quiet=not shard.is_main) as bar:
        evaluation.progress = bar.update
        report = evaluation.run()
    if report is not None and card is not None and folder is not None:
        typer.echo(f"wrote {write_speech_card(folder, card, codec=report)}")
    finish(report, out, data=data or Path("held-out sentences"))


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


def _check(out: Path, device: str, **least: int | None) -> None:
    from studio.cli.opening import check_device
    from studio.media.files import check_writable

    check_device(device)
    for name, value in least.items():
        lowest = {"pictures": 0, "sounds": 0, "count": 2}.get(name, 1)
        if value is not None and value < lowest:
            raise ValueError(f"--{name} {value} must be at least {lowest}")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {str(out)!r} is a file, not a folder")
    check_writable(out / "report.json")


def _lengths(text: str) -> list[int]:
    return sorted({whole(part) for part in text.split(",")})


def _processes(device: str):
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


def _judges(lpips: list[Path] | None, inception: Path | None, device: str):
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

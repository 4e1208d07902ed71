"""`studio evaluate`: reports over a folder of data. One verb a medium; where none is named, that of
the first model, and `image` for what is no pipeline."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from studio.cli.reporting import check_call, finish, measured, open_judges, processes
from studio.cli.values import parse_options, whole, whole_option

DEFAULT = "image"
VERBS = {"audio": "speech", "video": "video"}  # by what a pipeline makes
SENTENCES = 50  # of held-out speech, in known voices and in held-out ones


class _DefaultGroup(TyperGroup):
    """`studio evaluate MODEL ...` is `studio evaluate image MODEL ...`, or another medium's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the default verb in front where none is named."""
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [_verb_for(args[0]), *args]
        return super().parse_args(ctx, args)


def _verb_for(name: str) -> str:
    """The verb for a model: a bundled name or a folder; nothing is downloaded."""
    from studio.cli.media_output import medium_of_folder
    from studio.hub import INDEX, bundled_names, find_folder

    try:
        folder = find_folder(name) if name in bundled_names() else Path(name)
        known = (folder / INDEX).is_file()
        return VERBS.get(medium_of_folder(folder).name, DEFAULT) if known else DEFAULT
    except (ValueError, OSError):
        return DEFAULT


app = typer.Typer(
    cls=_DefaultGroup,
    help="Reports over a folder of data: JSON, CSV and a page. Without a verb: the model's own.",
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
    check_call(out, device, count=count, batch=batch, pictures=pictures)
    counts = None if tokens is None else _lengths(tokens)
    names = _names(codecs)

    from studio.evaluation.image_report import ImageEvaluation
    from studio.evaluation.pictures import find_pictures
    from studio.evaluation.subjects import open_tokenizers

    files = find_pictures(data, limit=count)
    shard, place = processes(device)
    judges = open_judges(lpips, inception, place)
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
    finish(measured(evaluation), out, data=data)


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
    check_call(out, device, count=count, batch=batch, pictures=pictures)
    if kind not in (None, "autoregressive", "masked", "all"):
        raise ValueError(f"--generator {kind!r} must be autoregressive, masked or all")
    options = parse_options(option or [])

    from studio.evaluation.generator_report import GeneratorEvaluation, find_items
    from studio.evaluation.subjects import open_generators

    items = find_items(data, limit=count)
    shard, place = processes(device)
    judges = open_judges(None, inception, place)
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
    finish(measured(evaluation), out, data=Path(data))


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
    check_call(out, device, count=count, batch=batch, sounds=sounds)
    if not 0.1 <= seconds <= 600:
        raise ValueError(f"--seconds {seconds:g} must lie between 0.1 and 600")
    names = models or ["speech"]
    wanted = _names(codecs)

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
    shard, place = processes(device)
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
    report = measured(evaluation)
    if report is not None and card is not None and folder is not None:
        typer.echo(f"wrote {write_speech_card(folder, card, codec=report)}")
    finish(report, out, data=data or Path("held-out sentences"))


@app.command()
def video(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Bundled names, folders or Hub ids; emoji-motion if absent."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder of videos, of which the first frames are taken; held-out clips of "
            "moving emoji if absent.",
            show_default=False,
        ),
    ] = None,
    out: Out = Path("report"),
    codecs: Annotated[
        str | None, typer.Option(help="h264,vp9 or none; all that are here if absent.")
    ] = None,
    count: Count = None,
    batch: Annotated[int, whole_option("Clips of a part that is kept.")] = 4,
    clips: Annotated[int, whole_option("Clips on the page.")] = 6,
    lpips: Lpips = None,
    i3d: Annotated[
        Path | None, typer.Option(help="Weight file of FVD's I3D network (rgb_imagenet.pt).")
    ] = None,
    device: Device = "auto",
) -> None:
    """Video tokenizers over clips, by layers, beside H.264 and VP9 at nearby bytes."""
    check_call(out, device, count=count, batch=batch, clips=clips)
    wanted = _names(codecs)

    from studio.evaluation.clips import HELDOUT, find_clips, heldout_clips
    from studio.evaluation.i3d import I3D
    from studio.evaluation.subjects import open_tokenizers
    from studio.evaluation.video_judges import ClipJudges
    from studio.evaluation.video_report import VideoEvaluation

    found = heldout_clips(count or HELDOUT) if data is None else find_clips(data, limit=count)
    shard, place = processes(device)
    network = None if i3d is None else I3D.from_file(i3d)
    judges = ClipJudges(open_judges(lpips, None, place), network).to(place)
    subjects = open_tokenizers(models or ["emoji-motion"], medium="video")
    for subject in subjects:
        subject.model.to(place)
    synthetic = "Clips of emoji that no tokenizer was trained on, on plain and gradient ground."
    evaluation = VideoEvaluation(
        subjects=subjects,
        clips=found,
        judges=judges,
        folder=out,
        codecs=wanted,
        batch_size=batch,
        shown=clips,
        data_notes=[synthetic] if data is None else [],
        shard=shard,
    )
    finish(measured(evaluation), out, data=data or Path("held-out clips"))


def _names(codecs: str | None) -> list[str] | None:
    if codecs is None:
        return None
    return [name for name in codecs.lower().replace(" ", "").split(",") if name != "none"]


def _lengths(text: str) -> list[int]:
    return sorted({whole(part) for part in text.split(",")})

"""`studio generate`: pictures, speech or clips from words, with their request inside."""

import dataclasses
import hashlib
import logging
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from studio.cli.values import in_options, number_option, parse_options, whole_option

logger = logging.getLogger(__name__)
DEFAULT_OUTPUT = Path("out.png")
MAX_BATCH = 1024


def generate(
    prompt: Annotated[str | None, typer.Argument(help="What to make.", show_default=False)] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A bundled name, a folder or a Hub id.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help=".png, .webp, .jpg; .wav, .flac, .ogg; .mp4, .gif; -0, -1, ... with --count.",
        ),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Make this file again; options change it.")
    ] = None,
    seed: Annotated[int | None, whole_option("0 to 2**63 - 1; a random one if absent.")] = None,
    count: Annotated[
        int | None, whole_option("How many; they have the seeds from SEED on.", "--count", "-n")
    ] = None,
    generator: Annotated[str | None, typer.Option(help="autoregressive or masked.")] = None,
    tokens: Annotated[int | None, whole_option("Make only so many leading tokens.")] = None,
    steps: Annotated[int | None, whole_option("Steps of a masked generator.")] = None,
    guidance: Annotated[float | None, number_option("Guidance scale.")] = None,
    temperature: Annotated[float | None, number_option("0 takes the best token.")] = None,
    top_k: Annotated[int | None, whole_option("Draw from the best K tokens; 0 for all.")] = None,
    top_p: Annotated[float | None, number_option("Draw from this share of probability.")] = None,
    decoding: Annotated[
        str | None,
        typer.Option(help="plain, seed, exact, grouped, relaxed, ... or a strategy's class."),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", help="An option of the strategy.", metavar="KEY=VALUE"),
    ] = None,
    frames: Annotated[int | None, whole_option("Frames of a clip.")] = None,
    image: Annotated[
        Path | None, typer.Option(help="A picture to vary, or the first frame of a clip.")
    ] = None,
    strength: Annotated[float | None, number_option("Share of IMAGE's tokens made anew.")] = None,
    class_label: Annotated[int | None, whole_option("For models of classes.", "--class")] = None,
    voice: Annotated[str | None, typer.Option(help="Who speaks, of models of speech.")] = None,
    speed: Annotated[float | None, number_option("Of speech: 0.5 to 2.")] = None,
    pitch: Annotated[float | None, number_option("Of speech: -1 to 1.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of a Hub id.")] = None,
    batch: Annotated[int, whole_option("How many at a time.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Make pictures, speech or clips. The same seed gives the same bytes, alone or among others."""
    given = {
        "prompt": prompt,
        "seed": seed,
        "count": count,
        "generator": generator,
        "num_tokens": tokens,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "decoding": decoding,
        "decoding_options": parse_options(options) if options else None,
        "strength": strength,
        "num_frames": frames,
        "class_label": class_label,
        "voice": voice,
        "speed": speed,
        "pitch": pitch,
    }
    call = {"source": source, "model": model, "output": output, "image": image}
    with in_options():
        make_files(given, **call, revision=revision, batch=batch, device=device)


def make_files(
    given: dict[str, Any],
    *,
    source: Path | None,
    model: str | None,
    output: Path | None,
    image: Path | None,
    revision: str | None,
    batch: int,
    device: str,
) -> None:
    """Does what `generate` was asked: `given` are fields of the request, None where not given."""
    from studio.cli import opening
    from studio.cli.media_output import default_path, medium_of_folder
    from studio.hub import find_folder
    from studio.media.files import check_writable

    opening.check_device(device)
    if not 1 <= batch <= MAX_BATCH:
        raise ValueError(f"--batch {batch} must be a whole number from 1 to {MAX_BATCH}")
    request = build_request(source, given)
    name = model or request.model
    folder = find_folder(name, revision=revision or _hub_revision(name, request.revision))
    medium = medium_of_folder(folder)
    paths = output_paths(output or default_path(medium), request.count, medium)
    _check_wanted(request, folder)
    request = _identified(request, name, folder, revision, recheck=source is not None)
    request, picture = _with_image(request, image)
    for path in paths:
        check_writable(path)
    pipe = opening.load("Pipeline", folder, device=device, generator=request.generator)
    _make(pipe, request, paths, medium, picture=picture, batch=batch)


def build_request(source: Path | None, given: dict[str, Any]):
    """The request of a call: what the file `source` holds, changed by what was given."""
    from studio.cli.media_output import medium_of_file
    from studio.pipelines.request import Request

    changes = {key: value for key, value in given.items() if value is not None}
    if source is None:
        return Request(**{"seed": secrets.randbelow(2**32), **changes})
    if "prompt" in changes:
        changes.setdefault("class_label", None)
    recorded = medium_of_file(source).read_request(source)
    return dataclasses.replace(Request.from_dict(recorded), **changes)


def output_paths(output: Path, count: int, medium) -> list[Path]:
    """Where the files of a `Medium` go: `output` for one, `name-0`, `name-1`, ... for several."""
    medium.check_suffix(output)
    if count == 1:
        return [output]
    return [output.with_name(f"{output.stem}-{i}{output.suffix}") for i in range(count)]


def _hub_revision(name: str, recorded: str | None) -> str | None:
    from studio.hub import bundled_names

    return None if name in bundled_names() or Path(name).is_dir() else recorded


def _identified(request, name: str, folder: Path, revision: str | None, *, recheck: bool):
    """The request with the model as it really is; warns when it is not the recorded one."""
    from studio.hub import identity

    who = identity(name, folder, revision or request.revision)
    if recheck and request.revision and (request.model, request.revision) != tuple(who.values()):
        logger.warning(
            "the file was made with %s %s, this is %s %s: it will not be the same",
            request.model,
            request.revision,
            who["model"],
            who["revision"],
        )
    return dataclasses.replace(request, **who)


def _check_wanted(request, folder: Path) -> None:
    """Raises ValueError for a missing prompt before anything heavy is loaded."""
    from studio.cli.media_output import medium_of_folder
    from studio.hub import read_index
    from studio.rendering.media import IMAGE

    medium = medium_of_folder(folder)
    worded = medium is not IMAGE or "text_tokenizer" in read_index(folder)
    if request.prompt is None and worded:
        if request.input:
            raise ValueError(
                f"that {medium.noun} was reconstructed: studio reconstruct makes it, again too"
            )
        raise ValueError(
            f"PROMPT is missing: model {folder.name!r} makes {medium.noun}s from words"
        )


def _with_image(request, image: Path | None):
    """The request with the fingerprint of the picture to vary, and the picture."""
    from studio.media.image import open_picture

    if image is None:
        if request.input is not None:
            raise ValueError("--image is missing: that picture was made from another one")
        if request.strength is not None:
            raise ValueError(f"--strength {request.strength} needs --image")
        return request, None
    picture = open_picture(image)
    return dataclasses.replace(request, input=picture_hash(image)), picture


def picture_hash(path: Path) -> str:
    """What stands for an input file in a request: its SHA-256, in the memory of a piece of it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make(pipe, request, paths: list[Path], medium, *, picture, batch: int) -> None:
    """Make all samples of a request and write each with a request of its own."""
    singles = [dataclasses.replace(request, seed=seed, count=1) for seed in request.seeds()]
    for start in range(0, len(singles), batch):
        part = singles[start : start + batch]
        call = dataclasses.replace(part[0], count=len(part)).arguments(pipe)
        if picture is not None:
            call["image"] = picture
        files = paths[start : start + len(part)]
        stats = _write(pipe, call, part, files, medium)
        for single, path in zip(part, files, strict=True):
            typer.echo(
                f"{path}  seed {single.seed}, {stats.tokens} tokens in {stats.passes} passes"
                f"{drafts_text(stats)}, {stats.seconds / len(part):.2f} s"
            )


def _write(pipe, call: dict[str, Any], requests: list, paths: list[Path], medium):
    """Makes what `call` says and writes it, a file a request; what that cost."""
    from studio.cli.clip_files import write_clips
    from studio.rendering.media import VIDEO, made_of, write_media

    if medium is VIDEO:
        return write_clips(pipe, call, paths, requests)
    output = pipe(**call)
    for single, path, made in zip(requests, paths, made_of(pipe, output), strict=True):
        write_media(path, made, single.to_dict())
    return output.stats


def drafts_text(stats) -> str:
    """What speculation did, for the line of a picture; nothing where there was none."""
    if stats.speculating is None:
        return ""
    text = f", {stats.accepted} of {stats.proposed} drafts accepted"
    return text if stats.speculating else f"{text}, drafting switched off as it does not pay"

"""`studio reconstruct`: a picture, a sound or a clip through tokens and back."""

from pathlib import Path
from typing import Annotated

import typer

from studio.cli.values import in_options, whole_option


def reconstruct(
    file: Annotated[
        Path,
        typer.Argument(help="A picture, of which the middle square is taken, a sound or a clip."),
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A bundled name, a folder or a Hub id.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="FILE-reconstructed.png (.wav, .mp4) when absent."),
    ] = None,
    tokens: Annotated[
        int | None, whole_option("Decode only so many leading tokens (1D models).")
    ] = None,
    layers: Annotated[
        int | None, whole_option("Decode only so many layers, coarse first (clips).")
    ] = None,
    original: Annotated[
        bool, typer.Option("--original", help="Put what the tokenizer saw on the left.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Encode a picture, a sound or a clip to tokens, decode it, and say what that cost and kept."""
    from studio.cli import opening
    from studio.cli.generate import picture_hash
    from studio.cli.media_output import medium_read
    from studio.cli.reconstruct_sound import reconstruct_sound
    from studio.cli.reconstruct_video import reconstruct_video
    from studio.hub import DEFAULT_MODEL, find_folder, identity
    from studio.media.files import check_writable
    from studio.media.image import check_suffix, open_picture, write_image
    from studio.pipelines.request import Request
    from studio.rendering.media import AUDIO, IMAGE, VIDEO

    opening.check_device(device)
    medium = medium_read(file, model)
    if medium is not IMAGE and (tokens is not None or original):
        name = "--original" if original else "--tokens"
        raise ValueError(f"{name} is for pictures, and {str(file)!r} is a {medium.noun}")
    if medium is not VIDEO and layers is not None:
        raise ValueError(f"--layers is for clips, and {str(file)!r} is a {medium.noun}")
    if medium is AUDIO:
        return reconstruct_sound(file, model, output, device)
    if medium is VIDEO:
        return reconstruct_video(file, model, output, layers, device)
    output = output or Path(f"{file.stem}-reconstructed.png")
    check_suffix(output)
    picture = open_picture(file)
    name = model or DEFAULT_MODEL
    folder = find_folder(name)
    who = identity(name, folder)
    with in_options():
        request = Request(**who, input=picture_hash(file), num_tokens=tokens)
    check_writable(output)
    pipe = opening.load("ReconstructionPipeline", folder, device=device)
    with in_options():
        result = pipe(picture, num_tokens=tokens)
    seen = seen_by(pipe, picture)
    shown = beside(seen, result.images[0]) if original else result.images[0]
    write_image(output, shown, request.to_dict())
    rate = pipe.tokenizer.rate(tokens)
    typer.echo(
        f"{output}  {rate.tokens} tokens, {rate.bits / 8:.0f} bytes, "
        f"{rate.bits_per_unit:.3f} bits a pixel, PSNR {psnr_of(result.images[0], seen):.2f} dB"
    )


def seen_by(pipe, picture):
    """The PIL image that the tokenizer of `pipe` sees: the middle square at its size."""
    from studio.media.image import fit_square

    return fit_square(picture, pipe.tokenizer.config.image_size)


def psnr_of(picture, original) -> float:
    """PSNR in dB of two PIL images of one size."""
    from studio.media.image import to_tensor
    from studio.media.quality import psnr

    return float(psnr(to_tensor(picture)[None], to_tensor(original)[None]))


def beside(left, right):
    """Two PIL images of one height in one."""
    from PIL import Image

    both = Image.new("RGB", (left.width + right.width, left.height))
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    return both

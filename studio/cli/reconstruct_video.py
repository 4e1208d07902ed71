"""`studio reconstruct` for clips: what a model's tokens keep of a video, one chunk at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from studio.cli.values import in_options

CHUNK = 16  # frames held at a time


@dataclass
class Tally:
    """What coding a video has cost and kept so far."""

    frames: int = 0
    tokens: int = 0
    bits: float = 0.0
    errors: list[float] = field(default_factory=list)

    def text(self, height: int, width: int) -> str:
        """One line of figures; PSNR is the mean over frames."""
        per_pixel = self.bits / (self.frames * height * width)
        kept = sum(self.errors) / len(self.errors)
        return (
            f"{self.tokens} tokens for {self.frames} frames, {self.bits / 8:.0f} bytes, "
            f"{per_pixel:.4f} bits a pixel, PSNR {kept:.2f} dB"
        )


def reconstruct_video(
    file: Path, model: str | None, output: Path | None, layers: int | None, device: str
) -> None:
    """Encodes a video to tokens, decodes it in its own size and rate, and says what that cost and
    kept. Memory does not grow with its length, but for GIF and WebP, whose frames are held."""
    from studio.cli import opening
    from studio.cli.generate import picture_hash
    from studio.hub import find_folder, identity
    from studio.media.files import check_writable
    from studio.media.video import read_pieces, video_info
    from studio.media.video_writer import video_writer
    from studio.pipelines.request import Request
    from studio.rendering.media import VIDEO

    output = output or Path(f"{file.stem}-reconstructed.mp4")
    VIDEO.check_suffix(output)
    info = video_info(file)
    name = model or str(VIDEO.model)
    folder = find_folder(name)
    with in_options():
        request = Request(**identity(name, folder), input=picture_hash(file))
    check_writable(output)
    pipe = opening.load("ReconstructionPipeline", folder, device=device)
    tokenizer = pipe.tokenizer
    if tokenizer.medium != "video":
        raise ValueError(f"model {name!r} codes {tokenizer.medium}s, and {str(file)!r} is a video")
    check_layers(tokenizer, layers)
    tally = Tally()
    with video_writer(output, fps=info.fps, request=request.to_dict()) as write:
        for piece in through(tokenizer, read_pieces(file, chunk_frames=CHUNK), layers, tally):
            write(piece)
    typer.echo(f"{output}  {tally.text(info.height, info.width)}")


def check_layers(tokenizer: Any, layers: int | None) -> None:
    """Raises ValueError for a number of layers that the tokenizer does not have."""
    if layers is None:
        return
    count = len(getattr(tokenizer, "codes", "."))
    if not 1 <= layers <= count:
        raise ValueError(f"--layers {layers} must lie between 1 and {count} for this model")


def through(tokenizer: Any, pieces: Any, layers: int | None, tally: Tally) -> Iterator[Any]:
    """Pieces (1, 3, n, H, W) of a video through tokens and back, each as soon as it is whole.

    Args:
        layers: decode only so many, coarse first; all when None.
        tally: counts along.
    """
    import torch
    import torch.nn.functional as F

    from studio.layers.causal import Carry

    real: list[torch.Tensor] = []

    def fitted() -> Iterator[torch.Tensor]:
        for piece in pieces:
            real.append(piece)
            side = tokenizer.space_factor
            height, width = piece.shape[-2:]
            edge = (0, -width % side, 0, -height % side, 0, 0)
            padded = F.pad(piece, edge, mode="replicate")
            yield padded.to(tokenizer.device, tokenizer.dtype)

    carry = Carry(memory=CHUNK)
    with torch.no_grad():
        for part in tokenizer.encode_stream(fitted(), memory=CHUNK):
            options: dict[str, Any] = {"layout": part.layout}
            if tokenizer.causal:
                options["carry"] = carry
            if layers is not None and hasattr(tokenizer, "num_tokens_of"):
                options["num_tokens"] = tokenizer.num_tokens_of(layers, part.layout)
            values = part.latents if part.tokens is None else part.tokens
            made = tokenizer.decode(values, **options).float().cpu().clamp(-1, 1)
            original = torch.cat(real, 2)
            count = min(made.shape[2], original.shape[2])
            made = made[:, :, :count, : original.shape[-2], : original.shape[-1]]
            real[:] = [original[:, :, count:]]
            _count(tally, part.layout, options.get("num_tokens"), made, original[:, :, :count])
            yield made


def _count(tally: Tally, layout: Any, num_tokens: int | None, made: Any, real: Any) -> None:
    tally.frames += made.shape[2]
    tally.tokens += num_tokens or layout.num_tokens
    tally.bits += layout.bits(num_tokens)
    errors = (made - real).square().mean((0, 1, 3, 4)).clamp(min=1e-10)  # (n,)
    tally.errors += [10 * math.log10(4 / float(error)) for error in errors]

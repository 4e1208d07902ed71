"""`studio reconstruct` for sounds: what the codec of a model keeps of a file."""

from pathlib import Path

import typer

from studio.cli.values import in_options


def reconstruct_sound(file: Path, model: str | None, output: Path | None, device: str) -> None:
    """Encodes a sound to tokens, decodes it at its own sample rate and length, and says what that
    cost and kept."""
    from studio.cli import opening
    from studio.cli.generate import picture_hash
    from studio.hub import find_folder, identity
    from studio.media.audio import read_audio, write_audio
    from studio.media.files import check_writable
    from studio.pipelines.request import Request
    from studio.rendering.media import AUDIO

    output = output or Path(f"{file.stem}-reconstructed.wav")
    AUDIO.check_suffix(output)
    audio, rate = read_audio(file)  # (1, C, L)
    name = model or str(AUDIO.model)
    folder = find_folder(name)
    with in_options():
        request = Request(**identity(name, folder), input=picture_hash(file))
    check_writable(output)
    pipe = opening.load("ReconstructionPipeline", folder, device=device)
    if pipe.tokenizer.medium != "audio":
        raise ValueError(
            f"model {name!r} codes {pipe.tokenizer.medium}s, and {str(file)!r} is a sound"
        )
    made, encoded = through(pipe.tokenizer, audio, rate)
    write_audio(output, made, rate, request.to_dict())
    cost, seconds = encoded.layout, audio.shape[-1] / rate
    typer.echo(
        f"{output}  {cost.num_tokens} tokens for {seconds:.2f} s, {cost.bits() / seconds:.0f} bits "
        f"a second{_kept(made, audio, rate)}"
    )


def through(tokenizer, audio, rate: int):
    """A sound (1, C, L) at its rate through a codec: as long and at the same rate, clamped, and
    its encoding."""
    import torch

    from studio.media.resampling import resample

    with torch.no_grad():
        here = audio.to(tokenizer.device, tokenizer.dtype)
        encoded = tokenizer.encode(here, sample_rate=rate)
        made = tokenizer.decode(encoded.tokens, layout=encoded.layout).float().cpu()
    made = resample(made, tokenizer.sample_rate, rate)[..., : audio.shape[-1]]
    return made.clamp(-1, 1), encoded


def _kept(made, audio, rate: int) -> str:
    """PESQ and STOI of the first channel, where their packages are there and it is long enough."""
    from studio.media.resampling import resample
    from studio.media.sound_quality import WIDE_BAND, pesq, quality_packages, stoi

    if not quality_packages() or audio.shape[-1] < rate // 2:
        return ""
    fake, real = (resample(sound[0, :1], rate, WIDE_BAND)[0] for sound in (made, audio))
    scores = pesq(fake, real), stoi(fake, real, WIDE_BAND)
    return "".join(
        f", {name} {score:.2f}" for name, score in zip(("PESQ", "STOI"), scores) if score == score
    )

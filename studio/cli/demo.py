"""`studio demo`: one page that shows what the bundled models make here, offline, with timings.

Beside the page lies one file a model: its pictures, its clips side by side, or its first sound with
wave and spectrogram. README shows these.
"""

import time
from pathlib import Path
from typing import Annotated

import typer

# Names, a held-out pair of colour and object, backgrounds, a gradient, "small", two at once.
PROMPTS = (
    "red apple",
    "blue apple on yellow",
    "rocket",
    "octopus on teal",
    "sunflower",
    "green frog on pink",
    "robot on blue to purple",
    "pizza",
    "cat face on orange",
    "small bicycle on gray",
    "purple butterfly",
    "strawberry and lemon",
)
GROWING = ("red apple", "octopus on teal", "cat face on orange")
CLIPS = (  # no generator saw the last object with its motion
    "red apple moving left",
    "rocket moving up",
    "pizza growing on teal",
    "sunflower turning on purple",
)
SENTENCE = "three red apples and a blue bicycle"
SPEAKERS = 3
SHEET_COLUMNS = 6
SEED = 7


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write index.html into.", metavar="DIR")
    ] = Path("studio-demo"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Write a page with pictures, a spoken sentence, clips, what tokens keep, and timings."""
    from studio.cli import opening
    from studio.cli.media_output import medium_of_folder
    from studio.cli.page import Page
    from studio.hub import list_models
    from studio.media.files import atomic_write, check_writable
    from studio.rendering.media import AUDIO, IMAGE, VIDEO

    opening.check_device(device)
    target = out / "index.html"
    check_writable(target)
    infos = list_models()
    if not infos:
        raise FileNotFoundError("no bundled model is installed; run: studio doctor")
    page, timings, samples, files = Page(), [], {}, []
    of_pictures = [info for info in infos if medium_of_folder(info.folder) is IMAGE]
    for info in of_pictures:
        for kind in info.generators:
            pictures = _pictures(page, info, kind, device, timings)
            samples.setdefault(info.name, pictures)
    if samples:
        _reconstructions(page, of_pictures, samples, device)
    files += [_write_pictures(out / f"{name}.png", made) for name, made in samples.items()]
    for info in infos:
        if medium_of_folder(info.folder) is AUDIO:
            files += _write_sound(out / info.name, _speech(page, info, device, timings))
        if medium_of_folder(info.folder) is VIDEO:
            clips = _clips(page, info, device, timings)
            files.append(_write_clips(out / f"{info.name}.gif", clips))
    page.table("Timings", timings, note=_machine())
    atomic_write(target, page.html())
    typer.echo(f"wrote {target}, and beside it {', '.join(file.name for file in files)}")


def _pictures(page, info, kind: str, device: str, timings: list[dict]) -> list:
    """One model with one generator over all prompts; a row of timings; the pictures."""
    import torch

    from studio.cli import opening
    from studio.cli.page import Figure

    begin = time.perf_counter()
    pipe = opening.load("Pipeline", info.folder, device=device, generator=kind)
    loaded = time.perf_counter() - begin

    def make(prompts):
        return pipe(list(prompts), generator=[torch.Generator().manual_seed(SEED) for _ in prompts])

    alone = make(PROMPTS[:1]).stats  # first, so that the batch below is warm
    output = make(PROMPTS)
    each = output.stats.seconds / len(PROMPTS)
    timings.append(_timing(info, kind, loaded, alone, each))
    typer.echo(f"{info.name}, {kind}: {len(PROMPTS)} pictures in {output.stats.seconds:.1f} s")
    command = f'studio generate "PROMPT" -m {info.name} --generator {kind} --seed {SEED}'
    figures = [Figure(image, text) for image, text in zip(output.images, PROMPTS, strict=True)]
    page.gallery(f"{info.name}, {kind} generator", figures, note=command)
    if kind == info.generators[0] and pipe.tokenizer.layout.prefix:
        _prefixes(page, pipe, info.name, output.tokens)
    return output.images


def _timing(info, kind: str, loaded: float, first, each: float) -> dict:
    """A row: what it took to load, to make the first result, and each of several."""
    return {
        "model": info.name,
        "generator": kind,
        "tokens": first.tokens,
        "network passes": first.passes,
        "load": f"{loaded:.1f} s",
        "the first": f"{first.seconds:.2f} s",
        "each of several": f"{each:.2f} s",
    }


def _clips(page, info, device: str, timings: list[dict]) -> list:
    """Clips of a model, and the first of them from fewer layers of its tokens; the clips."""
    import torch

    from studio.cli import opening
    from studio.cli.page import Figure
    from studio.pipelines.video_parts import to_frames

    begin = time.perf_counter()
    pipe = opening.load("Pipeline", info.folder, device=device)
    loaded = time.perf_counter() - begin
    made = [pipe(text, generator=torch.Generator().manual_seed(SEED)) for text in CLIPS]
    seconds = [output.stats.seconds for output in made]
    each = sum(seconds) / len(seconds)
    timings.append(_timing(info, info.generators[0], loaded, made[0].stats, each))
    typer.echo(f"{info.name}: {len(CLIPS)} clips in {sum(seconds):.1f} s")
    figures = [Figure(out.frames[0], text) for out, text in zip(made, CLIPS, strict=True)]
    command = f'studio generate "PROMPT" -m {info.name} --seed {SEED} -o clip.mp4'
    page.gallery(f"{info.name}: clips", figures, note=command, columns=len(CLIPS))
    tokenizer, figures = pipe.tokenizer, []
    for layers in range(1, len(tokenizer.layout.segments) + 1):
        count = tokenizer.num_tokens_of(layers)
        clip = tokenizer.decode(made[0].tokens[:, :count].to(pipe.device)).detach()
        bits = tokenizer.rate(count).bits
        words = f"{layers} layer{'s' * (layers > 1)}: {count} tokens, {bits / 8:.0f} bytes"
        frames = to_frames(clip.cpu().transpose(1, 2), "pil")[0]
        figures.append(Figure(frames, words, alt=f"{CLIPS[0]} from {words}"))
    note = f"{CLIPS[0]}: tokens come in layers, coarse ones first, and any first ones are a clip."
    page.gallery(f"Layers of {info.name}", figures, note=note, columns=len(CLIPS))
    return [output.frames[0] for output in made]


def _speech(page, info, device: str, timings: list[dict]):
    """One sentence in some voices; a row of timings; the first `Sound`."""
    import torch

    from studio.cli import opening
    from studio.cli.page import Sound
    from studio.evaluation.sound_picture import sound_picture
    from studio.media.wav import wav_bytes

    begin = time.perf_counter()
    pipe = opening.load("Pipeline", info.folder, device=device)
    loaded, sounds, took = time.perf_counter() - begin, [], []
    for voice in pipe.voices[:SPEAKERS]:
        generator = torch.Generator().manual_seed(SEED)
        output = pipe(SENTENCE, voice=voice, generator=generator)
        wave, rate = output.audios[0], output.sampling_rate
        samples = (wave * 32767).round().short().T.contiguous().numpy()  # (L, 1)
        seconds = f"{wave.shape[-1] / rate:.1f} s in {output.stats.seconds:.1f} s"
        caption = f"{voice}: {SENTENCE} ({seconds})"
        sounds.append(Sound(wav_bytes(samples, rate), sound_picture(wave, rate), caption))
        took.append(output.stats)
    each = sum(stats.seconds for stats in took) / len(took)
    timings.append(_timing(info, info.generators[0], loaded, took[0], each))
    typer.echo(f"{info.name}: a sentence in {len(sounds)} voices")
    command = f'studio generate "TEXT" -m {info.name} --voice {pipe.voices[0]} --seed {SEED}'
    page.sounds(f"{info.name} speaks", sounds, note=command, columns=SPEAKERS)
    return sounds[0]


def _side_by_side(pictures: list, columns: int):
    import torch

    from studio.evaluation.report import contact_sheet
    from studio.media.image import to_tensor

    tensors = torch.stack([to_tensor(picture) for picture in pictures])  # (n, 3, H, W)
    return contact_sheet(tensors, columns=columns, gap=0)


def _write_pictures(path: Path, pictures: list) -> Path:
    from studio.media.image import write_image

    return write_image(path, _side_by_side(pictures, SHEET_COLUMNS))


def _write_clips(path: Path, clips: list[list]) -> Path:
    """Clips side by side, as one animation."""
    from studio.cli.page import FRAME
    from studio.media.video_writer import write_frames

    moments = zip(*clips, strict=True)
    frames = (_side_by_side(list(pictures), len(clips)) for pictures in moments)
    return write_frames(path, frames, fps=1000 / FRAME)


def _write_sound(stem: Path, sound) -> list[Path]:
    """A sound and the picture of it."""
    from studio.media.files import atomic_write
    from studio.media.image import write_image

    wav, picture = stem.with_name(f"{stem.name}.wav"), stem.with_name(f"{stem.name}.png")
    return [atomic_write(wav, sound.wav), write_image(picture, sound.image)]


def prefix_lengths(total: int) -> list[int]:
    """1, 2, 4, ... and the whole length."""
    lengths = [2**i for i in range(total.bit_length()) if 2**i < total]
    return [*lengths, total]


def _prefixes(page, pipe, name: str, tokens) -> None:
    """The first tokens of a picture, decoded alone: more and more of them."""
    from studio.cli.page import Figure
    from studio.media.image import to_pil

    rows = []
    for prompt in GROWING:
        row = tokens[PROMPTS.index(prompt)][None].to(pipe.device)  # (1, N)
        for count in prefix_lengths(row.shape[1]):
            bits = pipe.tokenizer.rate(count).bits
            caption = f"{count} token{'s' * (count > 1)}, {bits / 8:.0f} bytes"
            image = to_pil(pipe.tokenizer.decode(row, num_tokens=count).detach())
            rows.append(Figure(image, caption, alt=f"{prompt} from {caption}"))
    note = (
        "Each row is one picture; its tokens are ordered, and any first part of them is a picture."
    )
    columns = len(prefix_lengths(tokens.shape[1]))
    page.gallery(f"Growing prefixes of {name}", rows, note=note, columns=columns, rows=True)


def _reconstructions(page, infos, samples: dict, device: str) -> None:
    """Every model's tokenizer on pictures that another model made."""
    from studio.cli import opening
    from studio.cli.page import Figure
    from studio.cli.reconstruct import psnr_of, seen_by

    for info in infos:
        other = next((name for name in samples if name != info.name), info.name)
        pipe = opening.load("ReconstructionPipeline", info.folder, device=device)
        figures = []
        for prompt, picture in list(zip(PROMPTS, samples[other], strict=True))[:4]:
            seen, back = seen_by(pipe, picture), pipe(picture).images[0]
            words = f"{prompt}: PSNR {psnr_of(back, seen):.1f} dB"
            figures += [Figure(seen, "original", alt=f"{prompt}, original"), Figure(back, words)]
        rate = pipe.tokenizer.rate()
        note = (
            f"Pictures made by {other}, through {rate.tokens} tokens ({rate.bits / 8:.0f} bytes)."
        )
        page.gallery(f"Reconstructions by {info.name}", figures, note=note, columns=8, rows=True)


def _machine() -> str:
    import os

    import torch

    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    threads = torch.get_num_threads()
    return f"torch {torch.__version__}, {threads} of {os.cpu_count()} CPU threads, {name}"

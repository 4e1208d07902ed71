"""`studio bench`: races on this machine, every contender in the same run."""

from pathlib import Path
from typing import Annotated

import typer

from studio.cli.opening import check_device, pick_device
from studio.cli.values import number_option, whole_option

app = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)


@app.callback()
def _bench() -> None:
    """Measure speed on this machine."""


@app.command()
def attention(
    grid: Annotated[
        list[str] | None, typer.Option(help="Size such as 64x64 or 16x32x32; may be repeated.")
    ] = None,
    window: Annotated[
        list[str] | None, typer.Option(help="Window such as 7 or 3x7x7; may be repeated.")
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="Back end; may be repeated. All when absent.")
    ] = None,
    stride: Annotated[int, whole_option("Neighbours that share a window.")] = 1,
    heads: Annotated[int, whole_option("Heads.")] = 4,
    head_dim: Annotated[int, whole_option("Channels of a head.")] = 64,
    batch: Annotated[int, whole_option("Batch size.")] = 1,
    rounds: Annotated[int, whole_option("How often each runs.")] = 5,
    threads: Annotated[int | None, whole_option("CPU threads; torch's choice if absent.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    backward: Annotated[bool, typer.Option("--backward", help="Gradients too.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for JSON and plot.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Attention over grids, in full and within windows, by every back end that works here."""
    import json

    import torch

    from studio.evaluation import attention_bench as bench

    check_device(device)
    place = pick_device(device)
    if place == "mps":
        raise ValueError(f"--device {device!r}: only cpu and cuda are measured")
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"--dtype {dtype!r} must be float32, float16 or bfloat16")
    if threads is not None:
        if threads < 1:
            raise ValueError(f"--threads {threads} must be at least 1")
        torch.set_num_threads(threads)
    if out is not None:
        _writable(out)
    default = bench.GPU_GRIDS if place != "cpu" else bench.GRIDS
    settings = bench.Settings(
        grids=[_sizes(text, "--grid") for text in grid or default],
        kernels=[_sizes(text, "--window") for text in window or ["3", "7"]],
        stride=stride,
        backends=tuple(backend or ()),
        batch=batch,
        heads=heads,
        head_dim=head_dim,
        dtype=getattr(torch, dtype),
        device=place,
        rounds=rounds,
        backward=backward,
    )
    figures = bench.measure_attention(settings)
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        from studio.cli.table import print_rows

        print_rows(
            figures["rows"], title=f"attention; {figures['clock']} time; GPU: {figures['gpu']}"
        )
    if out is not None:
        for path in _write(figures, out):
            typer.echo(f"wrote {path}", err=as_json)


@app.command()
def decoding(
    model: Annotated[
        str, typer.Option("--model", "-m", help="A bundled name, a folder or a Hub id.")
    ] = "emoji-grid",
    modes: Annotated[
        list[str] | None, typer.Option(help="Mode; may be repeated or a,b,c. Most when absent.")
    ] = None,
    prompts: Annotated[int, whole_option("Prompts.")] = 64,
    seeds: Annotated[int, whole_option("Seeds of every prompt.")] = 3,
    timed: Annotated[int, whole_option("Pictures raced against the clock.")] = 16,
    rounds: Annotated[int, whole_option("Of plain decoding against others; 0 for none.")] = 3,
    plain_batch: Annotated[int, whole_option("Pictures at a time in those rounds.")] = 4,
    batch: Annotated[
        int | None, whole_option("Pictures at a time where nothing is timed; 32 on a GPU, else 1.")
    ] = None,
    temperature: Annotated[float | None, number_option("Instead of the model's own.")] = None,
    guidance: Annotated[float | None, number_option("Instead of the model's own.")] = None,
    quality: Annotated[bool, typer.Option(help="Look at the pictures too.")] = True,
    threads: Annotated[int | None, whole_option("CPU threads; 1 if absent.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder for JSON and plot.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Modes of decoding on the same prompts and seeds: passes, seconds, and what they change."""
    import json
    import logging

    import torch

    from studio.cli.opening import load
    from studio.decoding.modes import PLAIN
    from studio.evaluation import decoding_bench as bench
    from studio.evaluation.plain_bench import time_plain
    from studio.hub import find_folder

    check_device(device)
    names = [name for text in modes or bench.RACED for name in text.split(",")]
    given = {"temperature": temperature, "guidance_scale": guidance}
    settings = bench.Settings(
        modes=names,
        prompts=prompts,
        seeds=seeds,
        timed=timed,
        batch_size=batch if batch is not None else 1 if pick_device(device) == "cpu" else 32,
        options={k: v for k, v in given.items() if v is not None},
        quality=quality,
    )
    if rounds < 0:
        raise ValueError(f"--rounds {rounds} must be at least 0")
    if plain_batch < 1:
        raise ValueError(f"--plain-batch {plain_batch} must be at least 1")
    if threads is not None and threads < 1:
        raise ValueError(f"--threads {threads} must be at least 1")
    torch.set_num_threads(threads or 1)
    logging.getLogger(bench.__package__).setLevel(logging.INFO)  # says on stderr how far it is
    if out is not None:
        _writable(out)
    pipe = load("Pipeline", find_folder(model), device=device, generator="autoregressive")
    figures = {"model": model, **bench.race(pipe, settings, features=_features(model, quality))}
    if rounds:
        everything, _ = bench.make_batch(pipe, settings)
        strategy = pipe.make_strategy(PLAIN, **settings.options)
        figures["plain"] = time_plain(
            pipe, strategy, everything.part(0, plain_batch), rounds=rounds
        )
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    else:
        _print_race(figures)
    if out is not None:
        for path in _write_race(figures, out):
            typer.echo(f"wrote {path}", err=as_json)


def _features(model: str, quality: bool):
    """The bundled features, for models that were trained on the pictures that they know."""
    from studio.evaluation.features import ImageTextFeatures
    from studio.hub import bundled_names

    if not quality or model not in bundled_names():
        return None
    try:
        return ImageTextFeatures.bundled()
    except ValueError:  # this package came without
        return None


def _print_race(figures: dict) -> None:
    from studio.cli.table import print_rows
    from studio.evaluation.decoding_bench import table

    sampling = figures["settings"]["sampling"]
    told = f"temperature {sampling['temperature']:g}, guidance {sampling['guidance_scale']:g}"
    print_rows(
        table(figures), title=f"{figures['model']}, {told}; {figures['clock']} time, one at a time"
    )
    costs = ", ".join(f"{n}: {1e3 * s:.2f}" for n, s in figures["costs"].items())
    typer.echo(f"milliseconds of a pass over n tokens: {costs}")
    plain = figures.get("plain")
    if plain:
        rival = plain["x_transformers"]
        typer.echo(
            f"plain decoding of {plain['batch_size']} x {plain['tokens']} tokens: "
            f"{plain['x_uncached']:.2f} times as fast as without a cache; against transformers: "
            + (rival if isinstance(rival, str) else f"{rival:.2f} times as fast")
        )


def _write_race(figures: dict, out: Path) -> list[Path]:
    import json

    from studio.evaluation.decoding_bench import plot_race
    from studio.media.files import atomic_write

    text = json.dumps(figures, indent=1, ensure_ascii=False) + "\n"
    return [
        Path(atomic_write(out / "decoding.json", text)),
        plot_race(out / "decoding.png", figures, title=figures["model"]),
    ]


def _sizes(text: str, option: str) -> tuple[int, ...]:
    """ "16x32x32" as numbers."""
    parts = text.lower().split("x")
    if not 1 <= len(parts) <= 3 or not all(p.isascii() and p.isdigit() and int(p) for p in parts):
        raise ValueError(f"{option} {text!r} must be one to three sizes such as 64x64")
    return tuple(map(int, parts))


def _writable(out: Path) -> None:
    """What would fail after minutes of measuring fails now."""
    from studio.env import need

    need("matplotlib", extra="eval")
    out.mkdir(parents=True, exist_ok=True)


def _write(figures: dict, out: Path) -> list[Path]:
    import json

    from studio.evaluation.attention_bench import plot_attention
    from studio.evaluation.report import hardware_name
    from studio.media.files import atomic_write

    name = f"attention-{hardware_name(figures['hardware'])}"
    text = json.dumps(figures, indent=1, ensure_ascii=False) + "\n"
    return [
        Path(atomic_write(out / f"{name}.json", text)),
        plot_attention(out / f"{name}.png", figures),
    ]

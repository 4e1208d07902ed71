"""`studio bench`: races on this machine, every contender in the same run."""

from pathlib import Path
from typing import Annotated

import typer

from studio.cli.opening import check_device, pick_device
from studio.cli.values import whole_option

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

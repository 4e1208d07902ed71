"""Recorded neighborhood attention: masks bit for bit, outputs and log-sums in two precisions.

The recording is NATTEN's rule worked out in float64; `cases` in the file's metadata lists the
parameters of every case.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from studio.layers.neighborhood import (
    NEIGHBORHOOD_BACKENDS,
    Neighborhood,
    neighborhood_attention,
    neighborhood_mask,
    refusal,
)

# Their outputs are made in the same way whether the log-sums are asked for or not.
_ONE_WAY = ("dense", "flex")
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-11}


def check_neighborhood(fixture: Any, folder: Path) -> None:
    """Compare every case on every backend that works here, in float64 and in float32.

    Args:
        fixture: takes inputs and comparisons, see `evaluation.verify.RecordedFixture`.
        folder: where `io.safetensors` lies.

    Raises:
        ValueError: the file's metadata does not list the cases.
    """
    for number, case in enumerate(read_cases(folder / "io.safetensors")):
        _check_case(fixture, f"case{number:02d}", case)


def read_cases(path: Path) -> list[dict[str, Any]]:
    """The parameters of all cases. Raises ValueError when the metadata has none."""
    with safe_open(path, "pt") as file:
        cases = (file.metadata() or {}).get("cases")
    if cases is None:
        raise ValueError(f"{path.name} has no metadata entry 'cases', which lists the cases")
    return json.loads(cases)


def window_of(case: dict[str, Any]) -> Neighborhood:
    """The window of one recorded case."""
    names = ("kernel_size", "stride", "dilation", "is_causal")
    return Neighborhood(case["shape"], *(tuple(case[name]) for name in names))


def _check_case(fixture: Any, name: str, case: dict[str, Any]) -> None:
    window = window_of(case)
    fixture.expect(f"{name}/mask", neighborhood_mask(window).to(torch.uint8))
    inputs = [_heads_first(fixture.input(f"{name}/{part}")) for part in ("q", "k", "v")]
    extra = {}
    if case["num_extra_kv"]:
        extra = {
            part: fixture.input(f"{name}/{part}").transpose(1, 2) for part in ("extra_k", "extra_v")
        }
    for dtype, tolerance in TOLERANCES.items():
        more = {part: t.to(dtype) for part, t in extra.items()}
        outs, sums = [], []
        q, k, v = (t.to(dtype) for t in inputs)
        shape = (q.shape[0], *window.shape, q.shape[1])
        for backend in NEIGHBORHOOD_BACKENDS:
            options = dict(scale=case["scale"], backend=backend, **more)
            made = []
            if backend not in _ONE_WAY and not refusal(backend, q, k, v):
                made.append(neighborhood_attention(q, k, v, window, **options))
            if not refusal(backend, q, k, v, return_lse=True):
                out, lse = neighborhood_attention(q, k, v, window, return_lse=True, **options)
                made.append(out)
                sums.append(lse.transpose(1, 2).reshape(shape))  # (B, *shape, H)
            outs += [out.transpose(1, 2).reshape(*shape, -1) for out in made]  # (B, *shape, H, D)
        for part, results in (("out", outs), ("lse", sums)):
            worst = _worst(results, fixture.input(f"{name}/{part}"))
            fixture.expect(f"{name}/{part}", worst, tolerance)


def _worst(results: list[torch.Tensor], recorded: torch.Tensor) -> torch.Tensor:
    """The result that is farthest from the recording, so that one row of the report stands for all
    back ends."""
    errors = [(result - recorded).abs().max().nan_to_num(torch.inf) for result in results]
    return results[int(torch.stack(errors).argmax())]


def _heads_first(x: torch.Tensor) -> torch.Tensor:
    """(B, *shape, H, D) to (B, H, N, D)."""
    return x.flatten(1, -3).transpose(1, 2)

"""The EMA sink of Reward Forcing against a recording of the released layer."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from studio.layers.rolling_cache import EMASinkCache
from studio.layers.rope import rope_table
from studio.layers.stream_attention import StreamSelfAttention

TOLERANCE = 1e-5
_CONFIG = ("dim", "num_heads", "h", "w", "blocks", "local_attn_size", "sink_size", "alpha")


def check_ema_sink(fixture, folder: Path) -> None:
    """Runs every block in all its passes, comparing outputs, sinks and the last cache.

    Raises:
        ValueError: a value or a weight is missing or does not fit.
    """
    c = fixture.config
    missing = [name for name in _CONFIG if name not in c]
    if missing:
        raise ValueError(f"config.json lacks {missing[0]!r}, which this recording needs")
    if not (folder / "weights.safetensors").is_file():
        raise ValueError("weights.safetensors is missing")
    layer = StreamSelfAttention(c["dim"], c["num_heads"])
    try:
        layer.load_state_dict(load_file(folder / "weights.safetensors"))
    except RuntimeError as error:
        raise ValueError(f"weights.safetensors: {' '.join(str(error).split())}") from None
    cells, frames = c["h"] * c["w"], c["local_attn_size"]
    first = fixture.input("input.block0.pass0")  # (B, N, D)
    cache = EMASinkCache(
        num_layers=1,
        batch_size=len(first),
        num_heads=c["num_heads"],
        head_dim=c["dim"] // c["num_heads"],
        dtype=first.dtype,
        device=first.device,
        sink=c["sink_size"] * cells,
        window=frames * cells,
        rope=rope_table((frames, c["h"], c["w"]), c["dim"] // c["num_heads"]),
        alpha=c["alpha"],
    )
    for block in range(c["blocks"]):
        start, number = cache.lengths, 0
        while f"input.block{block}.pass{number}" in fixture:
            cache.rewind(start)
            x = fixture.input(f"input.block{block}.pass{number}")  # (B, N, D)
            cache.reserve(x.shape[1])
            fixture.expect(f"out.block{block}.pass{number}", layer(x, cache=cache), TOLERANCE)
            number += 1
        for name, slab in (("k", cache.keys), ("v", cache.values)):
            held = _tokens(slab[:, :, :, : cache.sink])
            fixture.expect(f"sink_{name}.block{block}", held, TOLERANCE)
    fixture.expect("final_cache_k", _tokens(cache.keys), TOLERANCE)
    fixture.expect("final_cache_v", _tokens(cache.values), TOLERANCE)


def _tokens(slab: torch.Tensor) -> torch.Tensor:
    """The first layer of a slab (L, B, H, S, D), tokens before heads: (B, S, H, D)."""
    return slab[0].transpose(1, 2)

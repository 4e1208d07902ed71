"""The later passes of a float32 network, with few calls: what small networks wait for are calls.

The same arithmetic as the blocks of `layers.blocks` over a static cache: RMSNorm (2019, 1910.07467)
as one division by a norm, both residual sums inside their matrix products, masks and rotary rows
read from tables of the whole run. On a CPU a pass of the bundled networks takes a third of the
time. The blocks are the reference that it is tested against. Leaves out on purpose: everything else
that runs can do - other caches, other precisions, windows - which the blocks themselves do.
"""

import math

import torch
from torch import nn
from torch.nn.functional import silu

from studio.layers.attention import attention, causal_mask, mask_bias
from studio.layers.blocks import LlamaBlock
from studio.layers.cache import Cache, StaticCache

MOST_MASK = 1 << 24  # entries of the table of masks


def fits(model, cache: Cache, columns: torch.Tensor | None) -> bool:
    """Whether a run of this network over this cache can take lean steps.

    Args:
        model: an `AutoregressiveTransformer`.
        columns: bool (B, S + N), see `LeanStep`.
    """
    rows = 1 if columns is None else len(columns)
    if type(cache) is not StaticCache or rows * cache.max_length**2 > MOST_MASK:
        return False
    if model.training or model.window is not None or model.dtype != torch.float32:
        return False
    if not all(type(block) is LlamaBlock for block in model.layers):
        return False
    pairs = [(block.attention, block.feed_forward) for block in model.layers]
    maps = [m for a, f in pairs for m in (a.qkv, a.out, f.gate_up, f.down)]
    return all(
        type(m) is nn.Linear
        and m.bias is None
        and m.weight.dtype == torch.float32
        and m.weight.device == model.device
        for m in maps
    )


class LeanStep:
    """All blocks of a network and the norm after them, for one run.

    Args:
        model: the network; what changes its weights later needs a new run.
        cache: the run's.
        rope: rotary table, complex (S + N, P).
        columns: bool (B, S + N), False at padding of the condition; None for none.
    """

    def __init__(self, model, cache: StaticCache, rope: torch.Tensor, columns: torch.Tensor | None):
        self._cache = cache
        self._rope = rope.unsqueeze(1)  # (S + N, 1, P)
        heads, shared, _ = model.layers[0].attention.heads
        self._split = (heads + shared, shared), (heads, shared)
        self._head_dim = model.layers[0].attention.head_dim
        size = cache.max_length
        self._alone = columns is None  # then a single token sees everything
        seen = causal_mask(size, size, columns=columns, device=rope.device)
        self._bias = mask_bias(seen, torch.float32)  # (B or 1, 1, S + N, S + N)
        self._rows = torch.arange(len(self._bias), device=rope.device).unsqueeze(1)  # (B or 1, 1)
        width = math.sqrt(model.config.dim)
        eps = width * math.sqrt(model.config.norm_eps)
        self._eps = torch.full((1, 1), eps, device=rope.device)
        self._last = model.last_norm.weight * width
        self._layers = [
            (
                block.attention_norm.weight * width,
                block.attention.qkv.weight.t(),
                block.attention.out.weight.t(),
                block.feed_forward_norm.weight * width,
                block.feed_forward.gate_up.weight.t(),
                block.feed_forward.down.weight.t(),
                cache.keys[layer],
                cache.values[layer],
            )
            for layer, block in enumerate(model.layers)
        ]

    def _normed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """`x / rms(x) * weight`, the width's root being in the weight: (M, D) to (M, D)."""
        size = torch.linalg.vector_norm(x, 2, -1, True).hypot_(self._eps)  # (M, 1)
        return torch.div(x, size).mul_(weight)

    def __call__(
        self, x: torch.Tensor, rope: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """New rows (B, n, D), which are overwritten, to features (B, n, D).

        The cache has reserved their slots.

        Args:
            rope, mask: of rows that do not follow each other, as `RunMasks.tree` gives them.
        """
        batch, n, dim = x.shape
        if rope is None:
            rope, mask = self._tables(n)
        else:
            rope = rope.unsqueeze(-2)  # (B, n, 1, P) or (n, 1, P)
        slots, total, place = self._cache.slots, self._cache.total, self._cache.rows
        turning, turned = self._split  # heads of queries and keys, heads of each
        x = x.reshape(batch * n, dim)  # (M, D)
        for norm, qkv, out, second, gate_up, down, keys, values in self._layers:
            y = torch.mm(self._normed(x, norm), qkv).view(batch, n, -1, self._head_dim)
            y, v = y.split_with_sizes(turning, 2)  # (B, n, H + K, D), (B, n, K, D)
            y = torch.view_as_complex(y.view(batch, n, turning[0], -1, 2)) * rope
            q, k = torch.view_as_real(y).view(batch, n, turning[0], -1).split_with_sizes(turned, 2)
            if isinstance(slots, slice):
                keys[:, :, slots] = k.transpose(1, 2)  # (B, K, n, D)
                values[:, :, slots] = v.transpose(1, 2)
            else:
                keys[place, :, slots], values[place, :, slots] = k, v
            k, v = keys.narrow(2, 0, total), values.narrow(2, 0, total)  # (B, K, S, D)
            y = attention(q.transpose(1, 2), k, v, mask=mask)  # (B, H, n, D)
            x.addmm_(y.transpose(1, 2).reshape(batch * n, dim), out)
            gate, up = torch.mm(self._normed(x, second), gate_up).chunk(2, dim=-1)
            x.addmm_(silu(gate).mul_(up), down)
        return self._normed(x, self._last).view(batch, n, dim)

    def _tables(self, n: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Rotary rows and the mask of n new rows."""
        starts, slots, total = self._cache.starts, self._cache.slots, self._cache.total
        if isinstance(starts, int):
            rope = self._rope[slots]  # (n, 1, P)
            mask = None if n == 1 and self._alone else self._bias[:, :, slots, :total]
            return rope, mask
        mask = self._bias[self._rows, 0, slots].unsqueeze(1)  # (B, 1, n, S + N)
        return self._rope[slots], mask[..., :total]

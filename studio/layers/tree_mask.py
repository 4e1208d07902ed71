"""Which tokens of a tree see which: every node itself and what stands above it.

A tree is written as the parents of its nodes, -1 for nodes that follow what was there before, every
other one a smaller number than the node's own. Attention under such masks scores many continuations
in one pass (SpecInfer: Accelerating Generative LLM Serving with Tree-based Speculative Inference,
2023, 2305.09781). Leaves out on purpose: kernels that make use of how sparse a tree is.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch


def depths(parents: Sequence[int]) -> list[int]:
    """How deep every node stands; 1 for nodes without a parent."""
    found: list[int] = []
    for parent in parents:
        found.append(1 if parent < 0 else found[parent] + 1)
    return found


def check_parents(parents: np.ndarray) -> None:
    """Raises ValueError unless the parents (B, n) are -1 or a smaller number than their node's."""
    numbers = np.arange(parents.shape[1])
    wrong = ((parents < -1) | (parents >= numbers)).nonzero()
    if len(wrong[0]):
        row, node = int(wrong[0][0]), int(wrong[1][0])
        raise ValueError(
            f"parent {parents[row, node]} of node {node} in row {row} must lie between -1 and "
            f"{node - 1}"
        )


@functools.lru_cache(maxsize=256)
def ancestors(parents: tuple[int, ...]) -> torch.Tensor:
    """bool (n, n) on the CPU, True where a node (row) is or stands below another (column)."""
    mask = np.eye(len(parents), dtype=bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node] |= mask[parent]
    with torch.inference_mode(False):  # kept: may be filled while decoding, read while training
        return torch.from_numpy(mask)


def tree_mask(
    parents: np.ndarray,
    total: int,
    slots: torch.Tensor,
    *,
    columns: torch.Tensor | None = None,
) -> torch.Tensor:
    """Which keys the nodes of trees may see: all before the tree, their ancestors, themselves.

    Args:
        parents: int64 (B, n); or (1, n), the same tree in all rows.
        total: keys from slot 0 on.
        slots: the nodes' own, int64 (B or 1, n), following each other in every row.
        columns: bool (B', >= total), False at keys that nobody may see but themselves (padding).

    Returns:
        bool (B, 1, n, total), True = may be seen; 1 row where all are alike.
    """
    device, n = slots.device, slots.shape[1]
    seen = torch.stack([ancestors(tuple(row)) for row in parents.tolist()]).to(device)  # (B, n, n)
    rows = max(len(seen), len(slots), 1 if columns is None else len(columns))
    keys = torch.arange(total, device=device)
    mask = (keys < slots[:, :1, None]).repeat(rows // len(slots), n, 1)  # (B, n, total)
    index = slots.unsqueeze(1).expand(-1, n, -1)  # (B or 1, n, n)
    index = index.repeat(rows // len(slots), 1, 1)
    mask.scatter_(2, index, seen.repeat(rows // len(seen), 1, 1))
    if columns is not None:
        mask = mask & columns[:, None, :total] | (keys == slots.unsqueeze(-1))
    return mask.unsqueeze(1)

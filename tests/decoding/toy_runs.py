"""Runs without a network: logits are a pure function of the tokens so far, row by row."""

import torch


class OrderedTable:
    """An ordered run whose logits come from a table by (row, position, last token)."""

    def __init__(self, tables, num_tokens):
        self.tables = tables  # (B, N, V + 1, V)
        self.batch_size, self.num_tokens = len(tables), num_tokens
        self.device, self.passes = tables.device, 0
        self.held = torch.zeros(self.batch_size, 0, dtype=torch.int64)
        self.fed = []

    def extend(self, tokens):
        first = self.passes == 0
        start = self.held.shape[1]
        self.held = torch.cat((self.held, tokens), dim=1)
        self.passes += 1
        self.fed.append(tokens.shape[1])
        places = list(range(0 if first else start + 1, self.held.shape[1] + 1))
        rows = [self.tables[:, min(n, self.num_tokens - 1)] for n in places]
        empty = torch.full((self.batch_size,), self.tables.shape[-1])
        lasts = [self.held[:, n - 1] if n else empty for n in places]
        index = torch.arange(self.batch_size)
        return torch.stack([r[index, last] for r, last in zip(rows, lasts)], dim=1)


class UnorderedTable:
    """An unordered run: a table of logits per row, shifted by how many tokens are known."""

    def __init__(self, tables):
        self.tables = tables  # (B, N, V)
        self.batch_size, self.num_tokens = tables.shape[:2]
        self.device, self.passes = tables.device, 0
        self.calls = []

    def fill(self, tokens, known, *, step=0, num_steps=1):
        self.passes += 1
        self.calls.append((tokens.clone(), known.clone(), step, num_steps))
        shift = (torch.where(known, tokens, 0).sum(dim=1) % self.tables.shape[-1]).tolist()
        return torch.stack([t.roll(s, dims=-1) for t, s in zip(self.tables, shift)])


def seeded(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


def random_table(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


def last(stream):
    """The last state of a stream."""
    for state in stream:
        final = state
    return final

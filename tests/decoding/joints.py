"""A toy whose whole joint distribution is known: V = 4, T = 5, random conditional tables."""

import torch

V, T = 4, 5


def conditionals(seed=0, sharpness=1.0):
    """Logits of every token by the whole prefix: T tables, (V^t, V)."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(V**t, V, generator=generator) * sharpness for t in range(T)]


def joint(tables):
    """The exact probability of every sequence, float64 (V^T,), first token slowest."""
    mass = torch.ones(1, dtype=torch.float64)
    for table in tables:
        mass = (mass[:, None] * table.double().softmax(-1)).flatten()
    return mass


class JointRun:
    """An ordered run over the tables, thousands of rows at a time."""

    def __init__(self, tables, rows):
        self.tables, self.batch_size, self.num_tokens = tables, rows, len(tables)
        self.device, self.passes = torch.device("cpu"), 0
        self.held = torch.zeros(rows, len(tables), dtype=torch.int64)
        self.lengths = torch.zeros(rows, dtype=torch.int64)
        self.fed = []

    def extend(self, tokens):
        first, count = not self.passes, tokens.shape[1]
        assert int(self.lengths.max()) + count <= self.num_tokens
        self.passes += 1
        self.fed.append(count)
        steps = torch.arange(count)
        self.held.scatter_(1, self.lengths[:, None] + steps, tokens)
        asked = self.lengths[:, None] + torch.arange(count + first) + (not first)  # (B, n)
        self.lengths = self.lengths + count
        prefix = torch.zeros(self.batch_size, self.num_tokens + 1, dtype=torch.int64)
        for t in range(self.num_tokens):
            prefix[:, t + 1] = prefix[:, t] * V + self.held[:, t]
        self.features = torch.stack((asked, prefix.gather(1, asked)), dim=-1).double()  # (B, n, 2)
        logits = torch.zeros(*asked.shape, V)
        for t, table in enumerate(self.tables):
            row, column = (asked == t).nonzero(as_tuple=True)
            logits[row, column] = table[prefix[row, t]]
        return logits

    def rewind(self, lengths):
        assert bool((lengths <= self.lengths).all()) and int(lengths.min()) >= 0
        self.lengths = lengths.clone()

    def make_room(self, count):
        """Trees may reach past the end here."""

    def extend_tree(self, tokens, parents):
        first, count = not self.passes, tokens.shape[1]
        self.passes += 1
        rows = torch.arange(self.batch_size)
        code = torch.zeros(self.batch_size, count + 1, dtype=torch.int64)  # column 0: what is held
        depth = torch.zeros_like(code)
        for t in range(self.num_tokens):
            inside = t < self.lengths
            code[:, 0] = torch.where(inside, code[:, 0] * V + self.held[:, t], code[:, 0])
        for i in range(count):
            above = parents[:, i] + 1
            code[:, i + 1] = code[rows, above] * V + tokens[:, i]
            depth[:, i + 1] = depth[rows, above] + 1
        asked = self.lengths[:, None] + depth
        logits = torch.zeros(*asked.shape, V)
        for t, table in enumerate(self.tables):
            row, column = (asked == t).nonzero(as_tuple=True)
            logits[row, column] = table[code[row, column]]
        self.base, self.tree = self.lengths.clone(), tokens
        self.lengths = self.lengths + count
        return logits if first else logits[:, 1:]

    def keep_path(self, paths):
        for i, nodes in enumerate(paths.unbind(1)):
            row = (nodes >= 0).nonzero().flatten()
            self.held[row, self.base[row] + i] = self.tree[row, nodes[row]]
        self.lengths = self.base + (paths >= 0).sum(dim=1)

    def prior_logits(self, starts, count):
        """One fixed table a position, whatever the prefix."""
        at = (torch.tensor(starts)[:, None] + torch.arange(count)).clamp(max=self.num_tokens - 1)
        return torch.stack([t.mean(0) for t in self.tables])[at]  # (B, m, V)


class JointHead:
    """A drafter head beside a `JointRun`, over tables of its own: a feature is how many tokens
    there are, and which."""

    def __init__(self, tables, target):
        self.tables, self.target, self.passes, self.copies = tables, target, 0, 1
        self.held = torch.zeros(target.batch_size, dtype=torch.int64)

    def extend(self, features, tokens):
        self.held, self.passes = self.held + tokens.shape[1], self.passes + 1
        count, prefix = features.unbind(-1)
        return torch.stack((count + 1, prefix * V + tokens), dim=-1)  # (B, n, 2)

    def rewind(self, lengths):
        assert all(n <= held for n, held in zip(lengths, self.held.tolist()))
        self.held = torch.tensor(lengths)

    def score(self, features, starts):
        count, prefix = features.long().unbind(-1)  # (B, n)
        logits = torch.zeros(*count.shape, V)
        for t, table in enumerate(self.tables):
            row, column = (count == t).nonzero(as_tuple=True)
            logits[row, column] = table[prefix[row, column] % len(table)]
        return logits  # (B, n, V)


def outcomes(tokens):
    """How often each of the V^T sequences came, float64."""
    index = torch.zeros(len(tokens), dtype=torch.int64)
    for column in tokens.unbind(1):
        index = index * V + column
    return torch.bincount(index, minlength=V**T).double()


def chi_square(counts, mass):
    """The p-value of counts under probabilities, cells expected less than 5 times pooled."""
    expected = mass * counts.sum()
    small = expected < 5
    counts = torch.cat((counts[~small], counts[small].sum(0, keepdim=True)))
    expected = torch.cat((expected[~small], expected[small].sum(0, keepdim=True)))
    kept = expected > 0
    statistic = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    freedom = torch.tensor((int(kept.sum()) - 1) / 2.0, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic / 2))

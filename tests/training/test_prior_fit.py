"""First weights of a prior: looks that another generator knows, in motions of their own."""

import torch

from studio.generators.autoregressive import AutoregressiveTransformer
from studio.generators.captions import CaptionTokenizer
from studio.generators.conditioning import TextCondition
from studio.outputs import TokenLayout
from studio.training.prior_fit import fit_tokens, learn_looks, looks

NAMES = [f"{a} {b}" for a in ("red", "blue", "green") for b in ("apple", "dog", "car", "hat")]
MOTIONS = ("moving left", "growing", "turning")
LEVELS = [8, 8]


class Clips:
    """Every name in every motion; `held` pairs last, which nothing is solved for."""

    def __init__(self):
        pairs = [(n, m) for n in range(len(NAMES)) for m in range(len(MOTIONS))]
        held = [pair for pair in pairs if (pair[0] + pair[1]) % 6 == 0]
        shown = [pair for pair in pairs if pair not in held]
        self.shown, self.held, self.pairs = len(shown) * 20, held, shown * 20 + held

    def caption(self, index):
        return f"{self.still_caption(index)} {MOTIONS[self.motion(index)]}"

    def still_caption(self, index):
        return NAMES[self.pairs[index % len(self.pairs)][0]]

    def motion(self, index):
        return self.pairs[index % len(self.pairs)][1]


class Tokens:
    """Tokens that follow linearly from a look, for each motion in its own way."""

    def __init__(self, data, teacher, captions):
        found = looks(teacher, NAMES, captions)
        found = (found - found.mean(0)) / found.std(0)
        basis = torch.linalg.svd(found, full_matrices=False)[0][:, :3] * 3  # three numbers a name
        draw = torch.Generator().manual_seed(1)
        maps = torch.randn(len(MOTIONS), 3, 6 * 2, generator=draw)
        values = torch.einsum("nr,mro->nmo", basis, maps).unflatten(-1, (6, 2))
        digits = (values + 3.5).round().clamp(0, 7).long()
        codes = digits[..., 0] + 8 * digits[..., 1]  # (names, motions, N)
        self.rows = torch.stack([codes[n, m] for n, m in data.pairs])

    def batch(self, start, count):
        return self.rows[start : start + count], []


def network(**changes):
    torch.manual_seed(len(changes))
    layout = TokenLayout.single((6,), 64, prefix=True).to_dict()
    sizes = {"dim": 16, "num_layers": 1, "num_heads": 2, "text_layers": 1, "multiple_of": 8}
    words = {"condition": "text", "text_vocab_size": 300, "num_condition_tokens": 12}
    digits = {"token_levels": LEVELS, "head": "digits", "rope": "1d", "prior_dim": 24}
    return AutoregressiveTransformer(layout=layout, **sizes, **words, **digits, **changes).eval()


def test_looks_are_taken_over_and_carried_to_pairs_that_were_never_shown():
    data, teacher, model = Clips(), network(), network(prior_gates=3, prior_look=8)
    texts = [data.caption(i) for i in range(36)]
    captions = CaptionTokenizer.train(texts * 3, 300, max_length=12)
    cache = Tokens(data, teacher, captions)
    error = learn_looks(model, teacher, data, captions, steps=150, batch_size=36, dropout=0.02)
    assert error < 0.1
    left = fit_tokens(model, data, cache, captions, count=data.shown)
    assert left < 0.2
    ids, mask = captions.encode([data.caption(data.shown + i) for i in range(len(data.held))])
    wanted = cache.rows[data.shown :]
    with torch.no_grad():
        logits = model(wanted, TextCondition(ids=ids, mask=mask), output="prior")
    found = torch.stack([part.argmax(-1) for part in logits.split(LEVELS, -1)], -1)
    truth = model.token_head.split(wanted)
    by_chance = (truth.flip(0) - truth).abs().float().mean()
    assert (found - truth).abs().float().mean() < 0.4 * by_chance

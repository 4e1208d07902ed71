"""Letters from the scores of connectionist temporal classification (Graves et al., 2006).

Leaves out on purpose: beam search and language models, which would repair what was said badly.
"""

import torch

BLANK = 0


def best_path(scores: torch.Tensor, alphabet: str) -> str:
    """The text of scores (T, 1 + letters), the blank first: repeats joined, blanks dropped, single
    spaces."""
    best = scores.argmax(-1).unique_consecutive().tolist()
    return " ".join("".join(alphabet[i - 1] for i in best if i != BLANK).split())

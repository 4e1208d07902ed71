import pytest
import torch

from studio.decoding.autoregressive import Autoregressive
from studio.decoding.repetition import repeated
from studio.outputs import TokenLayout


def test_counts_in_the_window_alone():
    tokens = torch.tensor([[7, 7, 1, 2, 3, 4], [1, 1, 5, 5, 2, 2]])
    drawn = torch.tensor([7, 2])
    assert repeated(tokens, drawn, window=4, share=0.25).tolist() == [False, True]
    assert repeated(tokens, drawn, window=4, share=0.5).tolist() == [False, True]
    assert repeated(tokens, drawn, window=4, share=0.75).tolist() == [False, False]
    assert repeated(tokens, drawn, window=6, share=0.3).tolist() == [True, True]


def test_few_tokens_before():
    none = torch.zeros(2, 0, dtype=torch.int64)
    assert repeated(none, torch.tensor([0, 1]), window=10, share=0.1).tolist() == [False, False]
    one = torch.tensor([[3], [4]])
    assert repeated(one, torch.tensor([3, 3]), window=10, share=0.1).tolist() == [True, False]


class Stuck:
    """A run that always wants token 3, and otherwise all others alike."""

    batch_size, num_tokens, passes, device = 2, 30, 0, torch.device("cpu")

    def extend(self, tokens):
        self.passes += 1
        logits = torch.zeros(2, tokens.shape[1] + (self.passes == 1), 8)
        logits[..., 3] = 3.0
        return logits


def say(**options):
    layout = TokenLayout.single((30,), 8)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    strategy = Autoregressive(top_k=1, **options)
    *_, last = strategy.stream(Stuck(), layout, generators)
    return last.tokens


def test_a_loop_is_left():
    assert bool((say() == 3).all())
    freed = say(repetition_window=5, repetition_share=0.4)
    assert bool((freed != 3).any(1).all()) and bool((freed == 3).any(1).all())
    # two in five are never followed by a third that was not drawn from all
    assert torch.equal(freed, say(repetition_window=5, repetition_share=0.4))
    cold = say(repetition_window=5, repetition_share=0.4, temperature=0.0)
    assert bool((cold != 3).any())


def test_options_are_checked():
    with pytest.raises(ValueError, match="repetition_window -1 must be a whole number"):
        Autoregressive(repetition_window=-1)
    with pytest.raises(ValueError, match="repetition_share 0 must be"):
        Autoregressive(repetition_share=0)

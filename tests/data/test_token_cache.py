import pytest
import torch

from studio.data.token_cache import TokenCache
from studio.tokenizers.prefix import PrefixTokenizer


class Numbers:
    """A data set of flat gray pictures that counts how often it is asked."""

    def __init__(self):
        self.asked = []

    def __repr__(self):
        return "Numbers()"

    def __getitem__(self, index):
        self.asked.append(index)
        return torch.full((3, 8, 8), index / 10 - 0.5), self.caption(index)

    def caption(self, index):
        return f"number {index}"


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    sizes = {"image_size": 8, "num_tokens": 4, "levels": (8, 8), "encoder_layers": 0}
    model = PrefixTokenizer(**sizes, decoder_layers=0, refiner_channels=8, refiner_blocks=1)
    model.fit(torch.rand(64, 3, 8, 8) * 2 - 1)
    return model.eval()


def test_items_are_encoded_once_and_right(tokenizer, tmp_path):
    data = Numbers()
    cache = TokenCache(tmp_path, tokenizer, data, size=5)
    tokens, captions = cache.batch(3, 4)  # wraps around
    assert captions == ["number 3", "number 4", "number 0", "number 1"]
    assert sorted(data.asked) == [0, 1, 3, 4]
    again = TokenCache(tmp_path, tokenizer, data, size=5).batch(3, 4)[0]
    assert torch.equal(tokens, again) and len(data.asked) == 4
    image = data[3][0]
    assert torch.equal(tokens[0], tokenizer.encode(image[None]).tokens[0])


def test_another_tokenizer_has_another_cache(tokenizer, tmp_path):
    data = Numbers()
    TokenCache(tmp_path, tokenizer, data, size=5).batch(0, 2)
    tokenizer.mean.add_(0.1)
    TokenCache(tmp_path, tokenizer, data, size=5).batch(0, 2)
    assert len(list(tmp_path.iterdir())) == 2 and len(data.asked) == 4

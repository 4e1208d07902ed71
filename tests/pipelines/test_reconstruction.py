import numpy as np
import pytest
import torch
from PIL import Image

import studio


@pytest.fixture(params=["grid", "prefix"])
def pipe(request, saved):
    """Opened from a text-to-image folder, of which it takes the tokenizer only."""
    return studio.ReconstructionPipeline.from_pretrained(saved / request.param)


def pictures(n):
    values = np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    return [Image.fromarray(v) for v in values]


def test_pictures_go_through_tokens_and_back(pipe):
    two = pipe(pictures(2), output_type="pt")
    one = pipe(pictures(2)[1], output_type="pt")
    assert two.images.shape == (2, 3, 16, 16) and two.stats is None
    assert torch.equal(two.images[1], one.images[0]) and torch.equal(two.tokens[1], one.tokens[0])
    assert pipe(Image.new("RGBA", (30, 20))).images[0].size == (16, 16)
    assert pipe(torch.zeros(3, 16, 16), output_type="tokens").images is None
    images, tokens = pipe(torch.zeros(2, 3, 16, 16), return_dict=False)
    assert len(images) == 2 == len(tokens)


def test_prefixes(saved):
    pipe = studio.ReconstructionPipeline.from_pretrained(saved / "prefix")
    whole = pipe(pictures(1), output_type="pt")
    some = pipe(pictures(1), num_tokens=2, output_type="pt")
    assert torch.equal(some.tokens, whole.tokens[:, :2])
    assert not torch.equal(some.images, whole.images)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        ([], {}, "image must be a picture or a list"),
        ("a.png", {}, "image must be a PIL image or a tensor, not str"),
        (torch.zeros(1, 3, 8, 8), {}, "must be"),
        (torch.zeros(3, 16, 16), {"num_tokens": 0}, "num_tokens 0"),
        (torch.zeros(3, 16, 16), {"num_tokens": 3.0}, "num_tokens 3.0"),
        (torch.zeros(3, 16, 16), {"output_type": "x"}, "output_type 'x'"),
    ],
)
def test_bad_input_is_one_line(pipe, image, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(image, **options)

"""HiTVideo: layers, a linear start that reconstructs, both trunks, streaming, saving."""

import pytest
import torch

from studio.layers.block_net import BlockNet, fold_blocks, unfold_blocks
from studio.layers.causal import Carry
from studio.tokenizers.grid import GridTokenizer
from studio.tokenizers.hitvideo import HiTVideoTokenizer

LAYERS = (
    {"name": "coarse", "stride": (4, 2, 2), "levels": (5, 5, 5)},
    {"name": "middle", "stride": (2, 2, 2), "levels": (4, 4)},
    {"name": "fine", "stride": (2, 1, 1), "levels": (4, 4, 4)},
)
SIZES = {"num_frames": 8, "image_size": 16, "dim": 8, "depth": 1, "final_depth": 1}


def tiny(**options):
    """On 3D convolutions of its own."""
    torch.manual_seed(0)
    return HiTVideoTokenizer(**SIZES, layers=LAYERS, trunk_base=4, refiner_channels=4, **options)


def on_images(**options):
    """On the trunk of an image tokenizer."""
    torch.manual_seed(0)
    sizes = {"base_channels": 32, "channel_multipliers": (1,), "num_res_blocks": 1}
    image = GridTokenizer(
        image_size=16, patch_size=4, z_channels=32, quantizer="fsq", levels=(5, 5), **sizes
    )
    return HiTVideoTokenizer.from_image_tokenizer(
        image, **SIZES, layers=LAYERS, refiner_channels=0, **options
    )


def clip(frames=8, side=16, count=2):
    g = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, frames, side, side, generator=g) * 2 - 1


def awake(tokenizer):
    """Nothing left at zero."""
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in tokenizer.parameters():
            if not p.any():
                p.add_(0.1 * torch.randn(p.shape, generator=g))
    return tokenizer.eval()


def test_blocks_fold_and_unfold():
    x = torch.arange(2 * 3 * 4 * 2 * 6).view(2, 3, 4, 2, 6)
    folded = fold_blocks(x, (2, 1, 3))
    assert folded.shape == (2, 18, 2, 2, 2) and torch.equal(unfold_blocks(folded, (2, 1, 3)), x)
    assert torch.equal(folded[0, :6, 0, 0, 0], torch.tensor([0, 1, 2, 12, 13, 14]))
    assert not BlockNet(3, 5, (2, 1, 3), dim=4, depth=1)(x.float(), Carry()).any()


@pytest.mark.parametrize("made", [tiny, on_images])
@torch.no_grad()
def test_layers_and_rates(made):
    tokenizer = awake(made())
    encoded = tokenizer.encode(clip())
    side = 16 // tokenizer.reduction
    shapes = [(2, side // 2, side // 2), (4, side // 2, side // 2), (4, side, side)]
    assert [s.shape for s in tokenizer.layout.segments] == shapes
    assert (
        encoded.layout == tokenizer.layout and encoded.tokens.shape[1] == encoded.layout.num_tokens
    )
    rates = tokenizer.layer_rates()
    assert list(rates) == ["coarse", "middle", "fine"] and not tokenizer.layout.prefix
    assert sum(r.bits for r in rates.values()) == pytest.approx(tokenizer.rate().bits)
    assert rates["fine"].bits_per_unit == pytest.approx(4 * side**2 * 6 / (8 * 16 * 16))
    torch.testing.assert_close(
        tokenizer.decode(encoded.tokens), tokenizer.pixels(encoded.quantized), atol=1e-5, rtol=0
    )
    assert tokenizer.reconstruct(clip(1)).shape == (2, 3, 1, 16, 16)
    assert tokenizer.reconstruct(clip(10, 19)).shape == (2, 3, 10, 19, 19)


@torch.no_grad()
def test_any_number_of_layers_decodes():
    tokenizer = awake(tiny())
    tokens = tokenizer.encode(clip()).tokens
    counts = [tokenizer.num_tokens_of(i) for i in (1, 2, 3)]
    assert counts == [2, 6, 22]
    videos = [tokenizer.decode(tokens, num_tokens=count) for count in counts]
    assert not torch.equal(videos[0], videos[1]) and not torch.equal(videos[1], videos[2])
    assert torch.equal(tokenizer.decode(tokens[:, :6]), videos[1])
    assert torch.equal(tokenizer(clip(), 6)[0], videos[1])
    for count in (0, 5, 23):
        with pytest.raises(
            ValueError, match=f"num_tokens {count} must be whole layers: one of 2, 6"
        ):
            tokenizer.check_num_tokens(count, tokenizer.layout)
    with pytest.raises(ValueError, match="num_tokens 6 is more than the 2 tokens given"):
        tokenizer.decode(tokens[:, :2], num_tokens=6)
    with pytest.raises(ValueError, match="num_layers 4 must lie between 1 and 3"):
        tokenizer.num_tokens_of(4)


@torch.no_grad()
def test_the_start_reconstructs_and_layers_help():
    tokenizer = on_images().eval()
    flat = torch.rand(24, 3, 1, 2, 2, generator=torch.Generator().manual_seed(3)) * 2 - 1
    video = torch.nn.functional.interpolate(flat.expand(-1, -1, 8, -1, -1), scale_factor=(1, 8, 8))
    tokenizer.fit(video, portion=10)
    features = tokenizer.features(video)
    _, estimates = tokenizer._encode_layers(features, Carry())
    errors = [(e - features).square().mean().item() for e in estimates]
    assert errors[0] < 0.7 * features.var().item() and errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize("made", [tiny, on_images])
@torch.no_grad()
def test_chunks_are_the_whole(made):
    tokenizer = awake(made())
    whole = tokenizer.encode(clip(12))
    parts = list(tokenizer.encode_stream(clip(12).split([5, 1, 6], dim=2), chunk_frames=4))
    assert len(parts) == 3
    split = [part.layout.split(part.tokens) for part in parts]
    for name, codes in whole.layout.split(whole.tokens).items():
        assert torch.equal(torch.cat([s[name] for s in split], 1), codes)
    joined = torch.cat(list(tokenizer.decode_stream(parts)), 2)
    decoded = tokenizer.decode(whole.tokens, layout=whole.layout)
    torch.testing.assert_close(joined, decoded, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_carry_does_not_grow():
    tokenizer, carry, sizes = awake(tiny()), Carry(), []
    for part in clip(16).split(4, dim=2):
        tokenizer.encode(part, carry=carry)
        sizes.append(carry.nbytes)
    assert sizes[0] == sizes[-1] > 0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="video of 6 frames must have a multiple of 4"):
        tiny().encode(clip(6))
    with pytest.raises(ValueError, match="video size 12x12 must be a multiple of 16"):
        tiny().encode(clip(8, 12))
    with pytest.raises(ValueError, match="trunk 'CosmosTokenizer' must give a grid of finite"):
        config = {"_class_name": "CosmosTokenizer", "levels": None, "base_channels": 4}
        HiTVideoTokenizer(trunk=config)


@pytest.mark.parametrize("made", [tiny, on_images])
def test_every_parameter_that_is_not_frozen_learns(made):
    tokenizer = awake(made()).train()
    video, encoded = tokenizer(clip())
    (video.square().mean() + encoded.loss).backward()
    silent = [n for n, p in tokenizer.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []
    frozen = {n.split(".")[0] for n, p in tokenizer.named_parameters() if not p.requires_grad}
    assert frozen == ({"trunk_network", "codes"} if made is on_images else set())


@pytest.mark.parametrize("made", [tiny, on_images])
def test_save_and_load(made, tmp_path):
    tokenizer = awake(made())
    tokenizer.save_pretrained(tmp_path)
    loaded = HiTVideoTokenizer.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded.reconstruct(clip()), tokenizer.reconstruct(clip()))


@torch.no_grad()
def test_linear_codes_are_final_and_every_depth_is_corrected():
    tokenizer = on_images(linear=True).eval()
    before = tokenizer.encode(clip()).tokens
    awake(tokenizer)
    assert torch.equal(tokenizer.encode(clip()).tokens, before)
    assert not tokenizer.targets and not tokenizer.estimates
    plain = on_images(linear=True).eval()
    plain.load_state_dict(tokenizer.state_dict())
    plain.final.conv_out.weight.zero_()
    plain.final.conv_out.bias.zero_()
    for count in (tokenizer.num_tokens_of(1), None):
        decoded = tokenizer.decode(before, num_tokens=count)
        assert not torch.equal(decoded, plain.decode(before, num_tokens=count))
        torch.testing.assert_close(tokenizer(clip(), count)[0], decoded, atol=1e-5, rtol=0)
    parts = list(tokenizer.encode_stream(clip(12).split([5, 7], dim=2), chunk_frames=4))
    whole = tokenizer.encode(clip(12))
    joined = torch.cat(list(tokenizer.decode_stream(parts)), 2)
    decoded = tokenizer.decode(whole.tokens, layout=whole.layout)
    torch.testing.assert_close(joined, decoded, atol=1e-4, rtol=0)


def test_the_decoder_of_a_trunk_may_learn():
    tokenizer = awake(on_images(linear=True)).train()
    tokenizer.train_decoder()
    tokenizer(clip())[0].square().mean().backward()
    learning = {n for n, p in tokenizer.named_parameters() if p.requires_grad}
    assert learning == {n for n, p in tokenizer.named_parameters() if p.grad is not None}
    kept = {n for n, _ in tokenizer.encoder_parameters()}
    assert not learning & kept and "trunk_network.decoder.conv_in.weight" in learning
    assert "trunk_network.encoder.conv_in.weight" in kept

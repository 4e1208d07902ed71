"""Real parts at toy size: pictures of 16 x 16, eight or 64 tokens, networks of one layer."""

import torch

import studio

SIZE = 16
CLASSES = {
    "autoregressive": "AutoregressiveTransformer",
    "masked": "MaskedTransformer",
}


def grid_tokenizer():
    """8 x 8 tokens of 24."""
    return studio.GridTokenizer(
        image_size=SIZE,
        base_channels=32,
        channel_multipliers=(1, 1),
        num_res_blocks=1,
        z_channels=32,
        codebook_size=24,
        codebook_dim=4,
        patch_size=2,
    ).eval()


def prefix_tokenizer():
    """Eight tokens of 16, every prefix decodable."""
    tokenizer = studio.PrefixTokenizer(
        image_size=SIZE,
        num_tokens=8,
        levels=[4, 4],
        dim=16,
        heads=2,
        encoder_layers=1,
        decoder_layers=1,
        patch_size=8,
        refiner_channels=8,
        refiner_blocks=1,
        refined=0,
    ).eval()
    tokenizer.components.normal_(std=0.05)
    return tokenizer


def generator(kind, tokenizer, **options):
    """A generator of a kind ("autoregressive" or "masked") over a tokenizer's layout."""
    layout = tokenizer.layout.to_dict()
    cls = getattr(studio, CLASSES[kind])
    return cls(layout=layout, dim=16, num_layers=1, num_heads=2, **options).eval()


def text_generator(kind, tokenizer, words, **options):
    """A generator that is told what to make in the words of a caption tokenizer."""
    return generator(
        kind,
        tokenizer,
        condition="text",
        num_condition_tokens=words.max_length,
        text_vocab_size=words.vocab_size,
        text_layers=1,
        **options,
    )


def official_vqgan():
    """A checkpoint of family "maskgit_vqgan" by its official names, 300 kB."""
    from studio.conversion.family import find_family

    sizes = {"base_channels": 32, "channel_multipliers": (1, 2), "num_res_blocks": 1}
    model = studio.MaskGITTokenizer(image_size=16, codebook_size=20, codebook_dim=8, **sizes)
    family = find_family("maskgit_vqgan")
    return {family.origins(k)[0]: v.clone() for k, v in model.state_dict().items()}


def speech_codec(**changes):
    """A codec of 16 kHz: 40 tokens a second of 12 codes."""
    tiny = {"dim": 8, "hidden_dim": 8, "encoder_layers": 1, "decoder_layers": 1}
    tiny |= {"fine_dim": 8, "fine_hidden_dim": 8, "fine_layers": 1, "n_mels": 8}
    return studio.SpectralTokenizer(**{"levels": [4, 3], "hop": 400, **tiny, **changes}).eval()


def speech_pipeline(*, num_tokens=80):
    """Speaks nonsense as ada and ben, letters of about 2.3 tokens each."""
    alphabet = "abcdefghijklmnopqrstuvwxyz' "
    segment = studio.TokenSegment("audio", (num_tokens,), 12)
    generator = studio.AutoregressiveTransformer(
        layout=studio.TokenLayout((segment,)).to_dict(),
        dim=16,
        num_layers=1,
        num_heads=2,
        multiple_of=8,
        rope="1d",
        condition="speech",
        num_condition_tokens=40,
        text_vocab_size=len(alphabet) + 1,
        text_layers=1,
        frame_layers=1,
        voices=["ada", "ben"],
        alphabet=alphabet,
        token_levels=[4, 3],
        head="digits+full",
        head_rank=4,
        prior_dim=1,
    )
    with torch.no_grad():
        generator.conditioner.length.weight.mul_(0.03)
        generator.conditioner.length.bias.fill_(0.84)  # softplus of it is log(1 + 2.3)
    strategy = studio.Autoregressive(temperature=0.9)
    return studio.TextToSpeechPipeline(speech_codec(), generator.eval(), strategy)


def video_tokenizer():
    """Clips of 8 frames of 16 x 16 as layers of 4, 16 and 8 tokens of 12."""
    layers = [
        {"name": "coarse", "stride": [4, 2, 1], "levels": [4, 3]},
        {"name": "fine", "stride": [2, 1, 1], "levels": [4, 3]},
        {"name": "detail", "stride": [4, 1, 1], "levels": [4, 3]},
    ]
    sizes = {"num_frames": 8, "image_size": SIZE, "dim": 8, "depth": 1, "final_depth": 1}
    trunk = {"trunk_base": 4, "refiner_channels": 0}
    return studio.HiTVideoTokenizer(**sizes, **trunk, layers=layers, linear=True).eval()


def video_pipeline(words):
    """Makes clips of nonsense from the words of a caption tokenizer."""
    tokenizer = video_tokenizer()
    generator = text_generator("autoregressive", tokenizer, words, rope="3d", place_embedding=True)
    for weight in generator.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return studio.TextToVideoPipeline(tokenizer, generator, words, studio.Autoregressive())

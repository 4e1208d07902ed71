import pytest
import torch
from safetensors.torch import load_file

from studio.generators.captions import CaptionTokenizer
from studio.pipelines.auto import Pipeline
from studio.training.bundle import bundle
from studio.training.loop import train
from tests.toys import speech_pipeline, video_pipeline

CONFIG = {"dim": 32, "num_layers": 1, "num_heads": 2, "text_layers": 1, "token_levels": [8, 8]}
CONFIG |= {"head": "digits", "prior_dim": 8}
KINDS = {
    "autoregressive": {"class": "AutoregressiveTransformer", "config": {"rope": "1d", **CONFIG}},
    "masked": {"class": "MaskedTransformer", "config": {"norm": "pre", **CONFIG}},
}


@pytest.fixture(scope="module")
def parts(write_recipe_in, tmp_path_factory):
    """Folders of a trained tokenizer, its captions and both generators; not to be changed."""
    place = tmp_path_factory.mktemp("parts")
    tokenizer = train(write_recipe_in(place, steps=4), out=place / "tokenizer")
    folders = {}
    for kind, model in KINDS.items():
        requires = {"tokenizer": str(tokenizer)}
        share = 0.0 if folders else 0.5
        if folders:
            requires |= {"captions": str(place / "autoregressive" / "text_tokenizer")}
            requires |= {"start": str(folders["autoregressive"])}
        recipe = write_recipe_in(
            place,
            name=kind,
            task="generator",
            model=model,
            loss={"cache": 16, "vocabulary": 300, "prior_share": share, "prior_batch": 8},
            requires=requires,
            steps=4,
        )
        folders[kind] = train(recipe, out=place / kind)
    return tokenizer, place / "autoregressive" / "text_tokenizer", folders


def test_the_bundle_opens_with_both_generators(parts, tmp_path):
    tokenizer, captions, folders = parts
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "README.md").write_text("its card")
    bundle(
        out,
        tokenizer=tokenizer,
        captions=captions,
        generators=[
            (folders["autoregressive"], {"temperature": 0.5}),
            (folders["masked"], {"num_steps": 3}),
        ],
    )
    assert (out / "README.md").read_text() == "its card"
    default, other = (
        Pipeline.from_pretrained(out),
        Pipeline.from_pretrained(out, generator="masked"),
    )
    assert default.decoding.config.temperature == 0.5 and other.decoding.config.num_steps == 3
    for pipe in (default, other):
        tokens = pipe(
            "red warm", generator=[torch.Generator().manual_seed(1)], output_type="tokens"
        ).tokens
        assert tokens.shape == (1, 8)
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_the_second_generator_took_over_captions_and_prior(parts):
    _, _, folders = parts
    read = {kind: weights(folder) for kind, folder in folders.items()}
    for name in ("conditioner.encoder.tokens.weight", "prior.factors.weight"):
        assert read["masked"][name].equal(read["autoregressive"][name])
    assert not read["masked"]["last_norm.weight"].eq(1).all()  # the rest was trained


def weights(folder):
    from safetensors.torch import load_file

    return {
        k: v.float() for k, v in load_file(folder / "diffusion_pytorch_model.safetensors").items()
    }


def test_a_prior_that_is_taken_over_is_not_trained(parts, write_recipe, tmp_path):
    tokenizer, captions, folders = parts
    requires = {"tokenizer": str(tokenizer), "captions": str(captions)}
    recipe = write_recipe(
        task="generator",
        model=KINDS["masked"],
        loss={"prior_share": 0.5},
        requires={**requires, "start": str(folders["autoregressive"])},
    )
    with pytest.raises(ValueError, match=r"prior_share 0.5 must be 0 with requires.start"):
        train(recipe, out=tmp_path / "again")


def test_speech_needs_no_captions(tmp_path):
    pipe = speech_pipeline()
    pipe.save_pretrained(tmp_path / "parts")
    parts = tmp_path / "parts"
    out = bundle(
        tmp_path / "talk",
        tokenizer=parts / "tokenizer",
        generators=[(parts / "generator", {"temperature": 0.5})],
    )
    made = Pipeline.from_pretrained(out)
    assert made.medium == "audio" and made.decoding.config.temperature == 0.5
    weights = out / "tokenizer" / "diffusion_pytorch_model.safetensors"
    assert all(tensor.dtype == torch.float16 for tensor in load_file(weights).values())


def test_captions_are_asked_for(parts, tmp_path):
    tokenizer, _, folders = parts
    with pytest.raises(ValueError, match="captions are missing"):
        bundle(tmp_path, tokenizer=tokenizer, generators=[(folders["autoregressive"], {})])


def test_a_bundle_of_clips(tmp_path):
    torch.manual_seed(0)
    words = CaptionTokenizer.train(["red apple moving left"] * 9, 300, max_length=12)
    pipe = video_pipeline(words)
    pipe.tokenizer.save_pretrained(tmp_path / "tokenizer")
    pipe.generator.save_pretrained(tmp_path / "generator")
    words.save_pretrained(tmp_path / "words")
    out = bundle(
        tmp_path / "moves",
        tokenizer=tmp_path / "tokenizer",
        captions=tmp_path / "words",
        generators=[(tmp_path / "generator", {"temperature": 0.5})],
    )
    loaded = Pipeline.from_pretrained(out)
    assert loaded.medium == "video" and loaded.decoding.config.temperature == 0.5
    assert (
        load_file(out / "tokenizer" / "diffusion_pytorch_model.safetensors")[
            "final.conv_out.weight"
        ].dtype
        == torch.float16
    )

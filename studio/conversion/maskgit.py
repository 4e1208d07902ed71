"""The MaskGIT generators that go with TiTok L-32 and B-64
(yucornetto/generator_titok_{l32,b64}_imagenet, and the older fun-research/TiTok `.bin` copies),
converted to `MaskedTransformer`.

MaskGIT: Masked Generative Image Transformer, 2022, 2202.04200, as a BERT: An Image is Worth 32
Tokens for Reconstruction and Generation, 2024, 2406.07550. Left out: the U-ViT of TiTok S-128,
another network.
"""

from typing import Any

import torch

from studio.conversion.family import Family, Fixture, Rule, Source, State, register, setting
from studio.generators.conditioning import ClassCondition
from studio.outputs import TokenLayout

_TOLERANCE = 2e-4

_POSITIONS = "model.embeddings.position_embeddings.weight"
_KINDS = "model.embeddings.token_type_embeddings.weight"
_LAYER = "model.encoder.layer.{i}."
_RULES = (
    Rule("model.embeddings.word_embeddings.weight", "embeddings.table.weight"),
    Rule(_POSITIONS, "positions.weight"),
    Rule("model.embeddings.LayerNorm.{part}", "embedding_norm.{part}"),
    *(
        Rule(f"{_LAYER}attention.self.{name}.{{part}}", "layers.{i}.attention.qkv.{part}", place)
        for place, name in enumerate(("query", "key", "value"))
    ),
    Rule(_LAYER + "attention.output.dense.{part}", "layers.{i}.attention.out.{part}"),
    Rule(_LAYER + "attention.output.LayerNorm.{part}", "layers.{i}.attention_norm.{part}"),
    Rule(_LAYER + "intermediate.dense.{part}", "layers.{i}.feed_forward.up.{part}"),
    Rule(_LAYER + "output.dense.{part}", "layers.{i}.feed_forward.down.{part}"),
    Rule(_LAYER + "output.LayerNorm.{part}", "layers.{i}.feed_forward_norm.{part}"),
    Rule("model.lm_head.{part}", "token_head.full.{part}"),
)

# Official guidance decay -> our options. Annealing goes with the linear one of the evaluation.
_DECAYS: dict[str, dict[str, Any]] = {
    "linear": {
        "guidance_form": "cond",
        "guidance_schedule": "linear",
        "softmax_annealing": True,
    },
    "constant": {"guidance_form": "cond", "guidance_schedule": "constant"},
    "powercos": {
        "guidance_form": "uncond",
        "guidance_schedule": "power-cosine",
        "guidance_power": 3.0,
    },
}


def _fold_token_type(state: State) -> State:
    """Every position is of token type 0, whose row is always added: it goes into the positions."""
    kinds, positions = state.pop(_KINDS, None), state.get(_POSITIONS)
    if kinds is None:
        raise ValueError(f"not a maskgit_vit checkpoint; tensors missing: {_KINDS}")
    if positions is not None:
        if kinds.ndim != 2 or kinds.shape[1:] != positions.shape[1:]:
            shapes = f"{tuple(kinds.shape)} beside positions {tuple(positions.shape)}"
            raise ValueError(f"tensors of another shape: {_KINDS} is {shapes}")
        state[_POSITIONS] = (positions.float() + kinds[0].float()).to(positions.dtype)
    return state


def _config(source: Source) -> dict[str, Any]:
    official = {**setting(source.config or {}, "model.generator", {})}
    kind = official.get("model_type", "ViT")
    if kind != "ViT":
        raise ValueError(f"model_type {kind!r} must be 'ViT' in the family maskgit_vit")
    codes, width = source.shape("model.lm_head.weight")
    rows, positions = (
        source.shape("model.embeddings.word_embeddings.weight")[0],
        source.shape(_POSITIONS),
    )
    inner = source.shape("model.encoder.layer.0.intermediate.dense.weight")[0]
    codes = setting(source.config or {}, "model.vq_model.codebook_size", codes)
    layout = TokenLayout.single((official.get("image_seq_len", positions[0] - 1),), codes)
    return {
        "layout": layout.to_dict(),
        "dim": official.get("hidden_size", width),
        "num_layers": official.get("num_hidden_layers", source.count(_LAYER)),
        "num_heads": official.get("num_attention_heads", 16),
        "hidden_dim": official.get("intermediate_size", inner),
        "norm": "post",
        "norm_eps": 1e-12,
        "condition": "class",
        "num_classes": official.get("condition_num_classes", rows - codes - 2),
        "dropout": official.get("dropout", 0.1),
        "attention_dropout": official.get("attn_drop", 0.1),
    }


def _checks(model: Any, fixture: Fixture) -> None:
    condition = ClassCondition(fixture.input("labels"))
    inputs = fixture.input("tokens_masked")
    masked = inputs == model.mask_id
    # The originals play no part in the network; where they were not masked they must be its input.
    fixture.expect("tokens", torch.where(masked, fixture.input("tokens"), inputs))
    fixture.expect("logits", model(inputs, condition), _TOLERANCE)
    fixture.expect("logits_null", model(inputs, condition.null()), _TOLERANCE)
    for name, options in _DECAYS.items():
        if f"sample_{name}_ids" in fixture or f"sample_{name}_inputs" in fixture:
            _check_sample(model, condition, fixture, name, options)


def _check_sample(
    model: Any, condition: ClassCondition, fixture: Fixture, name: str, options: dict[str, Any]
) -> None:
    """The whole published loop without noise: its ids, and what the network saw at every step."""
    scale = float(setting(fixture.config, "model.generator.guidance_scale"))
    if scale == 0 and options["guidance_form"] == "uncond":
        scale = 1.0  # officially 0 switches guidance off
    run = fixture.decode(
        model,
        condition,
        "Masked",
        num_steps=setting(fixture.config, "model.generator.num_steps"),
        schedule="arccos",
        temperature=0.0,
        confidence="logit",
        confidence_noise=0.0,
        guidance_scale=scale,
        **options,
    )
    fixture.expect(f"sample_{name}_ids", run.tokens)
    seen = torch.stack(run.inputs, dim=1)  # (B, K, N)
    fixture.expect(f"sample_{name}_inputs", seen.masked_fill(seen < 0, model.mask_id))


register(
    Family(
        name="maskgit_vit",
        kind="generator",
        model="MaskedTransformer",
        rules=_RULES,
        config=_config,
        checks=_checks,
        ignored=("model.embeddings.position_ids",),
        prepare=_fold_token_type,
        about="MaskGIT over TiTok L-32 and B-64 tokens, ImageNet classes",
    )
)

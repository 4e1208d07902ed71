"""The transformers of LlamaGen (FoundationVision/LlamaGen `c2i_*.pt`, peizesun/llamagen_t2i
`t2i_XL_*.pt`), converted to `AutoregressiveTransformer`.

Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation, 2024, 2406.06525. The
published files have no config. Sizes are read from the shapes, heads from the table of released
widths, and the number of image tokens, which no shape tells, from the file's name (`c2i_L_384.pt`
is 24 x 24 tokens).
"""

import math
import re
from typing import Any

import torch
import torch.nn.functional as F

from studio.conversion.family import Family, Fixture, Rule, Source, register, setting
from studio.generators.autoregressive import SIZES
from studio.generators.conditioning import ClassCondition, FeatureCondition
from studio.layers.attention import causal_mask
from studio.outputs import TokenLayout

_TOLERANCE = 2e-4
_PIXELS_A_TOKEN = 16  # a side, of the tokenizer that all releases use

_BLOCK = "layers.{i}."
_RULES = (
    Rule("tok_embeddings.weight", "embeddings.table.weight"),
    Rule(_BLOCK + "attention.wqkv.weight", _BLOCK + "attention.qkv.weight"),
    Rule(_BLOCK + "attention.wo.weight", _BLOCK + "attention.out.weight"),
    Rule(_BLOCK + "feed_forward.w1.weight", _BLOCK + "feed_forward.gate_up.weight", 0),
    Rule(_BLOCK + "feed_forward.w3.weight", _BLOCK + "feed_forward.gate_up.weight", 1),
    Rule(_BLOCK + "feed_forward.w2.weight", _BLOCK + "feed_forward.down.weight"),
    Rule(_BLOCK + "attention_norm.weight", _BLOCK + "attention_norm.weight"),
    Rule(_BLOCK + "ffn_norm.weight", _BLOCK + "feed_forward_norm.weight"),
    Rule("norm.weight", "last_norm.weight"),
    Rule("output.weight", "token_head.full.weight"),
)
_CLASS_RULES = (Rule("cls_embedding.embedding_table.weight", "conditioner.table.weight"),)
_TEXT_RULES = (
    Rule("cls_embedding.cap_proj.{part}", "conditioner.{part}"),
    Rule("cls_embedding.uncond_embedding", "conditioner.null"),
)


def _num_tokens(source: Source) -> int:
    match = re.search(r"_(256|384|512)(?!\d)", source.name)
    if match is None:
        raise ValueError(
            f"the number of image tokens is not in the shapes nor in the name {source.name!r}; "
            'give the official config with "block_size"'
        )
    return (int(match[1]) // _PIXELS_A_TOKEN) ** 2


def _num_heads(dim: int) -> int:
    known = {size["dim"]: size["num_heads"] for size in SIZES.values()}
    if dim not in known:
        raise ValueError(
            f"width {dim} is no released size, so the number of heads is not known; "
            'give the official config with "n_head"'
        )
    return known[dim]


def _config(source: Source) -> dict[str, Any]:
    official = source.config or {}
    vocabulary, width = source.shape("tok_embeddings.weight")
    dim = setting(official, "dim", width)
    heads = setting(official, "n_head", None) or _num_heads(dim)
    tokens = setting(official, "block_size", None) or _num_tokens(source)
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"block_size {tokens} of the official config must be a square number")
    layout = TokenLayout.single((side, side), setting(official, "vocab_size", vocabulary))
    return {
        "layout": layout.to_dict(),
        "dim": dim,
        "num_layers": setting(official, "n_layer", source.count("layers.{i}.")),
        "num_heads": heads,
        "num_kv_heads": setting(official, "n_kv_head", None),
        "hidden_dim": _hidden_dim(official, dim, source),
        "norm_eps": setting(official, "norm_eps", 1e-5),
        "rope": "2d",
        "rope_base": float(setting(official, "rope_base", 10000)),
        "condition_rope": "zeros",
        "token_dropout": setting(official, "token_dropout_p", 0.1),
        "attention_dropout": setting(official, "attn_dropout_p", 0.0),
        "residual_dropout": setting(official, "resid_dropout_p", 0.1),
        "ffn_dropout": setting(official, "ffn_dropout_p", 0.1),
    }


def _hidden_dim(official: dict[str, Any], dim: int, source: Source) -> int:
    """The width inside the feed-forward: by the config's rule, or from the shapes without one."""
    multiple = setting(official, "multiple_of", None)
    if multiple is None:
        return source.shape("layers.0.feed_forward.w1.weight")[0]
    hidden = int(2 * (4 * dim) / 3)
    factor = setting(official, "ffn_dim_multiplier", None)
    hidden = hidden if factor is None else int(factor * hidden)
    return -(-hidden // multiple) * multiple


def _class_config(source: Source) -> dict[str, Any]:
    rows = source.shape("cls_embedding.embedding_table.weight")[0]
    classes = setting(source.config or {}, "num_classes", rows - 1)
    return {**_config(source), "condition": "class", "num_classes": classes}


def _text_config(source: Source) -> dict[str, Any]:
    official = source.config or {}
    length, width = source.shape("cls_embedding.uncond_embedding")
    return {
        **_config(source),
        "condition": "features",
        # As long as the official code's constant, whatever cls_token_num says.
        "num_condition_tokens": length,
        "caption_dim": setting(official, "caption_dim", width),
    }


def _check_class(model: Any, fixture: Fixture) -> None:
    _check(model, fixture, ClassCondition(fixture.input("labels")))


def _check_text(model: Any, fixture: Fixture) -> None:
    features = fixture.input("caption_embs")
    condition = FeatureCondition(features, fixture.input("caption_mask").bool())
    length = condition.mask.shape[1] + model.num_tokens - 1
    columns = F.pad(condition.mask, (0, length - condition.mask.shape[1]), value=True)
    fixture.expect("train_mask", causal_mask(length, length, columns=columns))
    _check(model, fixture, condition)


def _check(model: Any, fixture: Fixture, condition: Any) -> None:
    tokens = F.pad(fixture.input("tokens"), (0, 1))  # (B, N): the last one is only a target
    logits = model(tokens, condition, condition_rows=True)
    fixture.expect("logits", logits, _TOLERANCE)
    # Officially guidance is on only above a scale of 1.
    scale = max(1.0, float(setting(fixture.config, "cfg_scale", 1.0)))
    cut = setting(fixture.config, "cfg_interval", -1)
    interval = None if cut < 0 else [0, cut + 2]  # token k comes from decode call k - 1
    plans = {
        "greedy_cfg": {"guidance_scale": scale},
        "greedy_cfg_interval": {"guidance_scale": scale, "guidance_interval": interval},
        "greedy_nocfg": {},
    }
    for name, options in plans.items():
        if f"{name}_ids" not in fixture and f"{name}_logits" not in fixture:
            continue
        run = fixture.decode(model, condition, "Autoregressive", temperature=0.0, **options)
        for suffix, value in (("ids", run.tokens), ("logits", torch.cat(run.logits, dim=1))):
            if f"{name}_{suffix}" in fixture:
                fixture.expect(f"{name}_{suffix}", value, _TOLERANCE)


register(
    Family(
        name="llamagen_c2i",
        kind="generator",
        model="AutoregressiveTransformer",
        rules=_RULES + _CLASS_RULES,
        config=_class_config,
        checks=_check_class,
        ignored=("freqs_cis",),
        about="LlamaGen class to image, B to 3B",
    ),
    Family(
        name="llamagen_t2i",
        kind="generator",
        model="AutoregressiveTransformer",
        rules=_RULES + _TEXT_RULES,
        config=_text_config,
        checks=_check_text,
        ignored=("freqs_cis",),
        about="LlamaGen text (T5 features) to image, XL",
    ),
)

"""Plain decoding against decoding without a cache and against `transformers`, in the same run.

The rival is `transformers`' Llama with the same layers, heads, widths, vocabulary and batch, whose
`generate` samples with a static cache. It holds our blocks' weights (with pairs of rotary channels
where it wants them) and our tables of codes written out in full, since it knows no digits; its
positions count from the prefix on, so its tokens are others. It does not read captions: its prefix
is as many tokens as the condition has rows. `transformers` is not among what the package needs;
without it that figure is "not measured".
"""

import importlib.util
import logging
import statistics
from collections.abc import Callable
from typing import Any, cast

import torch

from studio.decoding.base import DecodingStrategy
from studio.decoding.costs import clock_of
from studio.decoding.noise import sample_keys, token_noise
from studio.decoding.sampling import Sampling, choose
from studio.evaluation.decoding_bench import Batch
from studio.generators.autoregressive import AutoregressiveTransformer

logger = logging.getLogger(__name__)
MISSING = "not measured: transformers is not installed (pip install transformers)"


@torch.no_grad()
def time_plain(
    pipe, strategy: DecodingStrategy, batch: Batch, *, rounds: int = 3
) -> dict[str, Any]:
    """Seconds of plain decoding, of the same without a cache, and of `transformers`.

    Args:
        pipe: a pipeline with an `AutoregressiveTransformer`.
        strategy: an `Autoregressive`.
        batch: what is decoded, all at once.
        rounds: so often each contender has its turn. In a turn it runs twice, of which the second
            time counts: what the one before left in the processor's caches is not its own.

    Returns:
        `tokens`, `batch_size`, `seconds` of every contender (medians), and how many times faster
        plain cached decoding is (medians of each round's ratio): `x_uncached`, `x_transformers`
        (or why there is none); `uncached_equal`, whether both gave the same tokens.
    """
    clock = clock_of(pipe.generator.device)
    made: dict[str, torch.Tensor] = {}
    contenders: dict[str, Callable[[], torch.Tensor]] = {
        "cached": lambda: decode_cached(pipe, strategy, batch),
        "uncached": lambda: decode_uncached(pipe, strategy, batch),
    }
    if importlib.util.find_spec("transformers") is not None:
        contenders["transformers"] = llama_generate(pipe.generator, strategy, batch)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            logger.info("plain decoding, round %d of %d: %s", number + 1, rounds, name)
            run()
            started = clock()
            made[name] = run()
            seconds[name].append(clock() - started)
    ratios: dict[str, Any] = {
        f"x_{name}": statistics.median(t / c for t, c in zip(taken, seconds["cached"], strict=True))
        for name, taken in seconds.items()
        if name != "cached"
    }
    return {
        "tokens": pipe.generator.num_tokens,
        "batch_size": len(batch),
        "seconds": {name: statistics.median(taken) for name, taken in seconds.items()},
        "uncached_equal": torch.equal(made["cached"], made["uncached"]),
        "x_transformers": MISSING,
        **ratios,
    }


def decode_cached(pipe, strategy: DecodingStrategy, batch: Batch) -> torch.Tensor:
    """Tokens (B, N) as `strategy` makes them."""
    run = pipe.generator.start(batch.condition, guidance=strategy.guidance)
    *_, last = strategy.stream(run, pipe.generator.layout, batch.generators())
    return last.tokens


def decode_uncached(pipe, strategy: DecodingStrategy, batch: Batch) -> torch.Tensor:
    """The same tokens (B, N), the network reading condition and all tokens anew for each."""
    model, total = pipe.generator, pipe.generator.num_tokens
    sampling, guidance = Sampling.from_config(strategy.config), strategy.guidance
    keys = sample_keys(batch.generators())
    condition = batch.condition
    both = condition.joined(condition.null()) if guidance.active else condition
    tokens = torch.zeros(len(batch), 0, dtype=torch.int64, device=model.device)
    for position in range(total):
        line = torch.nn.functional.pad(tokens, (0, 1))  # the last one is not read
        copies = len(both.dropped) // len(batch)
        logits = model(line.repeat(copies, 1), both)[:, -1]  # (B or 2B, V)
        if guidance.active:
            cond, uncond = logits.chunk(2)
            logits = guidance.combine(cond, uncond, guidance.scale_at(position, total))
        temperature = sampling.temperature_at(position / total)
        logits = sampling.filtered(logits, temperature)
        noise = token_noise(keys, position, logits.shape[-1], device=logits.device)
        drawn = choose(logits, noise, temperature=temperature)  # (B,)
        tokens = torch.cat((tokens, drawn[:, None]), dim=1)
    return tokens


# --- transformers --------------------------------------------------------------------------------


def llama_generate(
    model: AutoregressiveTransformer, strategy: DecodingStrategy, batch: Batch
) -> Callable[[], torch.Tensor]:
    """A call that makes as many tokens as our plain decoding, (B, N), by `generate` with a static
    cache. A guided batch is twice as wide, as ours is."""
    llama = make_llama(model)
    rows = len(batch) * (2 if strategy.guidance.active else 1)
    prefix, _ = model.conditioner(batch.condition)  # (B, S, D)
    ids = torch.zeros(rows, prefix.shape[1], dtype=torch.int64, device=model.device)
    config = strategy.config
    options: dict[str, Any] = {
        "max_new_tokens": model.num_tokens,
        "min_new_tokens": model.num_tokens,
        "cache_implementation": "static",
        "attention_mask": torch.ones_like(ids),
        "do_sample": config.temperature > 0,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    if options["do_sample"]:
        options |= {"temperature": config.temperature, "top_k": config.top_k, "top_p": config.top_p}
    return lambda: llama.generate(ids, **options)[:, ids.shape[1] :]


def make_llama(model: AutoregressiveTransformer):
    """`transformers`' Llama with the sizes and, where it has them, the weights of a network."""
    from transformers import LlamaConfig, LlamaForCausalLM

    c = model.config
    layer: Any = model.layers[0]
    heads, shared, _ = layer.attention.heads
    llama: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=model.layout.vocab_size,
            hidden_size=c.dim,
            intermediate_size=layer.feed_forward.down.in_features,
            num_hidden_layers=c.num_layers,
            num_attention_heads=heads,
            num_key_value_heads=shared,
            max_position_embeddings=2048,
            rms_norm_eps=c.norm_eps,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    llama.load_state_dict(llama_weights(model), strict=True)
    return llama.to(model.device, model.dtype).eval()


def llama_weights(model: AutoregressiveTransformer) -> dict[str, torch.Tensor]:
    """The state dict of `make_llama`."""
    codes = torch.arange(model.layout.vocab_size, device=model.device)
    head = model.token_head
    if head.kind == "full":
        rows = head.full.weight
    else:
        rows = head.expand(head.digits.weight.t()).t()  # (V, D)
    weights = {
        "model.embed_tokens.weight": model.embeddings(codes, torch.zeros_like(codes)),
        "model.norm.weight": model.last_norm.weight,
        "lm_head.weight": rows,
    }
    for i, block in enumerate(model.layers):
        at, own, feed = (
            f"model.layers.{i}.",
            cast(Any, block.attention),
            cast(Any, block.feed_forward),
        )
        sizes = [n * own.head_dim for n in own.heads]
        q, k, v = own.qkv.weight.split(sizes)
        gate, up = feed.gate_up.weight.chunk(2)
        weights |= {
            f"{at}self_attn.q_proj.weight": halves(q, own.head_dim),
            f"{at}self_attn.k_proj.weight": halves(k, own.head_dim),
            f"{at}self_attn.v_proj.weight": v,
            f"{at}self_attn.o_proj.weight": own.out.weight,
            f"{at}mlp.gate_proj.weight": gate,
            f"{at}mlp.up_proj.weight": up,
            f"{at}mlp.down_proj.weight": feed.down.weight,
            f"{at}input_layernorm.weight": block.attention_norm.weight,
            f"{at}post_attention_layernorm.weight": block.feed_forward_norm.weight,
        }
    return {key: value.detach().clone() for key, value in weights.items()}


def halves(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows (H * D, in) whose rotary pairs are neighbours, to rows whose pairs are half a head
    apart."""
    rows = weight.unflatten(0, (-1, head_dim // 2, 2))  # (H, D / 2, 2, in)
    return rows.transpose(1, 2).flatten(0, 2)  # (H * D, in)

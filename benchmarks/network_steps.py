"""What cheaper network steps and smaller caches gain and cost, against plain float32.

    python benchmarks/network_steps.py                        all but compiling
    python benchmarks/network_steps.py --sections compiled    minutes of compiling on a CPU
    python benchmarks/network_steps.py --device cuda

Speed: a step of T tokens over a half-full cache, all variants in turn in the same run; the ratio is
the median over rounds of plain's time by the variant's. Quality: the bundled model's logits along
pictures that plain decoding made; KL in nats a token, and the share of positions whose best token
stays. Figures go to benchmarks/results/network-steps-<hardware>.json after every section. The large
network has random weights, so that only its speed and its bytes mean something.
"""

import argparse
import copy
import json
import logging
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from studio.evaluation.report import hardware, hardware_name
from studio.generators.autoregressive import AutoregressiveTransformer
from studio.generators.compiled import can_compile, compile_step
from studio.generators.conditioning import ClassCondition, TextCondition
from studio.generators.precision import PRECISIONS, has_bf16, quantize
from studio.layers.quantized_cache import QuantizedCache
from studio.layers.rolling_cache import RollingCache
from studio.media.files import atomic_write
from studio.outputs import TokenLayout
from studio.pipelines.auto import Pipeline

ROOT = Path(__file__).parent.parent
SECTIONS = ("steps", "caches", "compiled")
MODEL = "emoji-grid"
PROMPTS = [
    "red apple",
    "cat",
    "blue car on yellow",
    "pizza",
    "green tree",
    "rocket",
    "fish",
    "star",
]
STEPS = (1, 4, 16)  # tokens a pass
LLAMA = dict(dim=768, num_layers=12, num_heads=12, num_classes=10)  # 88 M parameters
LLAMA_SIDE = 32
CACHES = {
    "int8": "int8",
    "int4": "int4",
    "int2": "int2",
    "int4, all tokens at 4 bits": partial(QuantizedCache, salient_bits=4, bits=4),
    "rolling, half of the tokens": "rolling",
    "rolling, 64 tokens": partial(RollingCache, window=64),
}
logger = logging.getLogger("network_steps")


def bundled(device: torch.device):
    """The bundled network, a condition of all prompts, and the tokens plain decoding makes."""
    pipe = Pipeline.from_pretrained(MODEL, generator="autoregressive").to(device)
    pipe.set_progress_bar_config(disable=True)
    rngs = [torch.Generator().manual_seed(i) for i in range(len(PROMPTS))]
    tokens = pipe(PROMPTS, generator=rngs, output_type="tokens").tokens
    condition = TextCondition(*pipe.text_tokenizer.encode(PROMPTS)).to(device)
    return pipe.generator.eval(), condition, tokens.to(device)


def random_llama(device: torch.device):
    """A network of random weights, one class, random tokens."""
    torch.manual_seed(0)
    layout = TokenLayout.single((LLAMA_SIDE, LLAMA_SIDE), 4096).to_dict()
    model = AutoregressiveTransformer(layout=layout, **LLAMA).to(device).eval()
    tokens = torch.randint(4096, (1, LLAMA_SIDE**2)).to(device)
    return model, ClassCondition(torch.tensor([1])).to(device), tokens


# --- measuring -----------------------------------------------------------------------------------


CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}
clock = CLOCKS["wall"]


def in_turn(calls: dict[str, Callable], rounds: int, device: torch.device) -> dict[str, list]:
    """Seconds of every call, one after the other, round after round."""
    taken = {name: [] for name in calls}
    for number in range(rounds + 2):
        for name, call in calls.items():
            start = clock()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 2:  # the first rounds warm up
                taken[name].append(clock() - start)
    return taken


def step_of(model, condition, tokens, count: int, **options) -> Callable:
    """A call that scores `count` tokens over a cache that is half full."""
    half = tokens.shape[1] // 2
    run = model.start(condition, **options)
    run.extend(tokens[:, :half])

    def call():
        run.extend(tokens[:, half : half + count])
        run.rewind(torch.full((len(tokens),), half))

    return call


def ratios(taken: dict[str, list]) -> dict[str, dict]:
    """Milliseconds, and how many times faster than "float32", each a median over rounds."""
    plain = taken["float32"]
    return {
        name: {
            "ms": statistics.median(times) * 1e3,
            "speed_ratio": statistics.median(p / t for p, t in zip(plain, times, strict=True)),
        }
        for name, times in taken.items()
    }


def compare(plain: torch.Tensor, other: torch.Tensor) -> dict[str, float]:
    """KL(plain || other) in nats a token, mean and greatest, and the share of equal argmax."""
    p, q = plain.double().log_softmax(-1), other.double().log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1).clamp(min=0)
    same = (plain.argmax(-1) == other.argmax(-1)).double().mean()
    return {"kl_mean": kl.mean().item(), "kl_max": kl.max().item(), "same_argmax": same.item()}


def one_by_one(model, condition, tokens, first: int = 0, **options):
    """Logits (B, N - first, V) along given tokens, one a pass as plain decoding has them but for
    the `first`, and the run."""
    run = model.start(condition, **options)
    logits = [run.extend(tokens[:, :first])[:, -1:]]
    logits += [run.extend(tokens[:, i - 1 : i]) for i in range(first + 1, tokens.shape[1])]
    return torch.cat(logits, dim=1), run


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a large sum reads here and now."""
    slab = torch.ones(2**27 if device.type == "cuda" else 2**25, device=device)
    taken = in_turn({"sum": slab.sum}, 5, device)["sum"]
    return slab.nbytes / min(taken)


def roofline(model, run_ms: float, read: float) -> dict[str, float]:
    """A one-token step's weight bytes, what it reads a second, and the share of what can be."""
    weights = sum(p.nbytes for m in (model.layers, model.token_head) for p in m.parameters())
    achieved = weights / (run_ms / 1e3)
    return {"weight_bytes": weights, "gb_s": achieved / 1e9, "share": achieved / read}


# --- sections ------------------------------------------------------------------------------------


@torch.no_grad()
def measure_steps(device: torch.device, rounds: int) -> dict:
    """Every precision: speed on both networks, quality on the bundled one."""
    result: dict = {"bf16_in_hardware": has_bf16(device), "precisions": PRECISIONS}
    names = [p for p in PRECISIONS if p != "int8-dynamic" or device.type == "cpu"]
    for title, build in ((MODEL, bundled), ("random-llama-88m", random_llama)):
        model, condition, tokens = build(device)
        variants = {"float32": model} | {p: copy.deepcopy(model) for p in names}
        for precision in names:
            quantize(variants[precision], precision)
        part = result[title] = {"tokens_a_pass": {}}
        for count in STEPS:
            one = condition[:1], tokens[:1]
            calls = {name: step_of(m, *one, count) for name, m in variants.items()}
            part["tokens_a_pass"][count] = ratios(in_turn(calls, rounds, device))
            logger.info("%s, %d tokens: %s", title, count, part["tokens_a_pass"][count])
        part["roofline"] = roofline(
            model, part["tokens_a_pass"][1]["float32"]["ms"], bandwidth(device)
        )
        if title == MODEL:
            plain = model.start(condition).extend(tokens[:, :-1])
            part["quality"] = {
                name: compare(plain, m.start(condition).extend(tokens[:, :-1]))
                for name, m in variants.items()
                if name != "float32"
            }
    return result


@torch.no_grad()
def measure_caches(device: torch.device, rounds: int) -> dict:
    """Every cache: bytes against bf16, the logits' distance, the time of a step."""
    result = {}
    for title, build in ((MODEL, bundled), ("random-llama-88m", random_llama)):
        model, condition, tokens = build(device)
        condition, tokens = condition[:4], tokens[:4]
        first = 0
        if title != MODEL:
            tokens, first = tokens[:, :608], 576  # 32 steps after a long start
        plain, static = one_by_one(model, condition, tokens, first)
        bf16 = static._cache.nbytes // (2 if model.dtype == torch.float32 else 1)
        part = result[title] = {"bf16_bytes": bf16, "slots": static._cache.max_length}
        calls = {"float32": step_of(model, condition, tokens, 1)}
        for name, option in CACHES.items():
            found, run = one_by_one(model, condition, tokens, first, cache=option)
            size = run._cache.nbytes
            part[name] = {"bytes": size, "bf16_bytes_by_these": bf16 / size}
            part[name] |= compare(plain, found)
            calls[name] = step_of(model, condition, tokens, 1, cache=option)
            logger.info("%s, %s: %s", title, name, part[name])
        for name, found in ratios(in_turn(calls, rounds, device)).items():
            part.setdefault(name, {}).update(found)
    return result


@torch.no_grad()
def measure_compiled(device: torch.device, rounds: int) -> dict | str:
    """The compiled one-token step against the plain one: the bundled network, on a GPU both."""
    if not can_compile(device):
        return "not measured: no C++ compiler"
    result = {}
    networks = {MODEL: bundled}
    if device.type == "cuda":
        networks["random-llama-88m"] = random_llama
    for title, build in networks.items():
        model, condition, tokens = build(device)
        half = copy.deepcopy(model).to(torch.bfloat16) if has_bf16(device) else None
        calls, part = {}, result.setdefault(title, {})
        for name, network in (("float32", model), ("bf16", half)):
            if network is None:
                continue
            compiled = copy.deepcopy(network)
            compile_step(compiled, sizes=(1,))
            start = time.perf_counter()
            calls[name] = step_of(network, condition[:1], tokens[:1], 1)
            key = "compiled" if name == "float32" else f"{name}, compiled"
            calls[key] = step_of(compiled, condition[:1], tokens[:1], 1)
            calls[key]()
            part[f"{key}, first step in seconds"] = time.perf_counter() - start
            some = tokens[:1, : min(64, tokens.shape[1])]
            plain, _ = one_by_one(model, condition[:1], some)
            part[f"{key}, quality"] = compare(plain, one_by_one(compiled, condition[:1], some)[0])
        part["steps"] = ratios(in_turn(calls, rounds, device))
        read = bandwidth(device)
        for name, network in (("compiled", model), ("bf16, compiled", half)):
            if name in part["steps"]:
                ms = part["steps"][name]["ms"]
                part[f"{name}, roofline"] = roofline(network, ms, read)
        logger.info("%s: %s", title, part)
    return result


def main() -> None:
    global clock
    args = _arguments()
    clock = CLOCKS[args.clock]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    device = torch.device(args.device)
    if args.clock == "cpu" and (device.type != "cpu" or torch.get_num_threads() > 1):
        raise SystemExit("--clock cpu counts one thread: set OMP_NUM_THREADS=1, on a CPU")
    facts = hardware()
    if device.type == "cpu":
        facts.pop("gpu", None)
    out = args.out or ROOT / f"benchmarks/results/network-steps-{hardware_name(facts)}.json"
    figures = json.loads(out.read_text()) if out.exists() else {}
    figures |= {"hardware": facts, "clock": args.clock}
    figures.setdefault("compiled", "not measured: --sections compiled measures it")
    if device.type != "cuda":
        figures["gpu"] = "not measured"
    measures = {
        "steps": measure_steps,
        "caches": measure_caches,
        "compiled": measure_compiled,
    }
    for section in args.sections:
        figures[section] = measures[section](device, args.rounds)
        atomic_write(out, json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
        logger.info("wrote %s", out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure cheaper network steps and caches.")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS[:2])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--clock",
        choices=tuple(CLOCKS),
        default="wall",
        help="cpu: time of the one thread, for machines that do other work as well",
    )
    parser.add_argument("--out", type=Path, help="the JSON file")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""What a text-to-speech pipeline says, heard by a recogniser of the same synthetic voices.

Every error stands beside that on real speech of the same sentences, and on real speech through the
codec: only their difference is the generator's. Leaves out on purpose: how natural it sounds, which
needs listeners or downloaded networks.
"""

from collections.abc import Sequence
from typing import Any

import torch

from studio.data.speech import PITCH_REACH, VOICES, SpokenSentences, Utterance
from studio.data.word_errors import character_error_rate, word_error_rate

MIDDLE_SPEED = 160.0  # words a minute that count as speed 1


def options_of(utterance: Utterance) -> dict[str, Any]:
    """The options with which a pipeline speaks as an utterance was spoken."""
    pitch = (utterance.pitch - VOICES[utterance.voice][1]) / PITCH_REACH
    return {
        "voice": utterance.voice,
        "pitch": min(max(pitch, -1.0), 1.0),
        "speed": utterance.speed / MIDDLE_SPEED,
    }


@torch.no_grad()
def evaluate_spoken(
    pipe: Any, recogniser: Any, data: SpokenSentences, *, count: int = 50, seed: int = 0
) -> dict[str, Any]:
    """Character and word error rates, and lengths, over the first `count` sentences.

    Args:
        pipe: a `TextToSpeechPipeline` that has the voices of `data`.
        recogniser: a `Recogniser`.
        data: sentences that training did not see.
        seed: sentence i is spoken with seed + i.

    Returns:
        "cer" and "wer" of what was generated; the same with "_codec" of real speech through the
        codec and with "_real" of real speech; "length_error", the mean share by which lengths are
        off, and "length_within_30", the share of those off by at most 30 %; "real_time", seconds
        of sound a second; "sentences", each with what was said and heard.
    """
    rate = pipe.sampling_rate
    heard: dict[str, list[tuple[str, str]]] = {"": [], "_codec": [], "_real": []}
    sentences, errors, spent, made = [], [], 0.0, 0.0
    for index in range(count):
        utterance = data.utterance(index)
        real = data[index][0]  # (1, L)
        generator = torch.Generator().manual_seed(seed + index)
        output = pipe(utterance.text, generator=generator, **options_of(utterance))
        fake = output.audios[0]
        codec = pipe.tokenizer.reconstruct(real[None].to(pipe.tokenizer.device))[0].cpu()
        waves = {"": fake, "_codec": codec, "_real": real}
        texts = {
            name: recogniser.transcribe([wave], sample_rate=rate)[0] for name, wave in waves.items()
        }
        for name, text in texts.items():
            heard[name].append((utterance.text, text))
        errors.append(abs(fake.shape[-1] / real.shape[-1] - 1))
        spent, made = spent + output.stats.seconds, made + fake.shape[-1] / rate
        sentences.append({"said": utterance.text, "voice": utterance.voice, "heard": texts[""]})
    rates = {}
    for name, pairs in heard.items():
        rates["cer" + name] = character_error_rate(pairs)
        rates["wer" + name] = word_error_rate(pairs)
    lengths = torch.tensor(errors)
    return {
        **rates,
        "length_error": lengths.mean().item(),
        "length_within_30": (lengths <= 0.3).float().mean().item(),
        "real_time": made / max(spent, 1e-9),
        "sentences": sentences,
    }


@torch.no_grad()
def passes_per_token(
    pipe: Any, texts: Sequence[str], modes: Sequence[str], *, seed: int = 0
) -> dict[str, dict[str, float]]:
    """What each mode of decoding costs on the same texts and seeds.

    Returns:
        for each mode "passes_per_token", "tokens_per_second", and "same", the share of texts whose
        tokens are those of plain decoding.
    """
    plain: dict[str, torch.Tensor] = {}
    costs = {}
    for mode in ("plain", *(mode for mode in modes if mode != "plain")):
        passes, tokens, seconds, same = 0, 0, 0.0, 0
        for index, text in enumerate(texts):
            generator = torch.Generator().manual_seed(seed + index)
            output = pipe(text, generator=generator, decoding=mode, output_type="tokens")
            passes, tokens = passes + output.stats.passes, tokens + output.stats.tokens
            seconds += output.stats.seconds
            first = plain.setdefault(text, output.tokens[0])
            same += int(torch.equal(first, output.tokens[0]))
        costs[mode] = {
            "passes_per_token": passes / tokens,
            "tokens_per_second": tokens / max(seconds, 1e-9),
            "same": same / len(texts),
        }
    return costs

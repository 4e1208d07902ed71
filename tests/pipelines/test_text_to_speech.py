import numpy as np
import pytest
import torch

from studio.pipelines.auto import Pipeline
from studio.pipelines.request import Request
from studio.pipelines.text_to_speech import AudioChunk, TextToSpeechPipeline
from tests.toys import speech_codec, speech_pipeline

TOKENS = 80


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    made = speech_pipeline(num_tokens=TOKENS)
    made.set_progress_bar_config(disable=True)
    return made


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_speaks(pipe):
    out = pipe("three red apples", voice="ben", generator=seeded(1))
    (audio,), (tokens,) = out.audios, out.tokens
    assert out.sampling_rate == 16000 and audio.shape == (1, len(tokens) * 400)
    assert audio.dtype == torch.float32 and float(audio.abs().max()) <= 1
    assert 20 < len(tokens) < 60 and out.stats.tokens == len(tokens)
    again = pipe("Three  RED apples", voice="ben", generator=seeded(1))
    assert torch.equal(again.tokens[0], tokens) and torch.equal(again.audios[0], audio)
    other = pipe("three red apples", voice="ada", generator=seeded(1))
    assert not torch.equal(other.tokens[0], tokens)


def test_a_sample_does_not_depend_on_the_others(pipe):
    texts = ["one. two three, and four", "a longer text than the first, I say"]
    both = pipe(texts, num_audios_per_prompt=2, generator=seeded(1, 2, 3, 4))
    assert len(both.audios) == 4
    for index in (0, 3):
        alone = pipe(texts[index // 2], generator=seeded(index + 1))
        assert torch.equal(alone.tokens[0], both.tokens[index])
        assert torch.allclose(alone.audios[0], both.audios[index], atol=1e-5)


def test_modes_make_the_same_tokens_in_fewer_passes(pipe):
    plain = pipe("five green kites", generator=seeded(5), decoding="plain")
    prior = pipe("five green kites", generator=seeded(5), decoding="seed-prior")
    assert torch.equal(plain.tokens[0], prior.tokens[0])
    assert plain.stats.passes == len(plain.tokens[0]) > prior.stats.passes


def test_long_texts_are_spoken_in_parts(pipe):
    text = "word " * 190
    assert len(text) <= 1000
    job = pipe.prepare(text)
    (parts,) = job.samples
    assert len(parts) > 3 and all(part.count <= TOKENS for part in parts)
    assert " ".join(part.text for part in parts) == text.strip()
    assert all(bool((part.ends.diff() >= 0).all()) for part in parts)


def test_speed_and_marks_change_the_length(pipe):
    def count(text, **options):
        return pipe.prepare(text, **options).total

    slow, usual, fast = (count("a red apple", speed=s) for s in (0.5, 1.0, 2.0))
    assert slow > 1.4 * usual > 1.4 * 1.4 * fast
    assert count("red. apple") > count("red, apple") > count("red apple")
    assert count("red apple.") == count("red apple")


def test_streams_sound_while_tokens_come_in(pipe):
    text = "seven small yellow birds sing, in the old garden"
    whole = pipe(text, generator=seeded(3))
    chunks, output = [], None
    for item in pipe.stream(text, generator=seeded(3)):
        if isinstance(item, AudioChunk):
            chunks.append(item)
        else:
            output = item
    assert len(chunks) > 4 and output is not None
    assert chunks[0].made * 3 < chunks[0].total == len(whole.tokens[0])
    joined = torch.cat([chunk.audio for chunk in chunks], -1)
    assert joined.shape == whole.audios[0].shape
    assert float((joined - whole.audios[0]).abs().max()) < 1e-3
    assert torch.equal(output.tokens[0], whole.tokens[0])
    assert torch.equal(output.audios[0], joined.clamp(-1, 1))


def test_callbacks_see_every_step_and_can_stop(pipe):
    seen = []

    def stop(own, step, time, tensors):
        seen.append(step)
        own._interrupt = step >= 4

    out = pipe("a b", decoding="plain", callback_on_step_end=stop)
    assert seen == list(range(5)) and len(out.tokens[0]) == 5
    assert isinstance(pipe("a b", output_type="np").audios[0], np.ndarray)
    assert pipe("a b", output_type="tokens").audios is None


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "prompt of 0 characters must have 1 to 1000"),
        ("a" * 10_000, {}, "prompt of 10000 characters must have 1 to 1000"),
        ("\u4f60\u597d !?", {}, "holds nothing that can be spoken: letters a to z"),
        ("b" * 39, {}, "too long to be spoken"),
        ("hi", {"voice": "bob"}, "voice 'bob' must be one of ada, ben"),
        ("hi", {"speed": 9}, "speed 9 must be a number from 0.5 to 2"),
        ("hi", {"pitch": "high"}, "pitch 'high' must be a number from -1 to 1"),
        ("hi", {"output_type": "pil"}, "output_type 'pil' must be one of pt, np, tokens"),
        ("hi", {"num_audios_per_prompt": 0}, "num_audios_per_prompt 0 must be a whole number"),
        ("hi", {"temperature": -1.0}, "temperature -1.0 must be"),
    ],
)
def test_bad_input_is_refused_in_one_line(pipe, text, options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as caught:
        pipe(text, **options)
    assert "\n" not in str(caught.value)


def test_unknown_characters_are_left_out(pipe):
    job = pipe.prepare("na\u00efve \u2603 caf\u00e9 \u2014 7")
    assert [part.text for part in job.samples[0]] == ["naive cafe seven"]
    with pytest.raises(ValueError, match="one text at a time, not 2"):
        pipe.stream(["a", "b"])


def test_a_saved_pipeline_speaks_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "speech")
    loaded = Pipeline.from_pretrained(tmp_path / "speech")
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded, TextToSpeechPipeline) and loaded.voices == ["ada", "ben"]
    request = Request(prompt="a red kite", voice="ben", speed=1.25, pitch=0.5, seed=7)
    first = pipe(**request.arguments(pipe))
    second = loaded(**Request.from_json(request.to_json()).arguments(loaded))
    assert torch.equal(first.tokens[0], second.tokens[0])
    with pytest.raises(ValueError, match="voice"):
        Request(voice="../x")


def test_parts_that_do_not_fit_are_refused(pipe):
    codec = speech_codec(levels=[3, 3])
    with pytest.raises(ValueError, match="generator makes tokens of 12, but the tokenizer reads"):
        TextToSpeechPipeline(codec, pipe.generator, pipe.decoding)


def test_tokens_that_say_words_alone_get_the_voice_from_the_codec(pipe):
    from studio.tokenizers.semantic import SemanticTokenizer
    from tests.tokenizers.test_semantic import TINY

    torch.manual_seed(0)
    codec = SemanticTokenizer(**TINY, hop=400, speakers=["eve", "ben"], steps=2).eval()
    made = TextToSpeechPipeline(codec, pipe.generator, pipe.decoding)
    for voice, speaker in (("ada", 0), ("ben", 1)):  # the codec does not know ada
        out = made("red kite", voice=voice, generator=torch.Generator().manual_seed(0))
        told = codec.decode(out.tokens[0][None], condition=speaker)[0].clamp(-1, 1)
        assert torch.allclose(told, out.audios[0], atol=1e-5)
        generator = torch.Generator().manual_seed(0)
        (*_, last) = made.stream("red kite", voice=voice, generator=generator)
        assert torch.allclose(last.audios[0], out.audios[0], atol=1e-3)

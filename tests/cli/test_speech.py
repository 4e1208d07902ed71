"""`studio generate` and `studio reconstruct` with models of speech."""

import json

import pytest
import torch

from studio.media.audio import audio_info, read_audio, read_request, write_audio
from studio.media.wav import wav_bytes


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    from tests.toys import speech_pipeline

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "talk"
    speech_pipeline().save_pretrained(folder)
    return folder


def test_speaks_into_files_that_make_it_again(call, speech, tmp_path):
    args = ["generate", "three red apples", "-m", speech, "--voice", "ben", "--seed", 7]
    done = call(*args, "--speed", 1.25, "-o", "a.wav")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "a.wav  seed 7, " in done.stdout and " tokens in " in done.stdout
    info = audio_info(tmp_path / "a.wav")
    assert (info.sample_rate, info.channels) == (16000, 1) and info.seconds > 0.3
    request = read_request(tmp_path / "a.wav")
    assert (request["voice"], request["speed"], request["model"]) == ("ben", 1.25, "talk")
    for name in ("b.wav", "b.flac"):
        assert call("generate", "--from", "a.wav", "-m", speech, "-o", name).returncode == 0
        assert read_request(tmp_path / name) == request
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert torch.equal(read_audio(tmp_path / "a.wav")[0], read_audio(tmp_path / "b.flac")[0])


def test_names_itself_and_several(call, speech, tmp_path):
    assert call("generate", "yes", "-m", speech).returncode == 0
    assert (
        call("generate", "no", "-m", speech, "-n", 2, "-o", "n.ogg", "--batch", 2).returncode == 0
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["n-0.ogg", "n-1.ogg", "out.wav"]
    assert read_request(tmp_path / "n-1.ogg")["prompt"] == "no"


def test_renders_sounds(call, fails, speech, tmp_path):
    lines = [{"prompt": "yes", "voice": "ben"}, {"prompt": "no", "output": "n.flac", "seed": 3}]
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = ["render", "jobs.jsonl", "-m", speech, "--out", "r", "--workers", 1]
    done = call(*made)
    assert done.returncode == 0, done.stderr
    (named,) = (tmp_path / "r").glob("yes-*.wav")
    assert read_request(named)["voice"] == "ben" and audio_info(named).sample_rate == 16000
    assert call("generate", "--from", named, "-m", speech, "-o", "again.wav").returncode == 0
    assert (tmp_path / "again.wav").read_bytes() == named.read_bytes()
    assert read_request(tmp_path / "r" / "n.flac")["seed"] == 3
    assert "<audio" in (tmp_path / "r" / "index.html").read_text()
    jobs = (tmp_path / "jobs.jsonl").rename(tmp_path / "more.jsonl")
    jobs.write_text('{"prompt": "no", "output": "n.png"}\n')
    fails("render", jobs, "-m", speech, "--out", "r", message="the model makes sound")
    jobs.write_text('{"class_label": 1}\n')
    fails("render", jobs, "-m", speech, "--out", "r", message="prompt is missing")


def test_wrong_calls(fails, speech, tiny_model):
    args = ["generate", "hello", "-m", speech]
    fails(*args, "-o", "a.png", message="'a.png' must end in one of .wav, .flac, .ogg, .mp3")
    fails(*args, "--voice", "bob", message="voice 'bob' must be one of ada, ben")
    fails(*args, "--speed", 3, message="3")
    fails(*args, "--guidance", 2, message="is no option of model 'talk' (audio)")
    fails("generate", "-m", speech, message="PROMPT is missing: model 'talk' makes sounds")
    fails("generate", "\u4f60\u597d", "-m", speech, message="nothing that can be spoken")
    fails("generate", "", "-m", speech, message="prompt of 0 characters must have 1 to 1000")
    fails("generate", "x" * 10_000, "-m", speech, message="10000 characters must have 1 to 1000")
    fails("generate", "hi", "-m", tiny_model, "--voice", "ada", message="is no option of model")


def test_reconstructs_sounds(call, fails, speech, tmp_path):
    time = torch.arange(9000) / 44100
    stereo = torch.stack((torch.sin(2000 * time), torch.zeros(9000))) / 2
    write_audio(tmp_path / "in.wav", stereo, 44100)
    for folder, name in ((speech, "in-reconstructed.wav"), (speech / "tokenizer", "b.wav")):
        done = call(
            "reconstruct", "in.wav", "-m", folder, *(["-o", name] if "b" in name[:1] else [])
        )
        assert done.returncode == 0, done.stderr
        assert "18 tokens for 0.20 s" in done.stdout and "bits a second" in done.stdout
        audio, rate = read_audio(tmp_path / name)
        assert audio.shape == (1, 2, 9000) and rate == 44100
    fails(
        "generate", "--from", tmp_path / "b.wav", "-m", speech, message="studio reconstruct makes"
    )


def test_odd_sounds_are_coded(call, speech, tmp_path):
    sounds = {"one": torch.zeros(1, 1) + 0.1, "silent": torch.zeros(1, 4000)}
    sounds["eight"] = 0.1 * torch.randn(8, 3000, generator=torch.Generator().manual_seed(0))
    for name, sound in sounds.items():
        write_audio(tmp_path / f"{name}.wav", sound, 16000)
        done = call("reconstruct", f"{name}.wav", "-m", speech, "-o", f"{name}-back.wav")
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert " tokens for " in done.stdout
        back, rate = read_audio(tmp_path / f"{name}-back.wav")
        assert back[0].shape == sound.shape and rate == 16000


def test_broken_and_endless_sounds_are_refused(fails, speech, tmp_path):
    whole = wav_bytes(torch.full((8000, 1), 900, dtype=torch.int16).numpy(), 16000)
    nan = torch.zeros(50, 1)
    nan[7] = torch.nan
    size = 3600 * 48000 * 2 * 2
    head = bytearray(wav_bytes(torch.zeros(1, 2).short().numpy(), 48000)[:44])
    head[4:8], head[40:44] = (size + 36).to_bytes(4, "little"), size.to_bytes(4, "little")
    for name, content, message in (
        ("empty", b"", "is empty"),
        ("half", whole[:8000], "is cut short: 50 % of it is missing"),
        ("nan", wav_bytes(nan.numpy(), 16000), "holds values that are not finite"),
        ("none", wav_bytes(nan.numpy()[:0], 16000), "holds no samples"),
        ("hour", bytes(head), "is too long: 60 minutes of 2 channels at 48000 Hz; at most 47"),
    ):
        with open(tmp_path / f"{name}.wav", "wb") as file:
            file.write(content)
            if name == "hour":
                file.truncate(44 + size)  # a hole: it takes no place on the disk
        fails("reconstruct", tmp_path / f"{name}.wav", "-m", speech, message=message)


def test_sounds_that_are_refused(fails, speech, tiny_model, tmp_path):
    silent = write_audio(tmp_path / "one.wav", torch.zeros(1, 1), 16000)
    fails("reconstruct", silent, "-m", tiny_model, message="codes images, and")
    fails("reconstruct", silent, "-m", speech, "--tokens", 3, message="--tokens is for pictures")
    (tmp_path / "no.wav").write_bytes(b"RIFF")
    fails("reconstruct", tmp_path / "no.wav", "-m", speech, message="cut short")
    fails("reconstruct", tmp_path / "absent.wav", "-m", speech, message="does not exist")

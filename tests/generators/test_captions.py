import json
import logging

import pytest
import torch

from studio.generators.captions import PADDING, CaptionTokenizer

CAPTIONS = ["red apple", "green apple", "blue heart on yellow", "red heart", "cat face"] * 4


@pytest.fixture(scope="module")
def tokenizer():
    return CaptionTokenizer.train(CAPTIONS, 300, max_length=8)


def test_learned_words_are_short(tokenizer):
    ids, mask = tokenizer.encode(["red apple", "blue heart on yellow"])
    assert ids.dtype == torch.int64 and mask.dtype == torch.bool
    assert mask.sum(1).tolist() == [2, 4] and ids.shape == (2, 4)
    assert (ids[0, 2:] == 0).all() and (ids[mask] > 0).all()
    assert 257 <= tokenizer.vocab_size <= 300


def test_case_and_blanks_do_not_matter(tokenizer):
    a, b = (tokenizer.encode([text])[0] for text in ("  RED Apple ", "red apple"))
    assert torch.equal(a, b)


@pytest.mark.parametrize("text", ["червоне яблуко", "赤いリンゴ", "🍎", "a\0b\n", "İ"])
def test_any_script_encodes(tokenizer, text):
    ids, mask = tokenizer.encode([text], max_length=100)
    assert mask.all() and int(ids.max()) < tokenizer.vocab_size


def test_padding_name_in_a_caption_is_text(tokenizer):
    ids, mask = tokenizer.encode([f"{PADDING} <pad>"], max_length=100)
    assert mask.all() and (ids > 0).all()


def test_empty(tokenizer):
    ids, mask = tokenizer.encode(["", "cat face"])
    assert ids.shape == (2, 2) and mask.sum(1).tolist() == [0, 2]
    assert tokenizer.encode([""])[0].shape == (1, 1)


def test_long_captions_are_cut_with_one_warning(caplog):
    tokenizer = CaptionTokenizer.train(CAPTIONS, 300, max_length=8)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            ids, mask = tokenizer.encode(["red apple " * 1000, "red"])
    assert ids.shape == (2, 8) and mask.sum(1).tolist() == [8, 1]
    assert [r.getMessage() for r in caplog.records] == [
        "a caption of 2000 tokens was cut to its first 8"
    ]


def test_training_is_deterministic_and_survives_saving(tokenizer, tmp_path):
    again = CaptionTokenizer.train(CAPTIONS, 300, max_length=8)
    tokenizer.save_pretrained(tmp_path / "a" / "text_tokenizer")
    again.save_pretrained(tmp_path / "b")
    read = CaptionTokenizer.from_pretrained(tmp_path / "a", subfolder="text_tokenizer")
    first, second = (
        {f.name: f.read_text() for f in folder.iterdir()}
        for folder in (tmp_path / "a" / "text_tokenizer", tmp_path / "b")
    )
    assert first == second and set(first) == {"tokenizer.json", "caption_tokenizer_config.json"}
    assert torch.equal(read.encode(["red cat"])[0], tokenizer.encode(["red cat"])[0])
    assert (read.max_length, read.vocab_size) == (8, tokenizer.vocab_size)


def test_wrong_use(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="vocab_size 100"):
        CaptionTokenizer.train(CAPTIONS, 100)
    with pytest.raises(ValueError, match=r"holds no tokenizer\.json"):
        CaptionTokenizer.from_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(ValueError, match="damaged"):
        CaptionTokenizer.from_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "caption_tokenizer_config.json").write_text(json.dumps({}))
    with pytest.raises(ValueError, match="damaged"):
        CaptionTokenizer.from_pretrained(tmp_path)

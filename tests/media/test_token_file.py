"""Token files: a few hundred bytes, back again, and nothing hostile gets in."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from studio.media.token_file import MARK, TokenFile, read_tokens, width_of, write_tokens


def make(tokens, vocab_size=4096, total=None):
    return TokenFile("emoji-1d", "abc", tokens, vocab_size, total or tokens.numel())


@pytest.mark.parametrize(("shape", "size"), [((1, 64), 4096), ((1, 1), 2), ((1, 3, 7), 1000)])
def test_tokens_come_back(shape, size):
    tokens = torch.randint(0, size, shape, generator=torch.Generator().manual_seed(1))
    data = write_tokens(make(tokens, size))
    found = read_tokens(data)
    assert torch.equal(found.tokens, tokens) and found.vocab_size == size
    assert (found.model, found.revision, found.total) == ("emoji-1d", "abc", tokens.numel())


def test_the_file_is_small():
    data = write_tokens(make(torch.zeros(1, 64, dtype=torch.int64)))
    assert len(data) < 96 + 110
    assert [width_of(n) for n in (2, 3, 4, 5, 4096)] == [1, 2, 2, 3, 12]


@pytest.mark.parametrize(
    "tokens", [torch.tensor([[-1]]), torch.tensor([[4096]]), torch.tensor([1])]
)
def test_what_can_not_be_packed_is_refused(tokens):
    with pytest.raises(ValueError, match="tokens"):
        write_tokens(make(tokens))


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [0]}, {"shape": [10**9]}, {"shape": [2**20, 2**20]}, {"shape": "x"}, {"total": 0},
        {"shape": [1, 1, 1]}, {"vocab_size": 1}, {"vocab_size": True}, {"model": 3},
        {"revision": 1}, {"more": 1}, {"shape": [63]}, {"shape": []}, {"shape": [1.5]},
    ],
)  # fmt: skip
def test_hostile_heads_are_refused(changes):
    data = write_tokens(make(torch.zeros(1, 64, dtype=torch.int64)))
    line, _, packed = data[len(MARK) :].partition(b"\n")
    head = json.dumps({**json.loads(line), **changes}).encode()
    with pytest.raises(ValueError, match="token file"):
        read_tokens(MARK + head + b"\n" + packed)


def test_other_files_are_refused():
    data = write_tokens(make(torch.zeros(1, 64, dtype=torch.int64)))
    for bad in (
        b"",
        b"PNG",
        MARK,
        MARK + b"{}\n",
        MARK + b"[" * 900 + b"\n",
        data[:-1],
        data + b"x",
    ):
        with pytest.raises(ValueError):
            read_tokens(bad)
    with pytest.raises(ValueError, match="above 999"):
        read_tokens(write_tokens(make(torch.tensor([[1023]]), 1024)).replace(b"1024", b"1000"))
    with pytest.raises(ValueError, match="more than"):
        read_tokens(MARK + b"x" * 2**21)


@settings(max_examples=100, deadline=None)
@given(some.binary(max_size=300))
def test_no_bytes_do_harm(data):
    for found in (data, MARK + data):
        try:
            read_tokens(found)
        except ValueError as error:
            assert "\n" not in str(error)

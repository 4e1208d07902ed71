"""Long videos through a tokenizer: one chunk at a time, from a file to a file."""

import pytest
import torch

from studio.media.video import read_pieces, video_info
from studio.media.video_writer import video_writer
from studio.tokenizers.base_video import regrouped, video_layout
from studio.tokenizers.cosmos import CosmosTokenizer
from studio.tokenizers.hitvideo import HiTVideoTokenizer


def tiny():
    torch.manual_seed(0)
    layers = ({"name": "coarse", "stride": (4, 2, 2), "levels": (4, 4)},)
    sizes = {"dim": 8, "depth": 1, "final_depth": 1, "trunk_base": 4, "refiner_channels": 0}
    return HiTVideoTokenizer(num_frames=8, image_size=16, layers=layers, **sizes).eval()


def numbered(frames):
    return torch.arange(float(frames)).view(1, 1, frames, 1, 1)


def test_pieces_are_regrouped():
    parts = list(regrouped(numbered(12).split([1, 7, 4], 2), first=3, later=4, multiple=2))
    assert [p.flatten().tolist() for p in parts] == [
        [0, 1, 2],
        [3, 4, 5, 6],
        [7, 8, 9, 10],
        [11, 11],
    ]
    assert len(list(regrouped([numbered(3)], first=3, later=4, multiple=2))) == 1
    with pytest.raises(ValueError, match="the video has no frames"):
        list(regrouped([], first=1, later=1, multiple=1))


def test_no_more_is_read_than_needed():
    """Encoding asks for the next piece only when it needs it, and keeps what a chunk needs."""
    read = []

    def pieces():
        for i in range(100):
            read.append(i)
            yield torch.zeros(1, 3, 4, 16, 16)

    with torch.no_grad():
        stream = tiny().decode_stream(tiny().encode_stream(pieces(), chunk_frames=8))
        assert next(stream).shape == (1, 3, 8, 16, 16) and len(read) == 2
        next(stream)
    assert len(read) == 4


def test_a_file_goes_through_piece_by_piece(tmp_path):
    pytest.importorskip("av")
    source, result, tokenizer = tmp_path / "a.mp4", tmp_path / "b.mp4", tiny()
    with video_writer(source, fps=8) as write:
        for i in range(6):
            write(torch.full((3, 10, 16, 16), i / 6))
    with torch.no_grad(), video_writer(result, fps=8) as write:
        parts = tokenizer.encode_stream(read_pieces(source, chunk_frames=7), chunk_frames=16)
        for piece in tokenizer.decode_stream(parts):
            write(piece)
    assert video_info(result).frames == 60


def test_layouts_of_codes_and_of_vectors():
    codes, vectors = video_layout((2, 3, 4), vocab_size=8), video_layout((2, 3, 4), dim=5)
    assert codes.bits() == 72 and vectors.bits() != vectors.bits()
    assert type(vectors).from_dict(vectors.to_dict()) == vectors and vectors.vocab_size == 0
    with pytest.raises(ValueError, match="vocab_size 0 of segment 'video' must be >= 2"):
        video_layout((1, 1, 1))


def test_the_usual_memory_is_all():
    tokenizer = CosmosTokenizer(
        num_frames=9, image_size=16, base_channels=4, num_res_blocks=1
    ).eval()
    with torch.no_grad():
        video = torch.zeros(1, 3, 25, 16, 16)
        exact = list(tokenizer.encode_stream([video], chunk_frames=8))
        short = list(tokenizer.encode_stream([video], chunk_frames=8, memory=1))
    assert len(exact) == len(short) == 4 and torch.equal(exact[0].latents, short[0].latents)

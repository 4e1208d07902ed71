"""Media files with broken bytes: what is read is sensible, or refused in one line."""

import itertools
import struct
import time

import pytest
from hypothesis import given

from studio.media.animation import MAX_FRAMES, MAX_SUM
from studio.media.audio import read_audio
from studio.media.image import read_image
from studio.media.video import read_pieces, read_request, read_video, video_info
from tests.hostile import SECONDS, broken_file, media, quiet

SOUNDS = ("wav", "flac", "ogg")
READERS = {
    "info": video_info,
    "a piece": lambda path: next(read_pieces(path, chunk_frames=3)),
    "a part": lambda path: read_video(path, fps=5.0, start=0.1, num_frames=4),
    "the whole": lambda path: read_video(path, num_frames=8),
    "the request": read_request,
    "a picture": read_image,
}


def refused_or_read(read, path):
    started = time.process_time()
    try:
        read(path)
    except ValueError as error:
        assert str(error).isprintable() and len(str(error)) < 700
    assert time.process_time() - started < SECONDS


@quiet
@given(found=broken_file(media()))
def test_any_broken_bytes(tmp_path, found):
    kind, data = found
    path = tmp_path / f"a.{kind}"
    path.write_bytes(data)
    readers = [read_audio] if kind in SOUNDS else READERS.values()
    for read in readers if data else ():
        refused_or_read(read, path)


def test_a_film_whose_coding_is_unknown(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(media()["mp4"].replace(b"avc1", b"xxxx"))
    for read in (video_info, read_video, read_request):
        with pytest.raises(ValueError, match=r"video '.*a.mp4' is broken or cut short: it has no"):
            read(path)


def test_a_clip_that_can_not_be_read_is_left_out(tmp_path, caplog):
    from studio.evaluation.clips import find_clips, read_clips

    (tmp_path / "a.mp4").write_bytes(media()["mp4"].replace(b"avc1", b"xxxx"))
    (tmp_path / "b.mp4").write_bytes(media()["mp4"])
    (tmp_path / "c.gif").write_bytes(animation(9, 9, [(9, 9), (40_000, 40_000)]))
    clips, kept = read_clips(find_clips(tmp_path), 16, 4)
    assert tuple(clips.shape) == (1, 3, 4, 16, 16) and kept == [1]
    assert caplog.text.count("left out: video ") == 2


# --- bombs ---------------------------------------------------------------------------------------


def animation(width, height, sizes):
    """A GIF file of frames that are drawn with one pixel each, but for those of other sizes."""
    pixel = b"\x02\x02\x4c\x01\x00"
    parts = [b"GIF89a", struct.pack("<HHBBB", width, height, 0x80, 0, 0), b"\0\0\0\xff\xff\xff"]
    for number, size in enumerate(sizes):
        parts.append(b"!\xf9\x04\0" + struct.pack("<H", 10 + number % 2) + b"\0\0")
        parts.append(b"," + struct.pack("<HHHHB", 0, 0, *size, 0) + pixel)
    return b"".join([*parts, b";"])


@pytest.mark.parametrize("later", [(40_000, 40_000), (9000, 9000), (10, 9)])
def test_a_later_frame_that_is_larger_than_the_first(tmp_path, later):
    path = tmp_path / "a.gif"
    path.write_bytes(animation(9, 9, [(9, 9), later, (1, 1)]))
    for read in (video_info, read_video):
        with pytest.raises(ValueError, match=r"^video '.*a.gif' is broken or cut short: [^\n]*$"):
            read(path)


@pytest.mark.parametrize("side, count", [(8000, 20), (2000, 400), (1, 33_000)])
def test_few_bytes_and_many_pixels(tmp_path, side, count):
    path = tmp_path / "a.gif"
    path.write_bytes(animation(side, side, itertools.repeat((1, 1), count)))
    assert count > MAX_FRAMES or side * side * count > MAX_SUM
    wanted = rf"^video '.*a.gif' is too large: {count} frames of {side} x {side}; at most [^\n]*$"
    started = time.process_time()
    with pytest.raises(ValueError, match=wanted):
        video_info(path)
    assert time.process_time() - started < SECONDS


def test_a_film_of_many_pixels_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(animation(3000, 3000, [(1, 1)] * 40))
    started = time.process_time()
    with pytest.raises(ValueError, match="at most 19 frames of 3000x3000, this has about 30"):
        read_video(path, num_frames=30)
    assert time.process_time() - started < SECONDS

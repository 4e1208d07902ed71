"""Video files: written and read back in their size and rate, and bad files say what is wrong."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from studio.media.animation import animation_bytes
from studio.media.metadata import MAX_BYTES
from studio.media.video import read_pieces, read_request, read_video, video_info
from studio.media.video_writer import check_suffix, video_writer, write_video

av = pytest.importorskip("av")

SUFFIXES = [".mp4", ".webm", ".gif", ".webp"]
FILMS = [".mp4", ".webm"]


def clip(frames=9, height=32, width=48):
    """A bright square that moves right over a dark slope."""
    video = torch.linspace(-1, -0.5, height)[:, None].expand(3, frames, height, width).clone()
    for t in range(frames):
        video[0, t, 8:20, 2 * t : 2 * t + 12] = 0.8
    return video


def psnr(a, b):
    return 10 * torch.log10(4 / (a - b).square().mean()).item()


def film(path, frames, *, rate=8, format="yuv420p", codec="libx264", times=None, size=(32, 48)):
    """A file written by PyAV alone; `times` in milliseconds make it a variable rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000 if times else rate)
        stream.height, stream.width = size
        stream.pix_fmt = format
        for i in range(frames):
            level = np.full((*size, 3), 20 * (i % 10), np.uint8)
            frame = av.VideoFrame.from_ndarray(level, format="rgb24")
            if times:
                frame.pts = times[i]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def levels(video):
    """Which frames of `film` a video shows."""
    return ((video.mean((0, 1, 3, 4)) + 1) * 127.5 / 20).round().int().tolist()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_there_and_back(suffix, tmp_path):
    path = write_video(tmp_path / "new" / f"a{suffix}", clip(), fps=8)
    video, fps = read_video(path)
    assert video.shape == (1, 3, 9, 32, 48) and video.dtype == torch.float32
    assert fps == pytest.approx(8, rel=0.02) and psnr(video[0], clip()) > 30
    info = video_info(path)
    assert (info.width, info.height, info.frames) == (48, 32, 9)
    assert info.seconds == pytest.approx(9 / 8, abs=0.02)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("size", [(33, 47), (17, 16), (1, 3)])
def test_sizes_are_kept(suffix, size, tmp_path):
    path = write_video(tmp_path / f"a{suffix}", clip(3, *size) * 0, fps=5)
    assert tuple(read_video(path)[0].shape[-2:]) == size


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_request_is_inside(suffix, tmp_path):
    request = {"prompt": "röter Apfel 苹果", "seeds": [7], "options": {"a": 1.5}}
    path = write_video(tmp_path / f"a{suffix}", clip(2), fps=8, request=request)
    assert read_request(path) == request
    plain = write_video(tmp_path / f"b{suffix}", clip(2), fps=8)
    with pytest.raises(ValueError, match="holds no studio request"):
        read_request(plain)
    with pytest.raises(ValueError, match="request of .* bytes is more than|too long"):
        write_video(tmp_path / f"c{suffix}", clip(2), fps=8, request={"p": "x" * MAX_BYTES})
    assert not (tmp_path / f"c{suffix}").exists()


@pytest.mark.parametrize("suffix", FILMS)
def test_pieces_are_the_whole(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    write_video(path, clip(23).split([1, 10, 12], dim=1), fps=12.5)
    whole, fps = read_video(path)
    assert whole.shape[2] == 23 and fps == pytest.approx(12.5)
    pieces = list(read_pieces(path, chunk_frames=10))
    assert [p.shape[2] for p in pieces] == [10, 10, 3] and torch.equal(torch.cat(pieces, 2), whole)
    assert torch.equal(read_video(path, num_frames=4)[0], whole[:, :, :4])
    assert torch.equal(read_video(path, start=0.8)[0], whole[:, :, 10:])
    assert torch.equal(read_video(path, fps=6.25)[0], whole[:, :, ::2])
    assert torch.equal(read_video(path, fps=25, num_frames=6)[0][:, :, ::2], whole[:, :, :3])


def test_memory_does_not_grow_with_the_length(tmp_path):
    peaks = []
    for frames in (64, 256):
        path = tmp_path / f"{frames}.mp4"
        with video_writer(path, fps=8) as write:
            for _ in range(frames // 32):
                write(torch.zeros(3, 32, 32, 48))
        tracemalloc.start()
        assert sum(p.shape[2] for p in read_pieces(path, chunk_frames=16)) == frames
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_equal_frames_keep_their_time(tmp_path):
    video = clip(1).expand(-1, 6, -1, -1).clone()
    video[:, 4:] *= -1
    for suffix in (".gif", ".webp"):
        path = write_video(tmp_path / f"a{suffix}", video, fps=10)
        assert video_info(path).seconds == pytest.approx(0.6)
        assert psnr(read_video(path, fps=10)[0][0], video) > 20
    path = write_video(tmp_path / "one.gif", video[:, :4], fps=10)
    assert read_video(path, fps=10)[0].shape[2] == 4


def test_a_variable_rate_becomes_constant(tmp_path):
    path = film(tmp_path / "a.mp4", 5, times=[0, 100, 200, 700, 800])
    video, _ = read_video(path, fps=10)
    assert levels(video)[:9] == [0, 1, 2, 2, 2, 2, 2, 3, 4] and 9 <= video.shape[2] <= 10
    assert levels(read_video(path, fps=2)[0])[:2] == [0, 2]


def test_ten_bits_one_frame_and_stills(tmp_path):
    deep = film(tmp_path / "deep.mp4", 3, format="yuv420p10le")
    assert read_video(deep)[0].shape == (1, 3, 3, 32, 48)
    assert read_video(film(tmp_path / "one.mp4", 1))[0].shape == (1, 3, 1, 32, 48)
    Image.new("RGB", (5, 7), (255, 0, 0)).save(tmp_path / "a.png")
    still, _ = read_video(tmp_path / "a.png")
    assert still.shape == (1, 3, 1, 7, 5) and still[0, :, 0, 0, 0].tolist() == [1, -1, -1]


def test_films_that_are_to_be_turned_come_upright(tmp_path):
    data = bytearray(film(tmp_path / "a.mp4", 2).read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    assert struct.unpack(">9i", data[matrix : matrix + 36])[0] == 1 << 16
    quarter = (0, 1 << 16, 0, -1 << 16, 0, 0, 32 << 16, 0, 1 << 30)  # clockwise
    data[matrix : matrix + 36] = struct.pack(">9i", *quarter)
    (tmp_path / "a.mp4").write_bytes(data)
    assert read_video(tmp_path / "a.mp4")[0].shape == (1, 3, 2, 48, 32)


def test_a_stream_without_an_index_begins_anywhere(tmp_path):
    path = film(tmp_path / "a.ts", 10)
    assert levels(read_video(path, start=0.5)[0]) == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv"])
def test_a_sound_may_outlast_the_film(suffix, tmp_path):
    codecs = ("libvpx-vp9", "libopus") if suffix == ".webm" else ("libx264", "aac")
    with av.open(str(tmp_path / f"a{suffix}"), "w") as container:
        film = container.add_stream(codecs[0], rate=8)
        film.height = film.width = 16
        sound = container.add_stream(codecs[1], rate=48000, layout="mono")
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            container.mux(film.encode(frame))
        container.mux(film.encode(None))
        for i in range(100):  # two seconds
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), "fltp", "mono")
            frame.rate, frame.pts = 48000, 960 * i
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    assert read_video(tmp_path / f"a{suffix}")[0].shape[2] == 4


def test_bad_files_are_named(tmp_path):
    def refused(match, path, kind=ValueError):
        for action in (read_video, video_info):
            with pytest.raises(kind, match=match) as error:
                action(path)
            assert "\n" not in str(error.value) and path.name in str(error.value)

    refused("does not exist", tmp_path / "none.mp4", FileNotFoundError)
    refused("is a folder", tmp_path)
    (tmp_path / "empty.mp4").touch()
    refused("is empty", tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 50)
    refused("is none, broken or cut short", tmp_path / "text.mp4")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\n/etc/hosts\n")
    refused("is none, broken or cut short", tmp_path / "list.m3u8")
    whole = film(tmp_path / "whole.mp4", 60).read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    refused("is none, broken or cut short", tmp_path / "half.mp4")


def test_sound_alone_is_named(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="song.mp4' holds sound only"):
        read_video(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_cut_short_are_noticed(suffix, tmp_path):
    g = torch.Generator().manual_seed(0)
    noise = torch.rand(3, 40, 32, 48, generator=g) * 2 - 1
    path = write_video(tmp_path / f"a{suffix}", noise, fps=8)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="cut short|is broken"):
        read_video(path)


def test_long_videos_need_a_bound(tmp_path, monkeypatch):
    path = film(tmp_path / "long.mp4", 100)
    monkeypatch.setattr("studio.media.video.MAX_VALUES", 3 * 32 * 48 * 20)
    with pytest.raises(
        ValueError, match="at most 20 frames of 48x32, this has about 100; give num"
    ):
        read_video(path)
    assert read_video(path, num_frames=20)[0].shape[2] == 20
    assert sum(p.shape[2] for p in read_pieces(path)) == 100


def test_bad_arguments_are_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", clip(4), fps=8)
    for options, match in (
        ({"fps": 0}, "fps 0 must lie between 0.001 and 1000"),
        ({"num_frames": 0}, "num_frames 0 must be at least 1"),
        ({"start": -1}, "start -1 must lie within the 0.5 seconds"),
        ({"start": 3.0}, "start 3.0 must lie within the 0.5 seconds"),
    ):
        with pytest.raises(ValueError, match=match):
            read_video(path, **options)
    with pytest.raises(ValueError, match="chunk_frames 0 must be at least 1"):
        list(read_pieces(path, chunk_frames=0))
    with pytest.raises(ValueError, match=r"'a.mov' must end in one of .mp4, .webm, .gif, .webp"):
        check_suffix("a.mov")
    for video, options, match in (
        (clip(), {"fps": -1}, "fps -1 must lie between 0.001 and 1000"),
        (clip(), {"fps": 1e-6}, "fps 1e-06 must lie between 0.001 and 1000"),
        (clip(), {"quality": 52}, "quality 52 must lie between 0 and 51"),
        (clip()[:, 0], {}, r"video of shape \(3, 32, 48\) must be \(3, T, H, W\)"),
        (clip() * float("nan"), {}, "not finite"),
        ([], {}, "has no frames"),
        (clip()[:, :0], {}, "has no frames"),
        ([clip(), clip(2, 16, 16)], {}, "frame of 16x16 in a video of 32x48"),
        (torch.zeros(3, 1, 2, 20_000), {}, "video of 2x20000 can't be coded by libx264"),
    ):
        with pytest.raises(ValueError, match=match):
            write_video(tmp_path / "b.mp4", video, **{"fps": 8, **options})
    for suffix in (".gif", ".webp"):
        with pytest.raises(ValueError, match="frame of 16x16 in a video of 32x48"):
            write_video(tmp_path / f"b{suffix}", [clip(), clip(2, 16, 16)], fps=8)
        with pytest.raises(ValueError, match="1 frames of 2x70000 at 8 a second can't be a"):
            write_video(tmp_path / f"b{suffix}", torch.zeros(3, 1, 2, 70_000), fps=8)
    with pytest.raises(ValueError, match="has no frames"):
        write_video(tmp_path / "b.gif", [], fps=8)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_video_gives_the_same_bytes(suffix, tmp_path):
    paths = [write_video(tmp_path / f"{i}{suffix}", clip(4), fps=8, request={}) for i in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def moving(seed):
    """A soft square that moves over a plain ground, (3, 16, 64, 64)."""
    generator = torch.Generator().manual_seed(seed)
    square = torch.rand(1, 3, 6, 6, generator=generator) * 2 - 1
    square = torch.nn.functional.interpolate(square, (24, 24), mode="bilinear")[0]  # (3, 24, 24)
    video = torch.rand(3, 1, 1, 1, generator=generator).repeat(1, 16, 64, 64)
    for t in range(16):
        left = 3 * t % 40
        video[:, t, t : t + 24, left : left + 24] = square
    return video


def test_many_times_the_same_bytes(tmp_path):
    for seed in range(4):
        video, made = moving(seed), set()
        for i in range(10):
            torch.rand(1000 + i * 333)  # other memory each time
            made.add(write_video(tmp_path / "a.mp4", video, fps=8).read_bytes())
        assert len(made) == 1


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    def absent(name, *, extra):
        raise ImportError(f"{name} is not installed; run: pip install {extra}")

    monkeypatch.setattr("studio.media.video_writer.need", absent)
    with pytest.raises(ImportError, match="av is not installed; run: pip install video"):
        write_video(tmp_path / "a.mp4", clip(), fps=8)
    assert list(tmp_path.iterdir()) == []
    assert write_video(tmp_path / "a.gif", clip(), fps=8).exists()


def test_gif_times_do_not_drift():
    frames = [np.full((4, 4, 3), i, np.uint8) for i in range(0, 160, 10)]
    picture = Image.open(io.BytesIO(animation_bytes(frames, "GIF", 8, None, "studio:")))
    stays = [part.info["duration"] for part in ImageSequence.Iterator(picture)]
    assert set(stays) == {120, 130} and sum(stays) == 2000
    picture = Image.open(io.BytesIO(animation_bytes(frames, "GIF", 120, None, "studio:")))
    stays = [part.info["duration"] for part in ImageSequence.Iterator(picture)]
    assert stays == [20] * 7  # browsers show what is shorter for 100

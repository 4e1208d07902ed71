"""Folders of pictures: order, what is left out, what is refused."""

import pytest
import torch
from PIL import Image

from studio.evaluation.pictures import find_pictures, read_pictures, spread


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b.png", "sub/a.JPG", "a.webp", ".hidden/c.png"):
        Image.effect_noise((30, 20), 40).convert("RGB").save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("none")
    return tmp_path


def test_files_are_found_in_the_order_of_names(folder):
    assert [f.name for f in find_pictures(folder)] == ["a.webp", "b.png", "sub/a.JPG"]
    assert [f.name for f in find_pictures(folder, limit=2)] == ["a.webp", "b.png"]
    assert spread(list(range(10)), 5) == [0, 2, 4, 6, 8]


def test_pictures_are_middle_squares_and_broken_ones_are_left_out(folder, caplog):
    (folder / "b.png").write_bytes(b"none")
    images, kept = read_pictures(find_pictures(folder), 16)
    assert images.shape == (2, 3, 16, 16) and kept == [0, 2]
    assert images.min() >= -1 and images.max() <= 1 and "b.png" in caplog.text
    (folder / "a.webp").write_bytes(b"")
    (folder / "sub" / "a.JPG").write_bytes(b"")
    images, kept = read_pictures(find_pictures(folder), 16)
    assert images.shape == torch.Size([0, 3, 16, 16]) and kept == []


def test_a_changed_file_has_another_key(folder):
    before = find_pictures(folder)[0].key
    Image.new("RGB", (9, 9)).save(folder / "a.webp")
    assert find_pictures(folder)[0].key != before


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="--data '.*none' does not exist"):
        find_pictures(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no picture"):
        find_pictures(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is no folder"):
        find_pictures(tmp_path / "file")

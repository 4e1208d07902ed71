import json

import pytest
import torch
from PIL import Image

from studio.data.datasets import make_dataset
from studio.data.folder import FolderImages


@pytest.fixture
def folder(tmp_path):
    for i, color in enumerate(("red", "lime", "blue", "white")):
        Image.new("RGB", (30 + i, 20), color).save(tmp_path / f"{color}.png")
    return tmp_path


def names(data, count=4):
    return sorted(data.caption(i) for i in range(count))


def test_text_files_beside_pictures(folder):
    for color in ("red", "lime", "blue"):
        (folder / f"{color}.txt").write_text(f"all {color}\n")
    data = FolderImages(str(folder), size=8)
    assert names(data, 3) == ["all blue", "all lime", "all red"]
    image = data[0][0]
    assert image.shape == (3, 8, 8)
    assert data.batch(0, 2)[0].shape == (2, 3, 8, 8)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_one_table_for_all(folder, kind):
    rows = [("red.png", "a red one, plain"), ("blue.png", "a blue one")]
    if kind == "csv":
        lines = ["file,caption"] + [f'{name},"{text}"' for name, text in rows]
    else:
        lines = [json.dumps({"file": name, "caption": text}) for name, text in rows]
    (folder / f"captions.{kind}").write_text("\n".join(lines))
    data = FolderImages(str(folder), size=8)
    assert names(data, 2) == ["a blue one", "a red one, plain"]
    colors = {data[i][1]: data[i][0].mean((1, 2)) for i in range(2)}
    assert torch.allclose(colors["a blue one"], torch.tensor([-1.0, -1.0, 1.0]), atol=0.02)


def test_each_epoch_has_every_picture_in_another_order(folder):
    for color in ("red", "lime", "blue", "white"):
        (folder / f"{color}.txt").write_text(color)
    data = FolderImages(str(folder), size=8)
    epochs = [[data.caption(4 * e + i) for i in range(4)] for e in range(6)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_folder_without_captions_and_no_folder(folder):
    with pytest.raises(ValueError, match="holds no picture with a caption"):
        FolderImages(str(folder)).items()
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        FolderImages(str(folder / "none")).items()


def test_unknown_kinds_and_arguments_are_named(folder):
    with pytest.raises(ValueError, match="data kind 'web' must be one of emoji, folder"):
        make_dataset({"kind": "web"})
    with pytest.raises(ValueError, match="shape"):
        make_dataset({"kind": "folder", "path": str(folder), "shape": 3})

"""The gallery: what is on the disk, whatever state it is in."""

from studio.pipelines.request import Request
from studio.server.gallery import Gallery


def test_a_broken_file_does_not_stop_the_start(place, monkeypatch, caplog):
    job = place.generate([Request(model="tiny", prompt="red apple", seed=5)])
    (apple,) = job.wait(timeout=60).results
    folder = place.gallery.folder / "20260101"
    folder.mkdir()
    (folder / "20260101-000000-00000000.mp4").write_bytes(b"no clip")
    (folder / "20260101-000000-00000001.png").write_bytes(b"no picture")
    found = Gallery._found

    def reader(self, path):
        if path.suffix == ".mp4":  # libraries raise errors of their own
            raise RuntimeError("moov atom not found")
        return found(self, path)

    monkeypatch.setattr(Gallery, "_found", reader)
    assert [item.id for item in Gallery(place.workspace).search()] == [apple]
    assert "00000000.mp4 is not in the gallery: moov atom" in caplog.text
    assert "00000001.png is not in the gallery" in caplog.text

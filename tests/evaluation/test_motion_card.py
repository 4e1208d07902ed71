"""The card of a bundle of clips: every figure from JSON, and nothing where none was measured."""

from studio.evaluation.motion_card import motion_card, write_motion_card

HARDWARE = {"processor": "Some CPU", "cores": 2, "torch": "2"}
SCORES = {"direction": 0.9, "top1": 0.5, "top5": 0.75, "background": 1.0}


def row(group, **more):
    base = {"tokens": 512, "bytes": 960.0, "bpp": 0.1172, "psnr": 25.5, "ssim": 0.9}
    return {"group": group, "layers": 3, "flicker": 1.5, **base, **more}


def test_what_is_measured_stands_in_it(tmp_path):
    coded = row("codecs at nearby bytes", subject="VP9", headers="forgiven", budget=960.0)
    long = {part: SCORES for part in ("first", "middle", "last")}
    race = {"mode": "seed", "passes": 120.0, "fewer": 4.27, "faster": 2.5}
    figures = {
        "hardware": HARDWARE,
        "tokenizer": {"rows": [row("tokenizers", fd=0.01), coded], "facts": {"clips": 100}},
        "layers": [{"direction": 1.0, "top5": 0.875}],
        "flat": {"tokens": 512, "bpp": 0.1172, "psnr": 24.0},
        "generator": {"count": 64, "generated": SCORES, "coded": SCORES, "real": SCORES},
        "decoding": {"rows": [{**race, "equal": 8, "pictures": 8}]},
        "long": {"remembering": {**long, "count": 8, "num_frames": 512, "memory_growth_mib": 0.4}},
    }
    text = write_motion_card(tmp_path / "moves", figures).parent.joinpath("README.md").read_text()
    for words in (
        "# moves",
        "tokens: 512 a clip",
        "| 3 | 512 | 0.1172 | 25.50 | 0.900 | 1.50 | 0.0100 | 100.0 % | 87.5 % |",
        "| VP9, headers forgiven | 960 | 25.50 | 1.50 |",
        "| one layer | 512 | 0.1172 | 24.00 |",
        "| moves as the caption says | 90.0 % | 90.0 % | 90.0 % |",
        "| `seed` | 120 | 4.27 | 2.50 | 8 of 8 |",
        "8 clips of 512 frames",
        "Some CPU",
    ):
        assert words in text, words


def test_what_is_not_measured_does_not():
    text = motion_card("moves", {"hardware": HARDWARE})
    assert "Tokenizer" not in text and "Long clips" not in text and "## Limits" in text

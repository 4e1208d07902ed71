"""The one form of reports: JSON and back, CSV, and a page that needs nothing else."""

import csv
import io
import json
import math
import re

import pytest
from PIL import Image

from studio.evaluation.report import Cell, Column, Curve, Exhibit, Report, read_report
from studio.evaluation.report_page import charts_of, make_page, shown, write_report


@pytest.fixture
def report(tmp_path):
    (tmp_path / "media").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "media" / "a.png")
    (tmp_path / "media" / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "media" / "a.mp4").write_bytes(b"ftyp")
    rows = [
        {"group": "ours", "subject": "one", "bytes": 2.0 * i, "psnr": 10.0 + i, "side": 8}
        for i in range(3)
    ]
    rows += [{"group": "other", "subject": "<b>&", "bytes": 7, "psnr": math.inf, "head": "x"}]
    cells = [
        Cell("</script><b>", "media/a.png", 'a "quoted" name'),
        Cell("sound", "media/a.wav"),
        Cell("clip", "media/a.mp4"),
        Cell("nothing"),
    ]
    return Report(
        title="<i>One</i>",
        medium="image",
        columns=[
            Column("subject", "model"),
            Column("head", "headers"),
            Column("side", "side"),
            Column("bytes", "bytes", digits=1),
            Column("psnr", "PSNR", "dB", "higher", "how near"),
        ],
        rows=rows,
        curves=[Curve("bytes", "psnr", dash="head", panel="side", log_x=True)],
        exhibits=[Exhibit("what", [cells], "a note")],
        facts={"data": "photos", "hardware": {"cores": 2}, "sizes": [1, 2]},
        notes=["told"],
    )


def test_json_goes_there_and_back(report, tmp_path):
    write_report(report, tmp_path)
    again = read_report(tmp_path)
    assert again.rows[3]["psnr"] is None and again.rows[:3] == report.rows[:3]
    assert (again.columns, again.curves, again.exhibits) == (
        report.columns,
        report.curves,
        report.exhibits,
    )
    text = (tmp_path / "report.json").read_text()
    assert "Infinity" not in text and json.loads(text)["format"] == 1


def test_csv_has_a_line_a_row(report, tmp_path):
    lines = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert len(lines) == 4 and lines[1]["psnr"] == "11.0" and lines[3]["psnr"] == ""
    assert list(lines[0]) == ["subject", "head", "side", "bytes", "psnr"]


def test_the_page_needs_nothing_else(report, tmp_path):
    write_report(report, tmp_path)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|audio|video)[^>]*(src|href)=['\"](?!data:)", page)
    assert "data:image/png;base64," in page and "<audio" in page and "<video" in page
    body = page.split("</style>")[1].split("<h2>Curves")[0]
    assert "<b>&" not in body and "&lt;b&gt;&amp;" in body and "&lt;i&gt;One" in body
    assert "<details><summary>other" in page and "PSNR, dB ↑" in page and "cores: 2" in page


def test_charts_hold_the_points_in_order(report):
    pytest.importorskip("plotly", reason="plotly is not installed (extra eval)")
    (chart,) = charts_of(report.curves[0], report)
    (line,) = chart["data"]
    assert line["x"] == [2.0, 4.0] and line["y"] == [11.0, 12.0]  # no log of 0 bytes
    assert chart["layout"]["xaxis"]["type"] == "log"
    assert chart["layout"]["xaxis"]["tickvals"][0] <= 2 and "side 8" in str(
        chart["layout"]["title"]
    )
    json.dumps(chart, allow_nan=False)


def test_an_empty_report_makes_a_page(tmp_path):
    page = make_page(Report("t", "speech", [], []), tmp_path)
    assert "<h1>t</h1>" in page and "Figures" not in page


def test_what_is_no_report_is_refused(tmp_path):
    for text in ("", "[]", '{"format": 2}', '{"format": 1, "columns": [3]}'):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(ValueError, match="is no report of format 1"):
            read_report(tmp_path)


def test_cells_are_short():
    column = Column("x", "x", digits=2)
    assert [shown(v, column) for v in (None, math.nan, 3, 1234.5678, 5.0, "a")] == [
        *("–", "–", "3", "1,234.57", "5.00", "a")
    ]

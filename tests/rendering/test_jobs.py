"""Jobs files and grids: what is read, and one line with file, line and field for what is wrong."""

import json

import pytest

from studio.media.image import WRITE_SUFFIXES
from studio.rendering.jobs import check_output, read_grid, read_jobs
from studio.rendering.media import SUFFIXES


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_jsonl(tmp_path):
    lines = '{"prompt": "red apple", "seed": 7, "output": "a"}\n\n  \n{"prompt": "x", "count": 2}'
    first, second = read_jobs(written(tmp_path, "jobs.jsonl", lines))
    assert first.request.prompt == "red apple" and first.request.seed == 7 and first.seeded
    assert first.output == "a" and first.place == "jobs.jsonl line 1"
    assert second.place == "jobs.jsonl line 4" and second.request.count == 2
    assert not second.seeded and second.output is None and not second.modelled


def test_csv_gives_the_same_jobs(tmp_path):
    table = (
        "\ufeffprompt,seed,guidance_scale,decoding_options,option.top,output\r\n"
        '"a, b",7,1.5,"{""min_p"": 0.1}",cosine,x/y.png\r\n'
        "\r\n"
        "rocket,,,,,\r\n"
    )
    first, second = read_jobs(written(tmp_path, "jobs.CSV", table))
    assert first.request.to_dict() == {
        "model": "emoji-1d",
        "prompt": "a, b",
        "seed": 7,
        "count": 1,
        "guidance_scale": 1.5,
        "decoding_options": {"min_p": 0.1, "top": "cosine"},
        "schema": 1,
    }
    assert first.output == "x/y.png"
    assert second.request.prompt == "rocket" and not second.seeded
    assert second.place == "jobs.CSV line 4"


BAD_LINES = [
    ('{"prompt": "a", "seed": -1}', "seed -1 must be a whole number"),
    ('{"prompt": "a", "seed": "7"}', "seed '7' must be a whole number"),
    ('{"prompt": "a", "guidance_scale": NaN}', "guidance_scale nan must be a number"),
    ('{"prompt": ""}', "prompt of 0 characters"),
    ('{"prompt": "a", "sed": 1}', "field 'sed' is unknown; known: output, model"),
    ('{"prompt": "a", "seed": 1, "seed": 2}', "field 'seed' stands twice"),
    ('{"prompt": "a"', "is no valid JSON: Expecting ',' delimiter at column"),
    ("[1]", "must be a JSON object, not list"),
    ('"a"', "must be a JSON object, not str"),
    ("[" * 60_000, "is nested too deeply"),
    (b'{"prompt": "\xff"}', "is no UTF-8 text"),
    ('{"prompt": "a", "output": "../a"}', "output '../a' must be a name"),
    ('{"prompt": "a", "output": 3}', "output 3 must be a name"),
    ('{"prompt": "a", "input": "' + "0" * 64 + '"}', "input: a batch can't change pictures"),
    ('{"prompt": "a", "decoding_options": 1, "option.a": 2}', "decoding_options must be"),
    ('{"seed": ' + "9" * 5000 + "}", "integer string conversion"),
    ('{"prompt": "' + "a" * 70_000 + '"}', "longer than 65536 bytes"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_wrong_lines_are_named(tmp_path, line, message):
    raw = line if isinstance(line, bytes) else line.encode()
    path = written(tmp_path, "jobs.jsonl", b'{"prompt": "fine"}\n' + raw + b"\n")
    with pytest.raises(ValueError, match="^jobs.jsonl line 2: ") as error:
        read_jobs(path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_first_of_several_wrong_lines_is_shown(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"seed": -1}\n{}\n{"seed": -2}\n{"x": 1}\n')
    with pytest.raises(ValueError, match=r"^a.jsonl line 1: seed -1 .* \(2 more are wrong\)"):
        read_jobs(path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("prompt,sed\na,1\n", "line 1: column 'sed' is unknown; known: output"),
        ("prompt,seed,seed\n", "line 1: column 'seed' stands twice"),
        ("prompt,seed\na,x\n", "line 2: seed 'x' must be a whole number"),
        ("prompt,seed\na,1\nb,2,3\n", "line 3: has 3 cells, but there are 2 columns"),
        ('prompt,seed\n"a,1\n', "is no CSV"),
        (b"prompt\n\xff\xfe\n", "is no UTF-8 text"),
        ("prompt\n" + "a" * 200_000 + "\n", "is no CSV: field larger"),
        ("prompt,decoding_options\na,{\n", "line 2: decoding_options '{' must be an object"),
    ],
)
def test_wrong_tables_are_named(tmp_path, table, message):
    with pytest.raises(ValueError) as error:
        read_jobs(written(tmp_path, "jobs.csv", table))
    assert str(error.value).startswith("jobs.csv line ") and message in str(error.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_jobs(tmp_path / "no.jsonl")
    with pytest.raises(ValueError, match="must end in one of .jsonl, .ndjson, .csv"):
        read_jobs(written(tmp_path, "jobs.txt", "{}"))
    for name in ("a.jsonl", "a.csv"):
        with pytest.raises(ValueError, match="holds no job"):
            read_jobs(written(tmp_path, name, "\n"))
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read_jobs(tmp_path / "d.csv")


@pytest.mark.parametrize(
    "name",
    ["", "a" * 201, "/a", "a/", "a//b", "..", "a/../b", ".a", "a/.b", "a\\b", "C:a", "a\nb", "a ",
     "a.", "failed/a", "Failed/a", "a\x00", "-a", "~/a", "🍎" * 10, "b/" * 9 + "a", "ä" * 110],
)  # fmt: skip
def test_names_that_could_do_harm(name):
    with pytest.raises(ValueError, match="output"):
        check_output(name)


@pytest.mark.parametrize("name", ["a", "failed", "a b-c_d.e", "红苹果", "x/y (2)/z.webp", "a.png"])
def test_names_that_are_fine(name):
    assert check_output(name) == name


def test_grid():
    jobs = read_grid(['prompt=red apple, "a, b"', "seed=8..10", "option.min_p=0.5"])
    cells = [(job.request.prompt, job.request.seed) for job in jobs]
    assert cells == [(p, s) for p in ("red apple", "a, b") for s in (8, 9, 10)]
    assert jobs[0].request.decoding_options == {"min_p": 0.5}
    assert jobs[4].place == "--grid cell 5" and all(job.seeded for job in jobs)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (["prompt"], "--grid 'prompt' must be NAME=VALUES"),
        (["sed=1"], "--grid 'sed=1' must be NAME=VALUES with NAME one of model"),
        (["output=a,b"], "must be NAME=VALUES"),
        (["seed=1", "seed=2"], "--grid seed is given twice"),
        (["seed=9..0"], "--grid seed=9..0 must rise"),
        (["seed=0..9999999"], "must rise, by less than"),
        (["seed=0..9999", "top_k=0..9999"], "--grid has 100,000,000 cells"),
        (["prompt=a,,b"], "has an empty value"),
        (['prompt="a'], "must be values between commas"),
        (["prompt=a", "seed=1.5"], "--grid cell 1: seed '1.5' must be a whole number"),
        (["prompt=a", "seed=-2..3"], "--grid cell 1: seed -2 must be"),
    ],
)
def test_wrong_grids(axes, message):
    with pytest.raises(ValueError) as error:
        read_grid(axes)
    assert message in str(error.value)


def test_suffixes_are_those_that_are_written():
    assert tuple(WRITE_SUFFIXES) == SUFFIXES


def test_a_dump_of_a_request_is_a_line(tmp_path):
    """What is inside a file is a job."""
    from studio import Request

    request = Request(prompt="x", seed=3, decoding="plain", decoding_options={"min_p": 0.1})
    (job,) = read_jobs(written(tmp_path, "a.jsonl", json.dumps(request.to_dict())))
    assert job.request == request

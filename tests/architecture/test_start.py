"""Starting is cheap: neither `import studio` nor `studio --help` loads a framework."""

import os
import resource
import subprocess
import sys

import pytest

HEAVY = ("torch", "diffusers", "transformers", "numpy", "PIL", "tokenizers", "accelerate")


def output_of(code, root):
    """What some code prints in a fresh interpreter."""
    env = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True
    ).stdout


def loaded_after(code, root):
    """The heavy packages in memory after some code ran in a fresh interpreter."""
    tail = f"\nimport sys; print('LOADED', [m for m in {HEAVY} if m in sys.modules])"
    return output_of(code + tail, root).splitlines()[-1]


def test_import_studio_is_light(root):
    code = "import studio; studio.__version__; dir(studio); studio.__all__"
    assert loaded_after(code, root) == "LOADED []"


def test_a_class_is_loaded_when_it_is_used(root):
    assert loaded_after("import studio; studio.TokenLayout", root) == "LOADED []"
    assert "torch" in loaded_after("import studio; studio.GridTokenizer", root)


@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["models", "--json"]])
def test_commands_that_need_no_network_are_light(root, arguments):
    code = (
        f"import sys; from studio.cli.main import main; sys.argv = ['studio', *{arguments}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    )
    assert loaded_after(code, root) == "LOADED []"


def test_generate_loads_nothing_that_it_does_not_use(root, bundled, tmp_path):
    """torch._dynamo and what it brings take as long as torch itself; diffusers' own pipelines and
    models longer; so does transformers."""
    bundled("emoji-1d")
    code = (
        "import sys; from studio.cli.main import run\n"
        f"assert run(['generate', 'red apple', '-o', {str(tmp_path / 'a.png')!r}]) == 0\n"
        "late = ('torch._dynamo', 'transformers', 'sympy', 'scipy', 'pandas', 'torchvision')\n"
        "print([m for m in (*late, 'diffusers.models.autoencoders') if m in sys.modules])"
    )
    assert output_of(code, root).splitlines()[-1] == "[]"
    assert (tmp_path / "a.png").is_file()


def test_help_takes_half_a_second(run_studio):
    """Processor time: what the clock shows on a machine that does nothing else. On a busy one the
    clock would measure the others."""
    times = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run_studio("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0 and "generate" in done.stdout
    assert min(times) <= 0.5, f"studio --help took {min(times):.2f} s at best"

"""Starting is cheap: neither `import studio` nor `studio --help` loads a framework."""

import os
import resource
import subprocess
import sys

HEAVY = ("torch", "diffusers", "transformers", "numpy", "PIL", "tokenizers", "accelerate")


def loaded_after(code, root):
    """The heavy packages in memory after some code ran in a fresh interpreter."""
    tail = f"\nimport sys; print('LOADED', [m for m in {HEAVY} if m in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code + tail], capture_output=True, text=True, env=env, check=True
    )
    return done.stdout.splitlines()[-1]


def test_import_studio_is_light(root):
    code = "import studio; studio.__version__; dir(studio); studio.__all__"
    assert loaded_after(code, root) == "LOADED []"


def test_a_class_is_loaded_when_it_is_used(root):
    assert loaded_after("import studio; studio.TokenLayout", root) == "LOADED []"
    assert "torch" in loaded_after("import studio; studio.GridTokenizer", root)


def test_help_is_light(root):
    code = (
        "import sys; from studio.cli.main import main; sys.argv = ['studio', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    )
    assert loaded_after(code, root) == "LOADED []"


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

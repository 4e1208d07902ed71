"""Optional packages: there, absent, broken; and what the doctor says of them."""

import subprocess
import sys

import pytest

from studio import env


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A package on the path that fails as a wheel for another torch does."""

    def make(name, error):
        (tmp_path / f"{name}.py").write_text(f"raise {error}\n")
        info = tmp_path / f"{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        env.probe.cache_clear()
        return name

    yield make
    env.probe.cache_clear()


def test_probe_of_a_package_that_works():
    state = env.probe("yaml")
    assert state.ok and state.installed and state.version and state.error is None
    assert env.need("yaml", extra="dev").__name__ == "yaml"


def test_probe_of_an_absent_package():
    state = env.probe("studio_no_such_package")
    assert not state.ok and not state.installed and "No module named" in state.error


@pytest.mark.parametrize(
    "error",
    ["OSError('libc10_cuda.so: cannot open')", "RuntimeError('operator x does not exist')"],
)
def test_broken_wheels_are_survived_and_named(broken, error):
    name = broken("studio_broken_wheel", error)
    state = env.probe(name)
    assert state.installed and not state.ok and state.version == "1.2"
    with pytest.raises(ImportError) as caught:
        env.need(name, extra="audio")
    message = str(caught.value)
    assert message.startswith(f"{name} does not work here ({error.partition('(')[0]}: ")
    assert message.endswith('[audio]"') and "\n" not in message


def test_need_of_an_absent_package_names_the_extra():
    with pytest.raises(ImportError, match=r'is not installed .* pip install .*\[gpu\]"$'):
        env.need("studio_no_such_package", extra="gpu")


def test_a_package_that_kills_the_interpreter_is_reported(broken):
    name = broken("studio_killer", "SystemExit(3)")
    state = env.probe_apart(name)
    assert state.installed and not state.ok and state.error


def test_a_package_that_hangs_is_reported(broken, tmp_path):
    name = broken("studio_hanger", "SystemExit")
    (tmp_path / f"{name}.py").write_text("import time\ntime.sleep(60)\n")
    assert "more than 1 s" in env.probe_apart(name, timeout=1).error


def test_the_mending_line_follows_the_kind_of_install(monkeypatch, tmp_path):
    assert env.mend("app") == 'pip install -e ".[app]"' and env.mend() == "pip install -e ."
    monkeypatch.setattr(env, "__file__", str(tmp_path / "studio" / "env.py"))
    assert env.mend("app") == 'pip install "token-studio[app]"'
    assert env.mend() == "pip install token-studio"


def test_mends_name_what_fails():
    works = env.Probe("torch", True, "2.11")
    lost = env.Probe("diffusers", False, None, "not installed")
    other = env.Probe("torchvision", False, "0.28", "RuntimeError: operator")
    absent = env.Probe("ray", False, None, "not installed")
    lines = env._mends([works, lost], [other, absent], None, [])
    assert [line.split()[0] for line in lines] == ["diffusers", "no", "torchvision", "ray", "emoji"]
    assert "torchvision==0.26.*" in lines[2] and '[ray]"' in lines[3]
    assert env._mends([works], [], "font", ["emoji-1d"]) == []


def test_no_probe_at_import():
    code = "import sys, studio.env; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

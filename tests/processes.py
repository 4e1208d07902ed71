"""Commands in processes of their own that need not load torch anew: one process loads it, and every
command is a fork of that one.

A fork has memory, folder, environment and streams of its own and can be killed; what it shares is
that torch, diffusers and our modules are loaded. The process that is forked has run nothing, so no
thread is lost. Tests of how `studio` starts take an interpreter of their own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


class Command:
    """A command that runs: `pid`, and what it has written so far in the files `out` and `err`."""

    def __init__(self, forks, pid, out, err):
        self._forks, self.pid, self.out, self.err, self._code = forks, pid, out, err, None

    def poll(self):
        """The exit code, minus the signal's number where one ended it; None while it runs."""
        if self._code is None:
            self._code = self._forks.ask(pid=self.pid)
        return self._code

    def wait(self, timeout=300):
        """Its exit code; an end after `timeout` seconds is an error."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                os.kill(self.pid, 9)
                raise TimeoutError(f"a command took more than {timeout} s: {self.err.read_text()}")
            time.sleep(0.01)
        return self._code


class Forks:
    """The process that is forked; it ends with this one."""

    def __init__(self, folder):
        self._folder, self._number = Path(folder), 0
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self._folder / "forks.err").open("w"),
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths},
        )

    def ask(self, **what):
        """One question, one answer."""
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            raise RuntimeError((self._folder / "forks.err").read_text()) from None

    def start(self, *arguments, cwd=None):
        """`studio` with these arguments, as a `Command`."""
        self._number += 1
        out, err = (self._folder / f"{self._number}.{name}" for name in ("out", "err"))
        pid = self.ask(
            run=[str(argument) for argument in arguments],
            cwd=str(cwd or os.getcwd()),
            env=dict(os.environ),
            out=str(out),
            err=str(err),
        )
        return Command(self, pid, out, err)

    def run(self, *arguments, cwd=None, timeout=300):
        """`studio` to its end, as `subprocess.run` gives it."""
        command = self.start(*arguments, cwd=cwd)
        code = command.wait(timeout)
        return subprocess.CompletedProcess(
            arguments, code, command.out.read_text(), command.err.read_text()
        )

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def _child(job):
    from studio.cli.main import run

    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    for number, name in ((0, os.devnull), (1, job["out"]), (2, job["err"])):
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, number)
    sys.stdout = open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
    try:
        code = run(job["run"])
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve():
    from studio.hub import import_diffusers

    import_diffusers()
    import studio.cli.main
    import studio.pipelines.auto
    import studio.training.loop  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        if "run" in job:
            pid = os.fork()
            if not pid:
                _child(job)
            answer = pid
        else:
            ended, status = os.waitpid(job["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("MPLCONFIGDIR", folder)
        _serve()

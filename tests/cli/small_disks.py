"""Runs commands on small disks: each job of standard input gets a file system of its own.

Run it as `unshare --map-root-user --mount python -m tests.cli.small_disks`: what it mounts is seen
by this process alone, and gone when it ends. Jobs are JSON: `disk` (a folder), `size` in bytes,
`arguments` of the command, `there` (names and texts of files that are there before). A job on the
disk of an earlier one makes that disk larger; `keep` (a folder) gets a copy of it. Answers with a
list: code, error output, files.
"""

import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path


def run_job(job):
    from studio.cli.main import run

    disk = Path(job["disk"])
    options = f"size={job['size']}" + (",remount" if os.path.ismount(disk) else "")
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", disk], check=True)
    os.chdir(disk)
    for name, text in job.get("there", {}).items():
        Path(name).write_text(text)
    errors = io.StringIO()
    with redirect_stderr(errors), redirect_stdout(io.StringIO()):
        code = run(job["arguments"])
    files = {str(p.relative_to(disk)): p for p in sorted(disk.rglob("*")) if p.is_file()}
    texts = {name: path.read_text() for name, path in files.items() if name in job.get("there", {})}
    os.chdir("/")
    if "keep" in job:
        shutil.copytree(disk, job["keep"])
    return {"code": code, "stderr": errors.getvalue(), "files": sorted(files), "texts": texts}


if __name__ == "__main__":
    json.dump([run_job(job) for job in json.load(sys.stdin)], sys.stdout)

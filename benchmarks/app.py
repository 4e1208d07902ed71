"""Twenty visitors at once: the app's server under load, with the bundled image model.

First over the REST API, then on the app's page Create, see `app_visit.py`. Every visitor submits
jobs of its own words and seeds, waits for the results as a client or a browser does, and compares:
the request inside a file must be the visitor's own, and its bytes those of the same request made
alone at the end. Memory is the server's, read every second.

    python benchmarks/app.py [--visitors 20] [--sessions 20] [--jobs 3] [--out FILE.json]
"""

import argparse
import hashlib
import http.client
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from app_visit import Visit
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
WORDS = ("red apple", "rocket", "blue apple on yellow", "cat face", "octopus on teal", "pizza")
START = 600.0  # seconds
names: set[str] = set()  # that the server gave to visitors of pages


class Server:
    """The app, started by the command in an empty workspace."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder / "workspace", folder / "log"
        command = [sys.executable, "-m", "studio.cli.main", "app", "--port", "0"]
        command += ["--workspace", str(self.folder), "--device", "cpu"]
        with open(self.log, "w") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        end = time.monotonic() + START
        while "studio is at" not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(self.log.read_text())
            time.sleep(0.2)
        address = self.log.read_text().split("studio is at http://")[1].split()[0]
        self.host, self.port = address.split(":")
        self.token = (self.folder / "api-token").read_text().strip()

    def call(self, method: str, path: str, body=None, *, timeout: float = 3600):
        """The status and the bytes of an answer."""
        line = http.client.HTTPConnection(self.host, int(self.port), timeout=timeout)
        data = None if body is None else json.dumps(body).encode()
        line.request(method, path, data, {"Authorization": f"Bearer {self.token}"})
        answer = line.getresponse()
        return answer.status, answer.read()

    def memory(self) -> int:
        """Bytes that the server holds."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def make(self, body: dict) -> tuple[float, list[bytes], dict]:
        """One job from beginning to end: seconds, files and the last event."""
        started = time.monotonic()
        status, answer = self.call("POST", "/api/v1/jobs", body)
        if status != 202:
            raise RuntimeError(f"{status}: {answer[:200]!r}")
        job = json.loads(answer)
        _, text = self.call("GET", f"/api/v1/jobs/{job['id']}/events")
        events = [line[6:] for line in text.decode().splitlines() if line.startswith("data: ")]
        last = json.loads(events[-1])
        if last["state"] != "done":
            raise RuntimeError(f"{last['state']}: {last['error']}")
        files = [self.call("GET", result["url"])[1] for result in last["results"]]
        return time.monotonic() - started, files, last


def by_rest(server: Server, number: int, jobs: int, found: list, wrong: list) -> None:
    """One visitor's jobs over the API; what went wrong is added to `wrong`."""
    for i in range(jobs):
        prompt, seed = own(number, i)
        try:
            body = {"model": "emoji-1d", "prompt": prompt, "seed": seed}
            seconds, (data,), _ = server.make(body)
        except (RuntimeError, OSError, ValueError) as error:
            wrong.append(f"visitor {number}: {error}")
            continue
        note(number, i, seconds, data, found, wrong)


def by_page(server: Server, number: int, jobs: int, found: list, wrong: list) -> None:
    """One visitor's jobs on the page Create; what went wrong is added to `wrong`."""
    try:
        with closing(Visit(server.host, int(server.port))) as page:
            names.add(page.cookie)
            for i in range(jobs):
                started = time.monotonic()
                data = page.make(*own(number, i))
                note(number, i, time.monotonic() - started, data, found, wrong)
            seeds = {inside(data).get("seed") for data in page.pictures.values()} - {None}
            if seeds != {own(number, i)[1] for i in range(jobs)}:
                wrong.append(f"visitor {number}: another visitor's picture was shown")
            if page.most_mine > 1:
                wrong.append(f"visitor {number}: another visitor's job was called one's own")
    except (RuntimeError, OSError, ValueError) as error:
        wrong.append(f"visitor {number}: {type(error).__name__}: {error}")


def own(number: int, i: int) -> tuple[str, int]:
    """What a visitor asks for: a prompt and a seed that nobody else has."""
    return WORDS[(number + i) % len(WORDS)], 1000 * number + i


def inside(data: bytes) -> dict:
    """The request inside a picture; none in a preview."""
    return json.loads(getattr(Image.open(io.BytesIO(data)), "text", {}).get("studio", "{}"))


def note(number: int, i: int, seconds: float, data: bytes, found: list, wrong: list) -> None:
    """Keeps what came back, and says so when it is another's."""
    request = inside(data)
    if (request.get("prompt"), request.get("seed")) != own(number, i):
        wrong.append(f"visitor {number}: another visitor's picture")
    found.append((request, seconds, hashlib.sha256(data).hexdigest()))


def measure(visit: Callable[..., None], visitors: int, jobs: int, alone: int) -> dict:
    """All figures of one load."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            server.make({"prompt": "warm up", "seed": 1})
            before, peak, over = server.memory(), [0], threading.Event()

            def watch() -> None:
                while not over.wait(1.0):
                    peak[0] = max(peak[0], server.memory())

            threading.Thread(target=watch, daemon=True).start()
            found: list = []
            wrong: list = []
            started = time.monotonic()
            threads = [
                threading.Thread(target=visit, args=(server, n, jobs, found, wrong))
                for n in range(visitors)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seconds = time.monotonic() - started
            after = server.memory()
            over.set()
            mixed = 0
            for body, _, digest in found[:: max(1, len(found) // alone)][:alone]:
                _, (data,), _ = server.make(body)
                mixed += hashlib.sha256(data).hexdigest() != digest
            times = sorted(taken for _, taken, _ in found)
            return {
                "visitors": visitors,
                "jobs": len(found),
                "errors": wrong,
                "compared_alone": min(alone, len(found)),
                "different_alone": mixed,
                "seconds": round(seconds, 1),
                "jobs_a_second": round(len(found) / seconds, 3),
                "latency_median_s": round(statistics.median(times), 2),
                "latency_longest_s": round(times[-1], 2),
                "memory_before_mb": round(before / 1e6),
                "memory_peak_mb": round(max(peak[0], after) / 1e6),
                "memory_after_mb": round(after / 1e6),
                "traceback_in_log": "Traceback" in server.log.read_text(),
            }
        finally:
            server.process.terminate()
            server.process.wait(60)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--sessions", type=int, default=20, help="of pages; 0 for none")
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("--alone", type=int, default=10)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "app-cpu-2-cores.json"
    )
    options = parser.parse_args()
    load = os.getloadavg()[0]
    report = {
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load_before": round(load, 1),
            "note": "the load before says how busy the machine was with other work",
        },
        "result": measure(by_rest, options.visitors, options.jobs, options.alone),
    }
    if options.sessions:
        report["pages"] = measure(by_page, options.sessions, options.jobs, options.alone)
        report["pages"]["distinct_visitors"] = len(names)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

"""Starts the studio's server: the app's pages and the REST API in one process, on one queue.

Bound to this machine alone. Requests for another host name are refused, so that a page on the web
can't reach the studio through a name of its own; the API wants its token besides.
"""

import argparse
import contextlib
import logging
import os
import socket
import sys
from pathlib import Path

HOST = "127.0.0.1"
ALLOWED = [HOST, "localhost", "[::1]"]
# These go before any configuration file of the user's.
os.environ.update(
    STREAMLIT_BROWSER_GATHER_USAGE_STATS="false",
    STREAMLIT_SERVER_FILE_WATCHER_TYPE="none",
    STREAMLIT_SERVER_ADDRESS=HOST,
    STREAMLIT_SERVER_ALLOWED_HOSTS=",".join(ALLOWED),
    STREAMLIT_SERVER_ENABLE_XSRF_PROTECTION="true",
    STREAMLIT_CLIENT_SHOW_ERROR_DETAILS="none",
    HF_HUB_DISABLE_TELEMETRY="1",
    DIFFUSERS_VERBOSITY="error",
)
# Threads that wait for each other spin; with another process on a core that costs ten times the
# time.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of a start."""
    parser = argparse.ArgumentParser(prog="studio app", allow_abbrev=False)
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument("--workspace", default="studio-workspace")
    parser.add_argument("--models", action="append", default=[])
    parser.add_argument("--keep", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    return parser.parse_args(arguments)


def make_app(said: str = ""):
    """The ASGI application: pages, API and the guard before both; prints `said` when it starts."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Mount
    from streamlit import App

    from studio.server.api import make_api
    from studio.server.visitors import Visitors

    @contextlib.asynccontextmanager
    async def lifespan(app):
        print(said, flush=True)
        yield {}

    return App(
        Path(__file__).with_name("main.py"),
        lifespan=lifespan,
        routes=[Mount("/api", make_api())],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=ALLOWED, www_redirect=False),
            Middleware(Visitors),
        ],
    )


def main(arguments: list[str] | None = None) -> int:
    """Serves until it is interrupted; an exit code."""
    options = parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    import uvicorn

    from studio.server.studio import close_studio, open_studio

    try:
        with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((HOST, options.port))
            except (OSError, OverflowError) as error:
                raise ValueError(f"--port {options.port} can't be used: {error}") from None
            studio = open_studio(
                options.workspace,
                keep=options.keep,
                device=options.device,
                dtype=options.dtype,
                models=options.models,
            )
            address = f"http://{HOST}:{listener.getsockname()[1]}"
            studio.workspace.token()
            said = f"studio is at {address} (API: {address}/api/v1)\n"
            config = uvicorn.Config(
                make_app(f"{said}workspace and API token: {studio.workspace.folder}"),
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=3,
                ws_max_size=80 * 2**20,
            )
            uvicorn.Server(config).run(sockets=[listener])
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:
        close_studio()
    return 0


if __name__ == "__main__":
    sys.exit(main())

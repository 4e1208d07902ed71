"""Who a visitor is: a random name in a cookie, the same after a reload and in every tab.

Jobs of one's own can be ended; so the name is nowhere in a page's address, which is passed on, and
no script can read it. It ends with the browser. Whoever sends no such cookie is new at every visit.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

COOKIE = "studio-visitor"
_NAME = re.compile(r"[0-9a-f]{32}")
_App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


def name_in(cookies: Mapping[str, str]) -> str | None:
    """The name that cookies hold; None for none, and for one that was not given here, such as that
    of the API's jobs."""
    name = cookies.get(COOKIE, "")
    return name if _NAME.fullmatch(name) else None


class Visitors:
    """ASGI middleware that gives every browser a name with its first page.

    Args:
        app: what it stands before.
    """

    def __init__(self, app: _App):
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        async def named(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and _is_page(message):
                cookie = f"{COOKIE}={secrets.token_hex(16)}; Path=/; HttpOnly; SameSite=Lax"
                message["headers"] = [*message["headers"], (b"set-cookie", cookie.encode())]
            await send(message)

        new = scope["type"] == "http" and _name_of(scope) is None
        await self._app(scope, receive, named if new else send)


def _name_of(scope: Mapping[str, Any]) -> str | None:
    lines = [value.decode("latin-1") for key, value in scope["headers"] if key == b"cookie"]
    try:
        found = SimpleCookie("; ".join(lines))
    except CookieError:
        return None
    return name_in({name: cookie.value for name, cookie in found.items()})


def _is_page(message: Mapping[str, Any]) -> bool:
    """Also one that the browser has: its answer, 304, says nothing of the type."""
    kinds = [value for key, value in message["headers"] if key.lower() == b"content-type"]
    return message["status"] == 304 or any(kind.startswith(b"text/html") for kind in kinds)

"""Visitors: a name with the first page, kept afterwards, and none that is made up."""

import asyncio

import pytest

from studio.server.visitors import COOKIE, Visitors, name_in


def given(cookie=None, *, status=200, kind=b"text/html; charset=utf-8"):
    """The cookie that an answer sets; None for none."""
    sent = []

    async def app(scope, receive, send):
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]}
        )

    async def send(message):
        sent.append(message)

    headers = [] if cookie is None else [(b"cookie", cookie.encode())]
    asyncio.run(Visitors(app)({"type": "http", "headers": headers}, None, send))
    return dict(sent[0]["headers"]).get(b"set-cookie", b"").decode() or None


def test_a_browser_gets_a_name_with_its_first_page_and_keeps_it():
    first, second = given(), given()
    assert first and second and first != second
    assert "HttpOnly" in first and "SameSite=Lax" in first
    own = first.partition(";")[0]
    assert given(own) is None and given(f"other=1; {own}") is None
    assert given(f"{COOKIE}=api") and given("][=;;") and given(status=304, kind=b"")
    assert given(kind=b"text/javascript") is None


@pytest.mark.parametrize("name", ["", "api", "0" * 31, "g" * 32, "0" * 33])
def test_names_that_were_not_given_here_count_for_nothing(name):
    assert name_in({COOKIE: name}) is None and name_in({}) is None
    assert name_in({COOKIE: "0" * 32}) == "0" * 32

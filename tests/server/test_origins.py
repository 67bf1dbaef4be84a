"""Which pages may open a WebSocket (RFC 6455 §10.2, RFC 6454): by default those of the same origin."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.support import Peer, serving, upgrade

import portico


async def handler(ws: portico.WebSocket) -> None:
    pass


async def outcome(origin: str | None, *, host: str = "example.org:8000", **options: Any) -> int:
    """The status that a request with this Origin gets."""
    async with serving(handler, **options) as server, await Peer.connect(server) as peer:
        peer.send(upgrade(origin=origin, host=host))
        answer = await peer.answer() if origin is None else await peer.head()
        return answer.status


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        (None, "example.org:8000", 101),  # no browser, and who is no browser could write any Origin
        ("http://example.org:8000", "example.org:8000", 101),
        ("HTTP://Example.ORG:8000", "example.org:8000", 101),  # scheme and host are compared without case
        ("http://example.org:8000", "EXAMPLE.org:8000", 101),
        ("http://example.org", "example.org:80", 101),  # the scheme's own port may be left out
        ("http://example.org:80", "example.org", 101),
        ("http://[::1]:8000", "[::1]:8000", 101),
        ("http://[2001:DB8::1]:8000", "[2001:db8::1]:8000", 101),
        ("null", "example.org:8000", 403),  # a sandboxed frame, a file: anybody's
        ("", "example.org:8000", 403),
        ("http://example.org:8001", "example.org:8000", 403),
        ("http://example.org", "example.org:8000", 403),
        ("https://example.org:8000", "example.org:8000", 403),
        ("http://sub.example.org:8000", "example.org:8000", 403),
        ("http://example.org:8000", "sub.example.org:8000", 403),
        ("http://example.org:8000.evil.example", "example.org:8000", 403),
        ("http://evil.example/example.org:8000", "example.org:8000", 403),
        ("http://user@example.org:8000", "example.org:8000", 403),
        ("http://[::2]:8000", "[::1]:8000", 403),
        ("http://example.org:8000/", "example.org:8000", 403),  # an origin has no path
        ("http://example.org:8000 http://evil.example", "example.org:8000", 403),
        ("example.org:8000", "example.org:8000", 403),
        ("http://", "example.org:8000", 403),
        ("null", "null", 403),
        ("://", "", 403),
    ],
)
async def test_the_same_origin(origin: str | None, host: str, status: int) -> None:
    assert await outcome(origin, host=host) == status


@pytest.mark.parametrize(
    ("origins", "origin", "status"),
    [
        (["https://app.example"], "https://app.example", 101),
        (["https://app.example"], "https://app.example:443", 101),
        (["https://app.example"], "HTTPS://APP.example", 101),
        (["https://app.example", "https://other.example"], "https://other.example", 101),
        (["https://app.example"], "http://app.example", 403),
        (["https://app.example"], "https://app.example.evil.example", 403),
        (["https://app.example"], "http://example.org:8000", 403),  # the list is all: the server's own is not in it
        ([re.compile(r"https://[a-z]+\.app\.example")], "https://one.app.example", 101),
        ([re.compile(r"https://[a-z]+\.app\.example")], "https://one.app.example.evil.example", 403),  # a whole match
        ([re.compile(r"https://[a-z]+\.app\.example")], "https://evil.example/https://one.app.example", 403),
        (["*"], "https://anybody.example", 101),
        (["*"], "null", 101),
        (["null"], "null", 101),
        ([], "http://example.org:8000", 403),
        ([], None, 101),
    ],
)
async def test_a_list_of_origins(origins: list[Any], origin: str | None, status: int) -> None:
    assert await outcome(origin, origins=origins) == status


async def test_a_refusal_says_which_origin_came_and_what_to_set() -> None:
    async with serving(handler) as server, await Peer.connect(server) as peer:
        peer.send(upgrade(origin="https://evil.example", host="example.org"))
        answer = await peer.refused(403)
        assert "'https://evil.example'" in answer.text
        assert "'http://example.org'" in answer.text
        assert "origins=['https://evil.example']" in answer.text


async def test_the_refusal_comes_before_authenticate_and_for_mounted_applications_too() -> None:
    """Whoever is turned away for its origin reaches no code of the application."""

    def authenticate(request: portico.Request) -> None:
        raise AssertionError("asked for a refused origin")

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"

    app = portico.App()
    app.websocket("/ws", handler, authenticate=authenticate)
    app.mount("/", asgi)
    async with serving(app) as server:
        for path in ("/ws", "/mounted"):
            async with await Peer.connect(server) as peer:
                peer.send(upgrade(path, origin="https://evil.example"))
                await peer.refused(403)

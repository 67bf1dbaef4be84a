"""The corpus of requests over a socket, as plain requests and as requests to switch to WebSocket.

For each: one answer and no more, the connection closed behind a refusal, the application never called for what was
refused, and what follows it on the connection never answered (RFC 9112 §11.2).
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.support import Peer, respond, serving
from tests.wire.corpus.cases import CASES, Case

import portico
from portico.testing import torn

NEXT = b"GET /next HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"
GROUPS = sorted({case.group for case in CASES})

by_group = pytest.mark.parametrize("group", GROUPS)


class Application:
    """Reads each request's body, answers with it, and keeps what it was called for."""

    def __init__(self) -> None:
        self.called: list[tuple[str, str]] = []
        self.completed: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        self.called.append((scope["type"], scope["path"]))
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return  # the body was broken off
            body += message["body"]
            more = message["more_body"]
        self.completed.append(scope["path"])
        await respond(send, body)


async def end_of(peer: Peer) -> None:
    assert await peer.to_end() == b"", "more than the answer came"


async def plain(server: portico.Server, app: Application, case: Case) -> None:
    """The case as it is, and another request behind it."""
    async with await Peer.connect(server) as peer:
        peer.send(case.sent + NEXT)
        for number in range(case.requests):
            answer = await peer.answer("HEAD" if case.sent.startswith(b"HEAD") else "GET")
            assert answer.status == 200, answer
            assert number or answer.body == (case.body or b"")
        if not case.accepted:
            await peer.refused(case.status)
        elif not case.closes:
            assert (await peer.answer()).status == 200
        await end_of(peer)
    expected = case.requests + (case.accepted and not case.closes)
    assert len(app.completed) == expected, app.completed
    assert ("/next" in app.completed) == (case.accepted and not case.closes)
    assert len(app.called) == expected + (case.stage == "body" and not case.accepted), app.called
    assert not any("smuggled" in path for _, path in app.called)


async def switching(server: portico.Server, app: Application, case: Case, data: bytes) -> None:
    """The same lines in a request to switch, and a request behind it, which is never read as one."""
    async with await Peer.connect(server) as peer:
        if case.upgrade == 101:
            peer.send(data)
            answer = await peer.head()
            assert answer.status == 101, answer
            assert [kind for kind, _ in app.called] == ["websocket"]
            return
        peer.send(data + NEXT)
        await peer.refused(case.upgrade)
        await end_of(peer)
    assert app.called == []


async def failing(cases: list[Case], path: str) -> dict[str, str]:
    """Each case on a connection of its own, one after another; those that failed, and why."""
    app = Application()
    failed = {}
    async with serving(app) as server:
        for case in cases:
            app.called.clear()
            app.completed.clear()
            try:
                if path == "plain":
                    await plain(server, app, case)
                else:
                    assert case.switching is not None
                    await switching(server, app, case, case.switching)
            except (AssertionError, EOFError, OSError, TimeoutError) as error:
                failed[case.id] = repr(error)
    return failed


@by_group
async def test_as_plain_requests(group: str) -> None:
    cases = [case for case in CASES if case.group == group]
    assert await failing(cases, "plain") == {}


@by_group
async def test_in_requests_to_switch_to_websocket(group: str) -> None:
    cases = [case for case in CASES if case.group == group and case.switching is not None]
    assert await failing(cases, "websocket") == {}


async def test_each_byte_in_a_packet_of_its_own() -> None:
    """The smuggling classics again: what is refused does not depend on how TCP tears it."""
    app = Application()
    async with serving(app) as server:
        for case in (case for case in CASES if case.group == "smuggling" and not case.accepted):
            app.called.clear()
            async with await Peer.connect(server) as peer:
                for piece in torn(case.sent + NEXT):
                    peer.send(piece)
                    await peer.writer.drain()
                for _ in range(case.requests):
                    assert (await peer.answer()).status == 200, case.id
                await peer.refused(case.status)
            assert len(app.called) == case.requests + (case.stage == "body"), case.id

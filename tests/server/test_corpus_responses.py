"""What an application returns, with line ends and control bytes in every place that it may fill, over a socket: it
is an error, and the peer reads one whole response that has nothing of it (RFC 9110 §5.5)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support import Logged, Peer, get, serving, upgrade

from portico.errors import LocalError

EVIL = [
    b"a\r\nX-Evil: 1",
    b"a\rX-Evil: 1",
    b"a\nX-Evil: 1",
    b"a\r\n\r\nHTTP/1.1 200 X-Evil\r\n\r\n",
    b"a\x00",
    b"a\x0bX-Evil: 1",
]
EVIL += [b"a\x7f", b"\r\n", b"\n"]

start = {"type": "http.response.start", "status": 200}
accept = {"type": "websocket.accept"}
deny = {"type": "websocket.http.response.start", "status": 403}


def messages(evil: bytes) -> dict[str, dict[str, Any]]:
    """The message that has `evil` in one place, by the name of that place."""
    value, name = [(b"x-name", evil)], [(evil, b"value")]
    return {
        "a header's value": {**start, "headers": value},
        "a header's name": {**start, "headers": name},
        "the length": {**start, "headers": [(b"content-length", evil)]},
        "a value in accept": {**accept, "headers": value},
        "a name in accept": {**accept, "headers": name},
        "the subprotocol": {**accept, "subprotocol": evil.decode("latin-1")},
        "a value in a denial": {**deny, "headers": value},
        "a name in a denial": {**deny, "headers": name},
    }


@pytest.mark.parametrize("place", messages(b""))
async def test_it_is_an_error_and_nothing_of_it_is_written(place: str, logged: Logged) -> None:
    current: dict[str, Any] = {}
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await receive()
        try:
            await send(current)
            await send({"type": current["type"].replace("start", "body"), "body": b""})
        except LocalError as error:
            raised.append(error)
            raise

    async with serving(app) as server:
        for number, evil in enumerate(EVIL):
            current = messages(evil)[place]
            async with await Peer.connect(server) as peer:
                peer.send(get() if current["type"].startswith("http") else upgrade(sec_websocket_protocol="chat"))
                answer = await peer.answer()
                assert answer.status == 500, evil
                assert not any("evil" in f"{name}{value}".lower() for name, value in answer.headers)
                peer.writer.write_eof()
                assert await peer.to_end() == b""
            assert len(raised) == number + 1, evil
            assert logged.records.pop().exc_info is not None

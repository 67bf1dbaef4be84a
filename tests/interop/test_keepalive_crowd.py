"""100,000 requests over 1,000 kept-alive connections, while 1,000 WebSockets chat on the same port: no error, no leak.

Each answer is its request's own, and each member of a room hears every word of it, in order: both tell at once when
anything is lost, doubled or mixed up. ``PORTICO_CROWD_REQUESTS`` sets how many requests there are.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.interop.own_server import WHEEL_BLOCKS_PER_S, OwnServer
from tests.interop.storm_client import KEEP, KEY, Script, Storm, _masked, close_cleanly, close_half

pytestmark = pytest.mark.alone

REQUESTS = int(os.environ.get("PORTICO_CROWD_REQUESTS", "100000"))
CONNECTIONS = WEBSOCKETS = 1000
IN_ROOM = 10
SPARE_DESCRIPTORS = 500
GUARD_S = 120
END = b"the end.."
KINDS = (b"", b"later")  # answered at once, and in a later turn of the loop


@pytest.fixture
def server() -> Iterator[OwnServer]:
    with OwnServer.running("tests.interop.crowd_server", CONNECTIONS + WEBSOCKETS + SPARE_DESCRIPTORS) as server:
        yield server


class Crowd:
    """What all its clients have done, and are to do."""

    def __init__(self, requests: int) -> None:
        self.each = requests // CONNECTIONS
        self.asking = CONNECTIONS  # connections that have not got all their answers yet
        self.answers = 0
        self.talked = [0] * (WEBSOCKETS // IN_ROOM)  # words said in each room
        self.heard = 0

    def ask(self, sock: socket.socket, number: int) -> Script:
        """One request after the other on one connection, every 10th with a body, every 8th followed by a second one
        before the first is answered (RFC 9112 §9.3.2)."""
        numbers = iter(range(self.each))
        for n in numbers:
            asked = [n, *itertools.islice(numbers, n % 8 == 7)]
            sock.send(b"".join(self._request(number, n) for n in asked))
            came = b""
            expected = b"".join(self._answer(number, n) for n in asked)
            while len(came) < len(expected):
                more = yield
                assert more, f"the server ended connection {number} after {came!r}"
                came += _without_dates(more)
            assert came == expected, (came, expected)
            self.answers += len(asked)
        self.asking -= 1
        return KEEP

    def _words(self, number: int, n: int) -> tuple[bytes, bytes]:
        """Query and body of a request."""
        return b"%d-%d%b" % (number, n, KINDS[n % 3 == 2]), b"body" * 300 if n % 10 == 9 else b""

    def _request(self, number: int, n: int) -> bytes:
        query, body = self._words(number, n)
        if not body:
            return b"GET /?%b HTTP/1.1\r\nHost: crowd\r\n\r\n" % query
        return b"POST /?%b HTTP/1.1\r\nHost: crowd\r\nContent-Length: %d\r\n\r\n%b" % (query, len(body), body)

    def _answer(self, number: int, n: int) -> bytes:
        query, body = self._words(number, n)
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b%b" % (len(body) + len(query), body, query)

    def enter(self, sock: socket.socket, number: int) -> Script:
        """Go into a room."""
        sock.send(
            f"GET /room HTTP/1.1\r\nHost: crowd\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n".encode()
            + _masked(0x81, b"%d" % (number // IN_ROOM))
        )
        came = b""
        while not came.endswith(b"\x81\x07welcome"):
            more = yield
            assert more, came
            came += more
        return KEEP

    def chat(self, sock: socket.socket, number: int) -> Script:
        """Hear all that is said in the room, and say the next word when it is one's turn, until nobody asks."""
        room, place = divmod(number, IN_ROOM)
        heard = 0
        came = b""
        if place == 0:
            self._say(sock, room)
        while True:
            while len(came) >= 2 + len(END):
                word, came = came[2 : 2 + len(END)], came[2 + len(END) :]
                if word == END:
                    assert (heard, came) == (self.talked[room], b"")
                    return KEEP
                assert word == b"%09d" % heard, (word, heard)
                heard += 1
                self.heard += 1
                if heard % IN_ROOM == place:
                    self._say(sock, room)
            more = yield
            assert more, f"the server ended WebSocket {number}"
            came += more

    def _say(self, sock: socket.socket, room: int) -> None:
        word = END
        if self.asking:
            word = b"%09d" % self.talked[room]
            self.talked[room] += 1
        sock.send(_masked(0x82, word))


def _without_dates(data: bytes) -> bytes:
    """Without the header line that differs from second to second; none of them is ever torn, as each answer is sent
    whole and is short."""
    at = data.find(b"date: ")
    while at >= 0:
        data = data[:at] + data[data.index(b"\r\n", at) + 2 :]
        at = data.find(b"date: ")
    return data


@contextmanager
def entered(port: int, crowd: Crowd) -> Iterator[Storm]:
    """All connections are there, and all WebSockets in their rooms."""
    storm = Storm(port)
    try:
        storm.run(((number, crowd.enter) for number in range(WEBSOCKETS)), at_once=200, timeout_s=GUARD_S)
        yield storm
    finally:
        storm.close()


def play(server: OwnServer, requests: int) -> Crowd:
    """All of it, from the first connection to the end of the last one."""
    crowd = Crowd(requests)
    with entered(server.port, crowd) as storm:
        storm.resume(crowd.chat)
        asking = ((WEBSOCKETS + number, crowd.ask) for number in range(CONNECTIONS))
        storm.run(asking, at_once=WEBSOCKETS + CONNECTIONS, timeout_s=GUARD_S)
        assert len(storm.held) == WEBSOCKETS + CONNECTIONS
        assert server.stats()["connections"] == WEBSOCKETS + CONNECTIONS + 1
        storm.resume(close_cleanly, range(WEBSOCKETS))
        storm.resume(close_half)
        storm.run(timeout_s=GUARD_S)
    return crowd


def test_requests_while_others_chat(server: OwnServer) -> None:
    play(server, 2 * CONNECTIONS)  # what is made once is no leak
    before = server.alone()
    began = time.monotonic()
    crowd = play(server, REQUESTS)
    seconds = time.monotonic() - began
    after = server.alone(before)
    blocks = after["blocks"] - before["blocks"]
    print(f"\n{crowd.answers} answers, {crowd.heard} words heard, in {seconds:.1f} s; {blocks} blocks more")
    assert crowd.answers == REQUESTS // CONNECTIONS * CONNECTIONS
    assert min(crowd.talked) > 0
    assert crowd.heard == sum(crowd.talked) * IN_ROOM
    assert after["trouble"] == {}
    assert blocks <= REQUESTS // 100 + WHEEL_BLOCKS_PER_S * seconds

"""Sessions at random over raw sockets, as scripts of tests/interop/storm_client.py: each connects in one way, does some
of everything, and ends in one of all ways. It has one TCP connection, also for polling: GETs and POSTs take turns.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import socket
from collections import deque
from collections.abc import Generator
from typing import Any

from tests.interop.storm_client import ACCEPT, KEY, MASK, RESET, Script

Steps = Generator[None, bytes, Any]
Packet = str | bytes

NAMESPACES = ("/", "/", "/", "/admin", "/game-1", "/game-2")


class Ended(Exception):
    """The server has ended the session."""


class Wire:
    """One connection: HTTP first, perhaps WebSocket later."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""

    def _more(self) -> Steps:
        try:
            data = yield
        except ConnectionResetError:
            data = b""
        if not data:
            raise Ended
        self.buffer += data

    def _until(self, size: int) -> Steps:
        while len(self.buffer) < size:
            yield from self._more()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def send(self, data: bytes) -> None:
        """All of it: a socket's buffer is larger than anything here."""
        with contextlib.suppress(ConnectionError):
            assert self.sock.send(data) == len(data)

    def ask(self, method: str, query: str, body: bytes | None = None) -> None:
        head = f"{method} /socket.io/{query} HTTP/1.1\r\nHost: wanderer\r\n"
        if body is not None:
            head += f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
        self.send(head.encode() + b"\r\n" + (body or b""))

    def head(self) -> Steps:
        while b"\r\n\r\n" not in self.buffer:
            yield from self._more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head.decode().lower()

    def answer(self) -> Steps:
        """Status and body of the next response."""
        head = yield from self.head()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
        body = yield from self._until(length)
        return int(head.split(" ", 2)[1]), body.decode()

    def upgrade(self, sid: str = "") -> Steps:
        query = f"?EIO=4&transport=websocket{sid and '&sid=' + sid}"
        self.send(
            f"GET /socket.io/{query} HTTP/1.1\r\nHost: wanderer\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n".encode()
        )
        head = yield from self.head()
        if " 101 " not in head:
            raise Ended
        assert ACCEPT.decode().lower() in head, head

    def frame(self, packet: Packet, opcode: int | None = None) -> None:
        payload = packet.encode() if isinstance(packet, str) else packet
        opcode = (1 if isinstance(packet, str) else 2) if opcode is None else opcode
        size = len(payload)
        length = bytes((0x80 | size,)) if size < 126 else bytes((0xFE,)) + size.to_bytes(2, "big")
        masked = bytes(byte ^ MASK[n & 3] for n, byte in enumerate(payload))
        self.send(bytes((0x80 | opcode,)) + length + MASK + masked)

    def message(self) -> Steps:
        """The next message."""
        while True:
            first, size = yield from self._until(2)
            if size == 126:
                size = int.from_bytes((yield from self._until(2)), "big")
            payload = yield from self._until(size)
            if first & 15 == 8:
                raise Ended
            if first & 15 in (1, 2):
                return payload.decode() if first & 15 == 1 else payload


class Wanderer:
    """One session. ``left`` is shared: what those were told that were cut off, for others to come back with."""

    def __init__(self, sock: socket.socket, number: int, left: deque[dict[str, Any]]) -> None:
        self.random = random.Random(number)
        self.wire = Wire(sock)
        self.left = left
        self.sid = ""
        self.websocket = False
        self.pending: deque[Packet] = deque()
        self.namespaces: dict[str, dict[str, Any]] = {}
        self.ids = 0

    # -- either transport ----------------------------------------------------------------------------------------------

    def say(self, *packets: Packet) -> Steps:
        if self.websocket:
            for packet in packets:
                self.wire.frame(packet)
            return
        body = "\x1e".join(one if isinstance(one, str) else "b" + base64.b64encode(one).decode() for one in packets)
        self.wire.ask("POST", f"?EIO=4&transport=polling&sid={self.sid}", body.encode())
        status, _ = yield from self.wire.answer()
        if status != 200:
            raise Ended

    def next(self) -> Steps:
        if self.websocket:
            return (yield from self.wire.message())
        while not self.pending:
            self.wire.ask("GET", f"?EIO=4&transport=polling&sid={self.sid}")
            status, body = yield from self.wire.answer()
            if status != 200:
                raise Ended
            self.pending.extend(body.split("\x1e"))
        return self.pending.popleft()

    def hear(self, *beginnings: str) -> Steps:
        """The next packet that begins so; pings are answered, questions not, and others passed over."""
        while True:
            packet = yield from self.next()
            if packet == "1":
                raise Ended
            if packet == "2":
                yield from self.say("3")
            elif isinstance(packet, str):
                self._note(packet)
                if packet.startswith(beginnings):
                    return packet

    def _note(self, packet: str) -> None:
        """Remember the place in the history that an event has told."""
        head, _, rest = packet.partition("[")
        if head.startswith("42") and not head[2:].lstrip("/abcdefghijklmnopqrstuvwxyz-12,").isdigit() and rest:
            namespace = head[2:].rstrip(",") or "/"
            last = json.loads("[" + rest)[-1]
            if namespace in self.namespaces and isinstance(last, str) and ":" in last:
                self.namespaces[namespace]["offset"] = last

    # -- the way -------------------------------------------------------------------------------------------------------

    def wander(self) -> Script:
        with contextlib.suppress(Ended):
            yield from self._open()
            if self.random.randrange(20):  # else it connects to nothing
                for namespace in {self.random.choice(NAMESPACES) for _ in range(self.random.randrange(1, 4))}:
                    yield from self._connect(namespace)
            for _ in range(self.random.randrange(6)):
                if self.namespaces:
                    yield from self._act(self.random.choice(list(self.namespaces)))
            yield from self._end()

    def _open(self) -> Steps:
        if self.random.randrange(2):
            yield from self.wire.upgrade()
            self.websocket = True
            opened = yield from self.wire.message()
        else:
            self.wire.ask("GET", "?EIO=4&transport=polling")
            status, opened = yield from self.wire.answer()
            assert status == 200, opened
        self.sid = json.loads(opened[1:])["sid"]

    def _connect(self, namespace: str) -> Steps:
        auth: dict[str, Any] = {}
        chance = self.random.randrange(10)
        if chance == 0:
            auth = {"refuse": "x" * 50}
        elif chance < 5 and self.left:
            back = self.left.popleft()
            namespace, auth = back["namespace"], {name: back[name] for name in back if name in ("pid", "offset")}
            if namespace in self.namespaces:
                return
        path = "" if namespace == "/" else namespace + ","
        yield from self.say(f"40{path}{json.dumps(auth)}")
        answer = yield from self.hear(f"40{path}{{", f"44{path}{{")
        if answer[1] == "0":
            self.namespaces[namespace] = {"namespace": namespace, "pid": json.loads(answer[2 + len(path) :])["pid"]}

    def _act(self, namespace: str) -> Steps:
        path = "" if namespace == "/" else namespace + ","
        self.ids += 1
        room = f"room-{self.random.randrange(30)}"
        event, *args = self.random.choice(
            (
                ("join", room, "common", f"mine-{self.sid}"),
                ("leave", room, "common"),
                ("echo", {"a": [1, None, "é" * self.random.randrange(200)]}),
                ("binary",),
                ("in a thread", self.ids),
                ("say", room, "x" * self.random.randrange(500)),
                ("say", "common", self.ids),
                ("say", f"mine-{self.sid}", 1),
                ("ask me",),
                ("read", room),
                ("fail",),
                ("nobody takes this",),
            )
        )
        if event == "ask me":  # it is not answered, and nothing is waited for
            yield from self.say(f'42{path}{self.ids}["ask me"]')
        elif event == "binary":
            place = '{"_placeholder":true,"num":%d}'
            yield from self.say(f'452-{path}{self.ids}["echo",{place % 0},{place % 1}]', b"\x00\x01", b"x" * 300)
            yield from self.hear(f"462-{path}{self.ids}[")
        else:
            yield from self.say(f"42{path}{self.ids}{json.dumps([event, *args])}")
            yield from self.hear(f"43{path}{self.ids}[")

    # -- the end -------------------------------------------------------------------------------------------------------

    def _end(self) -> Steps:
        path = next((name for name in self.namespaces if name != "/"), "")
        names = [f"42{path and path + ','}"] if self.namespaces else []
        ways = [self._cut, self._cut, self._packet, self._garbage, self._half, self._announced]
        if self.random.randrange(50) == 0:
            ways = [self._silence]
        elif names:
            ways += [self._leave, self._thrown_out]
        if not self.websocket:
            ways += [self._held, self._upgrade, self._upgrade, self._too_much]
        else:
            ways += [self._close]
        yield from self.random.choice(ways)()

    def _cut(self) -> Steps:
        """FIN or RST; some come back."""
        self.left.extend(self.namespaces.values())
        if self.random.randrange(2):
            self.wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        return
        yield

    def _packet(self) -> Steps:
        yield from self.say("1")

    def _garbage(self) -> Steps:
        yield from self.say(self.random.choice(("abc", "42{}", "4x", '42["connect"]', '451-["x"]')), b"\x00", "42[1]")
        if self.websocket:
            yield from self.hear("nothing")

    def _half(self) -> Steps:
        """The end comes in the middle of something."""
        if self.websocket:
            self.wire.send(b"\x81\xfe\x01\x00half")
        else:
            self.wire.send(b"POST /socket.io/?EIO=4&transport=polling&sid=%b HTTP/1.1\r\nHo" % self.sid.encode())
        yield from self._cut()

    def _announced(self) -> Steps:
        """Attachments were announced that never come."""
        path = next(iter(self.namespaces), "/")
        if self.namespaces:
            yield from self.say(f'453-{"" if path == "/" else path + ","}["echo"]', b"one")
        yield from self._cut()

    def _silence(self) -> Steps:
        """It says nothing any more, and reads on, until the server has had enough."""
        if not self.websocket:
            self.left.extend(self.namespaces.values())
            return
        with contextlib.suppress(Ended):
            while True:
                yield from self.wire.message()

    def _leave(self) -> Steps:
        for name in self.namespaces:
            yield from self.say("41" if name == "/" else f"41{name},")
        yield from self._cut()
        self.left.clear()

    def _thrown_out(self) -> Steps:
        name = next(iter(self.namespaces))
        path = "" if name == "/" else name + ","
        how = self.random.choice(('"throw me out",true', '"throw me out",false', '"cut me"'))
        yield from self.say(f"42{path}[{how}]")
        if how != '"cut me"' or self.websocket:
            yield from self.hear(f"41{path}")

    def _close(self) -> Steps:
        """The closing handshake of WebSocket."""
        self.left.extend(self.namespaces.values())
        self.wire.frame(b"\x03\xe8", 8)
        yield from self.hear("nothing")

    def _held(self) -> Steps:
        """A GET is held while the end comes."""
        self.wire.ask("GET", f"?EIO=4&transport=polling&sid={self.sid}")
        yield from self._cut()

    def _too_much(self) -> Steps:
        yield from self.say("4" * 30_000)

    def _upgrade(self) -> Steps:
        """On the same connection, at times not to the end."""
        yield from self.wire.upgrade(self.sid)
        breaks_at = self.random.randrange(6)
        if breaks_at > 0:
            self.wire.frame("2probe")
        if breaks_at > 1:
            assert (yield from self.wire.message()) == "3probe"
        if breaks_at > 2:
            self.wire.frame("5")
            self.websocket = True
            for name in self.namespaces:
                yield from self._act(name)
            yield from self.random.choice((self._cut, self._close, self._packet, self._garbage))()
        else:
            yield from self._cut()

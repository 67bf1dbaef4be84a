"""The demo's application: a page over HTTP and the live list of the port's connections over WebSocket.

It owns what visitors are told (`Live`) and the pages (`Site`), and uses public names of `portico` alone: whatever it
does, a user's own application can do. What a visitor sends is never trusted: it is bounded here, and the page inserts
it as text. Nothing is stored beyond the last messages.

Over ``/live`` go JSON texts, each with a ``type``. From a visitor:

- ``{"type": "say", "text": …, "name": …}``: to everybody; the text up to 500 characters, the name, optional, up to 24.
- ``{"type": "ping", "t": …, "rtt_ms": …}``: echoed at once; ``rtt_ms``, optional, is the last round trip it measured.

To a visitor: ``hello`` once, then ``snapshot`` (the connections), ``said`` (a message), ``sent`` (how many others
took yours), ``pong`` and ``error`` (``code`` is ``rate_limited``, ``too_long`` or ``not_understood``).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Annotated, Any, Final

import msgspec

import portico

SNAPSHOT_EVERY_S: Final = 1.0
SNAPSHOT_GAP_S: Final = 0.2
SNAPSHOT_BYTES_PER_S: Final = 20_000_000  # for all visitors together: many of them get fewer snapshots, not a busy loop
SNAPSHOT_ROWS: Final = 200
MESSAGES_PER_S: Final = 5.0
MESSAGES_AT_ONCE: Final = 10.0
MESSAGES_KEPT: Final = 20
INPUT_CHARACTERS: Final = 4096

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Say(msgspec.Struct, tag_field="type", tag="say", frozen=True):
    text: Annotated[str, msgspec.Meta(max_length=500)]
    name: Annotated[str, msgspec.Meta(max_length=24)] = ""


class Ping(msgspec.Struct, tag_field="type", tag="ping", frozen=True):
    t: Annotated[float, msgspec.Meta(ge=0, le=1e15)]
    rtt_ms: Annotated[float, msgspec.Meta(ge=0, le=60_000)] | None = None


class Said(msgspec.Struct, tag_field="type", tag="said", frozen=True):
    id: str
    by: str
    peer: str
    name: str
    text: str
    at_ms: int


class Hello(msgspec.Struct, tag_field="type", tag="hello", frozen=True):
    you: str
    said: list[Said]


class Sent(msgspec.Struct, tag_field="type", tag="sent", frozen=True):
    others: int


class Pong(msgspec.Struct, tag_field="type", tag="pong", frozen=True):
    t: float


class Error(msgspec.Struct, tag_field="type", tag="error", frozen=True):
    code: str
    text: str


class Row(msgspec.Struct, frozen=True):
    """One connection; ``ws`` is the id of its WebSocket, by which a visitor finds its own row."""

    id: str
    ws: str | None
    name: str
    protocol: str
    tls: bool
    local: tuple[str, int]
    peer: tuple[str, int]
    state: str
    age_s: float
    bytes_in: int
    bytes_out: int
    round_trip_ms: float | None


class Snapshot(msgspec.Struct, tag_field="type", tag="snapshot", frozen=True):
    total: int
    sockets: int
    answered: int
    connections: list[Row]


RATE_LIMITED: Final = Error("rate_limited", f"At most {MESSAGES_PER_S:.0f} messages a second: this one went nowhere.")
TOO_LONG: Final = Error("too_long", f"Expected at most {INPUT_CHARACTERS} characters of JSON.")
NOT_UNDERSTOOD: Final = Error(
    "not_understood",
    'Expected {"type": "say", "text": 1 to 500 characters, "name": at most 24} or {"type": "ping", "t": a number}.',
)

_decoder: Final = msgspec.json.Decoder(Say | Ping)


def _json(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value).decode()


def address(pair: tuple[str, int] | None) -> str:
    """``host:port``, with brackets around an IPv6 host (RFC 3986 §3.2.2); None, as on a Unix socket, is ``local``."""
    if pair is None:
        return "local"
    host, port = pair[0], pair[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(slots=True)
class Visitor:
    """What is known about one open WebSocket: its last name and round trip, and its allowance of messages."""

    name: str = ""
    round_trip_ms: float | None = None
    allowance: float = MESSAGES_AT_ONCE
    counted_at: float = 0.0
    warned: bool = False

    def spend(self, now: float) -> bool:
        """Take one message from the allowance (a token bucket), at ``now`` seconds; False where there is none left."""
        self.allowance = min(MESSAGES_AT_ONCE, self.allowance + (now - self.counted_at) * MESSAGES_PER_S)
        self.counted_at = now
        if self.allowance < 1:
            return False
        self.allowance -= 1
        return True


class Live(portico.Endpoint):
    """The WebSocket side: tells every visitor of all connections, and passes messages from each to all."""

    def __init__(self) -> None:
        self.room = portico.Room(on_slow="drop_oldest")
        self.answered = 0
        self._said: deque[Said] = deque(maxlen=MESSAGES_KEPT)
        self._changed = asyncio.Event()
        self._peers: set[tuple[str, int]] = set()

    def on_open(self, ws: portico.WebSocket) -> None:
        ws.state = Visitor(counted_at=time.monotonic())
        ws.write(_json(Hello(you=ws.id, said=list(self._said))))
        self.room.add(ws)
        self._changed.set()

    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        visitor: Visitor = ws.state
        if not visitor.spend(time.monotonic()):
            if not visitor.warned:  # one word for a whole flood, so that answering it is no flood
                visitor.warned = True
                ws.write(_json(RATE_LIMITED))
            return
        visitor.warned = False
        if len(message) > INPUT_CHARACTERS:
            ws.write(_json(TOO_LONG))
            return
        try:
            asked = _decoder.decode(message)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            ws.write(_json(NOT_UNDERSTOOD))
            return
        if isinstance(asked, Ping):
            ws.write(_json(Pong(t=asked.t)))
            visitor.round_trip_ms = asked.rtt_ms
        else:
            self._say(ws, visitor, asked)

    def on_close(self, ws: portico.WebSocket, close: portico.Close) -> None:
        self.room.discard(ws)
        self._changed.set()

    def answering(self, peer: tuple[str, int] | None) -> None:
        """`Site` answers a plain HTTP request from ``peer``, perhaps over a connection that nobody was told of yet."""
        self.answered += 1
        if peer is not None and peer not in self._peers:
            self._changed.set()

    async def watch(self, server: portico.Server) -> None:
        """Tell all visitors about the connections of ``server``: every second, and soon after one came or went.

        Runs until cancelled; while nobody is connected it waits.
        """
        while True:
            self._changed.clear()
            text = self._snapshot(server.connections)
            told = self.room.send(text)
            rest = max(SNAPSHOT_GAP_S, len(text) * told / SNAPSHOT_BYTES_PER_S)
            await asyncio.sleep(rest)
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, SNAPSHOT_EVERY_S - rest) if told else None):
                    await self._changed.wait()

    def _say(self, ws: portico.WebSocket, visitor: Visitor, say: Say) -> None:
        text = say.text.strip()
        if not text:
            ws.write(_json(NOT_UNDERSTOOD))
            return
        visitor.name = say.name.strip()
        said = Said(
            id=secrets.token_hex(8),
            by=ws.id,
            peer=address(ws.request.client),
            name=visitor.name,
            text=text,
            at_ms=time.time_ns() // 1_000_000,
        )
        self._said.append(said)
        took = self.room.send(_json(said))
        ws.write(_json(Sent(others=max(0, took - 1))))

    def _snapshot(self, connections: Iterable[portico.Connection]) -> str:
        every = sorted(connections, key=lambda one: (one.protocol != "websocket", -one.age_s))
        self._peers = {one.peer for one in every}
        return _json(
            Snapshot(
                total=len(every),
                sockets=sum(one.protocol == "websocket" for one in every),
                answered=self.answered,
                connections=[_row(one) for one in every[:SNAPSHOT_ROWS]],
            )
        )


def _row(one: portico.Connection) -> Row:
    visitor = one.websocket.state if one.websocket is not None else None
    if not isinstance(visitor, Visitor):  # not open yet, or another endpoint's
        visitor = Visitor()
    return Row(
        id=one.id,
        ws=one.websocket.id if one.websocket is not None else None,
        name=visitor.name,
        protocol=one.protocol,
        tls=one.tls,
        local=one.local,
        peer=one.peer,
        state=one.state,
        age_s=round(one.age_s, 1),
        bytes_in=one.bytes_in,
        bytes_out=one.bytes_out,
        round_trip_ms=visitor.round_trip_ms if one.latency is None else round(one.latency * 1000, 3),
    )


class Site:
    """The HTTP side, an ASGI application: the page, its two files, and ``/hello``, which says who asks and when."""

    _page_headers: Final = (
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (
            b"content-security-policy",
            b"default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; "
            b"object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    )

    def __init__(self, live: Live) -> None:
        self._live = live
        folder = resources.files("portico.demo")
        self._files = {
            "/": ("text/html; charset=utf-8", folder.joinpath("page.html").read_bytes()),
            "/page.css": ("text/css; charset=utf-8", folder.joinpath("page.css").read_bytes()),
            "/page.js": ("text/javascript; charset=utf-8", folder.joinpath("page.js").read_bytes()),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._answer(scope, send)
            case "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": "WebSocket is at /live"})
            case "lifespan":
                for stage in ("startup", "shutdown"):
                    await receive()
                    await send({"type": f"lifespan.{stage}.complete"})

    async def _answer(self, scope: Scope, send: Send) -> None:
        client = scope.get("client")
        peer = (client[0], client[1]) if client else None
        self._live.answering(peer)
        kind, status = "text/plain; charset=utf-8", 200
        more: tuple[tuple[bytes, bytes], ...] = ()
        if scope["method"] not in ("GET", "HEAD"):
            status, body, more = 405, b"Expected GET or HEAD.\n", ((b"allow", b"GET, HEAD"),)
        elif scope["path"] == "/hello":
            now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            body = f"Hello {address(peer)}, it is {now}.\n".encode()
        elif scope["path"] in self._files:
            kind, body = self._files[scope["path"]]
        else:
            status, body = 404, b"Nothing here: the page is at /, a greeting at /hello, the WebSocket at /live.\n"
        headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body)), *self._page_headers, *more]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def build() -> tuple[portico.App, Live]:
    """The demo's application, and the endpoint whose `Live.watch` must run beside the server; see `running`."""
    live = Live()
    app = portico.App()
    app.websocket("/live", live)
    app.mount("/", Site(live))
    return app, live


@asynccontextmanager
async def running(host: str = "127.0.0.1", port: int = 8000) -> AsyncIterator[portico.Server]:
    """Serve the demo while the block runs; ``port`` 0 takes a free one, which ``server.addresses`` then tells."""
    app, live = build()
    async with portico.serve(app, host, port) as server:
        watching = asyncio.create_task(live.watch(server))
        try:
            yield server
        finally:
            watching.cancel()
            await asyncio.wait([watching])
            if not watching.cancelled():
                watching.result()  # raises what ended it


async def demo(host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve the demo at ``host`` and ``port`` until cancelled, and print where it is."""
    async with running(host, port) as server:
        bound = server.addresses[0]
        shown = ("localhost", bound[1]) if bound[0] in ("0.0.0.0", "::") else bound
        print(f"Portico's demo is at http://{address(shown)}/ (Ctrl+C stops it)", flush=True)
        await server.serve_forever()

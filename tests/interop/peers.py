"""Real WebSocket clients behind one interface: the `websockets` and `aiohttp` packages, npm `ws`, and Chromium.

A peer is opened with permessage-deflate offered (RFC 7692), as each of them does when told so or by default. Nothing
here is Portico's: what these clients see is what anybody's client sees.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import aiohttp
import websockets
from playwright.async_api import BrowserContext, Page
from tests.node import NODE, node_js

MOST_BYTES = 4 * 1024 * 1024
RESET = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: close() sends RST

Message = str | bytes
Closed = tuple[int, str]


class Peer(Protocol):
    """One connected WebSocket client. `port` is its local port, or None where it doesn't tell."""

    can_ping: bool
    port: int | None
    subprotocol: str | None
    deflate: bool

    async def send(self, message: Message) -> None: ...
    async def recv(self) -> Message: ...
    async def ping(self) -> None:
        """Send a ping and wait for its pong."""

    async def close(self, code: int, reason: str) -> int:
        """Close; returns the code that came back."""

    async def closed(self) -> Closed:
        """Wait until the server has closed; returns its code and reason."""

    async def vanish(self) -> None:
        """End abruptly: with RST where the client can be made to."""


class WebsocketsPeer:
    """The `websockets` package."""

    can_ping: bool = True

    def __init__(self, ws: websockets.ClientConnection) -> None:
        self._ws = ws
        self.port: int | None = ws.local_address[1]
        self.subprotocol = ws.subprotocol
        self.deflate = [one.name for one in ws.protocol.extensions] == ["permessage-deflate"]

    @classmethod
    async def open(cls, url: str, subprotocols: Sequence[str]) -> WebsocketsPeer:
        names: Any = list(subprotocols) or None
        return cls(await websockets.connect(url, subprotocols=names, max_size=MOST_BYTES, ping_interval=None))

    async def send(self, message: Message) -> None:
        await self._ws.send(message)

    async def recv(self) -> Message:
        return await self._ws.recv()

    async def ping(self) -> None:
        await (await self._ws.ping())

    async def close(self, code: int, reason: str) -> int:
        await self._ws.close(code, reason)
        return (await self.closed())[0]

    async def closed(self) -> Closed:
        await self._ws.wait_closed()
        received = self._ws.protocol.close_rcvd
        return (received.code, received.reason) if received else (1006, "")

    async def vanish(self) -> None:
        self._ws.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._ws.transport.abort()
        await self._ws.wait_closed()


class AiohttpPeer:
    """The `aiohttp` package. It answers no ping by itself here, so that pongs can be seen."""

    can_ping: bool = True

    def __init__(self, session: aiohttp.ClientSession, ws: aiohttp.ClientWebSocketResponse) -> None:
        self._session = session
        self._ws = ws
        self.port: int | None = ws.get_extra_info("sockname")[1]
        self.subprotocol = ws.protocol
        self.deflate = ws.compress > 0

    @classmethod
    async def open(cls, url: str, subprotocols: Sequence[str]) -> AiohttpPeer:
        session = aiohttp.ClientSession()
        try:
            ws = await session.ws_connect(
                url, protocols=subprotocols, compress=15, max_msg_size=MOST_BYTES, autoping=False, autoclose=False
            )
        except BaseException:
            await session.close()
            raise
        return cls(session, ws)

    async def send(self, message: Message) -> None:
        if isinstance(message, str):
            await self._ws.send_str(message)
        else:
            await self._ws.send_bytes(message)

    async def _next(self) -> aiohttp.WSMessage:
        while (got := await self._ws.receive()).type is aiohttp.WSMsgType.PING:
            await self._ws.pong(got.data)
        return got

    async def recv(self) -> Message:
        got = await self._next()
        assert got.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), got
        return got.data  # type: ignore[no-any-return]

    async def ping(self) -> None:
        await self._ws.ping(b"aiohttp")
        got = await self._next()
        assert (got.type, bytes(got.data)) == (aiohttp.WSMsgType.PONG, b"aiohttp")

    async def close(self, code: int, reason: str) -> int:
        await self._ws.close(code=code, message=reason.encode())
        await self._session.close()
        return self._ws.close_code or 1006

    async def closed(self) -> Closed:
        got = await self._next()
        await self._ws.close()
        await self._session.close()
        return (got.data, got.extra or "") if got.type is aiohttp.WSMsgType.CLOSE else (1006, "")

    async def vanish(self) -> None:
        self._ws.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await self._session.close()


class Node:
    """One node process, whatever the number of `ws` connections in it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ids = itertools.count()
        self._events: dict[int, asyncio.Queue[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read())

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[Node]:
        process = await asyncio.create_subprocess_exec(
            node_js("ws"),
            str(NODE / "peer.mjs"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2 * MOST_BYTES,
        )
        here = cls(process)
        try:
            yield here
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()
            await here._reading

    def begin(self) -> int:
        id = next(self._ids)
        self._events[id] = asyncio.Queue()
        return id

    def act(self, id: int, do: str, **more: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": id, "do": do, **more}).encode() + b"\n")

    async def event(self, id: int, *kinds: str) -> dict[str, Any]:
        got = await self._events[id].get()
        assert got["kind"] in kinds, got
        return got

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            event = json.loads(line)
            self._events[event["id"]].put_nowait(event)


class NodePeer:
    """npm's `ws`."""

    can_ping: bool = True

    def __init__(self, node: Node, id: int, opened: dict[str, Any]) -> None:
        self._node = node
        self._id = id
        self.port: int | None = opened["port"]
        self.subprotocol = opened["subprotocol"] or None
        self.deflate = "permessage-deflate" in opened["extensions"]

    @classmethod
    async def open(cls, node: Node, url: str, subprotocols: Sequence[str]) -> NodePeer:
        id = node.begin()
        node.act(id, "open", url=url, protocols=list(subprotocols))
        return cls(node, id, await node.event(id, "open"))

    async def send(self, message: Message) -> None:
        if isinstance(message, str):
            self._node.act(self._id, "send", text=message)
        else:
            self._node.act(self._id, "send", base64=base64.b64encode(message).decode())

    async def recv(self) -> Message:
        got = await self._node.event(self._id, "message")
        return got["text"] if "text" in got else base64.b64decode(got["base64"])

    async def ping(self) -> None:
        self._node.act(self._id, "ping", text="node")
        assert (await self._node.event(self._id, "pong"))["text"] == "node"

    async def close(self, code: int, reason: str) -> int:
        self._node.act(self._id, "close", code=code, reason=reason)
        return (await self.closed())[0]

    async def closed(self) -> Closed:
        got = await self._node.event(self._id, "close")
        return got["code"], got["reason"]

    async def vanish(self) -> None:
        self._node.act(self._id, "reset")
        while (await self._node.event(self._id, "error", "close"))["kind"] != "close":
            pass


BROWSER_SCRIPT = """({ url, protocols }) => new Promise((done, failed) => {
    const ws = window.ws = new WebSocket(url, protocols);
    ws.binaryType = "arraybuffer";
    const came = [], waiting = [];
    const tell = (event) => waiting.length ? waiting.shift()(event) : came.push(event);
    const base64 = (data) => {
        const text = [];
        for (let at = 0; at < data.byteLength; at += 32768)
            text.push(String.fromCharCode(...new Uint8Array(data.slice(at, at + 32768))));
        return btoa(text.join(""));
    };
    window.next = () => came.length ? came.shift() : new Promise((done) => waiting.push(done));
    ws.onmessage = ({ data }) => tell(typeof data === "string" ? { text: data } : { base64: base64(data) });
    ws.onclose = ({ code, reason }) => { failed(new Error(`closed ${code}`)); tell({ code, reason }); };
    ws.onopen = () => done({ subprotocol: ws.protocol, extensions: ws.extensions });
})"""


class BrowserPeer:
    """Chromium: one page, one WebSocket. Pages can't ping, and don't tell their port."""

    can_ping: bool = False

    def __init__(self, page: Page, opened: dict[str, Any]) -> None:
        self._page = page
        self.port: int | None = None
        self.subprotocol = opened["subprotocol"] or None
        self.deflate = "permessage-deflate" in opened["extensions"]

    @classmethod
    async def open(cls, context: BrowserContext, url: str, subprotocols: Sequence[str]) -> BrowserPeer:
        """The page is the server's own, as its origin must be, by plain HTTP."""
        page = await context.new_page()
        await page.goto(url.replace("ws:", "http:").rpartition("/")[0] + "/page")
        return cls(page, await page.evaluate(BROWSER_SCRIPT, {"url": url, "protocols": list(subprotocols)}))

    async def send(self, message: Message) -> None:
        if isinstance(message, str):
            await self._page.evaluate("(text) => ws.send(text)", message)
        else:
            await self._page.evaluate(
                "(base64) => ws.send(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)))",
                base64.b64encode(message).decode(),
            )

    async def recv(self) -> Message:
        got: Any = await self._page.evaluate("() => next()")
        assert "code" not in got, got
        return got["text"] if "text" in got else base64.b64decode(got["base64"])

    async def ping(self) -> None:
        raise NotImplementedError("a page can't ping")

    async def close(self, code: int, reason: str) -> int:
        await self._page.evaluate("([code, reason]) => ws.close(code, reason)", [code, reason])
        return (await self.closed())[0]

    async def closed(self) -> Closed:
        got: Any = await self._page.evaluate("() => next()")
        await self._page.close()
        return got["code"], got["reason"]

    async def vanish(self) -> None:
        await self._page.close()


KINDS = ("websockets", "aiohttp", "ws", "chromium")


class Peers:
    """Opens peers of every kind; `node` and the browser's `context` serve all of theirs."""

    def __init__(self, node: Node, context: BrowserContext) -> None:
        self._node = node
        self._context = context

    async def open(self, kind: str, url: str, subprotocols: Sequence[str] = ()) -> Peer:
        match kind:
            case "websockets":
                return await WebsocketsPeer.open(url, subprotocols)
            case "aiohttp":
                return await AiohttpPeer.open(url, subprotocols)
            case "ws":
                return await NodePeer.open(self._node, url, subprotocols)
            case "chromium":
                return await BrowserPeer.open(self._context, url, subprotocols)
        raise ValueError(kind)

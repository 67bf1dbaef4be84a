"""Real WebSocket servers behind one interface, plain or with TLS: `websockets`, `aiohttp`, uvicorn, npm `ws`, and
Portico's own.

Each echoes; "close CODE REASON" makes it close, "ping" makes it ping and answer "pong" when the pong has come (but
uvicorn and aiohttp: their applications can't), "fragments" that it sends "one message" in three frames (where its
applications can); it takes "chat.v2" of the subprotocols, offers permessage-deflate, and
refuses the path /no.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.web
import websockets
from tests.client.fakes import GUARD_S
from tests.node import NODE, node_js

import portico

CAN_PING = ("websockets", "ws", "portico")
CAN_FRAGMENT = ("websockets", "ws")
ROOT = Path(__file__).parents[2]

Ends = asyncio.Queue[tuple[int, str]]


@dataclass
class Server:
    """A running server; ``ends`` gets code and reason of each connection that has ended, as the server saw it. Where it
    speaks TLS, a client has to be ``trusting``."""

    port: int
    kind: str = ""
    trusting: ssl.SSLContext | None = None
    ends: Ends = field(default_factory=asyncio.Queue)

    async def ended(self) -> tuple[int, str]:
        """How the next connection ended."""
        async with asyncio.timeout(GUARD_S):
            return await self.ends.get()

    def url(self, path: str = "/echo") -> str:
        return f"wss://localhost:{self.port}{path}" if self.trusting else f"ws://127.0.0.1:{self.port}{path}"

    def connect(self, path: str = "/echo", **options: Any) -> Any:
        """A client of it, which is Portico's."""
        return portico.connect(self.url(path), ssl=self.trusting, **options)


def _context(certificate: Path | None) -> ssl.SSLContext | None:
    """A server's, with the key and the certificate in that file."""
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@contextlib.asynccontextmanager
async def _websockets(certificate: Path | None = None) -> AsyncIterator[Server]:
    ends: Ends = asyncio.Queue()

    async def handler(ws: websockets.ServerConnection) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            async for message in ws:
                match message.split(" ") if isinstance(message, str) else ():
                    case ["close", code, reason]:
                        await ws.close(int(code), reason)
                    case ["ping"]:
                        await (await ws.ping())
                        await ws.send("pong")
                    case ["fragments"]:
                        await ws.send(["one ", "mess", "age"])
                    case _:
                        await ws.send(message)
        await ws.wait_closed()
        ends.put_nowait((ws.close_code or 1006, ws.close_reason or ""))

    def refuse(ws: websockets.ServerConnection, request: websockets.Request) -> websockets.Response | None:
        return ws.respond(403, "not here") if request.path == "/no" else None

    names: Any = ["chat.v2"]
    select = websockets.serve(
        handler,
        "127.0.0.1",
        0,
        ssl=_context(certificate),
        subprotocols=names,
        select_subprotocol=_choose,
        process_request=refuse,
    )
    async with select as server:
        yield Server(next(iter(server.sockets)).getsockname()[1], ends=ends)


def _choose(_: websockets.ServerConnection, names: Any) -> Any:
    return "chat.v2" if "chat.v2" in names else None


@contextlib.asynccontextmanager
async def _aiohttp(certificate: Path | None = None) -> AsyncIterator[Server]:
    ends: Ends = asyncio.Queue()

    async def handler(request: aiohttp.web.Request) -> aiohttp.web.WebSocketResponse:
        ws = aiohttp.web.WebSocketResponse(protocols=["chat.v2"], autoclose=False)
        await ws.prepare(request)
        while (got := await ws.receive()).type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            if isinstance(got.data, bytes):
                await ws.send_bytes(got.data)
            elif got.data.startswith("close "):
                _, code, reason = got.data.split(" ")
                await ws.close(code=int(code), message=reason.encode())
                ends.put_nowait((ws.close_code or 1006, reason))
                return ws
            else:
                await ws.send_str(got.data)
        ends.put_nowait((got.data, got.extra or "") if got.type is aiohttp.WSMsgType.CLOSE else (1006, ""))
        await ws.close(code=got.data)
        return ws

    app = aiohttp.web.Application()
    app.router.add_get("/echo", handler)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    try:
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0, ssl_context=_context(certificate)).start()
        yield Server(runner.addresses[0][1], ends=ends)
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _uvicorn(certificate: Path | None = None) -> AsyncIterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        command = [sys.executable, "-m", "uvicorn", "tests.client.asgi_echo:app", "--fd", str(number)]
        command += ["--lifespan", "off", "--log-level", "warning"]
        command += ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(certificate)] if certificate else []
        async with _process(command, listener.getsockname()[1], pass_fds=[number], cwd=ROOT) as server:
            yield server


@contextlib.asynccontextmanager
async def _ws(certificate: Path | None = None) -> AsyncIterator[Server]:
    command = [node_js("ws"), str(NODE / "server.mjs"), *([str(certificate)] if certificate else [])]
    async with _process(command) as server:
        yield server


@contextlib.asynccontextmanager
async def _process(command: list[str], port: int = 0, **options: Any) -> AsyncIterator[Server]:
    """A server in a process: it prints its port, where that isn't known, and then the ends."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, **options)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        server = Server(port or json.loads(await process.stdout.readline()))
        reading = asyncio.create_task(_read(process.stdout, server.ends))
        yield server
    finally:
        process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
    await reading


async def _read(lines: asyncio.StreamReader, ends: Ends) -> None:
    async for line in lines:
        code, reason = json.loads(line)
        ends.put_nowait((code, reason))


@contextlib.asynccontextmanager
async def _portico(certificate: Path | None = None) -> AsyncIterator[Server]:
    ends: Ends = asyncio.Queue()

    async def handler(ws: portico.WebSocket) -> None:
        async for message in ws:
            match message.split(" ") if isinstance(message, str) else ():
                case ["close", code, reason]:
                    await ws.close(int(code), reason)
                case ["ping"]:
                    # the pong is read by this very loop: wait for it elsewhere
                    pinging = asyncio.create_task(_ping(ws))
                    pinging.add_done_callback(lambda task: task.result())
                case _:
                    await ws.send(message)
        await ws.close()
        assert ws.closed is not None
        ends.put_nowait((ws.closed.code, ws.closed.reason))

    app = portico.App()
    app.websocket("/echo", handler, subprotocols=["chat.v2"], deflate=portico.Deflate())
    async with portico.serve(app, "127.0.0.1", 0, ssl=_context(certificate)) as server:
        yield Server(server.port, ends=ends)


async def _ping(ws: portico.WebSocket) -> None:
    await ws.ping()
    await ws.send("pong")


RUNNING: dict[str, Callable[..., contextlib.AbstractAsyncContextManager[Server]]] = {
    "websockets": _websockets,
    "aiohttp": _aiohttp,
    "uvicorn": _uvicorn,
    "ws": _ws,
    "portico": _portico,
}
"""Each runs the server of that kind on a free port, as a context; over TLS with a file of key and certificate."""

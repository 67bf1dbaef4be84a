"""However a connection ends and whatever its user is doing, on either side: told once, as the right `Close`, in time
(RFC 6455 §7); no task is left, and a peer that left is nothing to warn about.

On simulated time, over a link that fails when told to; a process that is killed is a real one, on real time. Over TLS
it is the same: whether that ends in good order (close_notify) or is cut, even within a record. A missing close_notify
(RFC 8446 §6.1) is no matter of its own: a WebSocket ends with a close frame, and what comes without one is 1006.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.certificates import Tls
from tests.support import GUARD_S, serving, turns, until, upgrade
from tests.told import STYLES, Told

import portico
from portico import Close
from portico.testing import Flow, Link, pair, run

INTERVAL_S, SILENCE_S, GRACE_S = 25.0, 20.0, 1.0
LIMITS = portico.Limits(handler_grace_s=GRACE_S)
KEEPALIVE = portico.Keepalive(ping_interval_s=INTERVAL_S, ping_timeout_s=SILENCE_S)

AT_ONCE_S = 0.2  # a tick of the timer wheel, and room
SILENT_S = INTERVAL_S + SILENCE_S + 1.0 + 3 * AT_ONCE_S  # and a second to say so to whoever may still be there

BY_PEER = Close(4000, "bye", clean=True, by="peer")
BY_US = Close(4001, "done", clean=True, by="us")
LOST = Close(1006, clean=False, by="network")
SILENT = Close(1011, "no byte for 20 s after a ping", clean=False, by="us")


pytestmark = pytest.mark.usefixtures("logged")  # nothing may be warned of


# -- how it ends -----------------------------------------------------------------------------------------------------

Ending = Callable[[portico.WebSocket, portico.WebSocket, Link], tuple[Close, float]]


def by_peer(ours: portico.WebSocket, theirs: portico.WebSocket, link: Link) -> tuple[Close, float]:
    theirs.close(4000, "bye")
    return BY_PEER, AT_ONCE_S


def by_us(ours: portico.WebSocket, theirs: portico.WebSocket, link: Link) -> tuple[Close, float]:
    ours.close(4001, "done")
    return BY_US, AT_ONCE_S


def both_at_once(ours: portico.WebSocket, theirs: portico.WebSocket, link: Link) -> tuple[Close, float]:
    """Two close frames cross (§7.1.4)."""
    ours.close(4001, "done")
    theirs.close(4000, "bye")
    return BY_US, AT_ONCE_S


def fin(ours: portico.WebSocket, theirs: portico.WebSocket, link: Link) -> tuple[Close, float]:
    link.cut()
    return LOST, AT_ONCE_S


def rst(ours: portico.WebSocket, theirs: portico.WebSocket, link: Link) -> tuple[Close, float]:
    link.reset()
    return LOST, AT_ONCE_S


def silent(ours: portico.WebSocket, theirs: portico.WebSocket, link: Link) -> tuple[Close, float]:
    """Nothing comes any more, and what we send vanishes."""
    link.drop()
    return SILENT, SILENT_S


def stuck(ours: portico.WebSocket, theirs: portico.WebSocket, link: Link) -> tuple[Close, float]:
    """Nothing comes any more, and what we send is not taken."""
    link.pause()
    return SILENT, SILENT_S


def switched_off(ours: portico.WebSocket, theirs: portico.WebSocket, link: Link) -> tuple[Close, float]:
    """The peer's end is over, and we are not told."""
    link.half_open("server" if ours.client else "client")
    return SILENT, SILENT_S


def notified(ours: portico.WebSocket, theirs: portico.WebSocket, link: Link) -> tuple[Close, float]:
    """TLS ends in good order, the WebSocket doesn't."""
    theirs.stream.close()
    return LOST, AT_ONCE_S


def within_a_record(then: Callable[[Link], object]) -> Ending:
    """A record is cut short: some of its bytes have come, and then the connection is gone."""

    def end(ours: portico.WebSocket, theirs: portico.WebSocket, link: Link) -> tuple[Close, float]:
        flow = link.to_client if ours.client else link.to_server
        flow.tear()
        theirs.write(b"x" * 1000)
        asyncio.get_running_loop().call_soon(look, flow, flow.bytes_out + 100, link)
        return LOST, 2 * AT_ONCE_S

    def look(flow: Flow, enough: int, link: Link) -> None:
        if flow.bytes_out < enough:
            asyncio.get_running_loop().call_soon(look, flow, enough, link)
        else:
            then(link)

    end.__name__ = f"{then.__name__}_within_a_record"
    return end


cut_short = within_a_record(Link.cut)
reset_short = within_a_record(Link.reset)
RESETS = {rst, reset_short}

OVER_TCP: list[Ending] = [by_peer, by_us, both_at_once, fin, rst, silent, stuck, switched_off]
OVER_TLS: list[Ending] = [by_peer, by_us, both_at_once, notified, fin, rst, cut_short, reset_short, silent]
endings = pytest.mark.parametrize(
    ("ending", "over"), [*((ending, "tcp") for ending in OVER_TCP), *((ending, "tls") for ending in OVER_TLS)]
)


async def reads(ws: portico.WebSocket) -> None:
    async for _ in ws:
        pass


def others() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


async def ended(task: asyncio.Task[Any], seconds: float) -> None:
    """`task` is over so many seconds from now; with the end of its connection, where it raises that."""
    async with asyncio.timeout(seconds):
        [error] = await asyncio.gather(task, return_exceptions=True)
    assert error is None or isinstance(error, portico.ConnectionClosed | asyncio.CancelledError)


async def within(seconds: float, condition: Callable[[], object]) -> None:
    """`condition` holds so many simulated seconds from now, at the latest."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def ends(
    ending: Ending, over: str, tls: Tls, handler: Any = None, **options: Any
) -> AsyncIterator[tuple[portico.WebSocket, portico.WebSocket, Link]]:
    """The client's and the server's end, and the link between them, over "tcp" or "tls"."""
    if over == "tls":
        options |= {"uri": "wss://localhost/", "client": {"ssl": tls.client()}, "server": {"ssl": tls.server()}}
    with Link(tcp=ending in RESETS) as link:
        async with pair(handler, link=link, limits=LIMITS, keepalive=KEEPALIVE, **options) as both:
            assert both.server.stream.tls == (over == "tls")
            yield both.client, both.server, link


def patience_s(ending: Ending) -> float:
    """A reset takes the kernel real time."""
    return 0.01 if ending in RESETS else 0


@endings
@pytest.mark.parametrize("style", STYLES)
def test_a_handler_is_told_once(style: str, ending: Ending, over: str, tls: Tls) -> None:
    """On the server."""
    told = Told()

    async def main() -> None:
        async with ends(ending, over, tls, told.handler(style)) as (client, server, link):
            reader = asyncio.create_task(reads(client))
            await turns()
            assert server.closed is None
            close, bound = ending(server, client, link)
            await within(bound, lambda: server.closed is not None and server.stream.gone)
            await within(GRACE_S + AT_ONCE_S if style == "idle" else 2 * AT_ONCE_S, lambda: told.ends)
            await turns()
            assert others() <= {reader}, "only the peer's task is left"
        await reader
        assert not others()
        assert told.ends == [close]
        assert server.closed == close

    run(main(), patience_s=patience_s(ending))


@endings
@pytest.mark.parametrize("style", STYLES)
def test_a_client_is_told_once(style: str, ending: Ending, over: str, tls: Tls) -> None:
    told = Told()

    async def main() -> None:
        endpoint = told.callbacks() if style == "callbacks" else None
        async with ends(ending, over, tls, endpoint=endpoint) as (client, server, link):
            reader = asyncio.create_task(reads(server))
            user = None if endpoint else asyncio.create_task(told.handler(style)(client))
            await turns()
            assert client.closed is None
            close, bound = ending(client, server, link)
            await within(bound, lambda: client.closed is not None and client.stream.gone)
            if style == "idle" and user is not None:
                user.cancel()  # nobody else ends what a client waits for
            if user is not None:
                await ended(user, AT_ONCE_S)
            await turns()
            assert others() <= {reader}, "only the peer's task is left"
        await reader
        assert not others()
        assert told.ends == [close]
        assert client.closed == close
        await client.close()  # harmless, and over at once

    run(main(), patience_s=patience_s(ending))


@pytest.mark.parametrize(
    ("code", "reason"),
    [(999, ""), (1006, ""), (5000, ""), ("1000", ""), (1000, "x" * 124), (1000, b"bye"), (4000, None)],
)
def test_a_close_that_can_not_be_sent_is_refused_at_any_time(code: Any, reason: Any) -> None:
    """While the connection is open, closing and closed: the mistake is the same (RFC 6455 §5.5, §7.4)."""

    async def main() -> None:
        async with pair() as (client, server):
            for ws in (client, server):
                with pytest.raises(portico.LocalError):
                    ws.close(code, reason)
                assert ws.sending, "nothing was sent"
            closing = client.close()
            for _ in range(2):
                with pytest.raises(portico.LocalError):
                    client.close(code, reason)
                await closing
            await client.close(4002, "harmless")
            assert client.closed == Close(1000, clean=True, by="us")
            with pytest.raises(portico.LocalError):
                server.close(code, reason)

    run(main())


# -- a process that is killed ----------------------------------------------------------------------------------------

CLIENT = """
import socket, sys
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sock.sendall(sys.argv[2].encode())
answer = sock.recv(4096)
assert answer.startswith(b"HTTP/1.1 101 "), answer
print("open", flush=True)
sys.stdin.read()
"""

SERVER = """
import base64, hashlib, re, socket, sys
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
print(listener.getsockname()[1], flush=True)
sock, _ = listener.accept()
key = re.search(rb"(?i)^sec-websocket-key: *(.*?)\\r$", sock.recv(4096), re.MULTILINE)[1]
accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
sock.sendall(
    b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
    b"Sec-WebSocket-Accept: " + accept + b"\\r\\n\\r\\n"
)
sys.stdin.read()
"""


async def process(program: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", program, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )


async def line_of(peer: asyncio.subprocess.Process) -> str:
    assert peer.stdout is not None
    async with asyncio.timeout(GUARD_S):
        return (await peer.stdout.readline()).decode().strip()


async def kill(peer: asyncio.subprocess.Process) -> None:
    """SIGKILL; its kernel ends TCP with FIN, or with RST where it had bytes that it had not read."""
    peer.kill()
    async with asyncio.timeout(GUARD_S):
        await peer.communicate()


@pytest.mark.parametrize("style", STYLES)
async def test_a_client_process_is_killed(style: str) -> None:
    told = Told()
    limits = portico.Limits(handler_grace_s=0.1 if style == "idle" else GUARD_S)
    async with serving(told.handler(style), limits=limits) as server:
        before = others()
        peer = await process(CLIENT, str(server.port), upgrade().decode())
        assert await line_of(peer) == "open"
        ws = server.connections[0].websocket
        assert ws is not None
        assert ws.closed is None
        await kill(peer)
        await until(lambda: told.ends)
        await until(lambda: server.connection_count == 0)
        await turns()
        assert others() == before
    assert told.ends == [LOST]
    assert ws.closed == LOST


@pytest.mark.parametrize("style", STYLES)
async def test_a_server_process_is_killed(style: str) -> None:
    told = Told()
    before = others()
    peer = await process(SERVER)
    endpoint = told.callbacks() if style == "callbacks" else None
    async with portico.connect(f"ws://127.0.0.1:{await line_of(peer)}", proxy=None, endpoint=endpoint) as ws:
        user = None if endpoint else asyncio.create_task(told.handler(style)(ws))
        await turns()
        assert ws.closed is None
        await kill(peer)
        await until(lambda: ws.closed is not None)
        if style == "idle" and user is not None:
            user.cancel()
        if user is not None:
            await ended(user, GUARD_S)
        await until(lambda: told.ends)
        await turns()
        assert others() == before
    assert told.ends == [LOST]
    assert ws.closed == LOST

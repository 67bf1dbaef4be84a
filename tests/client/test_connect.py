"""`connect`: what it sends, refusals, servers that say nothing or stop half way, and being cancelled."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import pathlib
import socket
import time

import pytest
from tests.client.fakes import Fake, HangingNames, Visit, silent_listener, switching
from tests.support import descriptors, free_port, turns, until

import portico
from portico.net.reactor import Reactor

SECRET = "s3cr3t"
SOON_S = 0.5  # an open_timeout_s that is over soon, and enough for who is answered at once


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


def url(server: portico.Server) -> str:
    return f"ws://127.0.0.1:{server.port}/"


# -- what is sent ------------------------------------------------------------------------------------------------------


async def test_the_request() -> None:  # RFC 6455 §4.1, the requirements of the request
    async with Fake.running(Visit.closed) as fake:
        ws = await portico.connect(
            f"ws://me%40x:p%3Aw@localhost:{fake.port}/a%20b?c=d",
            headers={"Cookie": "a=1", "User-Agent": "test"},
            origin="http://page.example",
            subprotocols=["x", "y"],
        )
        await ws.close()
    lines = fake.requests[0].decode().split("\r\n")
    assert lines[0] == "GET /a%20b?c=d HTTP/1.1"
    assert f"Host: localhost:{fake.port}" in lines
    assert "Upgrade: websocket" in lines
    assert "Connection: Upgrade" in lines
    assert "Sec-WebSocket-Version: 13" in lines
    assert "Sec-WebSocket-Protocol: x, y" in lines
    assert "Origin: http://page.example" in lines
    assert "Cookie: a=1" in lines
    assert f"Authorization: Basic {base64.b64encode(b'me@x:p:w').decode()}" in lines
    assert ws.request.path == "/a b"
    assert ws.request.cookies == {"a": "1"}
    assert ws.client


async def test_a_header_of_the_callers_goes_before_the_uris_credentials() -> None:
    async with Fake.running(Visit.closed) as fake:
        await (await portico.connect(f"ws://u:p@127.0.0.1:{fake.port}", headers={"authorization": "Bearer x"})).close()
    assert fake.requests[0].lower().count(b"authorization") == 1
    assert b"Bearer x" in fake.requests[0]


async def test_each_connection_has_a_fresh_key() -> None:  # RFC 6455 §4.1, item 7
    async with Fake.running(Visit.closed) as fake:
        connection = portico.connect(f"ws://127.0.0.1:{fake.port}")
        for _ in range(3):
            await (await connection).close()
    keys = [line for request in fake.requests for line in request.split(b"\r\n") if line.startswith(b"Sec-WebSocket-K")]
    assert len(set(keys)) == 3


async def test_leaving_the_block_closes() -> None:
    ends: list[portico.Close | None] = []

    async def handler(ws: portico.WebSocket) -> None:
        await echo(ws)
        ends.append(ws.closed)

    async with portico.serve(handler, "127.0.0.1", 0) as server:
        async with portico.connect(f"ws://127.0.0.1:{server.port}"):
            pass
        with pytest.raises(KeyError):
            async with portico.connect(f"ws://127.0.0.1:{server.port}"):
                raise KeyError
        await until(lambda: len(ends) == 2)
    assert [close and close.code for close in ends] == [1000, 1011]


# -- servers that do not answer ----------------------------------------------------------------------------------------


async def timed_out(fake: Fake, scheme: str = "ws") -> str:
    """What is said when the deadline is over, which must be soon after `SOON_S`."""
    began = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        await portico.connect(f"{scheme}://u:{SECRET}@127.0.0.1:{fake.port}/", open_timeout_s=SOON_S)
    assert SOON_S <= time.monotonic() - began < 9
    assert f"{SOON_S} s (open_timeout_s)" in str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


async def test_a_server_that_never_answers() -> None:
    async with Fake.running(lambda visit: visit.gone()) as fake:
        assert "did not answer the opening handshake" in await timed_out(fake)


async def test_a_server_that_never_speaks_tls() -> None:
    async with Fake.running(lambda visit: visit.gone()) as fake:
        assert "TLS handshake" in await timed_out(fake, "wss")


async def test_an_answer_in_slow_pieces_does_not_renew_the_deadline() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        for byte in switching("x", "X-Long: " + "x" * 20_000):
            visit.send(bytes([byte]))
            await visit.writer.drain()
            await asyncio.sleep(0.01)

    async with Fake.running(script) as fake:
        assert "did not answer the opening handshake" in await timed_out(fake)


async def test_interim_answers_do_not_renew_the_deadline() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        while True:
            visit.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            await visit.writer.drain()
            await asyncio.sleep(0.01)

    async with Fake.running(script) as fake:
        assert "did not answer the opening handshake" in await timed_out(fake)


async def test_a_refusal_with_a_slow_body_is_known_at_the_deadline() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.send(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 100\r\n\r\nwait")
        await visit.gone()

    async with Fake.running(script) as fake:
        with pytest.raises(portico.HandshakeError) as caught:
            await portico.connect(f"ws://127.0.0.1:{fake.port}/", open_timeout_s=SOON_S)
    assert (caught.value.status, caught.value.body) == (503, b"wait")
    assert ("retry-after", "7") in caught.value.headers


async def test_a_host_that_drops_packets() -> None:
    listener, fill = silent_listener()
    port = listener.getsockname()[1]
    try:
        with pytest.raises(TimeoutError) as caught:
            await portico.connect(f"ws://127.0.0.1:{port}/", open_timeout_s=SOON_S)
        assert f"127.0.0.1 port {port}" in str(caught.value)
        assert f"no answer within {SOON_S} s" in str(caught.value)
    finally:
        for sock in (listener, *fill):
            sock.close()


async def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with HangingNames.running(monkeypatch), pytest.raises(TimeoutError, match=r"no address for 'a\.example' within"):
        await portico.connect("ws://a.example/", open_timeout_s=SOON_S)


async def test_a_name_without_address() -> None:
    with pytest.raises(socket.gaierror, match=r"no address for 'nowhere\.invalid'") as caught:
        await portico.connect("ws://nowhere.invalid/")
    assert caught.value.errno in (socket.EAI_NONAME, socket.EAI_AGAIN)


async def test_nobody_listens() -> None:
    port = free_port()
    with pytest.raises(ConnectionRefusedError, match=f"port {port}: 127.0.0.1: Connection refused") as caught:
        await portico.connect(f"ws://127.0.0.1:{port}/")
    assert caught.value.errno == errno.ECONNREFUSED


async def test_a_server_that_closes_at_once() -> None:
    async def script(visit: Visit) -> None:
        pass

    async with Fake.running(script) as fake:
        with pytest.raises(portico.HandshakeError, match=r"before (it|the server) had answered"):
            await portico.connect(f"ws://127.0.0.1:{fake.port}/")


async def test_a_server_that_closes_when_asked() -> None:
    async with Fake.running(lambda visit: visit.head()) as fake:
        with pytest.raises(portico.HandshakeError, match="closed the connection before it had answered") as caught:
            await portico.connect(f"ws://127.0.0.1:{fake.port}/")
    assert caught.value.status is None


async def test_a_server_that_resets() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.reset()

    async with Fake.running(script) as fake:
        with pytest.raises(portico.HandshakeError, match="reset by peer") as caught:
            await portico.connect(f"ws://127.0.0.1:{fake.port}/")
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_an_answer_that_is_cut() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        visit.send(b"HTTP/1.1 101 Switching Proto")

    async with Fake.running(script) as fake:
        with pytest.raises(portico.HandshakeError, match="inside a response's head") as caught:
            await portico.connect(f"ws://127.0.0.1:{fake.port}/")
    assert caught.value.status is None


async def test_a_server_that_switches_and_resets() -> None:
    async def script(visit: Visit) -> None:
        await visit.switch()
        await visit.writer.drain()
        await until(lambda: any(getattr(one, "bytes_in", 0) for one in Reactor.running().sources()))
        visit.reset()

    async with Fake.running(script) as fake:
        ws = await portico.connect(f"ws://127.0.0.1:{fake.port}/")
        with pytest.raises(portico.ConnectionClosed) as caught:
            await ws.recv()
    assert caught.value.close.code == 1006


async def test_503_says_when_to_come_back() -> None:
    limits = portico.Limits(max_connections=1)
    async with portico.serve(echo, "127.0.0.1", 0, limits=limits) as server, portico.connect(url(server)):
        with pytest.raises(portico.HandshakeError) as caught:
            await portico.connect(url(server))
    assert caught.value.status == 503
    assert "retry-after" in [name for name, _ in caught.value.headers]


# -- other ways to a server --------------------------------------------------------------------------------------------


async def test_a_unix_socket(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s"
    async with portico.serve(echo, uds=str(path)):
        for uds in (path, str(path)):
            async with portico.connect("ws://any.example/x", uds=uds, proxy=True) as ws:
                await ws.send("hi")
                assert await ws.recv() == "hi"
            assert ws.request.headers["host"] == "any.example"


async def test_a_unix_socket_that_is_not_there(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "missing"
    with pytest.raises(FileNotFoundError, match=str(path)):
        await portico.connect("ws://a/", uds=path)


async def test_a_unix_socket_that_nobody_accepts_from(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as fill:
        listener.bind(path)
        listener.listen(0)
        fill.connect(path)
        with pytest.raises(OSError, match=path):
            await portico.connect("ws://a/", uds=path, open_timeout_s=SOON_S)


async def test_a_connected_socket() -> None:
    async with portico.serve(echo, "127.0.0.1", 0) as server:
        sock = socket.create_connection(("127.0.0.1", server.port))  # a blocking one: that is no matter
        async with portico.connect("ws://any.example/x", sock=sock) as ws:
            await ws.send("hi")
            assert await ws.recv() == "hi"
        assert sock.fileno() == -1


async def test_who_closes_a_socket_that_was_given_away_closes_nobodys() -> None:
    async with portico.serve(echo, "127.0.0.1", 0) as server:
        sock = socket.create_connection(("127.0.0.1", server.port))
        async with portico.connect("ws://any.example/x", sock=sock) as ws:
            sock.close()
            ours, theirs = socket.socketpair()  # which would get its descriptor
            with ours, theirs:
                await ws.send("hi")
                assert await ws.recv() == "hi"
                for other in (ours, theirs):
                    other.setblocking(False)
                    with pytest.raises(BlockingIOError):
                        other.recv(1)


@pytest.mark.parametrize("connected", [True, False])
async def test_a_connected_socket_is_closed_whatever_happens(connected: bool) -> None:
    async with Fake.running(lambda visit: visit.answer("404 Not Found")) as fake:
        sock = socket.socket()
        if connected:
            sock.connect(("127.0.0.1", fake.port))
        with pytest.raises((portico.HandshakeError, OSError)):
            await portico.connect("ws://any.example/x", sock=sock)
        assert sock.fileno() == -1


# -- being cancelled ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("stage", ["look-up", "TCP", "handshake"])
async def test_cancelling_leaves_nothing(stage: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixture finds what is left; and whoever comes next finds its turn free."""
    there = asyncio.Event()

    async def script(visit: Visit) -> None:
        there.set()
        await visit.gone()

    port = free_port()
    async with contextlib.AsyncExitStack() as stack:
        silent: list[socket.socket] = []
        if stage == "TCP":
            listener, silent = silent_listener(port=port)
            silent.append(listener)
            there.set()
        else:
            await stack.enter_async_context(Fake.running(script, port=port))
        before = descriptors()
        host = "a.example" if stage == "look-up" else "127.0.0.1"
        with HangingNames.running(monkeypatch) as names:
            task = asyncio.ensure_future(portico.connect(f"{scheme}://{host}:{port}/"))
            await until(lambda: names.asked or there.is_set())
            await until(lambda: stage != "TCP" or descriptors() != before)
            task.cancel()
            await asyncio.wait([task])
        with pytest.raises(asyncio.CancelledError):
            await task
        for sock in silent:
            sock.close()
    async with Fake.running(Visit.closed, port=port):
        await (await portico.connect(f"ws://127.0.0.1:{port}/", open_timeout_s=2)).close()


async def test_cancelling_at_the_last_moment_leaves_nothing() -> None:
    """From when the server has accepted, one turn of the loop later each time, until the WebSocket is open."""

    async def script(visit: Visit) -> None:
        await visit.switch()
        await visit.gone()

    async with Fake.running(script) as fake:
        for after in range(1000):
            count = fake.count
            task = asyncio.ensure_future(portico.connect(f"ws://127.0.0.1:{fake.port}/"))
            while fake.count == count:
                await asyncio.sleep(0)
            await turns(after)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result().stream.abort()
                break
    assert task.done()
    assert not task.cancelled()
    assert fake.count > 1

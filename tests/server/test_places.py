"""Where a server listens: addresses, ports, Unix sockets, sockets that were bound before; and how many it lets in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import socket
import stat

import pytest
from tests.support import TEXT, Peer, frame, free_port, get, serving, until, upgrade

import portico


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def talks(sock: socket.socket) -> bool:
    """Whether a WebSocket can be opened over this connected socket, and echoes."""
    sock.setblocking(False)
    async with Peer(*await asyncio.open_connection(sock=sock)) as peer:
        await peer.open()
        peer.send(frame(TEXT, b"x"))
        return await peer.frame() == (TEXT, b"x")


def over(family: int, address: object) -> socket.socket:
    sock = socket.socket(family)
    sock.connect(address)  # type: ignore[arg-type] # of this family
    return sock


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


class TestTcp:
    async def test_port_0_takes_a_free_one(self) -> None:
        async with serving(echo) as one, serving(echo) as two:
            assert one.port != two.port
            assert one.addresses == [("127.0.0.1", one.port)]
            assert await talks(over(socket.AF_INET, one.addresses[0]))

    async def test_a_name_with_several_addresses(self) -> None:
        """Every address of the name, at one port."""
        async with portico.serve(echo, "localhost", 0) as server:
            expected = {"127.0.0.1"} | ({"::1"} if has_ipv6() else set())
            found = {info[4][0] for info in socket.getaddrinfo("localhost", None)}
            assert {host for host, _ in server.addresses} == expected & found
            assert {port for _, port in server.addresses} == {server.port}
            for sock in server.sockets:
                assert await talks(over(sock.family, sock.getsockname()))

    async def test_none_is_every_address(self) -> None:
        async with portico.serve(echo, None, 0) as server:
            assert await talks(over(socket.AF_INET, ("127.0.0.1", server.port)))
            assert (socket.AF_INET6 in {sock.family for sock in server.sockets}) == has_ipv6()

    async def test_the_address_that_a_connection_came_to(self) -> None:
        """Also where the server listens on all of them."""
        seen = []

        async def handler(ws: portico.WebSocket) -> None:
            seen.append(ws.request.server)

        async with portico.serve(handler, "0.0.0.0", 0) as server:
            async with await Peer.connect(server) as peer:
                await peer.open()
            await until(lambda: seen)
        assert seen == [("127.0.0.1", server.port)]

    async def test_an_address_in_use_is_named(self) -> None:
        async with serving(echo) as server:
            with pytest.raises(portico.LocalError, match=rf"127\.0\.0\.1.*{server.port}.*[Aa]ddress already in use"):
                await portico.serve(echo, "127.0.0.1", server.port)

    async def test_an_address_that_is_not_ours_is_named(self) -> None:
        with pytest.raises(portico.LocalError, match=r"192\.0\.2\.1"):
            await portico.serve(echo, "192.0.2.1", 0)

    async def test_an_address_can_be_had_again_at_once(self) -> None:
        """Connections in TIME_WAIT don't keep a restarted server from its port."""
        port = free_port()
        async with portico.serve(echo, "127.0.0.1", port) as server, await Peer.connect(server) as peer:
            await peer.open()
            closing = asyncio.ensure_future(server.close())
            await peer.closed_with(1001)
            peer.send(frame(0x88, b"\x03\xe9"))
            await peer.to_end()
            await closing
        async with portico.serve(echo, "127.0.0.1", port) as again:
            assert again.port == port

    async def test_a_socket_that_was_bound_before(self) -> None:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
        async with portico.serve(echo, sock=sock) as server:
            assert server.addresses == [address]
            assert await talks(over(socket.AF_INET, address))
        assert sock.fileno() == -1

    async def test_a_socket_of_another_kind(self) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(portico.LocalError, match="stream socket"):
            await portico.serve(echo, sock=sock)


class TestUnix:
    async def test_a_path(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "portico.sock"
        seen = []

        async def handler(ws: portico.WebSocket) -> None:
            seen.append((ws.request.client, ws.request.server))
            await echo(ws)

        async with portico.serve(handler, uds=path) as server:
            assert server.addresses == [str(path)]
            assert stat.S_ISSOCK(path.stat().st_mode)
            with pytest.raises(portico.LocalError, match="no TCP port"):
                _ = server.port
            assert await talks(over(socket.AF_UNIX, str(path)))
        assert seen == [(None, None)]
        assert not path.exists()

    async def test_a_file_left_by_a_crash_is_replaced(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "portico.sock"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        async with portico.serve(echo, uds=path):
            assert await talks(over(socket.AF_UNIX, str(path)))

    async def test_one_where_another_listens_is_not(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "portico.sock"
        async with portico.serve(echo, uds=path):
            with pytest.raises(portico.LocalError, match="another process listens"):
                await portico.serve(echo, uds=path)
            assert await talks(over(socket.AF_UNIX, str(path)))

    async def test_another_kind_of_file_is_not(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("precious")
        with pytest.raises(portico.LocalError, match="another kind of file"):
            await portico.serve(echo, uds=path)
        assert path.read_text() == "precious"

    async def test_a_directory_that_is_not_there(self, tmp_path: pathlib.Path) -> None:
        with pytest.raises(portico.LocalError, match="No such file"):
            await portico.serve(echo, uds=tmp_path / "none" / "portico.sock")

    async def test_a_start_that_fails_removes_it(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "portico.sock"

        async def app(scope, receive, send):  # type: ignore[no-untyped-def]
            await receive()
            await send({"type": "lifespan.startup.failed"})

        with pytest.raises(portico.PorticoError):
            await portico.serve(app, uds=path)
        assert os.listdir(tmp_path) == []


class TestCaps:
    """`Limits.max_connections` and `max_connections_per_address`: 503 before the upgrade."""

    @pytest.mark.parametrize("cap", ["max_connections", "max_connections_per_address"])
    async def test_one_too_many_is_told_to_come_back(self, cap: str) -> None:
        limits = portico.Limits(**{cap: 2})  # type: ignore[arg-type] # whole numbers both
        async with serving(echo, limits=limits) as server, await Peer.connect(server) as first:
            await first.open()
            async with await Peer.connect(server) as second:
                await second.open()
                for request in (upgrade() + get(), get() + get()):
                    async with await Peer.connect(server) as third:
                        third.send(request)
                        answer = await third.refused(503)
                        assert answer.header("retry-after") == "5"
                await until(lambda: server.connection_count == 2)
            await until(lambda: server.connection_count == 1)
            async with await Peer.connect(server) as again:
                await again.open()
                first.send(frame(TEXT, b"undisturbed"))
                assert await first.frame() == (TEXT, b"undisturbed")

    @pytest.mark.parametrize("cap", ["max_connections", "max_connections_per_address"])
    async def test_those_that_wait_to_be_told_take_no_place(self, cap: str) -> None:
        """A place that gets free goes to the next one, although some that were too many still hang about."""
        limits = portico.Limits(**{cap: 1})  # type: ignore[arg-type] # as above
        async with serving(echo, limits=limits) as server:
            first = await Peer.connect(server)
            await first.open()
            async with contextlib.AsyncExitStack() as stack:
                lurkers = [await stack.enter_async_context(await Peer.connect(server)) for _ in range(3)]
                await until(lambda: server.connection_count == 4)
                first.writer.close()
                await until(lambda: server.connection_count == 3)
                async with await Peer.connect(server) as again:
                    await again.open()
                    lurkers[0].send(upgrade())
                    await lurkers[0].refused(503)

    async def test_those_that_never_ask_are_not_kept_long(self) -> None:
        limits = portico.Limits(max_connections=1, head_timeout_s=0.2)
        async with serving(echo, limits=limits) as server, await Peer.connect(server) as first:
            await first.open()
            async with await Peer.connect(server) as silent:
                assert await silent.to_end() == b""

    async def test_a_flood_is_not_even_told(self) -> None:
        """Beyond some spare ones, connections are dropped as they come, and the server keeps none of them."""
        limits = portico.Limits(max_connections=1)
        async with serving(echo, limits=limits) as server, contextlib.AsyncExitStack() as stack:
            first = await stack.enter_async_context(await Peer.connect(server))
            await first.open()
            for _ in range(150):
                await stack.enter_async_context(await Peer.connect(server))
            await until(lambda: server.accepted == 151)
            assert server.connection_count < 100
            first.send(frame(TEXT, b"undisturbed"))
            assert await first.frame() == (TEXT, b"undisturbed")

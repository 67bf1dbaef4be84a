"""A link relays everything, and then fails in the one way that it was told to."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

import portico
from portico.testing import Link, run

GUARD_S = 5.0  # simulated


class Ends:
    """Raw sockets at both ends of a link."""

    def __init__(self, link: Link) -> None:
        self.loop = asyncio.get_running_loop()
        self.client = link.client
        self.server = link.server
        for sock in (self.client, self.server):
            sock.setblocking(False)

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.close()

    async def read(self, sock: socket.socket) -> bytes:
        async with asyncio.timeout(GUARD_S):
            return await self.loop.sock_recv(sock, 1 << 20)

    async def silent(self, sock: socket.socket) -> bool:
        """Nothing comes to `sock`, and no end either."""
        try:
            await self.read(sock)
        except TimeoutError:
            return True
        return False

    async def to_end(self, sock: socket.socket) -> bytes:
        data = b""
        while piece := await self.read(sock):
            data += piece
        return data


KINDS = [False, True]


@pytest.mark.parametrize("tcp", KINDS)
def test_it_relays_both_ways_and_counts(tcp: bool) -> None:
    data = random.Random(1).randbytes(3_000_000)

    async def main() -> None:
        with Link(tcp=tcp) as link, Ends(link) as ends:

            async def talk(sock: socket.socket) -> None:
                await ends.loop.sock_sendall(sock, data)
                sock.shutdown(socket.SHUT_WR)

            _, _, there, back = await asyncio.gather(
                talk(ends.client), talk(ends.server), ends.to_end(ends.server), ends.to_end(ends.client)
            )
            assert there == back == data
            assert link.to_server.bytes_in == link.to_server.bytes_out == len(data)
            assert link.to_client.bytes_in == link.to_client.bytes_out == len(data)

    run(main(), patience_s=0.01)


def test_one_ends_end_leaves_the_other_direction_open() -> None:
    async def main() -> None:
        with Link() as link, Ends(link) as ends:
            ends.client.send(b"last words")
            ends.client.shutdown(socket.SHUT_WR)
            assert await ends.to_end(ends.server) == b"last words"
            ends.server.send(b"goodbye")
            assert await ends.read(ends.client) == b"goodbye"

    run(main())


def test_torn_to_bytes() -> None:
    async def main() -> None:
        with Link() as link, Ends(link) as ends:
            link.tear()
            ends.client.send(b"abcdef")
            assert [await ends.read(ends.server) for _ in range(6)] == [b"a", b"b", b"c", b"d", b"e", b"f"]

    run(main())


def test_torn_at_random() -> None:
    data = random.Random(2).randbytes(20_000)

    async def main() -> list[int]:
        sizes = []
        with Link() as link, Ends(link) as ends:
            link.tear(7)
            ends.client.send(data)
            got = b""
            while len(got) < len(data):
                piece = await ends.read(ends.server)
                got += piece
                sizes.append(len(piece))
            assert got == data
        return sizes

    first = run(main())
    assert len(first) > 5
    assert min(first) < 65
    assert run(main()) == first, "the same seed tears in the same places"


def test_delayed() -> None:
    async def main() -> None:
        with Link() as link, Ends(link) as ends:
            link.delay(2)
            began = ends.loop.time()
            ends.client.send(b"one")
            await asyncio.sleep(1)
            ends.client.send(b"two")
            assert await ends.read(ends.server) == b"one"
            assert ends.loop.time() - began == pytest.approx(2)
            link.delay(0)  # nothing overtakes
            ends.client.send(b"three")
            assert await ends.read(ends.server) == b"twothree"
            assert ends.loop.time() - began == pytest.approx(3)

    run(main())


def test_a_black_hole_tells_nobody() -> None:
    async def main() -> None:
        with Link() as link, Ends(link) as ends:
            link.delay(1)
            ends.client.send(b"in transit: lost, too")
            await asyncio.sleep(0.5)
            link.drop()
            assert not link.passing
            await ends.loop.sock_sendall(ends.client, bytes(5_000_000))  # never waits
            ends.client.shutdown(socket.SHUT_WR)
            assert await ends.silent(ends.server)
            ends.server.send(b"hello?")
            assert await ends.silent(ends.client)
            assert link.to_server.bytes_out == 0

    run(main())


def test_one_way_lost() -> None:
    async def main() -> None:
        with Link() as link, Ends(link) as ends:
            link.to_client.drop()
            ends.client.send(b"ping")
            assert await ends.read(ends.server) == b"ping"
            ends.server.send(b"pong")
            assert await ends.silent(ends.client)

    run(main())


def test_paused_makes_the_sender_wait_and_loses_nothing() -> None:
    data = random.Random(3).randbytes(3_000_000)

    async def main() -> None:
        with Link() as link, Ends(link) as ends:
            link.pause()
            sending = asyncio.create_task(ends.loop.sock_sendall(ends.client, data))
            assert await ends.silent(ends.server)
            assert not sending.done()
            link.resume()
            got = b""
            while len(got) < len(data):
                got += await ends.read(ends.server)
            await sending
            assert got == data

    run(main())


@pytest.mark.parametrize("tcp", KINDS)
def test_cut_is_an_orderly_end_for_both(tcp: bool) -> None:
    async def main() -> None:
        with Link(tcp=tcp) as link, Ends(link) as ends:
            link.cut()
            assert await ends.read(ends.client) == b""
            assert await ends.read(ends.server) == b""

    run(main(), patience_s=0.01 if tcp else 0)


def test_half_open() -> None:
    """RFC 9293 §3.5.1."""

    async def main() -> None:
        with Link() as link, Ends(link) as ends:
            link.half_open("client")
            assert await ends.read(ends.client) == b""
            ends.client.close()
            await ends.loop.sock_sendall(ends.server, bytes(3_000_000))
            assert await ends.silent(ends.server)

        with Link() as link, Ends(link) as ends:
            link.half_open("server")
            assert await ends.read(ends.server) == b""
            assert await ends.silent(ends.client)

    run(main())


def test_reset_is_a_real_one() -> None:
    async def main() -> None:
        with Link(tcp=True) as link, Ends(link) as ends:
            link.reset()
            for sock in (ends.client, ends.server):
                with pytest.raises(ConnectionResetError):
                    await ends.read(sock)

    run(main(), patience_s=0.01)


def test_one_ends_reset_reaches_the_other() -> None:
    async def main() -> None:
        with Link(tcp=True) as link, Ends(link) as ends:
            ends.server.send(b"unread: closing is a reset")
            assert await ends.loop.sock_recv(ends.client, 1) == b"u"
            ends.client.close()
            with pytest.raises(ConnectionResetError):
                await ends.read(ends.server)

    run(main(), patience_s=0.01)


def test_between_given_sockets() -> None:
    async def main() -> None:
        client, near = socket.socketpair()
        far, server = socket.socketpair()
        with client, server, Link(between=(near, far)) as link:
            client.send(b"hello")
            server.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(server, 100) == b"hello"
            with pytest.raises(portico.LocalError):
                _ = link.client
        assert near.fileno() == far.fileno() == -1

    run(main())


def test_what_cant_be_done_is_said() -> None:
    async def main() -> None:
        with Link() as link, Ends(link):
            with pytest.raises(portico.LocalError, match="tcp=True"):
                link.reset()
            with pytest.raises(portico.LocalError, match="'client' or 'server'"):
                link.half_open("to_client")  # type: ignore[arg-type]
            for seconds in (-1, float("nan"), float("inf")):
                with pytest.raises(portico.LocalError):
                    link.delay(seconds)
            link.close()
            link.close()

    run(main())

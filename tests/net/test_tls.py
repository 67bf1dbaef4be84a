"""TLS on a stream: the handshake however it comes, both directions at any size and speed, and its end."""

from __future__ import annotations

import asyncio
import functools
import random
import ssl
import time
from collections.abc import Callable

import pytest
from tests.net.ends import End, Recorder, idles, tcp_pair
from tests.support import GUARD_S, turns, until

from portico.net.reactor import Reactor
from portico.net.tls import TlsStream

SMALL = 4096  # for the kernel's buffers: soon full
BIG = 3_000_000


class Secure:
    """A `TlsStream` with a `Recorder`, and a client's TLS at the other end that moves when the test says so."""

    def __init__(
        self,
        reactor: Reactor,
        server: ssl.SSLContext,
        client: ssl.SSLContext,
        *,
        buffer: int = 0,
        high_water: int = 65536,
        kind: type[TlsStream] = TlsStream,
    ) -> None:
        sock, other = tcp_pair(buffer=buffer)
        self.stream = kind.accepted(reactor, sock, server, None, high_water, None)
        self.protocol = self.stream.protocol = Recorder()
        self.end = End(other)
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = client.wrap_bio(self._in, self._out, server_hostname="localhost")

    async def __aenter__(self) -> Secure:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stream.abort()
        self.end.sock.close()

    def outgoing(self) -> bytes:
        """What the client's TLS wants to send."""
        return self._out.read()

    async def _do(self, act: Callable[[], bytes | None], send: Callable[[bytes], object] | None = None) -> bytes | None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(GUARD_S):
            while True:
                try:
                    return act()
                except ssl.SSLWantReadError:
                    if out := self.outgoing():
                        await (send or self.end.send)(out)  # type: ignore[misc] # a coroutine function
                    piece = await loop.sock_recv(self.end.sock, 1 << 16)
                    if piece:
                        self._in.write(piece)
                    else:
                        self._in.write_eof()

    async def handshake(self, send: Callable[[bytes], object] | None = None) -> None:
        await self._do(self._tls.do_handshake, send)
        await (send or self.end.send)(self.outgoing())  # type: ignore[misc] # a coroutine function
        await until(lambda: "connected" in self.protocol.calls)

    def encrypt(self, data: bytes) -> bytes:
        self._tls.write(data)
        return self.outgoing()

    async def send(self, data: bytes) -> None:
        for at in range(0, len(data), 1 << 20):
            await self.end.send(self.encrypt(data[at : at + (1 << 20)]))

    async def read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            left = min(1 << 16, size - len(data))
            piece = await self._do(functools.partial(self._tls.read, left))
            assert piece, f"the end came after {len(data)} of {size} bytes"
            data += piece
        return bytes(data)

    async def ended(self) -> None:
        """The stream's close_notify comes next, before TCP's end."""
        assert await self._do(lambda: self._tls.read(1)) == b"", "TCP's end alone would be an SSLEOFError"

    def close_notify(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.unwrap()
        return self.outgoing()


Make = Callable[..., Secure]


@pytest.fixture
def make(reactor: Reactor, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> Make:
    def make(**options: int) -> Secure:
        return Secure(reactor, server_tls, client_tls, **options)  # type: ignore[arg-type] # all of the same type here

    return make


async def test_a_handshake_torn_at_every_byte(make: Make) -> None:
    async with make() as secure:

        async def byte_by_byte(data: bytes) -> None:
            for at in range(len(data)):
                assert secure.protocol.calls == []
                await secure.end.send(data[at : at + 1])
                await turns(2)

        await secure.handshake(byte_by_byte)
        assert secure.protocol.calls == ["connected"]
        assert secure.stream.tls
        assert not secure.stream.handshaking
        await secure.send(b"hello")
        assert await secure.protocol.got(5) == b"hello"


async def test_what_comes_in_one_piece_with_the_end_of_the_handshake(make: Make) -> None:
    async with make() as secure:

        async def with_data(data: bytes) -> None:
            if secure._tls.version() is not None and secure._tls.cipher() and not first:
                data += secure.encrypt(b"at once")
            first.clear()
            await secure.end.send(data)

        first = [True]
        await secure.handshake(with_data)
        assert await secure.protocol.got(7) == b"at once"
        assert secure.protocol.calls == ["connected", "received"]


async def test_a_handshake_that_takes_too_long(make: Make, reactor: Reactor) -> None:
    async with make() as secure:
        await secure.end.send(b"\x16\x03\x01")
        reactor.wheel.schedule(secure.stream, time.monotonic())
        assert isinstance(await secure.protocol.gone(), TimeoutError)
        assert secure.protocol.calls == ["lost"]


async def test_the_handshake_s_deadline_ends_with_it(make: Make, reactor: Reactor) -> None:
    async with make() as secure:
        reactor.wheel.schedule(secure.stream, time.monotonic() + 100)
        await secure.handshake()
        assert secure.stream.due == float("inf")


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 70_000],
    ids=["http", "zeros", "noise"],
)
async def test_plain_bytes_at_a_tls_stream_end_it_and_nothing_is_told(make: Make, data: bytes) -> None:
    async with make() as secure:
        await secure.end.send(data)
        assert isinstance(await secure.protocol.gone(), ssl.SSLError)
        assert secure.protocol.calls == ["lost"]


async def test_a_peer_that_leaves_within_the_handshake(make: Make) -> None:
    for leave in ("close", "reset"):
        async with make() as secure:
            await secure.end.send(b"\x16\x03")
            await turns()
            secure.end.sock.close() if leave == "close" else secure.end.reset()
            assert isinstance(await secure.protocol.gone(), OSError)
            assert secure.protocol.calls == ["lost"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
async def test_megabytes_both_ways_at_once(
    reactor: Reactor, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    client_tls.minimum_version = client_tls.maximum_version = version
    async with Secure(reactor, server_tls, client_tls) as secure:
        await secure.handshake()
        there, back = random.Random(1).randbytes(BIG), random.Random(2).randbytes(BIG)
        secure.stream.write(back[:10])
        secure.stream.write(back[10:])
        _, came = await asyncio.gather(secure.send(there), secure.read(BIG))
        assert came == back
        assert await secure.protocol.got(BIG) == there
        assert (secure.stream.bytes_in, secure.stream.bytes_out) == (BIG, BIG)


async def test_a_stalled_reader_blocks_the_stream_and_then_gets_everything_in_order(make: Make) -> None:
    async with make(buffer=SMALL, high_water=1000) as secure:
        await secure.handshake()
        chance = random.Random(1)
        expected = bytearray()
        while len(expected) < 300_000:
            piece = chance.randbytes(chance.randint(1, 5000))
            secure.stream.write(piece)
            expected += piece
            await asyncio.sleep(0)
        assert secure.stream.blocked
        await idles(secure.stream.reactor)
        assert await secure.read(len(expected)) == expected
        await until(lambda: not secure.stream.blocked)
        assert secure.stream.buffered == 0
        assert "drained" in secure.protocol.calls
        await secure.send(b"and back")
        assert await secure.protocol.got(8) == b"and back"


async def test_reading_goes_on_while_writing_is_blocked(make: Make) -> None:
    async with make(buffer=SMALL) as secure:
        await secure.handshake()
        secure.stream.write(bytes(100_000))
        await turns()
        assert secure.stream.blocked
        await secure.send(b"heard" * 1000)
        assert await secure.protocol.got(5000) == b"heard" * 1000
        assert secure.stream.blocked
        assert await secure.read(100_000) == bytes(100_000)


class Droppable(bytes):
    pass


async def test_what_tls_has_begun_is_offered_again_whatever_is_dropped_behind_it(make: Make) -> None:
    """A record that TLS could not write whole has to be completed (SSL_write(3)): those bytes are no one's to drop."""
    async with make(buffer=SMALL) as secure:
        await secure.handshake()
        chance = random.Random(1)
        received = bytearray()
        numbers = iter(range(10**6))
        for _ in range(30):
            for _ in range(60):
                secure.stream.write(Droppable(b"<%08d>" % next(numbers) * chance.choice((1, 60, 200, 2500))))
            await turns(3)
            assert secure.stream.blocked
            before = secure.stream.buffered
            count = secure.stream.drop_oldest(Droppable, 5000)
            assert before - secure.stream.buffered >= 5000 * bool(count)
            secure.stream.replace(Droppable(b"<%08d>" % next(numbers)), lambda entry: type(entry) is Droppable)
            received += await secure.read(5000)
        received += await secure.read(secure.stream.bytes_out + secure.stream.buffered - len(received))
        whole = [int(entry) for entry in bytes(received)[1:-1].split(b"><")]
        assert whole == sorted(whole), "each entry whole, and in order"


async def test_an_entry_of_which_not_a_byte_is_out_may_be_begun_all_the_same(make: Make) -> None:
    async with make(buffer=SMALL) as secure:
        await secure.handshake()
        entry = Droppable(random.Random(1).randbytes(20_000))
        secure.stream.write(entry)
        await turns()
        assert (secure.stream.blocked, secure.stream.bytes_out) == (True, 0)
        assert secure.stream.drop_oldest(Droppable, 1) == 0
        assert not secure.stream.replace(b"another", lambda entry: True)
        secure.stream.write(b"after it")
        assert await secure.read(20_008) == entry + b"after it"


async def test_the_peers_close_notify_is_its_end(make: Make) -> None:
    async with make() as secure:
        await secure.handshake()
        await secure.end.send(secure.encrypt(b"bye") + secure.close_notify())
        await until(lambda: "eof" in secure.protocol.calls)
        assert bytes(secure.protocol.data) == b"bye"
        await idles(secure.stream.reactor)
        assert secure.protocol.calls == ["connected", "received", "eof"]


async def test_so_is_tcp_s_end_without_one(make: Make) -> None:
    """WebSocket and HTTP messages have their own ends: nothing that was cut off passes for whole."""
    async with make() as secure:
        await secure.handshake()
        await secure.send(b"bye")
        secure.end.sock.close()
        await until(lambda: "eof" in secure.protocol.calls or secure.protocol.causes)
        assert bytes(secure.protocol.data) == b"bye"


@pytest.mark.parametrize("linger", [False, True])
async def test_close_writes_the_outbox_and_says_close_notify(make: Make, linger: bool) -> None:
    async with make() as secure:
        await secure.handshake()
        secure.stream.write(b"last words" * 50_000)
        secure.stream.close(linger=linger)
        assert await secure.read(500_000) == b"last words" * 50_000
        await secure.ended()
        if linger:
            assert secure.stream.state == "lingering"
            secure.end.sock.close()
        assert await secure.protocol.gone() is None


async def test_lingering_saves_our_last_words_although_input_waits(make: Make) -> None:
    async with make() as secure:
        await secure.handshake()
        secure.stream.pause()
        await secure.send(bytes(100_000))
        secure.stream.write(b"our last words")
        secure.stream.close(linger=True)
        await until(lambda: secure.stream.state == "lingering")
        await secure.send(bytes(100_000))
        assert await secure.read(14) == b"our last words"
        await secure.ended()
        secure.end.sock.close()
        assert await secure.protocol.gone() is None


async def test_pause_and_resume(make: Make) -> None:
    async with make() as secure:
        await secure.handshake()
        secure.protocol.on_received = lambda data: secure.stream.pause()
        await secure.send(bytes(100_000))
        await secure.protocol.got(1)
        await idles(secure.stream.reactor)
        assert secure.protocol.calls.count("received") == 1
        secure.stream.peek()
        assert secure.protocol.calls.count("received") == 2
        secure.protocol.on_received = lambda data: None
        secure.stream.resume()
        await secure.protocol.got(100_000)


async def test_a_protocol_that_ends_the_stream_between_two_records(make: Make) -> None:
    async with make() as secure:
        await secure.handshake()
        secure.protocol.on_received = lambda data: secure.stream.abort()
        await secure.send(bytes(100_000))
        await secure.protocol.gone()
        assert secure.protocol.calls == ["connected", "received", "lost"]


async def test_a_protocol_that_closes_as_soon_as_it_is_connected(make: Make) -> None:
    class Refusing(Recorder):
        def connected(self) -> None:
            super().connected()
            secure.stream.abort()

    async with make() as secure:
        secure.protocol = secure.stream.protocol = Refusing()
        await secure.handshake()
        assert secure.protocol.calls == ["connected", "lost"]


async def test_a_record_damaged_on_the_way_ends_the_stream(make: Make) -> None:
    async with make() as secure:
        await secure.handshake()
        record = bytearray(secure.encrypt(b"hello"))
        record[-1] ^= 1
        await secure.end.send(bytes(record))
        assert isinstance(await secure.protocol.gone(), ssl.SSLError)
        assert secure.protocol.data == b""

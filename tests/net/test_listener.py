"""The listener: accepts in batches, survives what accept(2) may answer, and never leaks a connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pathlib
import socket
import ssl
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.net.ends import End, Recorder
from tests.support import GUARD_S, Logged, descriptors, until

from portico.errors import LocalError
from portico.net.binding import bind
from portico.net.listener import Listener
from portico.net.reactor import Reactor
from portico.net.stream import Protocol, Stream


class Port:
    """A listener with its streams, each with a `Recorder`."""

    def __init__(self, reactor: Reactor, sock: socket.socket, **options: Any) -> None:
        self.reactor = reactor
        self.streams: list[Stream] = []
        self.gone: list[Stream] = []
        self.prepare: Callable[[Stream, Recorder], object] = lambda stream, protocol: None
        self.make = self.make_recorder
        self.listener = Listener(
            reactor, sock, lambda stream: self.make(stream), self.gone.append, high_water=65536, **options
        )
        self.address = sock.getsockname()

    def make_recorder(self, stream: Stream) -> Protocol:
        self.streams.append(stream)
        protocol = Recorder()
        protocol.on_received = stream.write
        protocol.on_eof = stream.close
        self.prepare(stream, protocol)
        return protocol

    def connect(self) -> socket.socket:
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        sock = socket.socket(family)
        try:
            sock.connect(self.address)
        except OSError:
            sock.close()
            raise
        return sock

    async def echoes(self, sock: socket.socket) -> None:
        end = End(sock)
        await end.send(b"hello")
        assert await end.read(5) == b"hello"


@pytest.fixture
def logged() -> AsyncIterator[Logged]:
    handler = Logged()
    logging.getLogger("portico").addHandler(handler)
    yield handler
    logging.getLogger("portico").removeHandler(handler)
    assert not handler.records, [record.getMessage() for record in handler.records]


@pytest.fixture
async def port(reactor: Reactor, logged: Logged) -> AsyncIterator[Port]:
    [sock] = await bind("127.0.0.1", 0)
    port = Port(reactor, sock)
    yield port
    port.listener.close()
    for stream in port.streams:
        stream.abort()
    assert sorted(map(id, port.gone)) == sorted(map(id, port.streams)), "each stream that ended was told, once"


async def test_every_connection_gets_its_protocol_and_its_own_stream(port: Port) -> None:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(port.connect()) for _ in range(10)]
        await asyncio.gather(*(port.echoes(sock) for sock in socks))
        assert port.listener.accepted == 10
        assert {stream.peer for stream in port.streams} == {sock.getsockname() for sock in socks}
        assert {stream.local for stream in port.streams} == {port.address}
        calls = [stream.protocol.calls for stream in port.streams]  # type: ignore[attr-defined]
        assert calls == [["connected", "received"]] * 10


async def test_a_long_backlog_is_drained_in_batches_and_others_are_served_between_them(port: Port) -> None:
    batches: Counter[float] = Counter()
    port.prepare = lambda stream, protocol: batches.update([port.reactor.turn_time])
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(port.connect())
        await until(lambda: port.listener.accepted == 300)
        assert len(batches) >= 2
        assert max(batches.values()) <= 256


async def test_peers_that_gave_up_before_they_were_accepted(port: Port) -> None:
    for _ in range(20):
        End(port.connect()).reset()
    with port.connect() as sock:
        await port.echoes(sock)
        await until(lambda: len(port.gone) == len(port.streams) - 1)
        assert port.reactor.count == 2


async def test_nagle_is_off_for_every_connection(port: Port) -> None:
    with port.connect() as sock:
        await port.echoes(sock)
        assert port.streams[0].sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_so_it_is_on_a_socket_that_was_bound_by_someone_else(reactor: Reactor) -> None:
    own = socket.socket()
    own.bind(("127.0.0.1", 0))
    assert await bind(None, 0, sock=own) == [own]
    port = Port(reactor, own)
    with port.connect() as sock:
        await port.echoes(sock)
        assert port.streams[0].sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    await until(lambda: port.gone)
    port.listener.close()


@pytest.mark.parametrize("where", ["make_protocol", "connected"])
async def test_an_exception_for_one_connection_leaks_nothing_and_stops_nothing(
    port: Port, logged: Logged, where: str
) -> None:
    class Bad(Recorder):
        def connected(self) -> None:
            raise ZeroDivisionError

    def make(stream: Stream) -> Protocol:
        port.streams.append(stream)
        if where == "connected":
            return Bad()
        raise ZeroDivisionError

    with port.connect() as good:
        await port.echoes(good)
        before = descriptors()
        port.make = make
        with port.connect() as bad:
            assert await End(bad).to_end() == b""
        record = logged.take("could not be set up")
        assert record.exc_info is not None
        assert record.exc_info[0] is ZeroDivisionError
        assert descriptors() == before
        assert port.reactor.count == 2
        port.make = port.make_recorder
        await port.echoes(good)
        with port.connect() as another:
            await port.echoes(another)


async def test_a_refusal_is_no_error_in_the_log(port: Port) -> None:
    def refuse(stream: Stream) -> Protocol:
        port.streams.append(stream)
        raise ConnectionRefusedError("full")

    port.make = refuse
    with port.connect() as sock:
        assert await End(sock).to_end() == b""


async def test_closing_the_listener_leaves_the_connections(port: Port) -> None:
    with port.connect() as sock:
        await port.echoes(sock)
        port.listener.close()
        port.listener.close()
        await port.echoes(sock)
        with pytest.raises(ConnectionRefusedError):
            port.connect()


async def test_closing_it_from_within_a_new_connection(port: Port) -> None:
    port.prepare = lambda stream, protocol: port.listener.close()
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(port.connect()) for _ in range(3)]
        await port.echoes(socks[0])
        assert port.listener.accepted == 1


async def test_a_broken_listening_socket_says_so_and_ends_alone(port: Port, logged: Logged) -> None:
    with port.connect() as sock:
        await port.echoes(sock)
        port.listener.sock.shutdown(socket.SHUT_RD)
        await until(lambda: logged.records)
        logged.take("accepts no more")
        assert port.listener.fd < 0
        await port.echoes(sock)


# -- TLS -----------------------------------------------------------------------------------------------------------


async def test_tls_has_a_deadline_for_its_handshake(
    reactor: Reactor, logged: Logged, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    [sock] = await bind("127.0.0.1", 0)
    port = Port(reactor, sock, ssl_context=server_tls, tls_timeout_s=1.0)
    with port.connect() as silent:
        reader, writer = await asyncio.open_connection(*port.address, ssl=client_tls, server_hostname="localhost")
        assert await End(silent).to_end() == b""
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()
    await until(lambda: len(port.gone) == len(port.streams))
    port.listener.close()


async def test_tls_peers_that_gave_up_before_they_were_accepted_leak_nothing(
    reactor: Reactor, logged: Logged, server_tls: ssl.SSLContext
) -> None:
    [sock] = await bind("127.0.0.1", 0)
    port = Port(reactor, sock, ssl_context=server_tls)
    before = descriptors()
    for number in range(20):
        client = port.connect()
        if number % 2:
            client.send(b"x")
        End(client).reset()
    with port.connect() as last:
        await until(lambda: port.streams and port.streams[-1].peer == last.getsockname())
        await until(lambda: len(port.gone) == len(port.streams) - 1)
        port.streams[-1].abort()
    assert descriptors() == before
    port.listener.close()


# -- where to listen -----------------------------------------------------------------------------------------------


async def test_a_restart_can_have_the_port_at_once(reactor: Reactor) -> None:
    """SO_REUSEADDR: the connections that the one before closed are still in TIME_WAIT."""
    [sock] = await bind("127.0.0.1", 0)
    port = Port(reactor, sock)
    with port.connect() as client:
        await port.echoes(client)
        port.streams[0].close()
        port.listener.close()
        [again] = await bind("127.0.0.1", port.address[1])
        again.close()


async def test_a_port_that_is_taken_is_named(reactor: Reactor) -> None:
    before = descriptors()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(LocalError, match=rf"cannot listen on 127.0.0.1 port {number}: Address already in use"):
            await bind("127.0.0.1", number)
    assert descriptors() == before


@pytest.mark.parametrize("port", [-1, 65536, 70000])
async def test_a_port_that_is_none(port: int) -> None:
    with pytest.raises(LocalError, match=rf"port={port}: expected a number from 0 to 65535"):
        await bind("127.0.0.1", port)


async def test_all_addresses_of_a_name_have_one_port() -> None:
    socks = await bind("localhost", 0)
    try:
        assert len({sock.getsockname()[1] for sock in socks}) == 1
        assert socket.AF_INET in {sock.family for sock in socks}
    finally:
        for sock in socks:
            sock.close()


async def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(LocalError, match=r"cannot listen on 192\.0\.2\.1"):
        await bind("192.0.2.1", 0)  # RFC 5737: nobody's


async def test_a_name_that_is_none() -> None:
    with pytest.raises(LocalError, match=r"host='no.such.host.invalid'"):
        await bind("no.such.host.invalid", 0)


async def test_a_socket_that_is_no_stream() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(LocalError, match="stream socket"):
        await bind(None, 0, sock=sock)


async def test_a_unix_socket(reactor: Reactor, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s"
    for _ in range(2):  # the second finds the file that the first one left
        [sock] = await bind(None, 0, uds=path)
        port = Port(reactor, sock)
        assert stat.S_ISSOCK(path.stat().st_mode)
        with port.connect() as client:
            await port.echoes(client)
            with pytest.raises(LocalError, match="another process listens there"):
                await bind(None, 0, uds=path)
        await until(lambda port=port: port.gone)
        port.listener.close()


async def test_asking_who_listens_on_a_unix_socket_never_waits(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as stack:
        busy.bind(str(path))
        busy.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:  # until its backlog is full
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))
        async with asyncio.timeout(GUARD_S):
            with pytest.raises(LocalError, match="another process listens there"):
                await bind(None, 0, uds=path)


async def test_a_unix_socket_that_can_t_be(tmp_path: pathlib.Path) -> None:
    before = descriptors()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(LocalError, match="found another kind of file"):
        await bind(None, 0, uds=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(LocalError, match="No such file or directory"):
        await bind(None, 0, uds=tmp_path / "none" / "s")
    with pytest.raises(LocalError, match="too long"):
        await bind(None, 0, uds=tmp_path / ("x" * 200))
    assert descriptors() == before


# -- out of descriptors --------------------------------------------------------------------------------------------

FEW = """
import asyncio, os, resource, sys, time
from portico.net.binding import bind
from portico.net.listener import Listener
from portico.net.reactor import Reactor
from portico.net.stream import Protocol

class Echo(Protocol):
    def __init__(self, stream):
        self.stream = stream
    def received(self, data, size):
        self.stream.write(b"%.6f" % time.process_time())
    def eof(self):
        self.stream.close()
    def lost(self, cause):
        pass

async def main():
    [sock] = await bind("127.0.0.1", 0)
    reactor = Reactor.running()
    Listener(reactor, sock, Echo, lambda stream: None, high_water=65536)
    limit = len(os.listdir("/proc/self/fd")) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    print(sock.getsockname()[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def asked(sock: socket.socket) -> float:
    """The server's answer on a connection: the CPU time that it has used."""
    end = End(sock)
    await end.send(b"?")
    return float(await end.read(8))


async def test_running_out_of_descriptors_pauses_accepting_says_so_once_and_goes_on() -> None:
    """EMFILE: the connections that there are live on, those that wait are accepted when others have ended."""
    server = subprocess.Popen([sys.executable, "-c", FEW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stderr is not None
    try:
        address = "127.0.0.1", int(server.stdout.readline())
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(socket.create_connection(address)) for _ in range(40)]
            first = await asked(socks[0])
            answers = [asyncio.create_task(asked(sock)) for sock in socks[1:]]
            await until(lambda: sum(answer.done() for answer in answers) > 10)
            done, waiting = await asyncio.wait(answers, timeout=1.2)  # longer than it pauses
            assert 10 < len(done) < 30, "the others are in the backlog"
            assert await asked(socks[0]) - first < 0.5, "it waits, and does not spin"
            for sock, answer in zip(socks[1:], answers, strict=True):
                if answer in done:
                    sock.close()
            async with asyncio.timeout(GUARD_S):
                await asyncio.gather(*waiting)
            await asked(socks[0])
            for _ in range(30):  # at the limit again and again
                with contextlib.ExitStack() as more:
                    crowd = [more.enter_context(socket.create_connection(address)) for _ in range(25)]
                    await asked(socks[0])
                    assert len(crowd) == 25
    finally:
        server.kill()
        _, errors = server.communicate()
    assert errors.count("accept: ") == 1, errors
    assert "Too many open files" in errors
    assert "ulimit -n" in errors
    assert "Traceback" not in errors

"""The two system calls of a stream: both twins do the same, and say the same of what goes wrong."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any

import pytest

import portico
from portico.net import calls

TWINS = {
    "chosen": SimpleNamespace(receive=calls.receive, send=calls.send),
    "python": SimpleNamespace(receive=calls._receive, send=calls._send),
}


@pytest.fixture(params=TWINS)
def twin(request: pytest.FixtureRequest) -> Any:
    return TWINS[request.param]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def test_the_compiled_build_calls_with_the_compiled_twins() -> None:
    assert (calls.receive is not calls._receive) == portico.compiled
    assert (calls.send is not calls._send) == portico.compiled


def test_what_was_sent_is_received(twin: Any, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    buffer = bytearray(b"........")
    assert twin.receive(ours, ours.fileno(), buffer) == -1
    for data in (b"abc", bytearray(b"abc"), memoryview(b"xabcx")[1:4]):
        assert twin.send(theirs, theirs.fileno(), data) == 3
        assert twin.receive(ours, ours.fileno(), buffer) == 3
        assert buffer == b"abc....."
    assert twin.send(theirs, theirs.fileno(), b"0123456789") == 10
    assert twin.receive(ours, ours.fileno(), buffer) == 8
    assert buffer == b"01234567"
    theirs.close()
    assert twin.receive(ours, ours.fileno(), buffer) == 2
    assert twin.receive(ours, ours.fileno(), buffer) == 0


def test_a_full_socket_takes_a_part_and_then_nothing(twin: Any, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    data = bytes(1 << 22)
    sent = twin.send(ours, ours.fileno(), data)
    assert 0 < sent < len(data)
    assert twin.send(ours, ours.fileno(), data) == 0
    for _ in range(100):  # the buffer is let go of each time
        held = bytearray(data)
        twin.send(ours, ours.fileno(), held)
        held.append(1)


def test_other_threads_run_while_very_much_is_sent(twin: Any, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    running, over = threading.Event(), threading.Event()
    count = [0]

    def work() -> None:
        while not over.is_set():
            count[0] += 1
            running.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert running.wait(60)
        look = partial(map, count.__getitem__, [0])
        sends = map(twin.send, repeat(ours), repeat(ours.fileno()), repeat(b"x", 200_000))
        done = list(chain(look(), sends, look()))  # no bytecode between them, where a thread could be switched
        assert done[-1] > done[0]
    finally:
        over.set()
        thread.join()


def closed(ours: socket.socket, theirs: socket.socket) -> None:
    theirs.close()


def shut(ours: socket.socket, theirs: socket.socket) -> None:
    ours.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("end", [closed, shut])
def test_an_error_has_its_number(
    twin: Any, pair: tuple[socket.socket, socket.socket], end: Callable[[socket.socket, socket.socket], None]
) -> None:
    ours, theirs = pair
    end(ours, theirs)
    for data in (b"x", bytearray(b"x")):
        with pytest.raises(BrokenPipeError) as caught:
            twin.send(ours, ours.fileno(), data)
        assert caught.value.errno == errno.EPIPE


def test_a_reset_is_raised(twin: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    with ours:
        ours.settimeout(10)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        with pytest.raises(ConnectionResetError) as caught:  # the kernel delivers it before close() returns
            twin.receive(ours, ours.fileno(), bytearray(8))
        assert caught.value.errno == errno.ECONNRESET

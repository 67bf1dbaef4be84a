"""RFC 6455 §4.1, item 2: at most one connection to the same address and port is CONNECTING at a time, by whatever name.

Shown by servers that count: a connection is CONNECTING from when it was accepted until it was answered.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.client import fakes
from tests.client.fakes import Fake, Place, Visit, silent_listener, switching
from tests.support import GUARD_S, free_port, until

import portico
from portico.net.dialer import place_of

SOON_S = 1.0  # an open_timeout_s that is over soon, and enough for who is answered at once


class Counting:
    """A fake's script: answers each connection after some turns of the loop; knows the most that waited at a time."""

    def __init__(self, answer: Callable[[Visit], Awaitable[object]] = Visit.switch) -> None:
        self._answer = answer
        self.connecting = 0
        self.most = 0
        self.count = 0

    async def __call__(self, visit: Visit) -> None:
        self.count += 1
        self.connecting += 1
        self.most = max(self.most, self.connecting)
        try:
            for _ in range(3):
                await asyncio.sleep(0)  # whoever else is on the way may arrive
            await self._answer(visit)
        finally:
            self.connecting -= 1
        await visit.gone()


async def opened(*uris: str, **options: Any) -> list[Any]:
    """Connect to all of these at once; returns what became of each, with the open ones ended."""
    found: list[Any] = await asyncio.gather(*(portico.connect(uri, **options) for uri in uris), return_exceptions=True)
    for ws in found:
        if isinstance(ws, portico.WebSocket):
            ws.stream.abort()
    return found


async def test_200_at_once_under_three_names() -> None:
    counting = Counting()
    async with Fake.running(counting) as fake:
        names = ["127.0.0.1", "localhost", "127.1"]
        found = await opened(*(f"ws://{names[number % 3]}:{fake.port}/" for number in range(200)))
    assert all(isinstance(ws, portico.WebSocket) for ws in found)
    assert (counting.count, counting.most) == (200, 1)


async def test_exclusive_false_switches_it_off() -> None:
    together = asyncio.Barrier(20)

    async def answer(visit: Visit) -> None:
        await together.wait()  # all are CONNECTING at once, or this is never over
        await visit.switch()

    counting = Counting(answer)
    async with Fake.running(counting) as fake:
        await opened(*[f"ws://127.0.0.1:{fake.port}/"] * 20, exclusive=False)
    assert counting.most == 20


async def refuse(visit: Visit) -> None:
    await visit.answer("403 No")


async def reset(visit: Visit) -> None:
    await visit.head()
    visit.reset()


@pytest.mark.parametrize("answer", [refuse, reset])
async def test_a_failed_one_lets_the_next_try(answer: Any) -> None:
    async def script(visit: Visit) -> None:
        await (answer(visit) if counting.count % 2 else visit.switch())

    counting = Counting(script)
    async with Fake.running(counting) as fake:
        found = await opened(*[f"ws://127.0.0.1:{fake.port}/"] * 10)
    assert sum(isinstance(ws, portico.WebSocket) for ws in found) == 5
    assert sum(isinstance(ws, portico.HandshakeError) for ws in found) == 5
    assert counting.most == 1


async def test_one_that_hangs_delays_the_rest_only_until_its_deadline() -> None:
    async def script(visit: Visit) -> None:
        if fake.count == 1:
            await visit.gone()
        else:
            await visit.switch()
            await visit.gone()

    async with Fake.running(script) as fake:
        uri = f"ws://127.0.0.1:{fake.port}/"
        hanging = asyncio.ensure_future(portico.connect(uri, open_timeout_s=SOON_S))
        await until(lambda: fake.count)
        began = time.monotonic()
        found = await opened(*[uri] * 20)
        assert time.monotonic() - began < 9
        assert all(isinstance(ws, portico.WebSocket) for ws in found)
        assert isinstance(hanging.exception(), TimeoutError)


async def test_a_refusal_whose_body_hangs_is_connecting_no_more() -> None:
    """Its turn ends with its head; its body is read all the same."""

    async def script(visit: Visit) -> None:
        if fake.count == 1:
            await visit.head()
            visit.send(b"HTTP/1.1 401 Who?\r\nContent-Length: 100\r\n\r\nwho")
            await go.wait()
        else:
            await visit.switch()
            await visit.gone()

    go = asyncio.Event()
    async with Fake.running(script) as fake:
        uri = f"ws://127.0.0.1:{fake.port}/"
        hanging = asyncio.ensure_future(portico.connect(uri))
        await until(lambda: fake.count)
        found = await opened(*[uri] * 5)
        assert all(isinstance(ws, portico.WebSocket) for ws in found)
        assert not hanging.done()
        go.set()
        with pytest.raises(portico.HandshakeError) as caught:
            await hanging
    assert (caught.value.status, caught.value.body) == (401, b"who")


async def test_waiting_does_not_count_as_connecting() -> None:
    """Each has its own deadline from its turn on: the last of four waits for three deadlines, and is let in."""

    async def script(visit: Visit) -> None:
        if fake.count == 4:
            await visit.switch()
        await visit.gone()

    async with Fake.running(script) as fake:
        found = await opened(*[f"ws://127.0.0.1:{fake.port}/"] * 4, open_timeout_s=SOON_S)
    assert sorted(type(one).__name__ for one in found) == ["TimeoutError"] * 3 + ["WebSocket"]


async def test_other_hosts_and_other_ports_are_not_affected() -> None:
    async def script(visit: Visit) -> None:
        await visit.switch()
        await visit.gone()

    async with (
        Fake.running(Visit.gone, port=free_port()) as hanging,
        Fake.running(script) as port,
        Fake.running(script, host="127.0.0.2", port=hanging.port) as host,
        Fake.running(script, host="::1", port=hanging.port) as family,
    ):
        task = asyncio.ensure_future(portico.connect(f"ws://127.0.0.1:{hanging.port}/"))
        await until(lambda: hanging.count)
        for place in (f"127.0.0.1:{port.port}", f"127.0.0.2:{host.port}", f"[::1]:{family.port}"):
            (ws,) = await opened(f"ws://{place}/", open_timeout_s=5)
            assert isinstance(ws, portico.WebSocket)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])


async def test_an_open_connection_is_not_connecting() -> None:
    async def echo(ws: portico.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    async with portico.serve(echo, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.port}/"
        async with portico.connect(uri) as one, portico.connect(uri) as two:
            for ws in (one, two):
                await ws.send("hi")
                assert await ws.recv() == "hi"


async def test_cancelled_ones_do_not_wedge_the_queue() -> None:
    """Cancelled while it is its turn, while it waits, and in the moment when its turn comes."""
    go = asyncio.Event()

    async def script(visit: Visit) -> None:
        if fake.count > 1 or go.is_set():
            await visit.switch()
        await visit.gone()

    async with Fake.running(script) as fake:
        uri = f"ws://127.0.0.1:{fake.port}/"
        tasks = [asyncio.ensure_future(portico.connect(uri)) for _ in range(30)]
        await until(lambda: fake.count)
        for task in tasks[5:20:2]:
            task.cancel()  # these wait
        tasks[0].cancel()  # this one has the turn
        tasks[1].cancel()  # and this one is about to get it
        await asyncio.sleep(0)
        tasks[2].cancel()
        done, _ = await asyncio.wait(tasks, timeout=GUARD_S)
        assert len(done) == 30
        cancelled = [number for number, task in enumerate(tasks) if task.cancelled()]
        assert cancelled == sorted([0, 1, 2, *range(5, 20, 2)])
        for number in set(range(30)) - set(cancelled):
            tasks[number].result().stream.abort()


async def test_a_connected_socket_waits_for_its_turn_too() -> None:
    """TCP is the caller's; the opening handshake is not."""
    asking = most = 0

    async def script(visit: Visit) -> None:
        nonlocal asking, most
        await visit.head()
        asking += 1
        most = max(most, asking)
        await asyncio.sleep(0)
        asking -= 1
        visit.send(switching(visit.field("sec-websocket-key") or ""))
        await visit.gone()

    async with Fake.running(script) as fake:
        socks = [socket.create_connection(("127.0.0.1", fake.port)) for _ in range(10)]
        await until(lambda: fake.count == 10)
        found = await asyncio.gather(*(portico.connect("ws://a.example/", sock=sock) for sock in socks))
        for ws in found:
            ws.stream.abort()
    assert most == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("127.0.0.1", 80), ("127.0.0.1", 80), True),
        (("127.0.0.1", 80), ("127.0.0.1", 81), False),
        (("127.0.0.1", 80), ("127.0.0.2", 80), False),
        (("::ffff:127.0.0.1", 80, 0, 0), ("127.0.0.1", 80), True),  # RFC 4291 §2.5.5.2: the same host
        (("::1", 80, 0, 0), ("0:0::1", 80, 0, 0), True),
        (("::1", 80, 0, 0), ("127.0.0.1", 80), False),
        (("0.0.0.0", 80), ("127.0.0.1", 80), True),  # connecting to no address reaches this host
        (("::", 80, 0, 0), ("::1", 80, 0, 0), True),
        (("fe80::1", 80, 0, 2), ("fe80::1", 80, 0, 3), False),  # RFC 4007: on another link
        (("fe80::1%eth0", 80, 0, 2), ("fe80::1", 80, 0, 2), True),
    ],
)
def test_what_one_place_is(one: Any, other: Any, same: bool) -> None:
    assert (place_of(one) == place_of(other)) is same


def test_what_has_no_name_is_alone() -> None:
    """Two ends of socket pairs have the same empty address, and nothing in common."""
    assert place_of("") != place_of("")
    assert place_of(b"") != place_of("")
    assert place_of("/run/x") == place_of("/run/x")


# -- behind a proxy: per host name, and a cap on all (RFC 6455 §4.1, item 2) ------------------------------------------


class CountingProxy:
    """A proxy that is also every server behind it; counts by the host that it was asked for."""

    def __init__(self, go: asyncio.Event) -> None:
        self._go = go
        self.connecting: dict[bytes, int] = {}
        self.most_of_one = 0
        self.most = 0
        self.count = 0

    async def __call__(self, visit: Visit) -> None:
        host = (await visit.head()).split(b" ")[1]
        self.count += 1
        self.connecting[host] = self.connecting.get(host, 0) + 1
        self.most_of_one = max(self.most_of_one, *self.connecting.values())
        self.most = max(self.most, sum(self.connecting.values()))
        try:
            visit.send(b"HTTP/1.1 200 OK\r\n\r\n")
            await self._go.wait()
            await visit.switch()
        finally:
            self.connecting[host] -= 1
        await visit.gone()


async def counted(uris: list[str], most: int, **options: Any) -> CountingProxy:
    """What a proxy has counted that lets all of these wait until `most` do so at once, and opens them then."""
    go = asyncio.Event()
    counting = CountingProxy(go)
    async with Fake.running(counting) as fake:
        all_of_them = asyncio.ensure_future(opened(*uris, proxy=f"127.0.0.1:{fake.port}", **options))
        await until(lambda: counting.most == most)
        go.set()
        found = await all_of_them
    assert all(isinstance(ws, portico.WebSocket) for ws in found)
    assert (counting.count, counting.most) == (len(uris), most)
    return counting


async def test_behind_a_proxy_each_host_name_is_a_host() -> None:
    """The three hosts at once: one's turn is none of another's business."""
    counting = await counted([f"ws://host-{number % 3}.example/" for number in range(12)], most=3)
    assert counting.most_of_one == 1


async def test_behind_proxies_there_is_a_cap_on_all() -> None:
    await counted([f"ws://host-{number}.example/" for number in range(60)], most=16)


async def test_behind_a_proxy_too_exclusive_false_switches_it_off() -> None:
    counting = await counted(["ws://host.example/"] * 40, most=40, exclusive=False)
    assert counting.most_of_one == 40


async def test_behind_a_proxy_a_trailing_dot_makes_no_other_host() -> None:  # RFC 1034 §3.1: the root
    await counted(["ws://host.example/", "ws://host.example./", "ws://HOST.example/", "ws://other.example/"], most=2)


async def test_a_silent_proxy_delays_the_rest_only_until_its_deadline() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        if fake.count > 1:
            visit.send(b"HTTP/1.1 200 OK\r\n\r\n")
            await visit.switch()
        await visit.gone()

    async with Fake.running(script) as fake:
        uris = ["ws://host.example/"] * 3
        found = await opened(*uris, proxy=f"127.0.0.1:{fake.port}", open_timeout_s=SOON_S)
    assert [type(one) for one in found] == [TimeoutError, portico.WebSocket, portico.WebSocket]


# -- Happy Eyeballs (RFC 8305) -----------------------------------------------------------------------------------------


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: Place) -> None:
    """Every name has these addresses."""
    fakes.resolving(monkeypatch, lambda _: list(addresses))


async def reached() -> str:
    """Which address it was."""
    ws = await portico.connect("ws://both.example/", open_timeout_s=5)
    peer: str = ws.stream.peer[0]
    ws.stream.abort()
    return peer


async def accepting(visit: Visit) -> None:
    await visit.switch()
    await visit.gone()


@pytest.mark.parametrize("second", ["::1", "127.0.0.2"])
async def test_the_second_address_starts_250_ms_after_the_first(second: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listener, fill = silent_listener()
    async with Fake.running(accepting, host=second) as fake:
        family = socket.AF_INET6 if ":" in second else socket.AF_INET
        first = listener.getsockname()
        resolving(monkeypatch, (socket.AF_INET, *first), (family, second, fake.port))
        began = time.monotonic()
        assert await reached() == second
        assert 0.24 < time.monotonic() - began < 4.5
    for sock in (listener, *fill):
        sock.close()


async def test_a_dead_first_address_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portico.net.dialer.SECOND_AFTER_S", 60.0)  # the second one does not wait for that
    dead = free_port()
    async with Fake.running(accepting) as fake:
        resolving(monkeypatch, (socket.AF_INET6, "::1", dead), (socket.AF_INET, "127.0.0.1", fake.port))
        assert await reached() == "127.0.0.1"


async def test_a_first_address_that_answers_is_the_only_one_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Fake.running(accepting, host="::1") as first, Fake.running(accepting) as second:
        resolving(monkeypatch, (socket.AF_INET6, "::1", first.port), (socket.AF_INET, "127.0.0.1", second.port))
        assert await reached() == "::1"
        assert (first.count, second.count) == (1, 0)


async def test_the_families_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:  # RFC 8305 §4
    """Silent addresses of the first family cost the second family nothing but its own turn."""
    loop = asyncio.get_running_loop()
    connect, tried = loop.sock_connect, []

    async def sock_connect(sock: socket.socket, address: Any) -> None:
        tried.append(address[0])
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", sock_connect)
    async with Fake.running(accepting, host="::1") as fake:
        silent = [silent_listener(f"127.0.0.{number}") for number in (3, 4, 5)]
        places = [(socket.AF_INET, *listener.getsockname()) for listener, _ in silent]
        resolving(monkeypatch, *places, (socket.AF_INET6, "::1", fake.port))
        assert await reached() == "::1"
        for listener, fill in silent:
            for sock in (listener, *fill):
                sock.close()
    assert tried == ["127.0.0.3", "::1"]


async def test_a_place_that_is_taken_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one of a host's addresses has a connection that hangs in CONNECTING, the other one is tried."""
    async with Fake.running(Visit.gone) as hanging, Fake.running(accepting, host="::1") as other:
        task = asyncio.ensure_future(portico.connect(f"ws://127.0.0.1:{hanging.port}/"))
        await until(lambda: hanging.count)
        resolving(monkeypatch, (socket.AF_INET, "127.0.0.1", hanging.port), (socket.AF_INET6, "::1", other.port))
        assert await reached() == "::1"
        assert hanging.count == 1
        task.cancel()
        await asyncio.wait([task])


async def test_where_none_answers_each_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = free_port()
    resolving(monkeypatch, (socket.AF_INET6, "::1", dead), (socket.AF_INET, "127.0.0.1", dead))
    with pytest.raises(ConnectionRefusedError) as caught:
        await portico.connect("ws://both.example/")
    assert "both.example port 80: ::1: Connection refused; 127.0.0.1: Connection refused" in str(caught.value)


async def test_a_name_with_no_address_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch)
    with pytest.raises(OSError, match="it has no address"):
        await portico.connect("ws://none.example/")

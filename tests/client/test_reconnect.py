"""``async for ws in connect(…)``: comes back after what may pass, with backoff, and never holds two connections."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from tests.client.fakes import Certificates, Fake, Place, Visit, resolving
from tests.support import free_port, until

import portico
from portico.client.backoff import Backoff, Delays, may_come_back, retry_after

SOON = Backoff(first_s=0.001, longest_s=0.01)


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


class Attempts:
    """A fake's script: each connection does what the next of `acts` says, the last one for ever; knows how many lived
    at a time."""

    def __init__(self, *acts: Any) -> None:
        self._acts = acts
        self.times: list[float] = []
        self.living = 0
        self.most = 0

    @property
    def count(self) -> int:
        return len(self.times)

    async def __call__(self, visit: Visit) -> None:
        self.times.append(time.monotonic())
        act = self._acts[min(self.count, len(self._acts)) - 1]
        self.living += 1
        self.most = max(self.most, self.living)
        try:
            await act(visit)
        finally:
            self.living -= 1


def answering(status: str, *lines: str) -> Any:
    async def act(visit: Visit) -> None:
        await visit.answer(status, *lines)

    return act


async def reset(visit: Visit) -> None:
    await visit.head()
    visit.reset()


async def garbage(visit: Visit) -> None:
    await visit.head()
    visit.send(b"what?\r\n\r\n")


async def lost(visit: Visit) -> None:
    """Accept, and lose the connection."""
    await visit.switch()
    await visit.writer.drain()
    visit.writer.transport.abort()


async def test_it_comes_back_after_a_restart_of_the_server() -> None:
    heard: list[Any] = []
    port = free_port()

    async def converse() -> None:
        async for ws in portico.connect(f"ws://127.0.0.1:{port}/", backoff=SOON):
            await ws.send("hi")
            async for message in ws:
                heard.append(message)
            assert ws.closed is not None
            heard.append(ws.closed.code)

    async with portico.serve(echo, "127.0.0.1", port):
        task = asyncio.create_task(converse())
        await until(lambda: heard == ["hi"])
    await until(lambda: heard == ["hi", 1001])
    async with portico.serve(echo, "127.0.0.1", port):
        await until(lambda: heard == ["hi", 1001, "hi"])
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.parametrize(
    "act",
    [
        reset,
        garbage,
        Visit.head,
        lost,
        *(answering(f"{status} Later") for status in (408, 421, 425, 429, 500, 502, 503, 504)),
    ],
)
async def test_what_may_pass_is_tried_again(act: Any) -> None:
    attempts = Attempts(act, act, act, Visit.closed)
    async with Fake.running(attempts) as fake:
        async for ws in portico.connect(f"ws://127.0.0.1:{fake.port}/", backoff=SOON):
            with pytest.raises(portico.ConnectionClosed) as caught:
                await ws.recv()
            if caught.value.close.code == 1000:
                break
    assert attempts.count == 4
    assert attempts.most == 1


async def test_a_silent_server_is_tried_again() -> None:
    attempts = Attempts(Visit.gone, Visit.gone, Visit.closed)
    async with Fake.running(attempts) as fake:
        async for ws in portico.connect(f"ws://127.0.0.1:{fake.port}/", backoff=SOON, open_timeout_s=0.05):
            await ws.close()
            break
    assert attempts.count >= 3


async def test_nobody_there_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt asks for the address: at the second one, the first is known to have met nobody."""
    asked: list[str] = []
    port = free_port()

    def nobody(name: str) -> list[Place]:
        asked.append(name)
        return [(socket.AF_INET, "127.0.0.1", port)]

    async def converse() -> None:
        async for ws in portico.connect(f"ws://nobody.example:{port}/", backoff=SOON):
            await ws.close()
            break

    resolving(monkeypatch, nobody)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    task = asyncio.create_task(converse())
    await until(lambda: len(asked) >= 2)
    async with Fake.running(Visit.closed, port=port) as fake:
        await task
    assert fake.count == 1


@pytest.mark.parametrize(
    "status",
    ["400 No", "401 Who", "403 No", "404 No", "410 Gone", "426 Upgrade", "451 No", "501 No", "505 No", "200 OK"],
)
async def test_a_status_that_says_never_is_raised(status: str) -> None:
    attempts = Attempts(answering(status))
    async with Fake.running(attempts) as fake:
        with pytest.raises(portico.HandshakeError) as caught:
            async for _ in portico.connect(f"ws://127.0.0.1:{fake.port}/", backoff=SOON):
                pass
    assert caught.value.status == int(status[:3])
    assert attempts.count == 1


async def test_a_wrong_answer_to_the_handshake_is_raised() -> None:
    attempts = Attempts(answering("101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"))
    async with Fake.running(attempts) as fake:
        with pytest.raises(portico.HandshakeError, match="Sec-WebSocket-Accept"):
            async for _ in portico.connect(f"ws://127.0.0.1:{fake.port}/", backoff=SOON):
                pass
    assert attempts.count == 1


@pytest.mark.parametrize("location", ["/", "ftp://a"])
async def test_a_redirect_that_leads_nowhere_is_raised(location: str) -> None:
    attempts = Attempts(answering("302 Found", f"Location: {location}"))
    async with Fake.running(attempts) as fake:
        with pytest.raises(portico.HandshakeError):
            async for _ in portico.connect(f"ws://127.0.0.1:{fake.port}/", backoff=SOON):
                pass
    assert attempts.count == (11 if location == "/" else 1)


async def test_a_wrong_certificate_is_raised(certificates: Certificates) -> None:
    attempts = Attempts(Visit.head)
    async with Fake.running(attempts, tls=certificates.server(certificates.self_signed())) as fake:
        with pytest.raises(ssl.SSLCertVerificationError):
            async for _ in portico.connect(f"wss://localhost:{fake.port}/", ssl=certificates.client(), backoff=SOON):
                pass


@pytest.mark.parametrize("status", [407, 403])
async def test_a_proxy_that_says_never_is_raised(status: int) -> None:
    async def script(visit: Visit) -> None:
        await visit.answer(f"{status} No")

    async with Fake.running(script) as fake:
        with pytest.raises(portico.HandshakeError):
            async for _ in portico.connect("ws://a/", proxy=f"http://127.0.0.1:{fake.port}", backoff=SOON):
                pass
    assert fake.count == 1


async def test_a_connected_socket_can_not_come_back() -> None:
    async with Fake.running(Visit.head) as fake:
        sock = socket.create_connection(("127.0.0.1", fake.port))
        with pytest.raises(portico.LocalError, match="used once"):
            async for _ in portico.connect("ws://a/", sock=sock):
                pass
        assert sock.fileno() == -1


async def test_retry_after_is_honoured() -> None:
    attempts = Attempts(answering("503 Busy", "Retry-After: 1"), Visit.closed)
    async with Fake.running(attempts) as fake:
        async for ws in portico.connect(f"ws://127.0.0.1:{fake.port}/", backoff=SOON):
            await ws.close()
            break
    assert attempts.times[1] - attempts.times[0] >= 1.0


async def test_a_server_that_closes_at_once_is_not_hammered() -> None:
    """The spans double, whether the attempts fail or the connections end; each wait is a random part of its span."""
    backoff = Backoff(first_s=0.01, longest_s=0.16)
    random.seed(3)
    expected = [random.uniform(0, min(0.16, 0.01 * 2**number)) for number in range(7)]
    random.seed(3)
    attempts = Attempts(Visit.closed, answering("503 Busy"), Visit.closed, Visit.closed, reset, Visit.closed)
    async with Fake.running(attempts) as fake:
        async for ws in portico.connect(f"ws://127.0.0.1:{fake.port}/", backoff=backoff):
            async for _ in ws:
                pass
            if attempts.count == 8:
                break
    waited = [after - before for before, after in zip(attempts.times, attempts.times[1:], strict=False)]
    assert all(took >= least * 0.99 for took, least in zip(waited, expected, strict=True)), (waited, expected)
    assert attempts.most == 1


def test_a_connection_that_lived_begins_the_backoff_anew() -> None:
    delays = Delays(Backoff(first_s=1, longest_s=64, stable_s=10))
    for _ in range(9):
        delays.after_failure(OSError())
    assert max(delays.after_connection(9.9) for _ in range(50)) > 1
    assert all(delays.after_connection(10.0) <= 1 for _ in range(50))


def test_full_jitter() -> None:
    """A wait is anything from nothing to its whole span, which doubles up to the longest."""
    random.seed(1)
    for failures, span in enumerate([1, 2, 4, 8, 16, 20, 20, 20]):
        waits = []
        for _ in range(400):
            delays = Delays(Backoff(first_s=1, longest_s=20))
            for _ in range(failures):
                delays.after_failure(OSError())
            waits.append(delays.after_failure(OSError()))
        assert 0 <= min(waits) < span * 0.05
        assert span * 0.95 < max(waits) <= span


def test_after_very_many_failures() -> None:
    delays = Delays(Backoff())
    assert all(0 <= delays.after_failure(TimeoutError()) <= 60 for _ in range(5000))


@pytest.mark.parametrize(
    "wrong",
    [
        {"first_s": 0},
        {"first_s": -1},
        {"first_s": 2, "longest_s": 1},
        {"longest_s": float("inf")},
        {"first_s": float("nan")},
        {"stable_s": -1},
    ],
)
def test_a_wrong_backoff_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(portico.LocalError, match="expected"):
        Backoff(**wrong)


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("0", 0, 0),
        ("7", 7, 7),
        ("3600", 3600, 3600),
        ("86400", 3600, 3600),  # an hour at most
        ("9" * 400, 3600, 3600),
        ("-5", 0, 0),
        ("1.5", 0, 0),
        ("٣", 0, 0),
        ("", 0, 0),
        ("soon", 0, 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0, 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600, 3600),
        ("Fri, 99 Foo 2024 99:99:99 GMT", 0, 0),
        ("Sun, 06 Nov 1994 08:49:37 -9999999", 0, 0),
    ],
)
def test_retry_after_is_read(value: str, least: float, most: float) -> None:  # RFC 9110 §10.2.3
    assert least <= retry_after((("X", "y"), ("Retry-After", value))) <= most


def test_retry_after_may_be_a_date() -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 97 < retry_after((("retry-after", then),)) <= 100
    assert retry_after(()) == 0


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (ssl.SSLError("EOF"), True),
        (ssl.SSLCertVerificationError("expired"), False),
        (portico.HandshakeError("garbage"), True),
        (portico.HandshakeError("no", status=403), False),
        (portico.HandshakeError("busy", status=503), True),
    ],
)
def test_what_may_pass(error: OSError | portico.HandshakeError, again: bool) -> None:
    assert may_come_back(error) is again


# -- leaving the loop --------------------------------------------------------------------------------------------------


class Ends:
    """A server that remembers how its connections ended."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.uri = ""

    async def handler(self, ws: portico.WebSocket) -> None:
        await echo(ws)
        assert ws.closed is not None
        self.codes.append(ws.closed.code)


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    ends = Ends()
    async with portico.serve(ends.handler, "127.0.0.1", 0) as server:
        ends.uri = f"ws://127.0.0.1:{server.port}/"
        yield ends


async def test_break_closes(ends: Ends) -> None:
    async for ws in portico.connect(ends.uri):
        await ws.send("hi")
        assert await ws.recv() == "hi"
        break
    await until(lambda: ends.codes)
    assert ends.codes == [1000]
    assert ws.closed is not None


async def test_return_closes(ends: Ends) -> None:
    async def first() -> Any:
        async for ws in portico.connect(ends.uri):
            await ws.send("hi")
            return await ws.recv()

    assert await first() == "hi"
    await until(lambda: ends.codes)


async def test_an_exception_closes_and_comes_through(ends: Ends) -> None:
    async def fail() -> None:
        async for _ in portico.connect(ends.uri):
            raise KeyError("x")

    with pytest.raises(KeyError):
        await fail()
    await until(lambda: ends.codes)


async def test_cancelling_closes(ends: Ends) -> None:
    there = asyncio.Event()

    async def converse() -> None:
        async for ws in portico.connect(ends.uri):
            there.set()
            await ws.recv()

    task = asyncio.create_task(converse())
    await there.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: ends.codes)


async def test_going_on_closes_before_the_next_one_is_opened(ends: Ends) -> None:
    """``continue`` with the connection still open: there are never two."""
    before: portico.WebSocket | None = None
    count = 0
    async for ws in portico.connect(ends.uri, backoff=SOON):
        if before is not None:
            assert before.closed is not None
            assert before.stream.gone
        before = ws
        count += 1
        if count < 5:
            continue
        break
    await until(lambda: len(ends.codes) == 5)


async def test_cancelling_while_it_waits_to_come_back() -> None:
    attempts = Attempts(answering("503 Busy", "Retry-After: 3600"))
    async with Fake.running(attempts) as fake:

        async def converse() -> None:
            async for _ in portico.connect(f"ws://127.0.0.1:{fake.port}/"):
                raise AssertionError

        task = asyncio.create_task(converse())
        await until(lambda: fake.requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


LEAVING = """
import asyncio, sys, portico
async def main():
    asyncio.get_running_loop().slow_callback_duration = 60  # on a busy machine any of them may be slow
    async for ws in portico.connect(sys.argv[1]):
        await ws.send("hi")
        await ws.recv()
        break
asyncio.run(main())
"""


async def test_the_loop_may_end_right_after_break(ends: Ends) -> None:
    """asyncio.run() ends with the last step of the program; nothing is complained about."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "dev", "-W", "error", "-c", LEAVING, ends.uri, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert (process.returncode, said) == (0, b"")
    await until(lambda: ends.codes)

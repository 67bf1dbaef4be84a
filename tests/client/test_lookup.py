"""Looking up names: what hangs holds up nobody but those who asked for that name; addresses are not looked up."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from typing import Any

import pytest
from tests.client import fakes
from tests.client.fakes import Fake, HangingNames, Visit
from tests.support import until

import portico
from portico.net.lookup import MOST_AT_A_TIME, addresses

MORE = MOST_AT_A_TIME + 20  # also more than threads in a loop's own executor


async def asking(names: HangingNames, *uris: str) -> list[asyncio.Task[Any]]:
    """Connect to all of these; as many look-ups as there may be have begun."""
    tasks = [asyncio.ensure_future(portico.connect(uri)) for uri in uris]
    await until(lambda: len(names.asked) == min(MOST_AT_A_TIME, len(set(uris))))
    return tasks


async def ended(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "127.1"])
async def test_an_address_does_not_wait_for_names_that_hang(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = "::1" if host == "[::1]" else "127.0.0.1"
    with HangingNames.running(monkeypatch) as names:
        tasks = await asking(names, *(f"ws://name-{number}.example/" for number in range(MORE)))
        async with Fake.running(Visit.closed, host=family) as fake:
            await (await portico.connect(f"ws://{host}:{fake.port}/")).close()
        assert not any(task.done() for task in tasks)
        assert len(names.asked) == MOST_AT_A_TIME
        await ended(tasks)


async def test_the_executor_of_the_loop_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with HangingNames.running(monkeypatch) as names:
        tasks = await asking(names, *(f"ws://name-{number}.example/" for number in range(MORE)))
        assert await asyncio.to_thread(lambda: "done") == "done"
        await ended(tasks)


async def test_all_who_ask_for_one_name_share_a_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """So one name that hangs takes one thread, however often it is tried again; and another name is looked up."""
    async with Fake.running(Visit.closed) as fake:
        with HangingNames.running(monkeypatch) as names:
            tasks = await asking(names, *["ws://a.example/"] * MORE)
            for _ in range(3):
                with pytest.raises(TimeoutError, match=r"no address for 'a\.example' within 0\.05 s"):
                    await portico.connect("ws://a.example/", open_timeout_s=0.05)
            await (await portico.connect(f"ws://localhost:{fake.port}/")).close()
            assert names.asked == ["a.example"]
            tasks[0].cancel()  # none of the others' business
            names.go.set()
            done, _ = await asyncio.wait(tasks)
    assert len(done) == MORE
    assert tasks[0].cancelled()
    for task in tasks[1:]:
        assert isinstance(task.exception(), socket.gaierror)
        assert "no address for 'a.example': Temporary failure" in str(task.exception())


async def test_a_name_waits_for_a_thread_within_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with HangingNames.running(monkeypatch) as names:
        tasks = await asking(names, *(f"ws://name-{number}.example/" for number in range(MOST_AT_A_TIME)))
        with pytest.raises(TimeoutError, match="late"):
            await portico.connect("ws://late.example/", open_timeout_s=0.05)
        assert "late.example" not in names.asked
        names.go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(socket.gaierror, match="late"):
            await portico.connect("ws://late.example/")
    assert "late.example" in names.asked


async def test_a_name_is_looked_up_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept: that is for the system's resolver to do, which knows for how long."""
    asked = []

    def answer(host: str) -> list[fakes.Place]:
        asked.append(host)
        return [(socket.AF_INET, "127.0.0.1", fake.port)]

    fakes.resolving(monkeypatch, answer)
    async with Fake.running(Visit.closed) as fake:
        for _ in range(3):
            await (await portico.connect("ws://a.example/")).close()
    assert asked == ["a.example"] * 3


async def test_an_ipv6_address_with_a_zone_is_an_address() -> None:  # RFC 4007 §11
    (name,) = [name for number, name in socket.if_nameindex() if number == 1]
    assert await addresses(f"fe80::1%{name}", 80, 1.0) == [(socket.AF_INET6, ("fe80::1", 80, 0, 1))]
    assert await addresses("fe80::1%1", 80, 1.0) == [(socket.AF_INET6, ("fe80::1", 80, 0, 1))]


HANGS = """
import asyncio, portico, socket, threading
real = socket.getaddrinfo
socket.getaddrinfo = lambda *a, flags=0, **o: real(*a, flags=flags, **o) if flags else threading.Event().wait()
async def main():
    try:
        await portico.connect("ws://a.example/", open_timeout_s=0.05)
    except TimeoutError as error:
        print(error)
asyncio.run(main())
"""


async def test_the_end_of_a_program_does_not_wait_for_it() -> None:
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-W", "error", "-c", HANGS], capture_output=True, text=True, timeout=30
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "no address for 'a.example' within 0.05 s\n", "")

"""How `portico serve` ends: in order, at once, or before it began; each with its exit status."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import socket
import sys

import pytest
from tests.cli.command import APP, CLEAN, LIMIT_S, portico_command, started
from tests.support import TEXT, Peer, close_frame, frame, get

SLOW_APP = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "http":
        print("asked", flush=True)
        await asyncio.sleep(0.3)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"whole"})
"""

LIFESPAN = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""

STARTING = """
import time, sys
print("importing", flush=True)
time.sleep(60)
"""


class TestInOrder:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_a_running_request_is_answered_and_a_socket_closed_with_1001(
        self, folder: pathlib.Path, number: signal.Signals
    ) -> None:
        (folder / "shop.py").write_text(APP + SLOW_APP.replace("def app", "def slow") + 'app.mount("/slow", slow)\n')
        async with (
            started(folder, "serve", "shop:app", "--port", "0") as running,
            await Peer.connect(running.port) as page,
            await Peer.connect(running.port) as ws,
        ):
            await ws.open("/echo")
            page.send(get("/slow"))
            assert await running.read_line() == "asked\n"
            running.process.send_signal(number)
            await ws.closed_with(1001)
            ws.send(close_frame(1001))
            assert (await page.answer()).body == b"whole"
            assert await page.to_end() == b""
            page.writer.close()
            assert await running.ended() == 0

    async def test_sockets_are_closed_over_the_drain_seconds(self, folder: pathlib.Path) -> None:
        """The first at once; one whose turn has not come goes on. When all have left, it is over."""
        arguments = ["serve", "shop:app", "--port", "0", "--drain-seconds", "600"]
        async with (
            started(folder, *arguments) as running,
            await Peer.connect(running.port) as one,
            await Peer.connect(running.port) as two,
        ):
            for peer in (one, two):
                await peer.open("/echo")
            running.process.send_signal(signal.SIGTERM)
            first, payload = await one.frame()
            assert (first, payload[:2]) == (0x88, (1001).to_bytes(2, "big"))
            two.send(frame(TEXT, b"still here"))
            assert await two.frame() == (TEXT, b"still here")
            one.send(close_frame(1001))
            two.send(close_frame(1000))
            assert await running.ended() == 0

    async def test_as_process_1_of_a_container(self, folder: pathlib.Path) -> None:
        """The kernel ignores signals to it that it has no handler for."""
        program = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "portico"]
        if os.getuid():
            program[1:1] = ["--user", "--map-root-user"]
        arguments = ["serve", "shop:app", "--port", "0", "--log-format", "json"]
        async with (
            started(folder, *arguments, program=program) as running,
            await Peer.connect(running.port) as peer,
        ):
            assert '"pid":1}' in running.line
            await peer.open("/echo")
            os.kill(child_of(running.pid), signal.SIGTERM)
            await peer.closed_with(1001)
            peer.send(close_frame(1001))
            assert await running.ended() == 0


def child_of(pid: int) -> int:
    return int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


class TestAtOnce:
    async def test_a_second_signal_is_1_and_loses_no_line_of_the_log(self, folder: pathlib.Path) -> None:
        arguments = ["serve", "shop:app", "--port", "0", "--stop-timeout-s", "600", "--log-level", "debug"]
        async with started(folder, *arguments) as running, await Peer.connect(running.port) as peer:
            await peer.open("/echo")
            running.process.send_signal(signal.SIGTERM)
            await peer.closed_with(1001)
            running.process.send_signal(signal.SIGTERM)
            assert await running.ended() == 1
        assert all(record["logger"] != "asyncio" or record["level"] == "debug" for record in running.records())


THREADS = """
import asyncio, time

async def app(scope, receive, send):
    if scope["type"] == "http":
        begun = asyncio.Event()
        background.append(asyncio.ensure_future(asyncio.to_thread(work, asyncio.get_running_loop(), begun)))
        await begun.wait()  # a thread that has not begun is none
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun"})

def work(loop, begun):
    loop.call_soon_threadsafe(begun.set)
    time.sleep(600)

background = []
"""


class TestThreads:
    """Python waits for threads; a stop doesn't do so for ever."""

    async def test_they_are_cut_off_with_1(self, folder: pathlib.Path) -> None:
        (folder / "shop.py").write_text(THREADS)
        arguments = ["serve", "shop:app", "--port", "0", "--stop-timeout-s", "1"]
        async with started(folder, *arguments) as running, await Peer.connect(running.port) as peer:
            peer.send(get("/"))
            assert (await peer.answer()).body == b"begun"
            running.process.send_signal(signal.SIGTERM)
            assert await running.ended() == 1
        assert "threads of the application still run" in running.errors

    async def test_a_second_signal_does_not_wait_for_them(self, folder: pathlib.Path) -> None:
        (folder / "shop.py").write_text(THREADS)
        arguments = ["serve", "shop:app", "--port", "0", "--stop-timeout-s", "600"]
        async with started(folder, *arguments) as running, await Peer.connect(running.port) as peer:
            peer.send(get("/"))
            assert (await peer.answer()).body == b"begun"
            running.process.send_signal(signal.SIGTERM)
            assert await peer.to_end() == b""
            running.process.send_signal(signal.SIGTERM)
            assert await running.ended() == 1


class TestBeforeItBegan:
    def test_an_import_that_raises_is_3_with_the_applications_own_frames(self, folder: pathlib.Path) -> None:
        (folder / "shop.py").write_text("import stock\n")
        (folder / "stock.py").write_text("def count():\n    return 1 / 0\n\ncount()\n")
        done = portico_command("serve", "shop:app", "--log-format", "text", cwd=folder)
        assert done.returncode == 3
        assert "'shop' could not be imported" in done.stderr
        assert "ZeroDivisionError: division by zero" in done.stderr
        assert done.stderr.count('  File "') == done.stderr.count(f'  File "{folder}') == 3

    @pytest.mark.parametrize(
        ("text", "words"),
        [("def app(:\n", "SyntaxError"), ("import no_such_module\n", "No module named 'no_such_module'")],
    )
    def test_so_is_one_that_can_not_be_parsed_or_lacks_another(
        self, folder: pathlib.Path, text: str, words: str
    ) -> None:
        (folder / "shop.py").write_text(text)
        done = portico_command("serve", "shop:app", cwd=folder)
        assert done.returncode == 3
        assert words in done.stderr

    def test_a_lifespan_that_fails_is_3_with_its_message(self, folder: pathlib.Path) -> None:
        (folder / "shop.py").write_text(LIFESPAN)
        done = portico_command("serve", "shop:app", "--port", "0", cwd=folder)
        assert (done.returncode, done.stdout) == (3, "")
        assert "the application failed to start: no database" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_port_that_is_taken_is_4_and_named(self, folder: pathlib.Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            done = portico_command("serve", "shop:app", "--port", port, cwd=folder)
        assert (done.returncode, done.stdout) == (4, "")
        assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(("arguments", "words"), [(["--prot", "1"], "No such option"), (["--port", "x"], "--port")])
    def test_wrong_options_are_2(self, folder: pathlib.Path, arguments: list[str], words: str) -> None:
        done = portico_command("serve", "shop:app", *arguments, cwd=folder)
        assert done.returncode == 2
        assert words in done.stderr

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    async def test_a_signal_while_it_starts_ends_it(
        self, folder: pathlib.Path, number: signal.Signals, status: int
    ) -> None:
        (folder / "shop.py").write_text(STARTING)
        async with started(folder, "serve", "shop:app") as running:
            assert running.line == "importing\n"
            running.process.send_signal(number)
            assert await running.ended() == status
        assert running.errors == ""


async def test_the_log_of_a_reader_that_has_gone_is_no_reason_to_end(folder: pathlib.Path) -> None:
    """As where stderr is a pipe into a collector that was restarted."""
    reader, writer = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "portico", "serve", "shop:app", "--port", "0", "--log-level", "debug"),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=writer,
        env=CLEAN,
    )
    os.close(writer)
    os.close(reader)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LIMIT_S):
            line = (await process.stdout.readline()).decode()
            port = int(line.split('"url":"http://127.0.0.1:')[1].split("/")[0])
            async with await Peer.connect(port) as peer:
                for _ in range(3):
                    peer.send(get("/a"))
                    assert (await peer.answer()).status == 200
            process.terminate()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.communicate()

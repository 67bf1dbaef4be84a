"""`portico serve --reload`: a change starts the application again, nobody is refused, and no error is the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import sys
from collections.abc import AsyncIterator

import httpx
import pytest
from tests.cli.command import Running, portico_command, started
from tests.support import Peer, close_frame, get

from portico.cli.reload import Watched

APP = """
import asyncio, os

TEXT = "first"

async def app(scope, receive, send):
    if scope["type"] == "http":
        body = f"{TEXT} {os.getpid()}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
"""


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


@contextlib.asynccontextmanager
async def reloading(folder: pathlib.Path, *arguments: str) -> AsyncIterator[Running]:
    """Until SIGTERM, which it ends on with 0."""
    async with started(folder, "serve", "shop:app", "--port", "0", "--reload", *arguments) as running:
        yield running
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0, running.errors


def change(folder: pathlib.Path, text: str, app: str = APP) -> None:
    """At once, as editors do, and with another size: no timestamp is too coarse for it."""
    (folder / "shop.new").write_text(app.replace("first", text))
    os.replace(folder / "shop.new", folder / "shop.py")


async def answer(running: Running) -> tuple[str, int]:
    """What the application says, and which process it is."""
    async with httpx.AsyncClient(timeout=30) as client:
        text, pid = (await client.get(running.url)).text.split()
    return text, int(pid)


async def says(running: Running, words: str) -> int:
    """Wait until the application says `words`; returns its process."""
    async with asyncio.timeout(30):
        while True:
            text, pid = await answer(running)
            if text == words:
                return pid
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_change_starts_it_again_and_nobody_is_refused(folder: pathlib.Path) -> None:
    """Each of a chain of new connections is answered, by the old or by the new."""
    answers = []

    async def ask_on(running: Running) -> None:
        while True:
            async with await Peer.connect(running.port) as peer:
                peer.send(get("/", Connection="close"))
                answers.append((await peer.answer()).status)

    async with reloading(folder) as running:
        before = await says(running, "first")
        asking = asyncio.ensure_future(ask_on(running))
        for text in ("second", "third"):
            change(folder, text)
            after = await says(running, text)
            assert after != before
            assert not alive(before)
            before = after
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled(), asking.exception()
    assert set(answers) == {200}
    assert '"changed: shop.py; starting again"' in running.errors
    assert not alive(before)


async def test_an_error_is_not_the_end(folder: pathlib.Path) -> None:
    """Who connects meanwhile waits until it is mended."""
    async with reloading(folder, "--log-format", "text") as running:
        await says(running, "first")
        change(folder, "first", "def app(:\n")
        await running.logged("ended with status 3; the next change starts it again")
        waiting = asyncio.ensure_future(answer(running))
        assert running.process.returncode is None
        change(folder, "mended")
        assert (await waiting)[0] == "mended"
    assert "SyntaxError" in running.errors


async def test_nor_is_a_child_that_is_killed(folder: pathlib.Path) -> None:
    async with reloading(folder) as running:
        killed = await says(running, "first")
        os.kill(killed, signal.SIGKILL)
        await running.logged("ended with status -9")
        assert not alive(killed)
        change(folder, "second")
        assert await says(running, "second") != killed


async def test_it_may_begin_with_an_error(folder: pathlib.Path) -> None:
    change(folder, "first", "1 / 0\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "portico", "serve", "shop:app", "--port", "0", "--reload"),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    running = Running(process)
    try:
        await running.logged("ended with status 3")
        change(folder, "mended")
        running.line = await running.read_line()
        await says(running, "mended")
        process.send_signal(signal.SIGINT)
        assert await running.ended() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_websockets_are_closed_with_1001(folder: pathlib.Path) -> None:
    async with reloading(folder) as running, await Peer.connect(running.port) as peer:
        await peer.open()
        before = await says(running, "first")
        change(folder, "second")
        await peer.closed_with(1001)
        peer.send(close_frame(1001))
        assert await peer.to_end() == b""
        assert await says(running, "second") != before


async def test_one_that_will_not_stop_is_ended(folder: pathlib.Path) -> None:
    """A WebSocket that never answers does not hold a change up for long."""
    async with reloading(folder, "--stop-timeout-s", "600") as running, await Peer.connect(running.port) as peer:
        await peer.open()
        before = await says(running, "first")
        change(folder, "second")
        await peer.closed_with(1001)
        await says(running, "second")
        assert not alive(before)


async def test_without_its_parent_a_child_stops(folder: pathlib.Path) -> None:
    async with started(folder, "serve", "shop:app", "--port", "0", "--reload") as running:
        child = await says(running, "first")
        running.process.kill()
        await running.process.wait()
        async with asyncio.timeout(30):
            while alive(child):
                await asyncio.sleep(0.02)
        assert running.process.returncode == -signal.SIGKILL


async def test_every_address_is_kept(folder: pathlib.Path) -> None:
    """Also a Unix socket, whose file is removed at the end, and by the parent alone."""
    path = folder / "a.sock"
    arguments = ["serve", "shop:app", "--reload", "--bind", "127.0.0.1:0", "--bind", f"unix:{path}"]
    async with started(folder, *arguments) as running:
        assert json.loads(await running.read_line())["url"] == str(path)
        await says(running, "first")
        change(folder, "second")
        await says(running, "second")
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
            assert (await client.get("http://any/")).text.startswith("second")
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
    assert not path.exists()


def test_a_port_that_is_taken_ends_it(folder: pathlib.Path) -> None:
    done = portico_command("serve", "shop:app", "--reload", "--bind", "192.0.2.1:1", cwd=folder)
    assert done.returncode == 4
    assert "cannot listen on 192.0.2.1 port 1" in done.stderr


def test_without_watchfiles_it_says_what_to_install(folder: pathlib.Path) -> None:
    (folder / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "found = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'watchfiles' else found(name, *rest)\n"
    )
    done = portico_command(
        "serve", "shop:app", "--reload", cwd=folder, PYTHONPATH=os.pathsep.join([str(folder), *sys.path])
    )
    assert done.returncode == 2
    assert "pip install 'portico[reload]'" in done.stderr


class TestWhatCounts:
    @pytest.mark.parametrize(
        ("path", "counts"),
        [
            ("/a/shop.py", True),
            ("/a/page.html", True),
            ("/a/data/page.html", True),
            ("/a/notes.txt", False),
            ("/a/shop.pyc", False),
            ("/a/test_shop.py", False),
            ("/a/built/x.py", False),
        ],
    )
    def test_included_and_not_excluded(self, path: str, counts: bool) -> None:
        watched = Watched.of(
            {
                "reload_dir": ("/a",),
                "app_dir": ".",
                "reload_include": ("*.html",),
                "reload_exclude": ("test_*", "*/built/*"),
            }
        )
        assert watched.counts(path) == counts

    def test_by_default_it_is_the_python_of_the_application(self) -> None:
        watched = Watched.of({"reload_dir": (), "app_dir": "src", "reload_include": (), "reload_exclude": ()})
        assert watched.folders == ("src",)
        assert (watched.counts("src/a.py"), watched.counts("src/a.html")) == (True, False)

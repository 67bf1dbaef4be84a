"""Coming from python-socketio, and from Socket.IO on Node: what a page does before and after, with the official client
from npm, is the same. Each of the files stands in the page as it runs here."""

from __future__ import annotations

import asyncio
import inspect
import pathlib
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import socketio
from tests.blocks import DOCS, blocks, write
from tests.cli.command import serving, started
from tests.node import MODULES, node_js
from tests.support import GUARD_S

import portico
from portico.realtime import Client

PYTHON, NODE = "coming-from-python-socketio.md", "coming-from-socketio-node.md"


@pytest.fixture
def node() -> str:
    return node_js("socket.io-client", "socket.io")


def files(folder: pathlib.Path, page: str) -> pathlib.Path:
    """The files of a page, and npm's packages beside them."""
    assert all(block.file for block in blocks(page)), "each block is one that is run"
    write(folder, blocks(page))
    (folder / "node_modules").symlink_to(MODULES)
    return folder


async def output(folder: pathlib.Path, *command: str) -> list[str]:
    """What a program prints; it has to end well."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(3 * GUARD_S):
            out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return out.decode().splitlines()


@asynccontextmanager
async def uvicorn(folder: pathlib.Path) -> AsyncIterator[str]:
    """``before:app``, as the page says."""
    program = [sys.executable, "-m", "uvicorn", "before:app", "--port", "0"]
    async with started(folder, program=program, stderr=asyncio.subprocess.STDOUT) as running:
        while not (found := re.search(r"running on (http://[\d.:]+)", running.line)):
            running.line = await running.read_line()
            assert running.line
        yield found[1]


async def test_a_page_can_not_tell_python_socketio_from_portico(tmp_path: pathlib.Path, node: str) -> None:
    """And neither can the client in Python, before and after."""
    folder = files(tmp_path, PYTHON)
    clients = "before_client.py", "after_client.py"
    async with uvicorn(folder) as url:
        before = await output(folder, node, "page.mjs", url)
        said_before = [await with_another(folder, client, url) for client in clients]
    async with serving(folder, "serve", "after:app", "--port", "0") as running:
        after = await output(folder, node, "page.mjs", running.url)
        said_after = [await with_another(folder, client, running.url.rstrip("/")) for client in clients]
    assert before == after
    assert after == [
        "refused: who are you? name",
        "acknowledged: sent",
        "heard: Ann: hello",
        "answers: [ 'Coffee? Yes.' ]",
        "left: Bob",
    ]
    assert said_before == said_after == [["sent", "('Zoe', 'welcome')"]] * 2


async def test_a_page_can_not_tell_node_from_portico(tmp_path: pathlib.Path, node: str) -> None:
    folder = files(tmp_path, NODE)
    async with started(folder, program=[node, "before.mjs"], env={"PORT": "0"}) as running:
        before = await output(folder, node, "page.mjs", f"http://127.0.0.1:{running.line.strip()}")
    async with serving(folder, "serve", "after:app", "--port", "0") as running:
        after = await output(folder, node, "page.mjs", running.url)
    assert before == after
    assert after == [
        "refused: who are you? name",
        "acknowledged: sent",
        "answers: [ 'Coffee? Yes.' ]",
        "recovered: true true [ 'Ann: hello', 'Ann: are you there?' ]",
        "left: Bob",
    ]


async def with_another(folder: pathlib.Path, client: str, url: str) -> list[str]:
    """What a client prints where Zoe answers whoever says something."""
    zoe = portico.RealtimeClient(url, auth={"name": "Zoe"})

    @zoe.on("said")
    async def said(name: str, text: str) -> None:
        zoe.emit("say", "welcome")

    async with zoe:
        return await output(folder, sys.executable, client, url)


# -- the tables name what there is -------------------------------------------------------------------------------------


def cells(page: str) -> list[tuple[str, str]]:
    """The rows of all tables: before, and after."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    return [row for row in rows if row[0] != "---"]


@pytest.mark.parametrize("page", [PYTHON, NODE])
def test_every_name_on_our_side_exists(page: str) -> None:
    """What the right column calls on ``io``, a client or the module can be called."""
    there: dict[str, Any] = {
        "io": portico.Realtime(),
        "client": Client,
        "portico": portico,
        "app": portico.App(),
        "server": portico.Server,
    }
    own = {name for name in Client.__slots__ if not name.startswith("_")}
    own |= {name for name in dir(portico.RealtimeClient) if page == PYTHON}  # it has a table of its own
    for _, ours in cells(page):
        for owner, name in re.findall(r"\b(io|client|portico|app|server)\.(\w+)\b(?!:)", " ".join(code(ours))):
            its = own if owner == "client" else ()
            assert hasattr(there[owner], name) or name in its, f"{owner}.{name} in {ours}"


@pytest.mark.parametrize("page", [PYTHON, NODE])
def test_every_option_on_our_side_exists(page: str) -> None:
    """In the tables of options."""
    known = {
        *names_of(portico.Realtime.__init__),
        *names_of(portico.RealtimeClient.__init__),
        *names_of(portico.serve),
        *names_of(portico.realtime.Recovery),
        *names_of(portico.Refuse),
        *names_of(portico.Realtime.on),
        *names_of(Client.call),
        *names_of(Client.disconnect),
    }
    for _, ours in cells(page):
        for option in re.findall(r"\b([a-z_]+)=", " ".join(code(ours))):
            assert option in known, f"{option}= in {ours}"


def names_of(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_option_of_theirs_is_in_the_table() -> None:
    """Those of AsyncServer, python-engineio's with them, as its docstring lists them."""
    text = (DOCS / PYTHON).read_text(encoding="utf-8")
    listed = re.findall(r":param (\w+):", socketio.AsyncServer.__doc__ or "")
    assert len(listed) > 15
    assert [name for name in listed if name != "kwargs" and f"{name}=" not in text] == []
    public = [
        name
        for name in dir(socketio.AsyncServer)
        if not name.startswith("_") and callable(getattr(socketio.AsyncServer, name))
    ]
    known = {"attach", "handle_request", "is_asyncio_based", "reason", "event", "on"}
    assert [name for name in public if name not in known and name not in text] == []


def test_every_option_of_node_is_in_the_table() -> None:
    """Those that the declarations of npm's packages have."""
    text = (DOCS / NODE).read_text(encoding="utf-8")
    own = (MODULES / "socket.io/dist/index.d.ts").read_text(encoding="utf-8")
    engine = (MODULES / "engine.io/build/server.d.ts").read_text(encoding="utf-8")
    options = interface(own, "ServerOptions") | interface(engine, "ServerOptions") | interface(engine, "AttachOptions")
    assert len(options) > 20
    rare = {"initialPacket", "destroyUpgrade", "destroyUpgradeTimeout"}
    assert [name for name in sorted(options - rare) if not re.search(rf"\b{name}\b", text)] == []


def interface(text: str, name: str) -> set[str]:
    """The properties of an interface in TypeScript."""
    body = re.search(rf"interface {name}[^{{]*\{{(.*?)^\}}", text, re.MULTILINE | re.DOTALL)
    assert body is not None
    return set(re.findall(r"^    (\w+)\??:", body[1], re.MULTILINE))

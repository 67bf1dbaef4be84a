"""The command line, as a user runs it: a process, its output, its exit status."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import websockets

import portico

APP = """
import portico

async def echo(ws):
    async for message in ws:
        await ws.send(message)

async def asgi(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

app = portico.App()
app.websocket("/echo", echo)
app.mount("/", asgi)
number = 7
"""


def portico_command(*arguments: str, cwd: pathlib.Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "portico", *arguments], capture_output=True, text=True, cwd=cwd, timeout=60
    )


@asynccontextmanager
async def serving(cwd: pathlib.Path, *arguments: str, **options: object) -> AsyncIterator[tuple[str, int]]:
    """A `portico` process that listens; yields its first line and its pid, and sees it end well on SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "portico",
        *arguments,
        cwd=cwd,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        **options,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            yield (await process.stdout.readline()).decode(), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0


def url(line: str) -> str:
    return line.split("listens on ")[1].split("  ")[0]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


def test_version_says_which_build_runs() -> None:
    printed = portico_command("--version").stdout
    assert printed.startswith(f"portico {portico.__version__}, {'compiled' if portico.compiled else 'interpreted'}")


@pytest.mark.parametrize("name", ["app", "asgi"])
async def test_serve_answers_http_on_its_port(folder: pathlib.Path, name: str) -> None:
    async with serving(folder, "serve", f"shop:{name}", "--port", "0") as (line, _), httpx.AsyncClient() as client:
        answer = await client.get(url(line) + "a/b")
    assert (answer.status_code, answer.text) == (200, "/a/b")


@pytest.mark.parametrize(("name", "path"), [("app", "echo"), ("echo", "any/path")])
async def test_serve_speaks_websocket_on_the_same_port(folder: pathlib.Path, name: str, path: str) -> None:
    async with (
        serving(folder, "serve", f"shop:{name}", "--port", "0") as (line, _),
        websockets.connect(url(line).replace("http", "ws") + path) as ws,
    ):
        await ws.send("hello")
        assert await ws.recv() == "hello"


async def test_serve_listens_on_a_unix_socket_and_removes_it(folder: pathlib.Path) -> None:
    path = folder / "portico.sock"
    async with serving(folder, "serve", "shop:app", "--uds", str(path)) as (line, _):
        assert str(path) in line
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get("http://any/x")).text == "/x"
    assert not path.exists()


async def test_serve_takes_over_an_inherited_socket(folder: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        async with serving(folder, "serve", "shop:app", "--fd", str(fd), pass_fds=[fd]) as (line, _):
            assert url(line) == f"http://127.0.0.1:{listener.getsockname()[1]}/"
            async with httpx.AsyncClient() as client:
                assert (await client.get(url(line) + "y")).text == "/y"


async def test_serve_takes_tls_files_and_only_http_1_1_by_alpn(folder: pathlib.Path) -> None:
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *subject]
    subprocess.run(make, cwd=folder, check=True, capture_output=True)
    arguments = ["serve", "shop:app", "--port", "0", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]
    async with serving(folder, *arguments) as (line, _):
        assert url(line).startswith("https://")
        probe = ["openssl", "s_client", "-alpn", "h2,http/1.1", "-CAfile", "cert.pem", "-connect", url(line)[8:-1]]
        said = await asyncio.to_thread(
            subprocess.run, probe, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert "ALPN protocol: http/1.1" in said.stdout
        assert "Verify return code: 0 (ok)" in said.stdout


async def test_demo_prints_where_it_is_and_shows_its_page(tmp_path: pathlib.Path) -> None:
    async with serving(tmp_path, "demo", "--port", "0") as (line, _), httpx.AsyncClient() as client:
        page = await client.get(url(line))
    assert page.status_code == 200
    assert "Portico" in page.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "shop"], "expected module:attribute"),
        (["serve", "nothing:app"], "no module 'nothing'"),
        (["serve", "shop:nothing"], "has no 'nothing'"),
        (["serve", "shop:number"], "expected a coroutine function or a portico.Endpoint"),
        (["serve", "shop:app", "--workers-of-the-world", "1"], "No such option"),
        (["serve", "shop:app", "--port", "70000"], "0<=x<=65535"),
        (["serve", "shop:app", "--tls-key", "shop.py"], "--tls-key without --tls-cert"),
        (["serve", "shop:app", "--tls-cert", "shop.py"], "--tls-cert, --tls-key"),
        (["serve", "shop:app", "--uds", "a", "--fd", "3"], "exclude each other"),
        (["serve", "shop:app", "--fd", "999"], "--fd 999"),
        (["serve", "shop:app", "--uds", "shop.py"], "found another kind of file"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(folder: pathlib.Path, arguments: list[str], words: str) -> None:
    done = portico_command(*arguments, cwd=folder)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_named(folder: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = portico_command("serve", "shop:app", "--port", port, cwd=folder)
    assert done.returncode != 0
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert "Traceback" not in done.stderr

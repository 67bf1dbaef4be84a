"""The command line, as a user runs it: a process, its output, its exit status."""

from __future__ import annotations

import asyncio
import pathlib
import socket
import subprocess

import httpx
import pytest
import websockets
from tests.certificates import Tls
from tests.cli.command import portico_command, serving

import portico


def test_version_says_which_build_runs() -> None:
    printed = portico_command("--version").stdout
    assert printed.startswith(f"portico {portico.__version__}, {'compiled' if portico.compiled else 'interpreted'}")


@pytest.mark.parametrize("name", ["app", "asgi"])
async def test_serve_answers_http_on_its_port(folder: pathlib.Path, name: str) -> None:
    async with serving(folder, "serve", f"shop:{name}", "--port", "0") as running, httpx.AsyncClient() as client:
        answer = await client.get(running.url + "a/b")
    assert (answer.status_code, answer.text) == (200, "/a/b")


@pytest.mark.parametrize(("name", "path"), [("app", "echo"), ("echo", "any/path")])
async def test_serve_speaks_websocket_on_the_same_port(folder: pathlib.Path, name: str, path: str) -> None:
    async with (
        serving(folder, "serve", f"shop:{name}", "--port", "0") as running,
        websockets.connect(running.url.replace("http", "ws") + path) as ws,
    ):
        await ws.send("hello")
        assert await ws.recv() == "hello"


async def test_serve_listens_on_a_unix_socket_and_removes_it(folder: pathlib.Path) -> None:
    path = folder / "portico.sock"
    async with serving(folder, "serve", "shop:app", "--uds", str(path), "--uds-mode", "600") as running:
        assert running.url == str(path)
        assert path.stat().st_mode & 0o777 == 0o600
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get("http://any/x")).text == "/x"
    assert not path.exists()


async def test_serve_takes_over_an_inherited_socket(folder: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        async with serving(folder, "serve", "shop:app", "--fd", str(fd), pass_fds=[fd]) as running:
            assert running.url == f"http://127.0.0.1:{listener.getsockname()[1]}/"
            async with httpx.AsyncClient() as client:
                assert (await client.get(running.url + "y")).text == "/y"


async def test_serve_takes_tls_files_and_only_http_1_1_by_alpn(folder: pathlib.Path, tls: Tls) -> None:
    arguments = ["serve", "shop:app", "--port", "0", "--tls-cert", str(tls.cert), "--tls-key", str(tls.key)]
    async with serving(folder, *arguments) as running:
        assert running.url.startswith("https://")
        probe = ["openssl", "s_client", "-alpn", "h2,http/1.1", "-CAfile", str(tls.cert), "-connect", running.url[8:-1]]
        said = await asyncio.to_thread(subprocess.run, probe, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert "ALPN protocol: http/1.1" in said.stdout
        assert "Verify return code: 0 (ok)" in said.stdout


async def test_demo_prints_where_it_is_and_shows_its_page(tmp_path: pathlib.Path) -> None:
    async with serving(tmp_path, "demo", "--port", "0") as running, httpx.AsyncClient() as client:
        page = await client.get(running.url)
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
        (["serve", "shop:app", "--uds", "a", "--fd", "3"], "--fd excludes --uds"),
        (["serve", "shop:app", "--uds", "a", "--bind", ":0"], "exclude each other"),
        (["serve", "shop:app", "--bind", ":0", "--port", "1"], "exclude each other"),
        (["serve", "shop:app", "--uds", "a", "--uds-mode", "888"], "expected an octal mode"),
        (["serve", "shop:app", "--max-headers", "0"], "Limits(max_headers=0)"),
        (["serve", "shop:app", "--drain-seconds", "-1"], "Limits(drain_s=-1.0)"),
        (["serve", "shop:app", "--trusted-proxy", "nobody"], "nobody"),
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

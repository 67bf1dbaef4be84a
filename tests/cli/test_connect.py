"""``portico connect`` in a pipe, as a script has it: a process, what goes in, what comes out, its exit status."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import ssl
import subprocess
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

import pytest
import websockets
from click.testing import CliRunner
from tests.certificates import self_signed
from tests.cli.sides import BOTH, CLEAN_ENV, COMMAND, Echo, deaf_server, portico_echo
from tests.support import GUARD_S, Waiting, free_port, serving, until

import portico
from portico.cli import main


@dataclass
class Ended:
    status: int
    out: bytes
    err: str


async def start(*arguments: str, command: list[str] = COMMAND, **options: Any) -> asyncio.subprocess.Process:
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return await asyncio.create_subprocess_exec(*command, *arguments, **(pipes | {"env": CLEAN_ENV} | options))


async def finish(process: asyncio.subprocess.Process, given: bytes = b"") -> Ended:
    """The end of a process; its stdin is closed after `given`."""
    try:
        async with asyncio.timeout(3 * GUARD_S):
            out, err = await process.communicate(given if process.stdin else None)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    ended = Ended(process.returncode or 0, out or b"", (err or b"").decode())
    assert "Traceback" not in ended.err, ended.err
    return ended


async def piped(given: bytes, *arguments: str, **options: Any) -> Ended:
    return await finish(await start(*arguments, **options), given)


def told(process: asyncio.subprocess.Process) -> Awaitable[bytes]:
    """The next line on a process's stderr."""
    assert process.stderr is not None
    return asyncio.wait_for(process.stderr.readline(), GUARD_S)


# -- in a pipe ---------------------------------------------------------------------------------------------------------


@BOTH
async def test_lines_go_out_and_payloads_alone_come_out(peer: Echo) -> None:
    async with peer() as seen:
        ended = await piped("one\n\nzwei €\nlast".encode(), seen.uri)
        await until(lambda: seen.codes)
    assert seen.messages == ["one", "", "zwei €", "last"]
    assert ended.out == "one\n\nzwei €\nlast\n".encode()
    assert ended.err.splitlines() == [f"connected to {seen.uri}", "closed: 1000 (normal closure, by us)"]
    assert (ended.status, seen.codes) == (0, [1000])


@BOTH
async def test_lines_may_end_with_crlf(peer: Echo) -> None:
    async with peer() as seen:
        ended = await piped(b"one\r\n\r\na\rb\r\nlast", seen.uri)
        await until(lambda: seen.codes)
    assert seen.messages == ["one", "", "a\rb", "last"]
    assert ended.status == 0


@BOTH
async def test_all_of_a_long_input_is_sent_before_the_close(peer: Echo, tmp_path: pathlib.Path) -> None:
    lines = [f"{number} {'x' * (number % 300)}" for number in range(5000)]
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(lines) + "\n")
    async with peer() as seen:
        with file.open() as stdin:  # a regular file, for which epoll has no readiness
            ended = await piped(b"", seen.uri, stdin=stdin)
        await until(lambda: seen.codes)
    assert seen.messages == lines
    assert ended.out.decode().splitlines() == lines[: ended.out.count(b"\n")]
    assert (ended.status, seen.codes) == (0, [1000])


async def test_a_line_longer_than_any_read_is_one_message() -> None:
    async with portico_echo() as seen:
        ended = await piped(b"x" * 500_000 + b"\nend", seen.uri)
    assert [len(message) for message in seen.messages] == [500_000, 3]
    assert ended.status == 0


async def test_what_is_piped_in_slowly_goes_out_as_it_comes() -> None:
    async with portico_echo() as seen:
        process = await start(seen.uri)
        assert process.stdin is not None
        assert process.stdout is not None
        for line in (b"first\n", b"second\n"):
            process.stdin.write(line)
            assert await asyncio.wait_for(process.stdout.readline(), GUARD_S) == line
        assert (await finish(process)).status == 0


async def test_binary_payloads_come_out_as_they_are() -> None:
    async def handler(ws: portico.WebSocket) -> None:
        await ws.send(bytes(range(256)))

    async with serving(handler) as server:
        ended = await piped(b"", f"ws://127.0.0.1:{server.port}/", "--wait", "inf")
    assert ended.out == bytes(range(256)) + b"\n"


async def test_wait_goes_on_receiving_after_the_end_of_stdin() -> None:
    async def handler(ws: portico.WebSocket) -> None:
        question = await ws.recv()
        for _ in range(50):  # round trips; without --wait the client stays for one after the end of stdin
            await ws.ping()
        await ws.send(f"answer to {question}")

    async with serving(handler) as server:
        ended = await piped(b"question\n", f"ws://127.0.0.1:{server.port}/", "--wait", "inf")
    assert ended.out == b"answer to question\n"
    assert "closed: 1000 (normal closure, by peer)" in ended.err


async def test_a_reader_that_leaves_early_is_no_error() -> None:
    async with portico_echo() as seen:
        read, write = os.pipe()
        process = await start(seen.uri, stdout=write)
        os.close(write)
        os.close(read)
        ended = await finish(process, b"one\n" * 1000)
        await until(lambda: seen.codes)
    assert (ended.status, seen.codes) == (0, [1000])


async def test_output_that_can_not_be_written_is_said_and_is_a_failure() -> None:
    async with portico_echo() as seen:
        with open("/dev/full", "wb") as full:
            ended = await piped(b"one\n", seen.uri, stdout=full)
    assert "stdout: No space left on device" in ended.err
    assert ended.status == 1


async def test_a_line_that_is_no_text_is_said_and_is_a_failure() -> None:
    async with portico_echo() as seen:
        ended = await piped(b"one\n\xff\xfe\nthree\n", seen.uri)
    assert seen.messages == ["one", "three"]
    assert "line 2 is not UTF-8: not sent" in ended.err
    assert ended.status == 1


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "0<&- 1>&-", "2>&-"])
async def test_a_closed_standard_stream_is_an_empty_one(closed: str) -> None:
    """Else a socket would get its number, and what is printed would go to the server."""
    async with portico_echo() as seen:
        ended = await piped(b"one\n", seen.uri, command=["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND])
    assert seen.messages == ([] if "0<" in closed else ["one"])
    assert ended.status == 0


# -- what goes with the request ----------------------------------------------------------------------------------------


async def test_headers_subprotocols_and_origin_go_with_the_request() -> None:
    requests: list[portico.Request] = []

    async def handler(ws: portico.WebSocket) -> None:
        requests.append(ws.request)

    async with serving(handler, subprotocols=["v2", "v1"], origins=["*"]) as server:
        ended = await piped(
            b"",
            f"ws://user:secret@127.0.0.1:{server.port}/a?b=c",
            *("--header", "X-One: 1", "--header", "x-two:a:b"),
            *("--subprotocol", "v1", "--subprotocol", "v3", "--origin", "https://example.com"),
        )
    (request,) = requests
    names = ("x-one", "x-two", "origin", "sec-websocket-protocol", "authorization")
    assert [request.headers[name] for name in names] == [
        "1",
        "a:b",
        "https://example.com",
        "v1, v3",
        "Basic dXNlcjpzZWNyZXQ=",
    ]
    assert ended.err.startswith(f"connected to ws://127.0.0.1:{server.port}/a, subprotocol v1\n")
    assert "secret" not in ended.err


@dataclass
class Proxy:
    """An HTTP proxy that knows CONNECT alone, and where to it was asked."""

    uri: str = ""
    asked: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        place = head.split(b" ")[1].decode()
        self.asked.append(place)
        host, _, port = place.rpartition(":")
        there = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        async with asyncio.TaskGroup() as both:
            both.create_task(self._pump(reader, there[1]))
            both.create_task(self._pump(there[0], writer))

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(4096):
            writer.write(piece)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize(
    ("arguments", "variable", "through"),
    [
        (["--proxy", "{proxy}"], False, True),
        ([], True, True),
        (["--no-proxy"], True, False),
        ([], False, False),
    ],
)
async def test_the_proxy_is_the_one_asked_for(arguments: list[str], variable: bool, through: bool) -> None:
    proxy = Proxy()
    listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    async with listener, portico_echo() as seen:
        proxy.uri = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        env = CLEAN_ENV | ({"HTTP_PROXY": proxy.uri, "http_proxy": proxy.uri} if variable else {})
        ended = await piped(b"hello\n", seen.uri, *(each.format(proxy=proxy.uri) for each in arguments), env=env)
    assert (ended.status, ended.out) == (0, b"hello\n")
    assert proxy.asked == ([seen.uri[5:-1]] if through else [])


async def test_certificates_are_verified_unless_insecure_which_warns(tmp_path: pathlib.Path) -> None:
    async def echo(ws: websockets.ServerConnection) -> None:
        async for message in ws:
            await ws.send(message)

    untrusted = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    untrusted.load_cert_chain(*self_signed(tmp_path, "elsewhere"))
    async with websockets.serve(echo, "127.0.0.1", 0, ssl=untrusted) as server:
        uri = f"wss://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
        refused = await piped(b"hello\n", uri)
        taken = await piped(b"hello\n", uri, "--insecure")
    assert (refused.status, refused.out) == (2, b"")
    assert "certificate verify failed" in refused.err
    assert "--insecure connects without verifying the certificate" in refused.err
    assert (taken.status, taken.out) == (0, b"hello\n")
    assert taken.err.startswith("warning: --insecure: the server's certificate is not verified")


SECRET = "s3cr3t"


@pytest.mark.parametrize("location", ["/b?token=PLACE", "http://me:PLACE@h:1/b?token=PLACE", "//u:PLACE@h:x/?PLACE"])
async def test_nothing_that_is_said_shows_a_query_or_a_password(location: str) -> None:
    """stderr ends up in logs, and tokens are often in the query."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 302 Found\r\nLocation: {location.replace('PLACE', SECRET)}\r\nContent-Length: 0\r\n\r\n"
        writer.write(head.encode())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        ended = await piped(b"", f"ws://me:{SECRET}@127.0.0.1:{port}/a?token={SECRET}")
    assert ended.status == 2
    assert ended.err
    assert SECRET not in ended.err
    for uri in (f"ws://u:{SECRET}@127.0.0.1:x/?{SECRET}", f"ws://127.0.0.1:{port}/?{SECRET}"):
        ended = await piped(b"", uri)
        assert (ended.status, SECRET in ended.err) == (2, False)
    async with portico_echo() as seen:
        ended = await piped(b"", f"{seen.uri}?token={SECRET}")
    assert ended.err.splitlines() == [f"connected to {seen.uri}", "closed: 1000 (normal closure, by us)"]


async def test_insecure_is_refused_where_it_would_do_nothing() -> None:
    ended = await piped(b"", "ws://127.0.0.1:1/", "--insecure")
    assert (ended.status, ended.out) == (2, b"")
    assert "expected a URI that begins with wss://" in ended.err


# -- how it ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        (1000, 0, "closed: 1000 (normal closure, by peer): bye"),
        (1001, 0, "closed: 1001 (going away, by peer): bye"),
        (1005, 0, "closed: 1005 (no status received, by peer)"),
        (1008, 1, "closed: 1008 (policy violation, by peer): bye"),
        (1011, 1, "closed: 1011 (internal error, by peer): bye"),
        (4321, 1, "closed: 4321 (application's own code, by peer): bye"),
        (1006, 1, "closed: 1006 (abnormal closure, not cleanly, by network)"),
    ],
)
async def test_the_close_code_is_printed_and_is_the_exit_status(code: int, status: int, words: str) -> None:
    async def handler(ws: portico.WebSocket) -> None:
        if code == 1006:
            ws.stream.abort()
        else:
            await ws.close(code, "" if code == 1005 else "bye")

    async with serving(handler) as server:
        process = await start(f"ws://127.0.0.1:{server.port}/")  # its stdin stays open: the server's end is the end
        assert (await told(process)).startswith(b"connected")
        assert (await told(process)).decode().strip() == words
        assert (await finish(process)).status == status


async def test_a_close_reason_can_not_move_the_cursor() -> None:
    async def handler(ws: portico.WebSocket) -> None:
        await ws.close(1000, "\x1b[2J\r\nforged")

    async with serving(handler) as server:
        ended = await piped(b"", f"ws://127.0.0.1:{server.port}/", "--wait", "inf")
    assert ended.err.endswith("closed: 1000 (normal closure, by peer): \\x1b[2J\\r\\nforged\n")


async def test_a_refusal_is_shown_with_status_headers_and_body() -> None:
    def authenticate(request: portico.Request) -> None:
        raise portico.Refuse("log in\nfirst \x1b[31m" + "x" * 2000, 401, {"WWW-Authenticate": "Basic"})

    async def handler(ws: portico.WebSocket) -> None:
        pass

    async with serving(handler, authenticate=authenticate) as server:
        ended = await piped(b"hello\n", f"ws://127.0.0.1:{server.port}/")
    lines = ended.err.splitlines()
    assert (ended.status, ended.out) == (2, b"")
    assert lines[0] == "no connection: the server answered 401 Unauthorized, expected 101"
    assert lines[1] == "  status: 401"
    assert "  www-authenticate: Basic" in lines
    assert "  | log in" in lines
    assert "  | first \\x1b[31mxxx" in ended.err
    assert lines[-1] == "  … 1018 characters more"


async def test_nobody_there_is_status_2() -> None:
    ended = await piped(b"hello\n", f"ws://127.0.0.1:{free_port()}/")
    assert (ended.status, ended.out) == (2, b"")
    assert ended.err.startswith("no connection: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["http://localhost/"], "expected one that begins with ws:// or wss://"),
        (["ws://localhost/", "--header", "nothing"], "expected 'Name: value'"),
        (["ws://localhost/", "--header", ": nothing"], "expected 'Name: value'"),
        (["ws://localhost/", "--proxy", "http://p", "--no-proxy"], "exclude each other"),
        (["ws://localhost/", "--proxy", "socks5://p"], "expected one that begins with http://"),
        (["ws://localhost/", "--wait", "-1"], "x>=0"),
        ([], "Missing argument 'URI'"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(main, ["connect", *arguments])
    assert words in done.stderr
    assert done.exit_code == 2


# -- Ctrl+C ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@BOTH
async def test_a_signal_closes_with_1000(peer: Echo, number: signal.Signals) -> None:
    async with peer() as seen:
        process = await start(seen.uri)
        assert (await told(process)).startswith(b"connected")
        process.send_signal(number)
        assert await told(process) == b"closed: 1000 (normal closure, by us)\n"
        assert (await finish(process)).status == 0
        await until(lambda: seen.codes)
    assert seen.codes == [1000]


async def test_a_signal_while_connecting_ends_at_once() -> None:
    asked = Waiting()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asked.stay()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        process = await start(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        await asked.reached()
        process.send_signal(signal.SIGINT)
        ended = await finish(process)
        asked.go.set()
    assert (ended.status, ended.err) == (130, "")


async def test_a_second_signal_does_not_wait_for_the_server() -> None:
    closing = Waiting()
    async with await deaf_server(closing) as server:
        process = await start(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        assert (await told(process)).startswith(b"connected")
        process.send_signal(signal.SIGINT)
        await closing.reached()
        process.send_signal(signal.SIGINT)
        ended = await finish(process)
        closing.go.set()
    assert (ended.status, ended.err) == (130, "")

"""Files as bodies: ASGI's ``http.response.pathsend`` and ``http.response.zerocopysend``, over real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pathlib
import ssl
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from tests.support import Logged, Peer, descriptors, get, pages, serving, turns, until

import portico

CONTENT = bytes(n * n & 255 for n in range(1_000)) * 1_000
PATH = "http.response.pathsend"
ZERO_COPY = "http.response.zerocopysend"


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


class Sending:
    """An application that starts a response and sends what it is given; it keeps what was raised."""

    def __init__(self, *messages: dict[str, Any], headers: Any = ()) -> None:
        self.messages = messages
        self.headers = headers
        self.raised: list[BaseException] = []
        self.sent = 0
        self.app = pages(self._app)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        for message in self.messages:
            try:
                await send(message)
            except BaseException as error:
                self.raised.append(error)
                raise
            self.sent += 1

    @asynccontextmanager
    async def asked(self, request: bytes = b"", **options: Any) -> AsyncIterator[Peer]:
        """A peer that has sent its request."""
        async with serving(self.app, **options) as server, await Peer.connect(server) as peer:
            peer.send(request or get())
            yield peer


def path_message(file: pathlib.Path) -> dict[str, Any]:
    return {"type": PATH, "path": str(file)}


class TestWhole:
    async def test_by_path(self, file: pathlib.Path) -> None:
        """Its length is announced (RFC 9110 §8.6); nothing stays open, and the connection goes on."""
        async with Sending(path_message(file)).asked() as peer:
            assert (await peer.answer()).header("content-length") == str(len(CONTENT))
            await until(lambda: str(file) not in descriptors().values())
            before = descriptors()
            for _ in range(3):
                peer.send(get())
                answer = await peer.answer()
                assert answer.body == CONTENT
                assert answer.header("transfer-encoding") is None
            await until(lambda: descriptors() == before)

    async def test_to_a_real_client(self, file: pathlib.Path) -> None:
        async with serving(Sending(path_message(file)).app) as server, httpx.AsyncClient() as client:
            answers = await asyncio.gather(*[client.get(f"http://127.0.0.1:{server.port}/") for _ in range(10)])
        assert all(answer.content == CONTENT for answer in answers)

    @pytest.mark.parametrize("opened", [lambda file: file, lambda file: file.fileno()], ids=["file", "descriptor"])
    async def test_by_descriptor(self, file: pathlib.Path, opened: Callable[[Any], Any]) -> None:
        """It is the application's: it stays open, and stands at its end, as after reading."""
        with file.open("rb") as f:
            async with Sending({"type": ZERO_COPY, "file": opened(f)}).asked() as peer:
                answer = await peer.answer()
                assert (answer.body, answer.header("content-length")) == (CONTENT, str(len(CONTENT)))
                await until(lambda: os.lseek(f.fileno(), 0, os.SEEK_CUR) == len(CONTENT))

    @pytest.mark.parametrize(
        ("where", "part", "after"),
        [
            ({"offset": 10, "count": 20}, slice(10, 30), 5),
            ({"offset": 999_990}, slice(999_990, None), 5),
            ({"count": 20}, slice(5, 25), 25),
            ({}, slice(5, None), len(CONTENT)),
            ({"offset": 0, "count": 0}, slice(0, 0), 5),
            ({"offset": 2_000_000}, slice(0, 0), 5),
        ],
        ids=str,
    )
    async def test_a_part(self, file: pathlib.Path, where: dict[str, int], part: slice, after: int) -> None:
        """With an offset the file's own position is neither used nor changed, as with sendfile(2)."""
        expected = CONTENT[part]
        with file.open("rb", buffering=0) as f:
            f.seek(5)
            async with Sending({"type": ZERO_COPY, "file": f, **where}).asked() as peer:
                answer = await peer.answer()
                assert (answer.body, answer.header("content-length")) == (expected, str(len(expected)))
                await until(lambda: f.tell() == after)

    async def test_between_other_pieces(self, file: pathlib.Path) -> None:
        """In chunks then, as nobody knows the length."""
        piece = {"type": "http.response.body", "body": b"--", "more_body": True}
        with file.open("rb", buffering=0) as f:
            part = {"type": ZERO_COPY, "file": f, "offset": 7, "count": 300_000, "more_body": True}
            messages = piece, part, piece, part, {"type": "http.response.body"}
            async with Sending(*messages).asked() as peer:
                for _ in range(2):
                    answer = await peer.answer()
                    assert answer.header("transfer-encoding") == "chunked"
                    assert answer.body == (b"--" + CONTENT[7:300_007]) * 2
                    peer.send(get())

    async def test_an_empty_one(self, file: pathlib.Path) -> None:
        file.write_bytes(b"")
        async with Sending(path_message(file)).asked() as peer:
            for _ in range(2):
                answer = await peer.answer()
                assert (answer.body, answer.header("content-length")) == (b"", "0")
                peer.send(get())

    @pytest.mark.parametrize("announced", [True, False])
    async def test_head(self, file: pathlib.Path, announced: bool) -> None:
        """RFC 9110 §9.3.2: the length, and nothing else."""
        headers = [(b"content-length", b"%d" % len(CONTENT))] if announced else []
        async with Sending(path_message(file), headers=headers).asked(get(method="HEAD")) as peer:
            for _ in range(2):
                assert (await peer.answer("HEAD")).header("content-length") == str(len(CONTENT))
                peer.send(get(method="HEAD"))

    async def test_http_1_0(self, file: pathlib.Path) -> None:
        async with Sending(path_message(file)).asked(get(version="1.0")) as peer:
            answer = await peer.answer()
            assert (answer.body, answer.header("content-length")) == (CONTENT, str(len(CONTENT)))
            assert await peer.to_end() == b""

    async def test_over_tls(self, file: pathlib.Path, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
        with file.open("rb", buffering=0) as f:
            part = {"type": ZERO_COPY, "file": f, "offset": 7, "count": 300_000, "more_body": True}
            sending = Sending(part, path_message(file))
            async with (
                serving(sending.app, ssl=server_tls) as server,
                await Peer.connect(server, tls=client_tls) as peer,
            ):
                for _ in range(2):
                    peer.send(get())
                    assert (await peer.answer()).body == CONTENT[7:300_007] + CONTENT


def error_of(logged: Logged) -> BaseException:
    """What the one record tells of."""
    record = logged.take("an application failed")
    assert record.exc_info
    assert record.exc_info[1] is not None
    return record.exc_info[1]


class TestFailures:
    async def test_a_missing_one(self, file: pathlib.Path, logged: Logged) -> None:
        """It is the application's OSError; nothing of the response has been written."""
        async with Sending(path_message(file.with_name("missing"))).asked() as peer:
            await peer.refused(500)
        assert isinstance(error_of(logged), FileNotFoundError)

    async def test_a_directory(self, tmp_path: pathlib.Path, logged: Logged) -> None:
        async with Sending(path_message(tmp_path)).asked() as peer:
            before = descriptors()
            await peer.refused(500)
            assert set(descriptors()) <= set(before)
        assert isinstance(error_of(logged), IsADirectoryError)

    @pytest.mark.parametrize("path", ["file", "./file", "", b"/etc/passwd", None])
    async def test_a_path_that_is_not_absolute(self, path: Any, logged: Logged) -> None:
        async with Sending({"type": PATH, "path": path}).asked() as peer:
            await peer.refused(500)
        assert "expected an absolute path" in str(error_of(logged))

    @pytest.mark.parametrize("kind", [PATH, ZERO_COPY])
    async def test_before_the_start(self, kind: str, file: pathlib.Path, logged: Logged) -> None:
        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": kind, "path": str(file), "file": 0})

        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get())
            await peer.refused(500)
        assert "before http.response.start" in str(error_of(logged))

    @pytest.mark.parametrize("length", [len(CONTENT) - 1, len(CONTENT) + 1])
    async def test_one_that_is_not_as_long_as_announced(self, length: int, file: pathlib.Path, logged: Logged) -> None:
        """RFC 9112 §6.3: the response is never completed with anything else, nor exceeded."""
        headers = [(b"content-length", b"%d" % length)]
        async with Sending(path_message(file), headers=headers).asked() as peer:
            came = await peer.to_end()
            assert len(came.partition(b"\r\n\r\n")[2]) < length
        assert isinstance(error_of(logged), portico.LocalError)

    async def test_a_part_beyond_the_end(self, file: pathlib.Path, logged: Logged) -> None:
        with file.open("rb") as f:
            async with Sending({"type": ZERO_COPY, "file": f, "offset": 999_990, "count": 20}).asked() as peer:
                came = await peer.to_end()
                assert len(came.partition(b"\r\n\r\n")[2]) <= 10
        assert "10 bytes early" in str(error_of(logged))

    async def test_one_that_shrinks(self, file: pathlib.Path, logged: Logged) -> None:
        """What was announced can't be sent any more: the response is cut."""
        os.truncate(file, 100_000_000)
        sending = Sending(path_message(file))
        async with serving(sending.app) as server, await Peer.connect(server, receive_buffer=4096) as peer:
            peer.send(get())
            await waiting(server)
            os.truncate(file, 1)
            assert len(await peer.to_end()) < 100_000_000
        assert isinstance(error_of(logged), portico.LocalError)


async def waiting(server: portico.Server) -> Any:
    """The stream of the one connection, as soon as it waits for its peer."""
    await until(lambda: [connection for connection in server.connections if connection._stream.blocked])
    return server.connections[0]._stream


class TestSlowReaders:
    @pytest.fixture
    def large(self, file: pathlib.Path) -> pathlib.Path:
        with file.open("ab") as f:
            for _ in range(39):
                f.write(CONTENT)
        return file

    async def test_what_is_held_is_bounded(self, large: pathlib.Path) -> None:
        """40 MB to a peer that reads late: never more than a piece or two in memory, and all of it arrives."""
        async with (
            serving(Sending(path_message(large)).app) as server,
            await Peer.connect(server, receive_buffer=4096) as peer,
        ):
            tracemalloc.start()
            try:
                peer.send(get())
                stream = await waiting(server)
                assert stream.buffered <= (1 << 18) + (1 << 16)
                head = await peer.head()
                digest, left = hashlib.sha256(), int(head.header("content-length") or 0)
                while left:
                    piece = await peer.reader.read(1 << 16)
                    digest.update(piece)
                    left -= len(piece)
                assert tracemalloc.get_traced_memory()[1] < 3_000_000
            finally:
                tracemalloc.stop()
        assert digest.digest() == hashlib.sha256(CONTENT * 40).digest()

    @pytest.mark.parametrize("how", ["fin", "rst"])
    async def test_a_peer_that_leaves_within_it(self, how: str, large: pathlib.Path) -> None:
        """The application's send raises OSError, and the file is closed."""
        sending = Sending(path_message(large))
        async with serving(sending.app) as server:
            async with await Peer.connect(server, receive_buffer=4096) as peer:
                peer.send(get())
                await waiting(server)
                assert str(large) in descriptors().values()
                if how == "rst":
                    peer.reset()
                else:
                    peer.writer.close()
                await until(lambda: sending.raised)
            await until(lambda: str(large) not in descriptors().values())
        assert isinstance(sending.raised[0], OSError)

    async def test_an_application_that_is_cancelled(self, large: pathlib.Path, logged: Logged) -> None:
        """At any moment: while the file is being opened, read or waited with; it is always closed."""
        tasks: list[asyncio.Task[None]] = []

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            async def work() -> None:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send(path_message(large))

            tasks.append(asyncio.create_task(work()))
            await asyncio.wait(tasks)

        async with serving(app) as server:
            for count in range(12):
                async with await Peer.connect(server, receive_buffer=4096) as peer:
                    peer.send(get())
                    await until(lambda: tasks)
                    await turns(count)
                    tasks.pop().cancel()
            await until(lambda: server.connection_count == 0)
            await until(lambda: str(large) not in descriptors().values())
        assert all("without a whole response" in record.getMessage() for record in logged.records)
        logged.records.clear()

    def test_the_loop_ends_while_a_file_is_being_opened(self, large: pathlib.Path, logged: Logged) -> None:
        """asyncio cancels every task and then joins the threads: the file that one of them has opened is closed."""
        release = threading.Event()
        asked = asyncio.Event()

        @pages
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            asyncio.get_running_loop().run_in_executor(None, release.wait)
            asked.set()
            await send(path_message(large))

        async def stay() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                release.set()

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_default_executor(ThreadPoolExecutor(1))
            staying = loop.create_task(stay())  # ends with the loop
            limits = portico.Limits(stop_timeout_s=0.05)
            async with serving(app, limits=limits) as server, await Peer.connect(server) as peer:
                peer.send(get())
                await asked.wait()
                await turns(3)
            assert not staying.done()

        asyncio.run(main())
        assert str(large) not in descriptors().values()
        assert all("without a whole response" in record.getMessage() for record in logged.records)
        logged.records.clear()

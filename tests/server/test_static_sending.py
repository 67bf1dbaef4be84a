"""Static files: how they are sent, by the kernel or in pieces, and what happens when something fails."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.server.test_static import LARGE, ask, assets
from tests.support import Logged, Peer, get, serving

import portico
from portico.server.static import SMALL_BYTES, StaticFiles

__all__ = ["assets"]  # a fixture


class TestTrouble:
    @pytest.mark.parametrize(
        ("number", "status", "record"),
        [
            (errno.EMFILE, 503, "no file can be opened"),
            (errno.ENFILE, 503, "no file can be opened"),
            (errno.EIO, 500, "an application failed"),
            (errno.EACCES, 404, None),
            (errno.EPERM, 404, None),
        ],
    )
    async def test_what_the_system_refuses(
        self,
        assets: Path,
        logged: Logged,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        status: int,
        record: str | None,
    ) -> None:
        """No descriptor left is no 404: a client, or a cache, would believe it."""
        app = portico.App()
        app.static("/assets", assets)

        def refuse(*_: object, **__: object) -> int:
            raise OSError(number, os.strerror(number))

        async with serving(app) as server:
            async with await Peer.connect(server) as peer:
                with monkeypatch.context() as patch:
                    patch.setattr(os, "open", refuse)
                    answer = await ask(peer, "/hello.txt")
            assert (answer.status, answer.header("retry-after")) == (status, "1" if status == 503 else None)
            if record is not None:
                logged.take(record)
            async with await Peer.connect(server) as peer:
                assert (await ask(peer, "/hello.txt")).status == 200

    async def test_a_file_that_shrinks_under_way_cuts_the_response(self, assets: Path, logged: Logged) -> None:
        """RFC 9112 §8: the client sees that it is incomplete; never other bytes in its place."""
        huge = assets / "huge.bin"
        with huge.open("wb") as file:
            file.truncate(1 << 26)
        app = portico.App()
        app.static("/assets", assets)
        async with serving(app) as server, await Peer.connect(server, receive_buffer=4096) as peer:
            peer.send(get("/assets/huge.bin"))
            head = await peer.head()
            assert head.header("content-length") == str(1 << 26)
            os.truncate(huge, 1 << 20)
            assert len(await peer.to_end()) < 1 << 26
        logged.take("an application failed")

    async def test_a_small_file_is_whole_before_its_head_is_sent(self, assets: Path) -> None:
        """One visit to a thread, one write."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/hello.txt", "headers": []}
        await StaticFiles(assets)(scope, None, send)
        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]

    @pytest.mark.parametrize("cancel", ["first", "second"])
    async def test_cancelled_it_leaves_no_descriptor_open(self, assets: Path, cancel: str) -> None:
        """While it is opened, or while it is sent: a warning of a file that nobody closed would be an error."""
        there, stay = asyncio.Event(), asyncio.Event()

        async def send(message: Any) -> None:
            there.set()
            await stay.wait()

        scope = {"type": "http", "method": "GET", "path": "/large.bin", "headers": []}
        task = asyncio.create_task(StaticFiles(assets)(scope, None, send))
        await (there.wait() if cancel == "second" else asyncio.sleep(0))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.get_running_loop().shutdown_default_executor()
        held = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name)]
        assert str(assets / "large.bin") not in held


def _is_open(name: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{name}")


class TestZeroCopy:
    """The extension ``http.response.zerocopysend``, where the server has it; and the way without it."""

    async def test_without_it_the_client_gets_the_same(self, assets: Path) -> None:
        ours = StaticFiles(assets)

        async def plain(scope: Any, receive: Any, send: Any) -> None:
            await ours({**scope, "extensions": {}}, receive, send)

        app = portico.App()
        app.static("/assets", assets)
        app.mount("/plain", plain)
        async with serving(app) as server, await Peer.connect(server) as peer:
            for headers in ({}, {"range": "bytes=1-"}, {"range": "bytes=100-200000"}, {"range": "bytes=900000-"}):
                answers = []
                for mount in ("/assets", "/plain"):
                    peer.send(get(mount + "/large.bin", **headers))
                    answers.append(await peer.answer())
                assert answers[0].body == answers[1].body
                assert answers[0].status == answers[1].status
                assert len(answers[0].body) > SMALL_BYTES

    async def messages(self, assets: Path, take: Callable[[Any], None], **headers: str) -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)
            take(message)

        lines = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "GET", "path": "/large.bin", "headers": lines}
        await StaticFiles(assets)({**scope, "extensions": {"http.response.zerocopysend": {}}}, None, send)
        return sent

    async def test_a_large_file_is_one_message(self, assets: Path) -> None:
        got = []
        ours, theirs = socket.socketpair()

        def take(message: Any) -> None:
            if message["type"] == "http.response.zerocopysend":
                got.append((message["offset"], message["count"], message["more_body"]))
                assert os.sendfile(ours.fileno(), message["file"].fileno(), message["offset"], 100) == 100

        with ours, theirs:
            sent = await self.messages(assets, take)
            assert theirs.recv(200) == LARGE[:100]
        assert got == [(0, len(LARGE), False)]
        assert sent[1]["file"].closed

    async def test_ranges_are_places_in_it(self, assets: Path) -> None:
        body = b""

        def take(message: Any) -> None:
            nonlocal body
            if message["type"] == "http.response.zerocopysend":
                body += os.pread(message["file"].fileno(), message["count"], message["offset"])
            else:
                body += message.get("body", b"")

        sent = await self.messages(assets, take, range=f"bytes=1-{SMALL_BYTES},{2 * SMALL_BYTES}-")
        assert [message.get("more_body") for message in sent[1:]] == [True, True, True, True, False]
        assert len(body) == int(dict(sent[0]["headers"])[b"content-length"])

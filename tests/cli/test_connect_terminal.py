"""``portico connect`` on a terminal, as a person has it: a pseudo terminal that controls the process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import sys
from collections.abc import AsyncIterator

from tests.cli.sides import BOTH, CLEAN_ENV, COMMAND, Echo, deaf_server, portico_echo
from tests.support import GUARD_S, Waiting, serving, until

import portico
from portico.cli.connect import decorated, escaped

ON_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A pseudo terminal with a `portico connect` on it, which it controls."""

    def __init__(self, master: int, process: asyncio.subprocess.Process) -> None:
        self._master = master
        self._process = process
        self._more = asyncio.Event()
        self._over = False
        self.shown = ""
        asyncio.get_running_loop().add_reader(master, self._read)

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, *arguments: str) -> AsyncIterator[Terminal]:
        master, slave = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ON_A_TERMINAL, *COMMAND, *arguments),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=CLEAN_ENV,
        )
        os.close(slave)
        terminal = cls(master, process)
        try:
            yield terminal
        finally:
            asyncio.get_running_loop().remove_reader(master)
            os.close(master)
            if process.returncode is None:
                process.kill()
            await process.wait()

    def _read(self) -> None:
        try:
            piece = os.read(self._master, 65536)
        except OSError:  # the other side has no user any more
            piece = b""
        if not piece:
            self._over = True
            asyncio.get_running_loop().remove_reader(self._master)
        self.shown += piece.decode()
        self._more.set()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    async def until(self, words: str) -> None:
        """Wait until `words` have been shown."""
        async with asyncio.timeout(3 * GUARD_S):
            while words not in self.shown:
                assert not self._over, f"{words!r} is not in {self.shown!r}"
                self._more.clear()
                await self._more.wait()

    async def end(self) -> int:
        """Wait for the end of the process, and of what it shows; returns its status."""
        async with asyncio.timeout(3 * GUARD_S):
            while not self._over:
                self._more.clear()
                await self._more.wait()
            status = await self._process.wait()
        assert "Traceback" not in self.shown
        return status


@BOTH
async def test_typed_lines_are_sent_and_answers_shown_with_direction_time_and_type(peer: Echo) -> None:
    async with peer() as seen, Terminal.on(seen.uri) as terminal:
        await terminal.until("\r\x1b[K> ")
        assert terminal.shown.startswith(f"connected to {seen.uri}\r\neach line is sent as text; Ctrl+D")
        terminal.type("grüße\n")
        await terminal.until("text   grüße\r\n> ")
        assert re.search(r"\r\x1b\[K< \d\d:\d\d:\d\d\.\d{3} text   grüße\r\n> ", terminal.shown)
        terminal.type("\x04")  # Ctrl+D
        assert await terminal.end() == 0
        await until(lambda: seen.codes)
    assert seen.messages == ["grüße"]
    assert seen.codes == [1000]
    assert terminal.shown.endswith("\r\x1b[Kclosed: 1000 (normal closure, by us)\r\n")


async def test_ctrl_c_on_the_terminal_closes_with_1000() -> None:
    async with portico_echo() as seen, Terminal.on(seen.uri) as terminal:
        await terminal.until("> ")
        terminal.type("half a line\x03")
        assert await terminal.end() == 0
        await until(lambda: seen.codes)
    assert (seen.messages, seen.codes) == ([], [1000])


async def test_a_second_ctrl_c_ends_at_once() -> None:
    closing = Waiting()
    async with (
        await deaf_server(closing) as server,
        Terminal.on(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/") as terminal,
    ):
        await terminal.until("> ")
        terminal.type("\x03")
        await closing.reached()
        terminal.type("\x03")
        assert await terminal.end() == 130
        closing.go.set()


async def test_the_servers_close_ends_it_though_somebody_is_typing() -> None:
    there = Waiting()

    async def handler(ws: portico.WebSocket) -> None:
        await there.stay()
        await ws.close(4000, "enough")

    async with serving(handler) as server, Terminal.on(f"ws://127.0.0.1:{server.port}/") as terminal:
        await there.reached()
        terminal.type("half a li")
        await terminal.until("half a li")
        there.go.set()
        assert await terminal.end() == 1
    assert terminal.shown.endswith("closed: 4000 (application's own code, by peer): enough\r\n")


async def test_a_server_can_not_move_the_cursor_nor_forge_a_line() -> None:
    async def handler(ws: portico.WebSocket) -> None:
        await ws.send("a\x1b[2J\x1b]0;title\x07\x9b1A\rb\n< 00:00:00.000 text   forged\u202e\x7f")
        await ws.send("shown\tas it is: é 漢 \U0001f469\u200d\U0001f4bb")

    async with serving(handler) as server, Terminal.on(f"ws://127.0.0.1:{server.port}/") as terminal:
        assert await terminal.end() == 0
    assert "text   a\\x1b[2J\\x1b]0;title\\x07\\x9b1A\\rb\r\n" in terminal.shown
    assert f"\r\n{' ' * 22}< 00:00:00.000 text   forged\\u202e\\x7f\r\n" in terminal.shown
    assert "shown\tas it is: é 漢 \U0001f469\u200d\U0001f4bb\r\n" in terminal.shown
    ours = terminal.shown.replace("\r\x1b[K", "").replace("\r\n", "\n")
    assert not set(ours) & {"\x1b", "\x9b", "\x07", "\r", "\x7f", "\u202e"}


async def test_bytes_are_dumped_with_their_length_and_cut() -> None:
    async def handler(ws: portico.WebSocket) -> None:
        await ws.send(b"\x00\x1b[2J abc\xff")
        await ws.send(bytes(1256))

    async with serving(handler) as server, Terminal.on(f"ws://127.0.0.1:{server.port}/") as terminal:
        assert await terminal.end() == 0
    assert " binary 10 bytes\r\n    0000  00 1b 5b 32 4a 20 61 62 63 ff" in terminal.shown
    assert "  ..[2J abc.\r\n" in terminal.shown
    assert " binary 1,256 bytes\r\n" in terminal.shown
    assert "    00f0  00" in terminal.shown
    assert "    0100  " not in terminal.shown
    assert "    … 1,000 bytes more\r\n" in terminal.shown


# -- how it looks ------------------------------------------------------------------------------------------------------


def test_every_control_character_but_tab_is_escaped() -> None:
    codes = [*range(9), *range(10, 32), *range(127, 160), 0x2028, 0x2029, 0x202E, 0x2066, 0xFEFF]
    assert [code for code in codes if not escaped(f"a{chr(code)}b").isprintable()] == []


def test_an_empty_message_is_shown_too() -> None:
    assert decorated("", "12:00:00.000") == "< 12:00:00.000 text   "
    assert decorated(b"", "12:00:00.000") == "< 12:00:00.000 binary 0 bytes"

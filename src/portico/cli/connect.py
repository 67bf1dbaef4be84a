"""``portico connect``: a WebSocket held by hand, or one end of a pipe.

Lines from stdin go out as text messages. What comes is printed on stdout: on a terminal with its time and type, and
with nothing in it that a terminal would obey; elsewhere the payloads alone, one a line. All else is said on stderr.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import ssl
import sys
import time
import unicodedata
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, Final

import click

import portico
from portico.codes import Close
from portico.wire.uri import parse_uri

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
READ_BYTES: Final = 64 * 1024
DUMP_BYTES: Final = 256  # of a binary message on a terminal
BODY_CHARACTERS: Final = 1000  # of a refusal's body
FINE: Final = frozenset({1000, 1001, 1005})
CONTROL: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # Unicode's categories of what is obeyed, not shown
JOINERS: Final = "\u200c\u200d"  # of category Cf, but part of ordinary text and of emoji
CLEAR_LINE: Final = "\r\x1b[K"
PROMPT: Final = "> "
INTERRUPTED: Final = 130


@click.command("connect")
@click.argument("uri")
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Send this header; may be repeated.")
@click.option("--subprotocol", "subprotocols", multiple=True, metavar="NAME", help="Offer it; may be repeated.")
@click.option("--origin", metavar="ORIGIN", help="Send this Origin, as a browser would.")
@click.option("--proxy", metavar="URL", help="Go through this HTTP proxy. [default: HTTPS_PROXY, HTTP_PROXY, NO_PROXY]")
@click.option("--no-proxy", is_flag=True, help="Go directly, whatever the environment says.")
@click.option("--insecure", is_flag=True, help="Do not verify the server's certificate (wss:).")
@click.option(
    "--wait",
    "wait_s",
    default=0.0,
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="After the end of stdin, go on receiving for so long; inf: until the server closes. [default: 0]",
)
def command(
    uri: str,
    headers: tuple[str, ...],
    subprotocols: tuple[str, ...],
    origin: str | None,
    proxy: str | None,
    no_proxy: bool,
    insecure: bool,
    wait_s: float,
) -> None:
    """Open a WebSocket to URI (ws:// or wss://); send lines, print what comes.

    Ctrl+D or Ctrl+C closes with 1000; a second Ctrl+C ends at once. In a pipe the end of stdin closes, after all of it
    has been sent.

    Exit status: 0 after close code 1000, 1001 or 1005; 1 after any other; 2 where no connection was opened.
    """
    if proxy is not None and no_proxy:
        raise click.UsageError("--proxy and --no-proxy exclude each other")
    options: dict[str, Any] = {
        "headers": [_header(text) for text in headers],
        "subprotocols": subprotocols,
        "origin": origin,
        "proxy": None if no_proxy else proxy or True,
        "ssl": _unverifying() if insecure else None,
    }
    if insecure:
        if uri.partition(":")[0].lower() == "ws":
            raise click.UsageError(
                "--insecure: ws: has no certificate to verify; expected a URI that begins with wss://"
            )
        _say("warning: --insecure: the server's certificate is not verified, anybody could be at the other end")
    _fill_standard_descriptors()
    sys.exit(asyncio.run(Session(wait_s).run(uri, options)))


class Session:
    """One connection and its user: what is typed goes out, what comes is shown, and how it ended is the exit status."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._decorate = os.isatty(STDOUT)
        self._prompt = self._decorate and os.isatty(STDIN)
        self._ws: portico.WebSocket | None = None
        self._task: asyncio.Task[Any] | None = None
        self._interrupted = False
        self._incomplete = False  # something was not sent, or not printed
        self._muted = False  # nobody takes what is printed
        self._printing = asyncio.Lock()

    async def run(self, uri: str, options: dict[str, Any]) -> int:
        """Connect, converse and close; returns the exit status."""
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        try:
            ws = await portico.connect(uri, **options)
        except (OSError, portico.PorticoError) as error:
            for line in refusal(error):
                _say(line)
            return 2
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            return INTERRUPTED
        self._ws = ws
        chosen = f", subprotocol {ws.subprotocol}" if ws.subprotocol else ""
        _say(f"connected to {parse_uri(uri).shown}{chosen}")
        if self._prompt:
            _say("each line is sent as text; Ctrl+D or Ctrl+C closes, Ctrl+R shows again what you have typed")
        close = await self._converse(ws)
        _say(f"closed: {close}", clear=self._prompt)
        return 0 if close.code in FINE and not self._incomplete else 1

    def _interrupt(self) -> None:
        if self._interrupted:
            os._exit(INTERRUPTED)
        self._interrupted = True
        if self._ws is not None:
            self._ws.close(1000)
        elif self._task is not None:
            self._task.cancel()

    async def _converse(self, ws: portico.WebSocket) -> Close:
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(self._send(ws))
            await self._print()
            async for message in ws:
                await self._print(message)
            async with self._printing:  # not within a print: its thread would go on
                sending.cancel()
        await ws.close()
        return ws.closed or Close(1006)

    async def _send(self, ws: portico.WebSocket) -> None:
        number = 0
        with suppress(portico.ConnectionClosed):
            async for line in read_lines(STDIN):
                number += 1
                try:
                    text = line.decode()
                except UnicodeDecodeError:
                    self._incomplete = True
                    _say(f"line {number} is not UTF-8: not sent")
                else:
                    await ws.send(text)
                await self._print()
            await ws.ping()  # its pong is behind what the server has said to all of this by then
            await asyncio.sleep(self._wait_s)
            ws.close(1000)

    async def _print(self, message: str | bytes | None = None) -> None:
        """Show `message`, if there is one, and a prompt where somebody types."""
        if self._decorate:
            text = "" if message is None else decorated(message, _now()) + "\n"
            data = (f"{CLEAR_LINE}{text}{PROMPT}" if self._prompt else text).encode()
        elif message is None:
            return
        else:
            data = (message.encode() if isinstance(message, str) else message) + b"\n"
        async with self._printing:
            if not self._muted:
                try:
                    await asyncio.to_thread(write_all, STDOUT, data)  # whoever reads it may be slow, the loop may not
                except OSError as error:
                    self._mute(error)

    def _mute(self, error: OSError) -> None:
        self._muted = True
        if not isinstance(error, BrokenPipeError):  # in ``| head`` it is no fault
            self._incomplete = True
            _say(f"stdout: {error.strerror}")
        if self._ws is not None:
            self._ws.close(1000)


# -- what is read and written -----------------------------------------------------------------------------------------


async def read_lines(descriptor: int) -> AsyncIterator[bytes]:
    """The lines of a terminal, pipe or file, without their newlines (LF or CRLF), as they come; reads only when asked
    for more."""
    pending = bytearray()
    while piece := await _read(descriptor):
        if b"\n" not in piece:
            pending += piece
            continue
        *lines, rest = (bytes(pending) + piece).split(b"\n")
        pending = bytearray(rest)
        for line in lines:
            yield line.removesuffix(b"\r")
    if pending:
        yield bytes(pending)


async def _read(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    while True:
        ready = asyncio.Event()
        try:
            loop.add_reader(descriptor, ready.set)
        except PermissionError:  # a file is always readable: epoll has nothing to wait for
            pass
        else:
            try:
                await ready.wait()
            finally:
                loop.remove_reader(descriptor)
        try:
            return os.read(descriptor, READ_BYTES)
        except BlockingIOError:  # another process has taken it
            continue
        except OSError:  # a terminal that was hung up
            return b""


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, blocking, also where another process has made the descriptor non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])


def _say(text: str, *, clear: bool = False) -> None:
    """One line on stderr. `clear`: a prompt stands where it is to be."""
    click.echo((CLEAR_LINE if clear and os.isatty(STDERR) else "") + escaped(text), err=True)


def _fill_standard_descriptors() -> None:
    """Where stdin, stdout or stderr is closed, a socket of ours would get its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(descriptor)


# -- how it looks ------------------------------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """`text` with everything that a terminal would obey, and not show, written as an escape; tabs stay."""
    if text.isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in CONTROL and c not in JOINERS else c for c in text)


def _escape(character: str) -> str:
    return character if character == "\t" else character.encode("unicode_escape").decode("ascii")


def decorated(message: str | bytes, when: str) -> str:
    """A message as a terminal shows it: direction, time and type, then text line by line or bytes as a dump."""
    if isinstance(message, str):
        head = f"< {when} text   "
        return head + ("\n" + " " * len(head)).join(escaped(line) for line in message.split("\n"))
    return "\n".join([f"< {when} binary {_bytes(len(message))}", *dump(message)])


def dump(data: bytes) -> Iterator[str]:
    """`data` as lines of offset, hexadecimal and ASCII; cut after `DUMP_BYTES`, and that is said."""
    for at in range(0, min(len(data), DUMP_BYTES), 16):
        row = data[at : min(at + 16, DUMP_BYTES)]
        ascii_ = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"    {at:04x}  {row.hex(' '):<47}  {ascii_}"
    if len(data) > DUMP_BYTES:
        yield f"    … {_bytes(len(data) - DUMP_BYTES)} more"


def refusal(error: Exception) -> Iterator[str]:
    """Why there is no connection, line by line; where a server answered, with its answer."""
    yield f"no connection: {str(error) or type(error).__name__}"
    if isinstance(error, ssl.SSLCertVerificationError):
        yield "  --insecure connects without verifying the certificate"
    if isinstance(error, portico.HandshakeError):
        if error.status is not None:
            yield f"  status: {error.status}"
        for name, value in error.headers:
            yield f"  {name}: {_without_query(value) if name == 'location' else value}"
        body = error.body.decode("utf-8", "replace")
        for line in body[:BODY_CHARACTERS].splitlines():
            yield f"  | {line}"
        if len(body) > BODY_CHARACTERS:
            yield f"  … {len(body) - BODY_CHARACTERS} characters more"


def _without_query(location: str) -> str:
    """A place as it may be shown: what stands before an @ may be a password, a query often has a token in it."""
    before, cut, _ = location.partition("?")
    scheme, slashes, rest = before.rpartition("//")
    return scheme + slashes + rest.rpartition("@")[2] + (cut and "?…")


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count:,} bytes"


def _now() -> str:
    now = time.time()
    return time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1000):03d}"


# -- options -----------------------------------------------------------------------------------------------------------


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.UsageError(f"--header {text!r}: expected 'Name: value'")
    return name.strip(), value.strip()


def _unverifying() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context

"""Files as a response's body: ASGI's ``http.response.pathsend`` and ``http.response.zerocopysend``.

From file to socket within the kernel (os.sendfile) where there is no TLS between them; else read in a thread, piece by
piece, as the peer takes it.
"""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING, Any, Final

from portico.errors import LocalError

if TYPE_CHECKING:
    from portico.server.exchange import Exchange

PIECE_BYTES: Final = 256 * 1024
AT_ONCE: Final = 1024 * 1024  # bytes that the kernel is given in one go


async def send_file(exchange: Exchange, message: dict[str, Any], more: bool) -> bool:
    """Send what `message` names, as the next piece of the body; returns whether the response is complete.

    Raises OSError where the file can't be opened or read, or the peer has left; LocalError where it does not fit the
    Content-Length.
    """
    if message["type"] == "http.response.pathsend":
        path = message["path"]
        if not isinstance(path, str) or not os.path.isabs(path):
            raise LocalError(f"http.response.pathsend of {path!r}: expected an absolute path")
        fd = await _open(path)
        try:
            return await _send(exchange, fd, 0, os.fstat(fd).st_size, more)
        finally:
            os.close(fd)
    file = message["file"]
    fd = file if isinstance(file, int) else file.fileno()
    offset = message.get("offset")
    start = os.lseek(fd, 0, os.SEEK_CUR) if offset is None else offset
    count = message.get("count")
    size = max(0, os.fstat(fd).st_size - start) if count is None else count
    complete = await _send(exchange, fd, start, size, more)
    if offset is None:
        os.lseek(fd, start + size, os.SEEK_SET)
    return complete


async def _send_within(exchange: Exchange, fd: int, offset: int, end: int, more: bool) -> None:
    """Let the kernel send it, as fast as the peer takes it."""
    stream = exchange.stream
    stream.write(exchange.frame(end - offset, more))
    while offset < end:
        sent = stream.send_file(fd, offset, min(AT_ONCE, end - offset))
        offset += sent
        if offset == end:
            break
        if stream.blocked or stream.buffered or not stream.open:
            await exchange.wait_drained()
        elif sent:
            await asyncio.sleep(0)  # others have their turn
        else:
            raise LocalError(f"the file ended {end - offset} bytes early")


async def _open(path: str) -> int:
    """Open the file in a thread; cancelled meanwhile, nobody would close it but this."""
    # A future and no task: what ends a loop cancels all tasks, and then waits for the threads.
    opening = asyncio.get_running_loop().run_in_executor(None, os.open, path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close)
        raise


def _close(opening: asyncio.Future[int]) -> None:
    if opening.exception() is None:
        os.close(opening.result())


async def _send(exchange: Exchange, fd: int, offset: int, count: int, more: bool) -> bool:
    if not more:
        exchange.announce(count)
    if exchange.head.method == "HEAD" or not count:
        return exchange.write(b"", more)
    end = offset + count
    plain = not (exchange.stream.tls or exchange.bodiless or exchange.chunks(more))
    if plain and stat.S_ISREG(os.fstat(fd).st_mode):
        await _send_within(exchange, fd, offset, end, more)
        return exchange.write(b"", more)
    complete = False
    while offset < end:
        piece = await asyncio.to_thread(os.pread, fd, min(PIECE_BYTES, end - offset), offset)
        if not piece:
            raise LocalError(f"the file ended {end - offset} bytes early")
        offset += len(piece)
        complete = exchange.write(piece, more or offset < end)
        await exchange.wait_room()
    return complete

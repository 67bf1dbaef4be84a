"""Files of a directory over HTTP: an ASGI application. Owns the way from a request's path to an open descriptor.

What may block (finding, opening, reading) happens in a thread: a cold or remote disk must not hold up every other
connection of the event loop, and a thread costs less than a tenth of a millisecond. One visit there finds the file,
decides the whole answer and reads it, if it is small. A larger one is sent from its descriptor by the server, where
``http.response.zerocopysend`` is among the scope's extensions, and otherwise in pieces, as fast as the client takes
them. ``http.response.pathsend`` is not used: it would open a path a second time, after it was checked.
"""

from __future__ import annotations

import asyncio
import errno
import io
import logging
import mimetypes
import os
import secrets
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from typing import Any
from urllib.parse import quote

from portico.errors import LocalError
from portico.server.conditional import choose_coding, precondition, ranges
from portico.wire.headers import Headers, check_value

logger = logging.getLogger("portico.server")

SMALL_BYTES = 64 * 1024
"""What is read in one piece with the look-up, and the size of a piece of what is larger."""

CODINGS = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}
"""Content codings of files that lie beside a file, best first, and how those files' names end."""

CacheControl = str | Callable[[str], str | None] | None
Lines = list[tuple[bytes, bytes]]

_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM}
_NOT_THERE |= {errno.ENXIO, errno.ENODEV, errno.EINVAL, errno.EILSEQ}
_DIRECTORY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a FIFO opens at once, and is then refused

# Not the machine's own table: the same file has the same type on every machine.
_TYPES = mimetypes.MimeTypes()
for _type, _endings in {
    "text/javascript": (".js", ".mjs"),
    "text/markdown": (".md",),
    "application/manifest+json": (".webmanifest",),
    "application/json": (".map",),
    "application/wasm": (".wasm",),
    "application/yaml": (".yaml", ".yml"),
    "image/avif": (".avif",),
    "image/webp": (".webp",),
    "image/x-icon": (".ico",),
    "font/woff": (".woff",),
    "font/woff2": (".woff2",),
    "font/ttf": (".ttf",),
    "font/otf": (".otf",),
}.items():
    for _ending in _endings:
        _TYPES.add_type(_type, _ending)
_PACKED = {"gzip": "application/gzip", "br": "application/x-brotli", "bzip2": "application/x-bzip2"}


class _Answer:
    """A response, decided: `pieces` are bytes, and (start, end) of `file`, which it owns."""

    __slots__ = ("_read", "file", "lines", "pieces", "status")

    def __init__(
        self, status: int, lines: Lines, pieces: Sequence[bytes | tuple[int, int]] = (), file: io.FileIO | None = None
    ) -> None:
        self.status = status
        self.lines = lines
        self.pieces = pieces
        self.file = file
        self._read: asyncio.Future[bytes] | None = None

    def load(self) -> None:
        """Read what is small."""
        if self.file is not None and sum(_size(piece) for piece in self.pieces) <= SMALL_BYTES:
            whole = [_read(self.file, *piece) if isinstance(piece, tuple) else piece for piece in self.pieces]
            self.pieces = [b"".join(whole)]
            self.close()

    async def read(self, file: io.FileIO, start: int, end: int) -> bytes:
        """These bytes of `file`, ours, read in a thread. It stays open for as long, whoever is cancelled."""
        self._read = asyncio.get_running_loop().run_in_executor(None, _read, file, start, end)
        return await asyncio.shield(self._read)

    def close(self, _: object = None) -> None:
        """Let the file go."""
        if self._read is not None and not self._read.done():
            self._read.add_done_callback(self.close)
        elif self.file is not None:
            if self._read is not None and not self._read.cancelled():
                self._read.exception()  # a failure that nobody waits for any more
            self.file.close()
            self.file = None


def _size(piece: bytes | tuple[int, int]) -> int:
    return piece[1] - piece[0] if isinstance(piece, tuple) else len(piece)


def _read(file: io.FileIO, start: int, end: int) -> bytes:
    pieces = []
    while start < end:
        piece = os.pread(file.fileno(), end - start, start)
        if not piece:
            raise EOFError("a file has become shorter while it was sent")
        pieces.append(piece)
        start += len(piece)
    return b"".join(pieces)


class StaticFiles:
    """The ASGI application behind `portico.App.static`, which documents its options."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        html: bool = False,
        cache_control: CacheControl = None,
        content_types: Mapping[str, str] | None = None,
        precompressed: bool = True,
        follow_symlinks: bool = False,
        hidden: bool = False,
    ) -> None:
        self._root = os.path.abspath(os.fspath(directory))
        if not os.path.isdir(self._root):
            raise LocalError(f"static files: expected a directory, but {self._root!r} is none")
        if cache_control is not None and not isinstance(cache_control, str) and not callable(cache_control):
            raise LocalError(f"cache_control={cache_control!r}: expected a header value or a function of a path")
        if isinstance(cache_control, str):
            check_value(cache_control)
        self._types = {}
        for ending, kind in (content_types or {}).items():
            if not ending.startswith("."):
                raise LocalError(f"content_types: {ending!r}: expected an ending like '.glb'")
            check_value(kind)
            self._types[ending.lower()] = kind
        self._html = html
        self._cache_control = cache_control
        self._precompressed = precompressed
        self._follow = follow_symlinks
        self._hidden = hidden

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request; a WebSocket is refused, a lifespan is none of ours."""
        if scope["type"] == "http":
            await self._http(scope, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})

    async def _http(self, scope: Any, send: Any) -> None:
        # What is opened while we are cancelled is closed all the same.
        deciding = asyncio.get_running_loop().run_in_executor(None, self._decide, scope)
        try:
            answer = await asyncio.shield(deciding)
        except asyncio.CancelledError:
            deciding.add_done_callback(_let_go)
            raise
        try:
            await _send(answer, "http.response.zerocopysend" in (scope.get("extensions") or {}), send)
        except ConnectionError:
            pass  # the client has left: that is no failure
        finally:
            answer.close()

    # -- in a thread ---------------------------------------------------------------------------------------------

    def _decide(self, scope: Any) -> _Answer:
        method = scope["method"]
        if method not in ("GET", "HEAD"):
            return _plain(405, "Expected GET or HEAD.\n", (b"allow", b"GET, HEAD"))
        headers = Headers(scope["headers"])
        path, root = scope["path"], scope.get("root_path") or ""
        if path == root or path.startswith(root + "/"):
            path = path[len(root) :]
        try:
            answer = self._answer(path, scope, headers)
        except (FileNotFoundError, ValueError):  # ValueError: a name that the file system can't have
            answer = self._not_found()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                logger.warning("static files: no file can be opened: %s", error.strerror)
                return _plain(503, "Too busy; try again.\n", (b"retry-after", b"1"))
            if error.errno not in _NOT_THERE:
                raise
            if error.errno in (errno.EACCES, errno.EPERM):
                logger.info("static files: %r: %s", path[:200], error.strerror)
            answer = self._not_found()
        if method == "HEAD":
            answer.pieces = ()
        answer.load()
        return answer

    def _answer(self, path: str, scope: Any, headers: Headers) -> _Answer:
        names = path.split("/")[1:]
        is_directory = bool(names) and not names[-1]
        if is_directory:
            names.pop()
        for name in names:
            if self._refused(name):
                raise FileNotFoundError(errno.ENOENT, "not a name that is served")
        if is_directory:
            if not self._html:
                raise FileNotFoundError(errno.ENOENT, "a directory")
            names.append("index.html")
        try:
            return self._file(names, headers, ranged=scope["method"] == "GET")
        except IsADirectoryError:
            if not self._html or is_directory:
                raise
        self._open([*names, "index.html"]).close()
        # Relative and with a dot first: a name can turn it neither into a host ("//host/") nor into a scheme.
        target = "./" + quote(scope["path"].rpartition("/")[2]) + "/"
        query = scope.get("query_string", b"")
        return _plain(307, "", (b"location", target.encode() + (b"?" + query if query else b"")))

    def _refused(self, name: str) -> bool:
        if name in ("", ".", "..") or "\\" in name or "\0" in name:
            return True
        return name.startswith(".") and not self._hidden and name != ".well-known"

    def _not_found(self) -> _Answer:
        if self._html:
            try:
                file = self._open(["404.html"])
            except OSError:
                pass
            else:
                size = os.fstat(file.fileno()).st_size
                return _Answer(404, self._type("404.html") + _length(size), [(0, size)], file)
        return _plain(404, "Not found.\n")

    def _file(self, names: list[str], headers: Headers, *, ranged: bool) -> _Answer:
        """The answer that has the file `names` for its representation (RFC 9110 §13.2.2)."""
        file, coding, codings = self._select(names, headers.get_all("accept-encoding"))
        try:
            info = os.fstat(file.fileno())
            seconds, size = int(info.st_mtime), info.st_size
            etag = f'"{info.st_mtime_ns:x}-{size:x}{"-" + coding if coding else ""}"'
            # It may still change within the second that the date names, and then two versions would share it.
            dated = seconds if seconds + 1 <= time.time() else None
            lines: Lines = [(b"etag", etag.encode()), *self._caching("/".join(names))]
            if codings:
                lines.append((b"vary", b"accept-encoding"))
            status = precondition(headers, etag, seconds)
            if status is not None:
                file.close()
                return _Answer(304, lines) if status == 304 else _plain(412, "It has changed.\n", *lines)
            lines += [(b"accept-ranges", b"bytes"), (b"x-content-type-options", b"nosniff")]
            if dated is not None:
                lines.append((b"last-modified", formatdate(dated, usegmt=True).encode()))
            if coding:
                lines.append((b"content-encoding", coding.encode()))
            wanted = ranges(headers, size, etag, dated) if ranged else None
            kind = self._type(names[-1])
            if wanted is None:
                return _Answer(200, kind + _length(size) + lines, [(0, size)], file)
            if not wanted:
                file.close()
                return _plain(416, "", (b"content-range", b"bytes */%d" % size), (b"accept-ranges", b"bytes"))
            return _partial(file, size, wanted, kind, lines)
        except BaseException:
            file.close()
            raise

    def _select(self, names: list[str], accept: list[str]) -> tuple[io.FileIO, str | None, list[str]]:
        """The file to send for `names`, its coding, and the codings that lie beside it."""
        file = self._open(names)
        codings: list[str] = []
        if self._precompressed:
            plain = os.path.join(self._root, *names)
            codings = [coding for coding, ending in CODINGS.items() if os.path.isfile(plain + ending)]
        coding = choose_coding(accept, codings)
        if coding is None:
            return file, None, codings
        try:
            packed = self._open([*names[:-1], names[-1] + CODINGS[coding]])
        except OSError:  # gone meanwhile, or a link to somewhere else
            return file, None, codings
        file.close()
        return packed, coding, codings

    def _open(self, names: list[str]) -> io.FileIO:
        """The regular file `names`, open; raises OSError for anything else."""
        if self._follow:
            descriptor = os.open(os.path.join(self._root, *names), _FILE)
        else:
            descriptor = _open_beneath(self._root, names)
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, "a directory")
            if not stat.S_ISREG(mode):
                raise FileNotFoundError(errno.ENOENT, "not a regular file")
            return io.FileIO(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def _caching(self, path: str) -> Lines:
        value = self._cache_control(path) if callable(self._cache_control) else self._cache_control
        return [(b"cache-control", check_value(value))] if value else []

    def _type(self, name: str) -> Lines:
        kind = self._types.get(os.path.splitext(name)[1].lower())
        if kind is None:
            kind, packed = _TYPES.guess_type("file:" + name)
            if packed is not None:  # the packed file itself was asked for, not what is in it
                kind = _PACKED.get(packed, "application/octet-stream")
            kind = kind or "application/octet-stream"
            if kind.startswith("text/"):
                kind += "; charset=utf-8"
        return [(b"content-type", kind.encode("latin-1"))]


def _open_beneath(root: str, names: list[str]) -> int:
    """A descriptor of `names` under `root`; links count only where they stay beneath it.

    The path is resolved first, and then opened name by name without following a link, so that nobody who exchanges
    one in between gets another file.
    """
    root = os.path.realpath(root)
    real = os.path.realpath(os.path.join(root, *names), strict=True)
    if os.path.commonpath([root, real]) != root:
        raise FileNotFoundError(errno.ENOENT, "a link that leads out of the directory")
    *directories, name = os.path.relpath(real, root).split("/")
    descriptor = os.open(root, _DIRECTORY)
    try:
        for directory in directories:
            inner = os.open(directory, _DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        return os.open(name, _FILE | os.O_NOFOLLOW, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _plain(status: int, text: str, *lines: tuple[bytes, bytes]) -> _Answer:
    body = text.encode()
    kind = [(b"content-type", b"text/plain; charset=utf-8")] if body else []
    return _Answer(status, [*kind, *_length(len(body)), *lines], [body])


def _length(size: int) -> Lines:
    return [(b"content-length", b"%d" % size)]


def _partial(file: io.FileIO, size: int, wanted: list[tuple[int, int]], kind: Lines, lines: Lines) -> _Answer:
    """206 with one part, or with several as multipart/byteranges (RFC 9110 §15.3.7)."""
    if len(wanted) == 1:
        start, end = wanted[0]
        place = [(b"content-range", b"bytes %d-%d/%d" % (start, end - 1, size))]
        return _Answer(206, kind + _length(end - start) + place + lines, wanted, file)
    boundary = secrets.token_hex(16).encode()
    pieces: list[bytes | tuple[int, int]] = []
    for start, end in wanted:
        head = b"--%b\r\ncontent-type: %b\r\ncontent-range: bytes %d-%d/%d\r\n\r\n"
        first = b"\r\n" if pieces else b""
        pieces += [first + head % (boundary, kind[0][1], start, end - 1, size), (start, end)]
    pieces.append(b"\r\n--%b--\r\n" % boundary)
    kind = [(b"content-type", b"multipart/byteranges; boundary=" + boundary)]
    return _Answer(206, kind + _length(sum(map(_size, pieces))) + lines, pieces, file)


# -- on the event loop -----------------------------------------------------------------------------------------------


def _let_go(deciding: asyncio.Future[_Answer]) -> None:
    if not deciding.cancelled() and deciding.exception() is None:
        deciding.result().close()


async def _send(answer: _Answer, zero_copy: bool, send: Any) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.lines})
    pieces = answer.pieces or [b""]
    for number, piece in enumerate(pieces, 1):
        more = number < len(pieces)
        if isinstance(piece, bytes):
            await send({"type": "http.response.body", "body": piece, "more_body": more})
            continue
        start, end = piece
        file = answer.file
        if file is None:
            raise RuntimeError("the file of an answer was closed before it was sent")
        if zero_copy:
            message = {"type": "http.response.zerocopysend", "file": file, "offset": start, "count": end - start}
            await send({**message, "more_body": more})
            continue
        while start < end:
            body = await answer.read(file, start, min(start + SMALL_BYTES, end))
            start += len(body)
            await send({"type": "http.response.body", "body": body, "more_body": more or start < end})

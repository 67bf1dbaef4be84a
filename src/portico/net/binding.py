"""Where to listen: TCP addresses, Unix sockets, sockets that were bound or inherited. All of them, or none.

Owns the files of the Unix sockets that it made: they are removed at the end, unless they are another's by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
import stat
from collections.abc import Sequence
from typing import Any, Final

from portico.errors import LocalError
from portico.net import activation

BACKLOG: Final = 4096  # the kernel cuts it to its own limit, net.core.somaxconn
ABSENT: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})  # as ::1 where the machine has no IPv6
TRIES: Final = 5  # for a port that is free on every address
HOST: Final = "127.0.0.1"
PORT: Final = 8000

_TCP = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^\[\]:/]*)):(?P<port>[0-9]+)")
_FD = re.compile(r"fd://([0-9]{1,9})")

Path = str | os.PathLike[str]
Hosts = str | Sequence[str] | None
Sockets = socket.socket | Sequence[socket.socket] | None


class Places:
    """The places of one server: checked when made, had by `open`, given up by `release`."""

    def __init__(
        self,
        host: Hosts = HOST,
        port: int = PORT,
        *,
        bind: str | Sequence[str] | None = None,
        uds: Path | None = None,
        uds_mode: int | None = None,
        sock: Sockets = None,
    ) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
            raise LocalError(f"port={port!r}: expected a number from 0 to 65535")
        if uds_mode is not None and (not isinstance(uds_mode, int) or not 0 <= uds_mode <= 0o777):
            raise LocalError(f"uds_mode={uds_mode!r}: expected the bits of a mode, as 0o660")
        given = [name for name, value in (("bind", bind), ("uds", uds), ("sock", sock)) if value is not None]
        if len(given) > 1:
            raise LocalError(f"{' and '.join(f'{name}=' for name in given)} exclude each other")
        if bind is not None and (host != HOST or port != PORT):
            raise LocalError("bind= and host=, port= exclude each other: name every address in bind=")
        self._hosts = _hosts(host)
        self._port = port
        self._mode = uds_mode
        self._uds = None if uds is None else os.fspath(uds)
        self._sockets: list[socket.socket] = [] if sock is None else _each(sock)
        self._bind: list[str] | None = None if bind is None else _each(bind)
        if self._bind == []:
            raise LocalError("bind=[]: expected at least one address")
        for entry in self._bind or ():
            _check(entry)
        for each in self._sockets:
            if not isinstance(each, socket.socket):
                raise LocalError(f"sock={each!r}: expected a socket, or several")
        if uds_mode is not None and uds is None and not any(each.startswith("unix:") for each in self._bind or ()):
            raise LocalError("uds_mode= without a Unix socket: expected uds= or a unix: address in bind=")
        self._files: list[tuple[str, int, int]] = []  # path, device and inode of each socket file that we made

    async def open(self) -> list[socket.socket]:
        """Listening, non-blocking sockets for every place. Raises LocalError where one can't be had: then there are
        none, and no file is left."""
        opened: list[socket.socket] = []
        try:
            if self._bind is not None:
                for entry in self._bind:
                    opened += await self._open(entry)
            elif self._sockets:
                opened += self._sockets
                for sock in self._sockets:
                    adopt(sock)
            elif self._uds is not None:
                opened.append(self._unix(self._uds, "uds="))
            else:
                opened += await bind_tcp(self._hosts, self._port)
        except BaseException:
            for each in opened:
                each.close()
            self.release()
            raise
        return opened

    async def _open(self, entry: str) -> list[socket.socket]:
        """What one member of ``bind`` stands for."""
        if entry.startswith("unix:"):
            return [self._unix(entry[5:], "unix:")]
        if entry == "systemd" or entry.startswith("systemd:"):
            sockets = activation.take(entry[8:] or None)
        elif match := _FD.fullmatch(entry):
            sockets = [activation.inherited(int(match[1]))]
        else:
            host, port = _tcp(entry)
            return await bind_tcp([host], port)
        try:
            for sock in sockets:
                adopt(sock)
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        return sockets

    def _unix(self, path: str, option: str) -> socket.socket:
        sock = bind_unix(path, mode=self._mode, option=option)
        made = os.stat(path)
        self._files.append((os.path.abspath(path), made.st_dev, made.st_ino))
        return sock

    def release(self) -> None:
        """Remove the socket files that are still ours: another server may have put its own there."""
        files, self._files = self._files, []
        for path, device, inode in files:
            with contextlib.suppress(OSError):
                found = os.stat(path)
                if (found.st_dev, found.st_ino) == (device, inode):
                    os.unlink(path)


def _each(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _hosts(host: Hosts) -> list[str | None]:
    hosts: list[str | None] = _each(host)
    if not hosts:
        raise LocalError("host=[]: expected at least one name or address, or None for every one of the machine's")
    for each in hosts:
        if each is not None and not isinstance(each, str):
            raise LocalError(f"host={each!r}: expected a name, an address, None or a list of these")
    return hosts


def _check(entry: object) -> None:
    """Raise LocalError where `entry` is nothing that ``bind`` takes."""
    if isinstance(entry, str):
        if entry == "systemd" or re.fullmatch(r"(?:unix|systemd):.+", entry) or _FD.fullmatch(entry):
            return
        match = _TCP.fullmatch(entry)
        if match is not None and int(match["port"]) <= 65535:
            return
    raise LocalError(
        f"bind={entry!r}: expected HOST:PORT (an IPv6 address in brackets, nothing for every address), unix:PATH, "
        "fd://NUMBER, systemd or systemd:NAME"
    )


def _tcp(entry: str) -> tuple[str | None, int]:
    match = _TCP.fullmatch(entry)
    if match is None:
        raise LocalError(f"bind={entry!r}: expected HOST:PORT")
    host = match["v6"] or match["host"]
    return (None if host in ("", "*") else host), int(match["port"])


async def bind(
    host: str | None,
    port: int,
    *,
    uds: Path | None = None,
    sock: socket.socket | None = None,
    backlog: int = BACKLOG,
) -> list[socket.socket]:
    """Listening, non-blocking sockets: on every address of `host` (None: on all), at the path `uds`, or `sock` itself.

    Raises LocalError where an address can't be had; nothing is left open then.
    """
    if sock is not None:
        adopt(sock, backlog)
        return [sock]
    if uds is not None:
        return [bind_unix(os.fspath(uds), backlog)]
    return await bind_tcp([host], port, backlog)


def adopt(sock: socket.socket, backlog: int = BACKLOG) -> None:
    """Listen on a socket that somebody else has bound. Raises LocalError where it is not of the kind."""
    if sock.type != socket.SOCK_STREAM:
        raise LocalError(f"sock={sock!r}: expected a stream socket")
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
    try:
        sock.listen(backlog)
    except OSError as error:
        raise LocalError(
            f"sock={sock!r}: expected a bound socket, not a connected one (systemd: Accept=no): {error.strerror}"
        ) from error


async def bind_tcp(hosts: Sequence[str | None], port: int, backlog: int = BACKLOG) -> list[socket.socket]:
    """On every address of every one of `hosts`, at one port. Raises LocalError."""
    if not 0 <= port <= 65535:  # getaddrinfo would take it modulo 65536
        raise LocalError(f"port={port!r}: expected a number from 0 to 65535")
    loop = asyncio.get_running_loop()
    found: list[tuple[str | None, list[Any]]] = []
    for host in hosts:
        try:
            infos = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise LocalError(f"host={host!r}, port={port}: {error.strerror}") from error
        found.append((host, list(dict.fromkeys(infos))))
    tries = 1 if port else TRIES
    while True:
        tries -= 1
        bound: dict[Any, socket.socket] = {}
        try:
            for host, infos in found:
                _bind_host(host, port, infos, bound, backlog)
        except BaseException as error:
            for each in bound.values():
                each.close()
            cause = error.__cause__
            taken = isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
            if not (taken and tries and bound):  # the port that the first address got is taken at another
                raise
        else:
            return list(bound.values())


def _bind_host(host: str | None, port: int, infos: list[Any], bound: dict[Any, socket.socket], backlog: int) -> None:
    """Add the sockets for one host's addresses to `bound`; one of them at least has to be had."""
    failure: OSError | None = None
    had = False
    for family, kind, proto, _, address in infos:
        if address in bound:  # as of another host
            had = True
            continue
        place = address
        if bound and port == 0:  # every address gets the port that the first one got
            first = next(iter(bound.values()))
            place = (address[0], first.getsockname()[1], *address[2:])
        try:
            bound[address] = _bind_tcp(family, kind, proto, place, backlog)
            had = True
        except OSError as error:
            failure = error
            if error.errno not in ABSENT:
                break
    if failure is not None and not (had and failure.errno in ABSENT):
        raise LocalError(f"cannot listen on {host or '*'} port {port}: {failure.strerror}") from failure


def _bind_tcp(family: int, kind: int, proto: int, address: Any, backlog: int) -> socket.socket:
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def bind_unix(path: str, backlog: int = BACKLOG, *, mode: int | None = None, option: str = "uds=") -> socket.socket:
    """Listen at `path`; a socket file that nobody listens on any more is replaced. `mode`: the file's, None for what
    the umask leaves."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise LocalError(f"{option}{path!r}: expected a socket or nothing there, found another kind of file")
            if _listened(path):
                raise LocalError(f"{option}{path!r}: another process listens there")
            os.unlink(path)
        sock.bind(path)
        if mode is not None:
            os.chmod(path, mode)  # before it listens: until then nobody gets in
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise LocalError(f"{option}{path!r}: {error.strerror or error}") from error
    except LocalError:
        sock.close()
        raise
    return sock


def _listened(path: str) -> bool:
    """Whether somebody listens on the socket file at `path`."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a full backlog would make it wait
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            pass
    return True

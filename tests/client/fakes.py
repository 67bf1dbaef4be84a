"""What the client's tests talk to: servers that do exactly what a test says, and certificates."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from tests.support import GUARD_S, Logged, descriptors, until

from portico.wire.handshake import accept_key

RESET = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: close() sends RST


@contextlib.asynccontextmanager
async def nothing_left_behind() -> AsyncIterator[None]:
    """No task, no descriptor (the reactor's own among them), no logged warning may outlive what is done here."""
    before = descriptors()
    tasks = asyncio.all_tasks()
    with Logged.all_expected():
        yield
        here = asyncio.current_task()
        await until(lambda: asyncio.all_tasks() - tasks <= {here})
        await until(lambda: descriptors().items() <= before.items())


class Visit:
    """One connection to a `Fake`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.request = b""

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> bytes:
        """The next request's head."""
        self.request = await self.reader.readuntil(b"\r\n\r\n")
        return self.request

    def field(self, name: str) -> str | None:
        """The value of a field of that request; None where it has none."""
        for line in self.request.decode("latin-1").split("\r\n")[1:]:
            each, _, value = line.partition(":")
            if each.lower() == name.lower():
                return value.strip()
        return None

    async def answer(self, status: str, *lines: str, body: bytes = b"") -> None:
        """Answer the next request with a status ("401 Unauthorized") and these header lines."""
        await self.head()
        head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}"))
        self.send(head.encode("latin-1") + b"\r\n" + body)

    async def switch(self, tail: bytes = b"") -> None:
        """Accept the next request; `tail` follows the head at once."""
        await self.head()
        self.send(switching(self.field("sec-websocket-key") or "") + tail)

    async def closed(self) -> None:
        """Accept the next request, close with 1000 at once, and wait for the answer to that (RFC 6455 §7.1.2)."""
        await self.switch(b"\x88\x02\x03\xe8")
        await self.reader.readexactly(8)

    async def gone(self) -> None:
        """Wait until the client has ended the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(4096):
                pass

    def reset(self) -> None:
        """End TCP with RST."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.writer.transport.abort()


def switching(key: str, *more: str) -> bytes:
    """The head that accepts a request with `key`, and `more` lines."""
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    return "\r\n".join([*lines, f"Sec-WebSocket-Accept: {accept_key(key)}", *more, "", ""]).encode("latin-1")


Script = Callable[[Visit], Awaitable[object]]


class Fake:
    """A listening socket whose every connection runs `script`; the connection ends when that returns."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._visits: set[asyncio.Task[None]] = set()
        self._failures: list[Exception] = []
        self.port = 0
        self.count = 0
        self.requests: list[bytes] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls,
        script: Script,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        uds: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> AsyncIterator[Fake]:
        """A fake on a free port or a Unix socket, for at most a minute; what its script raises fails the test."""
        fake = cls(script)
        async with asyncio.timeout(2 * GUARD_S):
            if uds is not None:
                server = await asyncio.start_unix_server(fake._visited, uds)
            else:
                server = await asyncio.start_server(fake._visited, host, port, ssl=tls, backlog=1024)
                fake.port = server.sockets[0].getsockname()[1]
            try:
                yield fake
            finally:
                server.close()
                for task in fake._visits:
                    task.cancel()
                if fake._visits:
                    await asyncio.wait(fake._visits)
        if fake._failures:
            raise fake._failures[0]

    def _visited(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.count += 1
        task = asyncio.create_task(self._visit(Visit(reader, writer)))
        self._visits.add(task)
        task.add_done_callback(self._visits.discard)

    async def _visit(self, visit: Visit) -> None:
        try:
            await self._script(visit)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client was sooner
        except Exception as error:
            self._failures.append(error)
        finally:
            if visit.request:
                self.requests.append(visit.request)
            visit.writer.close()
            with contextlib.suppress(OSError):
                await visit.writer.wait_closed()


def silent_listener(host: str = "127.0.0.1", port: int = 0) -> tuple[socket.socket, list[socket.socket]]:
    """A listener that takes no more connections, so that SYNs to it are dropped: the listener, and what fills it."""
    listener = socket.socket()
    listener.bind((host, port))
    listener.listen(0)
    fill = []
    for _ in range(2):
        sock = socket.socket()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(listener.getsockname())
        fill.append(sock)
    return listener, fill


Place = tuple[int, str, int]  # family, address and port


def resolving(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], list[Place]]) -> None:
    """The system's resolver asks `answer` for the names that end in ``.example``, in the thread where it is called."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
        if not isinstance(host, str) or not host.endswith(".example") or flags & socket.AI_NUMERICHOST:
            return real(host, port, family, type, proto, flags)
        return [
            (family, socket.SOCK_STREAM, 6, "", (where, port) if family == socket.AF_INET else (where, port, 0, 0))
            for family, where, port in answer(host)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


class HangingNames:
    """A resolver that says nothing of names in ``.example`` before `go`; ``asked``: the name of each look-up."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: list[str] = []

    @classmethod
    @contextlib.contextmanager
    def running(cls, monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingNames]:
        names = cls()
        with monkeypatch.context() as patch:
            resolving(patch, names._answer)
            try:
                yield names
            finally:
                names.go.set()

    def _answer(self, host: str) -> list[Place]:
        self.asked.append(host)
        assert self.go.wait(2 * GUARD_S)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


CONFIG = """
[ca]
default_ca = ours
[ours]
database = {directory}/index
new_certs_dir = {directory}
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
copy_extensions = copy
x509_extensions = leaf
certificate = {directory}/authority.crt
private_key = {directory}/authority.key
[any]
commonName = supplied
[leaf]
basicConstraints = CA:FALSE
keyUsage = digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class Certificates:
    """An authority of ours and what it has signed, as files with a key and its certificate."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        (directory / "index").touch()
        (directory / "config").write_text(CONFIG.format(directory=directory))
        self._self_signed("authority", "Portico's test authority")
        self.authority = directory / "authority.crt"

    def _self_signed(self, name: str, host: str) -> pathlib.Path:
        return self._make(name, ["req", "-x509", *self._key(name, host)], [])

    def _key(self, name: str, host: str) -> list[str]:
        kind = "IP" if host[0].isdigit() else "DNS"
        subject = ["-subj", f"/CN={host}"]
        if name == "authority":
            subject += ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]  # what VERIFY_X509_STRICT wants
        else:
            subject += ["-addext", f"subjectAltName={kind}:{host}"]
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        return [*key, *subject, "-keyout", str(self._directory / f"{name}.key")]

    def _make(self, name: str, request: list[str], signing: list[str]) -> pathlib.Path:
        certificate = self._directory / f"{name}.crt"
        both = self._directory / f"{name}.pem"
        if not both.exists():
            asked = self._directory / f"{name}.csr" if signing else certificate
            _openssl(*request, "-out", str(asked))
            if signing:
                _openssl(*signing, "-in", str(asked), "-out", str(certificate))
            both.write_text((self._directory / f"{name}.key").read_text() + certificate.read_text())
        return both

    def signed(self, host: str = "localhost", *, expired: bool = False) -> pathlib.Path:
        """One for `host`, signed by the authority."""
        name = f"{host}-expired" if expired else host
        start, end = ("20200101000000Z", "20200102000000Z") if expired else ("20200101000000Z", "21200101000000Z")
        signing = ["ca", "-batch", "-notext", "-config", str(self._directory / "config")]
        request = ["req", "-new", *self._key(name, host)]
        return self._make(name, request, [*signing, "-startdate", start, "-enddate", end])

    def self_signed(self, host: str = "localhost") -> pathlib.Path:
        """One for `host` that nobody vouches for."""
        return self._self_signed(f"{host}-alone", host)

    def server(self, file: pathlib.Path) -> ssl.SSLContext:
        """A server's context with that certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
        return context

    def client(self) -> ssl.SSLContext:
        """A client's context that trusts the authority alone."""
        return ssl.create_default_context(cafile=str(self.authority))


def _openssl(*arguments: str) -> None:
    made = subprocess.run(["openssl", *arguments], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr

"""Certificates from files: which one a client gets by the name that it asks for, and loading them again.

Each loading makes new contexts, all of them or none. Connections keep what they began with; new ones get the new.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from typing import Any, Final

from portico.errors import LocalError

logger = logging.getLogger("portico.net")

CHECK_S: Final = 2.0  # between two looks at the files

Path = str | os.PathLike[str]
Password = str | bytes | Callable[[], str | bytes] | None


class Certificates:
    """TLS for a server from PEM files, which are loaded again when they change.

    ::

        certificates = portico.Certificates("example.org.pem", "example.org.key")
        certificates.add("example.net.pem", "example.net.key")  # for clients that ask for one of its names (SNI)
        portico.serve(app, ssl=certificates)

    - `cert`: a certificate with its chain; `key`: its private key, None where that is in the same file. Clients that
      ask for no name, or for one that no certificate has, get this one.
    - `password`: of an encrypted key; text or a function.
    - `client_ca`: a file of authorities; then every client has to show a certificate that one of them signed.
    - `minimum_version` (TLS 1.2). ALPN offers ``http/1.1``.
    - `check_s` (2): seconds between two looks at the files; None: they are loaded again by `reload` alone. Files that
      have changed are loaded once two looks find them the same, so that one half of a pair is not taken for a change.

    Raises LocalError for files that can't be used.
    """

    def __init__(
        self,
        cert: Path,
        key: Path | None = None,
        *,
        password: Password = None,
        client_ca: Path | None = None,
        minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
        check_s: float | None = CHECK_S,
    ) -> None:
        if check_s is not None and not (isinstance(check_s, (int, float)) and 0.001 <= check_s <= 86400):
            raise LocalError(f"check_s={check_s!r}: expected seconds from 0.001 to 86400, or None")
        self.check_s = check_s
        self._client_ca = None if client_ca is None else os.fspath(client_ca)
        self._minimum = minimum_version
        self._pairs: list[tuple[str, str | None, Password]] = [_pair(cert, key, password)]
        self._seen = self._loaded_state = self._state()
        self.context: ssl.SSLContext = self._load()  # for connections to come

    def add(self, cert: Path, key: Path | None = None, *, password: Password = None) -> None:
        """One more certificate, for clients that ask for one of the names in it. Of two for one name the first counts.

        Raises LocalError for files that can't be used, and for a certificate without names (subjectAltName).
        """
        self._pairs.append(_pair(cert, key, password))
        try:
            state = self._state()
            self.context = self._load()
        except BaseException:
            self._pairs.pop()
            raise
        self._seen = self._loaded_state = state

    def reload(self) -> bool:
        """Load the files again; False where they can't be used, which is logged: the ones before stay."""
        self._seen = self._loaded_state = self._state()
        try:
            self.context = self._load()
        except LocalError as error:
            logger.error("certificates not reloaded, the ones before stay: %s", error)
            return False
        logger.info("certificates reloaded")
        return True

    def check(self) -> bool:
        """Look whether the files have changed, and load them if so; returns whether there is a new `context`."""
        state = self._state()
        settled = state == self._seen
        self._seen = state
        return settled and state != self._loaded_state and self.reload()

    def watch(self) -> Watch:
        """Look at the files from now on, in the running loop, until the `Watch` is cancelled."""
        return Watch(self)

    def _state(self) -> list[Any]:
        """What changes when a file does."""
        files = [file for cert, key, _ in self._pairs for file in (cert, key) if file is not None]
        if self._client_ca is not None:
            files.append(self._client_ca)
        state: list[Any] = []
        for file in files:
            try:
                found = os.stat(file)
            except OSError as error:
                state.append(error.errno)
            else:
                state.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
        return state

    def _load(self) -> ssl.SSLContext:
        """A new context for the first certificate, that hands over to those of the others."""
        first: ssl.SSLContext | None = None
        exact: dict[str, ssl.SSLContext] = {}
        for cert, key, password in self._pairs:
            context = self._make(cert, key, password)
            names = _names(cert)
            if first is None:
                first = context
            elif not names:
                raise LocalError(f"{cert}: expected a certificate with names (subjectAltName), by which it is chosen")
            for name in names:
                exact.setdefault(name, context)
        if first is None:
            raise LocalError("no certificate")
        if len(self._pairs) > 1:
            first.sni_callback = _chooser(exact)
        return first

    def _make(self, cert: str, key: str | None, password: Password) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self._minimum
        context.set_alpn_protocols(["http/1.1"])
        shown = cert if key is None else f"{cert}, {key}"
        try:
            context.load_cert_chain(cert, key, password or _no_password)
            if self._client_ca is not None:
                shown = self._client_ca
                context.load_verify_locations(shown)
                context.verify_mode = ssl.CERT_REQUIRED
        except ssl.SSLError as error:
            raise LocalError(f"{shown}: expected a certificate and its key in PEM: {_reason(error)}") from None
        except OSError as error:
            raise LocalError(f"{shown}: {error.strerror or error}") from None
        return context


class Watch:
    """Looks whether files have changed, every ``check_s`` seconds."""

    __slots__ = ("_certificates", "_handle", "_loop")

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._wait()

    def _wait(self) -> None:
        if self._certificates.check_s is not None:
            self._handle = self._loop.call_later(self._certificates.check_s, self._look)

    def _look(self) -> None:
        try:
            self._certificates.check()
        finally:
            self._wait()

    def cancel(self) -> None:
        """Look no more."""
        if self._handle is not None:
            self._handle.cancel()


def _pair(cert: Path, key: Path | None, password: Password) -> tuple[str, str | None, Password]:
    return os.fspath(cert), None if key is None else os.fspath(key), password


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal, and wait.
    raise LocalError("the private key is encrypted: expected password=")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def _chooser(exact: dict[str, ssl.SSLContext]) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]:
    """What OpenSSL asks when a client names a host (RFC 6066 §3): by the name, else by a wildcard for its first label
    (RFC 9525 §6.3), else nothing changes."""

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name:
            name = name.lower().removesuffix(".")
            context = exact.get(name) or exact.get("*." + name.partition(".")[2])
            if context is not None:
                connection.context = context

    return choose


# -- the names in a certificate (RFC 5280 §4.2.1.6) ------------------------------------------------------------------

SEQUENCE: Final = 0x30
EXTENSIONS: Final = 0xA3  # [3] of a TBSCertificate
SUBJECT_ALT_NAME: Final = bytes((0x06, 0x03, 0x55, 0x1D, 0x11))
DNS_NAME: Final = 0x82


def _names(file: str) -> list[str]:
    """The host names of the first certificate in `file`, in lower case."""
    try:
        with open(file, encoding="latin-1") as pem:
            text = pem.read()
        begin = text.index(ssl.PEM_HEADER)
        end = text.index(ssl.PEM_FOOTER, begin) + len(ssl.PEM_FOOTER)
        return [name.decode("ascii").lower() for name in _alt_names(ssl.PEM_cert_to_DER_cert(text[begin:end]))]
    except (OSError, ValueError, IndexError) as error:
        raise LocalError(f"{file}: the names in this certificate can't be read: {error}") from None


def _alt_names(der: bytes) -> list[bytes]:
    certificate = _children(der)[0][1]
    tbs = _children(certificate)[0][1]
    found = [value for tag, value in _children(tbs) if tag == EXTENSIONS]
    for _, extension in _children(_children(found[0])[0][1]) if found else ():
        if extension.startswith(SUBJECT_ALT_NAME):
            names = _children(_children(extension)[-1][1])[0][1]
            return [value for tag, value in _children(names) if tag == DNS_NAME]
    return []


def _children(der: bytes) -> list[tuple[int, bytes]]:
    """The elements in `der`, each as its tag and its content (X.690 §8.1)."""
    found = []
    at = 0
    while at < len(der):
        tag, size = der[at], der[at + 1]
        at += 2
        if size & 0x80:
            count = size & 0x7F
            size = int.from_bytes(der[at : at + count], "big")
            at += count
        if at + size > len(der):
            raise ValueError("cut off")
        found.append((tag, der[at : at + size]))
        at += size
    return found

"""The opening handshake of RFC 6455 §4, both sides: HTTP heads in, decisions and heads out.

Owns every requirement of §4.1 and §4.2. A server's refusal is a `HandshakeRefused` whose text is ours and is meant for
the peer; the connection is closed after it. Never reads frames and never asks the application anything.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from portico.errors import HandshakeError, LocalError, ProtocolError
from portico.limits import Deflate
from portico.wire.extensions import Agreed, check_answer
from portico.wire.headers import HeaderLines, Headers, check_value, encode_headers, is_token
from portico.wire.http1 import RequestHead, ResponseHead
from portico.wire.responses import status_line

VERSION: Final = "13"
SHOWN_CHARS: Final = 200  # of what a server said, in an error
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")  # 16 bytes in base64 (RFC 6455 §4.1, item 7)
_ORIGIN = re.compile(r"([a-z][a-z0-9+.\-]*+)://(\[[0-9a-f:.]++\]|[^\[\]:/?#@\s]++)(?::([0-9]{1,5}))?", re.IGNORECASE)
_TARGET = re.compile(r"/[!-~]*+")
_PORTS: Final = {"http": 80, "https": 443}

_OWN: Final = frozenset(
    [
        b"upgrade",
        b"connection",
        b"content-length",
        b"transfer-encoding",
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
    ]
)
_ANSWER_OWN: Final = frozenset([b"connection", b"content-length", b"transfer-encoding"])
_PROTOCOL: Final = "Sec-WebSocket-Protocol"

AllowedOrigins = Sequence[str | re.Pattern[str]] | None
"""None: the request's own host; else exact origins, patterns that match a whole origin, or ``"*"`` for any."""


class HandshakeRefused(ProtocolError):
    """The client's request can't be switched: answer with `refusal_response` of these, and close."""

    def __init__(self, status: int, reason: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(reason, http_status=status)
        self.reason = reason
        self.headers = tuple(headers)


class Upgrade:
    """What a client's valid request to switch says: its ``key``, the ``subprotocols`` that it offers in the order it
    prefers them, the values of its ``Sec-WebSocket-Extensions`` lines, its ``origin`` and the ``host`` it asked."""

    __slots__ = ("extensions", "host", "key", "origin", "subprotocols")

    def __init__(self, key: str, subprotocols: list[str], extensions: list[str], origin: str | None, host: str) -> None:
        self.key = key
        self.subprotocols = subprotocols
        self.extensions = extensions
        self.origin = origin
        self.host = host


def check_upgrade(head: RequestHead) -> Upgrade:
    """Check a client's request to switch (RFC 6455 §4.2.1); raises HandshakeRefused with the answer to give."""
    keys: list[bytes] = []
    versions: list[bytes] = []
    protocols: list[bytes] = []
    extensions: list[str] = []
    origins: list[bytes] = []
    host = b""
    for name, value in head.headers:
        if name == b"host":
            host = value
        elif name == b"origin":
            origins.append(value)
        elif name == b"sec-websocket-key":
            keys.append(value)
        elif name == b"sec-websocket-version":
            versions.append(value)
        elif name == b"sec-websocket-extensions":
            extensions.append(value.decode("latin-1"))
        elif name == b"sec-websocket-protocol":
            protocols.append(value)
    if not head.upgrade:
        raise _why_no_upgrade(head)
    if head.chunked or head.content_length:
        raise HandshakeRefused(400, "a request to switch to WebSocket has no body")
    _check_version(versions)
    if len(origins) > 1:
        raise HandshakeRefused(400, "more than one Origin header")
    key = _check_key(keys)
    origin = origins[0].decode("latin-1") if origins else None
    return Upgrade(key, _subprotocols(protocols) if protocols else [], extensions, origin, host.decode("latin-1"))


def _why_no_upgrade(head: RequestHead) -> HandshakeRefused:
    if head.method != "GET":
        return HandshakeRefused(405, "a WebSocket is opened with GET (RFC 6455 §4.1)", [("Allow", "GET")])
    headers = Headers(head.headers)
    if head.version != "1.1":
        missing = "HTTP/1.1; the request is HTTP/1.0"
    elif "websocket" not in headers.tokens("upgrade"):
        missing = 'the header "Upgrade: websocket"; it is missing or says something else'
    else:
        missing = 'the header "Connection: Upgrade"; it is missing or does not name Upgrade'
    return HandshakeRefused(
        426,
        f"This address speaks WebSocket (RFC 6455). Expected {missing}. Where the client is a WebSocket client, a "
        "proxy on the way has probably dropped it: let that proxy speak HTTP/1.1 and pass on Upgrade and Connection.",
        [("Upgrade", "websocket")],
    )


def _check_version(versions: list[bytes]) -> None:
    if len(versions) > 1:
        raise HandshakeRefused(400, "more than one Sec-WebSocket-Version header (RFC 6455 §11.3.5)")
    if not versions or versions[0] != b"13":
        came = "none came" if not versions else "another one came"
        text = f"Expected Sec-WebSocket-Version: 13; {came} (RFC 6455 §4.4)."
        raise HandshakeRefused(426, text, [("Upgrade", "websocket"), ("Sec-WebSocket-Version", VERSION)])


def _check_key(keys: list[bytes]) -> str:
    if len(keys) != 1:
        found = "more than one came" if keys else "none came"
        raise HandshakeRefused(400, f"expected one Sec-WebSocket-Key header; {found} (RFC 6455 §4.2.1)")
    key = keys[0].decode("latin-1")
    if _KEY.fullmatch(key) is None:
        raise HandshakeRefused(400, "malformed Sec-WebSocket-Key: expected 16 bytes in base64 (RFC 6455 §4.2.1)")
    return key


def _subprotocols(values: list[bytes]) -> list[str]:
    names: dict[str, None] = {}
    for value in values:
        for part in value.decode("latin-1").split(","):
            name = part.strip(" \t")
            if not name:
                continue
            if not is_token(name):
                raise HandshakeRefused(400, "malformed Sec-WebSocket-Protocol: expected tokens (RFC 6455 §4.1)")
            if name in names:
                raise HandshakeRefused(400, "Sec-WebSocket-Protocol names one subprotocol twice (RFC 6455 §4.1)")
            names[name] = None
    return list(names)


def accept_key(key: str) -> str:
    """The ``Sec-WebSocket-Accept`` that answers `key` (RFC 6455 §4.2.2, item 5.4)."""
    digest = hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def choose_subprotocol(offered: Sequence[str], supported: Sequence[str]) -> str | None:
    """The first of `supported` that the client offered, or None (RFC 6455 §4.2.2, item 5.5)."""
    return next((name for name in supported if name in offered), None)


def switch_response(
    key: str, subprotocol: str | None = None, extensions: str | None = None, headers: HeaderLines = ()
) -> bytes:
    """The head that switches the connection (RFC 6455 §4.2.2, item 5); WebSocket frames may follow at once.

    Raises LocalError where a header of the application could split the head or is the handshake's own.
    """
    lines = [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
        accept_key(key).encode("ascii"),
        b"\r\n",
    ]
    if subprotocol is not None:
        lines.append(_protocol_line([subprotocol]))
    if extensions is not None:
        lines.append(b"Sec-WebSocket-Extensions: " + check_value(extensions) + b"\r\n")
    if headers:
        lines.append(_application_lines(headers, _OWN))
    lines.append(b"\r\n")
    return b"".join(lines)


def _protocol_line(names: Sequence[str]) -> bytes:
    for name in names:
        if not is_token(name):
            raise LocalError(f"subprotocol {name!r}: expected a token (RFC 6455 §4.1)")
    return b"Sec-WebSocket-Protocol: " + ", ".join(names).encode("ascii") + b"\r\n"


def _application_lines(headers: HeaderLines, own: frozenset[bytes]) -> bytes:
    lines = list(headers)
    for name, _ in lines:
        if _lower(name) in own:
            raise LocalError(f"header {name!r} belongs to the handshake and can't be set")
    return encode_headers(lines)


def refusal_response(
    status: int,
    reason: str | bytes,
    headers: HeaderLines = (),
    content_type: str = "text/plain; charset=utf-8",
    date: bytes = b"",
) -> bytes:
    """The answer to a request that is not switched, with `reason` as its body; the connection is closed after it.

    A Content-Type among `headers` takes the place of `content_type`; `date` is the value of Date, or empty for none.
    Raises LocalError where a header could split the head.
    """
    body = reason if isinstance(reason, bytes) else reason.encode("utf-8")
    # RFC 9110 §7.8: who sends Upgrade also names it in Connection.
    lines = [(name, value) for name, value in headers if _lower(name) not in _ANSWER_OWN]
    names = {_lower(name) for name, _ in lines}
    own: list[tuple[str | bytes, str | bytes]] = [
        ("Connection", "Upgrade, close" if b"upgrade" in names else "close"),
        ("Content-Length", str(len(body))),
    ]
    if b"content-type" not in names:
        own.append(("Content-Type", content_type))
    if date:
        own.append(("Date", date))
    return status_line(status) + encode_headers(own + lines) + b"\r\n" + body


def _lower(name: str | bytes) -> bytes:
    return (name.encode("latin-1", "replace") if isinstance(name, str) else name).lower()


def check_origin(
    origin: str | None, host: str, scheme: Literal["http", "https", "ws", "wss"], allowed: AllowedOrigins = None
) -> None:
    """Refuse a page of another site (RFC 6455 §10.2, RFC 6454): raises HandshakeRefused 403.

    `host` is the request's Host, `scheme` how the client reached this server. A request without Origin is always
    allowed: it comes from no browser, and who is no browser can write any Origin anyway.
    """
    if origin is None:
        return
    if allowed is None:
        expected = f"{'https' if scheme in ('https', 'wss') else 'http'}://{host}"
        came = _origin_parts(origin)
        if came is not None and came == _origin_parts(expected):
            return
        wanted = f"its own, {expected!r}"
        if came is not None and origin.lower().partition("://")[2] == host.lower():
            wanted += " (a proxy that ends TLS must tell the scheme, and be named in trusted_proxies)"
    else:
        if any(_allows(entry, origin) for entry in allowed):
            return
        names = [entry if isinstance(entry, str) else entry.pattern for entry in allowed]
        wanted = "one of " + ", ".join(map(repr, names)) if names else "none at all"
    shown = origin[:200]
    raise HandshakeRefused(
        403,
        f"This server refused the Origin {shown!r}: it expects {wanted}. "
        f"Where that page is to be let in, set origins=[{shown!r}] on the server.",
    )


def _allows(entry: str | re.Pattern[str], origin: str) -> bool:
    if not isinstance(entry, str):
        return entry.fullmatch(origin) is not None
    if entry in ("*", origin):
        return True
    parts = _origin_parts(entry)
    return parts is not None and parts == _origin_parts(origin)


def _origin_parts(origin: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port for comparing (RFC 6454 §5), or None for ``null`` and what is no origin."""
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return None
    scheme, host, port = match.groups()
    scheme = scheme.lower()
    return scheme, host.lower(), int(port) if port else _PORTS.get(scheme)


def new_key() -> str:
    """A fresh ``Sec-WebSocket-Key``: 16 random bytes in base64 (RFC 6455 §4.1, item 7)."""
    return base64.b64encode(secrets.token_bytes(16)).decode("ascii")


def client_request(
    host_header: str,
    target: str,
    key: str,
    *,
    origin: str | None = None,
    subprotocols: Sequence[str] = (),
    extensions: str | None = None,
    headers: HeaderLines = (),
) -> bytes:
    """A client's request to switch (RFC 6455 §4.1). `target` is a path, with its query if it has one, in ASCII.

    Raises LocalError where an argument can't be sent as it is. The answer's head goes to `check_response`.
    """
    if _TARGET.fullmatch(target) is None:
        raise LocalError(f"target {target.partition('?')[0]!r}: expected a percent-encoded path that begins with /")
    if len(set(subprotocols)) != len(subprotocols):
        raise LocalError(f"subprotocols {list(subprotocols)!r}: expected each one once (RFC 6455 §4.1)")
    lines = [
        b"GET %b HTTP/1.1\r\nHost: %b\r\n" % (target.encode("ascii"), check_value(host_header)),
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
        b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n" % check_value(key),
    ]
    if origin is not None:
        lines.append(b"Origin: " + check_value(origin) + b"\r\n")
    if subprotocols:
        lines.append(_protocol_line(subprotocols))
    if extensions is not None:
        lines.append(b"Sec-WebSocket-Extensions: " + check_value(extensions) + b"\r\n")
    lines.append(_application_lines(headers, _OWN | {b"host"}))
    lines.append(b"\r\n")
    return b"".join(lines)


def check_response(
    head: ResponseHead, key: str, subprotocols: Sequence[str], offer: Deflate | None
) -> tuple[str | None, Agreed | None]:
    """Check a server's answer to the request with `key` (RFC 6455 §4.1, second list): the subprotocol and the
    compression that it chose. Raises HandshakeError; then the client closes the connection."""
    headers = Headers(head.headers)
    if head.status != 101:
        raise _failed(head, f"the server answered {head.status} {_shown(head.reason)}".rstrip() + ", expected 101")
    if head.version != "1.1":
        raise _failed(head, f"expected HTTP/1.1 or higher in the answer, but it came as HTTP/{head.version}")
    if headers.tokens("upgrade") != ["websocket"]:
        raise _failed(head, f"expected Upgrade: websocket in the answer, {_came(headers, 'Upgrade')}")
    if "upgrade" not in headers.tokens("connection"):
        raise _failed(head, f"expected Connection: Upgrade in the answer, {_came(headers, 'Connection')}")
    expected = accept_key(key)
    if headers.get_all("sec-websocket-accept") != [expected]:
        raise _failed(head, f"expected Sec-WebSocket-Accept: {expected}, {_came(headers, 'Sec-WebSocket-Accept')}")
    try:
        agreed = check_answer(headers.get_all("sec-websocket-extensions"), offer)
    except ProtocolError as error:
        raise _failed(head, str(error)) from error
    chosen = headers.get_all("sec-websocket-protocol")
    if len(chosen) > 1 or (chosen and chosen[0] not in subprotocols):
        offered = ", ".join(subprotocols) or "none"
        raise _failed(head, f"expected one of the subprotocols offered ({offered}), {_came(headers, _PROTOCOL)}")
    return (chosen[0] if chosen else None), agreed


def _came(headers: Headers, name: str) -> str:
    values = headers.get_all(name)
    return "but it came as " + ", ".join(repr(value[:SHOWN_CHARS]) for value in values) if values else "but none came"


def _shown(text: str) -> str:
    """The peer's `text`, of a bearable length; what a terminal would obey (0x80 to 0x9F are controls, too), escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:SHOWN_CHARS])


def _failed(head: ResponseHead, message: str) -> HandshakeError:
    return HandshakeError(message, status=head.status, headers=Headers(head.headers).items())

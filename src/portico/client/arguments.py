"""What `connect` was given, checked: what can't be used is refused before anything is opened."""

from __future__ import annotations

import os
import socket
import ssl as ssl_module
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portico.client.proxies import basic, parse_proxy
from portico.errors import LocalError
from portico.limits import Deflate, Keepalive, Limits
from portico.websocket import Endpoint
from portico.wire.extensions import make_offer
from portico.wire.handshake import client_request
from portico.wire.headers import check_value
from portico.wire.uri import Uri

Headers = list[tuple[str, str]]
HeaderItems = Mapping[str, str] | Iterable[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Options:
    """What `connect` was given, checked."""

    subprotocols: tuple[str, ...]
    headers: Headers
    origin: str | None
    ssl: ssl_module.SSLContext | None
    proxy: Uri | bool | None
    deflate: Deflate | None
    limits: Limits
    keepalive: Keepalive | None
    open_timeout_s: float
    exclusive: bool
    endpoint: Endpoint | None
    sock: socket.socket | None
    uds: str | None

    def request(self, uri: Uri, key: str, headers: Headers) -> bytes:
        """The request to switch. Raises LocalError where it can't be sent."""
        if uri.credentials is not None and not any(name.lower() == "authorization" for name, _ in headers):
            headers = [*headers, ("Authorization", basic(*uri.credentials))]
        return client_request(
            uri.authority,
            uri.target,
            key,
            origin=self.origin,
            subprotocols=self.subprotocols,
            extensions=make_offer(self.deflate) if self.deflate else None,
            headers=headers,
        )


def checked(
    *,
    uri: Uri,
    subprotocols: Any,
    headers: Any,
    origin: Any,
    ssl: Any,
    proxy: Any,
    deflate: Any,
    limits: Any,
    keepalive: Any,
    open_timeout_s: Any,
    exclusive: Any,
    endpoint: Any,
    sock: Any,
    uds: Any,
) -> Options:
    """These arguments of `connect`; raises LocalError for the first one that can't be used."""
    _check_kinds(
        ssl=(ssl, ssl_module.SSLContext),
        deflate=(deflate, Deflate),
        keepalive=(keepalive, Keepalive),
        endpoint=(endpoint, Endpoint),
        sock=(sock, socket.socket),
        origin=(origin, str),
    )
    if not isinstance(limits, Limits):
        raise LocalError(f"limits={limits!r}: expected a Limits")
    if not isinstance(exclusive, bool):
        raise LocalError(f"exclusive={exclusive!r}: expected True or False")
    number = isinstance(open_timeout_s, int | float) and not isinstance(open_timeout_s, bool)
    if not number or not 0 < open_timeout_s < float("inf"):
        raise LocalError(f"open_timeout_s={open_timeout_s!r}: expected seconds, more than 0")
    _check_tls(uri, ssl)
    path = _path(uds)
    _check_ways(sock, path, proxy)
    return Options(
        subprotocols=_tokens(subprotocols),
        headers=_pairs(headers),
        origin=origin,
        ssl=ssl,
        proxy=proxy if proxy is None or isinstance(proxy, bool) else parse_proxy(proxy),
        deflate=deflate,
        limits=limits,
        keepalive=keepalive,
        open_timeout_s=open_timeout_s,
        exclusive=exclusive,
        endpoint=endpoint,
        sock=sock,
        uds=path,
    )


def _check_kinds(**arguments: tuple[Any, type]) -> None:
    for name, (value, kind) in arguments.items():
        if value is not None and not isinstance(value, kind):
            raise LocalError(f"{name}={value!r}: expected a {kind.__name__} or None")


def _check_tls(uri: Uri, context: ssl_module.SSLContext | None) -> None:
    if context is None:
        return
    if context.protocol is ssl_module.PROTOCOL_TLS_SERVER:
        raise LocalError("ssl=: expected a client's context, as ssl.create_default_context() makes it, got a server's")
    if not uri.secure:
        raise LocalError(f"ssl= for {uri.shown}: ws: is not encrypted; expected a URI that begins with wss://")


def _check_ways(sock: socket.socket | None, uds: str | None, proxy: Any) -> None:
    if sock is not None and uds is not None:
        raise LocalError("sock= and uds=: expected one of them")
    if isinstance(sock, ssl_module.SSLSocket):
        raise LocalError("sock=: expected a plain socket; a wss: URI brings the TLS")
    if sock is not None and sock.type is not socket.SOCK_STREAM:
        raise LocalError(f"sock=: expected a stream socket, got {sock.type!r}")
    if (sock is not None or uds is not None) and isinstance(proxy, str):
        raise LocalError("proxy=: expected none with sock= or uds=, which are connected directly")


def _path(uds: Any) -> str | None:
    if uds is None:
        return None
    path = os.fspath(uds) if isinstance(uds, os.PathLike) else uds
    if not isinstance(path, str) or not path:
        raise LocalError(f"uds={uds!r}: expected a path as str or os.PathLike[str]")
    return path


def _tokens(subprotocols: Any) -> tuple[str, ...]:
    if isinstance(subprotocols, str | bytes) or not isinstance(subprotocols, Sequence):
        raise LocalError(f"subprotocols={subprotocols!r}: expected a list of tokens, the preferred one first")
    for name in subprotocols:
        if not isinstance(name, str):
            raise LocalError(f"subprotocols={subprotocols!r}: expected a list of str, got {type(name).__name__} in it")
    return tuple(subprotocols)


def _pairs(headers: Any) -> Headers:
    """The lines of `headers`. What is said of wrong ones shows no value: it may be a password."""
    expected = "expected a mapping of names to values, or pairs (name, value), all of them str"
    if isinstance(headers, str | bytes) or not isinstance(headers, Iterable):
        raise LocalError(f"headers=: {expected}; got {type(headers).__name__}")
    pairs: Headers = []
    for item in headers.items() if isinstance(headers, Mapping) else headers:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise LocalError(f"headers=: {expected}; got {type(item).__name__} as number {len(pairs) + 1}")
        name, value = item
        if not isinstance(name, str) or not isinstance(value, str):
            kinds = f"({type(name).__name__}, {type(value).__name__})"
            raise LocalError(f"headers=: {expected}; got {kinds} as number {len(pairs) + 1}")
        try:
            check_value(value)
        except LocalError:
            wanted = "expected characters of ISO-8859-1, but no CR, LF, NUL or other control character"
            raise LocalError(f"headers=: the value of {name!r}: {wanted}") from None
        pairs.append((name, value))
    return pairs

"""Where a Socket.IO server is and how it is reached: the URL and the options of a client, checked."""

from __future__ import annotations

import ssl as ssl_module
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from portico.client.arguments import HeaderItems, Options, checked
from portico.client.proxies import basic
from portico.errors import LocalError
from portico.limits import Deflate, Limits
from portico.wire.headers import encode_headers
from portico.wire.uri import Uri, parse_uri

SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
TRANSPORTS: Final = ("polling", "websocket")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Address:
    """A server's place: ``uri`` is its origin (as ws: or wss:), ``path`` where Engine.IO answers, ``query`` what the
    URL brought; ``options`` are those of `portico.connect`."""

    uri: Uri
    path: str
    query: str
    options: Options
    transports: tuple[str, ...]

    @property
    def shown(self) -> str:
        """What errors say of it: no query and no credentials, which may be secret."""
        return f"{'https' if self.uri.secure else 'http'}://{self.uri.authority}{self.path}"

    def target(self, transport: str, sid: str = "") -> str:
        """Path and query of a request (Engine.IO v4, "Query parameters")."""
        asked = {"EIO": "4", "transport": transport} | ({"sid": sid} if sid else {})
        return f"{self.path}?{self.query}{'&' if self.query else ''}{urlencode(asked)}"

    def websocket(self, sid: str) -> str:
        """The URI for `portico.connect`; credentials go in a header."""
        return f"{self.uri.scheme}://{self.uri.authority}{self.target('websocket', sid)}"

    def headers(self, cookies: str = "") -> list[tuple[str, str]]:
        """The caller's header lines, with Basic credentials of the URL and the session's cookies."""
        lines = [(name, value) for name, value in self.options.headers if name.lower() != "cookie"]
        said = "; ".join(value for name, value in self.options.headers if name.lower() == "cookie")
        if said or cookies:
            lines.append(("Cookie", "; ".join(part for part in (said, cookies) if part)))
        credentials = self.uri.credentials
        if credentials is not None and not any(name.lower() == "authorization" for name, _ in lines):
            lines.append(("Authorization", basic(*credentials)))
        return lines


def address(
    url: str,
    *,
    path: str,
    transports: Any,
    headers: HeaderItems,
    ssl: ssl_module.SSLContext | None,
    proxy: bool | str | None,
    deflate: Deflate | None,
    limits: Limits,
    open_timeout_s: float,
) -> Address:
    """These arguments of `RealtimeClient`; raises LocalError for the first one that can't be used."""
    uri = _uri(url)
    where, mark, query = uri.target.partition("?")
    if where != "/":
        raise LocalError(
            f"URL with the path {where!r}: expected an origin, as http://host:port. Set path= to where the server "
            f'answers (the default is "/socket.io/"), and use client.of("/…") for a namespace'
        )
    options = checked(
        uri=uri,
        subprotocols=(),
        headers=headers,
        origin=None,
        ssl=ssl,
        proxy=proxy,
        deflate=deflate,
        limits=limits,
        keepalive=None,
        open_timeout_s=open_timeout_s,
        exclusive=False,
        endpoint=None,
        sock=None,
        uds=None,
    )
    encode_headers(options.headers)  # what can't be sent is found out now
    return Address(
        uri=Uri(uri.secure, uri.host, uri.port, "/", uri.credentials),
        path=_path(path),
        query=query if mark else "",
        options=options,
        transports=_transports(transports),
    )


def _uri(url: Any) -> Uri:
    if not isinstance(url, str):
        raise LocalError(f"URL: expected a str, got {type(url).__name__}")
    scheme, slashes, rest = url.partition("://")
    if not slashes or scheme.lower() not in SCHEMES:
        came = f"{scheme[:20]}://…" if slashes else "none"
        raise LocalError(f"URL: expected a scheme of http://, https://, ws:// or wss://, got {came}")
    try:
        return parse_uri(f"{SCHEMES[scheme.lower()]}://{rest}")
    except LocalError as error:
        raise LocalError(str(error).replace("ws://", "http://").replace("wss://", "https://")) from None


def _path(path: Any) -> str:
    if not isinstance(path, str) or not path.startswith("/") or "?" in path or "#" in path:
        raise LocalError(f'path={path!r}: expected the path of the server, as "/socket.io/"')
    return quote(path if path.endswith("/") else path + "/", safe="!$%&'()*+,/:;=@~-._")


def _transports(transports: Any) -> tuple[str, ...]:
    chosen = tuple(transports) if isinstance(transports, tuple | list) else ()
    if not chosen or not set(chosen) <= set(TRANSPORTS) or len(set(chosen)) != len(chosen):
        raise LocalError(
            f'transports={transports!r}: expected ["polling", "websocket"] (polling, then the upgrade), ["websocket"], '
            'or ["polling"]'
        )
    if chosen == ("websocket", "polling"):
        raise LocalError(
            'transports=["websocket", "polling"]: a session begins with polling and is upgraded; expected '
            '["polling", "websocket"], or ["websocket"] alone'
        )
    return chosen

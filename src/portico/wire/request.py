"""The request as users see it: ``ws.request``, and what ``authenticate(request)`` gets.

A WebSocket keeps its request as long as it lives, so a `Request` owns the head as the one ``bytes`` object that came
and little else. What is read from it is parsed on the spot; the parsed head that the handshake had anyway is kept
until `forget`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Literal
from urllib.parse import parse_qsl

from portico.wire.headers import Headers, parse_cookies
from portico.wire.http1 import RequestHead, parse_request_head

Address = tuple[str, int]
Scheme = Literal["http", "https", "ws", "wss"]


class Request:
    """One HTTP request's head, and where it came from.

    - ``client``, ``server``: the two addresses as (host, port), or None on a Unix socket.
    - ``scheme``: "http", "https", "ws" or "wss", as the client used it.

    Behind a trusted proxy ``client``, ``scheme`` and ``host`` are what that says of its client.
    - ``raw``: the head as it came, with its empty line.
    """

    __slots__ = ("_head", "client", "raw", "scheme", "server")

    def __init__(
        self,
        head: RequestHead | bytes,
        client: Address | None = None,
        server: Address | None = None,
        scheme: Scheme = "http",
    ) -> None:
        if isinstance(head, bytes):
            self._head: RequestHead | None = None
            self.raw = head
        else:
            self._head = head
            self.raw = head.raw
        self.client = client
        self.server = server
        self.scheme: Scheme = scheme

    def forget(self) -> None:
        """Drop what was parsed; from now on each attribute is read from ``raw`` again."""
        self._head = None

    @property
    def head(self) -> RequestHead:
        """The parsed head; a new one at each access once `forget` was called."""
        return self._head or parse_request_head(self.raw)

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def path(self) -> str:
        """The target's path, percent-decoded."""
        return self.head.path

    @property
    def raw_path(self) -> bytes:
        """The target's path as it came."""
        return self.head.raw_path

    @property
    def host(self) -> str:
        """The host that the client asked, with its port where it named one; empty where there is none (HTTP/1.0)."""
        return self.headers.get("host", "") or ""

    @property
    def query_string(self) -> str:
        """What follows the ``?`` of the target, as it came."""
        return self.head.query.decode("ascii")

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the query, decoded; of several with one name, the last."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    @property
    def headers(self) -> Headers:
        return Headers(self.head.headers)

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name; of several with one name, the first (RFC 6265 §5.4)."""
        return parse_cookies(self.headers.get_all("cookie"))

    @property
    def authorization(self) -> tuple[str, str] | None:
        """The scheme, in lower case, and the credentials of the Authorization header (RFC 9110 §11.6.2); None where it
        is missing, repeated or empty."""
        values = self.headers.get_all("authorization")
        if len(values) != 1:
            return None
        scheme, _, credentials = values[0].partition(" ")
        return (scheme.lower(), credentials.strip(" ")) if scheme else None

    @property
    def basic_auth(self) -> tuple[str, str] | None:
        """User and password of ``Authorization: Basic`` in UTF-8 (RFC 7617); None where missing or malformed.

        Compare them with `hmac.compare_digest`, never with ``==``: how long that takes tells an attacker how much of
        his guess was right (CVE-2021-33880). It takes bytes of any text::

            user, password = request.basic_auth or ("", "")
            known = hmac.compare_digest(password.encode(), PASSWORDS.get(user, "").encode())
        """
        scheme, credentials = self.authorization or ("", "")
        if scheme != "basic":
            return None
        try:
            user, colon, password = base64.b64decode(credentials, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, ValueError):
            return None
        return (user, password) if colon else None

    def __repr__(self) -> str:
        # Without the query and the headers: tokens travel there, and this text ends in logs.
        return f"Request({self.method} {self.path!r}, client={self.client!r}, scheme={self.scheme!r})"


class ForwardedRequest(Request):
    """A request that came through a trusted proxy, perhaps with another ``host`` than its Host header."""

    __slots__ = ("_host",)

    def __init__(
        self, head: RequestHead, client: Address | None, server: Address | None, scheme: Scheme, host: str | None
    ) -> None:
        super().__init__(head, client, server, scheme)
        self._host = host

    @property
    def host(self) -> str:
        return self._host if self._host is not None else super().host

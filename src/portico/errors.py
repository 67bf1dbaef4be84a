"""The errors that Portico raises: one tree, attributes instead of strings to parse.

::

    PorticoError
    ├── LocalError            the caller's misuse; also a ValueError or a RuntimeError where that fits
    ├── ProtocolError         the peer broke a rule: close_code, http_status
    ├── LimitExceeded         the peer went over a limit: close_code, http_status, limit
    ├── ConnectionClosed      the connection has ended: close (a portico.Close)
    ├── HandshakeError        client side, the server did not switch: status, headers, body
    ├── BrokerError           a broker did not take an event: reason
    └── Refuse                raised by `authenticate` to turn a client away: reason, status, headers, data

What a peer is told never contains the text of an exception that it caused inside the application.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from portico.codes import Close


class PorticoError(Exception):
    """The root of every error that Portico raises."""


class LocalError(PorticoError, RuntimeError, ValueError):
    """The caller asked for something that can't be: a wrong argument or a call at the wrong time."""


class ProtocolError(PorticoError):
    """The peer broke a rule of a protocol.

    ``close_code`` is the WebSocket close code that answers it (RFC 6455 §7.4.1) and ``http_status`` the HTTP status
    that answers it before a connection has switched.
    """

    def __init__(self, message: str, *, close_code: int = 1002, http_status: int = 400) -> None:
        super().__init__(message)
        self.close_code = close_code
        self.http_status = http_status


class LimitExceeded(ProtocolError):
    """The peer went over a limit of :class:`portico.Limits`; ``limit`` is its name there."""

    def __init__(self, message: str, *, limit: str, close_code: int = 1009, http_status: int = 413) -> None:
        super().__init__(message, close_code=close_code, http_status=http_status)
        self.limit = limit


class ConnectionClosed(PorticoError):
    """The connection has ended, so there is nothing to receive or no way to send; ``close`` says how it ended."""

    def __init__(self, close: Close) -> None:
        super().__init__(str(close))
        self.close = close


class HandshakeError(PorticoError):
    """The server did not switch to WebSocket (RFC 6455 §4.1); ``status`` is None where no whole answer came."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = tuple(headers)
        self.body = body


class BrokerError(PorticoError):
    """A broker could not take an event, or can't be read now.

    ``reason``: ``"unavailable"`` (it can't be reached: later it may work), ``"closed"`` (it was closed before it had
    answered) or ``"too_large"``.
    """

    def __init__(self, message: str, *, reason: str = "unavailable") -> None:
        super().__init__(message)
        self.reason = reason


class Refuse(PorticoError):
    """Raise it in ``authenticate`` to turn a client away before its connection is established.

    ``reason`` is sent to the client as plain text, ``status`` is the HTTP status (default 403), ``headers`` are added
    to the answer (``{"WWW-Authenticate": "Basic"}``), and ``data`` is any JSON value: where it is given, the body of
    the answer is ``{"reason": …, "data": …}`` as JSON.
    """

    def __init__(
        self,
        reason: str = "",
        status: int = 403,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        data: Any = None,
    ) -> None:
        super().__init__(reason)
        if not 400 <= status <= 599:
            raise LocalError(f"Refuse(status={status}): expected an HTTP status from 400 to 599")
        self.reason = reason
        self.status = status
        items = headers.items() if isinstance(headers, Mapping) else headers or ()
        self.headers: tuple[tuple[str, str], ...] = tuple((str(name), str(value)) for name, value in items)
        self.data = data

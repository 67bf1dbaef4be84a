"""How a request for a session is refused: the error bodies of the protocol's reference server, with a hint."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from portico.errors import PorticoError, Refuse
from portico.wire import engineio

VERSION_HINT = (
    "this server speaks Engine.IO 4 (EIO=4), which socket.io-client 3 and 4 speak, python-socketio 5, and the Java and "
    "Swift clients since 2.0 and 16.0; the request has {came}"
)


class Refused(PorticoError):
    """A request that gets an error: ``status``, ``body`` (JSON) and ``headers``. ``why`` is counted."""

    def __init__(
        self,
        error: tuple[int, str],
        hint: str = "",
        *,
        status: int = 400,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> None:
        super().__init__(f"{error[1]}: {hint}")
        self.why = error[1]
        self.status = status
        self.headers = tuple(headers)
        self.body = engineio.error_body(error, hint) if body is None else body

    def refuse(self) -> Refuse:
        """The same as an answer to an upgrade request."""
        return Refuse(self.body.decode(), self.status, [*self.headers, ("Content-Type", "application/json")])


def wrong_version(came: str | None) -> Refused:
    """The request of a client of another version (Engine.IO v4, §Handshake: ``EIO``)."""
    return Refused(engineio.BAD_VERSION, VERSION_HINT.format(came="no EIO" if came is None else f"EIO={came[:20]}"))


def forbidden(reason: str, status: int = 403, headers: Iterable[tuple[str, str]] = (), data: Any = None) -> Refused:
    """A client that is not let in."""
    body: dict[str, Any] = {"code": engineio.FORBIDDEN[0], "message": reason or engineio.FORBIDDEN[1]}
    if data is not None:
        body["data"] = data
    return Refused(engineio.FORBIDDEN, status=status, headers=headers, body=json.dumps(body).encode())


def refused_by(refuse: Refuse) -> Refused:
    """The same of a client that the application, or a ticket, does not let in."""
    return forbidden(refuse.reason, refuse.status, refuse.headers, refuse.data)

"""What h11 reads out of the bytes of a connection, and what we do, in the same words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import h11

from portico.limits import Limits
from portico.wire.http1 import END, Rejected, RequestEvent, RequestHead, RequestParser

_EMPTY_LINES = re.compile(rb"\A(?:\r\n){0,2}(?:\r\Z)?")


@dataclass
class Read:
    """One request as a parser has read it; `whole` once its end was seen."""

    method: bytes
    target: bytes
    version: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    whole: bool = field(default=False)


def _plain(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    # h11 writes the one transfer coding in lower case.
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in headers]


def by_h11(data: bytes) -> tuple[list[Read], bool]:
    """The requests in `data`, and whether h11 refuses what comes then. The empty lines before a request, which h11
    never takes, are taken for it (RFC 9112 §2.2)."""
    found: list[Read] = []
    try:
        while data := _EMPTY_LINES.sub(b"", data, count=1):
            connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
            connection.receive_data(data)
            if not _one_by_h11(connection, found):
                break
            data = connection.trailing_data[0]
    except h11.RemoteProtocolError:
        return found, True
    return found, False


def _one_by_h11(connection: h11.Connection, found: list[Read]) -> bool:
    """Read one request; whether it was whole and another one may follow."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            found.append(Read(event.method, event.target, event.http_version, _plain(event.headers)))
        elif isinstance(event, h11.Data):
            found[-1].body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            found[-1].whole = True
            return found[-1].method != b"CONNECT" and _answered(connection)
        else:
            return False


def _answered(connection: h11.Connection) -> bool:
    """Answer a request; whether another one may follow."""
    connection.send(h11.Response(status_code=204, headers=[]))
    connection.send(h11.EndOfMessage())
    return connection.our_state is h11.DONE


def by_us(data: bytes) -> tuple[list[Read], bool]:
    """The same of ours."""
    found: list[Read] = []
    events: list[RequestEvent] = RequestParser(Limits()).feed(data)
    for event in events:
        if isinstance(event, RequestHead):
            found.append(Read(event.method.encode(), event.target, event.version.encode(), _plain(event.headers)))
        elif isinstance(event, bytes):
            found[-1].body += event
        elif event is END:
            found[-1].whole = True
    return found, any(isinstance(event, Rejected) for event in events)

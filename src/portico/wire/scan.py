"""The fast paths of HTTP/1.1: the requests that nearly all are, read in one pass; an answer's fields, written in one.

`scan_request` and `pack_fields` have no interpreted form: ``_scan.pyx`` is all there is, and where it wasn't compiled,
or returns None, the long way is taken, which accepts and refuses by the rules. What the fast paths accept, they read as
the long way does; tests hold them to that.
"""

from __future__ import annotations

from typing import Any

Scanned = tuple[int, str, bytes, bytes, str | None, bytes, list[tuple[bytes, bytes]], int | None, bool, bool, bool]


def _scan_request(data: bytes, pos: int, max_bytes: int, max_headers: int) -> Scanned | None:
    """The head at ``data[pos:]``, if it is whole, plain and beyond doubt: HTTP/1.1, a usual method, a path, one Host,
    no Transfer-Encoding or Expect, no Upgrade but to websocket.

    Returns where it ends; method; target; its path, as it came and decoded (None: it has escapes); query; headers,
    names in lower case; Content-Length or None; and of `RequestHead` keep_alive, websocket_hint and upgrade. None where
    the long way has to decide.
    """
    return None


def _pack_fields(lines: list[Any]) -> tuple[bytes, int | None, bool] | None:
    """Header lines as they go on the wire, each ended by CRLF; their Content-Length or None; whether Date is there.

    None where a line is not plain: not bytes, not well-formed, a second Content-Length, Connection, Transfer-Encoding.
    """
    return None


try:
    from portico.wire import _scan as _twin  # type: ignore[attr-defined, unused-ignore] # compiled, or not there
except ImportError:
    scan_request, pack_fields = _scan_request, _pack_fields
else:
    scan_request, pack_fields = _twin.scan_request, _twin.pack_fields

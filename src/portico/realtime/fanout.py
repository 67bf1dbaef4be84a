"""One event to many sessions: encoded once, and for each recipient a reference in its outbox. No task, no copy.

The loop of a broadcast, and nothing else: whatever is not plain (another transport, a slow peer, compression) is the
session's own affair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from portico.net.stream import Stream
from portico.realtime.outgoing import OBJECT_BYTES, Outgoing
from portico.websocket.websocket import WebSocket

if TYPE_CHECKING:
    from portico.realtime.clients import Client


def fan_out(out: Outgoing, clients: list[Client], volatile: bool) -> int:
    """Give `out` to all of `clients`; returns how many took it. `volatile`: only to those who can take it now."""
    taken = 0
    frames = out.framed()
    small = out.size - OBJECT_BYTES
    keyed = out.key is not None
    messages = out.messages
    for client in clients:
        session = client.session
        if client._early is not None:
            if not volatile and client._send(out):
                taken += 1
            continue
        ws: WebSocket | None = session.ws
        if ws is not None and not keyed and ws.sending:
            stream: Stream = ws.stream
            codec = ws.wire.codec
            if (
                stream.buffered <= stream.high_water
                and (codec is None or (small < codec.threshold and not codec.keep_writing))
                and not (volatile and stream.blocked)
            ):
                stream.write(frames)
                ws.wire.sent += messages
                taken += 1
                continue
        if (not volatile or session.writable) and session.send(out):
            taken += 1
    return taken

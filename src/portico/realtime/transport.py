"""The WebSocket transport: which session's a WebSocket is, and what comes on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from portico.realtime.channel import Channel
from portico.realtime.refusals import Refused
from portico.realtime.sessions import Session
from portico.realtime.unidentified import restrict
from portico.websocket import Endpoint
from portico.websocket.websocket import WebSocket

if TYPE_CHECKING:
    from portico.codes import Close
    from portico.realtime.engine import Mounted


class Admission:
    """A WebSocket that was let in: for a session there is, or for a new one."""

    __slots__ = ("session", "user")

    def __init__(self, session: Session | None, user: Any = None) -> None:
        self.session = session
        self.user = user


class SessionSocket(Endpoint):
    """The WebSocket transport: ``ws.state`` is the session."""

    def __init__(self, mounted: Mounted) -> None:
        self._mounted = mounted

    def on_open(self, ws: WebSocket) -> None:
        admission: Admission = ws.user
        ws.user = admission.user
        session = admission.session
        if self._mounted.stopping:
            ws.close(1001, "this server is stopping")
            return
        if session is None:
            try:
                session = ws.state = self._mounted.engine.open(self._mounted, ws.request, admission.user)
            except Refused as refused:  # while authenticate was asked, others came
                self._mounted.engine.counters.refused[refused.why] += 1
                ws.close(1013, "try again later")
                return
            session.ws = ws
            restrict(session, ws)
            ws.write(session.greeting([]).decode())
        elif session.closed is not None or session.ws is not None or session.probe is not None:
            ws.close(1008, "this session has ended, or has a WebSocket")  # while authenticate was asked
        else:
            ws.state = session
            restrict(session, ws)
            session.begin_probe(ws)

    def on_message(self, ws: WebSocket, message: str | bytes) -> None:
        receive(ws, message)

    def on_close(self, ws: WebSocket, close: Close) -> None:
        session: Session | None = ws.state
        if session is not None:
            session.lost(ws)


def receive(ws: WebSocket, message: str | bytes) -> None:
    """A message came."""
    session: Session | None = ws.state
    if session is None or session.closed is not None:
        return
    if session.ws is ws:
        if type(message) is str:
            text = message
            if text.startswith("4"):  # what most are
                channel: Channel = session.channel
                channel.receive(text)
                return
        session.receive(message)
    elif session.probe is ws:
        session.receive_probe(ws, message)

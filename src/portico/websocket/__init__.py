"""The WebSocket after its handshake: the same object on both sides, over a stream.

``WebSocket``, which a user holds, stands on the ``Driver``, which does all that goes on without him. What a read
brings goes to the ``Endpoint``, or into an ``Inbox`` for the one coroutine that reads.
"""

from portico.websocket.driver import LOOKAHEAD_BYTES
from portico.websocket.endpoint import Endpoint, Settings
from portico.websocket.inbox import MESSAGE_COST, Inbox
from portico.websocket.outcomes import Sent
from portico.websocket.websocket import WebSocket

__all__ = ["LOOKAHEAD_BYTES", "MESSAGE_COST", "Endpoint", "Inbox", "Sent", "Settings", "WebSocket"]

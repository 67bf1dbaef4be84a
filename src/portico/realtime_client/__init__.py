"""`portico.RealtimeClient`: the Python client of Socket.IO v5 servers, over HTTP polling and WebSocket."""

from portico.realtime_client.client import RealtimeClient
from portico.realtime_client.errors import ConnectError, Disconnected, OutboxFull
from portico.realtime_client.namespace import Namespace

__all__ = ["ConnectError", "Disconnected", "Namespace", "OutboxFull", "RealtimeClient"]

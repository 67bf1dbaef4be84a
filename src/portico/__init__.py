"""One port for HTTP, WebSocket and realtime events."""

from portico import builds

_pure = builds.refuse_compiled()

from portico.accounting import Cost, Counters  # noqa: E402 # what follows may be compiled: the choice comes first
from portico.client.backoff import Backoff  # noqa: E402
from portico.client.connect import connect  # noqa: E402
from portico.codes import Close  # noqa: E402
from portico.errors import (  # noqa: E402
    BrokerError,
    ConnectionClosed,
    HandshakeError,
    LimitExceeded,
    LocalError,
    PorticoError,
    ProtocolError,
    Refuse,
)
from portico.limits import Deflate, Keepalive, Limits  # noqa: E402
from portico.net import reactor as _reactor  # noqa: E402
from portico.net.certificates import Certificates  # noqa: E402
from portico.realtime import Realtime  # noqa: E402
from portico.realtime_client import ConnectError, Disconnected, OutboxFull, RealtimeClient  # noqa: E402
from portico.rooms import Room  # noqa: E402
from portico.server.app import App  # noqa: E402
from portico.server.connections import Connection  # noqa: E402
from portico.server.server import Server, run, serve  # noqa: E402
from portico.websocket import Endpoint, Sent, WebSocket  # noqa: E402
from portico.wire.request import Request  # noqa: E402

__version__ = "0.1.0"

compiled: bool = not _pure and not str(_reactor.__file__).endswith(".py")
"""Whether the compiled modules run; otherwise the same source is interpreted."""

__all__ = [
    "App",
    "Backoff",
    "BrokerError",
    "Certificates",
    "Close",
    "ConnectError",
    "Connection",
    "ConnectionClosed",
    "Cost",
    "Counters",
    "Deflate",
    "Disconnected",
    "Endpoint",
    "HandshakeError",
    "Keepalive",
    "LimitExceeded",
    "Limits",
    "LocalError",
    "OutboxFull",
    "PorticoError",
    "ProtocolError",
    "Realtime",
    "RealtimeClient",
    "Refuse",
    "Request",
    "Room",
    "Sent",
    "Server",
    "WebSocket",
    "compiled",
    "connect",
    "run",
    "serve",
]
